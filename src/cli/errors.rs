//! Turns every error on the command line into one line: the cause, then the remedy.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};

use super::process_args::PROCESS;
use super::{Cli, habits, renamed};
use crate::addr::{Address, ServiceName};
use crate::run::Failure;

/// Flags that are valid each but contradict each other.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    /// `-t NAME=ADDR` at the encrypt end.
    #[error(
        "the encrypt end has targets without a name, so '-t NAME=ADDR' is for decrypt; write -t ADDR --service NAME"
    )]
    NamedTarget,
    /// The same target twice.
    #[error("the target {0} is given twice; give each once, in the order in which to try them")]
    SameTarget(Address),
    /// `--check` of a service that does not exist.
    #[error("--check names the service '{0}', which has no target; add -t {0}=ADDR")]
    CheckOfNothing(ServiceName),
    /// Two checks for one service.
    #[error("--check is given twice for the same service; keep one, or write NAME= before it")]
    TwoChecks,
    /// `--on-target-down` where no target is ever found to be down.
    #[error(
        "--on-target-down is about targets that are checked or one of several; add --check, or a second -t"
    )]
    NeverDown,
    /// A flag about knocks without `--knock`.
    #[error("{0} is about knocks, and there are none; add --knock, or leave it out")]
    NoKnock(&'static str),
    /// `--knock` at a unix socket.
    #[error(
        "--knock asks a gate for an address, and {path} has none; leave --knock out, or give -t HOST:PORT",
        path = .0.display()
    )]
    KnockAtSocket(PathBuf),
    /// The time of a grant with a fraction.
    #[error("{0}: a grant lasts a whole number of seconds; write one such as 60s")]
    PartOfSecond(&'static str),
    /// A tunnel to which its own connections come back.
    #[error(
        "a connection would go round for ever: {0}; give the last -t the address of the other end or of the service"
    )]
    Ring(String),
    /// A service that writes a store without one.
    #[error(
        "there is no store that knocks could be written to; add --gate redis://HOST:PORT or file:PATH"
    )]
    NoStore,
    /// `0` where a time must pass.
    #[error("{flag}: 0 seconds is not allowed; {remedy}")]
    ZeroSeconds {
        /// The flag.
        flag: &'static str,
        /// The spelling to use instead.
        remedy: &'static str,
    },
    /// Both ends at once.
    #[error(
        "-e and -d are both given, but one process is one end; keep -e to encrypt or -d to decrypt"
    )]
    BothEnds,
    /// No end.
    #[error("neither -e nor -d is given; add -e to encrypt or -d to decrypt")]
    NoEnd,
    /// spiped's weak mode.
    #[error(
        "-f asks for a weak handshake, and there is none here; leave -f out, a handshake is fast"
    )]
    WeakMode,
    /// An option of the other end.
    #[error("{0} is for the decrypt end; leave it out, or use -d")]
    DecryptOnly(&'static str),
    /// An option of the other end.
    #[error("{0} is for the encrypt end; leave it out, or use -e")]
    EncryptOnly(&'static str),
    /// `-k A,B`.
    #[error("there is no key file {file}; give each file by itself: -k A -k B", file = .0.display())]
    SeveralKeys(PathBuf),
    /// `-k -` twice.
    #[error("two keys cannot both come from standard input; give -k - once, the others as files")]
    TwoKeysOnStdin,
    /// SIGHUP with `-k -`.
    #[error("a key from standard input cannot be read again; give it as a file, or restart")]
    KeyReadOnce,
    /// `keygen -`.
    #[error("a new key is written to a file, not to standard output; give a file name")]
    KeyToStdout,
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self::Usage(error.into())
    }
}

/// Turns an error of `clap` into one line. `command` is the parsed command, `name` its name as the
/// user typed it, for the hint at `--help`.
pub(super) fn one_line(error: &clap::Error, command: &Command, name: &str) -> Failure {
    let facts = Facts { error, command };
    let (cause, remedy) = match error.kind() {
        ErrorKind::ValueValidation => return facts.bad_value(name),
        ErrorKind::InvalidValue => facts.impossible_value(),
        ErrorKind::UnknownArgument => facts.unknown_argument(name),
        ErrorKind::InvalidSubcommand => facts.unknown_command(name),
        ErrorKind::MissingRequiredArgument => facts.missing(name),
        ErrorKind::ArgumentConflict => facts.conflict(),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let demo = if name.contains(' ') { "" } else { "try 'knockpipe demo', or " };
            ("no command is given".to_owned(), format!("{demo}see '{name} --help'"))
        }
        ErrorKind::TooManyValues => facts.unwanted_value(),
        ErrorKind::InvalidUtf8 => {
            ("an argument is not UTF-8 text".to_owned(), "write it in UTF-8".to_owned())
        }
        _ => (first_line(error), format!("see '{name} --help'")),
    };
    Failure::Usage(anyhow::anyhow!("{cause}; {remedy}"))
}

/// The name of a command line without a command, which is in spiped's spelling.
const NO_COMMAND: &str = "knockpipe -e";

/// Flags of every command.
const COMMON: [&str; 2] = ["help", "version"];

/// An error of `clap` with the names that explain it.
struct Facts<'a> {
    error: &'a clap::Error,
    command: &'a Command,
}

impl Facts<'_> {
    fn bad_value(&self, name: &str) -> Failure {
        let source = std::error::Error::source(self.error);
        let why = source.map_or_else(|| first_line(self.error), ToString::to_string);
        let flag = self.flag(ContextKind::InvalidArg);
        let value = self.text(ContextKind::InvalidValue);
        let long = flag.rsplit("--").next().unwrap_or_default();
        if let Some(new) = renamed::value(long, &value) {
            let text = format!("{flag}: '{value}' is now '{new}'; write --{long} {new}");
            return Failure::Usage(anyhow::anyhow!(text));
        }
        let by_name = habits::of_gate_name(self.called(name), long, &value);
        let why = by_name.map_or_else(|| why.clone(), |remedy| format!("{why}; {remedy}"));
        match flag {
            // A single word: the reason is enough.
            place if place.starts_with(['<', '[']) => Failure::Usage(anyhow::anyhow!("{why}")),
            flag => Failure::Usage(anyhow::anyhow!("{flag}: {why}")),
        }
    }

    fn impossible_value(&self) -> (String, String) {
        let flag = self.flag(ContextKind::InvalidArg);
        let possible = self.list(ContextKind::ValidValue).join(", ");
        match (self.text(ContextKind::InvalidValue).as_str(), possible.as_str()) {
            ("", "") => {
                let remedy = "write one after it, and check that no variable in it is empty";
                (format!("{flag} has no value"), remedy.to_owned())
            }
            ("", possible) => (format!("{flag} has no value"), format!("use one of {possible}")),
            (value, "") => (format!("{flag}: '{value}' is not allowed"), "leave it out".to_owned()),
            (value, possible) => {
                (format!("{flag}: there is no '{value}'"), format!("use one of {possible}"))
            }
        }
    }

    fn unwanted_value(&self) -> (String, String) {
        let value = self.text(ContextKind::InvalidValue);
        let cause = format!("{} takes no value", self.flag(ContextKind::InvalidArg));
        (cause, format!("leave '{value}' out"))
    }

    fn unknown_argument(&self, name: &str) -> (String, String) {
        let argument = self.text(ContextKind::InvalidArg);
        if let Some(new) = self.renamed(&argument, name) {
            return (format!("there is no flag '{argument}'"), format!("write --{new}"));
        }
        let habit = self.of_habit(&argument, name);
        if let Some(answer) = habit.or_else(|| self.misplaced(&argument, name)) {
            return answer;
        }
        if !argument.starts_with('-') {
            let remedy = unexpected_word(&argument, name);
            let remedy = remedy.unwrap_or_else(|| format!("see '{name} --help' for what there is"));
            return (format!("'{argument}' is not expected here"), remedy);
        }
        let remedy = match argument.as_str() {
            "-g" => "leave it out, forward secrecy is always on".to_owned(),
            "-f" => "leave it out, there is no weak mode".to_owned(),
            "-t" if name == "knockpipe knock" => "write HOST:PORT without a flag".to_owned(),
            _ => match self.near_flag(&argument, name) {
                Some(near) if COMMON.contains(&near) && name == NO_COMMAND => {
                    format!("did you mean '--{near}'? see 'knockpipe --help'")
                }
                Some(near) => format!("did you mean '--{near}'? see '{name} --help'"),
                None => format!("see '{name} --help' for what there is"),
            },
        };
        (format!("there is no flag '{argument}'"), remedy)
    }

    /// Returns the flag that replaced `argument`, where the command has it.
    fn renamed(&self, argument: &str, name: &str) -> Option<&'static str> {
        let new = renamed::flag(argument.strip_prefix("--")?)?;
        let mut known = self.called(name).get_arguments();
        known.any(|arg| arg.get_long() == Some(new)).then_some(new)
    }

    /// Explains a flag of another program, where a tunnel is described.
    fn of_habit(&self, argument: &str, name: &str) -> Option<(String, String)> {
        let word = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
        let cause = format!("there is no flag '{argument}'");
        if name == "knockpipe run" {
            let key = habits::of_key(word).or_else(|| renamed::flag(word)).unwrap_or(word);
            return Some((cause, to_file(key)?));
        }
        let of_tunnels = ["knockpipe encrypt", "knockpipe decrypt", "knockpipe pipe", NO_COMMAND];
        let is_spiped = [NO_COMMAND, "spiped"].contains(&name);
        if !is_spiped && !of_tunnels.contains(&name) {
            return None;
        }
        Some((cause, habits::of_flag(word, is_spiped)?.to_owned()))
    }

    /// Returns the command of this name, such as `knockpipe gate`, as far as it exists.
    fn called(&self, name: &str) -> &Command {
        let words = name.split_whitespace().skip(1);
        words.fold(self.command, |here, word| here.find_subcommand(word).unwrap_or(here))
    }

    /// Returns the flag of the command that `argument` misspells.
    fn near_flag(&self, argument: &str, name: &str) -> Option<&str> {
        let word = argument.strip_prefix("--")?;
        let here = self.called(name);
        habits::near(word, here.get_arguments().filter_map(Arg::get_long).chain(COMMON))
    }

    /// Explains a flag that other commands have, or a command after flags: both exist, so
    /// suggesting a similar word would mislead.
    fn misplaced(&self, argument: &str, name: &str) -> Option<(String, String)> {
        let all = Cli::command();
        // The spelling of spiped, which is chosen by a flag in place of the command.
        let no_command = name == NO_COMMAND;
        let Some(long) = argument.strip_prefix("--") else {
            all.find_subcommand(argument).filter(|_| no_command)?;
            let cause = format!("the command '{argument}' stands behind a flag");
            return Some((cause, format!("put it first: 'knockpipe {argument} ...'")));
        };
        let here = name.strip_prefix("knockpipe ").unwrap_or(name);
        let owners = Owners::of(&all, long);
        let of = owners.to_name(here.starts_with("gate"))?;
        if here == "gate" && !owners.gate.is_empty() {
            let cause = format!("'{argument}' stands before the command of gate");
            return Some((
                cause,
                format!("put it after the command: 'knockpipe gate COMMAND {argument} ...'"),
            ));
        }
        let cause = format!("'{argument}' is a flag of {of}");
        Some(match no_command {
            true => (cause, "put it after that command, or leave it out".to_owned()),
            false => {
                let remedy = self.other_spelling(long, name);
                let remedy = remedy.map(|other| format!("write --{other}"));
                let remedy = remedy.unwrap_or_else(|| "leave it out here".to_owned());
                (format!("{cause}, not of {here}"), remedy)
            }
        })
    }

    /// Returns the flag that has this meaning here, where `knock` and the tunnels spell it
    /// differently: `--label` and `--knock-label`.
    fn other_spelling(&self, long: &str, name: &str) -> Option<String> {
        let other = match long.strip_prefix("knock-") {
            Some(short) => short.to_owned(),
            None => format!("knock-{long}"),
        };
        let is_here = self.called(name).get_arguments().any(|arg| arg.get_long() == Some(&other));
        is_here.then_some(other)
    }

    fn unknown_command(&self, name: &str) -> (String, String) {
        let word = self.text(ContextKind::InvalidSubcommand);
        let near = habits::near(&word, self.called(name).get_subcommands().map(Command::get_name));
        let habit = habits::of_command(&word).filter(|_| name == "knockpipe");
        let remedy = match (near, habit) {
            (Some(near), _) => format!("did you mean '{near}'? see '{name} --help'"),
            (None, Some(remedy)) => remedy.to_owned(),
            (None, None) => format!("see '{name} --help' for what there is"),
        };
        (format!("there is no command '{word}'"), remedy)
    }

    fn missing(&self, name: &str) -> (String, String) {
        let missing: Vec<_> =
            self.list(ContextKind::InvalidArg).iter().map(|arg| explained(arg)).collect();
        let (is, it) = if missing.len() == 1 { ("is", "it") } else { ("are", "them") };
        let cause = format!("{} {is} missing", missing.join(", "));
        (cause, format!("add {it}, as in the examples of '{name} --help'"))
    }

    fn conflict(&self) -> (String, String) {
        let flag = self.flag(ContextKind::InvalidArg);
        match self.list(ContextKind::PriorArg).first() {
            Some(other) if *other != self.text(ContextKind::InvalidArg) => (
                format!("{flag} and {} exclude each other", self.both_names(other)),
                "keep one of them".to_owned(),
            ),
            _ => {
                let remedy = match flag.as_str() {
                    "--service" => {
                        "give one, an encrypt end asks for one service; start another end for another one"
                    }
                    _ => "give it once",
                };
                (format!("{flag} is given twice"), remedy.to_owned())
            }
        }
    }

    fn flag(&self, kind: ContextKind) -> String {
        self.both_names(&self.text(kind))
    }

    /// Writes `--timeout <DURATION>` as `-o/--timeout`: people look for what they typed.
    fn both_names(&self, shown: &str) -> String {
        let bare = shown.split_whitespace().next().unwrap_or(shown);
        let long = bare.strip_prefix("--").and_then(|long| find(self.command, long));
        match long.and_then(Arg::get_short) {
            Some(short) => format!("-{short}/{bare}"),
            None => bare.to_owned(),
        }
    }

    fn text(&self, kind: ContextKind) -> String {
        self.list(kind).first().cloned().unwrap_or_default()
    }

    fn list(&self, kind: ContextKind) -> Vec<String> {
        match self.error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            _ => vec![],
        }
    }
}

/// The commands that have a certain flag.
struct Owners {
    top: Vec<String>,
    gate: Vec<String>,
}

impl Owners {
    fn of(all: &Command, long: &str) -> Self {
        let has =
            |command: &&Command| command.get_arguments().any(|arg| arg.get_long() == Some(long));
        let top = all.get_subcommands().filter(has);
        let gate = all.find_subcommand("gate").into_iter().flat_map(Command::get_subcommands);
        Self {
            top: top.map(|command| command.get_name().to_owned()).collect(),
            gate: gate.filter(has).map(|command| format!("gate {}", command.get_name())).collect(),
        }
    }

    /// Names them for the error, those nearest to the called command.
    fn to_name(&self, from_gate: bool) -> Option<String> {
        let (near, far) = if from_gate { (&self.gate, &self.top) } else { (&self.top, &self.gate) };
        let chosen = if near.is_empty() { far } else { near };
        match &chosen[..] {
            [] => None,
            [one] => Some(one.clone()),
            [one, _, _, _, _, ..] if one.starts_with("gate ") => {
                Some("the gate commands".to_owned())
            }
            [rest @ .., last] => Some(format!("{} and {last}", rest.join(", "))),
        }
    }
}

/// Names the table of the file for a flag that `run` does not take.
fn to_file(flag: &str) -> Option<String> {
    let all = Cli::command();
    let ends = ["encrypt", "decrypt"].map(|end| all.find_subcommand(end));
    let arg = ends.into_iter().flatten().find_map(|end| find(end, flag))?;
    // Except the drain, which is set for each tunnel.
    let is_of_process = arg.get_help_heading() == Some(PROCESS) && flag != "drain";
    Some(match is_of_process {
        true => format!("write '{flag}' to [process] of the file"),
        false => format!("write '{flag}' to a table [tunnels.NAME] of the file, or to [defaults]"),
    })
}

/// Returns the remedy for an unexpected word.
fn unexpected_word(word: &str, name: &str) -> Option<String> {
    let command = name.strip_prefix("knockpipe ")?;
    Some(match command {
        "run" | "check" => format!("name the file behind -c: '{name} -c {word}'"),
        "encrypt" | "decrypt" | "pipe" | "-e" => {
            "write addresses behind -s and -t, a key file behind -k".to_owned()
        }
        "who" => "choose connections with --tunnel NAME or --peer ADDR".to_owned(),
        "status" | "reload" | "drain" | "kick" => "name the process by its --admin PATH".to_owned(),
        _ => return None,
    })
}

/// Returns the flag with this long name, in the command or below it.
fn find<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| arg.get_long() == Some(long));
    here.or_else(|| command.get_subcommands().find_map(|below| find(below, long)))
}

/// Explains a required argument.
fn explained(shown: &str) -> String {
    match shown.split_whitespace().next().unwrap_or(shown) {
        "--source" | "-s" => "-s ADDR (where to listen)".to_owned(),
        "--target" | "-t" => "-t ADDR (where to forward)".to_owned(),
        "--key" | "-k" => {
            "-k FILE (the shared key, from the other host, or from 'knockpipe keygen' on the first)"
                .to_owned()
        }
        "<FILE>" => "FILE (the key file)".to_owned(),
        "<INPUT>" => "INPUT (a file, or - for standard input)".to_owned(),
        "<ADDR>..." | "<ADDR>" => "ADDR (an address such as 203.0.113.7)".to_owned(),
        "<ADDR|NET>..." => "ADDR (an address or network such as 203.0.113.0/24)".to_owned(),
        // One member of a group stands for all.
        "<ID|--peer" => "ID, --peer, --tunnel or --key (which connections)".to_owned(),
        "--idle" => "--idle DURATION (such as 30d)".to_owned(),
        other => other.to_owned(),
    }
}

/// Returns the first line of `clap`'s own text, without its headline word.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
