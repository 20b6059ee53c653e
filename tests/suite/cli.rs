//! The command line as a user meets it: the real program, its exit status, and its output. Nothing
//! here needs a running tunnel; `process.rs` does that.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_knockpipe");

/// Makes a directory with a good key in it, named `key`.
pub(super) fn place() -> TempDir {
    let dir = TempDir::new().unwrap();
    write(&dir, "key", 0o600, &[7; 32]);
    dir
}

pub(super) fn write(dir: &TempDir, name: &str, mode: u32, bytes: &[u8]) {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

pub(super) fn files(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs `program` in `dir` with `input`; fails the test when it does not end.
pub(super) fn run(program: &Path, dir: &TempDir, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{args:?} does not end: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

pub(super) fn knockpipe(dir: &TempDir, args: &[&str]) -> Output {
    run(Path::new(PROGRAM), dir, args, b"")
}

pub(super) fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

/// Returns the one line of a failure, checked for form.
pub(super) fn complaint(output: &Output, status: i32, about: &str) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{about}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{about}: {stderr}");
    assert!(stderr.starts_with("knockpipe: "), "{about}: {stderr}");
    assert!(stderr.contains(';'), "no remedy in {about}: {stderr}");
    assert_eq!(stdout(output), "", "{about}");
    stderr
}

/// Runs `line` (words separated by blanks) where only `key` exists; it must be
/// refused with 2 and a line that has every one of `parts`, and leave nothing.
pub(super) fn refused(line: &str, parts: &[&str]) {
    let dir = place();
    let args: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let text = complaint(&knockpipe(&dir, &args), 2, line);
    for part in parts {
        assert!(text.contains(part), "no '{part}' in the answer to '{line}': {text}");
    }
    assert_eq!(files(&dir), ["key"], "left behind by '{line}'");
}

/// A complete command line of each spelling.
pub(super) const ENCRYPT: &str = "encrypt -s a:1 -t b:2 -k key";
pub(super) const DECRYPT: &str = "decrypt -s a:1 -t b:2 -k key";
const PIPE: &str = "pipe -t b:2 -k key";
pub(super) const SPIPED: &str = "-e -s a:1 -t b:2 -k key";

#[test]
fn commands_that_do_not_exist() {
    refused("", &["no command", "knockpipe --help"]);
    refused("decyrpt", &["no command 'decyrpt'", "'decrypt'"]);
    refused("xyzzy", &["no command 'xyzzy'", "knockpipe --help"]);
    refused("--hepl", &["no flag '--hepl'", "'--help'"]);
    refused("gate", &["no command", "'knockpipe gate --help'"]);
    refused("gate alow", &["no command 'alow'", "'allow'", "'knockpipe gate --help'"]);
}

#[test]
fn missing_arguments() {
    let cases = [
        ("encrypt", "-s ADDR (where to listen), -t ADDR (where to forward), -k FILE"),
        ("encrypt -t b:2 -k key", "-s ADDR (where to listen) is missing"),
        ("encrypt -s a:1 -k key", "-t ADDR (where to forward) is missing"),
        (
            "encrypt -s a:1 -t b:2",
            "-k FILE (the shared key, from the other host, or from 'knockpipe keygen' on the first) is missing",
        ),
        ("decrypt -t b:2 -k key", "-s ADDR (where to listen) is missing"),
        ("decrypt -s a:1 -k key", "-t ADDR (where to forward) is missing"),
        ("decrypt -s a:1 -t b:2", "-k FILE"),
        ("pipe -k key", "-t ADDR"),
        ("pipe -t b:2", "-k FILE"),
        ("-e -t b:2 -k key", "-s ADDR (where to listen) is missing"),
        ("-d -s a:1 -k key", "-t ADDR (where to forward) is missing"),
        ("-d -s a:1 -t b:2", "-k FILE"),
        ("keygen", "FILE (the key file) is missing"),
        ("kick", "ID, --peer, --tunnel or --key (which connections) is missing; add it"),
        ("key-id", "FILE (the key file) is missing"),
        ("decrypt -s a:1 -t b:2 -k", "-k/--key has no value"),
        ("decrypt -s a:1 -t b:2 -k key --log-level", "use one of error, warn"),
    ];
    for (line, part) in cases {
        refused(line, &[part]);
    }
    refused("encrypt", &["knockpipe encrypt --help"]);
    refused("-d", &["knockpipe -e --help"]);
}

#[test]
fn unknown_flags_and_stray_words() {
    for base in [ENCRYPT, DECRYPT, PIPE, SPIPED] {
        refused(&format!("{base} --bogus"), &["no flag '--bogus'", "--help"]);
        refused(&format!("{base} --timout 4"), &["no flag '--timout'", "'--timeout'"]);
        refused(&format!("{base} -1"), &["no flag '-1'"]);
        refused(&format!("{base} -B"), &["no flag '-B'"]);
        refused(&format!("{base} stray"), &["'stray' is not expected"]);
    }
    refused(&format!("{ENCRYPT} -F"), &["stays in the foreground"]);
    refused(&format!("{ENCRYPT} -f"), &["no weak mode"]);
    refused(&format!("{DECRYPT} -g"), &["always on"]);
    refused(&format!("{ENCRYPT} --syslog=yes"), &["takes no value", "leave 'yes' out"]);
    refused("keygen a b", &["'b' is not expected"]);
}

/// They exist, so the answer is neither that there is none, nor a similar name.
#[test]
fn flags_and_commands_in_the_wrong_place() {
    let of_decrypt = ["--ban-after", "--proxy-to-target", "--max-unopened", "--max-handshakes"];
    for flag in of_decrypt {
        let cause = format!("'{flag}' is a flag of decrypt, not of encrypt; leave it out here");
        refused(&format!("{ENCRYPT} {flag} 5"), &[&cause]);
    }
    refused(&format!("{DECRYPT} --pool 5"), &["'--pool' is a flag of encrypt, not of decrypt"]);
    refused(
        &format!("{DECRYPT} --service x"),
        &["is a flag of encrypt, pipe and check, not of decrypt"],
    );
    refused(
        &format!("{PIPE} --drain=5s"),
        &["is a flag of encrypt, decrypt, knockd and http, not of pipe"],
    );
    refused(&format!("{SPIPED} --pool 5"), &["'--pool' is a flag of encrypt; put it after"]);
    refused("gate list --ttl 5d --gate file:x", &["a flag of gate allow, ", ", not of gate list"]);
    refused("gate export --json", &["is a flag of the gate commands, not of gate export"]);
    refused(
        "encrypt --json",
        &["a flag of knock, status, who, kick, reload and drain, not of encrypt"],
    );
    refused(
        "gate list --drain 5s",
        &["a flag of encrypt, decrypt, knockd and http, not of gate list"],
    );
    let after = &["put it after the command: 'knockpipe gate COMMAND --gate ...'"];
    refused("gate --gate redis://a allow 203.0.113.7", after);
    refused("gate --gate=redis://a allow 203.0.113.7", after);
    refused(
        "--gate redis://a decrypt",
        &["'decrypt' stands behind a flag", "'knockpipe decrypt ..."],
    );
    refused("--log-level info gate list", &["put it first: 'knockpipe gate ...'"]);
    refused(
        "--pool 4 encrypt -s a:1 -t b:2 -k key",
        &["'--pool' is a flag of encrypt; put it after"],
    );
}

#[test]
fn single_flags_given_twice() {
    let valued = [
        "-b 127.0.0.1",
        "-n 5",
        "-o 1s",
        "-p x.pid",
        "-r 5s",
        "-u 1:1",
        "--padding none",
        "--suite auto",
        "--drain 1s",
        "--log-level info",
        "--log-format json",
        "--max-per-source 5",
    ];
    let plain = ["-D", "-j", "-R", "--syslog", "--allow-readable-key"];
    for flag in valued.iter().chain(&plain) {
        for base in [ENCRYPT, DECRYPT, SPIPED] {
            refused(&format!("{base} {flag} {flag}"), &["is given twice", "give it once"]);
        }
    }
    refused(&format!("{ENCRYPT} --service a --service b"), &["--service is given twice"]);
    refused(&format!("{DECRYPT} --max-handshakes 1 --max-handshakes 2"), &["given twice"]);
    for flag in ["-e", "-F", "-f", "-g", "-s c:3", "-t c:3", "-k key"] {
        let name = flag.split(' ').next().unwrap();
        let twice = format!("{SPIPED} -F -f -g {flag}");
        refused(&twice, &[&format!("{name} is given twice"), "give it once"]);
    }
    refused("-d -d -s a:1 -t b:2 -k key", &["-d is given twice"]);
    refused(&format!("{PIPE} -t c:3"), &["-t/--target is given twice"]);
    refused(&format!("{PIPE} -j -j"), &["-j/--no-keepalive is given twice"]);
}

#[test]
fn numbers_that_are_none() {
    for base in [ENCRYPT, DECRYPT, SPIPED] {
        for bad in ["-5", "+5", "many", "1.5", "5k", "0x10", "99999999999999999999"] {
            let parts = ["-n/--max-sessions", bad, "whole number"];
            refused(&format!("{base} -n {bad}"), &parts);
        }
        for flag in ["-o", "-r", "--drain"] {
            for bad in ["-1", "soon", "inf", "nan", "1.2.3", "1e9"] {
                refused(&format!("{base} {flag} {bad}"), &[bad, "is not a duration"]);
            }
        }
        refused(&format!("{base} --padding 16385"), &["--padding", "16384"]);
        refused(&format!("{base} --suite rot13"), &["--suite", "aes-256-gcm"]);
        refused(&format!("{base} --log-level loud"), &["--log-level", "error, warn, info"]);
        refused(&format!("{base} --log-format xml"), &["--log-format", "text, json"]);
        for bad in ["0", "5/", "5/0", "/5", "-5", "a/b"] {
            refused(&format!("{base} --max-per-source {bad}"), &["SESSIONS/PER_SECOND"]);
        }
    }
    for bad in ["0", "-1", "x"] {
        refused(&format!("{DECRYPT} --max-handshakes {bad}"), &["number of handshakes"]);
    }
    for base in [ENCRYPT, DECRYPT, PIPE] {
        refused(&format!("{base} -o 0s"), &["-o/--timeout", "such as 5s"]);
    }
    refused(&format!("{ENCRYPT} -r 0s"), &["-r/--resolve-every", "-R"]);
}

#[test]
fn flags_that_exclude_each_other() {
    for base in [ENCRYPT, DECRYPT, SPIPED] {
        refused(&format!("{base} -R -r 5s"), &["exclude each other", "keep one"]);
    }
    refused("-e -d -s a:1 -t b:2 -k key", &["-e and -d are both given", "keep -e"]);
    refused("-s a:1 -t b:2 -k key", &["neither -e nor -d", "add -e"]);
    refused("-e -f -s a:1 -t b:2 -k key", &["weak handshake", "leave -f out"]);
    refused("-efF -s a:1 -t b:2 -kkey", &["weak handshake"]);
    refused(&format!("{SPIPED} --max-handshakes 5"), &["--max-handshakes is for the decrypt end"]);
    refused("-d -s a:1 -t b:2 -k key --service x", &["--service is for the encrypt end"]);
}

#[test]
fn addresses_and_services() {
    for base in ["encrypt -t b:2 -k key -s", "decrypt -t b:2 -k key -s", "-d -t b:2 -k key -s"] {
        refused(&format!("{base} nowhere"), &["nowhere"]);
    }
    refused("pipe -k key -t nowhere", &["-t/--target", "nowhere"]);
    refused("encrypt -t b:2 -k key -s 16000", &["write 127.0.0.1:16000 for this machine"]);
    refused("decrypt -s a:1 -k key -t redis:127.0.0.1:6379", &["write redis=127.0.0.1:6379 "]);
    for base in ["encrypt", "decrypt", "-e -F", "-d -F"] {
        let parts = ["round for ever", "-t a:1", "the address of the other end"];
        refused(&format!("{base} -s a:1 -t a:1 -k key"), &parts);
    }
    refused("encrypt -s [127.0.0.1]:1 -s a:1 -t 127.0.0.1:1 -k key", &["-t 127.0.0.1:1 ->"]);
    refused("encrypt -s a:1 -k key -t redis=b:2", &["--service NAME"]);
    refused("pipe -k key -t redis=b:2", &["--service NAME"]);
    refused("decrypt -s a:1 -k key -t =b:2", &["no service name before '='"]);
    refused("decrypt -s a:1 -k key -t re/dis=b:2", &["service name"]);
    refused("decrypt -s a:1 -k key -t b:2 -t c:3 -t b:2", &["the target b:2 is given twice"]);
    refused("decrypt -s a:1 -k key -t x=b:2 -t y=b:2 -t x=b:2", &["b:2 is given twice"]);
    refused("encrypt -s a:1 -k key -t b:2 -t b:2", &["b:2 is given twice"]);
    refused("encrypt -s a:1 -k key -t b:2 -t a:1", &["round for ever", "-t a:1"]);
    refused("encrypt -s a:1 -k key -t b:2 -t redis=c:3", &["--service NAME"]);
    refused(&format!("{ENCRYPT} --service no/good"), &["--service", "no/good"]);
    refused(&format!("{ENCRYPT} -b nowhere"), &["-b/--bind", "nowhere"]);
}

#[test]
fn checks_of_targets() {
    for base in [DECRYPT, "-d -F -s a:1 -t b:2 -k key"] {
        refused(&format!("{base} --check http"), &["--check", "no check", "write tcp, redis"]);
        refused(&format!("{base} --check redis/5"), &["--check", "\"5\" has no unit", "5s"]);
        refused(&format!("{base} --check mysql:"), &["--check", "mysql:USER"]);
        refused(&format!("{base} --check x=redis"), &["the service 'x'", "-t x=ADDR"]);
        refused(&format!("{base} --check tcp --check redis"), &["--check is given twice"]);
    }
    refused(&format!("{ENCRYPT} --check tcp"), &["--check", "decrypt"]);
    refused(&format!("{SPIPED} --check tcp"), &["--check is for the decrypt end"]);
}

#[test]
fn users_that_do_not_exist() {
    for base in [ENCRYPT, DECRYPT, SPIPED] {
        refused(&format!("{base} -u no-such-user"), &["-u/--user", "no user 'no-such-user'"]);
        refused(&format!("{base} -u root:no-such-group"), &["no group 'no-such-group'"]);
        refused(&format!("{base} -u :"), &["no group ''"]);
        refused(&format!("{base} -u 54321"), &["write 54321:GROUP"]);
    }
}

#[test]
fn text_that_is_not_utf8_or_not_one_line() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = place();
    let bad = OsStr::from_bytes(b"\xff:1");
    let mut command = Command::new(PROGRAM);
    command.args(["encrypt", "-t", "b:2", "-k", "key", "-s"]).arg(bad);
    complaint(&command.output().unwrap(), 2, "an address that is not UTF-8");
    for args in [["key-id", "two\nlines"], ["two\nlines", "x"], ["keygen", "no\nwhere/key"]] {
        complaint(&knockpipe(&dir, &args), 2, args[0]);
    }
}

#[test]
fn help_and_version() {
    let dir = place();
    let cases: [(&[&str], &str); 16] = [
        (&["--help"], "redis-cli"),
        (&["-h"], "redis-cli"),
        (&["help", "encrypt"], "Examples:"),
        (&["encrypt", "--help"], "Examples:"),
        (&["decrypt", "--help"], "Examples:"),
        (&["pipe", "--help"], "ProxyCommand"),
        (&["keygen", "--help"], "Example:"),
        (&["key-id", "--help"], "Example:"),
        (&["demo", "--help"], "Usage:"),
        (&["gate", "--help"], "gate why"),
        (&["gate", "allow", "--help"], "Examples:"),
        (&["gate", "help", "deny"], "Example:"),
        (&["gate", "why", "--help"], "Example:"),
        (&["gate", "import", "--help"], "Examples:"),
        (&["gate", "list", "--help"], "Examples:"),
        (&["-e", "--help"], "spiped"),
    ];
    for (args, part) in cases {
        let output = knockpipe(&dir, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains(part), "{args:?}: {}", stdout(&output));
        assert!(stdout(&output).lines().all(|line| line.len() <= 100), "{args:?} is too wide");
        assert_eq!(output.stderr, b"", "{args:?}");
    }
    let version = format!("knockpipe {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        let output = knockpipe(&dir, &[flag]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), version.as_str()));
    }
    for args in [&["-v"][..], &["-d", "-v"], &["-dFv", "-s", "a:1"]] {
        let output = knockpipe(&dir, args);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stderr, version.as_bytes(), "-v prints to standard error");
    }
}

#[test]
fn unread_output_is_no_failure_and_a_full_disk_is() {
    let dir = place();
    for args in [["--help"].as_slice(), &["--version"], &["key-id", "key"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(PROGRAM);
        let output = command.args(args).current_dir(dir.path()).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));

        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(PROGRAM);
        let output = command.args(args).current_dir(dir.path()).stdout(full).output().unwrap();
        complaint(&output, 1, args[0]);
    }
}

#[test]
fn a_closed_standard_error_is_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(PROGRAM).arg("--bogus").stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn links_named_spiped_and_spipe() {
    let dir = place();
    let [spiped, spipe] = ["spiped", "spipe"].map(|name| {
        let link = dir.path().join(name);
        symlink(PROGRAM, &link).unwrap();
        link
    });
    let answer = |link: &Path, line: &str| {
        let args: Vec<_> = line.split(' ').collect();
        complaint(&run(link, &dir, &args, b""), 2, line)
    };
    assert!(answer(&spiped, "-s a:1 -t b:2 -k key").contains("neither -e nor -d"));
    assert!(answer(&spiped, "encrypt -s a:1 -t b:2 -k key").contains("'encrypt' is not expected"));
    assert!(answer(&spiped, "-e").contains("spiped --help"));
    assert!(answer(&spipe, "-t b:2").contains("-k FILE"));
    assert!(answer(&spipe, "-e -t b:2 -k key").contains("no flag '-e'"));
    assert!(answer(&spipe, "-f -t b:2 -k key").contains("weak handshake"));
    assert!(answer(&spipe, "-t b:2 -k key -k key").contains("-k is given twice"));
    assert!(answer(&spipe, "-t b:2 -k none").contains("no key file none"));
    for link in [&spiped, &spipe] {
        let version = run(link, &dir, &["-v"], b"");
        assert_eq!(version.status.code(), Some(0));
        assert!(version.stderr.starts_with(b"knockpipe "));
        let help = run(link, &dir, &["--help"], b"");
        let usage = format!("Usage: {}", link.file_name().unwrap().to_str().unwrap());
        assert!(stdout(&help).contains(&usage), "{}", stdout(&help));
    }
    assert_eq!(files(&dir), ["key", "spipe", "spiped"]);
}
