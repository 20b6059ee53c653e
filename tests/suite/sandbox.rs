//! Effects of the sandbox on a running program of ours. `src/sys/sandbox_tests.rs` tries each rule,
//! where it can be asked for what it denies.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tempfile::TempDir;
use testkit::admin::http;
use testkit::file::{Service, decrypt_table};
use testkit::proc::Background;
use testkit::program::require;
use testkit::{
    Addr, End, Kind, Launch, Line, Pair, PairOptions, Program, Target, any, eventually, keygen,
};

/// A user that is not root.
const NOBODY: u32 = 65534;

/// Returns a field of `/proc/PID/task/TID/status` for every thread.
fn of_all_threads(pid: u32, field: &str) -> Vec<String> {
    let prefix = format!("{field}:");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses =
        threads.map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).unwrap());
    statuses
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[track_caller]
fn all_threads_have(pid: u32, field: &str, value: &str) {
    let values = of_all_threads(pid, field);
    assert!(values.len() > 2, "the log's thread, and the runtime's");
    assert!(values.iter().all(|have| have == value), "{field}: {values:?}");
}

/// Restrictions of every program of ours, with any flags.
#[track_caller]
fn hardened(pid: u32) {
    all_threads_have(pid, "NoNewPrivs", "1");
    all_threads_have(pid, "CapBnd", "0000000000000000");
    all_threads_have(pid, "CapAmb", "0000000000000000");
    // The kernel gives files of a process that may be dumped to its user.
    assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    assert!(hard > 0, "this test needs core dumps allowed; see `ulimit -Hc`");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
    let locked: u64 = of_all_threads(pid, "VmLck")[0].trim_end_matches(" kB").parse().unwrap();
    assert!((1..1024).contains(&locked), "keys, and not everything: {locked} kB");
}

#[track_caller]
fn needs_root() {
    assert!(geteuid().is_root(), "this test takes root; run it with sudo");
}

#[test]
fn both_ends_are_hardened_in_every_thread_and_say_so() {
    needs_root();
    let target = Target::echo();
    for flag in [None, Some("--no-sandbox")] {
        let flags: Vec<&str> = flag.into_iter().collect();
        let pair = Pair::start(PairOptions::both(&flags), target.addr());
        pair.connect().expect_echo(b"hello");
        for (name, end) in pair.ends() {
            hardened(end.pid());
            let line = end.program.wait_line("sandbox", |line| line.is("sandbox"));
            let landlock = line.field("landlock").unwrap();
            assert_eq!(landlock == "off", flag.is_some(), "{name}: {}", line.text());
            assert!(flag.is_some() || landlock.starts_with("version "), "{}", line.text());
            for field in ["no_new_privs", "no_dumps", "no_new_capabilities"] {
                assert_eq!(line.field(field).as_deref(), Some("true"), "{}", line.text());
            }
            assert_eq!(line.field("key_memory").as_deref(), Some("locked"), "{}", line.text());
        }
        pair.stop();
    }
}

#[test]
fn the_ports_in_the_log_are_those_in_use_and_no_others() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let tcp = |launch: Launch| {
        let end = launch.start();
        let line = end.program.wait_line("sandbox", |line| line.is("sandbox"));
        line.field("tcp").unwrap()
    };
    let base = || Launch::decrypt(&key).source(&any()).args(["-t", "127.0.0.1:7"]);
    assert_eq!(tcp(base()), "bind 0 connect 53,7");
    let more = base().args(["-t", "b=[::1]:8", "-b", "127.0.0.1", "--gate"]);
    let file = format!("file:{}", dir.path().join("gate").display());
    assert_eq!(tcp(more.args([file])), "bind 0 connect 53,7,8");
    // The address of the master is not known.
    assert_eq!(tcp(base().args(["--gate", "redis://127.0.0.1:9"])), "bind 0 connect any");
    let unix = Launch::decrypt(&key).args(["-s"]).args([dir.path().join("s")]);
    assert_eq!(tcp(unix.args(["-t", "/no/where"])), "bind none connect 53");
}

/// A unix socket for metrics is made and removed inside, and lifts nothing.
#[test]
fn metrics_on_a_unix_socket_need_no_port() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    fs::create_dir(dir.path().join("run")).unwrap();
    let metrics = dir.path().join("run/metrics.sock");
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "127.0.0.1:7", "--metrics"]);
    let mut end = launch.args([&metrics]).start();
    let line = end.program.wait_line("sandbox", |line| line.is("sandbox"));
    assert_eq!(line.field("tcp").as_deref(), Some("bind 0 connect 53,7"), "{}", line.text());
    assert_eq!(http(&Addr::Unix(metrics.clone()), "GET", "/readyz").status, 200);
    end.stop();
    assert!(!metrics.exists(), "it is removed");
}

/// The cause is not to be seen at the file then.
#[test]
fn a_reload_that_the_sandbox_forbids_names_it() {
    let (dir, new, target) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Target::echo());
    keygen(dir.path(), "key");
    let key = keygen(new.path(), "key");
    let text = |key: &str| decrypt_table("far", target.addr(), key, "");
    let mut service = Service::start(dir.path(), "far.toml", &text("\"key\""));
    let line = service.reload_fails(&text(&format!("{key:?}")));
    assert!(line.text().contains("sandbox"), "{}", line.text());
    service.stop();
}

/// The same reload that works outside: of a key that is, by then, a link to another
/// directory than that which the rules name.
#[test]
fn the_sandbox_holds_in_the_running_program() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let elsewhere = keygen(other.path(), "key");
    for (flag, answer) in [("--no-keepalive", "cannot reload"), ("--no-sandbox", "reloaded")] {
        let key = keygen(dir.path(), flag.trim_start_matches('-'));
        let launch = Launch::decrypt(&key).source(&any()).args(["-t", "/no/where", flag]);
        let mut end = launch.start();
        fs::remove_file(&key).unwrap();
        symlink(&elsewhere, &key).unwrap();
        end.program.signal(Signal::SIGHUP);
        let is_answer = |line: &Line| line.is("cannot reload") || line.is("reloaded");
        let line = end.program.wait_line("an answer", is_answer);
        assert!(line.is(answer), "{flag}: {}", line.text());
        end.stop();
    }
}

#[test]
fn the_background_and_the_pipe_are_hardened_too() {
    needs_root();
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let source = dir.path().join("source");
    let started = Command::new(testkit::binary())
        .args(["-d", "-t", "/no/where", "-s"])
        .arg(&source)
        .arg("-k")
        .arg(&key)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(started.success());
    let background = Background::of(&dir.path().join("source.pid"));
    hardened(background.pid());
    background.stop();
    assert!(!source.exists(), "it is gone with its files");

    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let mut pipe = Command::new(testkit::binary());
    pipe.args(["pipe", "--log-level", "info", "-t", &pair.decrypt.addr().to_string(), "-k"]);
    pipe.arg(pair.key()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut pipe = Program::spawn("pipe", &mut pipe);
    pipe.child().stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    eventually("the pipe works", || target.counts().bytes() > 0);
    hardened(pipe.pid());
    drop(pipe.child().stdin.take());
    assert_eq!(pipe.exit_code(), 0);
}

/// -u: every thread, every id, every capability, and no way for the new user
/// to look into the process.
#[test]
fn a_dropped_root_is_gone_from_every_thread() {
    needs_root();
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    // In root's directory, where no other user could bind.
    let source = Kind::Unix.fresh(dir.path(), "source");
    let launch = Launch::decrypt(&key).source(&source).args(["-t", "/no/where"]);
    let end = launch.args(["-u", &format!("{NOBODY}:{NOBODY}")]).start();
    let ids = [NOBODY; 4].map(|id| id.to_string()).join(" ");
    for (field, value) in [
        ("Uid", ids.as_str()),
        ("Gid", ids.as_str()),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
    ] {
        all_threads_have(end.pid(), field, value);
    }
    hardened(end.pid());
    for file in ["mem", "environ", "maps"] {
        let path = format!("/proc/{}/{file}", end.pid());
        let look = Command::new("cat").arg(&path).uid(NOBODY).gid(NOBODY).output().unwrap();
        assert!(!look.status.success() && look.stdout.is_empty(), "{file} can be read");
    }
}

/// -u by a user that may not: the start fails, and says why.
#[test]
fn a_user_that_cannot_be_taken_fails_the_start() {
    needs_root();
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    for path in [dir.path(), &key] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let source = Kind::Unix.fresh(dir.path(), "source");
    let launch = Launch::decrypt(&key).source(&source).args(["-t", "/no/where"]);
    let mut command = launch.args(["-u", "54321:54322"]).command();
    let mut refused = Program::spawn("decrypt", command.uid(NOBODY).gid(NOBODY));
    assert_eq!(refused.exit_code(), 1);
    let text = refused.stderr();
    let complaints: Vec<_> = text.lines().filter(|line| line.starts_with("knockpipe: ")).collect();
    let [one] = complaints[..] else { panic!("one line of complaint: {text}") };
    assert!(one.contains("54321:54322") && one.contains("root"), "{one}");
    assert!(!source.path().exists(), "what was bound is removed again");
}

#[test]
fn a_crash_leaves_no_core() {
    require("sh", "dash");
    let dir = TempDir::new().unwrap();
    let anybody = Command::new("sh")
        .args(["-c", "ulimit -c unlimited && kill -ABRT $$"])
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(
        anybody.core_dumped(),
        "no crash leaves a core here; allow it with 'sysctl kernel.core_pattern=core' and 'ulimit -Hc unlimited'"
    );
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "/no/where"]);
    let mut command = launch.prelude("ulimit -c unlimited || exit 9;").command();
    let mut end = End::of(Program::spawn("decrypt", command.current_dir(dir.path())));
    end.program.signal(Signal::SIGABRT);
    let status = end.program.wait();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped());
}

/// If nothing may be locked, the log says so and all the rest works.
#[test]
fn memory_that_cannot_be_locked_is_told() {
    needs_root();
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    for path in [dir.path(), &key] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let launch = Launch::decrypt(&key).source(&any()).args(["-t", "/no/where"]);
    let mut command = launch.prelude("ulimit -l 0;").command();
    let mut end = End::of(Program::spawn("decrypt", command.uid(NOBODY).gid(NOBODY)));
    let line = end.program.wait_line("sandbox", |line| line.is("sandbox"));
    let memory = line.field("key_memory").unwrap();
    assert!(memory.starts_with("not locked: "), "{}", line.text());
    assert_eq!(of_all_threads(end.pid(), "VmLck")[0], "0 kB");
    end.program.signal(Signal::SIGHUP);
    end.program.wait_line("reloaded", |line| line.is("reloaded"));
    assert_eq!(end.count("keys are not locked in memory"), 1, "{}", end.program.tail());
    // The files belong to the user that it always was.
    for file in ["mem", "environ"] {
        assert_eq!(fs::metadata(format!("/proc/{}/{file}", end.pid())).unwrap().uid(), 0, "{file}");
    }
    end.stop();
}
