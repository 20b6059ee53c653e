//! The live sessions of a process: their facts, their byte counts, and the means to end one.
//!
//! An entry is one shared allocation of less than 250 bytes, because every idle session has one;
//! names in it are shared. The relay updates it with plain stores, once for each batch of records,
//! without a lock. A session is registered once it relays. Connections that still dial or wait are
//! counted by the limits, and have no entry.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::liveness::Liveness;
use super::metrics::Meters;
use crate::addr::{ClientAddr, ServiceName};
use crate::keys::KeyId;
use crate::proto::Suite;
use crate::reason::CloseReason;

/// The live sessions of a process, all tunnels together.
#[derive(Debug, Default)]
pub struct Sessions {
    inner: Mutex<Inner>,
    /// The looker has to look earlier than planned.
    hurried: AtomicBool,
    waker: TaskWaker,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    live: BTreeMap<u64, Arc<SessionEntry>>,
    /// Pause before the looker's next look; `None` without a looker.
    pause: Option<Duration>,
}

/// Facts about a connection: the one record of them, for operators and for the log.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Moment when this end accepted it.
    pub accepted: Instant,
    /// Address that connected to this end.
    pub peer: ClientAddr,
    /// At the acceptor, the address that connected to the dialer.
    pub client: Option<ClientAddr>,
    /// Address that this end forwards to, once known.
    pub target: Option<Arc<str>>,
    /// The service in Open.
    pub service: ServiceName,
}

/// Key and record suite of a session.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    /// The key.
    pub key: KeyId,
    /// The record suite.
    pub suite: Suite,
}

/// Stream bytes so far, and liveness.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the plain side to the sealed side.
    pub sent: ByteCount,
    /// From the sealed side to the plain side.
    pub received: ByteCount,
    /// The liveness state.
    pub pulse: Liveness,
}

/// A number that one task adds to and others read.
#[derive(Debug, Default)]
pub struct ByteCount(AtomicU64);

/// A live session.
#[derive(Debug)]
pub struct SessionEntry {
    id: u64,
    meters: Arc<Meters>,
    info: SessionInfo,
    keyed: Keyed,
    /// Milliseconds that it took to open it: an [`Instant`] is four times as large.
    opened_after: u32,
    traffic: Traffic,
    /// An operator ended it.
    kicked: AtomicBool,
    waker: TaskWaker,
}

/// Keeps a session among the live ones until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it takes the session off the list"]
pub struct LiveSession(Arc<SessionEntry>);

/// Wakes a task that has to check a condition.
#[derive(Debug, Default)]
struct TaskWaker(Mutex<Option<Waker>>);

/// A choice of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The one of this number.
    Id(u64),
    /// All from this address, with any port.
    Ip(IpAddr),
    /// The one from this address and port.
    Peer(SocketAddr),
    /// All of the tunnel of this name.
    Tunnel(String),
    /// All under the key of this id, as `key-id` prints it.
    Key(String),
}

// === impl Sessions ===

impl Sessions {
    /// Registers a session of the tunnel that `meters` belong to.
    pub(super) fn enter(
        &self,
        meters: &Arc<Meters>,
        info: SessionInfo,
        keyed: Keyed,
        pulse: Liveness,
    ) -> LiveSession {
        let mut inner = self.lock();
        inner.last += 1;
        let entry = Arc::new(SessionEntry {
            id: inner.last,
            meters: Arc::clone(meters),
            opened_after: u32::try_from(info.accepted.elapsed().as_millis()).unwrap_or(u32::MAX),
            info,
            keyed,
            traffic: Traffic { pulse, ..Traffic::default() },
            kicked: AtomicBool::new(false),
            waker: TaskWaker::default(),
        });
        inner.live.insert(entry.id, Arc::clone(&entry));
        LiveSession(entry)
    }

    /// Lists all live sessions, oldest first.
    pub fn list(&self) -> Vec<Arc<SessionEntry>> {
        self.lock().live.values().cloned().collect()
    }

    /// Ends the selected sessions. Returns their number.
    pub fn kick(&self, selector: &Selector) -> usize {
        let meant: Vec<_> = self.list().into_iter().filter(|entry| entry.is(selector)).collect();
        meant.iter().filter(|entry| entry.waker.raise(&entry.kicked)).count()
    }

    /// Returns the pause before the next look; `None` when there is nothing to look at any more,
    /// which ends the looker.
    pub fn pause(&self) -> Option<Duration> {
        let mut inner = self.lock();
        inner.pause = inner.live.values().filter_map(|entry| entry.traffic.pulse.pause()).min();
        inner.pause
    }

    /// Resolves when the looker has to look earlier than planned. Wakes one task.
    pub fn poll_hurried(&self, cx: &mut Context<'_>) -> Poll<()> {
        let hurried = self.waker.poll(&self.hurried, cx);
        hurried.map(|()| self.hurried.store(false, Ordering::Release))
    }

    /// Looks at all sessions, `since` after the last look, and wakes those with something due.
    pub fn look(&self, since: Duration) {
        let ms = u32::try_from(since.as_millis()).unwrap_or(u32::MAX);
        for entry in self.lock().live.values().filter(|entry| entry.traffic.pulse.look(ms)) {
            entry.waker.wake();
        }
    }

    /// Returns the stream bytes (sent, received) of a tunnel, those of ended sessions included.
    pub fn bytes(&self, meters: &Meters) -> (u64, u64) {
        // Locked throughout, so that a session that ends meanwhile counts once.
        let inner = self.lock();
        let of = inner.live.values().filter(|entry| std::ptr::eq(&*entry.meters, meters));
        of.fold(meters.ended_bytes(), |(sent, received), entry| {
            (sent + entry.traffic.sent.get(), received + entry.traffic.received.get())
        })
    }

    /// Locks the sessions. Nothing in here can panic half way, so a poisoned lock guards valid
    /// data.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ByteCount ===

impl ByteCount {
    /// Adds `more`. To be called by one task only: it is no atomic addition, so that its cost is
    /// negligible beside a record.
    pub fn add(&self, more: u64) {
        self.0.store(self.get() + more, Ordering::Relaxed);
    }

    /// Returns the current number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl SessionEntry ===

impl SessionEntry {
    /// Returns a number that no other session of this process has had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the tunnel's name.
    pub fn tunnel(&self) -> &str {
        self.meters.tunnel()
    }

    /// Returns its description.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Returns its key and record suite.
    pub fn keyed(&self) -> Keyed {
        self.keyed
    }

    /// Returns the moment when it began to relay.
    pub fn began(&self) -> Instant {
        self.info.accepted + Duration::from_millis(self.opened_after.into())
    }

    /// Returns the bytes so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Returns true if it is selected.
    pub fn is(&self, selector: &Selector) -> bool {
        match (selector, self.info.peer) {
            (Selector::Id(id), _) => self.id == *id,
            (Selector::Ip(ip), ClientAddr::Ip(peer)) => peer.ip() == ip.to_canonical(),
            (Selector::Peer(addr), peer) => peer == ClientAddr::from(*addr),
            (Selector::Ip(_), ClientAddr::Unix | ClientAddr::Pipe | ClientAddr::Nameless) => false,
            (Selector::Tunnel(name), _) => self.tunnel() == name,
            (Selector::Key(id), _) => self.keyed.key.to_string() == *id,
        }
    }
}

// === impl Selector ===

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Ip(ip) => write!(f, "peer {ip}"),
            Self::Peer(addr) => write!(f, "peer {addr}"),
            Self::Tunnel(name) => write!(f, "tunnel {name}"),
            Self::Key(id) => write!(f, "key {id}"),
        }
    }
}

// === impl LiveSession ===

impl LiveSession {
    /// Returns its description.
    pub fn info(&self) -> &SessionInfo {
        &self.0.info
    }

    /// Returns its key and record suite.
    pub fn keyed(&self) -> Keyed {
        self.0.keyed
    }

    /// Returns the counters of its tunnel.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.0.meters
    }

    /// Returns the counters of its relay.
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// Returns the sessions, if there is no looker and this session needs one. The caller then
    /// becomes the looker, as long as [`Sessions::pause`] returns a time.
    pub fn needs_a_looker(&self) -> Option<Arc<Sessions>> {
        let pause = self.0.traffic.pulse.pause()?;
        let sessions = self.0.meters.sessions();
        let mut inner = sessions.lock();
        match inner.pause {
            None => {
                inner.pause = Some(pause);
                Some(Arc::clone(sessions))
            }
            Some(longer) if longer > pause => {
                inner.pause = Some(pause);
                sessions.waker.raise(&sessions.hurried);
                None
            }
            Some(_) => None,
        }
    }

    /// Resolves when it has to end: an operator ended it, or the looker found it dead or idle.
    /// Wakes one task, also for a heartbeat that is due.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // Polls the waker before reading the verdict, so that none is missed.
        let kicked = self.0.waker.poll(&self.0.kicked, cx).map(|()| CloseReason::Kicked);
        self.0.traffic.pulse.verdict().map_or(kicked, Poll::Ready)
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        let SessionEntry { id, meters, traffic, .. } = &*self.0;
        let mut inner = meters.sessions().lock();
        meters.ended(traffic);
        inner.live.remove(id);
    }
}

// === impl TaskWaker ===

impl TaskWaker {
    /// Sets `what` and wakes the task. Returns true if it was not set before.
    fn raise(&self, what: &AtomicBool) -> bool {
        let was_unset = !what.swap(true, Ordering::AcqRel);
        self.wake();
        was_unset
    }

    /// Wakes the task.
    fn wake(&self) {
        if let Some(waker) = self.waker().take() {
            waker.wake();
        }
    }

    /// Resolves when `what` is set.
    fn poll(&self, what: &AtomicBool, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = self.waker();
        // Read under the lock, which the waking task takes afterwards.
        if what.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Key;
    use crate::secret::Secret;

    fn info(peer: &str) -> SessionInfo {
        SessionInfo {
            accepted: Instant::now(),
            peer: peer.parse::<SocketAddr>().unwrap().into(),
            client: None,
            target: Some(Arc::from("target:1")),
            service: ServiceName::default(),
        }
    }

    fn keyed(key: u8) -> Keyed {
        let key = Key::new(Secret::take(&mut [key; 32])).id();
        Keyed { key, suite: Suite::ChaCha20Poly1305 }
    }

    fn enter(meters: &Arc<Meters>, peer: &str, key: u8) -> LiveSession {
        meters.enter(info(peer), keyed(key), Liveness::default())
    }

    #[test]
    fn an_entry_is_small_and_owns_no_text() {
        // The two counts of an Arc come on top.
        let size = size_of::<SessionEntry>() + 2 * size_of::<usize>();
        assert!(size < 250, "{size} bytes");
        let target = Arc::<str>::from("t");
        let service = "redis".parse::<ServiceName>().unwrap();
        let one = SessionInfo { target: Some(target.clone()), service, ..info("192.0.2.1:1") };
        let other = one.clone();
        assert!(std::ptr::eq(one.service.as_str(), other.service.as_str()));
        assert!(Arc::ptr_eq(&target, other.target.as_ref().unwrap()));
    }

    #[test]
    fn sessions_are_found_by_what_they_are_and_leave_when_dropped() {
        let sessions = Arc::new(Sessions::default());
        let redis = Meters::new("redis", Arc::clone(&sessions));
        let mysql = Meters::new("mysql", Arc::clone(&sessions));
        let held = [
            enter(&redis, "192.0.2.1:1", 1),
            enter(&redis, "192.0.2.1:2", 2),
            enter(&mysql, "[2001:db8::1]:1", 1),
        ];
        let count = |selector: &Selector| sessions.list().iter().filter(|e| e.is(selector)).count();
        let key = keyed(1).key.to_string();
        assert_eq!(count(&Selector::Id(2)), 1);
        assert_eq!(count(&Selector::Ip("192.0.2.1".parse().unwrap())), 2);
        assert_eq!(count(&Selector::Ip("::ffff:192.0.2.1".parse().unwrap())), 2);
        assert_eq!(count(&Selector::Peer("192.0.2.1:2".parse().unwrap())), 1);
        assert_eq!(count(&Selector::Tunnel("mysql".to_owned())), 1);
        assert_eq!(count(&Selector::Key(key)), 2);
        assert_eq!(count(&Selector::Id(9)), 0);
        drop(held);
        assert_eq!(sessions.list().len(), 0);
    }

    #[test]
    fn bytes_of_live_and_ended_sessions_count_once() {
        let sessions = Arc::new(Sessions::default());
        let meters = Meters::new("redis", Arc::clone(&sessions));
        let other = Meters::new("mysql", Arc::clone(&sessions));
        let one = enter(&meters, "192.0.2.1:1", 1);
        let two = enter(&meters, "192.0.2.1:2", 1);
        one.traffic().sent.add(10);
        one.traffic().sent.add(1);
        two.traffic().received.add(5);
        enter(&other, "192.0.2.1:3", 1).traffic().sent.add(100);
        assert_eq!(sessions.bytes(&meters), (11, 5));
        drop(one);
        assert_eq!(sessions.bytes(&meters), (11, 5));
        assert_eq!(sessions.bytes(&other), (100, 0));
    }

    #[test]
    fn a_kick_reaches_a_task_that_waits_or_begins_to_wait() {
        let sessions = Arc::new(Sessions::default());
        let meters = Meters::new("redis", Arc::clone(&sessions));
        let live = enter(&meters, "192.0.2.1:1", 1);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(live.poll_end(&mut cx).is_pending());
        assert_eq!(sessions.kick(&Selector::Id(1)), 1);
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(live.poll_end(&mut cx).is_ready());
        assert_eq!(sessions.kick(&Selector::Id(1)), 0, "no session is kicked twice");
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
