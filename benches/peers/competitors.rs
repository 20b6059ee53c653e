//! The pairs that are compared: two processes between a client and a target,
//! each started fresh for each measurement.

mod commands;
mod files;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::process::Process;
use crate::usage;
use commands::Hop;
pub(crate) use files::Files;
use testkit::address::free_port;
use testkit::netns::Namespace;

/// Attempts to start on ports that another process may take meanwhile.
const STARTS: usize = 3;

/// Time that an end may take until it listens.
const READY: Duration = Duration::from_secs(10);

/// A relay between the client and the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Competitor {
    Direct,
    Haproxy,
    HaproxyTls,
    Spiped,
    StunnelAes,
    StunnelChacha,
    Knockpipe,
    KnockpipeChacha,
    KnockpipePool,
}

impl Competitor {
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Haproxy,
        Self::HaproxyTls,
        Self::Spiped,
        Self::StunnelAes,
        Self::StunnelChacha,
        Self::Knockpipe,
        Self::KnockpipeChacha,
        Self::KnockpipePool,
    ];

    /// Returns the name for the command line and the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::HaproxyTls => "haproxy-mtls",
            Self::Spiped => "spiped",
            Self::StunnelAes => "stunnel-aes",
            Self::StunnelChacha => "stunnel-chacha",
            Self::Knockpipe => "knockpipe",
            Self::KnockpipeChacha => "knockpipe-chacha",
            Self::KnockpipePool => "knockpipe-pool",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Knockpipe | Self::KnockpipeChacha | Self::KnockpipePool)
    }
}

/// The machine that one end runs on.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// Address at which the end listens.
    pub(crate) ip: Ipv4Addr,
    /// Its network, when it is not that of the benchmark.
    pub(crate) namespace: Option<&'a Namespace>,
}

impl Side<'_> {
    pub(crate) const HERE: Side<'static> = Side { ip: Ipv4Addr::LOCALHOST, namespace: None };

    /// Runs `work` on that machine.
    pub(crate) fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self.namespace {
            Some(namespace) => namespace.enter(work),
            None => work(),
        }
    }
}

/// A running pair, or none at all for a direct connection.
pub(crate) struct Pair {
    entrance: SocketAddr,
    ends: Vec<Process>,
    // Last, so that it is removed after both ends are gone.
    _dir: TempDir,
}

impl Pair {
    /// Starts both ends on this machine and waits until they listen.
    pub(crate) fn start(
        competitor: Competitor,
        files: &Files,
        target: SocketAddr,
    ) -> anyhow::Result<Self> {
        Self::start_at(competitor, files, target, [Side::HERE, Side::HERE])
    }

    /// Starts the near end, next to the client, and the far end where they belong.
    pub(crate) fn start_at(
        competitor: Competitor,
        files: &Files,
        target: SocketAddr,
        [near, far]: [Side<'_>; 2],
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        if competitor == Competitor::Direct {
            return Ok(Self { entrance: target, ends: vec![], _dir: dir });
        }
        let starter = Starter { competitor, files, dir: &dir };
        let (far_end, middle) = starter.start_ready(far, false, target)?;
        let (near_end, entrance) = starter.start_ready(near, true, middle)?;
        Ok(Self { entrance, ends: vec![near_end, far_end], _dir: dir })
    }

    /// Returns the address that clients connect to.
    pub(crate) fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    /// CPU time of both ends so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        usage::cpu(&self.pids())
    }

    /// Memory of both ends in KiB.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<f64> {
        usage::memory_kib(&self.pids())
    }

    fn pids(&self) -> Vec<u32> {
        self.ends.iter().map(Process::pid).collect()
    }
}

/// A far end that listens, and near ends that are started one after another.
pub(crate) struct NearEnds<'a> {
    competitor: Competitor,
    files: &'a Files,
    middle: SocketAddr,
    _far: Process,
    dir: TempDir,
}

impl<'a> NearEnds<'a> {
    pub(crate) fn before(
        competitor: Competitor,
        files: &'a Files,
        target: SocketAddr,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let starter = Starter { competitor, files, dir: &dir };
        let (far, middle) = starter.start_ready(Side::HERE, false, target)?;
        Ok(Self { competitor, files, middle, _far: far, dir })
    }

    /// Starts one on an address that is free, without waiting for anything.
    pub(crate) fn start(&self, listen: SocketAddr) -> anyhow::Result<Process> {
        let starter = Starter { competitor: self.competitor, files: self.files, dir: &self.dir };
        starter.start(&Hop { near: true, listen, to: self.middle })
    }
}

struct Starter<'a> {
    competitor: Competitor,
    files: &'a Files,
    dir: &'a TempDir,
}

impl Starter<'_> {
    fn start_ready(
        &self,
        side: Side<'_>,
        near: bool,
        to: SocketAddr,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let mut last = anyhow::anyhow!("never tried");
        for _ in 0..STARTS {
            match side.run(|| self.try_start(side.ip, near, to)) {
                Ok(started) => return Ok(started),
                Err(error) => last = error,
            }
        }
        Err(last).with_context(|| format!("{} does not start", self.competitor.name()))
    }

    fn try_start(
        &self,
        ip: Ipv4Addr,
        near: bool,
        to: SocketAddr,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let listen = SocketAddr::from((ip, free_port()));
        let mut process = self.start(&Hop { near, listen, to })?;
        let end = Instant::now() + READY;
        while TcpStream::connect(listen).is_err() {
            if let Some(log) = process.died() {
                bail!("it ends at once:\n{log}");
            }
            if Instant::now() > end {
                bail!("it does not listen");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok((process, listen))
    }

    fn start(&self, hop: &Hop) -> anyhow::Result<Process> {
        let name = if hop.near { "near" } else { "far" };
        let mut command = commands::of(self.competitor, hop, self.files, self.dir.path())?;
        Process::start(&mut command, &self.dir.path().join(format!("{name}.log")))
    }
}
