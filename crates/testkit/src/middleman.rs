//! A man in the middle that knows only the framing of sealed streams: no key, no cryptography.
//!
//! Each direction is one message of 256 bytes and then records of `length u16 BE | length bytes`.
//! The middleman reads whole frames, makes one edit, and forwards the rest unchanged.

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::SockRef;

use crate::address::{Addr, Kind};
use crate::pump::{Link, pump_both};

/// Length of either handshake message.
pub const HANDSHAKE: usize = 256;

/// Direction in which a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    Acceptor,
    Dialer,
}

impl Toward {
    pub const BOTH: [Self; 2] = [Self::Acceptor, Self::Dialer];

    pub(crate) fn opposite(self) -> Self {
        match self {
            Self::Acceptor => Self::Dialer,
            Self::Dialer => Self::Acceptor,
        }
    }
}

/// Way in which a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A clean TCP end in this direction; the other direction continues.
    Fin,
    /// A reset toward both ends.
    Rst,
}

/// Change to one frame, or from one frame on.
#[derive(Clone, Debug)]
pub enum Act {
    /// Flips bit `bit` of byte `byte`.
    Flip { byte: usize, bit: u8 },
    /// Lets the first `byte` bytes of the frame pass, and nothing after them.
    Cut { byte: usize, how: Cut },
    /// Leaves the frame out.
    Drop,
    /// Sends the frame twice.
    Double,
    /// Sends the frame after the one that follows it.
    Swap,
    /// Sends these bytes instead.
    Replace(Vec<u8>),
    /// Sends these bytes first.
    Insert(Vec<u8>),
    /// Sends the frame with this number of the opposite direction instead.
    Reflect(usize),
}

/// One edit of one connection. Frame 0 is the handshake message.
#[derive(Clone, Debug)]
pub struct Edit {
    pub toward: Toward,
    pub frame: usize,
    pub act: Act,
}

impl Edit {
    /// Returns true if the edit can be made to this frame. On a busy machine a shorter heartbeat
    /// may come between: then the edit waits for a later frame.
    pub(crate) fn is_for(&self, index: usize, length: usize) -> bool {
        let reaches = match self.act {
            Act::Flip { byte, .. } | Act::Cut { byte, .. } => byte < length,
            _ => true,
        };
        self.frame == index && reaches
    }
}

/// The frames of one connection as they were sent, before any edit.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    to_acceptor: Vec<Vec<u8>>,
    to_dialer: Vec<Vec<u8>>,
}

impl Recording {
    pub fn frames(&self, toward: Toward) -> &Vec<Vec<u8>> {
        match toward {
            Toward::Acceptor => &self.to_acceptor,
            Toward::Dialer => &self.to_dialer,
        }
    }

    pub(crate) fn frames_mut(&mut self, toward: Toward) -> &mut Vec<Vec<u8>> {
        match toward {
            Toward::Acceptor => &mut self.to_acceptor,
            Toward::Dialer => &mut self.to_dialer,
        }
    }
}

/// Listens, dials the decrypt end for each connection, and edits.
pub struct Middleman {
    addr: Addr,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    upstream: Addr,
    /// Edits of the next connections; a connection without one passes unchanged.
    edits: Mutex<VecDeque<Edit>>,
    /// Edits of frames that never arrived.
    pub(crate) missed: Mutex<Vec<Edit>>,
    recordings: Mutex<Vec<Arc<Mutex<Recording>>>>,
    recording: AtomicBool,
    connections: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) live: AtomicU64,
    /// Number of the first frame that is swallowed.
    swallowed_from: AtomicUsize,
    stop: AtomicBool,
}

impl Shared {
    /// Returns true if frame `index` is swallowed.
    pub(crate) fn swallows(&self, index: usize) -> bool {
        index >= self.swallowed_from.load(Ordering::SeqCst)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Middleman {
    /// Listens in front of `upstream`, which must be TCP.
    pub fn start(upstream: &Addr) -> Self {
        let at = Kind::Tcp4.fresh(std::path::Path::new("/"), "").tcp();
        let listener = TcpListener::bind(at).expect("loopback has free ports");
        SockRef::from(&listener).listen(4096).expect("a listener takes a backlog");
        let addr = Addr::Tcp(listener.local_addr().expect("a listener has an address"));
        let shared = Arc::new(Shared {
            upstream: upstream.clone(),
            edits: Mutex::default(),
            missed: Mutex::default(),
            recordings: Mutex::default(),
            recording: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            live: AtomicU64::new(0),
            swallowed_from: AtomicUsize::new(usize::MAX),
            stop: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || accept_all(&listener, &theirs));
        Self { addr, shared }
    }

    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Edits the next connections, one each, in this order.
    pub fn edit_next(&self, edits: impl IntoIterator<Item = Edit>) {
        lock(&self.shared.edits).extend(edits);
    }

    /// Reads everything from all connections from now on, and forwards only the frames before
    /// `first`. Neither end learns that the other is gone.
    pub fn swallow_from(&self, first: usize) {
        self.shared.swallowed_from.store(first, Ordering::SeqCst);
    }

    /// Ends the swallowing.
    pub fn swallow_nothing(&self) {
        self.swallow_from(usize::MAX);
    }

    /// Starts or stops keeping the frames of all connections.
    pub fn record(&self, on: bool) {
        self.shared.recording.store(on, Ordering::SeqCst);
    }

    /// Returns the kept frames, one recording per connection; each is returned once.
    pub fn take_recordings(&self) -> Vec<Recording> {
        let kept = std::mem::take(&mut *lock(&self.shared.recordings));
        kept.iter().map(|one| lock(one).clone()).collect()
    }

    /// Counts the connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Counts the edits that took effect so far.
    pub fn applied(&self) -> u64 {
        self.shared.applied.load(Ordering::SeqCst)
    }

    /// Returns the edits that did not take effect, because their frame never arrived: the
    /// connection ended before. Each is returned once.
    pub fn take_missed(&self) -> Vec<Edit> {
        std::mem::take(&mut *lock(&self.shared.missed))
    }

    /// Counts the connections that have not ended.
    pub fn live(&self) -> u64 {
        self.shared.live.load(Ordering::SeqCst)
    }
}

impl Drop for Middleman {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        drop(TcpStream::connect(self.addr.tcp()));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((dialer, _)) = listener.accept() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        // When the decrypt end is gone, the dialer finds out by this drop.
        let Ok(acceptor) = TcpStream::connect(shared.upstream.tcp()) else { continue };
        let edit = lock(&shared.edits).pop_front();
        let recording = Arc::new(Mutex::new(Recording::default()));
        if shared.recording.load(Ordering::SeqCst) {
            lock(&shared.recordings).push(Arc::clone(&recording));
        }
        pump_both(&Arc::new(Link::new(dialer, acceptor, recording, Arc::clone(shared))), edit);
    }
}
