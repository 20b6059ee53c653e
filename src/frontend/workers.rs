//! The threads that serve connections, as many as there are processors.
//!
//! A connection stays on one of them from its accept to its end, with a runtime
//! of its own. So its socket's news comes to the thread that acts on it, no other
//! is woken to take work over, and its buffers are that thread's. The runtime of
//! the process serves no connection: it accepts, asks stores and keeps pools.
//!
//! Nothing moves from one worker to another: that would take the locks again that
//! this is without.

use std::future::pending;
use std::io;
use std::sync::OnceLock;
use std::thread;

use rand::RngExt;
use tokio::runtime::{Builder, Handle};

/// Descriptors that one worker needs for its runtime.
const DESCRIPTORS: u64 = 4;

/// Fewer workers where each had fewer descriptors than this to serve with.
const WORTH_A_WORKER: u64 = 1024;

static WORKERS: OnceLock<Vec<Handle>> = OnceLock::new();

/// Starts the workers of this process, where that was not done yet; they end with
/// it. Of `descriptors` it takes so many: those of the first worker are among what
/// a process has for itself.
///
/// # Errors
/// The system gives no more threads, memory or descriptors.
pub fn start(descriptors: u64) -> io::Result<u64> {
    if WORKERS.get().is_none() {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let worth = usize::try_from(descriptors / WORTH_A_WORKER).unwrap_or(usize::MAX);
        let started: io::Result<Vec<_>> =
            (0..processors.min(worth).max(1)).map(start_one).collect();
        let _ = WORKERS.set(started?);
    }
    Ok(DESCRIPTORS * (workers().len() as u64 - 1))
}

/// Resolves when every worker has answered, which one that stands still does not.
pub async fn answered() {
    for worker in workers() {
        // What ends a task that does nothing is the end of the process.
        let _ = worker.spawn(async {}).await;
    }
}

/// Chooses the worker for another connection: of two at random, so that no order in
/// which clients come loads one alone, the one that serves fewer.
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

fn start_one(number: usize) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let name = format!("worker-{number}");
    thread::Builder::new().name(name).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
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
