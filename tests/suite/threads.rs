//! A system that gives no more threads: the limit of a user or a container, or an old container
//! engine that forbids the call.
//!
//! The limit of threads does not hold for root, so the program runs as a user that no other program
//! uses. Needs root.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::names::{NAME, Names, ONE, TWO, says, served_by};
use testkit::program::{install, require};
use testkit::wait::poll;
use testkit::{End, Launch, NEVER, Program, Target, any, binary, eventually, keygen, proc};

/// Time after which an idle thread ends.
const IDLE: Duration = Duration::from_secs(12);

/// A user of its own, with a directory in which the program and a key are.
struct User {
    uid: u32,
    dir: TempDir,
    key: PathBuf,
}

impl User {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        require("setpriv", "util-linux");
        require("prlimit", "util-linux");
        assert!(nix::unistd::geteuid().is_root(), "this test becomes another user; run it as root");
        let uid = 1_000_000 + std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed);
        let open = Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        install(&binary(), &dir.path().join("knockpipe"));
        let key = keygen(dir.path(), "key");
        for path in [dir.path(), &key] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        Self { uid, dir, key }
    }

    /// Returns the program as this user.
    fn program(&self) -> PathBuf {
        self.script("as-user", "")
    }

    /// Returns the program as this user, with so many threads.
    fn limited(&self, threads: usize) -> PathBuf {
        self.script(&format!("limited-{threads}"), &format!("prlimit --nproc={threads}:{threads}"))
    }

    fn script(&self, name: &str, more: &str) -> PathBuf {
        let script = self.dir.path().join(name);
        let (uid, program) = (self.uid, self.dir.path().join("knockpipe"));
        let text = format!(
            "#!/bin/sh\nexec setpriv --reuid {uid} --regid {uid} --clear-groups {more} {} \"$@\"\n",
            program.display()
        );
        write_script(self.dir.path(), &script, &text);
        script
    }

    fn decrypt(&self, program: &Path) -> Launch {
        Launch::decrypt(&self.key).binary(program).source(&any())
    }

    /// Starts the other end, which only this user can be, since the key is theirs.
    #[track_caller]
    fn encrypt(&self, to: &End) -> End {
        let program = self.script("encrypt", "");
        Launch::encrypt(&self.key).binary(&program).source(&any()).target(to.addr()).start()
    }
}

fn write_script(dir: &Path, script: &Path, text: &str) {
    let draft = dir.join("draft");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, Permissions::from_mode(0o755)).unwrap();
    install(&draft, script);
}

/// Limits the threads of a running program from now on: none, or as many as given.
#[track_caller]
fn allow_threads(user: &User, end: &End, allowed: bool) {
    let pid = end.pid().to_string();
    let limit = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        let uid = user.uid.to_string();
        command.args([
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            "prlimit",
            "--pid",
            &pid,
        ]);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let most = limit(&["--nproc", "--noheadings", "--raw", "--output", "HARD"]);
    let soft = if allowed { most.trim() } else { "1" };
    limit(&[&format!("--nproc={soft}:")]);
}

/// The outcome of a start.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Serves,
    /// It failed with status 1 and one line that says why.
    Failed,
}

#[track_caller]
fn start(launch: &Launch, threads: usize) -> Start {
    let mut program = launch.spawn();
    if program.wait_line_within(NEVER, |line| line.is("ready")).is_some() {
        program.signal(Signal::SIGTERM);
        assert_eq!(program.exit_code(), 0, "{threads} threads:\n{}", program.tail());
        return Start::Serves;
    }
    // At its end, or else it hangs: then this fails.
    assert_eq!(program.exit_code(), 1, "{threads} threads:\n{}", program.tail());
    let (text, lines) = (program.stderr(), program.raw_lines().len());
    assert_eq!(lines, 1, "{threads} threads:\n{text}");
    assert!(text.starts_with("knockpipe: ") && text.contains("; "), "{threads} threads:\n{text}");
    Start::Failed
}

/// With any number of threads it serves, or says why not. It never hangs, and never ends without a
/// word.
#[test]
fn a_start_with_few_threads_serves_or_says_why_not() {
    let user = User::new();
    let mut served = 0;
    for threads in 1..200 {
        let launch = user.decrypt(&user.limited(threads)).args(["-t", "127.0.0.1:1"]);
        match start(&launch, threads) {
            Start::Failed => assert_eq!(served, 0, "it served with fewer than {threads}"),
            Start::Serves => served += 1,
        }
        assert!(threads > 1 || served == 0, "one thread cannot be enough");
        if served == 2 {
            return;
        }
    }
    panic!("it never serves");
}

/// A reload reads its files, and the process and its sessions go on.
#[test]
fn a_reload_without_threads_ends_nothing() {
    let (user, target) = (User::new(), Target::echo());
    let mut decrypt = user.decrypt(&user.program()).target(target.addr()).start();
    let encrypt = user.encrypt(&decrypt);
    let mut session = encrypt.connect();
    session.expect_echo(b"before");
    let reloads = |end: &End| end.count("reloaded") + end.count("cannot reload");
    // A thread of the start may be there for a while, and would suffice for this.
    let at_start = proc::threads(decrypt.pid());
    let _ = poll(IDLE, || (proc::threads(decrypt.pid()) < at_start).then_some(()));
    allow_threads(&user, &decrypt, false);
    for round in 1..=3 {
        decrypt.program.signal(Signal::SIGHUP);
        eventually("the reload is over", || reloads(&decrypt) == round);
        session.expect_echo(b"and goes on");
    }
    assert!(decrypt.program.is_running(), "{}", decrypt.program.tail());
    allow_threads(&user, &decrypt, true);
    let before = decrypt.count("reloaded");
    decrypt.program.signal(Signal::SIGHUP);
    eventually("it reloads again", || decrypt.count("reloaded") > before);
    encrypt.connect().expect_echo(b"a new one");
    drop(session);
    decrypt.stop();
}

/// Names are followed with a thread each time, for ever. The pause is longer than an idle thread
/// stays.
#[test]
fn a_name_is_followed_while_there_are_no_threads_and_after() {
    let one = says(SocketAddr::from((ONE, 0)), "1");
    let port = one.addr().tcp().port();
    let _two = says(SocketAddr::from((TWO, port)), "2");
    let (user, names) = (User::new(), Names::new());
    names.say(Some(ONE));
    let decrypt = user.decrypt(&names.with(&user.program()));
    let mut decrypt = decrypt.args(["-t", &format!("{NAME}:{port}"), "-r", "11s"]).start();
    let encrypt = user.encrypt(&decrypt);
    assert!(served_by(encrypt.addr(), "1"));
    allow_threads(&user, &decrypt, false);
    names.say(Some(TWO));
    eventually("the name is followed", || served_by(encrypt.addr(), "2"));
    allow_threads(&user, &decrypt, true);
    names.say(Some(ONE));
    eventually("and followed back", || served_by(encrypt.addr(), "1"));
    decrypt.stop();
}

/// Forbids `clone3` as old container engines do, which answer otherwise than a system that does not
/// know it; then becomes the program.
const WITHOUT_CLONE3: &str = r#"
    my $number = shift @ARGV;
    my $filter = pack("SCCL" x 4, 0x20, 0, 0, 0, 0x15, 0, 1, 435,
                      0x06, 0, 0, 0x00050001, 0x06, 0, 0, 0x7fff0000);
    my $program = pack("S x6 P", 4, $filter);
    syscall($number, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
    syscall($number, 22, 2, $program) == 0 or die "seccomp: $!";
    exec @ARGV;
"#;

/// The number of prctl(2).
const PRCTL: &str = if cfg!(target_arch = "x86_64") { "157" } else { "167" };

/// Without a single thread, every error is reported, and with the same status.
#[test]
fn an_error_is_said_also_without_a_thread() {
    require("perl", "perl-base");
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let key = key.to_str().unwrap();
    let serving = ["-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-k", key];
    for (status, why, args) in [
        (1, "thread", [&["decrypt"], &serving[..]].concat()),
        (1, "thread", [&["encrypt"], &serving[..]].concat()),
        (1, "thread", vec!["pipe", "-t", "localhost:1", "-k", key]),
        (2, "no-such-key", vec!["key-id", "no-such-key"]),
        (2, "no command", vec![]),
        (2, "-s", vec!["decrypt", "-k", key]),
    ] {
        let mut command = Command::new("perl");
        command.args(["-e", WITHOUT_CLONE3, PRCTL]).arg(binary()).args(&args);
        let mut program =
            Program::spawn("perl", command.stdin(Stdio::null()).stdout(Stdio::null()));
        assert_eq!(program.exit_code(), status, "{args:?}:\n{}", program.tail());
        let text = program.stderr();
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(text.starts_with("knockpipe: ") && text.contains(why), "{args:?}: {text}");
    }
}
