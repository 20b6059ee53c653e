//! Finds the gate of a command: named by flags, in a configuration file, or the gate of a running
//! process.
//!
//! A process is asked for the flags that name its store, and never for a password: only users who
//! can read the password file may use the store. The flags are as trustworthy as that process and
//! must not open anything that its user could not: if that is another user, this command becomes
//! that user for good before it opens a file or the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use clap::{Args, Parser};
use nix::unistd::{Uid, geteuid};

use super::super::admin_cmd::ask_at;
use super::super::config::{self, Which};
use super::super::errors::one_line;
use super::super::store_args::{ENVIRONMENT, GATE, StoreArgs, of_environment};
use crate::admin::client::PeerReply;
use crate::admin::protocol::{GatePlace, Reply, Request};
use crate::files::place::user_name;
use crate::gate::store::StoreError;
use crate::gate::{GateOptions, Member, StoreOptions};
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::sys::peer::Peer;
use crate::sys::privileges::{User, uid_of};
use crate::sys::sandbox::forbid_dumps;

/// The flags of [`StoreArgs`], one by one, so that an error names the flag that was typed: for the
/// whole group it would name `--gate`.
const OWN: [&str; 9] = [
    "gate",
    "gate_credentials",
    "gate_ca",
    "gate_cert",
    "gate_key",
    "set",
    "history",
    "ban_prefix",
    "allow_prefix",
];

/// A gate, named by its own flags or in one of the two other ways, which exclude these.
#[derive(Debug, Args)]
pub(in crate::cli) struct SourceArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// The gate of this configuration file, with its store, keys, password file and rules
    #[arg(short, long, value_name = "FILE", conflicts_with_all = OWN, help_heading = GATE)]
    config: Option<PathBuf>,

    /// Its [gates.NAME]; not needed where the file has one gate
    #[arg(
        long, value_name = "NAME", conflicts_with_all = OWN,
        conflicts_with_all = ["admin", "tunnel"], help_heading = GATE
    )]
    gate_name: Option<String>,

    /// The gate of this tunnel, of the file or of the process
    #[arg(long, value_name = "NAME", conflicts_with_all = OWN, help_heading = GATE)]
    tunnel: Option<String>,

    /// The gate of a running process, asked at its --admin socket. It does not reveal passwords:
    /// this command reads its --gate-credentials file
    #[arg(
        long, value_name = "PATH", conflicts_with_all = OWN, conflicts_with = "config",
        help_heading = GATE
    )]
    admin: Option<PathBuf>,

    /// The user that the process of --admin runs as, unless it is root or you
    #[arg(
        id = "admin_user", long = "user", value_name = "USER", value_parser = uid_of,
        help_heading = GATE
    )]
    user: Option<Uid>,

    /// Accept a password file, or a --gate-key, that its group or others can read or change
    #[arg(long, help_heading = GATE)]
    allow_readable_key: bool,
}

/// A gate that was found.
#[derive(Debug)]
pub(in crate::cli) struct Source {
    /// Its store.
    pub(super) store: StoreOptions,
    /// The process that has it in its memory.
    pub(super) process: Option<MemoryGate>,
    /// All of it, where a file describes it.
    pub(super) options: Option<Arc<GateOptions>>,
    /// The networks that it always admits, and the load balancers, as far as they are known.
    pub(super) spared: Vec<(&'static str, Member)>,
}

/// The gate of a tunnel with its store in the memory of a running process.
#[derive(Debug)]
pub(super) struct MemoryGate {
    path: PathBuf,
    user: Option<Uid>,
    tunnel: String,
    /// The name of the store.
    pub(super) name: String,
}

impl MemoryGate {
    /// Asks something about the gate.
    ///
    /// # Errors
    /// [`Failure`] of the process.
    pub(super) fn ask(&self, request: impl FnOnce(String) -> Request) -> Result<Reply, Failure> {
        ask_at(&self.path, self.user, &request(self.tunnel.clone())).map(|told| told.reply)
    }
}

/// The admin socket of a running process.
pub(super) struct ProcessSocket<'a> {
    path: &'a Path,
    user: Option<Uid>,
    tunnel: Option<&'a str>,
}

/// The flags of a store, as a process reports them.
#[derive(Debug, Parser)]
#[command(name = "gate", no_binary_name = true, disable_help_flag = true)]
struct StoreLine {
    #[command(flatten)]
    store: StoreArgs,

    #[arg(long)]
    allow_readable_key: bool,
}

impl SourceArgs {
    /// Finds the gate.
    ///
    /// # Errors
    /// [`Failure`], also when no gate is named.
    pub(in crate::cli) fn find(&self) -> Result<Source, Failure> {
        let found = self.look()?;
        match found.store {
            StoreOptions::None => Err(no_gate()),
            _ => Ok(found),
        }
    }

    /// Finds the gate, if one with a store is named.
    ///
    /// # Errors
    /// [`Failure`]
    pub(in crate::cli) fn find_any(&self) -> Result<Option<Source>, Failure> {
        let found = self.look()?;
        Ok((!matches!(found.store, StoreOptions::None)).then_some(found))
    }

    /// Finds the gate, which may be one without a store.
    ///
    /// # Errors
    /// [`Failure`]
    pub(super) fn look(&self) -> Result<Source, Failure> {
        if let Some(file) = &self.config {
            return self.in_file(file);
        }
        if let Some(process) = self.process() {
            return process.source(self.allow_readable_key);
        }
        self.refuse_without_file()?;
        let access = Access { by_others: self.allow_readable_key, user: None };
        let store = self.store.options(access)?;
        Ok(Source { store, process: None, options: None, spared: vec![] })
    }

    /// Returns the process to ask, if one is named.
    pub(super) fn process(&self) -> Option<ProcessSocket<'_>> {
        let user = self.user;
        let tunnel = self.tunnel.as_deref();
        self.admin.as_deref().map(|path| ProcessSocket { path, user, tunnel })
    }

    /// Finds the gate of this tunnel of the process that is named.
    ///
    /// # Errors
    /// [`Failure`], also when the store is closed to this user.
    pub(super) fn of_tunnel(&self, tunnel: &str) -> Result<Source, Failure> {
        let process = self.process().ok_or_else(no_gate)?;
        ProcessSocket { tunnel: Some(tunnel), ..process }.source(self.allow_readable_key)
    }

    fn in_file(&self, file: &Path) -> Result<Source, Failure> {
        let which = match (&self.gate_name, &self.tunnel) {
            (Some(name), _) => Which::Gate(name),
            (None, Some(name)) => Which::Tunnel(name),
            (None, None) => Which::Only,
        };
        let found = config::gate(file, which, self.allow_readable_key)?;
        let allow = found.options.rules.allow.iter().map(|(net, ())| ("--allow", net.into()));
        let proxies = found.proxies.nets.iter().map(|(net, ())| ("--proxy-from", net.into()));
        let spared = allow.chain(proxies).collect();
        let store = found.options.store.clone();
        Ok(Source { store, process: None, options: Some(found.options), spared })
    }

    fn refuse_without_file(&self) -> Result<(), Failure> {
        let flags = [("--gate-name", &self.gate_name), ("--tunnel", &self.tunnel)];
        match flags.into_iter().find(|(_, given)| given.is_some()) {
            Some((flag, _)) => Err(Failure::Usage(anyhow!(
                "{flag} is about a configuration file or a process, and none is named; add -c FILE or --admin PATH"
            ))),
            None => Ok(()),
        }
    }
}

impl ProcessSocket<'_> {
    /// Asks something about the tunnel, or about all.
    ///
    /// # Errors
    /// [`Failure`] of the process.
    pub(super) fn ask(
        &self,
        request: impl FnOnce(Option<String>) -> Request,
    ) -> Result<Reply, Failure> {
        self.query(request).map(|told| told.reply)
    }

    fn query(&self, request: impl FnOnce(Option<String>) -> Request) -> Result<PeerReply, Failure> {
        ask_at(self.path, self.user, &request(self.tunnel.map(str::to_owned)))
    }

    /// Returns the gate that the process describes by its flags.
    fn source(&self, by_others: bool) -> Result<Source, Failure> {
        let PeerReply { reply, by } = self.query(|tunnel| Request::Gates { tunnel })?;
        let Reply::Gates(places) = reply else {
            return Err(super::super::admin_cmd::unexpected_reply());
        };
        let place = only(&places)?;
        if let Some(name) = &place.memory {
            return Ok(self.in_memory(place, name));
        }
        if place.store.is_empty() {
            return Err(Failure::Usage(anyhow!(
                "the gate of tunnel {} has no store, only rules, which its own flags say; change these, or see 'knockpipe gate why'",
                place.tunnel
            )));
        }
        let is_others = !by.uid.is_root() && by.uid != geteuid();
        if place.password_of_environment && (is_others || of_environment().is_none()) {
            let remedy = match is_others {
                true => "name the gate with -c FILE or --gate URL".to_owned(),
                false => format!("set {ENVIRONMENT} here too"),
            };
            return Err(Failure::Usage(anyhow!(
                "tunnel {} has the password of its store from the environment, which no process tells; {remedy}",
                place.tunnel
            )));
        }
        let line = StoreLine::try_parse_from(&place.store).map_err(|error| {
            let command = <StoreLine as clap::CommandFactory>::command();
            one_line(&error, &command, "knockpipe gate")
        })?;
        let access = Access { by_others: by_others || line.allow_readable_key, user: None };
        let store = if is_others {
            become_owner(by)?;
            line.store.options_of_others(access).map_err(|failure| without_right(failure, by))?
        } else {
            line.store.options(access)?
        };
        Ok(Source { store, process: None, options: None, spared: spared(place) })
    }

    /// Returns the gate that the process has in its memory, and only it.
    fn in_memory(&self, place: &GatePlace, name: &str) -> Source {
        let process = MemoryGate {
            path: self.path.to_owned(),
            user: self.user,
            tunnel: place.tunnel.clone(),
            name: name.to_owned(),
        };
        let store = StoreOptions::Memory(name.to_owned());
        Source { store, process: Some(process), options: None, spared: spared(place) }
    }
}

/// Returns the networks that a gate always admits, and its load balancers.
fn spared(place: &GatePlace) -> Vec<(&'static str, Member)> {
    let nets = |flag, nets: &[String]| -> Vec<(&'static str, Member)> {
        nets.iter().filter_map(|net| Some((flag, net.parse().ok()?))).collect()
    };
    let mut spared = nets("--allow", &place.allow);
    spared.extend(nets("--proxy-from", &place.proxy_from));
    spared
}

/// Gives up every privilege that the user of the queried process lacks.
fn become_owner(by: Peer) -> Result<(), Failure> {
    let name = user_name(by.uid);
    if !geteuid().is_root() {
        return Err(Failure::Usage(anyhow!(
            "the process runs as user {name}, and its files and store are closed to others; run this as root or as {name}, or name the gate with -c FILE"
        )));
    }
    let cannot = |cause: anyhow::Error| {
        Failure::Runtime(anyhow!(
            "cannot become {name}, the user of the process that names the store: {cause}; or name the gate with -c FILE"
        ))
    };
    let user = User::of(by.uid, by.gid).map_err(|error| cannot(error.into()))?;
    user.become_for_good().map_err(|error| cannot(error.into()))?;
    // The change of user may have reset it.
    forbid_dumps();
    Ok(())
}

/// Adds the user that could not read a file, and the way to read it as root.
fn without_right(failure: Failure, by: Peer) -> Failure {
    match failure {
        Failure::Usage(error) => Failure::Usage(anyhow!(
            "{error:#}, as user {}, the user of the process that names it; for files that only root can read give -c FILE instead of --admin",
            user_name(by.uid)
        )),
        other => other,
    }
}

/// Returns the one store of a process.
fn only(places: &[GatePlace]) -> Result<&GatePlace, Failure> {
    let has_store = |place: &&GatePlace| !place.store.is_empty() || place.memory.is_some();
    let stored: Vec<&GatePlace> = places.iter().filter(has_store).collect();
    let Some(first) = stored.first().copied().or_else(|| places.first()) else {
        return Err(Failure::Usage(StoreError::NoStore.into()));
    };
    let is_same = |place: &&GatePlace| place.store == first.store && place.memory == first.memory;
    if stored.iter().all(is_same) {
        return Ok(first);
    }
    let names: Vec<&str> = stored.iter().map(|place| place.tunnel.as_str()).collect();
    Err(Failure::Usage(anyhow!(
        "the tunnels of this process have several stores; choose with --tunnel one of: {}",
        names.join(", ")
    )))
}

/// Makes the error that no gate is named.
fn no_gate() -> Failure {
    Failure::Usage(anyhow!(
        "there is no store to ask; name it with --gate URL or KNOCKPIPE_GATE, or a configuration file with -c FILE (and --gate-name NAME), or a running process with --admin PATH"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_of_a_store_excludes_the_other_ways() {
        let of_store = StoreArgs::augment_args(clap::Command::new("gate"));
        let flags: Vec<&str> =
            of_store.get_arguments().map(|flag| flag.get_id().as_str()).collect();
        assert_eq!(flags, OWN);
    }
}
