//! Pushes of servers, gathered until the follower takes them.
//!
//! Bounded: a burst of changes is kept as a set of names up to [`MOST`], and
//! beyond that as the one fact that a full read is due. Pushing never waits.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::reply::text;

/// The most names that are kept, and their bytes; more become a full read.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 4 << 20;

/// Pushes that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    pending: Mutex<Pending>,
    arrived: Notify,
}

/// Changes since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Keys that changed.
    pub(super) keys: HashSet<String>,
    /// Members that other knockpipes changed.
    pub(super) members: HashSet<String>,
    /// Bytes of both.
    bytes: usize,
    /// Everything may have changed: FLUSHALL, or more than is kept.
    pub(super) everything: bool,
    /// A connection ended.
    pub(super) disconnected: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if one more name of so many bytes is kept among so many.
    fn has_room(&self, bytes: usize, names: usize) -> bool {
        names < MOST && self.bytes + bytes <= MOST_BYTES
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
                        if !pending.has_room(key.len(), pending.keys.len()) {
                            pending.everything = true;
                        } else if pending.keys.insert(key.clone()) {
                            pending.bytes += key.len();
                        }
                    }
                }
                _ => pending.everything = true,
            },
            PushKind::Message => {
                // A member that is not kept also shows as a change of the set.
                if let Some(member) = push.data.get(1).and_then(text)
                    && pending.has_room(member.len(), pending.members.len())
                {
                    pending.bytes += member.len();
                    pending.members.insert(member);
                }
            }
            _ => return,
        }
        drop(pending);
        self.arrived.notify_one();
    }

    /// Waits for something to take.
    pub(super) async fn wait(&self) {
        while self.lock().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes all pushes so far.
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
    fn long_names_are_bounded_too() {
        let long = |number: u8| Value::BulkString(vec![b'a' + number; 1_000_000]);
        let pushes = Pushes::default();
        for number in 0..10 {
            let data = vec![Value::Array(vec![long(number)])];
            pushes.take_in(PushInfo { kind: PushKind::Invalidate, data });
            let data = vec![Value::BulkString(b"channel".to_vec()), long(number)];
            pushes.take_in(PushInfo { kind: PushKind::Message, data });
        }
        let pending = pushes.take();
        assert_eq!((pending.keys.len(), pending.members.len(), pending.everything), (2, 2, true));
    }

    #[test]
    fn a_flush_is_everything() {
        let pushes = Pushes::default();
        pushes.take_in(PushInfo { kind: PushKind::Invalidate, data: vec![Value::Nil] });
        assert!(pushes.take().everything);
    }
}
