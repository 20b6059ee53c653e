//! Restricts the process once it has read its keys, in case an attacker gains control of it.
//!
//! [`enter`] is called while the process has a single thread: before the log's thread and before
//! the runtime's. Landlock restricts the calling thread and those that it starts (restricting all
//! at once takes ABI 8), `no_new_privs` and the capability bounding set apply to a thread as well,
//! so that later some thread would not be restricted. Binding and becoming `-u USER` come
//! afterwards, inside: the rules name the ports and directories they need, as a reload will need
//! them too.
//!
//! Nothing here fails the start. The [`Report`] says what a kernel cannot restrict, and the process
//! runs with the rest. There is no filter of system calls: those of the C library, the allocator
//! and the runtime change with every update.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Newest version of the rules that was tested; a newer kernel is asked for no more.
const TESTED: ABI = ABI::V7;

/// The files that every process reads: of name service and certificates, where links in /etc
/// usually lead (`library_files` follows those that lead elsewhere); libraries that name service
/// loads; time zones (syslog); the number of processors. Missing files are skipped.
const ALWAYS_READ: [&str; 19] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/userdb",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
    "/var/lib/sss",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/proc/self",
];

/// Often a link to a file that name service writes, perhaps only after our start.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Directories of the system's loader and libraries, which the start of a program executes.
const LOADERS: [&str; 6] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/gnu/store"];

/// Devices that any code may use.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// Files and ports that the process will need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Files, and directories with everything in them, to read.
    pub read: Vec<PathBuf>,
    /// The same to read and change: to make and remove files and sockets.
    pub write: Vec<PathBuf>,
    /// Directories only for making sockets and removing files: those that many programs share.
    pub sockets: Vec<PathBuf>,
    /// Directories only for removing files.
    pub remove: Vec<PathBuf>,
    /// Directories among these that many programs share, for the log.
    pub shared: Vec<SharedDirectory>,
    /// TCP ports to listen on or to connect from; `None` is any. Port 0 lets the
    /// system choose.
    pub bind: Option<Vec<u16>>,
    /// TCP ports to connect to; `None` is any.
    pub connect: Option<Vec<u16>>,
    /// True if it connects to sockets in the abstract namespace.
    pub abstract_sockets: bool,
    /// Programs that it starts, which are restricted as it is.
    pub programs: Vec<PathBuf>,
}

/// A directory that many programs share, and the part of it that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDirectory {
    /// Its path.
    pub path: PathBuf,
    /// The part of it that is open.
    pub open: Open,
}

/// The part of a shared directory that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Existing single files, to read.
    Files,
    /// All of it, to read.
    Reading,
    /// The same for a directory that is named as a whole.
    Tree,
    /// Sockets are made, and anything is removed.
    Sockets,
    /// One file is written, and anything is removed.
    PidFile,
    /// All of it, to read and change.
    Everything,
}

/// Restrictions that hold from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Restrictions of landlock.
    pub landlock: Landlock,
    /// No program can give the process more rights than it has.
    pub no_new_privs: bool,
    /// No debugger of the same user, no core dump, and /proc shows its memory to root only.
    pub no_dumps: bool,
    /// Capabilities that it lacks cannot be regained.
    pub bounded: bool,
}

/// Reach of landlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// It was not requested.
    Off,
    /// The kernel has none, or not for this process.
    Absent(String),
    /// Version of its rules in force.
    Holds(u32),
}

/// Returns true if every process may read what is in `directory`.
pub fn is_always_read(directory: &Path) -> bool {
    let mut always = ALWAYS_READ.iter().filter_map(|it| Path::new(it).canonicalize().ok());
    directory.canonicalize().is_ok_and(|it| always.any(|always| it.starts_with(always)))
}

/// Restricts the process for good. To be called while it has a single thread. `None` leaves
/// landlock out. The right to administer the network stays, for the programs that it starts, if
/// `keeps_net_admin`.
pub fn enter(rules: Option<&Rules>, keeps_net_admin: bool) -> Report {
    let no_new_privs = prctl::set_no_new_privs().is_ok();
    let no_core = setrlimit(Resource::RLIMIT_CORE, 0, 0).is_ok();
    let no_dumps = forbid_dumps() && no_core;
    // Dropping the bounding set needs a capability, so only a process with one has to.
    let bounded = bound(keeps_net_admin).is_ok()
        || caps::read(None, CapSet::Permitted).is_ok_and(|own| own.is_empty());
    let landlock = match rules.map(|rules| rules.restrict()) {
        None => Landlock::Off,
        Some(Err(error)) => Landlock::Absent(error.to_string()),
        Some(Ok(status)) => held(&status),
    };
    Report { landlock, no_new_privs, no_dumps, bounded }
}

/// Empties the capability bounding set, as far as it may be.
fn bound(keeps_net_admin: bool) -> Result<(), CapsError> {
    if !keeps_net_admin {
        return caps::clear(None, CapSet::Bounding);
    }
    let others = caps::all().into_iter().filter(|one| *one != Capability::CAP_NET_ADMIN);
    for other in others {
        if caps::has_cap(None, CapSet::Bounding, other)? {
            caps::drop(None, CapSet::Bounding, other)?;
        }
    }
    Ok(())
}

/// Forbids dumping and tracing the process. A change of user may allow it again, so this must be
/// repeated afterwards. Returns true on success.
pub fn forbid_dumps() -> bool {
    prctl::set_dumpable(false).is_ok()
}

impl Rules {
    /// Restricts this thread by landlock.
    ///
    /// # Errors
    /// The kernel's; rules that it does not know are left out without an error.
    fn restrict(&self) -> Result<RestrictionStatus, RulesetError> {
        let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(TESTED))?;
        if self.bind.is_some() {
            ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
        }
        if self.connect.is_some() {
            ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
        }
        ruleset = ruleset.scope(Scope::Signal)?;
        if !self.abstract_sockets {
            ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
        }
        // Reading includes executing, which only the start of a named program does.
        let read = AccessFs::from_read(TESTED) & !AccessFs::Execute;
        let execute = AccessFs::ReadFile | AccessFs::Execute;
        let loaders = LOADERS.iter().filter(|_| !self.programs.is_empty());
        ruleset
            .create()?
            .add_rules(path_beneath_rules(ALWAYS_READ, read))?
            .add_rules(path_beneath_rules(where_it_leads(RESOLV_CONF.as_ref()), read))?
            .add_rules(path_beneath_rules(&self.read, read))?
            .add_rules(path_beneath_rules(&self.programs, execute))?
            .add_rules(path_beneath_rules(loaders, read | AccessFs::Execute))?
            .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?
            .add_rules(self.write.iter().filter_map(|path| writable(path, read)))?
            .add_rules(path_beneath_rules(
                &self.sockets,
                AccessFs::MakeSock | AccessFs::RemoveFile,
            ))?
            .add_rules(path_beneath_rules(&self.remove, AccessFs::RemoveFile))?
            .add_rules(ports(self.bind.as_deref(), AccessNet::BindTcp))?
            .add_rules(ports(self.connect.as_deref(), AccessNet::ConnectTcp))?
            .restrict_self()
    }

    /// Lists the files and directories that are open for reading only, besides those of every
    /// process, for the log.
    pub fn reads(&self) -> String {
        let written: BTreeSet<String> = self.write.iter().map(|path| shown(path)).collect();
        let read: BTreeSet<String> = self.read.iter().map(|path| shown(path)).collect();
        listed(read.difference(&written).cloned())
    }

    /// Lists those that are open for changes, each with its widest right: making sockets includes
    /// removing files, and changing everything includes both.
    pub fn writes(&self) -> String {
        let kinds =
            [(&self.remove, " (removal)"), (&self.sockets, " (sockets)"), (&self.write, "")];
        let mut written = BTreeMap::new();
        for (paths, kind) in kinds {
            written.extend(paths.iter().map(|path| (shown(path), kind)));
        }
        listed(written.into_iter().map(|(path, kind)| path + kind))
    }

    /// Describes what this lets the process do on the network, for the log.
    pub fn tcp(&self) -> String {
        let list = |ports: &Option<Vec<u16>>| match ports {
            None => "any".to_owned(),
            Some(ports) if ports.is_empty() => "none".to_owned(),
            Some(ports) => ports.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
        };
        format!("bind {} connect {}", list(&self.bind), list(&self.connect))
    }
}

/// Shows the real path.
fn shown(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Joins paths; `none` for an empty list.
fn listed(paths: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = paths.collect();
    if all.is_empty() { "none".to_owned() } else { all.join(",") }
}

impl Open {
    /// Describes the risk and the remedy.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Files => {
                "only the files that were there at the start are open: one that is put in the place of \
                 another there needs a restart; a directory of their own needs none"
            }
            Self::Reading => {
                "all of it can be read, as by every knockpipe; give such files a directory of their own"
            }
            Self::Tree => {
                "all that is in it can be read: SSL_CERT_DIR names it; give the certificates a directory \
                 of their own"
            }
            Self::Sockets => {
                "sockets can be made and files removed in all of it; give sockets a directory of their own"
            }
            Self::PidFile => {
                "files can be removed in all of it; give the pid file a directory of its own"
            }
            Self::Everything => {
                "all that is in it can be read and changed; give such files a directory of their own"
            }
        }
    }
}

/// Makes the rule for a path below which files and sockets are made and removed.
fn writable(
    path: &Path,
    read: BitFlags<AccessFs>,
) -> Option<Result<PathBeneath<PathFd>, RulesetError>> {
    let change = AccessFs::WriteFile | AccessFs::Truncate;
    let come_and_go = AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile;
    let access =
        if path.is_dir() { read | change | come_and_go } else { change | AccessFs::ReadFile };
    // A missing file cannot be opened later either, and the error says so then.
    Some(Ok(PathBeneath::new(PathFd::new(path).ok()?, access)))
}

/// Returns the directory that a link leads to, or the nearest existing one above it; `None` if it
/// is no link.
fn where_it_leads(link: &Path) -> Option<PathBuf> {
    let target = link.parent()?.join(fs::read_link(link).ok()?);
    target.ancestors().skip(1).find(|directory| directory.is_dir()).map(Path::to_owned)
}

fn ports(
    ports: Option<&[u16]>,
    access: AccessNet,
) -> impl Iterator<Item = Result<NetPort, RulesetError>> {
    ports.unwrap_or_default().iter().map(move |port| Ok(NetPort::new(*port, access)))
}

fn held(status: &RestrictionStatus) -> Landlock {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => {
            Landlock::Holds((effective_abi as u32).min(TESTED as u32))
        }
        LandlockStatus::NotEnabled => Landlock::Absent("switched off in this kernel".to_owned()),
        LandlockStatus::NotImplemented => Landlock::Absent("not in this kernel".to_owned()),
    }
}

impl Landlock {
    /// Returns true if rules for TCP ports hold.
    pub fn restricts_tcp(&self) -> bool {
        matches!(self, Self::Holds(4..))
    }

    /// Lists what this kernel cannot forbid, for the log; `None` when it can forbid everything that
    /// is requested.
    pub fn lacks(&self) -> Option<String> {
        let Self::Holds(abi) = self else { return None };
        let since = [(3, "truncation"), (4, "TCP ports"), (5, "devices"), (6, "signals")];
        let lacking: Vec<_> =
            since.iter().filter(|(since, _)| since > abi).map(|(_, what)| *what).collect();
        (!lacking.is_empty()).then(|| lacking.join(", "))
    }
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Absent(why) => write!(f, "none: {why}"),
            Self::Holds(abi) => write!(f, "version {abi}"),
        }
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
