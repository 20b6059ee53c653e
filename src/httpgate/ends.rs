//! Ends of an exchange before its time: their causes, and the guards that are held until then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::hold::NeverSent;
use crate::net::Slot;
use crate::reason::CloseReason;

/// Resolves when an exchange has to end although both sides go on. Holds the gate's permit.
pub(super) type Ending = Pin<Box<dyn Future<Output = CloseReason> + Send>>;

/// Cause of a body that ends before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenBody {
    /// The sender's connection broke.
    #[error("the sender ended it: {0}")]
    Sender(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Stalled,
    /// It was not wanted.
    #[error(transparent)]
    NeverSent(#[from] NeverSent),
    /// The exchange had to end.
    #[error("the client's permission was taken back")]
    Ended,
}

/// Guards of an exchange, until its end.
pub(super) struct Held {
    /// Its early end; `None` where that of the connection is enough.
    pub(super) ending: Option<Ending>,
    /// Its place among the requests at once, until the request and the answer have ended.
    pub(super) slot: Arc<Slot>,
}

/// Limit of the time in which nothing comes.
pub(super) struct Stall {
    limit: Option<Duration>,
    /// The moment at which something last came, while the alarm is set.
    last: Instant,
    /// Set once there was a wait: most bodies come at once.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, last: Instant::now(), alarm: None }
    }

    /// Notes that something came.
    pub(super) fn moved(&mut self) {
        if self.alarm.is_some() {
            self.last = Instant::now();
        }
    }

    /// Waits until nothing has come for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.alarm.is_none() {
            self.last = Instant::now();
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        while alarm.as_mut().poll(cx).is_ready() {
            let end = self.last + limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(end);
        }
        Poll::Pending
    }
}
