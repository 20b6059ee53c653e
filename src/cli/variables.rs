//! Environment variables for flags: `KNOCKPIPE_TIMEOUT` stands for `--timeout`.
//!
//! One rule makes them for every long flag of every command, so that a new flag has its variable at
//! once. A variable is turned into its argument before the command line is parsed: its value is
//! checked as if it were typed. The variables of clap would accept an empty one as a value, could
//! hold one value only, and would count as typed where flags exclude each other.
//!
//! No variable holds a secret: flags name files. Tunnels of a configuration file, and command lines
//! in the spelling of spiped, take none; for `[process]` of a file they fill in missing settings.

use std::ffi::{OsStr, OsString};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command};

use super::firewall_backend_args;
use super::store_args::ENVIRONMENT;
use super::{habits, renamed};
use crate::run::Failure;

/// Highest number of unknown variables that are compared with the known ones.
const MOST_MISSPELLINGS: usize = 100;

/// The beginning of every name.
const PREFIX: &str = "KNOCKPIPE_";

/// Names that differ from the rule, by the id of the argument: the same long flag has another
/// meaning elsewhere, or the variable exists already and is a secret.
const NAMED: [(&str, &str); 7] = [
    ("asked_address", "KNOCKPIPE_KNOCK_ADDRESS"),
    ("asked_gate", "KNOCKPIPE_KNOCK_GATE"),
    ("asked_label", "KNOCKPIPE_KNOCK_LABEL"),
    ("asked_ttl", "KNOCKPIPE_KNOCK_TTL"),
    ("admin_user", "KNOCKPIPE_ADMIN_USER"),
    ("gate_credentials", "KNOCKPIPE_GATE_CREDENTIALS_FILE"),
    ("lighthouse_credentials", "KNOCKPIPE_LIGHTHOUSE_CREDENTIALS_FILE"),
];

/// Arguments without a variable, by command: they choose what `check` tests and `kick` ends, which
/// an environment for another command must not do.
const TYPED_ONLY: [(&str, &[&str]); 2] = [
    ("check", &["targets", "sources", "service", "checks"]),
    ("kick", &["id", "peer", "tunnel", "key_id"]),
];

/// Arguments with variables that count only beside another one, by command: the latter, and those
/// that need it.
const BESIDE: [(&str, &str, &[&str]); 3] = [
    ("check", "targets", &["keys", "timeout", "bind", "suite", "allow_readable_key", "knock"]),
    ("check", "knock", &["knock_gate"]),
    ("run", "handover", &["reload_or_replace"]),
];

/// The flags by which a gate command finds its gate unless those of a store name it. Each has a
/// meaning for other commands too, so that two of them in an environment are no error.
const PLACES: [&str; 4] = ["config", "gate_name", "tunnel", "admin"];

/// A variable, and the flag that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    name: String,
    long: String,
    short: Option<char>,
}

/// A command line with the arguments that the environment adds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// All arguments, the name of the program first.
    pub(super) arguments: Vec<OsString>,
    /// The variables that were used.
    pub(super) used: Vec<Variable>,
}

/// A variable with a former name.
#[derive(Debug, thiserror::Error)]
#[error("there is no variable {old}; write {new}")]
struct RenamedVariable {
    old: String,
    new: String,
}

/// A value that no switch can have.
#[derive(Debug, thiserror::Error)]
#[error("{name}: '{value}' is neither true nor false; write one of them, or leave it empty")]
struct NoSwitch {
    name: String,
    value: String,
}

/// Adds the names of the variables to the help of `command`.
pub(super) fn documented(command: Command) -> Command {
    let own = command.get_name().to_owned();
    let with_name = |arg: Arg| match Variable::of(&own, &arg) {
        Some(Variable { name, .. }) => {
            let help = arg.get_help().cloned().unwrap_or_default();
            arg.help(format!("{help} [env: {name}]"))
        }
        None => arg,
    };
    command.mut_args(with_name).mut_subcommands(documented)
}

/// Adds to `arguments` those that `get` has variables for, unless they are given by the same flag
/// or by one that excludes it.
///
/// # Errors
/// [`Failure::Usage`] of a switch that is neither on nor off.
pub(super) fn fill(
    command: &Command,
    arguments: &[OsString],
    get: impl Fn(&str) -> Option<OsString>,
) -> Result<Filled, Failure> {
    let mut lenient = command.clone().ignore_errors(true);
    let Ok(given) = lenient.try_get_matches_from_mut(arguments) else {
        // Help and the version need no variables.
        return Ok(Filled { arguments: arguments.to_vec(), used: vec![] });
    };
    let mut here = &lenient;
    let mut given = &given;
    let mut words = 1;
    while let Some((name, below)) = given.subcommand() {
        let Some(command) = here.find_subcommand(name) else { break };
        (here, given, words) = (command, below, words + 1);
    }
    let is_typed =
        |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let (added, used) = added(here, is_typed, get)?;
    let (before, after) = arguments.split_at(words.min(arguments.len()));
    Ok(Filled { arguments: [before, &added, after].concat(), used })
}

/// Returns the arguments that `get` has variables for, of those flags of `command` that are neither
/// typed nor excluded by typed ones.
///
/// # Errors
/// [`Failure::Usage`] of a switch that is neither on nor off.
pub(super) fn added(
    command: &Command,
    is_typed: impl Fn(&Arg) -> bool,
    get: impl Fn(&str) -> Option<OsString>,
) -> Result<(Vec<OsString>, Vec<Variable>), Failure> {
    let typed: Vec<&Arg> = command.get_arguments().filter(|arg| is_typed(arg)).collect();
    let is_said = |arg: &Arg| {
        typed.iter().any(|other| other.get_id() == arg.get_id() || excludes(command, other, arg))
    };
    let mut added = vec![];
    let mut used = vec![];
    let mut taken: Vec<&Arg> = vec![];
    let mut open: Vec<&Arg> = command.get_arguments().filter(|arg| !is_said(arg)).collect();
    open.sort_by_key(|arg| rank(command, arg));
    for arg in open {
        let Some(variable) = Variable::of(command.get_name(), arg) else { continue };
        let is_there = |id: &str| typed.iter().chain(&taken).any(|other| other.get_id() == id);
        if !needed(command, arg).is_none_or(is_there)
            || taken.iter().any(|other| goes_before(command, other, arg))
        {
            continue;
        }
        variable.refuse_former(&get)?;
        let Some(value) = filled_in(&get, &variable.name) else { continue };
        let arguments = variable.arguments(arg, &value)?;
        if !arguments.is_empty() {
            taken.push(arg);
        }
        added.extend(arguments);
        used.push(variable);
    }
    Ok((added, used))
}

/// Returns the value of a variable. Compose files and units set some without one.
fn filled_in(get: impl Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    get(name).filter(|value| !value.is_empty())
}

/// Returns the name of the variable of a long flag, by the rule.
fn name_of(long: &str) -> String {
    format!("{PREFIX}{}", long.to_uppercase().replace('-', "_"))
}

/// Returns the argument that the variable of `arg` needs beside it.
fn needed(command: &Command, arg: &Arg) -> Option<&'static str> {
    let of_arg = |(name, _, args): &&(&str, &str, &[&str])| {
        *name == command.get_name() && args.contains(&arg.get_id().as_str())
    };
    let of_store = (rank(command, arg) == Rank::Store && arg.get_id() != "gate").then_some("gate");
    BESIDE.iter().find(of_arg).map(|(_, needed, _)| *needed).or(of_store)
}

/// Returns whether the variable of `one` overrides that of `two`. Others that exclude each other
/// are an error, which the parser finds.
fn goes_before(command: &Command, one: &Arg, two: &Arg) -> bool {
    let is_of_gate = [one, two].iter().any(|arg| rank(command, arg) == Rank::Place);
    is_of_gate && excludes(command, one, two)
}

/// Rank of the variables of a gate command. All others have the same rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Names a store, or belongs to its name.
    Store,
    /// Names another way to find the gate.
    Place,
    Other,
}

fn rank(command: &Command, arg: &Arg) -> Rank {
    let gate_name = command.get_arguments().find(|arg| arg.get_id() == "gate_name");
    match gate_name {
        None => Rank::Other,
        Some(_) if PLACES.contains(&arg.get_id().as_str()) => Rank::Place,
        Some(gate_name) if excludes(command, gate_name, arg) => Rank::Store,
        Some(_) => Rank::Other,
    }
}

/// Returns whether two arguments exclude each other.
pub(super) fn excludes(command: &Command, one: &Arg, two: &Arg) -> bool {
    let names = |one: &Arg, two: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == two.get_id())
    };
    let in_one_choice = || {
        command.get_groups().any(|group| {
            let has = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
            !group.clone().is_multiple() && has(one) && has(two)
        })
    };
    names(one, two) || names(two, one) || in_one_choice()
}

impl Variable {
    /// Returns the variable of a flag of a command. Words, flags with a short name only, and
    /// `--help` have none.
    fn of(command: &str, arg: &Arg) -> Option<Self> {
        let long = arg.get_long().filter(|long| !["help", "version"].contains(long))?;
        let id = arg.get_id().as_str();
        if TYPED_ONLY.iter().any(|(name, ids)| *name == command && ids.contains(&id)) {
            return None;
        }
        let name = match NAMED.iter().find(|(named, _)| *named == id) {
            Some((_, name)) => (*name).to_owned(),
            None => name_of(long),
        };
        Some(Self { name, long: long.to_owned(), short: arg.get_short() })
    }

    /// # Errors
    /// [`Failure::Usage`] where the variable is set under a former name.
    fn refuse_former(&self, get: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
        let mut former = renamed::former(&self.long).map(name_of);
        match former.find(|name| filled_in(&get, name).is_some()) {
            Some(old) => {
                let new = self.name.clone();
                Err(Failure::Usage(RenamedVariable { old, new }.into()))
            }
            None => Ok(()),
        }
    }

    /// Makes the arguments for the variable.
    fn arguments(&self, arg: &Arg, value: &OsStr) -> Result<Vec<OsString>, Failure> {
        let long = &self.long;
        match (arg.get_action(), value.to_str()) {
            (ArgAction::SetTrue, _) => {
                Ok(if self.is_on(value)? { vec![format!("--{long}").into()] } else { vec![] })
            }
            // A flag that may stand without its value.
            (ArgAction::Append, Some(_)) if may_be_bare(arg) && self.is_on(value).is_ok() => {
                Ok(if self.is_on(value)? { vec![format!("--{long}").into()] } else { vec![] })
            }
            (ArgAction::Append, Some(values)) => {
                let values = values.split(|c: char| c == ',' || c.is_whitespace());
                let values = values.filter(|value| !value.is_empty());
                Ok(values.map(|value| format!("--{long}={value}").into()).collect())
            }
            _ => {
                let mut argument = OsString::from(format!("--{long}="));
                argument.push(value);
                Ok(vec![argument])
            }
        }
    }

    fn is_on(&self, value: &OsStr) -> Result<bool, Failure> {
        let value = value.to_string_lossy();
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => {
                let error = NoSwitch { name: self.name.clone(), value: value.into_owned() };
                Err(Failure::Usage(error.into()))
            }
        }
    }

    /// Returns whether `word` is the flag, as messages write it.
    fn is(&self, word: &str) -> bool {
        let long = word.strip_prefix("--");
        let short = word.strip_prefix('-').and_then(|word| word.chars().next());
        let both = self.short.map(|short| format!("-{short}/--{}", self.long));
        long == Some(&self.long)
            || both.as_deref() == Some(word)
            || (word.len() == 2 && short.is_some() && short == self.short)
    }
}

/// Returns whether a flag has a meaning without a value.
pub(super) fn may_be_bare(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|values| values.min_values() == 0)
}

/// Adds the names of the variables that were `used` to a `failure` that names their flags, since
/// these were not typed.
pub(super) fn blame(failure: Failure, used: &[Variable]) -> Failure {
    let Failure::Usage(_) = failure else { return failure };
    match named(&failure.to_string(), used) {
        Some(text) => Failure::Usage(anyhow::anyhow!(text)),
        None => failure,
    }
}

/// Returns `text` with the names of the variables of the flags in it, if there are any.
pub(super) fn named(text: &str, used: &[Variable]) -> Option<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || "-/".contains(c)));
    let mut named: Vec<&Variable> = vec![];
    for word in words {
        let variable = used.iter().find(|variable| variable.is(word));
        named.extend(variable.filter(|variable| !named.contains(variable)));
    }
    let first = named.first()?;
    if begins_with(text, first) {
        let (_, rest) = text.split_once(':')?;
        return Some(format!("{}:{rest}", first.name));
    }
    let given = named.iter().map(|Variable { name, long, .. }| format!("{name} is --{long}"));
    Some(format!("{text} ({})", given.collect::<Vec<_>>().join(", ")))
}

/// Returns the variable that replaced `name`, if that is a former one.
fn renamed_variable(name: &str) -> Option<String> {
    let flag = name.strip_prefix(PREFIX)?.to_lowercase().replace('_', "-");
    renamed::flag(&flag).map(|new| format!("{PREFIX}{}", new.replace('-', "_").to_uppercase()))
}

/// Returns names that are no variable and look like a misspelling of one, with the right name.
pub(super) fn misspellings(
    command: &Command,
    names: impl Iterator<Item = OsString>,
) -> Vec<(String, String)> {
    let mut known = vec![ENVIRONMENT.to_owned(), firewall_backend_args::ENVIRONMENT.to_owned()];
    collect(command, &mut known);
    let words: Vec<String> = known.iter().map(|name| name.to_lowercase()).collect();
    let names = names.filter_map(|name| name.into_string().ok());
    let unknown = names.filter(|name| {
        name.starts_with(PREFIX) && (!known.contains(name) || renamed_variable(name).is_some())
    });
    let misspelled = |name: String| {
        if let Some(meant) = renamed_variable(&name) {
            return Some((name, meant));
        }
        let rest = &name.to_lowercase()[PREFIX.len()..];
        let bare = words.iter().map(|word| &word[PREFIX.len()..]);
        let meant = habits::misspelled(rest, bare)?;
        Some((name, format!("{PREFIX}{}", meant.to_uppercase())))
    };
    // A longer list would not be read.
    unknown.take(MOST_MISSPELLINGS).filter_map(misspelled).collect()
}

fn collect(command: &Command, names: &mut Vec<String>) {
    let variables = command.get_arguments().filter_map(|arg| Variable::of(command.get_name(), arg));
    names.extend(variables.map(|variable| variable.name));
    command.get_subcommands().for_each(|below| collect(below, names));
}

/// Returns whether a message is about the value of this flag: `-o/--timeout: ...`.
fn begins_with(text: &str, variable: &Variable) -> bool {
    text.split_once(':').is_some_and(|(flag, _)| variable.is(flag))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_former_variable_is_reported_where_no_flag_reads_it() {
        let names = ["KNOCKPIPE_GATE_AWAY", "KNOCKPIPE_GATE", "KNOCKPIPE_TIMOUT"];
        let found = misspellings(&Cli::command(), names.into_iter().map(OsString::from));
        let expected = [
            ("KNOCKPIPE_GATE_AWAY", "KNOCKPIPE_GATE_FAILURE"),
            ("KNOCKPIPE_TIMOUT", "KNOCKPIPE_TIMEOUT"),
        ];
        assert_eq!(found, expected.map(|(name, meant)| (name.to_owned(), meant.to_owned())));
    }
}
