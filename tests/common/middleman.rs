//! A man in the middle who knows how sealed streams are cut into frames, and
//! nothing else: no key, no cryptography.
//!
//! Each direction is one message of 256 bytes and then records of
//! `length u16 BE | length bytes`. The middleman reads whole frames, edits one
//! of them as told, and forwards the rest untouched.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;

use super::address::{Addr, Kind};
use super::wait::poll;

/// Length of either handshake message.
pub const HANDSHAKE: usize = 256;

/// How often a pump that waits for bytes looks whether the connection was cut.
const GLANCE: Duration = Duration::from_millis(10);

/// Which way a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    Acceptor,
    Dialer,
}

impl Toward {
    pub const BOTH: [Self; 2] = [Self::Acceptor, Self::Dialer];

    fn opposite(self) -> Self {
        match self {
            Self::Acceptor => Self::Dialer,
            Self::Dialer => Self::Acceptor,
        }
    }
}

/// How a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A clean TCP end in this direction; the other direction goes on.
    Fin,
    /// A reset toward both ends.
    Rst,
}

/// What is done to one frame, or from one frame on.
#[derive(Clone, Debug)]
pub enum Act {
    /// Turns over bit `bit` of byte `byte`.
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

    fn frames_mut(&mut self, toward: Toward) -> &mut Vec<Vec<u8>> {
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

struct Shared {
    upstream: Addr,
    /// The edits of the next connections; a connection without one passes untouched.
    edits: Mutex<VecDeque<Edit>>,
    /// Edits whose frame never came.
    missed: Mutex<Vec<Edit>>,
    recordings: Mutex<Vec<Arc<Mutex<Recording>>>>,
    recording: AtomicBool,
    connections: AtomicU64,
    applied: AtomicU64,
    live: AtomicU64,
    stop: AtomicBool,
}

impl Middleman {
    /// Stands in front of `upstream`, which must be TCP.
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

    /// Keeps the frames of all connections from now on, or no longer.
    pub fn record(&self, on: bool) {
        self.shared.recording.store(on, Ordering::SeqCst);
    }

    /// The kept frames, one recording per connection; they are handed out once.
    pub fn take_recordings(&self) -> Vec<Recording> {
        let kept = std::mem::take(&mut *lock(&self.shared.recordings));
        kept.iter().map(|one| lock(one).clone()).collect()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Edits that took effect so far.
    pub fn applied(&self) -> u64 {
        self.shared.applied.load(Ordering::SeqCst)
    }

    /// Edits that did not take effect, because their frame never came: the
    /// connection ended before. They are handed out once.
    pub fn take_missed(&self) -> Vec<Edit> {
        std::mem::take(&mut *lock(&self.shared.missed))
    }

    /// Connections that have not ended.
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
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
        let link = Arc::new(Link::new(dialer, acceptor, recording, Arc::clone(shared)));
        for toward in Toward::BOTH {
            let mine = edit.clone().filter(|edit| edit.toward == toward);
            let link = Arc::clone(&link);
            std::thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(move || Pump { link, toward, edit: mine, held: None, silent: false }.run())
                .expect("a thread can be started");
        }
    }
}

/// Both sockets of one connection. They close when the last pump lets go.
struct Link {
    dialer: TcpStream,
    acceptor: TcpStream,
    reset: AtomicBool,
    recording: Arc<Mutex<Recording>>,
    shared: Arc<Shared>,
}

impl Link {
    fn new(
        dialer: TcpStream,
        acceptor: TcpStream,
        recording: Arc<Mutex<Recording>>,
        shared: Arc<Shared>,
    ) -> Self {
        for socket in [&dialer, &acceptor] {
            socket.set_read_timeout(Some(GLANCE)).expect("a socket takes a timeout");
            socket.set_nodelay(true).expect("a TCP socket takes the option");
        }
        shared.live.fetch_add(1, Ordering::SeqCst);
        Self { dialer, acceptor, reset: AtomicBool::new(false), recording, shared }
    }

    fn input(&self, toward: Toward) -> &TcpStream {
        match toward {
            Toward::Acceptor => &self.dialer,
            Toward::Dialer => &self.acceptor,
        }
    }

    fn output(&self, toward: Toward) -> &TcpStream {
        self.input(toward.opposite())
    }

    /// Both sockets will close with a reset as soon as both pumps have noticed.
    fn reset(&self) {
        for socket in [&self.dialer, &self.acceptor] {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        self.reset.store(true, Ordering::SeqCst);
    }

    fn is_reset(&self) -> bool {
        self.reset.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why no further frame can be read.
enum Stop {
    /// The input ended, after these bytes of an unfinished frame.
    End(Vec<u8>),
    /// The connection was reset by somebody.
    Reset,
}

/// One direction of one connection.
struct Pump {
    link: Arc<Link>,
    toward: Toward,
    edit: Option<Edit>,
    /// The frame that waits for its successor (`Act::Swap`).
    held: Option<Vec<u8>>,
    /// Cut with FIN: the rest is read and thrown away.
    silent: bool,
}

impl Pump {
    fn run(mut self) {
        let mut index = 0;
        loop {
            match self.read_frame(index) {
                Ok(frame) => {
                    lock(&self.link.recording).frames_mut(self.toward).push(frame.clone());
                    self.pass(index, frame);
                }
                Err(Stop::End(rest)) => {
                    if let Some(held) = self.held.take() {
                        self.send(&held);
                        self.missed(index - 1, Act::Swap);
                    }
                    self.send(&rest);
                    let _ = self.link.output(self.toward).shutdown(Shutdown::Write);
                    return;
                }
                Err(Stop::Reset) => return self.link.reset(),
            }
            index += 1;
        }
    }

    /// Reads frame `index` whole.
    fn read_frame(&self, index: usize) -> Result<Vec<u8>, Stop> {
        let mut frame = Vec::new();
        if index == 0 {
            self.fill(&mut frame, HANDSHAKE)?;
            return Ok(frame);
        }
        self.fill(&mut frame, 2)?;
        let length = usize::from(u16::from_be_bytes([frame[0], frame[1]]));
        self.fill(&mut frame, 2 + length)?;
        Ok(frame)
    }

    /// Reads until `frame` has `len` bytes.
    fn fill(&self, frame: &mut Vec<u8>, len: usize) -> Result<(), Stop> {
        let mut have = frame.len();
        frame.resize(len, 0);
        while have < len {
            if self.link.is_reset() {
                return Err(Stop::Reset);
            }
            match self.link.input(self.toward).read(&mut frame[have..]) {
                Ok(0) => {
                    frame.truncate(have);
                    return Err(Stop::End(std::mem::take(frame)));
                }
                Ok(n) => have += n,
                Err(e) if is_timeout(e.kind()) => {}
                Err(_) => return Err(Stop::Reset),
            }
        }
        Ok(())
    }

    fn pass(&mut self, index: usize, mut frame: Vec<u8>) {
        if let Some(held) = self.held.take() {
            self.applied();
            self.send(&frame);
            return self.send(&held);
        }
        let Some(edit) = self.edit.take_if(|edit| edit.frame == index) else {
            return self.send(&frame);
        };
        match edit.act {
            Act::Flip { byte, bit } => {
                frame[byte] ^= 1 << bit;
                self.send(&frame);
            }
            Act::Cut { byte, how } => {
                self.send(&frame[..byte]);
                self.cut(how);
            }
            Act::Drop => {}
            Act::Double => {
                self.send(&frame);
                self.send(&frame);
            }
            Act::Swap => {
                self.held = Some(frame);
                return;
            }
            Act::Replace(with) => self.send(&with),
            Act::Insert(first) => {
                self.send(&first);
                self.send(&frame);
            }
            Act::Reflect(other) => match self.opposite_frame(other) {
                Some(theirs) => self.send(&theirs),
                // It never came: the edit counts as not applied.
                None => {
                    self.missed(index, Act::Reflect(other));
                    return self.send(&frame);
                }
            },
        }
        self.applied();
    }

    /// Frame `index` of the opposite direction, when it comes soon.
    fn opposite_frame(&self, index: usize) -> Option<Vec<u8>> {
        poll(Duration::from_secs(5), || {
            lock(&self.link.recording).frames(self.toward.opposite()).get(index).cloned()
        })
    }

    fn cut(&mut self, how: Cut) {
        match how {
            Cut::Fin => {
                let _ = self.link.output(self.toward).shutdown(Shutdown::Write);
                self.silent = true;
            }
            Cut::Rst => self.link.reset(),
        }
    }

    fn missed(&self, frame: usize, act: Act) {
        lock(&self.link.shared.missed).push(Edit { toward: self.toward, frame, act });
    }

    fn applied(&self) {
        self.link.shared.applied.fetch_add(1, Ordering::SeqCst);
    }

    /// Forwards; a receiver that is gone shows in the opposite direction.
    fn send(&self, bytes: &[u8]) {
        if !self.silent && !self.link.is_reset() {
            let _ = self.link.output(self.toward).write_all(bytes);
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(Edit { frame, act, .. }) = self.edit.take() {
            self.missed(frame, act);
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
