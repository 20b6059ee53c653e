//! Rules of the sandbox: the files and ports that the services of the process, and the process
//! around them, will need.
//!
//! They are made here, because only this floor knows both the options of services and the system.
//! Whatever depends on the network (the address of the master of the gate's Redis) is not
//! restricted.

use std::env;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{KnockAt, KnockingOptions};
use crate::addr::{Address, BindAddress, Source};
use crate::files::place::FileId;
use crate::gate::redis_store::RedisOptions;
use crate::gate::{GateOptions, StoreOptions};
use crate::net::{port_number, service_files};
use crate::service::ServiceOptions;
use crate::sys::keyfile::is_stdin;
use crate::sys::library_files;
use crate::sys::notify::Manager;
use crate::sys::pidfile::name_of_owner;
use crate::sys::sandbox::{self, Open, Rules, SharedDirectory};
use crate::tunnel::{self, PipeOptions};
use crate::web::WebOptions;

/// Name servers, for answers that are too long for UDP.
const DNS: u16 = 53;

/// Directories that hold files of many programs. A rule of the sandbox applies to everything below
/// a directory, so for these the rules are narrower: see [`add_read`], [`add_socket`] and
/// [`add_pid_file`]. Homes of users are not among them, apart from root's: a key there is often
/// replaced by another file.
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

/// TCP ports that services may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Those that they have now.
    Fixed,
    /// Any: a reload may bring others.
    Any,
}

/// Files and sockets of the process around the services.
#[derive(Clone, Debug, Default)]
pub struct ProcessPaths {
    /// Its pid file.
    pub pid_file: Option<PathBuf>,
    /// True if that file is written by the same user, and by no other process before.
    pub is_pid_file_ours: bool,
    /// Sockets that it makes.
    pub sockets: Vec<PathBuf>,
    /// Address of its metrics.
    pub metrics: Option<Address>,
    /// Files that are read again when it reloads.
    pub files: Vec<PathBuf>,
}

/// Lists the needs of services and of the process around them.
pub fn rules_of_services(plan: &[ServiceOptions], process: &ProcessPaths, ports: Ports) -> Rules {
    let mut rules = rules_of_dialer(None);
    plan.iter().for_each(|options| add_service(&mut rules, options));
    process.sockets.iter().for_each(|path| add_socket(&mut rules, path));
    process
        .pid_file
        .iter()
        .for_each(|path| add_pid_file(&mut rules, path, process.is_pid_file_ours));
    if let Some(metrics) = &process.metrics {
        add_source(&mut rules, metrics);
    }
    for file in process.files.iter().filter(|file| !is_stdin(file)) {
        // The link and its target: both may be replaced.
        add_read(&mut rules, file);
        file.canonicalize().iter().for_each(|file| add_read(&mut rules, file));
    }
    if ports == Ports::Any {
        (rules.bind, rules.connect) = (None, None);
    }
    rules
}

fn add_service(rules: &mut Rules, options: &ServiceOptions) {
    match options {
        ServiceOptions::Tunnel(options) => add_tunnel(rules, options),
        ServiceOptions::Knockd(options) => {
            add_web(rules, &options.web);
            add_gate(rules, &options.gate);
        }
        ServiceOptions::Http(options) => {
            add_web(rules, &options.web);
            add_gate(rules, &options.gate);
            if let Some(bind) = options.bind {
                add(&mut rules.bind, Some(bind.port));
            }
            options.targets.iter().for_each(|target| add_target(rules, &target.address));
            if options.tls.is_some() {
                add_certificates(rules);
            }
        }
        ServiceOptions::Firewall(options) => {
            add_gate(rules, &options.gate);
            rules.programs.extend(options.backend.programs());
            if let Some(server) = options.backend.server() {
                add_target(rules, server);
                // The system chooses the port.
                add(&mut rules.bind, Some(0));
                add_certificates(rules);
            }
        }
    }
}

/// Allows listening. The files of a certificate are read again at a reload, with all others.
fn add_web(rules: &mut Rules, options: &WebOptions) {
    options.sources.iter().filter_map(Source::address).for_each(|it| add_source(rules, it));
}

fn add_tunnel(rules: &mut Rules, options: &tunnel::Options) {
    if let Some(bind) = options.bind {
        add(&mut rules.bind, Some(bind.port));
    }
    for source in &options.sources {
        source.address().into_iter().for_each(|address| add_source(rules, address));
    }
    if options.role.knocks() {
        add_knocks(rules);
    }
    options.role.targets().into_iter().for_each(|target| add_target(rules, target));
    if let Some(gate) = &options.gate {
        add_gate(rules, gate);
    }
}

/// Lists the needs of a pipe with `options`.
pub fn rules_of_pipe(options: &PipeOptions) -> Rules {
    let mut rules = rules_of_dialer(options.bind);
    add_target(&mut rules, &options.target);
    if options.knock.is_some() {
        add_knocks(&mut rules);
    }
    rules
}

/// Allows connections from the address of a knock: the system chooses the port. The datagrams
/// themselves need no rule.
fn add_knocks(rules: &mut Rules) {
    add(&mut rules.bind, Some(0));
}

/// Lists the needs of `knock` with `options`. Its datagrams need no rule.
pub fn rules_of_knock(options: &KnockingOptions) -> Rules {
    let mut rules = rules_of_dialer(options.bind);
    options.wait_for.iter().for_each(|port| add_target(&mut rules, port));
    if let KnockAt::Web { url, .. } = &options.at {
        add_target(&mut rules, url.address());
        // The system chooses the port.
        add(&mut rules.bind, Some(0));
    }
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

/// Opens the target of a link that a library reads, unless it is open anyway.
fn add_followed(rules: &mut Rules, path: &Path) {
    for place in library_files::chain(path).into_iter().filter(|place| place.exists()) {
        let directory = if place.is_dir() { place.clone() } else { parent_dir(&place) };
        if sandbox::is_always_read(&directory) || is_open(rules, &place) {
            continue;
        }
        if place.is_dir() { add_tree(rules, place) } else { add_read(rules, &place) }
    }
}

/// Returns true if `place` can be read already.
fn is_open(rules: &Rules, place: &Path) -> bool {
    let mut open = rules.read.iter().filter_map(|it| it.canonicalize().ok());
    place.canonicalize().is_ok_and(|real| open.any(|open| real.starts_with(open)))
}

/// Allows listening on a source: a port, or a socket file that is made and removed.
fn add_source(rules: &mut Rules, source: &Address) {
    match source {
        Address::Unix(path) => add_socket(rules, path),
        Address::Tcp { .. } => add(&mut rules.bind, bound_port(source)),
    }
}

/// Returns the port that is bound for a source; `None` when it can be any: several addresses of one
/// name share the port that the system picks for the first.
fn bound_port(address: &Address) -> Option<u16> {
    port(address).filter(|port| *port != 0 || address.is_literal())
}

fn add_target(rules: &mut Rules, target: &Address) {
    if let Address::Tcp { .. } = target {
        add(&mut rules.connect, port(target));
    }
}

/// Returns the port; `None` where its name is unknown so far.
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
        StoreOptions::None | StoreOptions::Memory(_) => {}
        StoreOptions::File(path) => {
            // Now and then another file replaces it.
            let parent = parent_dir(&path.canonicalize().unwrap_or_else(|_| path.clone()));
            if is_shared(&parent) {
                warn_of_shared(rules, &parent, Open::Everything);
            }
            rules.write.push(parent);
        }
        StoreOptions::Redis(redis) => add_redis(rules, redis),
    }
}

fn add_redis(rules: &mut Rules, redis: &RedisOptions) {
    // Edits go to the master, at any address: a server may be a replica.
    rules.connect = None;
    if redis.address.tls {
        // Their directories, because the files may be replaced before they are read.
        let files = redis.tls.iter().flat_map(|tls| tls.files.all());
        files.for_each(|file| add_read(rules, file));
        add_certificates(rules);
    }
}

/// Allows reading the system's certificates once more.
fn add_certificates(rules: &mut Rules) {
    // The variables are those that OpenSSL has for them.
    let files = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    files.iter().for_each(|file| add_read(rules, file));
    let directories = env::var_os("SSL_CERT_DIR");
    let directories = directories.iter().flat_map(env::split_paths);
    let directories: Vec<PathBuf> = directories.collect();
    let certificates = library_files::of_certificates(&directories);
    directories.into_iter().for_each(|directory| add_tree(rules, directory));
    certificates.iter().for_each(|path| add_followed(rules, path));
}

/// Opens a directory with everything in it, since the files to read are not known.
fn add_tree(rules: &mut Rules, directory: PathBuf) {
    if is_shared(&directory) {
        let is_open = is_etc(&directory);
        warn_of_shared(rules, &directory, if is_open { Open::Reading } else { Open::Tree });
    }
    rules.read.push(directory);
}

/// Opens a file that is read again: its directory, since another file may replace it; in a
/// directory that many programs share only the file, except /etc, which is open anyway.
fn add_read(rules: &mut Rules, file: &Path) {
    let parent = parent_dir(file);
    if is_etc(&parent) {
        warn_of_shared(rules, &parent, Open::Reading);
        rules.read.push(parent);
    } else if is_shared(&parent) {
        warn_of_shared(rules, &parent, Open::Files);
        rules.read.push(file.to_owned());
    } else {
        rules.read.push(parent);
    }
}

/// Returns true for /etc, which every process may read.
fn is_etc(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| is_one_of(&["/etc"], FileId::from(&found)))
}

/// Opens the place of a socket for making and removing it.
fn add_socket(rules: &mut Rules, path: &Path) {
    let parent = parent_dir(path);
    if is_shared(&parent) {
        warn_of_shared(rules, &parent, Open::Sockets);
        rules.sockets.push(parent);
    } else {
        rules.write.push(parent);
    }
}

/// Opens the place of the pid file; if the directory is shared, and the file exists already
/// ([`super::PidPlace`]), only the file and its removal.
fn add_pid_file(rules: &mut Rules, path: &Path, is_ours: bool) {
    rules.read.extend(name_of_owner(path));
    let parent = parent_dir(path);
    let is_there = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    if is_shared(&parent) && is_ours && is_there {
        warn_of_shared(rules, &parent, Open::PidFile);
        rules.write.push(path.to_owned());
        return rules.remove.push(parent);
    }
    if is_shared(&parent) {
        warn_of_shared(rules, &parent, Open::Everything);
    }
    rules.write.push(parent);
}

fn warn_of_shared(rules: &mut Rules, directory: &Path, open: Open) {
    let path = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let shared = SharedDirectory { path, open };
    if !rules.shared.contains(&shared) {
        rules.shared.push(shared);
    }
}

/// Returns true if a directory holds files of many programs.
fn is_shared(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| is_shared_id(FileId::from(&found)))
}

/// Returns true if `directory` holds files of many programs.
pub(super) fn is_shared_id(directory: FileId) -> bool {
    is_one_of(&SHARED, directory)
}

/// Returns true if a directory is one of these, by any name: `/bin` may be a link, or
/// mounted a second time.
fn is_one_of(names: &[&str], directory: FileId) -> bool {
    names.iter().any(|it| fs::metadata(it).is_ok_and(|found| FileId::from(&found) == directory))
}

/// Returns the directory in which a file is made and removed, unless it is a device that stays.
fn parent_dir(path: &Path) -> PathBuf {
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
    fn the_manual_names_the_directories_of_many_programs() {
        let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating/sandbox.md");
        let manual = fs::read_to_string(manual).unwrap();
        let begin = manual.find("If a file is in `/`").unwrap();
        let end = manual[begin..].find("a rule for the directory").unwrap();
        let named: Vec<&str> = manual[begin..begin + end].split('`').skip(1).step_by(2).collect();
        assert_eq!(named.len(), SHARED.len(), "{named:?}");
        assert!(SHARED.iter().all(|one| named.contains(one)), "{named:?}");
    }

    #[test]
    fn files_come_and_go_in_their_directory_and_devices_stay() {
        for (path, expected) in
            [("my.pid", "."), ("/run/a/b", "/run/a"), ("/dev/null", "/dev/null")]
        {
            assert_eq!(parent_dir(Path::new(path)), Path::new(expected));
        }
    }
}
