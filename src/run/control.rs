//! Requests to a serving process: signals, commands of operators over the admin socket, and a
//! successor that wants the sockets.

use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use super::services::Services;
use crate::admin::{AdminServer, Command, Done, ReplySender};
use crate::net::{AcceptLoop, Listener, SocketOptions, Stream};
use crate::sys::handover::{Successor, give};
use crate::sys::peer::is_trusted;
use crate::sys::signals::{Caught, Signals};
use crate::sys::visit::{self, ProcessInfo, Visit, receive};
use crate::tasks::blocking;

/// Successors that may wait to be accepted.
const OFFER_BACKLOG: i32 = 4;

/// Visitors at the handover socket that are heard at once. Each has a thread and a few seconds.
const MOST_VISITORS: usize = 8;

/// Every source of requests.
pub(super) struct Control {
    signals: Signals,
    /// The admin interface; `None` until it is open, and once a successor has it.
    admin: Option<AdminServer>,
    /// The handover socket; closed once the process stops.
    offer: Option<AcceptLoop>,
    /// Description of this process, for visitors of the handover socket.
    info: ProcessInfo,
    /// Visitors that have not sent their request yet.
    visiting: JoinSet<io::Result<Visit>>,
    giving: JoinSet<io::Result<Successor>>,
}

/// A request.
pub(super) enum Request {
    /// Reads the files again.
    Reload(ReplyTo),
    /// Ends the process.
    Stop(StopCause),
}

/// Channel to the requester, if it waits for an answer.
pub(super) struct ReplyTo(Option<ReplySender>);

/// Cause of the end of the process.
pub(super) enum StopCause {
    /// A request; the signal's name, or `drain`.
    Asked(&'static str),
    /// Another process accepts on the sockets.
    HandedOver(Successor),
    /// The command beside the services has ended.
    CommandEnded,
}

impl Control {
    pub(super) fn new(signals: Signals) -> Self {
        Self {
            signals,
            admin: None,
            offer: None,
            info: ProcessInfo::own(),
            visiting: JoinSet::new(),
            giving: JoinSet::new(),
        }
    }

    pub(super) fn open(&mut self, admin: AdminServer) {
        self.admin = Some(admin);
    }

    /// Offers the sockets to successors at `path`, those of the same user and root.
    ///
    /// # Errors
    /// When the path cannot be listened on.
    pub(super) fn offer(&mut self, path: &Path) -> anyhow::Result<()> {
        let listener = Listener::bind_private(path, OFFER_BACKLOG, None)?;
        let listener = listener.into_async(&SocketOptions::default())?;
        self.offer = Some(AcceptLoop::new(Arc::new(listener), None));
        Ok(())
    }

    /// Stops offering the sockets.
    pub(super) fn withdraw(&mut self) {
        self.offer = None;
    }

    /// Returns true if a successor has the sockets already and is preparing.
    pub(super) fn has_successor(&self) -> bool {
        !self.giving.is_empty()
    }

    /// Closes the admin interface and the handover socket: a successor opens its own instead.
    pub(super) async fn close(&mut self) {
        self.offer = None;
        if let Some(admin) = self.admin.take() {
            admin.close().await;
        }
    }

    /// Waits for the next request. Meanwhile gives the sockets of `services` to a successor that
    /// asks for them. Cancel safe.
    pub(super) async fn next(&mut self, services: &Services) -> Request {
        loop {
            tokio::select! {
                biased;
                caught = self.signals.next() => return match caught {
                    Caught::Stop(signal) => Request::Stop(StopCause::Asked(signal)),
                    Caught::Reload => Request::Reload(ReplyTo(None)),
                },
                command = command(&mut self.admin) => return match command {
                    Command::Reload(told) => Request::Reload(ReplyTo(Some(told))),
                    Command::Drain(told) => {
                        ReplyTo(Some(told)).answer(Ok(Done::Said("draining")));
                        Request::Stop(StopCause::Asked("drain"))
                    }
                },
                stream = visitor(self.offer.as_mut()), if self.has_room() => {
                    let info = self.info.clone();
                    let heard = async move { blocking(move || receive(stream, &info)).await? };
                    self.visiting.spawn(heard);
                }
                Some(visit) = self.visiting.join_next() => match understood(visit) {
                    // It is refused by the end of its connection.
                    Some(Visit::Successor(_)) if self.has_successor() => {
                        warn!("another successor is preparing; only one can be given the sockets");
                    }
                    Some(Visit::Successor(stream)) => {
                        let sockets = services.sockets();
                        let given =
                            async move { blocking(move || give(stream, &sockets?)).await? };
                        self.giving.spawn(given);
                    }
                    Some(Visit::Reload(stream)) => return Request::Reload(ReplyTo::at(stream)),
                    Some(Visit::Answered) | None => {}
                },
                Some(given) = self.giving.join_next() => {
                    if let Some(successor) = let_accept(given) {
                        return Request::Stop(StopCause::HandedOver(successor));
                    }
                }
            }
        }
    }

    /// Returns true if one more visitor at the handover socket can be heard. One that says nothing
    /// keeps no other waiting; the sockets are given to one at a time.
    fn has_room(&self) -> bool {
        self.visiting.len() < MOST_VISITORS && self.giving.is_empty()
    }

    /// Waits for the next request to stop that must be handled at once: a signal. Other requests
    /// stay for [`Self::next`].
    pub(super) async fn stop(&mut self) -> &'static str {
        self.signals.stop().await
    }

    /// Waits for the next request to stop while there is nothing to reload yet.
    pub(super) async fn stop_before_ready(&mut self) -> &'static str {
        loop {
            let command = tokio::select! {
                signal = self.signals.stop() => return signal,
                command = command(&mut self.admin) => command,
            };
            match command {
                Command::Reload(told) => {
                    ReplyTo(Some(told)).answer(Err("it is starting; try again"))
                }
                Command::Drain(told) => {
                    ReplyTo(Some(told)).answer(Ok(Done::Said("stopped before it was ready")));
                    return "drain";
                }
            }
        }
    }

    /// Waits for an event that changes a drain: a second signal, or a successor that became ready.
    /// There is nothing left to reload, and a command to drain is no second signal. Cancel safe.
    pub(super) async fn while_draining(&mut self) -> StopCause {
        loop {
            let reply = tokio::select! {
                Some(given) = self.giving.join_next() => match let_accept(given) {
                    Some(successor) => return StopCause::HandedOver(successor),
                    None => continue,
                },
                // It came before the stop, and waits for an answer.
                Some(visit) = self.visiting.join_next() => match understood(visit) {
                    Some(Visit::Reload(stream)) => ReplyTo::at(stream),
                    // Nothing is handed over any more; the end of its connection tells it so.
                    Some(Visit::Successor(_) | Visit::Answered) | None => continue,
                },
                caught = self.signals.next() => match caught {
                    Caught::Stop(signal) => return StopCause::Asked(signal),
                    Caught::Reload => ReplyTo(None),
                },
                command = command(&mut self.admin) => match command {
                    Command::Reload(told) => ReplyTo(Some(told)),
                    Command::Drain(told) => {
                        ReplyTo(Some(told)).answer(Ok(Done::Said("draining already")));
                        continue;
                    }
                },
            };
            info!("already stopping; nothing is reloaded");
            reply.answer(Err("it is stopping, so nothing is reloaded; start it again"));
        }
    }
}

impl ReplyTo {
    /// Makes the channel to a visitor that waits at the handover socket.
    fn at(stream: UnixStream) -> Self {
        let (told, answer) = oneshot::channel();
        tokio::spawn(async move {
            let result = answer.await.unwrap_or_else(|_| Err("it ended meanwhile".to_owned()));
            let result = result.map(|done| match done {
                Done::Reloaded(changes) => changes.to_string(),
                Done::Said(text) => text.to_owned(),
            });
            // The visitor may be gone.
            let _ = blocking(move || visit::answer(stream, &result)).await;
        });
        Self(Some(told))
    }

    pub(super) fn answer(self, result: Result<Done, &str>) {
        if let Some(told) = self.0 {
            // The requester may not wait any longer.
            let _ = told.send(result.map_err(str::to_owned));
        }
    }
}

async fn command(admin: &mut Option<AdminServer>) -> Command {
    match admin {
        Some(admin) => admin.command().await,
        None => pending().await,
    }
}

/// Lets a successor accept that is ready to; `None` when it gave up.
fn let_accept(given: Result<io::Result<Successor>, JoinError>) -> Option<Successor> {
    let ready = given.unwrap_or_else(|panic| Err(panic.into()));
    match ready.and_then(Successor::let_accept) {
        Ok(successor) => Some(successor),
        Err(error) => {
            warn!(%error, "successor gave up during handover");
            None
        }
    }
}

/// Returns the request of a visitor to the handover socket; `None` if it is unknown.
fn understood(visit: Result<io::Result<Visit>, JoinError>) -> Option<Visit> {
    let visit = visit.unwrap_or_else(|panic| Err(panic.into()));
    visit.inspect_err(|error| warn!(%error, "invalid request on the handover socket")).ok()
}

/// Waits for the next visitor that may have the sockets. Cancel safe.
async fn visitor(offer: Option<&mut AcceptLoop>) -> UnixStream {
    let Some(offer) = offer else { return pending().await };
    loop {
        let (stream, _) = offer.next().await;
        if let Stream::Unix(stream) = stream
            && let Ok(stream) = stream.into_std()
            && is_trusted(&stream, None)
        {
            return stream;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This process continues to serve, as when the successor itself fails.
    #[tokio::test]
    async fn a_panic_on_the_way_to_a_successor_is_one_that_gave_up() {
        let panicked = tokio::spawn(async { panic!("a mistake, made on purpose") }).await;
        assert!(let_accept(panicked).is_none());
    }
}
