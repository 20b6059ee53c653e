//! Tests each rule of the sandbox in a thread that is inside. Its effect on the programs from
//! outside is in `tests/suite/sandbox.rs`: not here, because some of it concerns a whole process.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::*;

/// The oldest kernel that has everything (Linux 6.12).
const EVERYTHING: u32 = 6;

/// Does `work` in a thread that is inside `rules`; the others stay outside.
fn inside<T: Send>(rules: &Rules, work: impl FnOnce() -> T + Send) -> T {
    let report = |report: Report| {
        let held = matches!(report.landlock, Landlock::Holds(version) if version >= EVERYTHING);
        assert!(held, "this test needs landlock, Linux 6.12 or later: {}", report.landlock);
        assert!(report.no_new_privs && report.no_dumps, "{report:?}");
    };
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            report(enter(Some(rules), false));
            // Restrictions of a thread apply to the threads that it starts.
            thread::scope(|scope| scope.spawn(work).join().unwrap())
        });
        there.join().unwrap()
    })
}

#[track_caller]
fn denied<T: fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

fn text_in(dir: &TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, "text").unwrap();
    path
}

#[test]
fn files_are_within_reach_only_where_the_rules_say_so() {
    let read = TempDir::new().unwrap();
    let write = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    let readable = text_in(&read, "file");
    let hidden = text_in(&other, "file");
    let rules = Rules {
        read: vec![read.path().to_owned(), other.path().join("not-there")],
        write: vec![write.path().to_owned()],
        ..Rules::default()
    };
    inside(&rules, || {
        assert_eq!(fs::read(&readable).unwrap(), b"text");
        denied(File::options().append(true).open(&readable));
        denied(fs::remove_file(&readable));
        denied(File::create(read.path().join("new")));

        let a = write.path().join("a");
        let b = write.path().join("b");
        fs::write(&a, "old").unwrap();
        fs::rename(&a, &b).unwrap();
        fs::write(&b, "new").unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"new");
        File::open(write.path()).unwrap().sync_all().unwrap();
        fs::remove_file(&b).unwrap();
        UnixListener::bind(write.path().join("socket")).unwrap();
        denied(symlink("/etc/shadow", &a));
        denied(fs::create_dir(&a));

        denied(fs::read(&hidden));
        denied(fs::read_dir(other.path()));
        denied(fs::remove_file(&hidden));
        denied(File::create(other.path().join("new")));
        denied(UnixListener::bind(other.path().join("socket")));
        denied(fs::read_dir("/root"));
    });
    assert_eq!(fs::read(&hidden).unwrap(), b"text", "who is outside still can");
}

/// Opens a directory that many programs share.
#[test]
fn a_directory_for_sockets_is_no_more_than_that() {
    let sockets = TempDir::new().unwrap();
    let remove = TempDir::new().unwrap();
    let one = text_in(&sockets, "file");
    let own = text_in(&remove, "own");
    let other = text_in(&remove, "other");
    let rules = Rules {
        read: vec![one.clone()],
        write: vec![own.clone()],
        sockets: vec![sockets.path().to_owned()],
        remove: vec![remove.path().to_owned()],
        ..Rules::default()
    };
    inside(&rules, || {
        assert_eq!(fs::read(&one).unwrap(), b"text");
        denied(fs::write(&one, "new"));
        denied(fs::read_dir(sockets.path()));
        denied(File::create(sockets.path().join("new")));
        let socket = sockets.path().join("socket");
        UnixListener::bind(&socket).unwrap();
        fs::remove_file(&socket).unwrap();

        fs::write(&own, "new").unwrap();
        denied(fs::read(&other));
        denied(fs::write(&other, "new"));
        denied(UnixListener::bind(remove.path().join("socket")));
        fs::remove_file(&own).unwrap();
        denied(File::create(&own));
    });
}

#[test]
fn no_program_can_be_started() {
    inside(&Rules::default(), || {
        for program in ["/bin/true", "/usr/bin/env", "/proc/self/exe"] {
            denied(Command::new(program).status());
        }
    });
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("true");
    fs::copy("/bin/true", &copy).unwrap();
    let rules = Rules { write: vec![dir.path().to_owned()], ..Rules::default() };
    inside(&rules, || denied(Command::new(&copy).status()));
    assert!(Command::new(&copy).status().unwrap().success());
}

#[test]
fn names_and_devices_still_work() {
    inside(&Rules::default(), || {
        // In a new thread, but libraries and files are opened all the same.
        assert!(("localhost", 80).to_socket_addrs().unwrap().count() > 0);
        ("name.invalid", 80).to_socket_addrs().unwrap_err();
        assert!(fs::read_to_string("/etc/hosts").unwrap().contains("localhost"));
        assert_eq!(nix::unistd::User::from_name("root").unwrap().unwrap().uid.as_raw(), 0);
        File::options().write(true).open("/dev/null").unwrap().write_all(b"x").unwrap();
        File::open("/dev/urandom").unwrap();
        assert!(fs::read_to_string("/proc/self/cgroup").is_ok());
    });
}

#[test]
fn ports_are_within_reach_only_where_the_rules_say_so() {
    let listed = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("[::1]:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    // No other process has bound it at this address by then.
    let free = port(&TcpListener::bind("127.0.0.4:0").unwrap());
    let rules =
        Rules { bind: Some(vec![0, free]), connect: Some(vec![port(&listed)]), ..Rules::default() };
    inside(&rules, || {
        TcpStream::connect(listed.local_addr().unwrap()).unwrap();
        denied(TcpStream::connect(other.local_addr().unwrap()));
        TcpListener::bind("127.0.0.1:0").unwrap();
        TcpListener::bind(("127.0.0.4", free)).unwrap();
        // Not "in use": the rule forbids that port.
        denied(TcpListener::bind(("127.0.0.2", port(&listed))));
    });
    inside(&Rules { bind: None, connect: None, ..rules }, || {
        TcpStream::connect(other.local_addr().unwrap()).unwrap();
        TcpListener::bind(("127.0.0.3", port(&listed))).unwrap();
    });
}

#[test]
fn others_get_no_signals_and_the_abstract_namespace_is_closed() {
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = Pid::from_raw(other.id().try_into().unwrap());
    let name = format!("knockpipe-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let dir = TempDir::new().unwrap();
    let _by_path = UnixListener::bind(dir.path().join("socket")).unwrap();
    inside(&Rules::default(), || {
        assert_eq!(kill(pid, Signal::SIGKILL), Err(Errno::EPERM));
        denied(UnixStream::connect_addr(&address));
        UnixStream::connect(dir.path().join("socket")).unwrap();
    });
    let rules = Rules { abstract_sockets: true, ..Rules::default() };
    inside(&rules, || UnixStream::connect_addr(&address).unwrap());
    assert_eq!(other.try_wait().unwrap(), None, "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn without_landlock_the_rest_holds() {
    let dir = TempDir::new().unwrap();
    let report = thread::scope(|scope| {
        let there = scope.spawn(|| {
            let report = enter(None, false);
            fs::write(dir.path().join("file"), "text").unwrap();
            report
        });
        there.join().unwrap()
    });
    assert_eq!(report.landlock, Landlock::Off);
    assert!(report.no_new_privs && report.no_dumps);
}

#[test]
fn an_older_kernel_is_said_to_lack_what_it_lacks() {
    let lacks = |abi| Landlock::Holds(abi).lacks().unwrap_or_default();
    assert_eq!(lacks(1), "truncation, TCP ports, devices, signals");
    assert_eq!(lacks(4), "devices, signals");
    assert_eq!(lacks(TESTED as u32), "");
    assert_eq!(Landlock::Off.lacks(), None);
    assert!(Landlock::Holds(4).restricts_tcp() && !Landlock::Holds(3).restricts_tcp());
    assert!(!Landlock::Absent("not in this kernel".to_owned()).restricts_tcp());
}

#[test]
fn a_resolver_that_starts_later_is_found() {
    let dir = TempDir::new().unwrap();
    let etc = dir.path().join("etc");
    let run = dir.path().join("run");
    fs::create_dir(&etc).unwrap();
    fs::create_dir(&run).unwrap();
    let link = etc.join("resolv.conf");
    symlink("../run/resolver/a/resolv.conf", &link).unwrap();
    let leads_to = || where_it_leads(&link).unwrap().canonicalize().unwrap();
    assert_eq!(leads_to(), run.canonicalize().unwrap());
    fs::create_dir_all(run.join("resolver/a")).unwrap();
    assert_eq!(leads_to(), run.join("resolver/a").canonicalize().unwrap());
    assert_eq!(where_it_leads(&text_in(&dir, "file")), None);
}

#[test]
fn ports_are_listed_as_they_are() {
    let rules = Rules { bind: Some(vec![1, 2]), ..Rules::default() };
    assert_eq!(rules.tcp(), "bind 1,2 connect any");
    assert_eq!(Rules { connect: Some(vec![]), ..rules }.tcp(), "bind 1,2 connect none");
}

#[test]
fn a_directory_is_named_once_with_as_much_as_is_open() {
    let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
    let rules = Rules {
        read: paths(&["/no/a", "/no/b", "/no/a"]),
        write: paths(&["/no/b", "/no/c", "/no/c"]),
        sockets: paths(&["/no/c", "/no/d"]),
        remove: paths(&["/no/c", "/no/d", "/no/e"]),
        ..Rules::default()
    };
    assert_eq!(rules.reads(), "/no/a");
    assert_eq!(rules.writes(), "/no/b,/no/c,/no/d (sockets),/no/e (removal)");
    assert_eq!(Rules { write: vec![], ..rules }.reads(), "/no/a,/no/b");
    assert_eq!(
        (Rules::default().reads(), Rules::default().writes()),
        ("none".into(), "none".into())
    );
}
