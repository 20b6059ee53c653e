//! State of a process, from /proc.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::eventually;

/// Linux counts CPU time for /proc in hundredths of a second on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Returns the resident memory in KiB.
#[track_caller]
pub fn rss_kib(pid: u32) -> u64 {
    let text = read(pid, "smaps_rollup");
    let line = text.lines().find(|l| l.starts_with("Rss:")).expect("smaps_rollup has an Rss line");
    line.split_whitespace().nth(1).expect("the line has a number").parse().expect("it is a number")
}

/// Returns the peak of the resident memory, in KiB.
#[track_caller]
pub fn most_rss_kib(pid: u32) -> u64 {
    let text = read(pid, "status");
    let line = text.lines().find(|l| l.starts_with("VmHWM:")).expect("status has a VmHWM line");
    line.split_whitespace().nth(1).expect("the line has a number").parse().expect("it is a number")
}

/// Counts the open file descriptors.
#[track_caller]
pub fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// Content of `/proc/PID/stat`.
pub struct Stat {
    /// A letter: Z is a zombie, not yet reaped by its parent.
    pub state: String,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// CPU time used so far, user and system.
    pub cpu: Duration,
}

/// Returns `None` when there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    stat_in(Path::new(&format!("/proc/{pid}")))
}

/// Reads the state of the process, or thread, with this directory in /proc.
pub(crate) fn stat_in(directory: &Path) -> Option<Stat> {
    let text = fs::read_to_string(directory.join("stat")).ok()?;
    // The name may contain anything, so fields count from its closing parenthesis.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |n: usize| fields.get(n)?.parse::<u32>().ok();
    Some(Stat {
        state: fields[0].to_owned(),
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        cpu: TICK * (number(11)? + number(12)?),
    })
}

/// Returns the CPU time used so far, user and system.
#[track_caller]
pub fn cpu(pid: u32) -> Duration {
    stat(pid).expect("the process lives").cpu
}

/// Returns the pid in a pid file; panics if the file has another form.
#[track_caller]
pub fn pid_in(file: &Path) -> u32 {
    let text = fs::read_to_string(file).expect("there is a pid file");
    let pid = text.strip_suffix('\n').expect("a newline ends a pid file");
    pid.parse().expect("it holds a pid")
}

/// A process in the background that is not a child of the test. It does not outlive its test.
pub struct Background(Pid);

impl Background {
    /// Takes the process that its pid file names.
    #[track_caller]
    pub fn of(pid_file: &Path) -> Self {
        Self(Pid::from_raw(pid_in(pid_file).cast_signed()))
    }

    pub fn pid(&self) -> u32 {
        self.0.as_raw().cast_unsigned()
    }

    pub fn lives(&self) -> bool {
        stat(self.pid()).is_some_and(|stat| stat.state != "Z")
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn stop(&self) {
        kill(self.0, Signal::SIGTERM).expect("it lives");
        eventually("the background process ends", || !self.lives());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.lives() {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

/// Makes sure that this process, and every program that it starts from now on, may have `needed`
/// descriptors; panics with the remedy when the hard limit forbids it.
#[track_caller]
pub fn need_descriptors(needed: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    assert!(hard >= needed, "this test needs `ulimit -Hn` of {needed}, and it is {hard}");
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit can be raised");
    }
}

/// Counts the threads.
#[track_caller]
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count()
}

/// Returns the processor time that the threads called `name` have used.
#[track_caller]
pub fn cpu_of_threads(pid: u32, name: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten();
    let is_named = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    // In nanoseconds, where ticks would be too coarse.
    let used = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter(is_named).filter_map(used).sum())
}

/// An IPv4 TCP socket of a process, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    pub local: SocketAddrV4,
    pub remote: SocketAddrV4,
    pub state: TcpState,
    /// Bytes that were sent and not acknowledged.
    pub unacknowledged: u64,
    /// 0 is none, 1 retransmission, 2 keepalive, 4 window probes.
    pub timer: u8,
}

/// State of a TCP socket, as far as tests need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    Established,
    /// Connecting.
    SynSent,
    Other,
}

/// Returns the IPv4 TCP sockets that the process holds.
#[track_caller]
pub fn tcp_sockets(pid: u32) -> Vec<TcpSocket> {
    let own: HashSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process lives")
        .filter_map(|entry| {
            fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok()
        })
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = read(pid, "net/tcp");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| own.contains(row[9])).map(|row| tcp_socket(&row)).collect()
}

/// Parses `sl local remote state tx:rx timer:when ...`, all hexadecimal.
fn tcp_socket(row: &[&str]) -> TcpSocket {
    let address = |text: &str| {
        let (ip, port) = text.split_once(':').expect("an address has a port");
        let ip = u32::from_str_radix(ip, 16).expect("it is a number");
        let port = u16::from_str_radix(port, 16).expect("it is a number");
        // The kernel prints the bytes in memory as a number of this machine.
        SocketAddrV4::new(Ipv4Addr::from(ip.to_ne_bytes()), port)
    };
    let first = |pair: &str| {
        let (first, _) = pair.split_once(':').expect("two numbers");
        u64::from_str_radix(first, 16).expect("it is a number")
    };
    TcpSocket {
        local: address(row[1]),
        remote: address(row[2]),
        state: match row[3] {
            "01" => TcpState::Established,
            "02" => TcpState::SynSent,
            _ => TcpState::Other,
        },
        unacknowledged: first(row[4]),
        timer: u8::try_from(first(row[5])).expect("a timer has a small number"),
    }
}

/// Returns the processes that satisfy `wanted`.
pub fn those(wanted: impl Fn(&Stat) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is a /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|stat| wanted(&stat))).collect()
}

/// Returns the running processes of a process group.
pub fn group(leader: u32) -> Vec<u32> {
    those(|stat| stat.state != "Z" && stat.group == leader)
}

#[track_caller]
fn read(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}"))
        .unwrap_or_else(|e| panic!("process {pid} has no readable {name}: {e}"))
}
