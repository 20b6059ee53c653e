//! Turns the settings of a table into the arguments of a command, and parses them with `clap`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, FromArgMatches, Parser};

use super::arguments::{blame, to_arguments};
use super::text::{Section, Setting, Table, Tables, Value};
use super::{ConfigError, ServiceTable};
use crate::cli::firewall_args::FirewallArgs;
use crate::cli::gate_args::{AcceptorGateArgs, GateArgs};
use crate::cli::http_args::HttpArgs;
use crate::cli::knockd_args::KnockdArgs;
use crate::cli::process_args::ProcessArgs;
use crate::cli::service_args::ServiceArgs;
use crate::cli::tunnel_args::{DecryptArgs, EncryptArgs, TunnelArgs};
use crate::cli::{habits, renamed, variables};
use crate::sys::keyfile::is_stdin;

/// The flags about the process.
#[derive(Parser)]
#[command(name = "[process]", no_binary_name = true, disable_help_flag = true)]
struct ProcessLine {
    #[command(flatten)]
    process: ProcessArgs,
}

/// The flags of an encrypt end.
#[derive(Parser)]
#[command(name = "encrypt", no_binary_name = true, disable_help_flag = true)]
struct EncryptLine {
    #[command(flatten)]
    args: EncryptArgs,
}

/// The flags of a decrypt end.
#[derive(Parser)]
#[command(name = "decrypt", no_binary_name = true, disable_help_flag = true)]
struct DecryptLine {
    #[command(flatten)]
    args: DecryptArgs,
}

/// The flags of a service of knocks over HTTP.
#[derive(Parser)]
#[command(name = "knockd", no_binary_name = true, disable_help_flag = true)]
struct KnockdLine {
    #[command(flatten)]
    args: KnockdArgs,
}

/// The flags of a gate in front of a web server.
#[derive(Parser)]
#[command(name = "http", no_binary_name = true, disable_help_flag = true)]
struct HttpLine {
    #[command(flatten)]
    args: HttpArgs,
}

/// The flags of a firewall that follows a gate.
#[derive(Parser)]
#[command(name = "firewall", no_binary_name = true, disable_help_flag = true)]
struct FirewallLine {
    #[command(flatten)]
    args: FirewallArgs,
}

/// The flags of a gate.
#[derive(Parser)]
#[command(name = "[gates]", no_binary_name = true, disable_help_flag = true)]
struct GateLine {
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    acceptor: AcceptorGateArgs,
}

/// The flags that tables may have as keys.
#[derive(Debug)]
pub(super) struct Flags {
    pub(super) process: Command,
    pub(super) encrypt: Command,
    pub(super) decrypt: Command,
    pub(super) knockd: Command,
    pub(super) http: Command,
    pub(super) firewall: Command,
    pub(super) gate: Command,
}

impl Flags {
    pub(super) fn new() -> Self {
        Self {
            process: built::<ProcessLine>(),
            encrypt: built::<EncryptLine>(),
            decrypt: built::<DecryptLine>(),
            knockd: built::<KnockdLine>(),
            http: built::<HttpLine>(),
            firewall: built::<FirewallLine>(),
            gate: built::<GateLine>(),
        }
    }

    /// Returns true if the defaults have to fit this command: those of tunnels even if there is none,
    /// and those of another kind of service if the file has one. The same key may mean something
    /// else there.
    fn is_checked(&self, command: &Command, tables: &Tables) -> bool {
        let is_of_tunnels = ["encrypt", "decrypt"].contains(&command.get_name());
        let has_one =
            |table: &Table| self.command(table).is_ok_and(|it| it.get_name() == command.get_name());
        is_of_tunnels || tables.services.iter().any(has_one)
    }

    /// Returns the flags of a service by its command; `None` where there is no such command.
    pub(super) fn of_command(&self, name: &str) -> Option<&Command> {
        self.of_services().into_iter().find(|command| command.get_name() == name)
    }

    fn of_services(&self) -> [&Command; 5] {
        [&self.encrypt, &self.decrypt, &self.knockd, &self.http, &self.firewall]
    }

    /// Checks keys, gates and defaults by themselves, even if no tunnel uses them.
    pub(super) fn check(&self, tables: &Tables, base: &Path) -> Result<(), ConfigError> {
        for Setting { value, line, .. } in &tables.keys {
            let Value::Words(files) = value else { continue };
            files.iter().try_for_each(|file| refuse_stdin(file, *line))?;
        }
        for Table { settings, .. } in &tables.gates {
            self.parse(&self.gate, settings, base)?;
        }
        for command in self.of_services().into_iter().filter(|it| self.is_checked(it, tables)) {
            let mut defaults = self.applicable(command, &tables.defaults)?;
            named_gate(&mut defaults, tables)?;
            name_keys(&mut defaults, tables)?;
            // Required flags of a tunnel need not be among the defaults.
            let lenient = command.clone().mut_args(|arg| arg.required(false));
            let arguments = self.arguments(&lenient, &defaults, base)?;
            match lenient.clone().try_get_matches_from(arguments) {
                Ok(_) => {}
                // Nor those that are required where another is missing.
                Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {}
                Err(error) => return Err(blame(&error, &lenient, &defaults)),
            }
        }
        Ok(())
    }

    /// Parses `[process]`, and returns all its values. Environment variables fill in missing ones.
    pub(super) fn process(
        &self,
        settings: &[Setting],
        base: &Path,
    ) -> Result<(ProcessArgs, ArgMatches), ConfigError> {
        let is_typed = |arg: &Arg| {
            let own = |setting: &Setting| arg.get_long() == Some(&setting.key);
            settings.iter().any(own)
        };
        let variables = variables::added(&self.process, is_typed, |name| std::env::var_os(name));
        let (added, used) = variables.map_err(|error| ConfigError::elsewhere(error.to_string()))?;
        let mut arguments = self.arguments(&self.process, settings, base)?;
        arguments.extend(added);
        let failed = |error: clap::Error| {
            let mistake = blame(&error, &self.process, settings);
            let text = variables::named(&mistake.what, &used);
            text.map_or(mistake, ConfigError::elsewhere)
        };
        let values = self.process.clone().try_get_matches_from(arguments).map_err(failed)?;
        let line = ProcessLine::from_arg_matches(&values).map_err(failed)?;
        Ok((line.process, values))
    }

    /// Parses the settings of a service: its own override its gate's, and these the defaults.
    pub(super) fn service(
        &self,
        table: &Table,
        tables: &Tables,
        base: &Path,
    ) -> Result<ServiceTable, ConfigError> {
        let command = self.command(table)?;
        let settings = self.merged(command, table, tables)?;
        let values = self.parse(command, &settings, base).map_err(|error| error.of(table))?;
        let args = match command.get_name() {
            "encrypt" => EncryptLine::from_arg_matches(&values)
                .map(|line| ServiceArgs::Tunnel(TunnelArgs::Encrypt(Box::new(line.args)))),
            "knockd" => KnockdLine::from_arg_matches(&values)
                .map(|line| ServiceArgs::Knockd(Box::new(line.args))),
            "http" => HttpLine::from_arg_matches(&values)
                .map(|line| ServiceArgs::Http(Box::new(line.args))),
            "firewall" => FirewallLine::from_arg_matches(&values)
                .map(|line| ServiceArgs::Firewall(Box::new(line.args))),
            _ => DecryptLine::from_arg_matches(&values)
                .map(|line| ServiceArgs::Tunnel(TunnelArgs::Decrypt(Box::new(line.args)))),
        };
        let args = args.map_err(|error| blame(&error, command, &settings))?;
        let Table { section, line, .. } = *table;
        Ok(ServiceTable { section, name: Arc::from(&*table.name), line, args, values })
    }

    /// Parses the gate of these settings, and ignores all others.
    pub(super) fn gate(
        &self,
        settings: &[Setting],
        base: &Path,
    ) -> Result<(GateArgs, AcceptorGateArgs), ConfigError> {
        let of_gate = settings.iter().filter(|setting| find(&self.gate, &setting.key).is_some());
        let settings: Vec<Setting> = of_gate.cloned().collect();
        let values = self.parse(&self.gate, &settings, base)?;
        let line = GateLine::from_arg_matches(&values);
        let line = line.map_err(|error| blame(&error, &self.gate, &settings))?;
        Ok((line.gate, line.acceptor))
    }

    /// Returns all settings that apply to a service.
    pub(super) fn settings(
        &self,
        table: &Table,
        tables: &Tables,
    ) -> Result<Vec<Setting>, ConfigError> {
        self.merged(self.command(table)?, table, tables)
    }

    fn command(&self, table: &Table) -> Result<&Command, ConfigError> {
        match table.section {
            Section::Knockd => Ok(&self.knockd),
            Section::Http => Ok(&self.http),
            Section::Firewalls => Ok(&self.firewall),
            Section::Tunnels | Section::Gates => self.mode(table),
        }
    }

    fn mode(&self, table: &Table) -> Result<&Command, ConfigError> {
        let setting = table.settings.iter().find(|setting| setting.key == "mode");
        let (found, which, line) = match setting {
            Some(Setting { value: Value::Words(words), line, .. }) if words.len() == 1 => (
                [&self.encrypt, &self.decrypt].into_iter().find(|it| it.get_name() == words[0]),
                "another mode than there is",
                *line,
            ),
            Some(setting) => (None, "another mode than there is", setting.line),
            None => (None, "no mode", table.line),
        };
        let what = || {
            let name = &table.name;
            format!(
                "tunnel {name} has {which}; write mode = \"encrypt\" next to the clients, or mode = \"decrypt\" next to the server"
            )
        };
        found.ok_or_else(|| ConfigError::new(line, what()))
    }

    fn merged(
        &self,
        command: &Command,
        table: &Table,
        tables: &Tables,
    ) -> Result<Vec<Setting>, ConfigError> {
        let is_mode =
            |setting: &&Setting| setting.key == "mode" && table.section == Section::Tunnels;
        let own = table.settings.iter().filter(|setting| !is_mode(setting));
        let mut all: Vec<Setting> = own.cloned().collect();
        let defaults = self.applicable(command, &tables.defaults)?;
        let (gate, defaults): (Vec<_>, Vec<_>) =
            defaults.into_iter().partition(|setting| setting.key == "gate");
        add(command, &mut all, &gate);
        if let Some(gate) = named_gate(&mut all, tables)? {
            // A gate may say more than a service of this kind has a use for.
            let is_for = |setting: &&Setting| {
                find(command, &setting.key).is_some() || find(&self.gate, &setting.key).is_none()
            };
            let settings: Vec<_> = gate.settings.iter().filter(is_for).cloned().collect();
            add(command, &mut all, &settings);
        }
        add(command, &mut all, &defaults);
        name_keys(&mut all, tables)?;
        Ok(all)
    }

    /// Returns the defaults that apply to this mode. One that no mode has is an error.
    fn applicable(
        &self,
        command: &Command,
        defaults: &[Setting],
    ) -> Result<Vec<Setting>, ConfigError> {
        let mut found = vec![];
        for setting in defaults {
            if find(command, &setting.key).is_some() {
                found.push(setting.clone());
            } else if !self.is_of_services(&setting.key) {
                return Err(self.unknown(command, setting));
            }
        }
        Ok(found)
    }

    /// Returns whether a service of any kind may have this key.
    fn is_of_services(&self, key: &str) -> bool {
        self.of_services().into_iter().any(|command| find(command, key).is_some())
    }

    fn unknown(&self, command: &Command, Setting { key, line, .. }: &Setting) -> ConfigError {
        let name = command.get_name();
        if find(&self.process, key).is_some() {
            let what = format!("'{key}' is about the process; write it to [process]");
            return ConfigError::new(*line, what);
        }
        if name == "[process]" && habits::of_key(key).is_some_and(|key| self.is_of_services(key)) {
            let what =
                format!("'{key}' is not a key of [process]; tunnels stand in [tunnels.NAME]");
            return ConfigError::new(*line, what);
        }
        if self.of_command(name).is_none() && self.is_of_services(key) {
            let what = format!("'{key}' is about a tunnel; write it to one, or to [defaults]");
            return ConfigError::new(*line, what);
        }
        let new = renamed::flag(key).filter(|new| find(command, new).is_some());
        let remedy = match near(command, key) {
            _ if new.is_some() => format!("write {}", new.unwrap_or_default()),
            Some(near) => format!("did you mean '{near}'?"),
            None if name == "[gates]" => "see 'knockpipe decrypt --help', below 'Gate'".to_owned(),
            None if name == "[process]" => {
                "see 'knockpipe run --help' for what there is".to_owned()
            }
            None => format!("see 'knockpipe {name} --help': keys are the long flags"),
        };
        ConfigError::new(*line, format!("there is no key '{key}' for {name}; {remedy}"))
    }

    /// Parses `settings` with `clap`.
    fn parse(
        &self,
        command: &Command,
        settings: &[Setting],
        base: &Path,
    ) -> Result<ArgMatches, ConfigError> {
        let arguments = self.arguments(command, settings, base)?;
        let parsed = command.clone().try_get_matches_from(arguments);
        parsed.map_err(|error| blame(&error, command, settings))
    }

    fn arguments(
        &self,
        command: &Command,
        settings: &[Setting],
        base: &Path,
    ) -> Result<Vec<OsString>, ConfigError> {
        let mut arguments = vec![];
        for setting in settings {
            let arg = find(command, &setting.key).ok_or_else(|| self.unknown(command, setting))?;
            arguments.extend(to_arguments(arg, setting, base)?);
        }
        Ok(arguments)
    }
}

fn built<T: Parser>() -> Command {
    let mut command = T::command();
    command.build();
    command
}

fn find<'c>(command: &'c Command, key: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(key))
}

/// Adds the settings of `more` that `all` does not have, under the same key or as an opposite.
fn add(command: &Command, all: &mut Vec<Setting>, more: &[Setting]) {
    let own = all.clone();
    let is_said = |setting: &Setting| {
        own.iter().any(|own| own.key == setting.key || excludes(command, own, &setting.key))
    };
    all.extend(more.iter().filter(|setting| !is_said(setting)).cloned());
}

/// Returns whether `own` and the flag `other` exclude each other.
fn excludes(command: &Command, own: &Setting, other: &str) -> bool {
    let (Some(one), Some(two)) = (find(command, &own.key), find(command, other)) else {
        return false;
    };
    own.value != Value::Switch(false) && variables::excludes(command, one, two)
}

/// Replaces `gate = "NAME"` by the settings of `[gates.NAME]`.
fn named_gate<'t>(
    all: &mut Vec<Setting>,
    tables: &'t Tables,
) -> Result<Option<&'t Table>, ConfigError> {
    let Some(place) = all.iter().position(|setting| setting.key == "gate") else {
        return Ok(None);
    };
    let Value::Words(words) = &all[place].value else { return Ok(None) };
    let [name] = &words[..] else { return Ok(None) };
    if let Some(gate) = tables.gates.iter().find(|gate| gate.name == *name) {
        all.remove(place);
        return Ok(Some(gate));
    }
    if name.contains(':') {
        return Ok(None);
    }
    let what = format!("there is no table [gates.{name}]; add it, or write an address of a store");
    Err(ConfigError::new(all[place].line, what))
}

/// Replaces names of `[keys]` by their files.
fn name_keys(settings: &mut [Setting], tables: &Tables) -> Result<(), ConfigError> {
    for setting in settings.iter_mut().filter(|setting| setting.key == "key") {
        let Value::Words(words) = &mut setting.value else { continue };
        for word in words {
            let named = tables.keys.iter().find(|key| key.key == *word);
            if let Some(Value::Words(file)) = named.map(|key| &key.value)
                && let [file] = &file[..]
            {
                word.clone_from(file);
            } else if !tables.keys.is_empty() && !word.contains(['/', '.']) {
                let what = format!(
                    "there is no '{word}' in [keys]; correct it, or write ./{word} for a file"
                );
                return Err(ConfigError::new(setting.line, what));
            }
            refuse_stdin(word, setting.line)?;
        }
    }
    Ok(())
}

fn refuse_stdin(file: &str, line: usize) -> Result<(), ConfigError> {
    let what = "a key cannot come from standard input here, because a reload reads it again; \
                write the path of its file";
    if is_stdin(Path::new(file)) { Err(ConfigError::new(line, what)) } else { Ok(()) }
}

/// Returns the key that `key` misspells, or that other programs call by this name.
fn near<'c>(command: &'c Command, key: &str) -> Option<&'c str> {
    let known = || command.get_arguments().filter_map(Arg::get_long);
    let of_habit = habits::of_key(key).and_then(|meant| known().find(|known| *known == meant));
    habits::near(key, known()).or(of_habit)
}
