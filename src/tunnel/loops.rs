//! Detects connections that come back to the tunnel they came from, while it serves.
//!
//! `src/cli/loops.rs` refuses rings that are visible in one command line or one file. Names that
//! change, sockets that a service manager hands over and other processes are seen only here.
//! Without this a single client of such a ring would go round until all sessions are taken.
//!
//! ```text
//!   encrypt end  its own calls under way, by both of their addresses: exact
//!   decrypt end  client announced -> our connection to the target from that address
//!                -> the client announced for that one -> ... : many in a row
//! ```
//!
//! Nothing is sent for this. A ring over unix sockets, through a NAT between its ends, or
//! of encrypt ends in different processes is not seen; `-n` bounds it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::addr::ClientAddr;
use crate::net::Stream;
use crate::reason::CloseReason;
use crate::upstream::{ConnectFailure, TargetsId};

/// Longest chain of calls that is followed: more nested tunnels than any process has.
const CALLS: usize = 16;

/// Passages in a row that make a ring. A single one may be chance: a client's port and ours can be
/// the same number, since connections to different places may share one. Where clients, ends and
/// targets are all on one host, and thousands of connections come at once, even several in a row
/// are.
const PASSAGES: usize = 16;

/// Time after a dial in which a ring comes back; a client with the same port by chance mostly came
/// at another time.
const SOON: Duration = Duration::from_secs(5);

const REMEDY: &str =
    "this connection comes from this very tunnel: the target leads back to it; give -t the address";

// Trees, because an array of buckets is half empty after it has grown.
static CALLS_NOW: LazyLock<Mutex<BTreeMap<Pair, Call>>> = LazyLock::new(Mutex::default);
static PASSAGES_NOW: LazyLock<Mutex<Passages>> = LazyLock::new(Mutex::default);

type Passages = BTreeMap<LocalEnd, Passage>;

/// Both addresses of a TCP connection, which no other has at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    dialer: SocketAddr,
    listener: SocketAddr,
}

/// A connection to a far end that has not answered the handshake yet.
struct Call {
    serial: u32,
    by: TargetsId,
    /// Addresses of the client's connection, if it has any.
    made_for: Option<Pair>,
}

/// Local end of a connection from a service to its target. Small, as every session may have one for
/// days: a [`SocketAddr`] takes twice as much as its address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LocalEnd {
    of: TargetsId,
    /// IPv4 addresses are mapped.
    ip: [u8; 16],
    port: u16,
}

/// A session through a decrypt end.
struct Passage {
    serial: u32,
    /// Port of the client that was announced; its address is the one of the local end.
    client_port: u16,
    /// The moment when the session was asked for.
    asked: Moment,
    /// The moment when its target began to be dialled.
    dialled: Moment,
}

/// Microseconds since the first use: an [`Instant`] takes twice as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

/// Keeps a call registered until it is dropped.
pub(super) struct CallGuard {
    pair: Pair,
    serial: u32,
}

/// Keeps a session registered until it is dropped.
pub(super) struct PassageGuard {
    exit: LocalEnd,
    serial: u32,
}

/// A client of a decrypt end, with an address that is meaningful on this host.
#[derive(Clone, Copy)]
pub(super) struct Announced {
    client: SocketAddr,
    asked: Moment,
}

/// An entry with a number that no other of the same addresses has, so that a guard never removes an
/// entry that has replaced its own.
trait Entry {
    fn serial(&self) -> u32;
}

// === encrypt end ===

/// Registers a call until the guard is dropped; `None` over a unix socket.
pub(super) fn calls(by: TargetsId, dialled: &Stream, made_for: Option<Pair>) -> Option<CallGuard> {
    let pair = Pair::new(dialled.local(), dialled.remote())?;
    let serial = serial();
    lock(&CALLS_NOW).insert(pair, Call { serial, by, made_for });
    Some(CallGuard { pair, serial })
}

/// Refuses a client, with these addresses, that is a call of the very tunnel that accepted it.
///
/// # Errors
/// The reason for the log.
pub(super) fn refuse_own_call(by: TargetsId, client: Option<Pair>) -> Result<(), ConnectFailure> {
    let Some(pair) = client else { return Ok(()) };
    if is_made_by(&lock(&CALLS_NOW), pair, by) {
        return Err(ConnectFailure::new(CloseReason::Loop, format!("{REMEDY} of the decrypt end")));
    }
    Ok(())
}

/// Returns true when a call was made by this tunnel, directly or through others.
fn is_made_by(calls: &BTreeMap<Pair, Call>, pair: Pair, by: TargetsId) -> bool {
    let first = calls.get(&pair);
    let next = |call: &&Call| calls.get(&call.made_for?);
    std::iter::successors(first, next).take(CALLS).any(|call| call.by == by)
}

// === decrypt end ===

/// Refuses a client that has passed through this service many times.
///
/// # Errors
/// The reason for the log.
pub(super) fn refuse_ring(of: TargetsId, announced: Announced) -> Result<(), ConnectFailure> {
    if goes_round(&lock(&PASSAGES_NOW), of, announced) {
        return Err(ConnectFailure::new(CloseReason::Loop, format!("{REMEDY} of the service")));
    }
    Ok(())
}

/// Registers a session, from `dialled` on, until the guard is dropped. In a ring the client's
/// address is one that targets are dialled from, so sessions of other clients need no entry.
pub(super) fn passes(
    of: TargetsId,
    announced: Announced,
    dialled: Instant,
    target: &Stream,
) -> Option<Box<PassageGuard>> {
    let local = plain(target.local()).filter(|local| local.ip() == announced.client.ip())?;
    let Announced { client, asked } = announced;
    let dialled = Moment::of(dialled);
    let exit = LocalEnd::new(of, local);
    let serial = serial();
    let client_port = client.port();
    lock(&PASSAGES_NOW).insert(exit, Passage { serial, client_port, asked, dialled });
    Some(Box::new(PassageGuard { exit, serial }))
}

fn goes_round(passages: &Passages, of: TargetsId, announced: Announced) -> bool {
    let Announced { mut client, mut asked } = announced;
    for _ in 0..PASSAGES {
        let Some(before) = passages.get(&LocalEnd::new(of, client)) else { return false };
        if !asked.is_soon_after(before.dialled) {
            return false;
        }
        client.set_port(before.client_port);
        asked = before.asked;
    }
    true
}

// === impls ===

impl Pair {
    fn new(dialer: ClientAddr, listener: ClientAddr) -> Option<Self> {
        Some(Self { dialer: plain(dialer)?, listener: plain(listener)? })
    }

    /// Returns the addresses of an accepted connection; `None` of a unix socket. Asks the system.
    pub(super) fn of_accepted(stream: &Stream) -> Option<Self> {
        Self::new(stream.remote(), stream.local())
    }
}

impl LocalEnd {
    fn new(of: TargetsId, local: SocketAddr) -> Self {
        let ip = match local.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { of, ip: ip.octets(), port: local.port() }
    }
}

impl Moment {
    fn of(instant: Instant) -> Self {
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        let since = instant.saturating_duration_since(*FIRST);
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    fn is_soon_after(self, dial: Self) -> bool {
        self.0.checked_sub(dial.0).is_some_and(|it| Duration::from_micros(it) <= SOON)
    }
}

impl Announced {
    /// Returns `None` where the address says nothing: 127.0.0.1 of another host is not ours.
    pub(super) fn new(client: ClientAddr, sealed: &Stream) -> Option<Self> {
        let client = plain(client)?;
        let is_ours = !client.ip().is_loopback() || comes_from_this_host(sealed);
        is_ours.then(|| Self { client, asked: Moment::of(Instant::now()) })
    }
}

impl Entry for Call {
    fn serial(&self) -> u32 {
        self.serial
    }
}

impl Entry for Passage {
    fn serial(&self) -> u32 {
        self.serial
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        remove(&mut lock(&CALLS_NOW), self.pair, self.serial);
    }
}

impl Drop for PassageGuard {
    fn drop(&mut self) {
        remove(&mut lock(&PASSAGES_NOW), self.exit, self.serial);
    }
}

fn remove<K: Ord, V: Entry>(from: &mut BTreeMap<K, V>, key: K, serial: u32) {
    if from.get(&key).is_some_and(|entry| entry.serial() == serial) {
        from.remove(&key);
    }
}

fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Relaxed)
}

/// Returns the address without the zone, on which the two sides of a connection may differ.
fn plain(address: ClientAddr) -> Option<SocketAddr> {
    match address {
        ClientAddr::Ip(address) => Some(SocketAddr::new(address.ip(), address.port())),
        _ => None,
    }
}

/// Returns true for a connection from this host: one to an address of its own comes from that
/// address, or from loopback.
fn comes_from_this_host(sealed: &Stream) -> bool {
    match plain(sealed.remote()) {
        Some(remote) if remote.ip().is_loopback() => true,
        Some(remote) => plain(sealed.local()).is_some_and(|local| remote.ip() == local.ip()),
        None => matches!(sealed, Stream::Unix(_)),
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn pair(dialer: u16, listener: u16) -> Pair {
        Pair { dialer: address(dialer), listener: address(listener) }
    }

    fn call(by: u32, made_for: Option<Pair>) -> Call {
        Call { serial: 0, by: TargetsId(by), made_for }
    }

    #[test]
    fn a_call_is_the_tunnels_own_also_by_way_of_another() {
        // A client of tunnel 1 at port 10, which dials tunnel 2 at port 20, and that dials 10.
        let calls = BTreeMap::from([
            (pair(50_001, 20), call(1, Some(pair(50_000, 10)))),
            (pair(50_002, 10), call(2, Some(pair(50_001, 20)))),
            (pair(50_003, 10), call(1, None)),
        ]);
        let is_made_by = |pair, by| is_made_by(&calls, pair, TargetsId(by));
        assert!(is_made_by(pair(50_002, 10), 1), "a ring of two");
        assert!(is_made_by(pair(50_003, 10), 1), "one that dials itself for its pool");
        assert!(!is_made_by(pair(50_001, 20), 2), "a tunnel in a tunnel");
        assert!(!is_made_by(pair(50_000, 10), 1), "a client");
        assert!(!is_made_by(pair(50_003, 11), 1), "the same port of ours to another place");
    }

    #[test]
    fn calls_in_a_circle_without_the_tunnel_end() {
        let calls = BTreeMap::from([
            (pair(1, 10), call(1, Some(pair(2, 10)))),
            (pair(2, 10), call(2, Some(pair(1, 10)))),
        ]);
        assert!(!is_made_by(&calls, pair(1, 10), TargetsId(3)));
    }

    fn later(than: Moment, by: Duration) -> Moment {
        Moment(than.0 + u64::try_from(by.as_micros()).unwrap())
    }

    /// Returns sessions from port `n` to `n + 1`, each a `pause` after the one before, and the
    /// client of the next one.
    fn row(length: usize, pause: Duration) -> (Passages, Announced) {
        let mut passages = Passages::new();
        let mut now = Moment(0);
        let length = u16::try_from(length).unwrap();
        for port in 0..length {
            let exit = LocalEnd::new(TargetsId(1), address(port + 1));
            let (client_port, asked, dialled) = (port, now, now);
            passages.insert(exit, Passage { serial: 0, client_port, asked, dialled });
            now = later(now, pause);
        }
        (passages, Announced { client: address(length), asked: now })
    }

    #[test]
    fn many_passages_in_a_row_are_a_ring() {
        let at_once = Duration::ZERO;
        let (passages, next) = row(PASSAGES, at_once);
        assert!(goes_round(&passages, TargetsId(1), next));
        assert!(!goes_round(&passages, TargetsId(2), next), "another service");
        let (passages, next) = row(PASSAGES - 1, at_once);
        assert!(!goes_round(&passages, TargetsId(1), next), "too few");
    }

    #[test]
    fn what_comes_late_or_before_the_dial_is_chance() {
        let (passages, next) = row(PASSAGES, SOON);
        assert!(goes_round(&passages, TargetsId(1), next));
        let (passages, next) = row(PASSAGES, SOON + Duration::from_millis(1));
        assert!(!goes_round(&passages, TargetsId(1), next));
        let (mut passages, next) = row(PASSAGES, Duration::ZERO);
        let last = passages.get_mut(&LocalEnd::new(TargetsId(1), next.client)).unwrap();
        last.dialled = later(last.dialled, Duration::from_millis(1));
        assert!(!goes_round(&passages, TargetsId(1), next));
    }

    #[test]
    fn a_guard_removes_only_its_own_entry() {
        let mut calls = BTreeMap::from([(pair(1, 10), call(1, None))]);
        remove(&mut calls, pair(1, 10), 7);
        assert_eq!(calls.len(), 1);
        remove(&mut calls, pair(1, 10), 0);
        assert!(calls.is_empty());
    }
}
