//! The configuration file: many tunnels, with the flags of the command line as keys.
//!
//! ```text
//!   text    TOML                        -> settings, each with its line
//!   flags   the settings of a tunnel    -> the arguments of encrypt or decrypt
//!   (clap)  arguments                   -> EncryptArgs, DecryptArgs -> Options
//! ```
//!
//! A key is the long name of a flag, and its value means what it means there, so
//! that a new flag is a new key and nothing is checked in two places. Paths are
//! taken from the directory of the file, not from where the process was started.

mod flags;
mod show;
mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::process_args::ProcessArgs;
use super::tunnel_args::{DecryptArgs, EncryptArgs};
use crate::run::Failure;
use crate::tunnel::Options;
use flags::{Line, Settings};
use text::Tables;

pub(super) use show::show;

/// A file that was read and understood. Keys and other files that it names are
/// read by [`Config::plan`].
#[derive(Debug)]
pub(super) struct Config {
    file: PathBuf,
    pub(super) process: ProcessArgs,
    /// All its values, for [`show`].
    process_values: clap::ArgMatches,
    pub(super) tunnels: Vec<Tunnel>,
}

/// A tunnel of the file.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) name: Arc<str>,
    /// Where its table begins, from 1.
    line: usize,
    pub(super) args: Args,
    /// All its values, for [`show`].
    values: clap::ArgMatches,
}

/// What the table of a tunnel says.
#[derive(Debug)]
pub(super) enum Args {
    Encrypt(Box<EncryptArgs>),
    Decrypt(Box<DecryptArgs>),
}

/// What is wrong with the file, and where.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {file}: {cause}; check its path and who may read it", file = .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{file}:{line}: {what}", file = .file.display())]
    Wrong {
        /// Which.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Cause and remedy.
        what: String,
    },
}

/// What is wrong, and in which line.
#[derive(Debug)]
struct Mistake {
    line: usize,
    what: String,
}

impl Mistake {
    /// In no line of its own.
    const WHOLE_TABLE: usize = 0;

    /// The same, where it is about the whole of a tunnel's table.
    fn of(self, table: &text::Table) -> Self {
        match self.line {
            Self::WHOLE_TABLE => {
                Self { line: table.line, what: format!("tunnel {} {}", table.name, self.what) }
            }
            _ => self,
        }
    }

    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.into())
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the line of the first mistake.
    pub(super) fn load(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file)
            .map_err(|cause| ConfigError::Unreadable { file: file.to_owned(), cause })?;
        let parsed = Self::parse(file, &text);
        parsed.map_err(|Mistake { line, what }| {
            ConfigError::Wrong { file: file.to_owned(), line, what }.into()
        })
    }

    fn parse(file: &Path, text: &str) -> Result<Self, Mistake> {
        let tables = Tables::parse(text)?;
        let base = file.parent().unwrap_or_else(|| Path::new(""));
        let line = Line::of(&flags::process_command(), &tables.process, base)?;
        let (process, process_values) = line.process()?;
        flags::check(&tables, base)?;
        let mut tunnels = Vec::with_capacity(tables.tunnels.len());
        for table in &tables.tunnels {
            let settings = Settings::merged(table, &tables)?;
            let line = Line::of(settings.command(), settings.all(), base);
            tunnels.push(line.map_err(|mistake| mistake.of(table))?.tunnel(table)?);
        }
        if tunnels.is_empty() {
            return Err(Mistake::new(1, "there is no tunnel; add a table [tunnels.NAME]"));
        }
        Ok(Self { file: file.to_owned(), process, process_values, tunnels })
    }

    /// Every file that is read again on a reload, itself first.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let named = self.tunnels.iter().flat_map(|tunnel| match &tunnel.args {
            Args::Encrypt(args) => args.files(),
            Args::Decrypt(args) => args.files(),
        });
        [self.file.clone()].into_iter().chain(named).collect()
    }

    /// What the tunnels are told; the keys are read.
    ///
    /// # Errors
    /// [`Failure`] of the first tunnel that cannot be.
    pub(super) fn plan(&self) -> Result<Vec<Options>, Failure> {
        let mut plan: Vec<Options> = Vec::with_capacity(self.tunnels.len());
        for tunnel in &self.tunnels {
            let options = tunnel.options().map_err(|failure| self.in_tunnel(tunnel, failure))?;
            for other in &plan {
                let mut fixed = options.sources.iter().filter(|source| !source.is_any_port());
                let both = fixed.find(|source| other.sources.contains(source));
                if let (Some(source), Some(name)) = (both, &other.name) {
                    let what = format!("it listens on {source}, as tunnel {name} does; change one");
                    return Err(self.in_tunnel(tunnel, Failure::Usage(anyhow::anyhow!(what))));
                }
            }
            plan.push(options);
        }
        Ok(plan)
    }

    fn in_tunnel(&self, tunnel: &Tunnel, failure: Failure) -> Failure {
        let place = format!("{}:{}: tunnel {}", self.file.display(), tunnel.line, tunnel.name);
        match failure {
            Failure::Usage(error) => Failure::Usage(error.context(place)),
            Failure::Runtime(error) => Failure::Runtime(error.context(place)),
        }
    }
}

impl Tunnel {
    /// What it is told.
    ///
    /// # Errors
    /// [`Failure`] of its addresses, keys or gate.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let name = Some(Arc::clone(&self.name));
        match &self.args {
            Args::Encrypt(args) => args.options(name),
            Args::Decrypt(args) => args.options(name),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
