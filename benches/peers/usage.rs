//! Resources that processes have used, as the operating system counts them.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Returns the CPU time of all processes so far, user and system, with the threads that have ended;
/// in nanoseconds, where /proc/PID/stat counts hundredths of a second.
pub(crate) fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let each = pids.iter().map(|&pid| {
        let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?;
        Ok(Duration::from(clock_gettime(clock)?))
    });
    each.sum()
}

/// Returns the proportional set size in KiB: pages that processes share count once.
pub(crate) fn memory_kib(pids: &[u32]) -> anyhow::Result<f64> {
    pids.iter().map(|&pid| rollup(pid, "Pss:")).sum()
}

fn rollup(pid: u32, field: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("smaps_rollup lacks a field")?.parse()?)
}
