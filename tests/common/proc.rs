//! What /proc tells about a process.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Linux counts CPU time for /proc in hundredths of a second on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Resident memory in KiB.
#[track_caller]
pub fn rss_kib(pid: u32) -> u64 {
    let text = read(pid, "smaps_rollup");
    let line = text.lines().find(|l| l.starts_with("Rss:")).expect("smaps_rollup has an Rss line");
    line.split_whitespace().nth(1).expect("the line has a number").parse().expect("it is a number")
}

/// Open file descriptors.
#[track_caller]
pub fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// CPU time used so far, user and system.
#[track_caller]
pub fn cpu(pid: u32) -> Duration {
    let text = read(pid, "stat");
    // The command name may hold spaces, so fields count from its closing parenthesis.
    let after = &text[text.rfind(')').expect("stat has a name") + 2..];
    let ticks = |n: usize| -> u32 {
        after.split(' ').nth(n).expect("stat has fields").parse().expect("it is a number")
    };
    TICK * (ticks(11) + ticks(12))
}

/// Makes sure that this process, and every program it starts from now on, may
/// have `needed` descriptors; panics with the remedy when the hard limit forbids it.
#[track_caller]
pub fn need_descriptors(needed: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    assert!(hard >= needed, "this test needs `ulimit -Hn` of {needed}, and it is {hard}");
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit can be raised");
    }
}

/// Threads.
#[track_caller]
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count()
}

#[track_caller]
fn read(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}"))
        .unwrap_or_else(|e| panic!("process {pid} has no readable {name}: {e}"))
}
