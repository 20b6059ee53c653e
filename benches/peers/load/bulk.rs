//! As many bytes as fit, counted where they arrive.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::ensure;

use super::{Bench, WARM_UP, dial};
use crate::competitors::Competitor;
use crate::results::Figures;
use crate::target::{self, SINK, SOURCE};

pub(super) fn measure(
    bench: &Bench,
    of: Competitor,
    up: bool,
    connections: usize,
) -> anyhow::Result<Figures> {
    let pair = bench.pair(of)?;
    let count = if up { Arc::clone(bench.target.received()) } else { Arc::default() };
    let streams: Vec<Bulk> = (0..connections)
        .map(|_| Bulk::start(pair.entrance(), up, &count))
        .collect::<anyhow::Result<_>>()?;
    thread::sleep(WARM_UP);
    let (bytes, cpu, clock) = (count.load(Ordering::Relaxed), pair.cpu()?, Instant::now());
    thread::sleep(bench.time);
    let gigabytes = (count.load(Ordering::Relaxed) - bytes) as f64 / 1e9;
    let (cpu, time) = (pair.cpu()? - cpu, clock.elapsed());
    drop(streams);
    ensure!(gigabytes > 0.0, "nothing arrived");
    let mut figures = vec![("GB/s", gigabytes / time.as_secs_f64())];
    if of != Competitor::Direct {
        figures.push(("CPU s per GB", cpu.as_secs_f64() / gigabytes));
    }
    Ok(figures)
}

/// A running bulk connection; it ends on drop.
pub(super) struct Bulk(TcpStream, Option<thread::JoinHandle<()>>);

impl Bulk {
    /// `count` counts what arrives here; the target counts what arrives there.
    pub(super) fn start(to: SocketAddr, up: bool, count: &Arc<AtomicU64>) -> anyhow::Result<Self> {
        let stream = dial(to, if up { SINK } else { SOURCE })?;
        let (other, count) = (stream.try_clone()?, Arc::clone(count));
        let worker = thread::spawn(move || {
            // An error is the end; a load without bytes is noticed by the count.
            let _ = if up { target::send(&other) } else { target::discard(&other, &count) };
        });
        Ok(Self(stream, Some(worker)))
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // Fails only when the connection is already gone.
        let _ = self.0.shutdown(Shutdown::Both);
        if let Some(worker) = self.1.take() {
            let _ = worker.join();
        }
    }
}
