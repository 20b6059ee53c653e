//! What is due while the process has a single thread: sockets are taken over
//! from systemd, keys are kept in memory, and the sandbox is entered.
//!
//! What the tunnel will need is worked out from its options here, because only
//! this floor knows both them and the system. What depends on an answer of the
//! network (where the master of the gate's Redis is) is not restricted.

use std::env;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tracing::{info, warn};

use crate::addr::{Address, BindAddress};
use crate::files::place::{FileId, Place};
use crate::gate::redis_store::RedisOptions;
use crate::gate::{GateOptions, StoreOptions};
use crate::keys::KeyRing;
use crate::net::{port_number, service_files};
use crate::sys::activation::Inherited;
use crate::sys::keyfile::is_stdin;
use crate::sys::library_files;
use crate::sys::memory;
use crate::sys::notify::Manager;
use crate::sys::pidfile::READABLE;
use crate::sys::sandbox::{self, Landlock, Open, Report, Rules, SharedDirectory};
use crate::tunnel::{Options, PipeOptions};

/// Name servers, for answers that are too long for UDP.
const DNS: u16 = 53;

/// Directories that hold files of many programs. A rule of the sandbox concerns all that
/// is below a directory, so in these it is made for less: see [`add_read`],
/// [`add_socket`] and [`add_pid_file`]. Homes of users are not among them, apart from
/// root's: a key there is often replaced by another file.
const SHARED: [&str; 27] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/dev/shm",
    "/etc",
    "/home",
    "/lib",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/run/lock",
    "/run/user",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// What was done before there were threads.
#[derive(Debug)]
pub struct Prepared {
    /// Sockets that systemd handed over.
    pub(super) inherited: Inherited,
    report: Report,
    rules: Option<Rules>,
    /// Removes what was made for a pid file that was not written.
    _place: Option<PidPlace>,
    keys: std::io::Result<()>,
}

impl Prepared {
    /// Prepares the process for `keys`, inside a sandbox with `rules`, or
    /// without landlock where there are none. Call it once, before any thread is
    /// started, the log's included.
    pub fn new<'a>(keys: impl Iterator<Item = &'a KeyRing>, rules: Option<Rules>) -> Self {
        let keys = memory::lock(keys);
        let inherited = Inherited::take_over();
        let report = sandbox::enter(rules.as_ref());
        if matches!(report.landlock, Landlock::Holds(_)) {
            service_files::confine();
        }
        Self { inherited, report, rules, _place: None, keys }
    }

    /// Keeps the place of the pid file for as long as the process runs.
    #[must_use]
    pub fn with_place(self, place: Option<PidPlace>) -> Self {
        Self { _place: place, ..self }
    }

    /// Whether files are within reach only where they were at the start.
    pub(super) fn is_confined(&self) -> bool {
        matches!(self.report.landlock, Landlock::Holds(_))
    }

    /// The line about it at the start of the log.
    pub(super) fn announce(&self) {
        let Report { landlock, no_new_privs, no_dumps, bounded } = &self.report;
        let lacks = landlock.lacks();
        let rules = self.rules.as_ref();
        let tcp = rules.filter(|_| landlock.restricts_tcp()).map(Rules::tcp);
        let confined = rules.filter(|_| self.is_confined());
        let (reads, writes) = (confined.map(Rules::reads), confined.map(Rules::writes));
        let key_memory = match &self.keys {
            Ok(()) => "locked".to_owned(),
            Err(error) => format!("not locked: {error}"),
        };
        info!(
            %landlock, lacks, reads, writes, tcp, no_new_privs, no_dumps,
            no_new_capabilities = bounded, key_memory, "sandbox"
        );
        for SharedDirectory { path, open } in confined.into_iter().flat_map(|it| &it.shared) {
            warn!(
                directory = %path.display(),
                detail = open.detail(),
                "the sandbox is wider than it need be: a directory of many programs is used"
            );
        }
    }
}

/// Keeps the keys of a new set of tunnels in memory as well. Where that is not
/// possible for some of them, one line tells it.
pub(super) fn keep(plan: &[Options]) {
    if let Err(error) = memory::lock(plan.iter().map(|options| &options.keys)) {
        let detail = "they may reach the swap space; raise ulimit -l (LimitMEMLOCK=) and restart";
        warn!(%error, detail, "keys are not locked in memory");
    }
}

/// Which TCP ports tunnels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Those that they have now.
    Fixed,
    /// Any: a reload may bring others.
    Any,
}

/// What the process around the tunnels goes on to need.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Its pid file.
    pub pid_file: Option<PathBuf>,
    /// Whether that file is written by the same user, and by no other process before.
    pub is_pid_file_ours: bool,
    /// Sockets that it makes.
    pub sockets: Vec<PathBuf>,
    /// Where it serves metrics.
    pub metrics: Option<Address>,
    /// What is read again when it reloads.
    pub files: Vec<PathBuf>,
}

/// What tunnels, and the process around them, go on to need.
pub fn rules_of_tunnels(plan: &[Options], around: &Around, ports: Ports) -> Rules {
    let mut rules = rules_of_dialer(None);
    plan.iter().for_each(|options| add_tunnel(&mut rules, options));
    around.sockets.iter().for_each(|path| add_socket(&mut rules, path));
    around.pid_file.iter().for_each(|path| add_pid_file(&mut rules, path, around.is_pid_file_ours));
    if let Some(metrics) = &around.metrics {
        add_source(&mut rules, metrics);
    }
    for file in around.files.iter().filter(|file| !is_stdin(file)) {
        // Where it is, and where it leads: both may be replaced.
        add_read(&mut rules, file);
        file.canonicalize().iter().for_each(|file| add_read(&mut rules, file));
    }
    if ports == Ports::Any {
        (rules.bind, rules.connect) = (None, None);
    }
    rules
}

fn add_tunnel(rules: &mut Rules, options: &Options) {
    if let Some(bind) = options.bind {
        add(&mut rules.bind, Some(bind.port));
    }
    for source in &options.sources {
        source.address().into_iter().for_each(|address| add_source(rules, address));
    }
    options.role.targets().into_iter().for_each(|target| add_target(rules, target));
    if let Some(gate) = &options.gate {
        add_gate(rules, gate);
    }
}

/// What a pipe with `options` goes on to need.
pub fn rules_of_pipe(options: &PipeOptions) -> Rules {
    let mut rules = rules_of_dialer(options.bind);
    add_target(&mut rules, &options.target);
    rules
}

fn rules_of_dialer(bind: Option<BindAddress>) -> Rules {
    let mut rules = Rules {
        bind: Some(bind.map(|bind| bind.port).into_iter().collect()),
        connect: Some(vec![DNS]),
        abstract_sockets: Manager::from_environment().is_abstract(),
        ..Rules::default()
    };
    let read = library_files::of_every_process(&service_files::NAME_FILES);
    read.iter().for_each(|path| add_followed(&mut rules, path));
    rules
}

/// Opens where a file leads that a library reads, as far as it is not open anyway.
fn add_followed(rules: &mut Rules, path: &Path) {
    for place in library_files::chain(path).into_iter().filter(|place| place.exists()) {
        let directory = if place.is_dir() { place.clone() } else { home(&place) };
        if sandbox::is_always_read(&directory) || is_open(rules, &place) {
            continue;
        }
        if place.is_dir() { add_tree(rules, place) } else { add_read(rules, &place) }
    }
}

/// Whether what is at `place` can be read already.
fn is_open(rules: &Rules, place: &Path) -> bool {
    let mut open = rules.read.iter().filter_map(|it| it.canonicalize().ok());
    place.canonicalize().is_ok_and(|real| open.any(|open| real.starts_with(open)))
}

/// What is listened on: a port, or a file that comes and goes.
fn add_source(rules: &mut Rules, source: &Address) {
    match source {
        Address::Unix(path) => add_socket(rules, path),
        Address::Tcp { .. } => add(&mut rules.bind, bound_port(source)),
    }
}

/// The port that is bound for a source; `None` when it can be any: several
/// addresses of one name share what the system picks for the first.
fn bound_port(address: &Address) -> Option<u16> {
    port(address).filter(|port| *port != 0 || address.is_literal())
}

fn add_target(rules: &mut Rules, target: &Address) {
    if let Address::Tcp { .. } = target {
        add(&mut rules.connect, port(target));
    }
}

/// `None` where the name of the port means nothing yet.
fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp { port, .. } => port_number(port).ok(),
        Address::Unix(_) => None,
    }
}

/// Adds a port, or lifts the restriction when it is not known.
fn add(ports: &mut Option<Vec<u16>>, port: Option<u16>) {
    match (ports.as_mut(), port) {
        (Some(ports), Some(port)) if !ports.contains(&port) => ports.push(port),
        (_, None) => *ports = None,
        _ => {}
    }
}

fn add_gate(rules: &mut Rules, gate: &GateOptions) {
    match &gate.store {
        StoreOptions::None => {}
        StoreOptions::File(path) => {
            // Now and then another file takes its place.
            let home = home(&path.canonicalize().unwrap_or_else(|_| path.clone()));
            if is_shared(&home) {
                caution(rules, &home, Open::Everything);
            }
            rules.write.push(home);
        }
        StoreOptions::Redis(redis) => add_redis(rules, redis),
    }
}

fn add_redis(rules: &mut Rules, redis: &RedisOptions) {
    // Edits go to the master, wherever that is or will be: a server may be a replica.
    rules.connect = None;
    if redis.address.tls {
        // Their directories: by the time they are read they may be other files.
        let files = redis.tls.iter().flat_map(|tls| tls.files.all());
        files.for_each(|file| add_read(rules, file));
        // The variables are those that OpenSSL has for the system's certificates.
        let files = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        files.iter().for_each(|file| add_read(rules, file));
        let directories = env::var_os("SSL_CERT_DIR");
        let directories = directories.iter().flat_map(env::split_paths);
        let directories: Vec<PathBuf> = directories.collect();
        let certificates = library_files::of_certificates(&directories);
        directories.into_iter().for_each(|directory| add_tree(rules, directory));
        certificates.iter().for_each(|path| add_followed(rules, path));
    }
}

/// Opens a directory with all that is in it, since nobody knows what will be read.
fn add_tree(rules: &mut Rules, directory: PathBuf) {
    if is_shared(&directory) {
        let is_open = is_etc(&directory);
        caution(rules, &directory, if is_open { Open::Reading } else { Open::Tree });
    }
    rules.read.push(directory);
}

/// Opens a file that is read again: its directory, since another file may take its place;
/// of a directory that many share the file alone, but all of /etc, which is open anyway.
fn add_read(rules: &mut Rules, file: &Path) {
    let home = home(file);
    if is_etc(&home) {
        caution(rules, &home, Open::Reading);
        rules.read.push(home);
    } else if is_shared(&home) {
        caution(rules, &home, Open::Files);
        rules.read.push(file.to_owned());
    } else {
        rules.read.push(home);
    }
}

/// Whether it is the directory that every process of ours may read.
fn is_etc(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| is_one_of(&["/etc"], FileId::from(&found)))
}

/// Opens the place of a socket, which is made and removed.
fn add_socket(rules: &mut Rules, path: &Path) {
    let home = home(path);
    if is_shared(&home) {
        caution(rules, &home, Open::Sockets);
        rules.sockets.push(home);
    } else {
        rules.write.push(home);
    }
}

/// Opens the place of the pid file; where that is shared, and there is a file already
/// ([`PidPlace`]), the file and its removal.
fn add_pid_file(rules: &mut Rules, path: &Path, is_ours: bool) {
    let home = home(path);
    let is_there = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    if is_shared(&home) && is_ours && is_there {
        caution(rules, &home, Open::PidFile);
        rules.write.push(path.to_owned());
        return rules.remove.push(home);
    }
    if is_shared(&home) {
        caution(rules, &home, Open::Everything);
    }
    rules.write.push(home);
}

fn caution(rules: &mut Rules, directory: &Path, open: Open) {
    let path = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let shared = SharedDirectory { path, open };
    if !rules.shared.contains(&shared) {
        rules.shared.push(shared);
    }
}

/// Whether a directory holds files of many programs.
fn is_shared(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| is_one_of(&SHARED, FileId::from(&found)))
}

/// Whether a directory is one of these, by whatever name: `/bin` may be a link, or
/// mounted a second time.
fn is_one_of(names: &[&str], directory: FileId) -> bool {
    names.iter().any(|it| fs::metadata(it).is_ok_and(|found| FileId::from(&found) == directory))
}

/// An empty file where the pid file will be, in a directory that many share: a rule can
/// name it, so that the directory stays closed. Dropping it removes a file that is
/// still empty.
#[derive(Debug)]
pub struct PidPlace {
    place: Place,
    /// Held open, or else another file could get its inode and pass for it.
    file: fs::File,
}

impl PidPlace {
    /// Makes the file, where the directory is shared and there is none. What keeps it
    /// from that is told when the pid file is written.
    pub fn take(path: &Path) -> Option<Self> {
        let place = Place::find(path).ok()?;
        if !is_one_of(&SHARED, FileId::from(&place.directory().ok()?)) {
            return None;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = place.open(flags, READABLE).ok()?;
        Some(Self { place, file })
    }
}

impl Drop for PidPlace {
    fn drop(&mut self) {
        if let Ok(made) = self.file.metadata()
            && made.len() == 0
        {
            let _ = self.place.remove(FileId::from(&made));
        }
    }
}

/// Where a file comes and goes: its directory, unless it is a device that stays.
fn home(path: &Path) -> PathBuf {
    let device = |kind: fs::FileType| kind.is_char_device() || kind.is_fifo();
    if fs::metadata(path).is_ok_and(|found| device(found.file_type())) {
        return path.to_owned();
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory.unwrap_or_else(|| Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_not_known_lifts_the_restriction() {
        let mut ports = Some(vec![]);
        add(&mut ports, port(&"127.0.0.1:7".parse().unwrap()));
        add(&mut ports, port(&"127.0.0.1:7".parse().unwrap()));
        assert_eq!(ports, Some(vec![7]));
        add(&mut ports, port(&"127.0.0.1:no-such-port".parse().unwrap()));
        add(&mut ports, Some(8));
        assert_eq!(ports, None);
        assert_eq!(bound_port(&"127.0.0.1:0".parse().unwrap()), Some(0));
        assert_eq!(bound_port(&"localhost:0".parse().unwrap()), None);
    }

    #[test]
    fn files_come_and_go_in_their_directory_and_devices_stay() {
        for (path, expected) in
            [("my.pid", "."), ("/run/a/b", "/run/a"), ("/dev/null", "/dev/null")]
        {
            assert_eq!(home(Path::new(path)), Path::new(expected));
        }
    }
}
