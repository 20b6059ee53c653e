//! Files that the command line or a configuration names: their permitted owners, and that nothing
//! is waited for which is no file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use testkit::file::{Service, decrypt_table};
use testkit::program::{install, require};
use testkit::{Launch, Target, any, binary, keygen};

use super::cli::{complaint, knockpipe, place, run, stdout, write};

/// Another user, who is not root.
const USER: u32 = 65534;
const NAME: &str = "nobody";

/// Every command that reads a key.
const READERS: [&str; 6] = [
    "key-id bad",
    "encrypt -s a:1 -t b:2 -k bad",
    "decrypt -s a:1 -t b:2 -k key -k bad",
    "pipe -t b:2 -k bad",
    "-e -F -s a:1 -t b:2 -k bad",
    "-d -s a:1 -t b:2 -k bad",
];

#[track_caller]
fn refused(dir: &TempDir, line: &str, parts: &[&str]) {
    let args: Vec<_> = line.split(' ').collect();
    let text = complaint(&knockpipe(dir, &args), 2, line);
    for part in parts {
        assert!(text.contains(part), "no '{part}' in the answer to '{line}': {text}");
    }
}

/// "Owned by the user that the process runs as, or by root." Needs root.
#[test]
fn a_key_of_another_user_is_refused() {
    let dir = place();
    write(&dir, "bad", 0o600, &[7; 33]);
    chown(dir.path().join("bad"), Some(USER), None).unwrap();
    for line in READERS {
        refused(&dir, line, &["key file bad belongs to nobody", "run 'chown root bad'"]);
    }
    // An owner can change it, whatever its mode permits others.
    refused(&dir, "key-id --allow-readable-key bad", &["belongs to nobody"]);
    // To become its owner makes it one's own.
    refused(&dir, "encrypt -s a:1 -t b:2 -k bad -u daemon", &["run 'chown daemon bad'"]);
    let line = "decrypt -s /no/where/socket -t b:2 -k bad -u nobody";
    let output = knockpipe(&dir, &line.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && !text.contains("key file"), "{text}");
}

/// Root's key serves a process of another user, as in a container. Needs root.
#[test]
fn a_key_of_roots_or_ones_own_is_read() {
    require("setpriv", "util-linux");
    let dir =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    install(&binary(), &dir.path().join("knockpipe"));
    for (name, owner, mode) in [("roots", 0, 0o644), ("own", USER, 0o600), ("third", 1, 0o644)] {
        write(&dir, name, mode, &[7; 32]);
        chown(dir.path().join(name), Some(owner), None).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &USER.to_string(), "--clear-groups", "--"]);
        command.arg(dir.path().join("knockpipe")).args(["key-id", "--allow-readable-key"]);
        let output = command.arg(dir.path().join(name)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), name != "third", "{name}: {text}");
        if name == "third" {
            assert!(text.contains(&format!("run 'chown {NAME} ")), "{text}");
        }
    }
}

#[test]
fn credentials_of_another_user_are_refused() {
    let dir = place();
    write(&dir, "pass", 0o600, b"geheim\n");
    chown(dir.path().join("pass"), Some(USER), None).unwrap();
    let store = "--gate redis://127.0.0.1:1 --gate-credentials pass";
    for line in [format!("gate list {store}"), format!("decrypt -s a:1 -t b:2 -k key {store}")] {
        refused(&dir, &line, &["credentials file pass belongs to nobody", "chown root pass"]);
    }
}

/// Replaces names by things that are no regular files; returns each name and its kind.
fn lay_traps(dir: &Path) -> Vec<(&'static str, &'static str)> {
    mkfifo(&dir.join("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    drop(UnixListener::bind(dir.join("socket")).unwrap());
    fs::create_dir(dir.join("directory")).unwrap();
    vec![
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        ("directory", "a directory"),
        ("/dev/zero", "a device"),
        ("/dev/tty", "a device"),
    ]
}

/// Each is refused at once, with or without a process at the other end.
#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let dir = place();
    for (name, kind) in lay_traps(dir.path()) {
        for line in READERS {
            refused(&dir, &line.replace("bad", name), &["key file", name, kind]);
        }
        let redis = "--gate redis://127.0.0.1:1 --gate-credentials";
        refused(&dir, &format!("gate list {redis} {name}"), &["credentials file", kind]);
        let tls = "--gate rediss://127.0.0.1:1 --gate-ca";
        refused(&dir, &format!("gate list {tls} {name}"), &["--gate-ca", kind]);
        for command in ["run", "check"] {
            refused(&dir, &format!("{command} -c {name}"), &["cannot read", kind]);
        }
    }
    // Standard input is read whatever it is, and by this name alone.
    let program = Path::new(super::cli::PROGRAM);
    assert_eq!(run(program, &dir, &["key-id", "-"], &[7; 32]).status.code(), Some(0));
    let output = run(program, &dir, &["key-id", "/dev/stdin"], &[7; 32]);
    let text = complaint(&output, 2, "/dev/stdin");
    assert!(text.contains("is a pipe") && text.contains("- for standard input"), "{text}");
    assert_eq!(stdout(&output), "");
}

/// Certificates that the environment names, which a library reads.
#[cfg(feature = "aws-lc")]
#[test]
fn certificates_of_the_environment_are_not_waited_for() {
    let dir = place();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = format!("rediss://{}", server.local_addr().unwrap());
    for (name, kind) in lay_traps(dir.path()) {
        let mut list = Command::new(binary());
        list.args(["gate", "list", "--gate", &gate]).env("SSL_CERT_FILE", dir.path().join(name));
        let output = testkit::wait::bounded("it ends", move || list.output().unwrap());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("SSL_CERT_FILE") && text.contains(kind), "{text}");
    }
}

/// A configuration, or certificates, without an end.
#[test]
fn sizes_of_files_are_limited() {
    let dir = place();
    write(&dir, "large.toml", 0o600, &vec![b'#'; (1 << 20) + 1]);
    refused(&dir, "check -c large.toml", &["larger than 1 MiB"]);
    write(&dir, "binary.toml", 0o600, b"\xff\xfe");
    refused(&dir, "check -c binary.toml", &["not UTF-8 text"]);
}

/// A pipe in the place of a key, at a reload: it is refused, and later reloads work.
#[test]
fn a_reload_waits_for_no_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let (key, target) = (keygen(dir.path(), "key"), Target::echo());
    let bytes = fs::read(&key).unwrap();
    let table = decrypt_table("far", target.addr(), "\"key\"", "");
    let service = Service::start(dir.path(), "far.toml", &table);
    let near = Launch::encrypt(&key).source(&any()).target(&service.addr("far")).start();
    fs::remove_file(&key).unwrap();
    mkfifo(&key, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let line = service.reload_fails(&table);
    assert!(line.text().contains("is a pipe"), "{}", line.text());
    near.connect().expect_echo(b"undisturbed");
    // The configuration is treated alike.
    let (file, aside) = (dir.path().join("far.toml"), dir.path().join("aside"));
    fs::rename(&file, &aside).unwrap();
    mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    service.program.signal(Signal::SIGHUP);
    service.program.wait_line("why", |line| line.text().contains("far.toml: it is a pipe"));
    fs::rename(&aside, &file).unwrap();
    fs::remove_file(&key).unwrap();
    fs::write(&key, bytes).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    service.reload(&table);
    near.connect().expect_echo(b"and again");
}
