//! The part of a service that answers requests, and its view of the connection that they come on.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addr::ClientAddr;
use crate::frontend::{AdmittedClient, Frontend};
use crate::gate::Peer;
use crate::http::client_address::ClientRules;
use crate::http::{Body, BrokenOff, Form, Head};
use crate::net::{HandshakeSlot, Slot, SourceGuard};
use crate::upstream::TargetHealth;

/// The part of a service that answers requests.
pub trait Application: Send + Sync + 'static {
    /// Answers a request of `visitor`. `None` is no byte of an answer: it ends a connection of
    /// HTTP/1.1, and of HTTP/2 only the request, unless the visitor is told to end. An upgraded
    /// connection has to keep the visitor, and to end with [`Visitor::cut`].
    fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        visitor: Arc<Visitor>,
    ) -> impl Future<Output = Option<Response<Body>>> + Send;

    /// Returns true if every connection gets one answer of one form, whatever it sends, from
    /// [`Self::answer`] instead of [`Self::respond`].
    fn has_one_form(&self) -> bool {
        false
    }

    /// Answers what came on a connection, where all answers have one form: a request, or `None` for
    /// what is none. `None` ends the connection without a byte.
    fn answer(
        self: Arc<Self>,
        _head: Option<Head>,
        _visitor: Arc<Visitor>,
    ) -> impl Future<Output = Option<Form>> + Send {
        async { None }
    }

    /// Changes its limits to those of so many connections at once.
    fn set_capacity(&self, _connections: usize) {}

    /// Starts background tasks, which end with `stop`.
    fn begin(self: &Arc<Self>, _tasks: &TaskTracker, _stop: &CancellationToken) {}

    /// Returns the health of the targets that it forwards to, if it forwards.
    fn targets(&self) -> Vec<TargetHealth> {
        vec![]
    }

    /// Logs everything that was counted and not logged yet.
    fn flush_log(&self) {}
}

/// A connection that requests come on. It counts against the limits of its service until it is
/// dropped.
pub struct Visitor {
    client: AdmittedClient,
    is_encrypted: bool,
    frontend: Arc<Frontend>,
    /// Cancelled when the connection has to end with a reset.
    ended: CancellationToken,
    /// Cancelled when it has to end without one.
    closed: CancellationToken,
    broken_off: BrokenOff,
    /// The place of a connection that may be evicted.
    place: Option<HandshakeSlot>,
    /// The place of one that may not.
    _slot: Option<Slot>,
    _arrival: Option<SourceGuard>,
}

/// Guards of a connection's places in the limits, and the mark of its end.
pub(super) struct Places {
    pub(super) place: Option<HandshakeSlot>,
    pub(super) slot: Option<Slot>,
    pub(super) arrival: Option<SourceGuard>,
    pub(super) broken_off: BrokenOff,
}

impl Visitor {
    pub(super) fn new(
        client: AdmittedClient,
        is_encrypted: bool,
        frontend: Arc<Frontend>,
        places: Places,
    ) -> Self {
        let Places { place, slot, arrival, broken_off } = places;
        Self {
            client,
            is_encrypted,
            frontend,
            ended: CancellationToken::new(),
            closed: CancellationToken::new(),
            broken_off,
            place,
            _slot: slot,
            _arrival: arrival,
        }
    }

    /// Returns the client of a request by `rules`. An address that a load balancer announced is as
    /// one in a header: never internal.
    pub fn client(&self, rules: &ClientRules, headers: &HeaderMap) -> Option<Peer> {
        match rules.client(self.address(), headers) {
            Some(Peer::Socket(_)) => self.peer(),
            client => client,
        }
    }

    /// Returns the address of the other end: the socket's, or the one that a listed load balancer
    /// announced.
    pub fn address(&self) -> ClientAddr {
        self.client.address
    }

    /// Returns the gate's view of the other end; `None` over a unix socket.
    pub fn peer(&self) -> Option<Peer> {
        self.client.peer
    }

    /// Returns true for a connection of a listed load balancer: its own, or one of its clients.
    pub fn is_balanced(&self) -> bool {
        let is_announced = matches!(self.peer(), Some(Peer::Announced(_) | Peer::Nameless));
        is_announced || self.client.is_balancers
    }

    /// Returns true if the connection is over TLS.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Returns the tasks of the service, which its end waits for.
    pub fn tasks(&self) -> &TaskTracker {
        &self.frontend.tasks
    }

    /// Notes that a request was authentic: connections that have proven nothing cannot displace
    /// this one any more.
    pub fn prove(&self) {
        self.place.iter().for_each(HandshakeSlot::authenticate);
    }

    /// Ends the connection at once, in the middle of an answer.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Ends the connection at once, as one that has nothing more to say.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Waits until [`Self::close`] is called.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Notes that an answer is broken off: the connection ends with a reset, so that no client
    /// takes what it has got for all of it.
    pub fn break_off(&self) {
        self.broken_off.set();
    }

    /// Waits until the connection has to end at once: its service is cut, its place was taken, or
    /// one of its requests ended it.
    pub async fn cut(&self) {
        let evicted = async {
            match &self.place {
                Some(place) => place.evicted().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.frontend.cut.cancelled() => {}
            () = evicted => {}
            () = self.ended.cancelled() => {}
        }
    }

    /// Waits until the gate revokes the permit that the connection got when it was accepted, and
    /// the time that its options leave it is over; for ever where it needed none.
    pub async fn revoked(&self) {
        self.frontend.revoked(&self.client).await;
    }
}
