//! Keys, pid files and sockets in directories that many programs share: the reach of a running
//! program of ours then, and its messages about that.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::file::{Service, decrypt_table};
use testkit::{Launch, Line, Target, any, eventually, keygen};

/// Log message for each such directory.
const WARNING: &str = "sandbox wider than necessary: a shared directory is used";

/// A file in a directory that many share, with a name of its own; gone at the end.
struct Stray(PathBuf);

impl Stray {
    fn new(directory: &str, dir: &TempDir, name: &str) -> Self {
        let own = dir.path().file_name().unwrap().to_str().unwrap().replace('.', "");
        Self(Path::new(directory).join(format!("knockpipe-test{own}{name}")))
    }

    /// Makes a key there.
    fn key(directory: &str, dir: &TempDir, name: &str) -> Self {
        let stray = Self::new(directory, dir, name);
        fs::copy(keygen(dir.path(), name), &stray.0).unwrap();
        stray
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns the line about the sandbox, and the directories that are warned of.
fn told(log: &[Line]) -> (Line, Vec<String>) {
    let line = log.iter().find(|line| line.is("sandbox")).unwrap().clone();
    let warned = log.iter().filter(|line| line.is(WARNING) && line.level() == "WARN");
    (line, warned.filter_map(|line| line.field("directory")).collect())
}

fn table(target: &Target, key: &Path, more: &str) -> String {
    decrypt_table("far", target.addr(), &format!("{key:?}"), more)
}

/// `-k /x.key`: that file is open and not the tree below `/`. The program itself shows it: by the
/// files that a reload can read.
#[test]
fn a_key_in_a_shared_directory_opens_that_file_alone() {
    for directory in ["/", "/tmp", "/var/tmp"] {
        let (dir, target) = (TempDir::new().unwrap(), Target::echo());
        let key = Stray::key(directory, &dir, "key");
        let other = Stray::key(directory, &dir, "other");
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let elsewhere = keygen(dir.path(), "elsewhere");
        let mut service = Service::start(&config, "far.toml", &table(&target, &key.0, ""));
        let (line, warned) = told(&service.program.log());
        let reads = line.field("reads").unwrap();
        assert!(reads.split(',').any(|path| path == key.text()), "{reads}");
        assert!(reads.split(',').all(|path| path != directory), "{reads}");
        assert_eq!(line.field("writes").as_deref(), Some("none"), "{}", line.text());
        assert_eq!(warned, [directory]);

        for secret in [&other.0, &elsewhere] {
            let line = service.reload_fails(&table(&target, secret, ""));
            assert!(line.text().contains("sandbox"), "{}", line.text());
        }
        // Rewritten it is the same file; replaced, another one.
        fs::write(&key.0, fs::read(&other.0).unwrap()).unwrap();
        service.reload(&table(&target, &key.0, "timeout = '7s'"));
        fs::rename(&other.0, &key.0).unwrap();
        let line = service.reload_fails(&table(&target, &key.0, "timeout = '8s'"));
        assert!(line.text().contains("took the place of another"), "{}", line.text());
        service.stop();
    }
}

/// `/bin` is a link to `/usr/bin` today.
#[test]
fn a_shared_directory_is_known_by_all_of_its_names() {
    let real = Path::new("/bin").canonicalize().unwrap();
    for directory in ["/bin", real.to_str().unwrap()] {
        let (dir, target) = (TempDir::new().unwrap(), Target::echo());
        let key = Stray::key(directory, &dir, "key");
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let mut service = Service::start(&config, "far.toml", &table(&target, &key.0, ""));
        let (line, warned) = told(&service.program.log());
        assert_eq!(warned.iter().map(Path::new).collect::<Vec<_>>(), [&real]);
        let reads = line.field("reads").unwrap();
        assert!(reads.split(',').all(|path| Path::new(path) != real), "{reads}");
        service.stop();
    }
}

/// The files in the variables of OpenSSL are open to a gate with TLS, and reported as any other.
#[test]
fn certificates_in_a_shared_directory_are_warned_of() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let file = Stray::new("/tmp", &dir, "pem");
    fs::write(&file.0, "").unwrap();
    let directories = format!("{}:/", dir.path().display());
    let set = format!("export SSL_CERT_DIR={directories} SSL_CERT_FILE={};", file.text());
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "/no/where"]).prelude(&set);
    let launch = launch.args(["--gate", "rediss://127.0.0.1:1"]);
    let end = launch.start();
    let (line, mut warned) = told(&end.program.log());
    warned.sort_unstable();
    assert_eq!(warned, ["/", "/tmp"]);
    let reads = line.field("reads").unwrap();
    let reads: Vec<_> = reads.split(',').collect();
    assert!(reads.contains(&"/") && reads.contains(&file.text()), "{reads:?}");
    assert!(!reads.contains(&"/tmp"), "{reads:?}");
}

/// In a directory of its own a key may be replaced, and nothing is warned of.
#[test]
fn a_directory_of_its_own_is_named_and_not_warned_of() {
    let (dir, target) = (TempDir::new().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let mut service = Service::start(dir.path(), "far.toml", &table(&target, &key, ""));
    let (line, warned) = told(&service.program.log());
    let own = dir.path().canonicalize().unwrap();
    assert_eq!(line.field("reads").as_deref(), own.to_str(), "{}", line.text());
    assert!(warned.is_empty(), "{warned:?}");
    fs::rename(keygen(dir.path(), "next"), &key).unwrap();
    service.reload(&table(&target, &key, "timeout = '7s'"));
    service.stop();
}

/// `-p x.pid` started in `/`, and sockets there: nothing else can be read or changed.
#[test]
fn a_pid_file_or_a_socket_in_a_shared_directory_opens_nothing_to_read() {
    for directory in ["/", "/tmp"] {
        let (dir, target) = (TempDir::new().unwrap(), Target::echo());
        let (pid, admin) =
            (Stray::new(directory, &dir, "pid"), Stray::new(directory, &dir, "sock"));
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let (key, secret) = (keygen(&config, "key"), keygen(dir.path(), "secret"));
        let process = format!("pid-file = {:?}\nadmin = {:?}", pid.0, admin.0);
        let text = table(&target, &key, "");
        let mut service = Service::start_with(&config, "far.toml", &process, &text);
        let written = || fs::read_to_string(&pid.0).unwrap_or_default();
        eventually("the pid is written", || written().trim() == service.program.pid().to_string());
        assert!(admin.0.exists());
        let (line, warned) = told(&service.program.log());
        let writes = line.field("writes").unwrap();
        let mut all: Vec<&str> = writes.split(',').collect();
        all.sort_unstable();
        // A program that makes sockets there removes files as well: the directory stands there
        // once.
        assert_eq!(all, [&format!("{directory} (sockets)"), pid.text()]);
        assert_eq!(warned, [directory, directory]);
        let line = service.reload_fails(&table(&target, &secret, ""));
        assert!(line.text().contains("sandbox"), "{}", line.text());
        service.stop();
        assert!(!pid.0.exists() && !admin.0.exists(), "what it made is gone");
    }
}

/// Nothing is left of a start that fails before the pid file is due.
#[test]
fn a_start_that_fails_leaves_no_empty_pid_file() {
    let dir = TempDir::new().unwrap();
    let (key, pid) = (keygen(dir.path(), "key"), Stray::new("/tmp", &dir, "pid"));
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let launch = Launch::decrypt(&key).args(["-s", &held.local_addr().unwrap().to_string()]);
    let mut failed = launch.args(["-t", "/no/where", "-p", pid.text()]).spawn();
    assert_eq!(failed.exit_code(), 1);
    assert!(!pid.0.exists());
    // A present file belongs to another program, and stays.
    fs::write(&pid.0, "").unwrap();
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "/no/where", "-p", pid.text()]);
    let end = launch.start();
    end.program.signal(Signal::SIGKILL);
    drop(end);
    assert!(pid.0.exists());
}
