//! The two directions of a connection through the man in the middle.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;

use crate::middleman::{Act, Cut, Edit, HANDSHAKE, Recording, Shared, Toward, lock};
use crate::wait::poll;

/// Interval at which a pump that waits for bytes checks whether the connection was cut.
const GLANCE: Duration = Duration::from_millis(10);

/// Both sockets of one connection. They close when the last pump ends.
pub(crate) struct Link {
    dialer: TcpStream,
    acceptor: TcpStream,
    reset: AtomicBool,
    recording: Arc<Mutex<Recording>>,
    shared: Arc<Shared>,
}

impl Link {
    pub(crate) fn new(
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

    /// Marks the link as reset: both sockets close with a reset as soon as both pumps have noticed.
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

/// Starts both directions of `link`, the edited one with `edit`.
pub(crate) fn pump_both(link: &Arc<Link>, edit: Option<Edit>) {
    for toward in Toward::BOTH {
        let edit = edit.clone().filter(|edit| edit.toward == toward);
        let pump = Pump { link: Arc::clone(link), toward, edit, held: None, silent: false };
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || pump.run())
            .expect("a thread can be started");
    }
}

/// Reason for which no further frame can be read.
enum Stop {
    /// The input ended, after these bytes of an unfinished frame.
    End(Vec<u8>),
    /// The connection was reset by a peer.
    Reset,
}

/// One direction of one connection.
struct Pump {
    link: Arc<Link>,
    toward: Toward,
    edit: Option<Edit>,
    /// The frame that waits for its successor (`Act::Swap`).
    held: Option<Vec<u8>>,
    /// Cut with FIN: the rest is read and dropped.
    silent: bool,
}

impl Pump {
    fn run(mut self) {
        let mut index = 0;
        loop {
            match self.read_frame(index) {
                Ok(_) if self.link.shared.swallows(index) => {}
                Err(_) if self.link.shared.swallows(index) => return self.pretend(),
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

    /// Keeps the sockets open, although one of them has ended, while it swallows.
    fn pretend(&self) {
        let shared = &self.link.shared;
        while shared.swallows(usize::MAX - 1) && !shared.is_stopped() {
            std::thread::sleep(GLANCE);
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
        let Some(edit) = self.edit.take_if(|edit| edit.is_for(index, frame.len())) else {
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
                // It never arrived: the edit counts as not applied.
                None => {
                    self.missed(index, Act::Reflect(other));
                    return self.send(&frame);
                }
            },
        }
        self.applied();
    }

    /// Returns frame `index` of the opposite direction, if it arrives soon.
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
