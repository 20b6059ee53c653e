//! A legitimate client that keeps working while somebody else misbehaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::address::Addr;
use super::wire::Wire;

/// How long each of many round trips took.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// For a person to read; no test depends on it.
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

/// `count` round trips, one after the other.
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

/// A client that makes round trips until it is told to stop.
pub struct Legit {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Latencies>,
}

impl Legit {
    pub fn start(entrance: &Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (entrance, theirs) = (entrance.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut all = Latencies::default();
            while !theirs.load(Ordering::SeqCst) {
                all.0.extend(round_trips(&entrance, 1).0);
                std::thread::sleep(Duration::from_millis(5));
            }
            all
        });
        Self { stop, thread }
    }

    /// Stops; panics when any round trip failed or when there was none.
    #[track_caller]
    pub fn finish(self) -> Latencies {
        self.stop.store(true, Ordering::SeqCst);
        let all = self.thread.join().expect("a legitimate client was turned away");
        assert!(all.count() > 0, "the legitimate client made no round trip");
        all
    }
}
