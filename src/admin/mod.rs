//! What an operator asks a running process, and what he orders it to do.
//!
//! ```text
//!   roster      the tunnels of the process, and how it is with all of them
//!   protocol    the lines of the admin socket, as types
//!   answers     what a request is answered with, from the roster
//!   wrong       what is wrong with a tunnel, in words
//!   gates       what is said of the gates of running tunnels
//!   socket      the admin socket: who may ask, for how long, how much
//!   http        /metrics, /healthz and /readyz
//!   exposition  the metrics as OpenMetrics text
//!   plain       the same in the older text format
//!   accept      which of both a scraper wants
//!   client      the other end of the admin socket, for the command line
//! ```
//!
//! Nothing here touches a session but through the roster, and nothing a client
//! does here can hold a tunnel up: what is asked is read from counters, and an
//! order goes through a channel to whoever runs the tunnels.

mod accept;
mod answers;
pub mod client;
mod exposition;
pub mod gates;
mod http;
mod plain;
pub mod protocol;
pub mod roster;
mod socket;
mod wrong;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use protocol::ReloadedReply;
pub use roster::Roster;

use crate::addr::Address;
use crate::net::{
    AcceptBackoff, AcceptStep, AsyncListener, BindError, Heir, Listener, PendingHandshakes,
    SocketOptions, Stream,
};
use crate::sys::privileges::User;
use crate::tasks::lasting;

/// Connections that the kernel may hold for a door.
const BACKLOG: i32 = 64;

/// How long an answer that is under way may take when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Orders that may wait.
const ORDERS: usize = 16;

/// The way for the answer to an order: what is done, or in one line for the
/// operator why not and what to do instead.
pub type Outcome = oneshot::Sender<Result<Done, String>>;

/// The outcome of an order that was done.
#[derive(Debug)]
pub enum Done {
    /// The tunnels are what the files say.
    Reloaded(ReloadedReply),
    /// This.
    Said(&'static str),
}

/// What an operator wants done.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again.
    Reload(Outcome),
    /// Accept no more connections, and end when those that there are have ended.
    Drain(Outcome),
}

/// Where an operator can ask; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct DoorOptions {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub metrics: Option<Address>,
    /// The path of the admin socket.
    pub socket: Option<PathBuf>,
}

impl DoorOptions {
    /// How many descriptors whoever comes can take at most, so that tunnels leave
    /// them alone. One of each door is its listener; a metrics' name with several
    /// addresses has some more, for which the general reserve is enough.
    pub fn descriptors(&self) -> u64 {
        let metrics = self.metrics.as_ref().map_or(0, |_| http::CLIENTS + 1);
        let socket = self.socket.as_ref().map_or(0, |_| socket::CLIENTS + 1);
        (metrics + socket) as u64
    }
}

/// The open doors. They close when this is dropped, and leave no socket file
/// behind with [`Doors::close`].
#[derive(Debug)]
pub struct Doors {
    orders: mpsc::Receiver<Order>,
    accepting: JoinSet<()>,
    answering: TaskTracker,
}

/// Why a door does not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Nobody can listen there.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The runtime cannot watch it.
    #[error("cannot watch a socket: {0}; check the limit of open files")]
    Watch(std::io::Error),
}

impl Doors {
    /// Binds what `options` ask for and answers from `roster` from now on, also
    /// before any tunnel is there. Call it inside the runtime, while ports below
    /// 1024 can still be bound; `user` is who the process becomes afterwards.
    ///
    /// # Errors
    /// [`DoorError`]
    pub async fn open(
        options: &DoorOptions,
        roster: &Arc<Roster>,
        user: Option<&User>,
    ) -> Result<Self, DoorError> {
        // All of them before anybody is answered, so that what fails leaves nothing behind.
        let (metrics, socket) = (bind_metrics(options, user).await?, bind_socket(options, user)?);
        let (order, orders) = mpsc::channel(ORDERS);
        let (mut accepting, answering) = (JoinSet::new(), TaskTracker::new());
        if let Some(listener) = socket {
            let desk = socket::Desk::new(Arc::clone(roster), order, answering.clone());
            let desk = Arc::new(desk);
            let serve = move |stream| Arc::clone(&desk).meet(stream);
            accepting.spawn(accept(listener, PendingHandshakes::new(socket::CLIENTS), serve));
        }
        // Of all addresses together.
        let clients = PendingHandshakes::new(http::CLIENTS);
        for listener in metrics {
            info!(address = listener.local(), "serving metrics");
            let (roster, answering) = (Arc::clone(roster), answering.clone());
            let serve = move |stream| http::meet(stream, Arc::clone(&roster), answering.clone());
            accepting.spawn(accept(listener, clients.clone(), serve));
        }
        Ok(Self { orders, accepting, answering })
    }

    /// The next order; never where there is no admin socket. Cancel safe.
    pub async fn order(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => pending().await,
        }
    }

    /// Closes all doors; an answer that is under way has a second.
    pub async fn close(self) {
        let Self { orders, mut accepting, answering } = self;
        // Nobody carries out what still waits: whoever ordered it hears so.
        drop(orders);
        accepting.shutdown().await;
        answering.close();
        // Whoever asked and does not read must not hold the end up.
        let _ = timeout(LAST_ANSWERS, answering.wait()).await;
    }
}

async fn bind_metrics(
    options: &DoorOptions,
    user: Option<&User>,
) -> Result<Vec<AsyncListener>, DoorError> {
    let Some(address) = &options.metrics else { return Ok(vec![]) };
    let bound = match address {
        Address::Unix(path) => vec![Listener::bind_for(path, BACKLOG, heir(user))?],
        Address::Tcp { .. } => Listener::bind_apart(address, &[], BACKLOG).await?,
    };
    bound.into_iter().map(watched).collect()
}

fn bind_socket(
    options: &DoorOptions,
    user: Option<&User>,
) -> Result<Option<AsyncListener>, DoorError> {
    let Some(path) = &options.socket else { return Ok(None) };
    watched(Listener::bind_private(path, BACKLOG, heir(user))?).map(Some)
}

/// The owner of a socket's file: the user that the process becomes.
fn heir(user: Option<&User>) -> Option<Heir> {
    user.map(|user| Heir { uid: user.uid(), gid: user.gid() })
}

fn watched(listener: Listener) -> Result<AsyncListener, DoorError> {
    listener.into_async(&SocketOptions::default()).map_err(DoorError::Watch)
}

/// As [`admit_all`], also after a panic in it.
async fn accept<F>(
    listener: AsyncListener,
    clients: PendingHandshakes,
    serve: impl Fn(Stream) -> F + Send + Sync,
) where
    F: Future<Output = ()> + Send + 'static,
{
    lasting("the door for operators", || admit_all(&listener, clients.clone(), &serve)).await;
}

/// Hands whoever comes to `serve`, in a task of its own, for ever. Where there are
/// too many `clients` the oldest makes way, of the source that has most.
async fn admit_all<F>(
    listener: &AsyncListener,
    clients: PendingHandshakes,
    serve: &impl Fn(Stream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut backoff, address) = (AcceptBackoff::default(), listener.local());
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if backoff.succeeded(Instant::now()) {
                    info!(address, "accepting again");
                }
                let (served, place) = (serve(stream), clients.enter(peer.source()));
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        () = place.displaced() => {}
                    }
                });
            }
            Err(error) => {
                let AcceptStep::Wait { delay, news } = backoff.failed(&error, Instant::now())
                else {
                    continue;
                };
                if news {
                    let detail = "trying again until it works; raise ulimit -n";
                    warn!(address, %error, detail, "cannot accept");
                }
                sleep(delay).await;
            }
        }
    }
}
