//! What a serving process may be asked: by a signal, by an operator over the
//! admin socket, by a successor that wants the sockets.

use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tracing::{info, warn};

use super::fleet::Fleet;
use crate::admin::{Done, Doors, Order, Outcome};
use crate::net::{AsyncListener, Listener, SocketOptions, Stream};
use crate::sys::handover::{Successor, give};
use crate::sys::peer::is_trusted;
use crate::sys::signals::{Caught, Signals};
use crate::sys::visit::{self, Card, Visit, receive};
use crate::tasks::blocking;

/// Successors that may wait to be heard.
const OFFER_BACKLOG: i32 = 4;

/// Pause after an accept that failed.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Everybody who may ask for something.
pub(super) struct Requests {
    signals: Signals,
    /// Where operators ask; `None` until it is open, and once a successor has it.
    doors: Option<Doors>,
    /// Where successors ask; closed once it stops.
    offer: Option<AsyncListener>,
    /// Our card, for visitors there.
    card: Card,
    /// Visitors that have not said yet what for.
    visiting: JoinSet<io::Result<Visit>>,
    giving: JoinSet<io::Result<Successor>>,
}

/// What is asked.
pub(super) enum Request {
    /// To read the files again.
    Reload(Asker),
    /// To end.
    Stop(Cause),
}

/// Who wants to know what came of it.
pub(super) struct Asker(Option<Outcome>);

/// Why the process ends.
pub(super) enum Cause {
    /// Somebody wants it to; the signal's name, or `drain`.
    Asked(&'static str),
    /// Another process accepts on the sockets.
    HandedOver(Successor),
}

impl Requests {
    pub(super) fn of(signals: Signals) -> Self {
        Self {
            signals,
            doors: None,
            offer: None,
            card: Card::own(),
            visiting: JoinSet::new(),
            giving: JoinSet::new(),
        }
    }

    pub(super) fn open(&mut self, doors: Doors) {
        self.doors = Some(doors);
    }

    /// From now on successors may ask at `path`, those of the same user and root.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub(super) fn offer(&mut self, path: &Path) -> anyhow::Result<()> {
        let listener = Listener::bind_private(path, OFFER_BACKLOG, None)?;
        self.offer = Some(listener.into_async(&SocketOptions::default())?);
        Ok(())
    }

    /// Nobody may ask for the sockets any more.
    pub(super) fn withdraw(&mut self) {
        self.offer = None;
    }

    /// Whether somebody has the sockets already, and gets ready.
    pub(super) fn has_successor(&self) -> bool {
        !self.giving.is_empty()
    }

    /// A successor opens doors of its own, where ours were.
    pub(super) async fn close(&mut self) {
        self.offer = None;
        if let Some(doors) = self.doors.take() {
            doors.close().await;
        }
    }

    /// The next request. The sockets of `fleet` are given away meanwhile where
    /// a successor wants them. Cancel safe.
    pub(super) async fn next(&mut self, fleet: &Fleet) -> Request {
        loop {
            tokio::select! {
                biased;
                caught = self.signals.next() => return match caught {
                    Caught::Stop(signal) => Request::Stop(Cause::Asked(signal)),
                    Caught::Reload => Request::Reload(Asker(None)),
                },
                order = order(&mut self.doors) => return match order {
                    Order::Reload(told) => Request::Reload(Asker(Some(told))),
                    Order::Drain(told) => {
                        Asker(Some(told)).answer(Ok(Done::Said("draining")));
                        Request::Stop(Cause::Asked("drain"))
                    }
                },
                stream = visitor(self.offer.as_ref()), if self.is_alone() => {
                    let card = self.card.clone();
                    self.visiting.spawn(async move { blocking(move || receive(stream, &card)).await? });
                }
                Some(visit) = self.visiting.join_next() => match understood(visit) {
                    Some(Visit::Successor(stream)) => {
                        let sockets = fleet.sockets();
                        self.giving.spawn(async move { blocking(move || give(stream, &sockets?)).await? });
                    }
                    Some(Visit::Reload(stream)) => return Request::Reload(Asker::at(stream)),
                    Some(Visit::Answered) | None => {}
                },
                Some(given) = self.giving.join_next() => {
                    if let Some(successor) = let_accept(given) {
                        return Request::Stop(Cause::HandedOver(successor));
                    }
                }
            }
        }
    }

    /// Nobody is at the socket for successors: each has its turn.
    fn is_alone(&self) -> bool {
        self.visiting.is_empty() && self.giving.is_empty()
    }

    /// The next request to stop that cannot wait: a signal. What else is asked
    /// stays for [`Self::next`].
    pub(super) async fn stop(&mut self) -> &'static str {
        self.signals.stop().await
    }

    /// The next request to stop while there is nothing to reload yet.
    pub(super) async fn stop_before_ready(&mut self) -> &'static str {
        loop {
            let order = tokio::select! {
                signal = self.signals.stop() => return signal,
                order = order(&mut self.doors) => order,
            };
            match order {
                Order::Reload(told) => Asker(Some(told)).answer(Err("it is starting; try again")),
                Order::Drain(told) => {
                    Asker(Some(told)).answer(Ok(Done::Said("stopped before it was ready")));
                    return "drain";
                }
            }
        }
    }

    /// What changes a drain: a second signal, or a successor that got ready
    /// meanwhile. There is nothing left to reload, and an order to drain is no
    /// second signal. Cancel safe.
    pub(super) async fn while_draining(&mut self) -> Cause {
        loop {
            let asker = tokio::select! {
                Some(given) = self.giving.join_next() => match let_accept(given) {
                    Some(successor) => return Cause::HandedOver(successor),
                    None => continue,
                },
                // Came before the stop, and waits for an answer.
                Some(visit) = self.visiting.join_next() => match understood(visit) {
                    Some(Visit::Reload(stream)) => Asker::at(stream),
                    // Nothing is given away any more; it hears so by the end of its connection.
                    Some(Visit::Successor(_) | Visit::Answered) | None => continue,
                },
                caught = self.signals.next() => match caught {
                    Caught::Stop(signal) => return Cause::Asked(signal),
                    Caught::Reload => Asker(None),
                },
                order = order(&mut self.doors) => match order {
                    Order::Reload(told) => Asker(Some(told)),
                    Order::Drain(told) => {
                        Asker(Some(told)).answer(Ok(Done::Said("draining already")));
                        continue;
                    }
                },
            };
            info!("stopping already; nothing is reloaded");
            asker.answer(Err("it is stopping, so nothing is reloaded; start it again"));
        }
    }
}

impl Asker {
    /// A visitor who waits at the socket for successors.
    fn at(stream: UnixStream) -> Self {
        let (told, answer) = oneshot::channel();
        tokio::spawn(async move {
            let result = answer.await.unwrap_or_else(|_| Err("it ended meanwhile".to_owned()));
            let result = result.map(|done| match done {
                Done::Reloaded(changes) => changes.to_string(),
                Done::Said(text) => text.to_owned(),
            });
            // Whoever asked may be gone.
            let _ = blocking(move || visit::answer(stream, &result)).await;
        });
        Self(Some(told))
    }

    pub(super) fn answer(self, result: Result<Done, &str>) {
        if let Some(told) = self.0 {
            // Whoever asked may not wait any longer.
            let _ = told.send(result.map_err(str::to_owned));
        }
    }
}

async fn order(doors: &mut Option<Doors>) -> Order {
    match doors {
        Some(doors) => doors.order().await,
        None => pending().await,
    }
}

/// Lets a successor accept that is ready to; `None` when it gave up.
fn let_accept(given: Result<io::Result<Successor>, JoinError>) -> Option<Successor> {
    let ready = given.unwrap_or_else(|panic| Err(panic.into()));
    match ready.and_then(Successor::let_accept) {
        Ok(successor) => Some(successor),
        Err(error) => {
            warn!(%error, "a successor asked for the sockets and gave up");
            None
        }
    }
}

/// Tells the wish of a visitor to the socket for successors; `None` for one who said
/// nothing that we know.
fn understood(visit: Result<io::Result<Visit>, JoinError>) -> Option<Visit> {
    let visit = visit.unwrap_or_else(|panic| Err(panic.into()));
    visit
        .inspect_err(|error| warn!(%error, "a visitor at the handover socket is not understood"))
        .ok()
}

/// The next visitor who may have the sockets. Cancel safe.
async fn visitor(offer: Option<&AsyncListener>) -> UnixStream {
    let Some(offer) = offer else { return pending().await };
    loop {
        match offer.accept().await {
            Ok((Stream::Unix(stream), _)) => {
                if let Ok(stream) = stream.into_std()
                    && is_trusted(&stream, None)
                {
                    return stream;
                }
            }
            Ok(_) => {}
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This process serves on, as where the successor itself fails.
    #[tokio::test]
    async fn a_panic_on_the_way_to_a_successor_is_one_that_gave_up() {
        let panicked = tokio::spawn(async { panic!("a mistake, made on purpose") }).await;
        assert!(let_accept(panicked).is_none());
    }
}
