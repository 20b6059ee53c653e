//! One gate of a configuration file, for commands that look at it or change it.
//!
//! Only the settings of the gate have to be valid: the gates of a file can be used even if its
//! tunnels cannot run.

use std::path::Path;
use std::sync::Arc;

use super::flags::Flags;
use super::text::{Setting, Table, Tables, Value};
use super::{ConfigError, at, keys_of, understood};
use crate::cli::gate_args::{AcceptorGateArgs, GateArgs};
use crate::frontend::Balancers;
use crate::gate::GateOptions;
use crate::run::Failure;
use crate::sys::keyfile::Access;

/// The choice of a gate of the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Which<'a> {
    /// `[gates.NAME]`
    Gate(&'a str),
    /// That of `[tunnels.NAME]`.
    Tunnel(&'a str),
    /// The only one.
    Only,
}

/// A gate of the file.
#[derive(Debug)]
pub(in crate::cli) struct NamedGate {
    pub(in crate::cli) options: Arc<GateOptions>,
    /// The load balancers.
    pub(in crate::cli) proxies: Arc<Balancers>,
}

/// The parts of a gate, before its files are read.
struct Found {
    what: String,
    args: (GateArgs, AcceptorGateArgs),
    access: Access,
    /// The tunnel with its store in the memory of the running process.
    memory: Option<String>,
}

/// Finds a gate. `by_others` accepts a password file that others can read; the file may
/// say so, too.
///
/// # Errors
/// [`Failure`] of the file, or of the gate's own files.
pub(in crate::cli) fn gate(
    file: &Path,
    which: Which<'_>,
    by_others: bool,
) -> Result<NamedGate, Failure> {
    let found = understood(file, |base, text| find(&keys_of(file, base), base, text, which))?;
    let Found { what, args: (gate, acceptor), mut access, memory } = found;
    access.by_others |= by_others;
    let place = format!("{}: {what}", file.display());
    let options = gate.options(acceptor, access, memory);
    let options = options.map_err(|failure| at(place.clone(), failure))?;
    let options = options.ok_or_else(|| {
        Failure::Usage(anyhow::anyhow!(
            "{place} has no gate; add gate = \"URL\", or choose another"
        ))
    })?;
    Ok(NamedGate { options, proxies: gate.proxies() })
}

fn find(keys: &Path, base: &Path, text: &str, which: Which<'_>) -> Result<Found, ConfigError> {
    let tables = Tables::parse(text, keys)?;
    let flags = Flags::new();
    let (process, _) = flags.process(&tables.process, base)?;
    let access = Access { by_others: accepts_others(&tables), user: process.uid() };
    let (what, settings) = match which {
        Which::Gate(name) => of_gate(named(&tables.gates, name, "gates")?),
        Which::Tunnel(name) => {
            let table = named(&tables.services, name, "tunnels")?;
            (table.title(), flags.settings(table, &tables)?)
        }
        Which::Only => only(&flags, &tables)?,
    };
    let memory = is_in_memory(&settings).then(|| what.clone());
    Ok(Found { what, args: flags.gate(&settings, base)?, access, memory })
}

fn of_gate(table: &Table) -> (String, Vec<Setting>) {
    (format!("gate {}", table.name), table.settings.clone())
}

/// Returns the one gate of the file: its only `[gates.NAME]`, or that of its tunnels.
fn only(flags: &Flags, tables: &Tables) -> Result<(String, Vec<Setting>), ConfigError> {
    if let [one] = &tables.gates[..] {
        return Ok(of_gate(one));
    }
    if !tables.gates.is_empty() {
        let names = names(&tables.gates);
        let what = format!("there are several gates; add --gate-name with one of: {names}");
        return Err(ConfigError::new(1, what));
    }
    let mut found: Vec<(&Table, Vec<Setting>)> = vec![];
    for table in &tables.services {
        let settings = flags.settings(table, tables)?;
        let says = |key| settings.iter().any(|setting: &Setting| setting.key == key);
        if says("gate") || says("allow") || says("deny") || is_in_memory(&settings) {
            found.push((table, settings));
        }
    }
    match &found[..] {
        [] => Err(ConfigError::new(
            1,
            "there is no gate; add a table [gates.NAME], or name another file",
        )),
        [(table, settings)] => Ok((table.title(), settings.clone())),
        several => {
            let names: Vec<&str> = several.iter().map(|(table, _)| table.name.as_str()).collect();
            let names = names.join(", ");
            let what = format!("several tunnels have a gate; add --tunnel with one of: {names}");
            Err(ConfigError::new(1, what))
        }
    }
}

/// Returns whether the store is memory: of a tunnel that takes knocks and names no store.
fn is_in_memory(settings: &[Setting]) -> bool {
    let none = [Value::Switch(false), Value::Words(vec![])];
    let takes_knocks = |setting: &Setting| setting.key == "knock" && !none.contains(&setting.value);
    settings.iter().any(takes_knocks) && !settings.iter().any(|setting| setting.key == "gate")
}

fn named<'t>(tables: &'t [Table], name: &str, kind: &str) -> Result<&'t Table, ConfigError> {
    tables.iter().find(|table| table.name == name).ok_or_else(|| {
        let remedy = match names(tables) {
            none if none.is_empty() => "there is none at all, name another file".to_owned(),
            names => format!("choose one of: {names}"),
        };
        ConfigError::new(1, format!("there is no table [{kind}.{name}]; {remedy}"))
    })
}

fn names(tables: &[Table]) -> String {
    tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns whether the file accepts secrets that others can read, anywhere.
fn accepts_others(tables: &Tables) -> bool {
    let of_services = tables.services.iter().flat_map(|table| &table.settings);
    tables.defaults.iter().chain(of_services).any(Setting::accepts_others)
}
