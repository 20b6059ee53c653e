//! The accept loops of a tunnel, and what its connections share.
//!
//! Nothing in an accept loop waits for a peer: a connection is handed to a task
//! of its own at once. What the loop does wait for is a vacant slot, so that at
//! the limit clients queue in the kernel's backlog, and a pause after an
//! accept that failed for want of descriptors or memory.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::connected::Connected;
use super::decrypt::Exit;
use super::dialling::Dialling;
use super::encrypt::{self, Entrance};
use super::introduce::Guest;
use super::lanes;
use super::secure;
use crate::addr::ClientAddr;
use crate::gate::{Denied, Gate, Nets};
use crate::net::{
    AcceptBackoff, AcceptStep, AsyncListener, Handshakes, Place, Slot, Slots, SourceGuard,
    SourceRefusal, Sources, Stream,
};
use crate::observe::failures::{Failures, Told};
use crate::observe::metrics::Meters;
use crate::reason::CloseReason;

/// How long slots must have been vacant before the limit counts as over.
const CALM: Duration = Duration::from_secs(1);

/// How long the unproven have after the tunnel was told to stop.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How often it is looked whether a summary of failures is due.
const SUMMARY_TICK: Duration = Duration::from_secs(1);

/// What every connection of a tunnel may use.
pub(super) struct Shared {
    /// What the log calls the tunnel, where there are several.
    pub(super) name: Option<Arc<str>>,
    pub(super) slots: Slots,
    /// Whoever has proven nothing and is waited for: for its header, its
    /// handshake, or until it is sent away.
    pub(super) places: Handshakes,
    /// Somebody had to wait for a slot.
    pub(super) limit_reached: Notify,
    /// How often a source may connect; counted at accept.
    pub(super) arrivals: Option<Sources>,
    /// How many sessions a source may have; counted once a peer is proven, so
    /// that strangers from the same address take none.
    pub(super) guests: Option<Sources>,
    pub(super) failures: Arc<Failures>,
    pub(super) meters: Arc<Meters>,
    /// Who may come in, by address.
    pub(super) gate: Option<Gate>,
    /// Load balancers that announce their clients' addresses.
    pub(super) proxy_from: Arc<Nets<()>>,
    pub(super) dialling: Dialling,
    /// Deadline of a dial, and separately of a handshake.
    pub(super) timeout: Duration,
    /// How long a session may finish that the gate would not let in any more.
    pub(super) drain: Duration,
    /// Cancelled when no more connections are accepted.
    pub(super) stop: CancellationToken,
    /// Cancelled when those that there are must end.
    pub(super) cut: CancellationToken,
    /// All that goes on in it, the goodbyes included that nobody waits for.
    pub(super) tasks: TaskTracker,
}

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

/// An accepted connection.
struct Arrival {
    stream: Stream,
    peer: ClientAddr,
    /// The slot of its session, where it has one already.
    slot: Option<Slot>,
    /// Its count against its source.
    source: Option<SourceGuard>,
}

impl Shared {
    /// Resolves when sessions are cut.
    pub(super) async fn cut(&self) -> CloseReason {
        self.cut.cancelled().await;
        CloseReason::Shutdown
    }

    /// Resolves when the unproven must end, which is soon after no more are
    /// accepted: an honest dialer needs a round trip, and strangers must not
    /// hold the drain up.
    pub(super) async fn last_call(&self) {
        self.stop.cancelled().await;
        tokio::select! {
            () = sleep(LAST_CALL) => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// Counts a connection against its source. A load balancer's are those of many.
    fn arrive(&self, peer: ClientAddr) -> Result<Option<SourceGuard>, SourceRefusal> {
        if self.is_balancer(peer) { Ok(None) } else { count(self.arrivals.as_ref(), peer) }
    }

    /// Counts a session against its source.
    pub(super) fn enter(&self, peer: ClientAddr) -> Result<Option<SourceGuard>, SourceRefusal> {
        count(self.guests.as_ref(), peer)
    }

    /// Counts a connection that ended before its peer was known.
    pub(super) fn refused(&self, reason: CloseReason, peer: ClientAddr) -> Told {
        self.meters.refused.count(reason);
        self.tell_failure(reason, peer)
    }

    /// Counts a failure for the log.
    pub(super) fn tell_failure(&self, reason: CloseReason, peer: ClientAddr) -> Told {
        match peer.source() {
            Some(source) => self.failures.failed(reason, &source),
            None => self.failures.failed(reason, &peer),
        }
    }
}

impl Tunnel {
    /// Starts what it does besides accepting: summaries, warm tunnels.
    pub fn begin(self: &Arc<Self>) {
        self.shared.tasks.spawn(Arc::clone(self).summarize());
        self.shared.tasks.spawn(Arc::clone(self).watch_limit());
        self.shared.tasks.spawn(Arc::clone(self).keep_warm());
        self.shared.tasks.spawn(Arc::clone(self).watch_targets());
    }

    /// Accepts on `listener` from now on, until it is stopped.
    pub fn serve(self: &Arc<Self>, listener: Arc<AsyncListener>) {
        self.listens(&listener);
        self.shared.tasks.spawn(Arc::clone(self).accept(listener));
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

    /// Logs every failure that was counted and not told yet.
    pub fn flush_failures(&self) {
        self.shared.failures.flush();
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

    /// The next connection, once there is a slot that it could have.
    async fn accept_one(&self, listener: &AsyncListener) -> io::Result<(Stream, ClientAddr)> {
        self.shared.vacancy().await;
        listener.accept().await
    }

    /// Slots may have been taken while nobody came. Then the one that did waits
    /// here, as those behind it wait in the backlog, also when the tunnel was
    /// stopped meanwhile. A client gets its slot here, in the order of arrival;
    /// a sealed connection has to prove itself first.
    async fn usher(self: Arc<Self>, stream: Stream, peer: ClientAddr) {
        let wait = async {
            match self.way {
                Way::In(_) => {
                    stream.reset_unless_finished();
                    Some(self.shared.slot().await)
                }
                Way::Out(_) => {
                    self.shared.vacancy().await;
                    None
                }
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
        self.admit(Arrival { stream, peer, slot, source: None });
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
            return self.deny(arrival.stream);
        }
        let _in_its_lane = lanes::next().enter();
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
        let Arrival { stream, peer, slot, source: _source } = arrival;
        let mut place = self.shared.places.enter();
        let introduced = self.introduced(stream, peer, &mut place).await;
        drop(place);
        let (stream, guest) = introduced?;
        match self.shared.enter(guest.client) {
            Ok(source) => {
                encrypt::open(&entrance, &self.shared, (stream, guest), (slot, source)).await
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
        let Arrival { stream, peer, source: _source, .. } = arrival;
        let mut place = self.shared.places.enter();
        let introduced = self.introduced(stream, peer, &mut place).await;
        let Some((stream, guest)) = introduced else { return };
        if let Some(host) = exit.meet(&self.shared, (stream, guest), place).await {
            self.serve_opened(Arc::clone(&exit).welcome(Arc::clone(&self.shared), host));
        }
    }

    /// Who a connection is from; `None` when it may not come in, and was told.
    async fn introduced(
        self: &Arc<Self>,
        mut stream: Stream,
        peer: ClientAddr,
        place: &mut Place,
    ) -> Option<(Stream, Guest)> {
        let introduced = tokio::select! {
            biased;
            introduced = self.shared.introduce(&mut stream, peer) => introduced,
            () = place.displaced() => Err(CloseReason::Displaced),
            () = self.shared.last_call() => Err(CloseReason::Shutdown),
        };
        match introduced {
            Ok(guest) => Some((stream, guest)),
            Err(CloseReason::Shutdown) => {
                self.shared.meters.closed.count(CloseReason::Shutdown);
                stream.reset();
                None
            }
            Err(reason) => {
                self.shared.refused(reason, peer);
                match reason {
                    // Held, it would take the place of another.
                    CloseReason::Displaced => stream.reset(),
                    _ => self.deny(stream),
                }
                None
            }
        }
    }

    /// What a denied peer gets.
    fn deny(self: &Arc<Self>, mut stream: Stream) {
        match self.shared.gate.as_ref().map(|gate| gate.options().denied).unwrap_or_default() {
            Denied::Close => stream.close(),
            Denied::Reset => stream.reset(),
            Denied::Hold => {
                let tunnel = Arc::clone(self);
                let mut place = self.shared.places.enter();
                self.shared.tasks.spawn(async move {
                    let hold = secure::hold(&mut stream);
                    tokio::select! {
                        () = hold => {}
                        () = place.displaced() => {}
                        () = sleep(tunnel.shared.timeout) => {}
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
                    warn!(
                        tunnel,
                        limit,
                        detail = "new connections wait in the backlog; -n sets the limit",
                        "limit of sessions reached"
                    );
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
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = entrance.pool.keep(warm_up) => {}
        }
        entrance.pool.close();
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

impl Shared {
    /// Resolves when there is a vacant slot.
    async fn vacancy(&self) {
        if self.slots.is_full() {
            self.limit_reached.notify_one();
            self.slots.vacancy().await;
        }
    }

    /// A slot, as soon as there is one.
    pub(super) async fn slot(&self) -> Slot {
        if self.slots.is_full() {
            self.limit_reached.notify_one();
        }
        self.slots.acquire().await
    }

    /// Resolves when slots have been vacant for a while.
    async fn calm(&self) {
        loop {
            self.slots.vacancy().await;
            sleep(CALM).await;
            if !self.slots.is_full() {
                return;
            }
        }
    }
}

/// Counts a connection against its source. Unix sockets have no sources.
fn count(
    sources: Option<&Sources>,
    peer: ClientAddr,
) -> Result<Option<SourceGuard>, SourceRefusal> {
    match (sources, peer.source()) {
        (Some(sources), Some(source)) => sources.enter(source, Instant::now()).map(Some),
        _ => Ok(None),
    }
}
