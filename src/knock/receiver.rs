//! Reads datagrams, and finds the knocks among them.
//!
//! Each step costs more than the one before and is reached by fewer: the length, the allowance of
//! the source, the tag, the clock and the memory of replays, the decision. Only what passes all of
//! them becomes a task that asks the store.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::allowance::{Allowance, KeyAllowance};
use super::decide::{decide, who};
use super::grants::Authentic;
use super::options::ReceiverOptions;
use super::thread;
use crate::gate::Gate;
use crate::gate::knocks::KnockSocket;
use crate::keys::KeyRing;
use crate::net::{DatagramReader, DatagramSocket, clock};
use crate::observe::{KnockResult, Meters, RefusedKnocks};
use crate::proto::PeerError;
use crate::proto::knock::{KNOCK_LEN, ReceivedKnock, read_knock};
use crate::proto::replay::{Answered, Stale};
use crate::tasks::restarting;

/// Room for a datagram: one byte more than a knock has, so that a longer one is told from it.
const ROOM: usize = KNOCK_LEN + 1;

/// Grants at once that wait for the store.
const GRANTS: usize = 64;

/// Longest time that knocks wait in the kernel's queue for the first answer of the gate's store.
const SETTLED: Duration = Duration::from_secs(5);

/// Pause after a socket could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// Check of the freshness of a message that was sent at a unix time in milliseconds.
pub type FreshCheck = Box<dyn Fn(Answered, u64) -> Result<(), Stale> + Send + Sync>;

/// Objects that a receiver uses but does not create.
pub struct ReceiverParts {
    /// The tunnel's name, where there are several.
    pub tunnel: Option<Arc<str>>,
    /// Settings.
    pub options: Arc<ReceiverOptions>,
    /// Keys of the tunnel.
    pub keys: KeyRing,
    /// Memory of replays.
    pub check_fresh: FreshCheck,
    /// Gate of the tunnel.
    pub gate: Gate,
    /// Counters of the tunnel.
    pub meters: Arc<Meters>,
    /// Cancelled when no more knocks are read.
    pub stop: CancellationToken,
    /// Tracker of its tasks.
    pub tasks: TaskTracker,
}

/// The receiver of knocks of one tunnel.
pub struct KnockReceiver {
    pub(super) parts: ReceiverParts,
    pub(super) refused: RefusedKnocks<KnockResult>,
    allowance: Mutex<Allowance>,
    of_keys: Mutex<KeyAllowance>,
    /// Permits for grants that wait for the store.
    grants: Arc<Semaphore>,
    listening: Mutex<Vec<String>>,
    /// Cause for which renewals fail now, as logged.
    pub(super) failing: Mutex<Option<String>>,
}

/// A socket that is read.
struct Reading {
    socket: Arc<DatagramSocket>,
    /// Its entry at the gate, for connections that wait until it was read.
    entered: Arc<KnockSocket>,
    /// The runtime that asks the store.
    store: Handle,
}

/// Name of a sender in the log.
pub(super) struct Sender {
    pub(super) who: Option<String>,
    pub(super) source: IpAddr,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Some(who) => write!(f, "{who} at {}", self.source),
            None => self.source.fmt(f),
        }
    }
}

impl KnockReceiver {
    /// Creates a receiver, and renews the grants of living sessions from now on. Call it in the
    /// runtime that asks the store.
    pub fn new(parts: ReceiverParts) -> Arc<Self> {
        let receiver = Arc::new(Self {
            refused: RefusedKnocks::of(parts.tunnel.clone()),
            allowance: Mutex::new(Allowance::new(Instant::now())),
            of_keys: Mutex::default(),
            grants: Arc::new(Semaphore::new(GRANTS)),
            listening: Mutex::default(),
            failing: Mutex::default(),
            parts,
        });
        let weak = Arc::downgrade(&receiver);
        tokio::spawn(restarting("renewing grants", move || Self::renew(weak.clone())));
        receiver
    }

    /// Reads knocks from `socket` until it is stopped.
    pub fn serve(self: &Arc<Self>, socket: Arc<DatagramSocket>) {
        let receiver = Arc::clone(self);
        let store = Handle::current();
        // Now, so that a connection that comes before the thread has begun waits for it.
        let entered = Arc::new(self.parts.gate.knocks().socket());
        let reading = Arc::new(Reading { socket, entered, store });
        let receive = move || Arc::clone(&receiver).receive(Arc::clone(&reading));
        let tasks = &self.parts.tasks;
        tasks.spawn_on(restarting("reading knocks", receive), thread::runtime());
    }

    /// Returns the addresses that knocks are read from now.
    pub fn listening(&self) -> Vec<String> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs a summary of refused knocks that is due.
    pub fn tick(&self) {
        self.refused.tick();
    }

    /// Logs all refused knocks that were not logged yet.
    pub fn flush_log(&self) {
        self.refused.flush();
    }

    async fn receive(self: Arc<Self>, reading: Arc<Reading>) {
        let Reading { socket, .. } = &*reading;
        // A gate that knows nothing yet would take each address for one that is not admitted.
        tokio::select! {
            () = self.parts.stop.cancelled() => return,
            _ = timeout(SETTLED, self.parts.gate.settled()) => {}
        }
        let _listed = Listed::enter(&self, socket.local());
        while !self.parts.stop.is_cancelled() {
            let Err(error) = self.read_all(&reading).await else { return };
            let tunnel = self.parts.tunnel.as_deref();
            let address = socket.local();
            let detail = "connections of admitted addresses are served all the same";
            warn!(tunnel, address, %error, detail, "cannot read knocks");
            tokio::select! {
                () = self.parts.stop.cancelled() => return,
                () = sleep(PAUSE) => {}
            }
        }
    }

    /// Reads from a socket until the receiver is stopped.
    ///
    /// # Errors
    /// The system's.
    async fn read_all(self: &Arc<Self>, reading: &Reading) -> std::io::Result<()> {
        let Reading { socket, entered, store } = reading;
        let mut reader = socket.reader(ROOM)?;
        loop {
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => return Ok(()),
                ready = reader.readable() => ready?,
                () = entered.asked() => {}
            }
            self.read_to_end(&mut reader, entered, store).await?;
        }
    }

    /// Reads until the socket is empty, or the receiver is stopped.
    async fn read_to_end(
        self: &Arc<Self>,
        reader: &mut DatagramReader,
        entered: &KnockSocket,
        store: &Handle,
    ) -> std::io::Result<()> {
        let request = entered.request();
        while !self.parts.stop.is_cancelled() {
            let now = Instant::now();
            let count = reader.receive(|datagram| {
                self.take(datagram.bytes, datagram.source.ip().to_canonical(), now, store);
            })?;
            if count == 0 {
                entered.is_read(request);
                break;
            }
            // Other sockets, and the stop, have their turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes one datagram.
    fn take(self: &Arc<Self>, bytes: &[u8], source: IpAddr, now: Instant, store: &Handle) {
        let received = match self.authenticate(bytes, source, now) {
            Ok(received) => received,
            Err(KnockResult::Malformed) => {
                return self.refuse(KnockResult::Malformed, &Sender { who: None, source }, None);
            }
            Err(result) => return self.parts.meters.received_knocks.count(result),
        };
        let sender = Sender { who: Some(who(received.key)), source };
        if let Err(result) = self.begin_grant(&received, source, now, store) {
            self.refuse(result, &sender, None);
        }
    }

    /// Reads a knock under one of the keys.
    ///
    /// # Errors
    /// The result of what is none.
    fn authenticate(
        &self,
        bytes: &[u8],
        source: IpAddr,
        now: Instant,
    ) -> Result<ReceivedKnock, KnockResult> {
        if bytes.len() != KNOCK_LEN {
            return Err(KnockResult::Stranger);
        }
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        if !allowance.take(source, now) {
            return Err(KnockResult::Unread);
        }
        drop(allowance);
        read_knock(&self.parts.keys, bytes).map_err(|error| match error {
            PeerError::BadTag | PeerError::BadLength => KnockResult::Stranger,
            _ => KnockResult::Malformed,
        })
    }

    /// Judges an authentic knock, and starts the task that asks the store.
    ///
    /// # Errors
    /// The reason for no grant.
    fn begin_grant(
        self: &Arc<Self>,
        received: &ReceivedKnock,
        source: IpAddr,
        now: Instant,
        store: &Handle,
    ) -> Result<(), KnockResult> {
        let ReceiverParts { options, check_fresh, gate, tasks, .. } = &self.parts;
        let message = Answered::knock(received.key, received.fingerprint);
        check_fresh(message, received.knock.clock_ms).map_err(|stale| {
            debug!(key = %received.key, %source, "knock not granted: {stale}");
            match stale {
                Stale::Old(_) | Stale::New(_) | Stale::BeforeStart => KnockResult::Clock,
                Stale::Seen => KnockResult::Replayed,
            }
        })?;
        let grant = decide(options, received, source, clock::now())?;
        if !self.of_keys.lock().unwrap_or_else(PoisonError::into_inner).take(received.key, now) {
            return Err(KnockResult::Busy);
        }
        let permit = Arc::clone(&self.grants).try_acquire_owned().map_err(|_| KnockResult::Busy)?;
        let granting = gate.knocks().granting(grant.member);
        let authentic = Authentic { grant, tag: received.tag, source, granting, permit };
        tasks.spawn_on(Arc::clone(self).ask_store(authentic), store);
        Ok(())
    }

    /// Counts an authentic knock that was refused, and logs it in a summary.
    pub(super) fn refuse(&self, result: KnockResult, sender: &Sender, error: Option<&str>) {
        self.parts.meters.received_knocks.count(result);
        self.refused.refused(result, sender, error);
    }
}

/// An address that knocks are read from, until this is dropped.
struct Listed {
    receiver: Arc<KnockReceiver>,
    address: String,
}

impl Listed {
    fn enter(receiver: &Arc<KnockReceiver>, address: String) -> Self {
        let listed = Self { receiver: Arc::clone(receiver), address: address.clone() };
        listed.all(|all| all.push(address));
        listed
    }

    fn all(&self, change: impl FnOnce(&mut Vec<String>)) {
        change(&mut self.receiver.listening.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.all(|all| {
            if let Some(place) = all.iter().position(|other| *other == self.address) {
                all.remove(place);
            }
        });
    }
}
