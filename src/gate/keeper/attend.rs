//! The keeper's task: hears what a follower reports, and begins again with another
//! follower when either fails. Meanwhile the store counts as away, since nobody would
//! hear of a removal.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::super::rules::Stance;
use super::super::store::Event;
use super::Keeper;
use crate::tasks::{begin_again, caught};

/// The interval at which ends of entries, the store's absence and the diary are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Questions on their way to the store. One is asked after the other.
const QUESTIONS: usize = 4;

/// Reports on their way from it.
const EVENTS: usize = 64;

/// The reason why the store is away when nobody follows it any more.
const UNFOLLOWED: &str =
    "what follows it failed, which is a fault in this program; it is read again from the start";

pub(super) type Reports = mpsc::Sender<Event>;
pub(super) type Questions = mpsc::Receiver<Vec<IpAddr>>;

/// The end of following a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// No tunnel has the gate any more, or the runtime ends.
    InOrder,
    /// As it must not.
    Unfollowed,
}

impl Keeper {
    /// Follows the store with what `follow` gives until no tunnel has this gate. Should
    /// that fail, or what applies its reports, nobody hears of a removal: then the store
    /// counts as away, and it is read from the start.
    pub(super) async fn attend<F>(self: Arc<Self>, follow: impl Fn(Reports, Questions) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if caught(self.keep(follow)).await != Ok(Ended::InOrder) {
            self.apply(Event::Away(UNFOLLOWED.to_owned()));
            begin_again();
        }
    }

    /// Applies what a follower reports, and lets time pass.
    async fn keep<F>(&self, follow: impl Fn(Reports, Questions) -> F) -> Ended
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ((events, mut reported), (asks, asked)) =
            (mpsc::channel(EVENTS), mpsc::channel(QUESTIONS));
        *self.asks.lock().unwrap_or_else(PoisonError::into_inner) = asks;
        let following = AbortOnDropHandle::new(tokio::spawn(follow(events, asked)));
        let mut stance = self.stance();
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                () = self.end.cancelled() => return Ended::InOrder,
                event = reported.recv() => match event {
                    Some(event) => self.apply(event),
                    None => {
                        let is_shutdown = following.await.is_err_and(|error| error.is_cancelled());
                        return if is_shutdown { Ended::InOrder } else { Ended::Unfollowed };
                    }
                },
                task = self.inquiry.task() => self.inquire(task),
                _ = ticks.tick() => {
                    self.follow_clock();
                    self.tick(self.clock.now_ms());
                }
            }
            stance = self.tell_change_of(stance);
            self.note_settled();
        }
    }

    /// Logs a stance that is another one than `before`; gives it.
    fn tell_change_of(&self, before: Stance) -> Stance {
        let now = self.stance();
        if now.as_str() != before.as_str() {
            self.tell_stance(now);
        }
        now
    }
}
