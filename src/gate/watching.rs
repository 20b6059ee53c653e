//! A watch on the content of a gate's store as a whole, for those who enforce it elsewhere than at
//! connections.
//!
//! It says that something may be different, and not what: who watches compares anyway, since
//! what it enforces may have been changed by others.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::admission::Gate;
use super::changed::Changed;
use super::mirror::Subscriber;
use super::rules::{EffectivePolicy, Rules};
use super::shared::SharedGate;
use super::snapshot::Snapshot;
use crate::unix_time::UnixMillis;

/// A watch on what a gate goes by.
pub struct ContentWatch {
    shared: Arc<SharedGate>,
    changed: Notify,
    /// So much changed, or the clock was set, that ends may be others.
    is_all_new: AtomicBool,
    /// Name of the policy that was in force at the last look.
    policy: Mutex<&'static str>,
}

/// What a gate goes by at one moment.
pub struct Content<'a> {
    /// The operator's rules.
    pub rules: &'a Rules,
    /// The content of the store.
    pub store: &'a Snapshot,
    /// The policy in force.
    pub policy: EffectivePolicy,
    /// The moment.
    pub now: UnixMillis,
}

impl Gate {
    /// Watches the content that this gate goes by now. A gate that succeeds it needs another watch.
    pub fn watch(&self) -> Arc<ContentWatch> {
        let shared = self.shared();
        let watch = Arc::new(ContentWatch {
            changed: Notify::new(),
            is_all_new: AtomicBool::new(false),
            policy: Mutex::new(shared.mirror.policy().as_str()),
            shared: Arc::clone(&shared),
        });
        let subscriber: Weak<ContentWatch> = Arc::downgrade(&watch);
        shared.mirror.subscribe(subscriber);
        watch
    }
}

impl ContentWatch {
    /// Resolves when the store was read, or could not be. What is known before says nothing.
    pub async fn settled(&self) {
        self.shared.mirror.is_settled().await;
    }

    /// Waits until something may be different. Cancel safe; one waits at a time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns true once after a change of everything.
    pub fn take_all_new(&self) -> bool {
        self.is_all_new.swap(false, Ordering::Relaxed)
    }

    /// Calls `work` with what the gate goes by now. The follower of the store waits meanwhile.
    pub fn read<T>(&self, work: impl FnOnce(Content<'_>) -> T) -> T {
        let mirror = &self.shared.mirror;
        let policy = mirror.policy();
        let (rules, now) = (&self.shared.options.rules, mirror.clock.now());
        work(Content { rules, store: &mirror.read(), policy, now })
    }
}

impl Subscriber for ContentWatch {
    fn changed(&self, changed: &Changed) {
        if *changed == Changed::Everything {
            self.is_all_new.store(true, Ordering::Relaxed);
        }
        self.changed.notify_one();
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![]
    }

    fn clock_moved(&self, _moved_ms: i64) {}

    /// A policy such as `stale:5m` ends without a change of the store.
    fn tick(&self, _now: UnixMillis) {
        let policy = self.shared.mirror.policy().as_str();
        let mut before = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != policy {
            *before = policy;
            self.changed.notify_one();
        }
    }
}
