//! Knocks that may still admit an address: those that have arrived and are not read yet, and those
//! that are being granted.
//!
//! A client sends its knock and connects at once, so its connection may be accepted before its
//! knock is read, or before the store has the grant. An address that is not admitted therefore
//! waits until the sockets for knocks were read to their end once, and until a grant that covers
//! it is made. The number of those that wait is bounded, in total and of each source; the others
//! are denied at once. Knows no knock: a grant is an address or a network here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::inquiry::{MOST_OF_SOURCE, MOST_WAITING};
use super::member::Member;
use crate::addr::SourceKey;

/// Knocks at the gate of a tunnel.
#[derive(Debug, Default)]
pub struct Knocks {
    state: Mutex<State>,
    /// Notified when a socket was read to its end, or a grant is made.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Number of requests to read all sockets so far.
    asked: u64,
    next: u64,
    sockets: HashMap<u64, SocketState>,
    granting: HashMap<u64, Member>,
    waiting: HashMap<SourceKey, usize>,
    waiting_in_total: usize,
}

#[derive(Debug)]
struct SocketState {
    /// The last request after which it was read to its end.
    read: u64,
    /// Notified by a request.
    asked: Arc<Notify>,
}

/// A socket that knocks arrive at, until this is dropped.
#[derive(Debug)]
pub struct KnockSocket {
    knocks: Arc<Knocks>,
    number: u64,
    asked: Arc<Notify>,
}

/// A grant that is being made, until this is dropped.
#[derive(Debug)]
pub struct Granting {
    knocks: Arc<Knocks>,
    number: u64,
}

/// A connection that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct KnockWait {
    knocks: Arc<Knocks>,
    ip: IpAddr,
    request: u64,
}

impl Knocks {
    /// Enters a socket that knocks arrive at.
    pub fn socket(self: &Arc<Self>) -> KnockSocket {
        let mut state = self.lock();
        let number = state.number();
        let asked = Arc::<Notify>::default();
        let read = state.asked;
        state.sockets.insert(number, SocketState { read, asked: Arc::clone(&asked) });
        KnockSocket { knocks: Arc::clone(self), number, asked }
    }

    /// Enters a grant of `member`. To be called before the socket of its knock counts as read.
    pub fn granting(self: &Arc<Self>, member: Member) -> Granting {
        let mut state = self.lock();
        let number = state.number();
        state.granting.insert(number, member);
        Granting { knocks: Arc::clone(self), number }
    }

    /// Returns true if an address that is not admitted should wait.
    pub(super) fn may_wait(&self, ip: IpAddr) -> bool {
        self.lock().may_wait(ip)
    }

    /// Enters a connection that waits, and has all sockets read; `None` where it should not wait.
    pub(super) fn wait(self: &Arc<Self>, ip: IpAddr) -> Option<KnockWait> {
        let mut state = self.lock();
        if !state.may_wait(ip) {
            return None;
        }
        state.asked += 1;
        let request = state.asked;
        *state.waiting.entry(ip.into()).or_default() += 1;
        state.waiting_in_total += 1;
        state.sockets.values().for_each(|socket| socket.asked.notify_one());
        Some(KnockWait { knocks: Arc::clone(self), ip, request })
    }

    /// Resolves with the next change that a waiting connection may wait for, from the call on.
    pub(super) fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn may_wait(&self, ip: IpAddr) -> bool {
        let of_source = self.waiting.get(&ip.into()).copied().unwrap_or(0);
        !(self.sockets.is_empty() && self.granting.is_empty())
            && of_source < MOST_OF_SOURCE
            && self.waiting_in_total < MOST_WAITING
    }
}

impl KnockSocket {
    /// Waits until a connection asks for the socket to be read. Cancel safe.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Returns the number of the last request. To be called before the socket is read.
    pub fn request(&self) -> u64 {
        self.knocks.lock().asked
    }

    /// Notes that the socket was read to its end after this request.
    pub fn is_read(&self, request: u64) {
        let mut state = self.knocks.lock();
        let Some(socket) = state.sockets.get_mut(&self.number) else { return };
        let is_news = request > socket.read;
        socket.read = socket.read.max(request);
        drop(state);
        if is_news {
            self.knocks.changed.notify_waiters();
        }
    }
}

impl KnockWait {
    /// Returns true once no knock that arrived before this connection can still admit it.
    pub(super) fn is_over(&self) -> bool {
        let state = self.knocks.lock();
        state.sockets.values().all(|socket| socket.read >= self.request)
            && !state.granting.values().any(|member| member.contains(self.ip))
    }
}

impl Drop for KnockSocket {
    fn drop(&mut self) {
        self.knocks.lock().sockets.remove(&self.number);
        self.knocks.changed.notify_waiters();
    }
}

impl Drop for Granting {
    fn drop(&mut self) {
        self.knocks.lock().granting.remove(&self.number);
        self.knocks.changed.notify_waiters();
    }
}

impl Drop for KnockWait {
    fn drop(&mut self) {
        let source = SourceKey::from(self.ip);
        let mut state = self.knocks.lock();
        state.waiting_in_total -= 1;
        if let Some(count) = state.waiting.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                state.waiting.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_sockets_no_connection_waits() {
        let knocks = Arc::<Knocks>::default();
        assert!(!knocks.may_wait(ip("203.0.113.7")) && knocks.wait(ip("203.0.113.7")).is_none());
        let socket = knocks.socket();
        assert!(knocks.may_wait(ip("203.0.113.7")));
        drop(socket);
        assert!(!knocks.may_wait(ip("203.0.113.7")));
    }

    #[test]
    fn a_connection_waits_for_every_socket_and_for_its_grant() {
        let knocks = Arc::<Knocks>::default();
        let (one, two) = (knocks.socket(), knocks.socket());
        let early = one.request();
        let wait = knocks.wait(ip("203.0.113.7")).unwrap();
        one.is_read(early);
        two.is_read(two.request());
        assert!(!wait.is_over(), "one socket was read before the connection came");
        let granting = knocks.granting("203.0.113.0/24".parse().unwrap());
        one.is_read(one.request());
        assert!(!wait.is_over(), "its grant is being made");
        let other = knocks.granting(Member::from(ip("198.51.100.1")));
        drop(granting);
        assert!(wait.is_over(), "the grant of another address is none of it");
        drop((other, wait));
        let state = knocks.lock();
        assert!(
            state.waiting.is_empty() && state.waiting_in_total == 0 && state.granting.is_empty()
        );
    }

    #[test]
    fn a_socket_that_is_closed_is_not_waited_for() {
        let knocks = Arc::<Knocks>::default();
        let (one, two) = (knocks.socket(), knocks.socket());
        let wait = knocks.wait(ip("2001:db8::7")).unwrap();
        one.is_read(one.request());
        assert!(!wait.is_over());
        drop(two);
        assert!(wait.is_over());
    }

    #[test]
    fn those_that_wait_are_bounded_in_total_and_for_each_source() {
        let knocks = Arc::<Knocks>::default();
        let _socket = knocks.socket();
        let of_one: Vec<_> =
            (0..2 * MOST_OF_SOURCE).map(|_| knocks.wait(ip("192.0.2.1"))).collect();
        assert_eq!(of_one.iter().flatten().count(), MOST_OF_SOURCE);
        let of_all: Vec<_> = (0..2 * MOST_WAITING as u32)
            .map(|number| knocks.wait(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into()))
            .collect();
        assert_eq!(of_all.iter().flatten().count(), MOST_WAITING - MOST_OF_SOURCE);
        drop((of_one, of_all));
        assert!(knocks.may_wait(ip("192.0.2.1")));
    }

    #[tokio::test]
    async fn a_request_wakes_the_reader_and_a_reading_wakes_the_connection() {
        let knocks = Arc::<Knocks>::default();
        let socket = knocks.socket();
        let wait = knocks.wait(ip("203.0.113.7")).unwrap();
        socket.asked().await;
        let changed = knocks.changed();
        socket.is_read(socket.request());
        changed.await;
        assert!(wait.is_over());
    }
}
