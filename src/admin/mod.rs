//! What an operator asks a running process, and what he orders it to do.
//!
//! ```text
//!   roster      the tunnels of the process, and how it is with all of them
//!   protocol    the lines of the admin socket, as types
//!   answers     what a request is answered with, from the roster
//!   socket      the admin socket: who may ask, for how long, how much
//!   http        /metrics, /healthz and /readyz
//!   exposition  the metrics as text
//!   client      the other end of the admin socket, for the command line
//! ```
//!
//! Nothing here touches a session but through the roster, and nothing a client
//! does here can hold a tunnel up: what is asked is read from counters, and an
//! order goes through a channel to whoever runs the tunnels.

mod answers;
pub mod client;
mod exposition;
mod http;
pub mod protocol;
pub mod roster;
mod socket;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use roster::Roster;

use crate::addr::Address;
use crate::net::{AsyncListener, BindError, Listener, SocketOptions};
use crate::sys::privileges::User;

/// Connections that the kernel may hold for a door.
const BACKLOG: i32 = 64;

/// How long an answer that is under way may take when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Orders that may wait.
const ORDERS: usize = 16;

/// What an operator wants done. Whoever runs the tunnels answers with one line
/// for him: what is done, or why not and what to do instead.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again.
    Reload(oneshot::Sender<Result<String, String>>),
    /// Accept no more connections, and end when those that there are have ended.
    Drain(oneshot::Sender<Result<String, String>>),
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
    /// The socket cannot be handed to the user that the process becomes.
    #[error(
        "cannot hand the admin socket to the user of -u: {0}; put it into a directory of that user"
    )]
    Owner(std::io::Error),
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
    pub fn open(
        options: &DoorOptions,
        roster: &Arc<Roster>,
        user: Option<&User>,
    ) -> Result<Self, DoorError> {
        let (order, orders) = mpsc::channel(ORDERS);
        let (mut accepting, answering) = (JoinSet::new(), TaskTracker::new());
        if let Some(path) = &options.socket {
            let listener = Listener::bind_private(path, BACKLOG)?;
            if let Some(user) = user {
                user.take_over(path).map_err(DoorError::Owner)?;
            }
            let desk = socket::Desk::new(Arc::clone(roster), order, answering.clone());
            accepting.spawn(Arc::new(desk).serve(watched(listener)?));
        }
        if let Some(address) = &options.metrics {
            for listener in Listener::bind(address, &[], BACKLOG)? {
                let listener = watched(listener)?;
                info!(address = listener.local(), "serving metrics");
                accepting.spawn(http::serve(listener, Arc::clone(roster)));
            }
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
    pub async fn close(mut self) {
        self.accepting.shutdown().await;
        self.answering.close();
        // Whoever asked and does not read must not hold the end up.
        let _ = timeout(LAST_ANSWERS, self.answering.wait()).await;
    }
}

fn watched(listener: Listener) -> Result<AsyncListener, DoorError> {
    listener.into_async(&SocketOptions::default()).map_err(DoorError::Watch)
}
