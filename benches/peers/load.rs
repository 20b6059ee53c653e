//! The loads. Each starts a fresh pair, warms it up, and measures for a while.

mod beside_bulk;
mod bulk;
mod connects;
mod first_byte;
mod idle;
mod many;
mod redis;
mod round_trip;
mod start;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::ensure;

use crate::competitors::{Competitor, Files, Pair};
use crate::link::Link;
use crate::results::Figures;
use crate::target::Target;
use testkit::redis::Redis;

/// A connection that is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Warm-up before the clock starts: buffers grow, threads wake, windows open.
const WARM_UP: Duration = Duration::from_millis(300);

/// A load, with its parameters.
pub(crate) enum Load {
    Bulk { up: bool, connections: usize },
    RoundTrip,
    Redis { pipeline: u32, size: u32, requests: u32 },
    Connects,
    Idle,
    FirstByte,
    BesideBulk,
    Many,
    Start,
}

impl Load {
    pub(crate) fn measure(&self, bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
        match *self {
            Self::Bulk { up, connections } => bulk::measure(bench, of, up, connections),
            Self::RoundTrip => round_trip::measure(bench, of),
            Self::Redis { pipeline, size, requests } => {
                redis::measure(bench, of, redis::Requests { pipeline, size, number: requests })
            }
            Self::Connects => connects::measure(bench, of),
            Self::Idle => idle::measure(bench, of),
            Self::FirstByte => first_byte::measure(bench, of),
            Self::BesideBulk => beside_bulk::measure(bench, of),
            Self::Many => many::measure(bench, of),
            Self::Start => start::measure(bench, of),
        }
    }
}

/// The parts that all loads use.
pub(crate) struct Bench {
    pub(crate) files: Files,
    pub(crate) target: Target,
    /// Duration of a steady load.
    pub(crate) time: Duration,
    /// Time for which many connections are held.
    pub(crate) many_time: Duration,
    redis: OnceLock<Redis>,
    link: OnceLock<Link>,
}

impl Bench {
    pub(crate) fn new(time: Duration, many_time: Duration) -> anyhow::Result<Self> {
        let (files, target) = (Files::make()?, Target::start(Ipv4Addr::LOCALHOST)?);
        Ok(Self { files, target, time, many_time, redis: OnceLock::new(), link: OnceLock::new() })
    }

    /// Starts a fresh pair in front of the target.
    fn pair(&self, of: Competitor) -> anyhow::Result<Pair> {
        Pair::start(of, &self.files, self.target.address())
    }

    /// Returns the Redis, which is started when the first load needs it.
    fn redis(&self) -> &Redis {
        self.redis.get_or_init(Redis::start)
    }

    /// Returns the link, which is made when the first load needs it.
    fn link(&self) -> &Link {
        self.link.get_or_init(Link::new)
    }
}

/// Opens a connection to the target that asks for `wanted`.
fn dial(to: SocketAddr, wanted: u8) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[wanted])?;
    Ok(stream)
}

/// Opens one and reads the target's answer.
fn dial_echo(to: SocketAddr, wanted: u8) -> anyhow::Result<TcpStream> {
    let mut stream = dial(to, wanted)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer[0] == wanted, "another answer than the echo");
    Ok(stream)
}

/// Sends one request and reads its echo.
fn ping(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut message = [0x5a; 64];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
