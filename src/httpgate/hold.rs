//! Body of a request with a client that waits for "100 Continue" (Expect) before it sends it.
//!
//! The server decides whether it wants the body: only with its word, or when it has said nothing
//! for a while, the body is asked for, and the client told to go on. A server that answers at once
//! never sees the body, and its client never sends it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Shared state of a body that is held back. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    phase: Phase,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The server has not spoken.
    #[default]
    Waiting,
    /// The body goes.
    Open,
    /// The server has answered without it: it never goes.
    Answered,
    /// The exchange is over.
    Over,
}

/// The body never goes, because the server answered without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server answered without the body")]
pub(super) struct NeverSent;

impl Hold {
    /// Lets the body go, unless the server has answered before.
    pub(super) fn open(&self) {
        self.advance(Phase::Open, |phase| phase == Phase::Waiting);
    }

    /// Keeps it for good if it has not gone: the server has answered.
    pub(super) fn answered(&self) {
        self.advance(Phase::Answered, |phase| phase == Phase::Waiting);
    }

    /// Ends a body that never went, and so the connection that waits for it.
    pub(super) fn over(&self) {
        self.advance(Phase::Over, |phase| phase != Phase::Open);
    }

    /// Waits until the body goes.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), NeverSent>> {
        let mut held = self.held();
        match held.phase {
            Phase::Open => Poll::Ready(Ok(())),
            Phase::Over => Poll::Ready(Err(NeverSent)),
            Phase::Waiting | Phase::Answered => {
                held.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn advance(&self, to: Phase, is_from: impl Fn(Phase) -> bool) {
        let mut held = self.held();
        if is_from(held.phase) {
            held.phase = to;
            let waker = held.waker.take();
            drop(held);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(hold: &Hold) -> Poll<Result<(), NeverSent>> {
        hold.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_body_goes_at_the_servers_word() {
        let hold = Hold::default();
        assert_eq!(poll(&hold), Poll::Pending);
        hold.open();
        assert_eq!(poll(&hold), Poll::Ready(Ok(())));
        // The answer does not stop a body that goes.
        hold.answered();
        hold.over();
        assert_eq!(poll(&hold), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_body_that_the_server_answered_without_never_goes() {
        let hold = Hold::default();
        hold.answered();
        hold.open();
        assert_eq!(poll(&hold), Poll::Pending);
        hold.over();
        assert_eq!(poll(&hold), Poll::Ready(Err(NeverSent)));
    }
}
