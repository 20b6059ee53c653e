//! Admin interface: status, metrics, and commands to a running process.
//!
//! ```text
//!   registry    the services of the process, for status, metrics and readiness
//!   protocol    the lines of the admin socket, as types
//!   answers     the answer to a request, read from the registry
//!   wrong       problems of a tunnel, in words
//!   gates       the gates of running tunnels: their stores, their decisions
//!   socket      the admin socket: permitted users, deadlines, sizes
//!   routes      /metrics, /healthz and /readyz
//!   page        the status page at the same port
//!   exposition  the metrics as OpenMetrics text
//!   plain       the same in the older text format
//!   accept      the format that a scraper prefers
//!   client      the client of the admin socket, for the command line
//! ```
//!
//! Nothing here touches a session except through the registry, and no client can delay a tunnel:
//! answers are read from counters, and a command goes through a channel to the supervisor.

mod answers;
pub mod client;
mod exposition;
mod gates;
mod media_type;
mod page;
mod problems;
pub mod protocol;
pub mod registry;
mod routes;
mod socket;
mod text_format;

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use gates::StoredEntry;
use page::StatusPage;
use protocol::ReloadedReply;
pub use registry::Registry;
use routes::Routes;

use crate::addr::Address;
use crate::http::Server;
use crate::net::{
    AcceptLoop, AsyncListener, BindError, Heir, Listener, PendingHandshakes, SocketOptions, Stream,
};
use crate::sys::privileges::User;
use crate::tasks::restarting;

/// Connections that the kernel may hold for each listener.
const BACKLOG: i32 = 64;

/// Longest time of an unfinished answer when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Commands that may wait.
const COMMANDS: usize = 16;

/// Channel for the outcome of a command: the result, or in one line the cause and the remedy.
pub type ReplySender = oneshot::Sender<Result<Done, String>>;

/// Outcome of a command that was executed.
#[derive(Debug)]
pub enum Done {
    /// The services match the files.
    Reloaded(ReloadedReply),
    /// This message.
    Said(&'static str),
}

/// Command of an operator.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again.
    Reload(ReplySender),
    /// Accept no more connections, and end when the present ones have ended.
    Drain(ReplySender),
}

/// Addresses of the admin interface; none by default.
#[derive(Clone, Debug, Default)]
pub struct AdminOptions {
    /// Address of `/metrics`, `/healthz`, `/readyz` and the status page.
    pub metrics: Option<Address>,
    /// The status page shows sessions, with the addresses of their clients.
    pub shows_clients: bool,
    /// Path of the admin socket.
    pub socket: Option<PathBuf>,
}

impl AdminOptions {
    /// Returns the highest number of descriptors that clients can take, which are reserved for
    /// them. One of each address is its listener; a name with several addresses for the metrics
    /// needs some more, for which the general reserve is enough.
    pub fn descriptors(&self) -> u64 {
        let metrics = self.metrics.as_ref().map_or(0, |_| routes::LIMITS.clients + 1);
        let socket = self.socket.as_ref().map_or(0, |_| socket::CLIENTS + 1);
        (metrics + socket) as u64
    }
}

/// The running admin interface. Dropping this closes it; [`AdminServer::close`] also removes the
/// socket file.
#[derive(Debug)]
pub struct AdminServer {
    commands: mpsc::Receiver<Command>,
    accepting: JoinSet<()>,
    answering: TaskTracker,
}

/// Cause of an admin interface that does not open.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The runtime cannot register a socket.
    #[error("cannot watch a socket: {0}; check the limit of open files")]
    Watch(std::io::Error),
}

impl AdminServer {
    /// Binds the addresses of `options` and answers from `registry` from now on, also before any
    /// service exists. To be called inside the runtime, while ports below 1024 can still be bound;
    /// `user` is the one that the process becomes afterwards.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn open(
        options: &AdminOptions,
        registry: &Arc<Registry>,
        user: Option<&User>,
    ) -> Result<Self, AdminError> {
        // Binds all of them before any client is answered, so that a failure leaves nothing behind.
        let metrics = bind_metrics(options, user).await?;
        let socket = bind_socket(options, user)?;
        let (command, commands) = mpsc::channel(COMMANDS);
        let mut server =
            Self { commands, accepting: JoinSet::new(), answering: TaskTracker::new() };
        if let Some(listener) = socket {
            server.serve_socket(listener, Arc::clone(registry), command);
        }
        server.serve_metrics(metrics, registry, options.shows_clients);
        Ok(server)
    }

    fn serve_socket(
        &mut self,
        listener: AsyncListener,
        registry: Arc<Registry>,
        commands: mpsc::Sender<Command>,
    ) {
        let handler = socket::SocketHandler::new(registry, commands, self.answering.clone());
        let handler = Arc::new(handler);
        let serve = move |stream| Arc::clone(&handler).serve(stream);
        self.accepting.spawn(accept(listener, PendingHandshakes::new(socket::CLIENTS), serve));
    }

    fn serve_metrics(
        &mut self,
        listeners: Vec<AsyncListener>,
        registry: &Arc<Registry>,
        shows_clients: bool,
    ) {
        // Shared by all addresses.
        let clients = PendingHandshakes::new(routes::LIMITS.clients);
        let server = Server::new(routes::LIMITS, self.answering.clone());
        let page = Arc::new(StatusPage::new(shows_clients));
        for listener in listeners {
            info!(address = listener.local(), "serving metrics");
            let address = listener.local().parse::<SocketAddr>();
            let routes = Routes {
                registry: Arc::clone(registry),
                page: Arc::clone(&page),
                is_loopback: address.is_ok_and(|address| address.ip().is_loopback()),
            };
            let server = server.clone();
            let serve = move |stream| {
                let routes = routes.clone();
                let server = server.clone();
                async move { server.serve(stream, |request| routes.respond(request)).await }
            };
            self.accepting.spawn(accept(listener, clients.clone(), serve));
        }
    }

    /// Waits for the next command; for ever where there is no admin socket. Cancel safe.
    pub async fn command(&mut self) -> Command {
        match self.commands.recv().await {
            Some(command) => command,
            None => pending().await,
        }
    }

    /// Closes all listeners; an unfinished answer has a second.
    pub async fn close(self) {
        let Self { commands, mut accepting, answering } = self;
        // Waiting commands are not executed, and their operators are told.
        drop(commands);
        accepting.shutdown().await;
        answering.close();
        // A client that does not read its answer must not delay the end.
        let _ = timeout(LAST_ANSWERS, answering.wait()).await;
    }
}

async fn bind_metrics(
    options: &AdminOptions,
    user: Option<&User>,
) -> Result<Vec<AsyncListener>, AdminError> {
    let Some(address) = &options.metrics else { return Ok(vec![]) };
    let bound = match address {
        Address::Unix(path) => vec![Listener::bind_for(path, BACKLOG, heir(user))?],
        Address::Tcp { .. } => Listener::bind_apart(address, &[], BACKLOG).await?,
    };
    bound.into_iter().map(watched).collect()
}

fn bind_socket(
    options: &AdminOptions,
    user: Option<&User>,
) -> Result<Option<AsyncListener>, AdminError> {
    let Some(path) = &options.socket else { return Ok(None) };
    watched(Listener::bind_private(path, BACKLOG, heir(user))?).map(Some)
}

/// Returns the owner of a socket's file: the user that the process becomes.
fn heir(user: Option<&User>) -> Option<Heir> {
    user.map(|user| Heir { uid: user.uid(), gid: user.gid() })
}

fn watched(listener: Listener) -> Result<AsyncListener, AdminError> {
    listener.into_async(&SocketOptions::default()).map_err(AdminError::Watch)
}

/// Runs [`accept_clients`], and restarts it after a panic.
async fn accept<F>(
    listener: AsyncListener,
    clients: PendingHandshakes,
    serve: impl Fn(Stream) -> F + Send + Sync,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = Arc::new(listener);
    let accept = || accept_clients(Arc::clone(&listener), clients.clone(), &serve);
    restarting("the admin listener", accept).await;
}

/// Passes each client to `serve`, in a separate task, for ever. Where there are too many `clients`,
/// the oldest of the source with most is dropped.
async fn accept_clients<F>(
    listener: Arc<AsyncListener>,
    clients: PendingHandshakes,
    serve: &impl Fn(Stream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut accepts = AcceptLoop::new(listener, None);
    loop {
        let (stream, peer) = accepts.next().await;
        let served = serve(stream);
        let place = clients.enter(peer.source());
        tokio::spawn(async move {
            tokio::select! {
                () = served => {}
                () = place.evicted() => {}
            }
        });
    }
}
