//! The mirror's task: applies the reports of a follower of the store, and begins again with
//! another follower when either fails. Meanwhile the store counts as unavailable, since no
//! removal would be reported.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::super::rules::EffectivePolicy;
use super::super::snapshot::Freshness;
use super::super::store::Event;
use super::StoreMirror;
use crate::tasks::{begin_again, caught};

/// The interval at which ends of entries and the store's absence are looked at, and
/// subscribers do their periodic work.
const TICK: Duration = Duration::from_millis(100);

/// Queries on their way to the store. They are answered one after the other.
const QUERIES: usize = 4;

/// Reports on their way from it.
const EVENTS: usize = 64;

/// The reason why the store is unavailable when its follower has failed.
const UNFOLLOWED: &str =
    "what follows it failed, which is a fault in this program; it is read again from the start";

pub(super) type Reports = mpsc::Sender<Event>;
pub(super) type Queries = mpsc::Receiver<Vec<IpAddr>>;

/// The end of following a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The mirror was stopped, or the runtime ends.
    InOrder,
    /// The follower ended, as it must not.
    Unfollowed,
}

impl StoreMirror {
    /// Follows the store with the future of `follow` until the mirror is stopped. If that
    /// fails, or the handling of its reports does, no removal would be reported: then the
    /// store counts as unavailable, and it is read from the start.
    pub(super) async fn attend<F>(self: Arc<Self>, follow: impl Fn(Reports, Queries) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if caught(self.keep(follow)).await != Ok(Ended::InOrder) {
            self.apply(Event::Unavailable(UNFOLLOWED.to_owned()));
            begin_again();
        }
    }

    /// Applies the reports of a follower, and lets time pass.
    async fn keep<F>(&self, follow: impl Fn(Reports, Queries) -> F) -> Ended
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (events, mut reported) = mpsc::channel(EVENTS);
        let (queries, queried) = mpsc::channel(QUERIES);
        *self.queries.lock().unwrap_or_else(PoisonError::into_inner) = queries;
        let following = AbortOnDropHandle::new(tokio::spawn(follow(events, queried)));
        let mut policy = self.policy_heard();
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
                    self.tick(self.clock.now());
                }
            }
            policy = self.log_change_of(policy);
            self.note_settled();
        }
    }

    /// The policy in force by what this mirror heard of the store itself.
    fn policy_heard(&self) -> EffectivePolicy {
        if self.is_heard() {
            self.policy()
        } else {
            self.failure.effective(Freshness::Unread, self.clock.now())
        }
    }

    /// Logs the policy in force if it is not the one `before`. Returns it.
    fn log_change_of(&self, before: EffectivePolicy) -> EffectivePolicy {
        let now = self.policy_heard();
        if now.as_str() != before.as_str() {
            self.log_policy(now);
        }
        now
    }
}
