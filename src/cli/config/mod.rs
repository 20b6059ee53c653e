//! The configuration file: many tunnels, with the flags of the command line as keys.
//!
//! ```text
//!   text    TOML                        -> settings, each with its line
//!   flags   the settings of a tunnel    -> the arguments of encrypt or decrypt
//!   (clap)  arguments                   -> TunnelArgs -> Options
//! ```
//!
//! A key is the long name of a flag, and its value has the same meaning, so that a new flag is a
//! new key and nothing is checked in two places. Paths are relative to the directory of the file,
//! not to that in which the process was started.

mod arguments;
mod flags;
mod gate;
mod show;
mod text;
mod unused;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Uid;

use super::loops;
use super::process_args::ProcessArgs;
use super::service_args::ServiceArgs;
use crate::files::read::{ReadError, read};
use crate::files::text::{NotText, text};
use crate::run::Failure;
use crate::service::ServiceOptions;
use flags::Flags;
use text::{Section, Tables};
use unused::Unused;

pub(super) use gate::{Which, gate};
pub(super) use show::show;

/// Longest configuration file in bytes: 1 MiB.
const LONGEST: usize = 1 << 20;

/// A configuration file after reading and parsing. [`Config::plan`] reads the keys and other files
/// that it names.
#[derive(Debug)]
pub(super) struct Config {
    file: PathBuf,
    /// The keys that it may have, for [`show`].
    flags: Flags,
    pub(super) process: ProcessArgs,
    /// All its values, for [`show`].
    process_values: clap::ArgMatches,
    pub(super) services: Vec<ServiceTable>,
    unused: Vec<Unused>,
}

/// A service of the file.
#[derive(Debug)]
pub(super) struct ServiceTable {
    section: Section,
    pub(super) name: Arc<str>,
    /// Line where its table begins, from 1.
    line: usize,
    pub(super) args: ServiceArgs,
    /// All its values, for [`show`].
    values: clap::ArgMatches,
}

/// An error in the file, with its place.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error("cannot read {file}: {cause}; check its path and who may read it, and that it is a regular file", file = .file.display())]
    Unreadable {
        /// Its path.
        file: PathBuf,
        /// The system's error.
        cause: ReadError,
    },
    /// It is no UTF-8.
    #[error("{file} {1}; give a configuration file, saved as UTF-8", file = .0.display())]
    NoText(PathBuf, NotText),
    /// Something in it is wrong.
    #[error("{file}:{line}: {what}", file = .file.display())]
    Wrong {
        /// Its path.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Cause and remedy.
        what: String,
    },
}

/// An error with its line; without one if it concerns a whole table.
#[derive(Debug)]
struct ConfigError {
    line: Option<usize>,
    what: String,
    /// The error is in an environment variable, not in the file.
    is_elsewhere: bool,
}

impl ConfigError {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line: Some(line), what: what.into(), is_elsewhere: false }
    }

    /// Makes an error about a whole table.
    fn of_table(what: String) -> Self {
        Self { line: None, what, is_elsewhere: false }
    }

    /// Makes an error about the environment.
    fn elsewhere(what: String) -> Self {
        Self { line: None, what, is_elsewhere: true }
    }

    /// Completes an error that is about the whole of this table.
    fn of(self, table: &text::Table) -> Self {
        match self.line {
            None => Self::new(table.line, format!("{} {}", table.title(), self.what)),
            Some(_) => self,
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Usage(error.into())
    }
}

/// Returns the tables of a file, each with the flags that are its keys.
pub(super) fn tables() -> [(&'static str, clap::Command); 7] {
    let Flags { process, encrypt, decrypt, knockd, http, firewall, gate } = Flags::new();
    [
        ("[process]", process),
        ("[tunnels.NAME] with mode = \"encrypt\"", encrypt),
        ("[tunnels.NAME] with mode = \"decrypt\"", decrypt),
        ("[knockd.NAME]", knockd),
        ("[http.NAME]", http),
        ("[firewalls.NAME]", firewall),
        ("[gates.NAME]", gate),
    ]
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the line of the first mistake.
    pub(super) fn load(file: &Path) -> Result<Self, Failure> {
        understood(file, |base, text| Self::parse(file, base, text))
    }

    fn parse(file: &Path, base: &Path, text: &str) -> Result<Self, ConfigError> {
        let tables = Tables::parse(text, &keys_of(file, base))?;
        let flags = Flags::new();
        let (process, process_values) = flags.process(&tables.process, base)?;
        flags.check(&tables, base)?;
        let services = tables.services.iter().map(|table| flags.service(table, &tables, base));
        let services = services.collect::<Result<Vec<_>, _>>()?;
        if services.is_empty() {
            return Err(ConfigError::new(1, "there is no tunnel; add a table [tunnels.NAME]"));
        }
        let unused = unused::find(&tables, &services, &flags, base)?;
        Ok(Self { file: file.to_owned(), flags, process, process_values, services, unused })
    }

    /// Returns every file that is read again on a reload, itself first; including those of unused
    /// keys and gates.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let named = self.services.iter().flat_map(|service| service.args.files());
        let unused = self.unused.iter().flat_map(Unused::files);
        [self.file.clone()].into_iter().chain(named).chain(unused).collect()
    }

    /// Returns the options of all services; the keys are read.
    ///
    /// # Errors
    /// [`Failure`] of the first invalid service.
    pub(super) fn plan(&self) -> Result<Vec<ServiceOptions>, Failure> {
        let mut plan: Vec<ServiceOptions> = Vec::with_capacity(self.services.len());
        for service in &self.services {
            let options = service
                .options(self.process.uid())
                .map_err(|failure| self.in_service(service, failure))?;
            if let Some(both) = excluded(&plan, &options) {
                return Err(self.in_service(service, Failure::Usage(anyhow::anyhow!(both))));
            }
            plan.push(options);
        }
        let place = || self.file.display().to_string();
        loops::refuse_all(&plan).map_err(|error| at(place(), error.into()))?;
        for unused in &self.unused {
            let file = self.file.display();
            let place = format!("{file}:{}: {}, which no tunnel uses", unused.line, unused.what);
            unused.check(self.process.uid()).map_err(|failure| at(place, failure))?;
        }
        Ok(plan)
    }

    /// Returns the flags of the process that differ from those of `before`.
    pub(super) fn process_changes(&self, before: &Self) -> Vec<String> {
        if self.process == before.process {
            return vec![];
        }
        let flags =
            self.flags.process.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
        let of = |config: &Self, arg: &clap::Arg| -> Vec<OsString> {
            let values = config.process_values.get_raw(arg.get_id().as_str());
            values.into_iter().flatten().map(ToOwned::to_owned).collect()
        };
        let changed = flags.filter(|(arg, _)| of(self, arg) != of(before, arg));
        changed.map(|(_, flag)| flag.to_owned()).collect()
    }

    fn in_service(&self, service: &ServiceTable, failure: Failure) -> Failure {
        let ServiceTable { section, name, line, .. } = service;
        at(format!("{}:{line}: {} {name}", self.file.display(), section.one()), failure)
    }
}

fn at(place: String, failure: Failure) -> Failure {
    match failure {
        Failure::Usage(error) => Failure::Usage(error.context(place)),
        Failure::Runtime(error) => Failure::Runtime(error.context(place)),
    }
}

/// Parses the text of a file with `parse`, which also gets the directory that its paths are
/// relative to.
///
/// # Errors
/// [`Failure::Usage`] with the line of the first mistake.
fn understood<T>(
    file: &Path,
    parse: impl FnOnce(&Path, &str) -> Result<T, ConfigError>,
) -> Result<T, Failure> {
    let unreadable = |cause| FileError::Unreadable { file: file.to_owned(), cause };
    let bytes = read(file, LONGEST).map_err(unreadable)?;
    let text = text(&bytes).map_err(|not| FileError::NoText(file.to_owned(), not))?;
    // So that the paths that `show` prints are valid in any other file.
    let whole = std::path::absolute(file).map_err(|error| unreadable(error.into()))?;
    let parsed = parse(whole.parent().unwrap_or(&whole), text);
    parsed.map_err(|ConfigError { line, what, is_elsewhere }| match is_elsewhere {
        true => Failure::Usage(anyhow::anyhow!(what)),
        false => {
            let line = line.unwrap_or(1);
            FileError::Wrong { file: file.to_owned(), line, what }.into()
        }
    })
}

/// Returns the directory beside a file that has the keys of its tunnels: `office` for
/// `office.toml`, as a service knockpipe@office has it, else `keys`.
fn keys_of(file: &Path, base: &Path) -> PathBuf {
    let own = file.file_stem().filter(|name| *name != "knockpipe").map(|name| base.join(name));
    own.filter(|own| own.is_dir()).unwrap_or_else(|| base.join("keys"))
}

/// Returns the reason why a source cannot be listened on: this or an earlier service has it
/// already.
fn excluded(plan: &[ServiceOptions], options: &ServiceOptions) -> Option<String> {
    if let Some(other) = plan.iter().find(|other| is_same_firewall(other, options)) {
        let place = options.as_firewall().map(|own| own.backend.place()).unwrap_or_default();
        let of = other.display_name();
        return Some(format!("it keeps {place}, and firewall {of} does already; change one"));
    }
    options.sources().iter().enumerate().find_map(|(place, source)| {
        let own = options.sources()[..place].iter().map(|earlier| (earlier, options));
        let others = plan.iter().flat_map(|other| other.sources().iter().map(move |s| (s, other)));
        let (earlier, of) = own.chain(others).find(|(earlier, _)| source.excludes(earlier))?;
        let of = format!("{} {}", of.kind().as_str(), of.display_name());
        Some(format!("it listens on {source}, and {of} on {earlier} already; change one"))
    })
}

/// Returns true if both change the same place of a firewall.
fn is_same_firewall(one: &ServiceOptions, other: &ServiceOptions) -> bool {
    let both = one.as_firewall().zip(other.as_firewall());
    both.is_some_and(|(one, other)| one.backend.is_same_place(&other.backend))
}

impl ServiceTable {
    /// Returns its options.
    ///
    /// # Errors
    /// [`Failure`] of its addresses, files or gate.
    fn options(&self, user: Option<Uid>) -> Result<ServiceOptions, Failure> {
        self.args.options(Some(Arc::clone(&self.name)), user)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
