//! The configuration file: many tunnels, with the flags of the command line as keys.
//!
//! ```text
//!   text    TOML                        -> settings, each with its line
//!   flags   the settings of a tunnel    -> the arguments of encrypt or decrypt
//!   (clap)  arguments                   -> TunnelArgs -> Options
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

use nix::unistd::Uid;

use super::loops;
use super::process_args::ProcessArgs;
use super::tunnel_args::TunnelArgs;
use crate::files::read::{ReadError, read};
use crate::run::Failure;
use crate::tunnel::Options;
use flags::Flags;
use text::Tables;

pub(super) use show::show;

/// The most bytes of a configuration file: 1 MiB.
const LONGEST: usize = 1 << 20;

/// A file that was read and understood. Keys and other files that it names are
/// read by [`Config::plan`].
#[derive(Debug)]
pub(super) struct Config {
    file: PathBuf,
    /// What its keys may be, for [`show`].
    flags: Flags,
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
    pub(super) args: TunnelArgs,
    /// All its values, for [`show`].
    values: clap::ArgMatches,
}

/// What is wrong with the file, and where.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {file}: {cause}; check its path and who may read it, and that it is a regular file", file = .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        cause: ReadError,
    },
    /// It is no UTF-8.
    #[error("{file} is no UTF-8 text; give a configuration file", file = .0.display())]
    NoText(PathBuf),
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

/// What is wrong, and in which line; in none of its own where the whole of a
/// table is meant.
#[derive(Debug)]
struct Mistake {
    line: Option<usize>,
    what: String,
}

impl Mistake {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line: Some(line), what: what.into() }
    }

    /// What a table lacks.
    fn of_table(what: String) -> Self {
        Self { line: None, what }
    }

    /// The same, where it is about the whole of this tunnel's table.
    fn of(self, table: &text::Table) -> Self {
        match self.line {
            None => Self::new(table.line, format!("tunnel {} {}", table.name, self.what)),
            Some(_) => self,
        }
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
        let unreadable = |cause| ConfigError::Unreadable { file: file.to_owned(), cause };
        let bytes = read(file, LONGEST).map_err(unreadable)?;
        let text = str::from_utf8(&bytes).map_err(|_| ConfigError::NoText(file.to_owned()))?;
        // So that what `show` makes of paths is right beside any other file.
        let whole = std::path::absolute(file).map_err(|error| unreadable(error.into()))?;
        let parsed = Self::parse(file, whole.parent().unwrap_or(&whole), text);
        parsed.map_err(|Mistake { line, what }| {
            let line = line.unwrap_or(1);
            ConfigError::Wrong { file: file.to_owned(), line, what }.into()
        })
    }

    fn parse(file: &Path, base: &Path, text: &str) -> Result<Self, Mistake> {
        let tables = Tables::parse(text)?;
        let flags = Flags::new();
        let (process, process_values) = flags.process(&tables.process, base)?;
        flags.check(&tables, base)?;
        let tunnels = tables.tunnels.iter().map(|table| flags.tunnel(table, &tables, base));
        let tunnels = tunnels.collect::<Result<Vec<_>, _>>()?;
        if tunnels.is_empty() {
            return Err(Mistake::new(1, "there is no tunnel; add a table [tunnels.NAME]"));
        }
        Ok(Self { file: file.to_owned(), flags, process, process_values, tunnels })
    }

    /// Every file that is read again on a reload, itself first.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let named = self.tunnels.iter().flat_map(|tunnel| tunnel.args.files());
        [self.file.clone()].into_iter().chain(named).collect()
    }

    /// What the tunnels are told; the keys are read.
    ///
    /// # Errors
    /// [`Failure`] of the first tunnel that cannot be.
    pub(super) fn plan(&self) -> Result<Vec<Options>, Failure> {
        let mut plan: Vec<Options> = Vec::with_capacity(self.tunnels.len());
        for tunnel in &self.tunnels {
            let options = tunnel
                .options(self.process.uid())
                .map_err(|failure| self.in_tunnel(tunnel, failure))?;
            if let Some(both) = excluded(&plan, &options) {
                return Err(self.in_tunnel(tunnel, Failure::Usage(anyhow::anyhow!(both))));
            }
            plan.push(options);
        }
        loops::refuse(&plan)?;
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

/// What cannot be listened on, because this or an earlier tunnel does already.
fn excluded(plan: &[Options], options: &Options) -> Option<String> {
    options.sources.iter().enumerate().find_map(|(place, source)| {
        let own = options.sources[..place].iter().map(|earlier| (earlier, options));
        let others = plan.iter().flat_map(|other| other.sources.iter().map(move |s| (s, other)));
        let (earlier, of) = own.chain(others).find(|(earlier, _)| source.excludes(earlier))?;
        let name = of.name.as_deref().unwrap_or_default();
        Some(format!("it listens on {source}, and tunnel {name} on {earlier} already; change one"))
    })
}

impl Tunnel {
    /// What it is told.
    ///
    /// # Errors
    /// [`Failure`] of its addresses, keys or gate.
    fn options(&self, user: Option<Uid>) -> Result<Options, Failure> {
        self.args.options(Some(Arc::clone(&self.name)), user)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
