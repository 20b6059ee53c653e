//! 8,000 connections, each with one request per second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Bench, PATIENCE, micros};
use crate::competitors::{Competitor, Pair};
use crate::results::{Figures, quantile};
use crate::target::ECHO;

const CONNECTIONS: u32 = 8000;

/// Connections that are opened at the same time.
const CONNECTING: usize = 64;

/// Interval between two requests of a connection.
const PACE: Duration = Duration::from_secs(1);

/// Memory is measured that long after the begin and before the end.
const EDGE: Duration = Duration::from_secs(3);

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    let pair = bench.pair(of)?;
    // One thread: the other core is for the pair.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(hold(&pair, bench.many_time))
}

/// Results of one connection.
#[derive(Default)]
struct Seen {
    times: Vec<f64>,
    failed: bool,
}

async fn hold(pair: &Pair, time: Duration) -> anyhow::Result<Figures> {
    let all_open = Arc::new(Barrier::new(CONNECTIONS as usize + 1));
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (to, all_open, connecting) =
            (pair.entrance(), Arc::clone(&all_open), Arc::clone(&connecting));
        let phase = PACE * number / CONNECTIONS;
        clients.spawn(async move { client(to, &all_open, &connecting, [phase, time]).await });
    }
    all_open.wait().await;
    sleep(EDGE).await;
    let before = pair.memory_kib()?;
    sleep(time.saturating_sub(EDGE * 2)).await;
    let after = pair.memory_kib()?;
    let (mut times, mut failed) = (vec![], 0_u32);
    while let Some(seen) = clients.join_next().await {
        let seen = seen.context("a client panicked")?;
        times.extend(seen.times);
        failed += u32::from(seen.failed);
    }
    Ok(vec![
        ("errors", f64::from(failed)),
        ("p99 ms", quantile(&mut times, 0.99) / 1e3),
        ("KiB at the begin", before),
        ("KiB at the end", after),
        ("memory, times", after / before),
    ])
}

async fn client(
    to: SocketAddr,
    all_open: &Barrier,
    connecting: &Semaphore,
    [phase, time]: [Duration; 2],
) -> Seen {
    let mut seen = Seen::default();
    let opened = {
        let _permit = connecting.acquire().await;
        timeout(PATIENCE, connect(to)).await
    };
    // Also those that failed: the others wait for all.
    all_open.wait().await;
    let Ok(Ok(mut stream)) = opened else {
        seen.failed = true;
        return seen;
    };
    let start = Instant::now();
    let mut next = start + phase;
    while next < start + time {
        sleep_until(next).await;
        next += PACE;
        let clock = Instant::now();
        if !matches!(timeout(PATIENCE, ask(&mut stream)).await, Ok(Ok(()))) {
            seen.failed = true;
            break;
        }
        seen.times.push(micros(clock.elapsed()));
    }
    seen
}

async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(ECHO).await?;
    stream.read_u8().await?;
    Ok(stream)
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut message = [0x5a; 64];
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    Ok(())
}
