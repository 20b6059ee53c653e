//! Bounded waits. A deadline here never measures anything: reaching it means that the awaited event
//! does not happen at all.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Deadline that is reached only if the awaited event never happens, even on a loaded machine.
pub const NEVER: Duration = Duration::from_secs(60);

/// Interval at which a condition is checked.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; panics with `what` after [`NEVER`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(NEVER, what, condition);
}

/// Waits until `condition` holds; panics with `what` after `deadline`.
#[track_caller]
pub fn eventually_within(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let found = poll(deadline, || condition().then_some(()));
    assert!(found.is_some(), "did not happen within {deadline:?}: {what}");
}

/// Returns the result of `work`; panics with `what` when it takes longer than twice [`NEVER`]. For
/// reads that have no timeout of their own. Work that hangs stays on its thread until the program
/// that it waits for is killed.
#[track_caller]
pub fn bounded<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    std::thread::spawn(move || done.send(work()));
    match result.recv_timeout(NEVER * 2) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("did not happen: {what}"),
        Err(RecvTimeoutError::Disconnected) => panic!("failed: {what}"),
    }
}

/// Returns the first result of `look`, or `None` after `deadline`.
pub fn poll<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
