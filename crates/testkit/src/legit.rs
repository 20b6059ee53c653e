//! Legitimate clients that keep working while another peer misbehaves, or something changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::address::Addr;
use crate::wait::eventually;
use crate::wire::Wire;

/// Durations of many round trips.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns a summary for a person to read; no test depends on it.
    pub fn summary(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        };
        match (at(50), at(99), sorted.last()) {
            (Some(p50), Some(p99), Some(worst)) => {
                format!(
                    "{} round trips, p50 {p50:.1?}, p99 {p99:.1?}, worst {worst:.1?}",
                    sorted.len()
                )
            }
            _ => "no round trip".into(),
        }
    }
}

/// Connects, gets an echo and closes; panics when that fails.
#[track_caller]
pub fn round_trip(entrance: &Addr) {
    let mut wire = Wire::connect(entrance).unwrap_or_else(|e| panic!("no way in: {e}"));
    wire.expect_echo(b"a legitimate client");
}

/// Makes `count` round trips, one after the other.
#[track_caller]
pub fn round_trips(entrance: &Addr, count: usize) -> Latencies {
    Latencies(
        (0..count)
            .map(|_| {
                let start = Instant::now();
                round_trip(entrance);
                start.elapsed()
            })
            .collect(),
    )
}

/// Clients that keep working until they are stopped, each on its own thread.
pub struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Latencies>>,
}

impl Clients {
    /// Starts one client for each entrance, which makes a new connection for each round trip: one
    /// every `pace`.
    pub fn comers(entrances: impl IntoIterator<Item = Addr>, pace: Duration) -> Self {
        Self::start(entrances, pace, |entrance| move || round_trip(&entrance))
    }

    /// Starts one client for each entrance, which repeatedly sends this number of bytes over one
    /// connection and gets them back: once every `pace`.
    pub fn pumps(entrances: impl IntoIterator<Item = Addr>, bytes: usize, pace: Duration) -> Self {
        Self::start(entrances, pace, |entrance| {
            let mut wire = Wire::connect(&entrance).expect("the entrance is open");
            move || wire.expect_echo(&vec![7; bytes])
        })
    }

    fn start<W: FnMut() + Send + 'static>(
        entrances: impl IntoIterator<Item = Addr>,
        pace: Duration,
        mut worker: impl FnMut(Addr) -> W,
    ) -> Self {
        let mut clients = Self { stop: Arc::default(), served: Arc::default(), threads: vec![] };
        for entrance in entrances {
            let mut work = worker(entrance);
            let stop = Arc::clone(&clients.stop);
            let served = Arc::clone(&clients.served);
            clients.threads.push(std::thread::spawn(move || {
                let mut all = Latencies::default();
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    work();
                    all.0.push(began.elapsed());
                    served.fetch_add(1, Ordering::SeqCst);
                    // Sets the load: nothing is awaited here.
                    std::thread::sleep(pace.saturating_sub(began.elapsed()));
                }
                all
            }));
        }
        clients
    }

    /// Waits until this number of further round trips were made.
    #[track_caller]
    pub fn serve(&self, more: u64) {
        let before = self.served.load(Ordering::SeqCst);
        eventually("clients are served", || self.served.load(Ordering::SeqCst) >= before + more);
    }

    /// Stops; panics when any round trip failed or when a client made none.
    #[track_caller]
    pub fn finish(mut self) -> Latencies {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Latencies::default();
        for thread in self.threads.drain(..) {
            let one = thread.join().expect("a legitimate client was turned away");
            assert!(one.count() > 0, "a legitimate client made no round trip");
            all.0.extend(one.0);
        }
        all
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
