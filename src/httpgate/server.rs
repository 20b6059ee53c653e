//! Connections to the server behind the gate: dialled through its targets, used for one request
//! after another, and kept for a while in between.
//!
//! A connection stays on the worker that dialled it, as those of clients do, so that a request and
//! its answer wake no second thread. Each worker has its own idle connections.
//!
//! A server may end an idle connection at the moment at which the next request is sent. A request
//! that it cannot have seen is sent again on a new connection, and one that it may have seen only
//! if repeating it changes nothing (GET and the like, without a body). Nothing else is repeated.

use std::error::Error as _;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Request, Response};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::dialer::Dialer;
use super::hold::Hold;
use super::idle::{IdleSet, Taken};
use super::upload::RequestBody;
use crate::observe::metrics::Meters;
use crate::printable::printable;
use crate::reason::CloseReason;
use crate::upstream::{ConnectFailure, Targets};

/// Longest time for which a connection waits for a request: shorter than the five seconds after
/// which common servers end theirs, so that the two seldom meet.
const LONGEST_IDLE: Duration = Duration::from_secs(4);

/// Time by which a connection ends before the server says that it would end it.
const MARGIN: Duration = Duration::from_secs(1);

/// Time of waiting after which a server may be about to end a connection.
const MAY_BE_ENDING: Duration = Duration::from_millis(200);

/// Time in which a server may say that it wants a body, before it gets it unasked.
const WORD_TIME: Duration = Duration::from_secs(1);

/// Time in which the last bytes of an exchange may still go out.
const LAST_BYTES: Duration = Duration::from_secs(1);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The server behind the gate.
pub(super) struct Server {
    dialer: Arc<Dialer>,
    /// Time limit of a dial.
    dial_time: Duration,
    /// Time limit from the end of a request to the head of its answer.
    answer_time: Option<Duration>,
    meters: Arc<Meters>,
    /// Idle connections of each worker.
    idle: Box<[Mutex<IdleSet<Connection>>]>,
    /// None is kept any more.
    is_stopped: AtomicBool,
}

/// Settings of [`Server`].
pub(super) struct ServerParts {
    pub(super) dialer: Arc<Dialer>,
    pub(super) dial_time: Duration,
    pub(super) answer_time: Option<Duration>,
    pub(super) meters: Arc<Meters>,
    /// Most idle connections of all workers together.
    pub(super) idle: usize,
}

/// A connection to one of the targets.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Place of the target.
    place: usize,
}

/// A request with what is known of its body.
pub(super) struct Outgoing {
    pub(super) request: Request<RequestBody>,
    /// Repeating it changes nothing.
    pub(super) is_repeatable: bool,
    /// The body, where its client waits for a word.
    pub(super) hold: Option<Hold>,
    /// Notified when all of the body has gone; `None` where there is none.
    pub(super) sent: Option<Arc<Notify>>,
}

/// The beginning of an answer.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
}

/// A connection in use for one exchange; closed when this is dropped.
pub(super) struct Lease {
    connection: Option<Connection>,
    server: Arc<Server>,
    hold: Option<Hold>,
    /// Time for which it may wait for another request.
    keep: Duration,
}

/// Failure of an exchange before the head of the answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// No target could be connected to.
    #[error("{}", .0.detail)]
    Unreachable(ConnectFailure),
    /// The server did not answer in time.
    #[error("no answer in time; look at the server, or allow more with --response-timeout")]
    Late,
    /// The connection ended, or what came was no answer.
    #[error("{}; see the log of the server", printable(&words(.0)))]
    Broken(hyper::Error),
}

impl NoAnswer {
    /// Returns true when it is the client that broke off.
    pub(super) fn is_clients(&self) -> bool {
        match self {
            Self::Broken(error) => error.is_user(),
            Self::Unreachable(_) | Self::Late => false,
        }
    }

    /// Returns the reason for the log and the counters.
    pub(super) fn reason(&self) -> CloseReason {
        match self {
            Self::Unreachable(failure) => failure.reason,
            Self::Late => CloseReason::TargetTimeout,
            Self::Broken(_) => CloseReason::PlainReset,
        }
    }
}

/// Returns an error with its causes.
fn words(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        text = format!("{text}: {this}");
        cause = this.source();
    }
    text
}

// === impl Server ===

impl Server {
    pub(super) fn new(parts: ServerParts) -> Arc<Self> {
        let ServerParts { dialer, dial_time, answer_time, meters, idle } = parts;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let each = idle.div_ceil(workers);
        let idle = (0..workers).map(|_| Mutex::new(IdleSet::new(each))).collect();
        let is_stopped = AtomicBool::new(false);
        Arc::new(Self { dialer, dial_time, answer_time, meters, idle, is_stopped })
    }

    /// Returns its targets.
    pub(super) fn targets(&self) -> &Arc<Targets> {
        self.dialer.targets()
    }

    /// Sends a request, and waits for the head of its answer.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub(super) async fn exchange(self: &Arc<Self>, outgoing: Outgoing) -> Result<Answer, NoAnswer> {
        let Outgoing { mut request, is_repeatable, hold, sent } = outgoing;
        if let Some(Taken { item: mut connection, waited }) = self.take() {
            let is_risky = waited > MAY_BE_ENDING;
            let copy = (is_repeatable && is_risky).then(|| repeated(&request));
            let answered = self.answer(&mut connection, request, hold.as_ref(), sent.as_deref());
            match answered.await {
                Ok(response) => return Ok(self.answered(response, connection, hold)),
                Err(Unsent { request: Some(unsent), .. }) => request = *unsent,
                Err(Unsent { request: None, cause }) => match (copy, &cause) {
                    (Some(again), NoAnswer::Broken(error)) if !error.is_parse() => request = again,
                    _ => return Err(cause),
                },
            }
        }
        let mut connection = self.connect().await.map_err(NoAnswer::Unreachable)?;
        let answered = self.answer(&mut connection, request, hold.as_ref(), sent.as_deref());
        match answered.await {
            Ok(response) => Ok(self.answered(response, connection, hold)),
            Err(unsent) => Err(unsent.cause),
        }
    }

    /// Sends a request on a connection, and waits for the head of its answer. The body may take
    /// as long as its client; the server's time begins when it has all of it.
    async fn answer(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        hold: Option<&Hold>,
        sent: Option<&Notify>,
    ) -> Result<Response<Incoming>, Unsent> {
        let mut answered = pin!(connection.sender.try_send_request(request));
        let answered = async {
            if let Some(hold) = hold {
                tokio::select! {
                    biased;
                    answered = &mut answered => return Ok(answered),
                    () = sleep(WORD_TIME) => hold.open(),
                }
            }
            if let Some(sent) = sent {
                tokio::select! {
                    biased;
                    answered = &mut answered => return Ok(answered),
                    () = sent.notified() => {}
                }
            }
            match self.answer_time {
                Some(limit) => timeout(limit, answered).await,
                None => Ok(answered.await),
            }
        };
        match answered.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(mut error)) => {
                let request = error.take_message().map(Box::new);
                Err(Unsent { request, cause: NoAnswer::Broken(error.into_error()) })
            }
            Err(_) => Err(Unsent { request: None, cause: NoAnswer::Late }),
        }
    }

    fn answered(
        self: &Arc<Self>,
        response: Response<Incoming>,
        connection: Connection,
        hold: Option<Hold>,
    ) -> Answer {
        hold.iter().for_each(Hold::answered);
        let keep = keep_time(response.headers());
        let server = Arc::clone(self);
        Answer { response, lease: Lease { connection: Some(connection), server, hold, keep } }
    }

    /// Connects to the first target that works.
    async fn connect(&self) -> Result<Connection, ConnectFailure> {
        let deadline = tokio::time::Instant::now() + self.dial_time;
        let attempt = |place| self.connect_to(place, deadline);
        let reached = self.targets().reach(None, attempt).await;
        let (place, sender) = reached.map_err(|failed| failed.failure)?;
        Ok(Connection { sender, place })
    }

    async fn connect_to(
        &self,
        place: usize,
        deadline: tokio::time::Instant,
    ) -> Result<SendRequest<RequestBody>, ConnectFailure> {
        let began = Instant::now();
        let connected = self.dialer.connect(place, deadline).await?;
        self.meters.dial.done(began);
        Ok(connected)
    }

    /// Takes an idle connection to the target that new ones would go to.
    fn take(&self) -> Option<Taken<Connection>> {
        let place = self.targets().first();
        let mut useless = vec![];
        let is_usable = |idle: &Connection| idle.place == place && idle.sender.is_ready();
        let taken = self.of_worker().take(Instant::now(), is_usable, &mut useless);
        drop(useless);
        taken
    }

    fn put(&self, connection: Connection, keep: Duration) {
        let mut idle = self.of_worker();
        // Looked at under the lock, under which those that are there end.
        if self.is_stopped.load(Ordering::Relaxed) {
            return;
        }
        let surplus = idle.put(connection, Instant::now(), keep);
        drop(idle);
        drop(surplus);
    }

    /// Ends connections that have waited for too long.
    pub(super) fn expire(&self) {
        for idle in &self.idle {
            let over = lock(idle).expire(Instant::now());
            drop(over);
        }
    }

    /// Ends all that wait, and lets none wait any more.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        for idle in &self.idle {
            let all = lock(idle).clear();
            drop(all);
        }
    }

    /// Returns the idle connections of the worker that this runs on.
    fn of_worker(&self) -> MutexGuard<'_, IdleSet<Connection>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.idle[NUMBER.with(|number| number % self.idle.len())])
    }
}

/// A request that has no answer: the request itself if it was not sent.
struct Unsent {
    request: Option<Box<Request<RequestBody>>>,
    cause: NoAnswer,
}

/// Returns the same request once more; it has no body.
fn repeated(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::nothing());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Returns the time for which a connection may wait: ours, or less if the server says so.
fn keep_time(headers: &HeaderMap) -> Duration {
    let told = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok());
    let seconds = told.and_then(|text| {
        let mut options = text.split(',').map(str::trim);
        options.find_map(|option| option.strip_prefix("timeout=")?.parse().ok())
    });
    let told = seconds.map(Duration::from_secs);
    told.map_or(LONGEST_IDLE, |told| told.saturating_sub(MARGIN).min(LONGEST_IDLE))
}

fn lock<T>(idle: &Mutex<T>) -> MutexGuard<'_, T> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Lease ===

impl Lease {
    /// Lets the connection wait for another request, once its last bytes are through.
    pub(super) fn give_back(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let (server, keep) = (Arc::clone(&self.server), self.keep);
        if keep.is_zero() || connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            return server.put(connection, keep);
        }
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(LAST_BYTES, connection.sender.ready()).await {
                server.put(connection, keep);
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.hold.iter().for_each(Hold::over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_when_it_ends_connections_is_believed() {
        let keep = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE, value.parse().unwrap());
            keep_time(&headers)
        };
        assert_eq!(keep_time(&HeaderMap::new()), LONGEST_IDLE);
        assert_eq!(keep("timeout=5"), LONGEST_IDLE);
        assert_eq!(keep("max=100, timeout=3"), Duration::from_secs(2));
        assert_eq!(keep("timeout=1"), Duration::ZERO);
        assert_eq!(keep("timeout=0"), Duration::ZERO);
        assert_eq!(keep("timeout=x"), LONGEST_IDLE);
    }
}
