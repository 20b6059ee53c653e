//! Accept loop of a listener, until each connection has a task of its own.
//!
//! Nothing in an accept loop waits for a peer: a connection is handed to a task
//! of its own at once. Where a connection takes its slot at accept, the loop does wait for
//! a vacant one, so that at the limit clients queue in the kernel's backlog; otherwise it
//! does not, or strangers could tell by it that the limit is reached.

use std::sync::Arc;
use std::task::Context;

use tokio::runtime::Handle;

use super::options::SlotTime;
use super::{Frontend, workers};
use crate::addr::ClientAddr;
use crate::net::{AcceptLoop, AsyncListener, Slot, SourceGuard, Stream};
use crate::reason::CloseReason;

/// A connection that was accepted, and is not refused yet.
pub struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: ClientAddr,
    /// The slot of its session, where it takes that at accept.
    pub(super) slot: Option<Slot>,
    /// Its count against its source.
    pub(super) source: Option<SourceGuard>,
    /// End of the time in which it has to prove itself.
    pub(super) deadline: tokio::time::Instant,
}

/// A connection that has no task yet.
struct Arrived {
    stream: Stream,
    peer: ClientAddr,
    /// The slot of its session, where it takes that at accept.
    slot: Option<Slot>,
    /// The worker that its socket is registered with.
    worker: &'static Handle,
}

impl Frontend {
    /// Accepts connections on `listener` until the frontend is stopped. What `serve` returns
    /// becomes the task of a connection, on one of the workers.
    pub async fn accept_all<F>(
        self: &Arc<Self>,
        listener: Arc<AsyncListener>,
        serve: impl Fn(Accepted) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut accepts = AcceptLoop::new(listener, self.name.clone());
        loop {
            let arrived = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.accept_one(&mut accepts) => accepted,
            };
            self.meters.accepted.inc();
            let waiting = Arc::clone(self).wait_for_slot(arrived, serve.clone());
            let mut waiting = Box::pin(waiting);
            tokio::select! {
                biased;
                () = &mut waiting => {}
                () = self.stop.cancelled() => {
                    // It goes on waiting, without the listener.
                    self.tasks.spawn(waiting);
                    return;
                }
            }
        }
    }

    /// Accepts the next connection, once there is a slot for it where it takes one at accept.
    async fn accept_one(&self, accepts: &mut AcceptLoop) -> Arrived {
        if self.slot_time == SlotTime::Accept {
            self.slot_available().await;
        }
        let mut worker = workers::next();
        let accept = |listener: &AsyncListener, cx: &mut Context<'_>| {
            // Chosen now, because the load of the workers changes while no connection comes.
            worker = workers::next();
            let _on_its_worker = worker.enter();
            listener.poll_accept(cx)
        };
        let (stream, peer) = accepts.next_by(accept).await;
        Arrived { stream, peer, slot: None, worker }
    }

    /// Waits for a session slot if the last one was taken since the vacancy check, as a client
    /// in the backlog would, even if the frontend is stopped meanwhile. Clients that take
    /// their slot at accept take it here, in order of arrival.
    async fn wait_for_slot<F>(self: Arc<Self>, mut arrived: Arrived, serve: impl Fn(Accepted) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let wait = async {
            match self.slot_time {
                SlotTime::Accept => {
                    arrived.stream.reset_unless_finished();
                    Some(self.slot().await)
                }
                SlotTime::Proof => None,
            }
        };
        arrived.slot = tokio::select! {
            biased;
            slot = wait => slot,
            () = self.cut.cancelled() => {
                self.meters.closed.count(CloseReason::Shutdown);
                return;
            }
        };
        self.hand_over(arrived, serve);
    }

    /// Hands a connection to a task of its own, unless it is certain that it may not come in.
    fn hand_over<F>(self: &Arc<Self>, arrived: Arrived, serve: impl Fn(Accepted) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Arrived { stream, peer, slot, worker } = arrived;
        let deadline = self.deadline();
        let _on_its_worker = worker.enter();
        let Ok(source) = self.count_arrival(peer) else {
            self.refused(CloseReason::SourceLimit, peer);
            return stream.reset();
        };
        if let Some(reason) = self.reject_early(peer) {
            self.refused(reason, peer);
            return self.deny(stream, || self.handshake_limits(peer, deadline));
        }
        self.tasks.spawn(serve(Accepted { stream, peer, slot, source, deadline }));
    }
}
