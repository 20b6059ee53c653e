//! Checks keys and gates of a file that no tunnel uses: their errors are found when the file is
//! read, not only when a tunnel first names them.

use std::path::{Path, PathBuf};
use std::slice;

use nix::unistd::Uid;

use super::flags::Flags;
use super::text::{Setting, Tables, Value};
use super::{ConfigError, ServiceTable};
use crate::cli::gate_args::{AcceptorGateArgs, GateArgs};
use crate::cli::key_cmd;
use crate::run::Failure;
use crate::sys::keyfile::Access;

/// A key or a gate that no tunnel uses.
#[derive(Debug)]
pub(super) struct Unused {
    /// As in "key 'old'".
    pub(super) what: String,
    /// Its line, from 1.
    pub(super) line: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Key { file: PathBuf, by_others: bool },
    Gate { gate: Box<GateArgs>, acceptor: AcceptorGateArgs, by_others: bool },
    Part,
}

/// Finds the unused keys and gates of a file.
///
/// # Errors
/// The first [`ConfigError`].
pub(super) fn find(
    tables: &Tables,
    services: &[ServiceTable],
    flags: &Flags,
    base: &Path,
) -> Result<Vec<Unused>, ConfigError> {
    let used: Vec<PathBuf> = services.iter().flat_map(|service| service.args.files()).collect();
    let by_others = tables.defaults.iter().any(Setting::accepts_others);
    let mut unused = vec![];
    for Setting { key, value, line } in &tables.keys {
        let Value::Words(files) = value else { continue };
        for file in files.iter().map(|file| base.join(file)).filter(|file| !used.contains(file)) {
            let kind = Kind::Key { file, by_others };
            unused.push(Unused { what: format!("key '{key}'"), line: *line, kind });
        }
    }
    for table in &tables.gates {
        let names = |setting: &Setting| {
            setting.key == "gate" && setting.value == Value::Words(vec![table.name.clone()])
        };
        let of_services = tables.services.iter().flat_map(|service| &service.settings);
        if of_services.chain(&tables.defaults).any(names) {
            continue;
        }
        let (gate, acceptor) = flags.gate(&table.settings, base)?;
        // One without a store is completed by the tunnel that names it.
        let is_whole = table.settings.iter().any(|setting| setting.key == "gate");
        let gate = Box::new(gate);
        let kind = if is_whole { Kind::Gate { gate, acceptor, by_others } } else { Kind::Part };
        unused.push(Unused { what: format!("gate '{}'", table.name), line: table.line, kind });
    }
    Ok(unused)
}

impl Unused {
    /// Returns the files that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match &self.kind {
            Kind::Key { file, .. } => vec![file.clone()],
            Kind::Gate { gate, .. } => gate.files().cloned().collect(),
            Kind::Part => vec![],
        }
    }

    /// Reads the files that it names, as for a tunnel.
    ///
    /// # Errors
    /// [`Failure`] of the key or the gate.
    pub(super) fn check(&self, user: Option<Uid>) -> Result<(), Failure> {
        match &self.kind {
            Kind::Key { file, by_others } => {
                let access = Access { by_others: *by_others, user };
                key_cmd::ring(slice::from_ref(file), access).map(drop)
            }
            Kind::Gate { gate, acceptor, by_others } => {
                gate.options(*acceptor, Access { by_others: *by_others, user }, None).map(drop)
            }
            Kind::Part => Ok(()),
        }
    }
}
