//! Threads that serve connections, one for each processor.
//!
//! Each worker has its own runtime, and a connection stays on one from its accept to its end. So
//! events of its socket arrive at the thread that handles them, no other thread is woken to take
//! over work, and its buffers are that thread's. The runtime of the process serves no connection:
//! it asks stores and fills pools.
//!
//! One more thread accepts, for all listeners: with several, as the runtime of the process has
//! them, each connection would wake a second thread to wait for the next one. Sessions that keep
//! the workers busy do not delay it.
//!
//! Nothing moves from one worker to another: that would need the locks that this design avoids.

use std::io;
use std::sync::OnceLock;
use std::thread;

use rand::RngExt;
use tokio::runtime::Handle;

use crate::tasks::start_runtime;

/// Descriptors that one worker needs for its runtime.
const DESCRIPTORS: u64 = 4;

/// Lowest number of descriptors for each worker; below it there are fewer workers.
const WORTH_A_WORKER: u64 = 1024;

static WORKERS: OnceLock<Vec<Handle>> = OnceLock::new();
static ACCEPTING: OnceLock<Handle> = OnceLock::new();

/// Starts the threads of this process that accept and serve, unless they run already; they end with
/// it. Returns the number of `descriptors` that they take: those of the first worker are among the
/// reserved ones.
///
/// # Errors
/// The system gives no more threads, memory or descriptors.
pub fn start(descriptors: u64) -> io::Result<u64> {
    if WORKERS.get().is_none() {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let worth = usize::try_from(descriptors / WORTH_A_WORKER).unwrap_or(usize::MAX);
        let started: io::Result<Vec<_>> =
            (0..processors.min(worth).max(1)).map(|n| start_one(format!("worker-{n}"))).collect();
        let _ = WORKERS.set(started?);
    }
    if ACCEPTING.get().is_none() {
        let _ = ACCEPTING.set(start_one("accept".to_owned())?);
    }
    Ok(DESCRIPTORS * workers().len() as u64)
}

/// Returns the runtime of the thread that accepts.
pub fn accepting() -> &'static Handle {
    ACCEPTING.get().expect("it was started before anything is accepted")
}

/// Resolves when every one of these threads has answered, which a blocked one does not.
pub async fn answered() {
    for worker in workers().iter().chain([accepting()]) {
        // A task that does nothing fails only at the end of the process.
        let _ = worker.spawn(async {}).await;
    }
}

/// Chooses the worker for another connection: the one of two random workers that serves fewer, so
/// that no order of clients loads a single worker.
pub(super) fn next() -> &'static Handle {
    let workers = workers();
    let one = rand::rng().random_range(0..workers.len());
    let other = (one + rand::rng().random_range(1..workers.len().max(2))) % workers.len();
    let serves = |number: usize| workers[number].metrics().num_alive_tasks();
    if serves(other) < serves(one) { &workers[other] } else { &workers[one] }
}

fn workers() -> &'static [Handle] {
    WORKERS.get().expect("they were started before anything is served")
}

fn start_one(name: String) -> io::Result<Handle> {
    start_runtime(name, || {})
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn connections_are_spread_over_the_workers() {
        start(u64::MAX).unwrap();
        let tasks: Vec<_> = (0..100).map(|_| next().spawn(pending::<()>())).collect();
        let serve: Vec<_> =
            workers().iter().map(|worker| worker.metrics().num_alive_tasks()).collect();
        let fewest = serve.iter().min().unwrap();
        let most = serve.iter().max().unwrap();
        assert!(most - fewest <= 50, "{serve:?}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn all_workers_answer() {
        start(u64::MAX).unwrap();
        answered().await;
    }
}
