//! The accept loops of a tunnel, and the way of a connection until it is opened.
//!
//! Nothing in an accept loop waits for a peer: a connection is handed to a task
//! of its own at once. What the encrypt end's loop does wait for is a vacant slot,
//! so that at the limit clients queue in the kernel's backlog; the decrypt end's
//! does not, or strangers could tell by it that the limit is reached. And there is
//! a pause after an accept that failed for want of descriptors or memory.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tracing::{info, warn};

use super::connected::Connected;
use super::decrypt::{Exit, Stranger};
use super::encrypt::{self, Entrance};
use super::introduce::{Guest, Refused};
use super::secure;
use super::shared::Shared;
use super::workers;
use crate::addr::ClientAddr;
use crate::gate::Denied;
use crate::net::{AcceptBackoff, AcceptStep, AsyncListener, Place, Slot, SourceGuard, Stream};
use crate::reason::CloseReason;
use crate::tasks::lasting;

/// How often it is looked whether a summary of failures is due.
const SUMMARY_TICK: Duration = Duration::from_secs(1);

/// Which end, with what only that end needs.
pub(super) enum Way {
    In(Arc<Entrance>),
    Out(Arc<Exit>),
}

/// A tunnel end that serves connections.
pub struct Tunnel {
    pub(super) shared: Arc<Shared>,
    pub(super) way: Way,
    /// Where it listens now.
    pub(super) listening: Mutex<Vec<String>>,
}

/// How long a connection may stay that is not proven.
pub(super) struct Stay {
    pub(super) place: Place,
    pub(super) deadline: tokio::time::Instant,
}

/// An accepted connection.
struct Arrival {
    stream: Stream,
    peer: ClientAddr,
    /// The slot of its session, where it has one already.
    slot: Option<Slot>,
    /// Its count against its source.
    source: Option<SourceGuard>,
    /// When it ends if it is not proven by then.
    deadline: tokio::time::Instant,
}

impl Tunnel {
    /// Starts what it does besides accepting: summaries, warm tunnels.
    pub fn begin(self: &Arc<Self>) {
        self.keep_up("summaries of failures", Self::summarize);
        self.keep_up("the watch on the limit of sessions", Self::watch_limit);
        self.keep_up("the pool", Self::keep_warm);
        self.keep_up("the watch on targets", Self::watch_targets);
        self.shared.tasks.spawn(Arc::clone(self).look_at_start());
    }

    /// Accepts on `listener` from now on, until it is stopped.
    pub fn serve(self: &Arc<Self>, listener: Arc<AsyncListener>) {
        self.listens(&listener);
        let accept = move |tunnel: Arc<Self>| tunnel.accept(Arc::clone(&listener));
        self.keep_up("accepting connections", accept);
    }

    /// Does what is needed as long as the tunnel is, also after a panic in it.
    fn keep_up<F>(
        self: &Arc<Self>,
        task: &'static str,
        begin: impl Fn(Arc<Self>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let tunnel = Arc::clone(self);
        self.shared.tasks.spawn(lasting(task, move || begin(Arc::clone(&tunnel))));
    }

    /// Accepts no more. Sessions go on; unproven handshakes have a second.
    pub fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }

    /// Resolves when every connection of a stopped tunnel has ended.
    pub async fn finished(&self) {
        self.shared.tasks.wait().await;
    }

    /// Whether it is stopped and every connection has ended.
    pub fn is_finished(&self) -> bool {
        self.shared.tasks.is_closed() && self.shared.tasks.is_empty()
    }

    /// Logs every failure, and every ban, that was counted and not told yet.
    pub fn flush_failures(&self) {
        self.shared.failures.flush();
        if let Some(gate) = &self.shared.gate {
            gate.flush_bans();
        }
    }

    /// Ends what goes on.
    pub fn cut(&self) {
        self.shared.cut.cancel();
    }

    /// Resolves when what goes on is ended by [`Self::cut`].
    pub async fn is_cut(&self) {
        self.shared.cut.cancelled().await;
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.shared.slots.used()
    }

    /// Most sessions at once so far.
    pub fn most_sessions(&self) -> usize {
        self.shared.slots.high_water()
    }

    /// Accepts connections until the tunnel is stopped.
    async fn accept(self: Arc<Self>, listener: Arc<AsyncListener>) {
        let mut backoff = AcceptBackoff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => break,
                accepted = self.accept_one(&listener) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    self.shared.meters.accepted.inc();
                    if backoff.succeeded(Instant::now()) {
                        let tunnel = self.shared.name.as_deref();
                        info!(tunnel, address = listener.local(), "accepting again");
                    }
                    let mut ushered = Box::pin(Arc::clone(&self).usher(stream, peer));
                    tokio::select! {
                        biased;
                        () = &mut ushered => {}
                        () = self.shared.stop.cancelled() => {
                            // It goes on waiting, without the listener.
                            self.shared.tasks.spawn(ushered);
                            break;
                        }
                    }
                }
                Err(error) => {
                    let step = backoff.failed(&error, Instant::now());
                    self.pause(step, &listener, &error).await;
                }
            }
        }
        self.listens_no_more(&listener);
    }

    /// The next connection: of a client, once there is a slot that it could have.
    async fn accept_one(&self, listener: &AsyncListener) -> io::Result<(Stream, ClientAddr)> {
        if matches!(self.way, Way::In(_)) {
            self.shared.vacancy().await;
        }
        listener.accept().await
    }

    /// Slots may have been taken while nobody came. Then the client that did waits
    /// here, as those behind it wait in the backlog, also when the tunnel was
    /// stopped meanwhile. It gets its slot here, in the order of arrival; a sealed
    /// connection has to prove itself first.
    async fn usher(self: Arc<Self>, stream: Stream, peer: ClientAddr) {
        let wait = async {
            match self.way {
                Way::In(_) => {
                    stream.reset_unless_finished();
                    Some(self.shared.slot().await)
                }
                Way::Out(_) => None,
            }
        };
        let slot = tokio::select! {
            biased;
            slot = wait => slot,
            () = self.shared.cut.cancelled() => {
                self.shared.meters.closed.count(CloseReason::Shutdown);
                return;
            }
        };
        let deadline = self.shared.deadline();
        self.admit(Arrival { stream, peer, slot, source: None, deadline });
    }

    async fn pause(&self, step: AcceptStep, listener: &AsyncListener, error: &io::Error) {
        let AcceptStep::Wait { delay, news } = step else { return };
        if news {
            warn!(
                tunnel = self.shared.name.as_deref(),
                address = listener.local(),
                %error,
                detail = "trying again until it works; raise ulimit -n",
                "cannot accept"
            );
        }
        sleep(delay).await;
    }

    /// Hands a connection to a task of its own.
    fn admit(self: &Arc<Self>, mut arrival: Arrival) {
        let peer = arrival.peer;
        let Ok(source) = self.shared.arrive(peer) else {
            self.shared.refused(CloseReason::SourceLimit, peer);
            return arrival.stream.reset();
        };
        arrival.source = source;
        if let Some(reason) = self.shared.turned_away(peer) {
            self.shared.refused(reason, peer);
            return self.deny(arrival.stream, || self.stay(peer, arrival.deadline));
        }
        let _on_its_worker = workers::next().enter();
        let Ok(stream) = arrival.stream.adopted() else {
            self.shared.refused(CloseReason::LocalError, peer);
            return;
        };
        arrival.stream = stream;
        let tunnel = Arc::clone(self);
        match &self.way {
            Way::In(entrance) => {
                self.serve_opened(tunnel.open_client(Arc::clone(entrance), arrival));
            }
            Way::Out(exit) => {
                self.shared.tasks.spawn(tunnel.serve_stranger(Arc::clone(exit), arrival));
            }
        }
    }

    /// Serves what `opening` opens, in a task of its own. The opening itself is
    /// apart, and gone when it is done: what follows may last for days.
    fn serve_opened(&self, opening: impl Future<Output = Option<Box<Connected>>> + Send + 'static) {
        let opening = Box::pin(opening);
        self.shared.tasks.spawn(async move {
            if let Some(connected) = opening.await {
                connected.run().await;
            }
        });
    }

    /// A client from its introduction until it is connected to the far end.
    async fn open_client(
        self: Arc<Self>,
        entrance: Arc<Entrance>,
        arrival: Arrival,
    ) -> Option<Box<Connected>> {
        let Arrival { stream, peer, slot, source: _source, deadline } = arrival;
        let stay = self.stay(peer, deadline);
        let (stream, guest, stay) = self.introduced(stream, peer, stay).await?;
        drop(stay);
        match self.shared.enter(guest.client) {
            Ok(source) => {
                encrypt::open(&entrance, &self.shared, (stream, guest), (slot, source, None)).await
            }
            Err(_) => {
                self.shared.refused(CloseReason::SourceLimit, guest.client);
                None
            }
        }
    }

    /// A sealed connection from its introduction until it is proven live. Its
    /// session has a task of its own: strangers are many, and need little room.
    async fn serve_stranger(self: Arc<Self>, exit: Arc<Exit>, arrival: Arrival) {
        let Arrival { stream, peer, source: _source, deadline, .. } = arrival;
        let stay = self.stay(peer, deadline);
        let introduced = self.introduced(stream, peer, stay).await;
        let Some((stream, guest, stay)) = introduced else { return };
        match exit.meet(&self.shared, (stream, guest), &stay).await {
            Ok(host) => {
                self.serve_opened(Arc::clone(&exit).welcome(Arc::clone(&self.shared), host));
            }
            Err(Stranger::Revoked(stream)) => self.deny(stream, || stay),
            Err(Stranger::Ended) => {}
        }
    }

    /// Who a connection is from; `None` when it may not come in, and was told.
    async fn introduced(
        self: &Arc<Self>,
        mut stream: Stream,
        peer: ClientAddr,
        stay: Stay,
    ) -> Option<(Stream, Guest, Stay)> {
        let introduced = tokio::select! {
            biased;
            introduced = self.shared.introduce(&mut stream, peer, &stay) => introduced,
            () = stay.place.displaced() => Err(Refused { reason: CloseReason::Displaced, client: peer }),
            () = self.shared.last_call() => Err(Refused { reason: CloseReason::Shutdown, client: peer }),
        };
        match introduced {
            Ok(guest) => Some((stream, guest, stay)),
            Err(Refused { reason: CloseReason::Shutdown, .. }) => {
                self.shared.meters.closed.count(CloseReason::Shutdown);
                stream.reset();
                None
            }
            Err(Refused { reason: CloseReason::Probe, client }) => {
                self.shared.probed(client);
                stream.close();
                None
            }
            Err(Refused { reason, client }) => {
                self.shared.refused(reason, client);
                match reason {
                    // Held, it would take the place of another; and one that comes too
                    // often is reset at accept, too.
                    CloseReason::Displaced | CloseReason::SourceLimit => stream.reset(),
                    _ => self.deny(stream, || stay),
                }
                None
            }
        }
    }

    /// A place for a connection that came from `peer`.
    fn stay(&self, peer: ClientAddr, deadline: tokio::time::Instant) -> Stay {
        Stay { place: self.shared.places.enter(peer.source()), deadline }
    }

    /// What a denied peer gets. One that is held has a place, and the deadline that it had.
    fn deny(self: &Arc<Self>, mut stream: Stream, stay: impl FnOnce() -> Stay) {
        match self.shared.gate.as_ref().map(|gate| gate.options().denied).unwrap_or_default() {
            Denied::Close => stream.close(),
            Denied::Reset => stream.reset(),
            Denied::Hold => {
                let tunnel = Arc::clone(self);
                let Stay { place, deadline } = stay();
                self.shared.tasks.spawn(async move {
                    let hold = secure::hold(&mut stream);
                    tokio::select! {
                        () = hold => {}
                        () = place.displaced() => {}
                        () = sleep_until(deadline) => {}
                        () = tunnel.shared.last_call() => {}
                    }
                    stream.reset();
                });
            }
        }
    }

    /// One warning when the limit is reached, one line when it is over for good.
    async fn watch_limit(self: Arc<Self>) {
        let tunnel = self.shared.name.as_deref();
        let watch = async {
            loop {
                self.shared.limit_reached.notified().await;
                // What was noted while it lasted is no news.
                if self.shared.slots.is_full() {
                    let limit = self.shared.slots.limit();
                    let detail = match self.way {
                        Way::In(_) => "new connections wait in the backlog; -n sets the limit",
                        Way::Out(_) => "dialers wait for a session to end; -n sets the limit",
                    };
                    warn!(tunnel, limit, detail, "limit of sessions reached");
                    self.shared.calm().await;
                    info!(tunnel, limit, "below the limit of sessions again");
                }
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = watch => {}
        }
    }

    /// Keeps the pool of an encrypt end full until the tunnel is stopped.
    async fn keep_warm(self: Arc<Self>) {
        let Way::In(entrance) = &self.way else { return };
        let warm_up = || Arc::clone(entrance).warm_up(Arc::clone(&self.shared));
        entrance.pool.keep(warm_up, self.shared.stop.cancelled()).await;
    }

    async fn summarize(self: Arc<Self>) {
        let ticks = async {
            loop {
                sleep(SUMMARY_TICK).await;
                self.shared.failures.tick();
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = ticks => {}
        }
    }
}
