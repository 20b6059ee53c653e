//! Tokens in what a process leaves behind or shows of itself: core dumps, /proc.
//!
//! Its memory may have one in a buffer that is free and not used again yet: root can read that, and
//! its own user cannot.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::http::Ask;
use super::service::Settings;
use testkit::redis::Redis;
use testkit::{End, Program};

const RIGHT: &str = "a-token-that-stays-secret-000001";
const WRONG: &str = "a-token-that-nobody-has-00000002";
const NOBODY: u32 = 65_534;

fn settings(gate: &str) -> Settings {
    Settings::new().with_token("right", RIGHT, &[]).args(&[
        "--gate",
        gate,
        "--most-failures",
        "0",
        "--most-knocks",
        "0",
    ])
}

/// Has a service answer 100 requests with tokens, right and wrong ones.
fn ask_often(end: &End) {
    for number in 0..100 {
        let (token, method, status) = match number % 4 {
            0 => (RIGHT, "POST", 200),
            1 => (RIGHT, "GET", 200),
            2 => (WRONG, "GET", 401),
            _ => (WRONG, "POST", 401),
        };
        let answer = Ask::new("127.10.0.1", method, "/knock").token(token).send(end.addr().tcp());
        assert_eq!(answer.status, status);
    }
}

#[test]
fn a_crash_after_requests_with_tokens_leaves_no_core() {
    let redis = Redis::start();
    let settings = settings(&redis.url());
    let dir = settings.dir.path();
    let crash = ["-c", "ulimit -c unlimited && kill -ABRT $$"];
    let anybody = Command::new("sh").args(crash).current_dir(dir).status().unwrap();
    assert!(
        anybody.core_dumped(),
        "no crash leaves a core here; allow it with 'sysctl kernel.core_pattern=core' and 'ulimit -Hc unlimited'"
    );
    let mut command = settings.launch().prelude("ulimit -c unlimited || exit 9;").command();
    let mut end = End::of(Program::spawn("knockd", command.current_dir(dir)));
    ask_often(&end);
    end.program.signal(Signal::SIGABRT);
    let status = end.program.wait();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped());
}

/// A process that runs as another user, and that user.
#[test]
fn the_user_of_a_service_sees_nothing_of_it_in_proc() {
    let redis = Redis::start();
    let settings = settings(&redis.url()).args(&["-u", &format!("{NOBODY}:{NOBODY}")]);
    let end = settings.launch().start();
    ask_often(&end);
    let proc = format!("/proc/{}", end.pid());
    let read_as_nobody = |proc: &str, file: &str| {
        let mut cat = Command::new("cat");
        cat.arg(format!("{proc}/{file}")).uid(NOBODY).gid(NOBODY).output().unwrap()
    };
    // Of another program that user sees all, so that the looks below could find something.
    let waiting = Command::new("cat").uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).spawn();
    let mut waiting = waiting.unwrap();
    for file in ["environ", "maps", "auxv"] {
        let read = read_as_nobody(&format!("/proc/{}", waiting.id()), file);
        assert!(read.status.success() && !read.stdout.is_empty(), "{file} of another program");
    }
    drop(waiting.stdin.take());
    waiting.wait().unwrap();
    let as_nobody = |file: &str| read_as_nobody(&proc, file);
    for file in ["mem", "environ", "maps", "auxv", "stack"] {
        let read = as_nobody(file);
        assert!(!read.status.success() && read.stdout.is_empty(), "{file} is readable");
    }
    for file in ["cmdline", "status", "comm", "stat"] {
        let shown = String::from_utf8_lossy(&as_nobody(file).stdout).into_owned();
        assert!(!shown.is_empty() && !shown.contains(RIGHT) && !shown.contains(WRONG), "{file}");
    }
    let environ = std::fs::read(format!("{proc}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environ).contains(RIGHT));
}
