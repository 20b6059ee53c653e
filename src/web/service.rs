//! A running service of HTTP: it accepts, shakes hands, and serves the requests of each connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout_at};
use tokio_util::task::TaskTracker;

use super::application::{Application, Places, Visitor};
use super::capacity::Capacity;
use super::options::{ConnectionLimit, WebOptions};
use crate::addr::ClientAddr;
use crate::frontend::{
    Accepted, Admitted, AdmittedClient, Balancers, Frontend, FrontendOptions, FrontendParts,
    SlotTime, workers,
};
use crate::gate::Gate;
use crate::http::{
    Acceptor, BrokenOff, ClientStream, ConnectionLimits, Rarely, ServerTls, Version,
};
use crate::knock::KnockReceiver;
use crate::net::{AsyncListener, DatagramSocket};
use crate::observe::Meters;
use crate::reason::CloseReason;
use crate::tasks::restarting;

/// Interval at which due summaries of failures are written.
const SUMMARY_TICK: Duration = Duration::from_secs(1);

/// Longest header of a request, in bytes: as much as HAProxy and nginx take by default.
const MAX_HEADER: usize = 32 * 1024;

/// A service of HTTP with its application.
pub struct WebService<A> {
    pub(super) frontend: Arc<Frontend>,
    pub(super) application: Arc<A>,
    pub(super) limit: ConnectionLimit,
    limits: ConnectionLimits,
    tls: Option<Acceptor>,
    /// Longest time in which a client takes nothing.
    idle_time: Option<Duration>,
    /// The gate of the application; the frontend asks it too where it decides at accept.
    pub(super) gate: Option<Gate>,
    /// Addresses of its listeners.
    listening: Mutex<Vec<String>>,
    /// The receiver of signed knocks, where there is one.
    pub(super) knocks: Option<Arc<KnockReceiver>>,
}

/// Objects that a service uses but does not create.
pub struct WebParts<A> {
    /// The gate, where there is one.
    pub gate: Option<Gate>,
    /// True if the gate is asked about the address of the socket when a connection is accepted.
    pub asks_at_accept: bool,
    /// Counters of the service.
    pub meters: Arc<Meters>,
    /// Application of the gate, of the state of its predecessor if there is one.
    pub application: Arc<A>,
}

impl<A: Application> WebService<A> {
    /// Creates a service with the limits of `capacity`. Where it replaces `before`, it continues
    /// the places and counts that are in use there.
    pub fn new(
        options: &WebOptions,
        parts: WebParts<A>,
        capacity: Capacity,
        before: Option<&Self>,
    ) -> Self {
        let WebParts { gate, asks_at_accept, meters, application } = parts;
        let settings = frontend_options(options, capacity);
        let asked = gate.clone().filter(|_| asks_at_accept);
        let parts = FrontendParts { gate: asked, meters, tasks: TaskTracker::new() };
        let frontend = Frontend::new(settings, parts, before.map(|before| &*before.frontend));
        let tls = options.tls.as_ref().map(ServerTls::acceptor);
        let tls = match tls {
            Some(acceptor) if application.has_one_form() => Some(acceptor.without_http2()),
            tls => tls,
        };
        let service = Self {
            frontend: Arc::new(frontend),
            application,
            limit: options.connections,
            limits: ConnectionLimits { header_timeout: options.timeout, max_header: MAX_HEADER },
            tls,
            idle_time: options.idle_time,
            gate,
            listening: Mutex::default(),
            knocks: None,
        };
        service.set_capacity(capacity);
        service
    }

    /// Reads signed knocks with this receiver from now on.
    #[must_use]
    pub fn with_knocks(self, knocks: Option<Arc<KnockReceiver>>) -> Self {
        Self { knocks, ..self }
    }

    /// Returns its frontend: tasks, signals, counters.
    pub fn frontend(&self) -> &Arc<Frontend> {
        &self.frontend
    }

    /// Returns its application.
    pub fn application(&self) -> &Arc<A> {
        &self.application
    }

    /// Starts its background tasks: summaries, and those of the application.
    pub fn begin(self: &Arc<Self>) {
        self.keep_up("summaries of failures", Self::summarize);
        self.keep_up("the watch on the limit of connections", Self::watch_limit);
        self.application.begin(&self.frontend.tasks, &self.frontend.stop);
    }

    /// Accepts on `listener` until the service is stopped.
    pub fn serve(self: &Arc<Self>, listener: Arc<AsyncListener>) {
        self.listening().push(listener.local());
        let accept = move |service: Arc<Self>| service.accept(Arc::clone(&listener));
        let _on_the_thread_that_accepts = workers::accepting().enter();
        self.keep_up("accepting connections", accept);
    }

    /// Reads signed knocks from `socket` until the service is stopped.
    pub fn read_knocks(&self, socket: Arc<DatagramSocket>) {
        if let Some(knocks) = &self.knocks {
            knocks.serve(socket);
        }
    }

    /// Runs a task as long as the service exists, and restarts it after a panic.
    fn keep_up<F>(
        self: &Arc<Self>,
        task: &'static str,
        begin: impl Fn(Arc<Self>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let service = Arc::clone(self);
        self.frontend.tasks.spawn(restarting(task, move || begin(Arc::clone(&service))));
    }

    async fn accept(self: Arc<Self>, listener: Arc<AsyncListener>) {
        let service = Arc::clone(&self);
        let serve = move |accepted| Arc::clone(&service).serve_one(accepted);
        self.frontend.accept_all(Arc::clone(&listener), serve).await;
        let address = listener.local();
        let mut listening = self.listening();
        if let Some(place) = listening.iter().position(|other| *other == address) {
            listening.remove(place);
        }
    }

    /// Serves one connection, until it ends or was upgraded.
    async fn serve_one(self: Arc<Self>, accepted: Accepted) {
        let Some(admitted) = self.frontend.admit(accepted).await else { return };
        let Admitted { stream, client, limits, slot, arrival } = admitted;
        let broken_off = BrokenOff::default();
        let stream = ClientStream::new(stream, broken_off.clone(), self.idle_time);
        let Some(acceptor) = &self.tls else {
            let place = self.keeps_place().then_some(limits.slot);
            let places = Places { place, slot, arrival, broken_off };
            return self.serve_requests(stream, Version::Http1, client, places).await;
        };
        let address = client.address;
        let secured = tokio::select! {
            biased;
            () = limits.slot.evicted() => return self.end(CloseReason::Evicted, address),
            () = self.frontend.handshake_grace() => {
                return self.end(CloseReason::Shutdown, address);
            }
            secured = timeout_at(limits.deadline, acceptor.accept(stream)) => secured,
        };
        let Ok(Ok((stream, version))) = secured else {
            return self.end(CloseReason::HandshakeFailed, address);
        };
        let place = self.keeps_place().then_some(limits.slot);
        let places = Places { place, slot, arrival, broken_off };
        self.serve_requests(stream, version, client, places).await;
    }

    /// Returns true if a connection counts among those that may be evicted until it ends.
    fn keeps_place(&self) -> bool {
        matches!(self.limit, ConnectionLimit::Evict(_))
    }

    fn end(&self, reason: CloseReason, address: ClientAddr) {
        self.frontend.refused(reason, address);
    }

    async fn serve_requests<I>(
        &self,
        io: I,
        version: Version,
        client: AdmittedClient,
        places: Places,
    ) where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let frontend = Arc::clone(&self.frontend);
        let visitor = Arc::new(Visitor::new(client, self.tls.is_some(), frontend, places));
        let application = || (Arc::clone(&self.application), Arc::clone(&visitor));
        let respond = |request| {
            let (application, visitor) = application();
            let meters = Arc::clone(&self.frontend.meters);
            async move {
                let answer = application.respond(request, visitor).await;
                let status = answer.as_ref().map(|answer| answer.status().as_u16());
                meters.http_requests.answered(status);
                answer
            }
        };
        let answer = |head| {
            let (application, visitor) = application();
            application.answer(head, visitor)
        };
        let served = async {
            if self.application.has_one_form() {
                self.limits.answer_once(io, answer).await;
            } else {
                let stop = self.frontend.stop.clone();
                self.limits.serve(io, version, respond, stop).await;
            }
        };
        let ended = Rarely::new(async {
            tokio::select! {
                biased;
                () = visitor.cut() => visitor.break_off(),
                () = visitor.revoked() => visitor.break_off(),
                () = visitor.closed() => {}
            }
        });
        tokio::select! {
            biased;
            () = ended => {}
            () = served => {}
        }
    }

    async fn watch_limit(self: Arc<Self>) {
        self.frontend.watch_limit().await;
    }

    async fn summarize(self: Arc<Self>) {
        let ticks = async {
            loop {
                sleep(SUMMARY_TICK).await;
                self.frontend.failures.tick();
                self.knocks.iter().for_each(|knocks| knocks.tick());
            }
        };
        tokio::select! {
            () = self.frontend.stop.cancelled() => {}
            () = ticks => {}
        }
    }

    /// Changes the number of connections at once. Present ones stay.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.frontend.slots.set_limit(capacity.sessions);
        self.frontend.pending.set_limit(capacity.handshakes);
        self.application.set_capacity(match self.limit {
            ConnectionLimit::Wait(_) => capacity.sessions,
            ConnectionLimit::Evict(_) => capacity.handshakes,
        });
    }

    /// Stops accepting. Requests under way continue.
    pub fn stop(&self) {
        self.frontend.stop.cancel();
        self.frontend.tasks.close();
    }

    /// Waits until every connection of a stopped service has ended.
    pub async fn finished(&self) {
        self.frontend.tasks.wait().await;
    }

    /// Returns true if it is stopped and every connection has ended.
    pub fn is_finished(&self) -> bool {
        self.frontend.tasks.is_closed() && self.frontend.tasks.is_empty()
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.frontend.cut.cancel();
    }

    /// Waits until [`Self::cut`] is called.
    pub async fn is_cut(&self) {
        self.frontend.cut.cancelled().await;
    }

    /// Logs everything that was counted and not logged yet.
    pub fn flush_failures(&self) {
        self.frontend.failures.flush();
        self.knocks.iter().for_each(|knocks| knocks.flush_log());
        self.gate.iter().for_each(Gate::flush_bans);
        self.application.flush_log();
    }

    /// Returns the number of connections.
    pub fn sessions(&self) -> usize {
        self.status().connections.now
    }

    /// Returns the peak of its connections.
    pub fn most_sessions(&self) -> usize {
        self.status().connections.most
    }

    /// Returns its gate.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// Returns its counters.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.frontend.meters
    }

    /// Returns the load balancers that have to announce their clients.
    pub fn balancers(&self) -> &Balancers {
        &self.frontend.proxy_from
    }

    pub(super) fn listening(&self) -> MutexGuard<'_, Vec<String>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the settings of the frontend.
fn frontend_options(options: &WebOptions, capacity: Capacity) -> FrontendOptions {
    FrontendOptions {
        name: options.name.clone(),
        slot_time: match options.connections {
            ConnectionLimit::Wait(_) => SlotTime::Accept,
            ConnectionLimit::Evict(_) => SlotTime::Proof,
        },
        sessions: capacity.sessions,
        handshakes: capacity.handshakes,
        per_source: options.per_source,
        proxy_from: Arc::clone(&options.proxy_from),
        timeout: options.timeout,
        drain: options.drain,
    }
}
