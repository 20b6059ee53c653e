//! What servers push, gathered until the follower gets to it.
//!
//! Bounded: a burst of changes is kept as a set of names up to [`MOST`], and
//! beyond that as the one fact that a full read is due. Pushing never waits.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::link::text;

/// How many names are kept; more become a full read.
const MOST: usize = 10_000;

/// What was pushed and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    pending: Mutex<Pending>,
    news: Notify,
}

/// Changes since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Keys that changed.
    pub(super) keys: HashSet<String>,
    /// Members that other knockpipes changed.
    pub(super) members: HashSet<String>,
    /// Everything may have changed: FLUSHALL, or more than is kept.
    pub(super) everything: bool,
    /// A connection ended.
    pub(super) disconnected: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Pushes {
    /// Takes in what a server pushed.
    pub(super) fn take_in(&self, push: PushInfo) {
        let mut pending = self.lock();
        match push.kind {
            PushKind::Disconnection => pending.disconnected = true,
            PushKind::Invalidate => match push.data.into_iter().next() {
                Some(Value::Array(keys)) => {
                    for key in keys.iter().filter_map(text) {
                        if pending.keys.len() < MOST {
                            pending.keys.insert(key);
                        } else {
                            pending.everything = true;
                        }
                    }
                }
                _ => pending.everything = true,
            },
            PushKind::Message => {
                let member = push.data.get(1).and_then(text);
                if pending.members.len() < MOST {
                    pending.members.extend(member);
                }
                // A member that is not kept also shows as a change of the set.
            }
            _ => return,
        }
        drop(pending);
        self.news.notify_one();
    }

    /// Waits for something to take.
    pub(super) async fn wait(&self) {
        while self.lock().is_empty() {
            self.news.notified().await;
        }
    }

    /// Takes what came so far.
    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalidated(keys: impl Iterator<Item = usize>) -> PushInfo {
        let keys = keys.map(|key| Value::BulkString(key.to_string().into_bytes())).collect();
        PushInfo { kind: PushKind::Invalidate, data: vec![Value::Array(keys)] }
    }

    #[tokio::test]
    async fn a_burst_is_gathered_and_bounded() {
        let pushes = Pushes::default();
        pushes.take_in(invalidated([1, 2, 2].into_iter()));
        pushes.wait().await;
        let pending = pushes.take();
        assert_eq!((pending.keys.len(), pending.everything), (2, false));
        assert!(pushes.take().is_empty());
        pushes.take_in(invalidated(0..MOST + 1));
        let pending = pushes.take();
        assert_eq!((pending.keys.len(), pending.everything), (MOST, true));
    }

    #[test]
    fn a_flush_is_everything() {
        let pushes = Pushes::default();
        pushes.take_in(PushInfo { kind: PushKind::Invalidate, data: vec![Value::Nil] });
        assert!(pushes.take().everything);
    }
}
