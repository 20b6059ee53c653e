//! Noticing that a TCP peer has vanished, without cutting one that only stalls.
//!
//! Three states of a connection need three answers:
//!
//! | state | what notices a vanished peer | after about |
//! |---|---|---|
//! | idle | keepalive: 30 s, then 3 probes 9 s apart | 57 s |
//! | data in flight | retransmission, see below | 40 s |
//! | the peer's window is closed | window probes, see below | 50 s |
//!
//! `TCP_USER_TIMEOUT` would cover the last two, but is not used: since Linux 5.11 it also ends a
//! connection with a peer that acknowledges every window probe but does not read for that long. A
//! paused pager or a replica that loads its data is such a peer, and it is alive. (Measured on
//! 6.18: cut after exactly the timeout.)
//!
//! Instead `TCP_RTO_MAX_MS` (Linux 6.15) caps the exponential backoff at
//! [`RTO_MAX`]. The usual 15 retries of `net.ipv4.tcp_retries2` then take 40 s
//! instead of 15 minutes, and an acknowledged window probe starts them over.
//! (Measured on 6.18: 40 s in flight, 48 s with a closed window, 58 s idle.)
//!
//! Older kernels have no such option: there [`DeadPeerDetector`] reads the kernel's state of the
//! connection (`TCP_INFO`) every [`PERIOD`]. Window probes are up to two minutes apart there, so
//! that a peer that vanishes long after its window closed is noticed that much later.
//!
//! Keepalive counts only while nothing is in flight. So a session sends no sign of life of its own
//! while a keepalive probe is unanswered ([`is_probing`]).
//!
//! The interval of keepalive is 9 s and not 10, because the kernel's timers
//! come up to a second late each and the sum has to stay within 60 s.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use socket2::{SockRef, TcpKeepalive};
use tokio::time::{Interval, interval_at};

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(9);
const KEEPALIVE_PROBES: u32 = 3;

/// The same for a connection that waits to be used ([`ask_often`]): the peer answers every second,
/// or counts as dead after four.
const WAITING_IDLE: Duration = Duration::from_secs(1);
const WAITING_INTERVAL: Duration = Duration::from_secs(1);

/// A peer that answered within this time and a round trip counts as alive: two probes of
/// [`ask_often`], because the kernel's timers fire late.
const LATELY: Duration = Duration::from_secs(2);

/// Longest pause between two retransmissions, in milliseconds:
/// 0.2 + 0.4 + 0.8 + 1.6 + 12 times 3 s are the 15 retries' 39 s.
const RTO_MAX: u32 = 3_000;

/// Interval at which [`DeadPeerDetector`] looks.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// Time for which retransmitted data may stay unacknowledged.
const PATIENCE: Duration = Duration::from_secs(45);

/// From include/uapi/linux/tcp.h; not yet in the libc crate.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// `struct tcp_info` as every supported kernel fills it at least.
const TCP_INFO_BYTES: usize = 104;

/// True when this kernel has [`RtoMax`]; the same for all connections.
static KERNEL_DOES_IT: OnceLock<bool> = OnceLock::new();

sockopt_impl!(
    /// Longest retransmission timeout in milliseconds (Linux 6.15).
    RtoMax,
    Both,
    libc::IPPROTO_TCP,
    TCP_RTO_MAX_MS,
    u32
);

sockopt_impl!(
    /// The head of `struct tcp_info`, as bytes, so that its length does not
    /// depend on which C library the constants were written for.
    TcpInfoBytes,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u8; TCP_INFO_BYTES]
);

/// Makes the kernel probe the connection. Best effort: a socket that refuses is already broken, and
/// the next read reports it.
pub(super) fn keep_alive(socket: &impl AsFd) {
    ask_every(socket, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL);
    let _ = setsockopt(socket, RtoMax, &RTO_MAX);
}

/// Makes the kernel probe every second, if keepalive is on at all: a connection that waits to be
/// used must be known to work ([`is_heard_lately`]).
pub(super) fn ask_often(socket: &impl AsFd) {
    if asks(socket) {
        ask_every(socket, WAITING_IDLE, WAITING_INTERVAL);
    }
}

/// Undoes [`ask_often`].
pub(super) fn ask_as_usual(socket: &impl AsFd) {
    if asks(socket) {
        ask_every(socket, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL);
    }
}

fn asks(socket: &impl AsFd) -> bool {
    getsockopt(socket, sockopt::KeepAlive) == Ok(true)
}

fn ask_every(socket: &impl AsFd, idle: Duration, interval: Duration) {
    let keepalive =
        TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(KEEPALIVE_PROBES);
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// A [`DeadPeerDetector`] with its timer, for the task that reads from the connection.
pub struct DeadPeerWatch {
    detector: DeadPeerDetector,
    looks: Interval,
}

impl DeadPeerWatch {
    /// Returns a watch if keepalive is wanted and the kernel is too old to bound retransmission
    /// itself.
    pub(super) fn if_needed(socket: &impl AsFd) -> Option<Self> {
        is_needed(socket).then(|| Self {
            detector: DeadPeerDetector::default(),
            looks: interval_at(tokio::time::Instant::now() + PERIOD, PERIOD),
        })
    }

    /// Returns true when the peer has vanished; wakes the task for the next look.
    pub(super) fn poll_vanished(&mut self, cx: &mut Context<'_>, socket: &impl AsFd) -> bool {
        while let Poll::Ready(now) = self.looks.poll_tick(cx) {
            // A socket without `TCP_INFO` is broken; reading will say how.
            let info = TcpInfo::of(socket);
            if info.is_ok_and(|info| self.detector.is_dead(info, now.into_std())) {
                return true;
            }
        }
        false
    }
}

/// Returns true while probes of keepalive, or of a closed window, are unanswered.
pub(super) fn is_probing(socket: &impl AsFd) -> bool {
    TcpInfo::of(socket).is_ok_and(|info| info.probes > 0)
}

/// Returns true when the peer has acknowledged something a moment ago, and has not left several
/// probes unanswered.
pub(super) fn is_heard_lately(socket: &impl AsFd) -> bool {
    TcpInfo::of(socket).is_ok_and(|info| info.is_heard_lately())
}

/// Returns true when the peer has not acknowledged all that was sent.
pub(super) fn is_unacknowledged(socket: &impl AsFd) -> bool {
    // A socket that gives no account is broken.
    TcpInfo::of(socket).map_or(true, |info| info.unacknowledged > 0)
}

/// Returns true when the peer leaves data unacknowledged for longer than an acknowledgement
/// takes.
pub(super) fn is_overdue(socket: &impl AsFd) -> bool {
    // A socket that gives no account is broken.
    TcpInfo::of(socket).map_or(true, |info| info.is_overdue())
}

/// Returns the kernel's estimate of a round trip; zero where it has none.
pub(super) fn round_trip(socket: &impl AsFd) -> Duration {
    TcpInfo::of(socket).map_or(Duration::ZERO, |info| info.round_trip)
}

/// The largest packets on the way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Size of a packet, as far as the kernel knows.
    pub mtu: u32,
    /// Data in one segment.
    pub mss: u32,
    /// TCP retransmits, and gets no acknowledgement.
    pub is_stuck: bool,
}

impl Path {
    /// Asks the kernel.
    pub(super) fn of(socket: &impl AsFd) -> Option<Self> {
        let info = getsockopt(socket, TcpInfoBytes).ok()?;
        let number =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let is_stuck = info[2] > 0 && number(24) > 0;
        Some(Self { mtu: number(60), mss: number(16), is_stuck })
    }
}

fn is_needed(socket: &impl AsFd) -> bool {
    !*KERNEL_DOES_IT.get_or_init(|| getsockopt(socket, RtoMax) != Err(Errno::ENOPROTOOPT))
        && asks(socket)
}

/// Follows one connection through its `TCP_INFO`.
#[derive(Debug, Default)]
pub(super) struct DeadPeerDetector {
    /// Time since which the kernel retransmits without an answer.
    unanswered: Option<Instant>,
}

/// The kernel's state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// Retransmissions of the oldest unacknowledged data.
    retransmits: u8,
    /// Unanswered window or keepalive probes.
    probes: u8,
    /// Time since the last acknowledgement of anything.
    last_ack: Duration,
    /// Segments that were sent and are not acknowledged.
    unacknowledged: u32,
    /// The smoothed estimate.
    round_trip: Duration,
}

impl DeadPeerDetector {
    /// Judges one more reading; returns true once the peer counts as dead.
    ///
    /// An acknowledgement since the last look ends the suspicion: a live peer
    /// that does not read answers window probes, and one behind a bad line
    /// acknowledges now and then.
    pub(super) fn is_dead(&mut self, info: TcpInfo, now: Instant) -> bool {
        if info.retransmits == 0 && info.probes == 0 {
            self.unanswered = None;
            return false;
        }
        let since = self.unanswered.get_or_insert(now);
        if info.last_ack < now.duration_since(*since) {
            *since = now;
        }
        now.duration_since(*since) >= PATIENCE
    }
}

impl TcpInfo {
    /// One probe of [`ask_often`] may be on its way.
    fn is_heard_lately(&self) -> bool {
        self.retransmits == 0 && self.probes <= 1 && !self.is_silent()
    }

    /// Data that was sent a moment ago may be on its way.
    fn is_overdue(&self) -> bool {
        self.unacknowledged > 0 && (self.retransmits > 0 || self.is_silent())
    }

    fn is_silent(&self) -> bool {
        self.last_ack > LATELY + self.round_trip
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// The socket is no TCP socket any more.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let info = getsockopt(socket, TcpInfoBytes)?;
        let number =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        Ok(Self {
            retransmits: info[2],
            probes: info[3],
            last_ack: Duration::from_millis(number(56).into()),
            unacknowledged: number(24),
            round_trip: Duration::from_micros(number(68).into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockFilter;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn info(retransmits: u8, probes: u8, last_ack: u64) -> TcpInfo {
        let last_ack = Duration::from_secs(last_ack);
        let unacknowledged = u32::from(retransmits);
        let round_trip = Duration::ZERO;
        TcpInfo { retransmits, probes, last_ack, unacknowledged, round_trip }
    }

    #[test]
    fn the_kernel_gets_the_times() {
        let (ours, _theirs) = pair();
        assert_eq!(getsockopt(&ours, sockopt::KeepAlive), Ok(false));
        keep_alive(&ours);
        let socket = SockRef::from(&ours);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        match getsockopt(&ours, RtoMax) {
            Ok(millis) => assert_eq!((millis, is_needed(&ours)), (RTO_MAX, false)),
            Err(old) => assert_eq!((old, is_needed(&ours)), (Errno::ENOPROTOOPT, true)),
        }
    }

    #[test]
    fn an_accepted_connection_inherits_the_times() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        keep_alive(&listener);
        let _theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        assert!(SockRef::from(&ours).keepalive().unwrap());
        assert_eq!(SockRef::from(&ours).tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        let bound = getsockopt(&ours, RtoMax);
        assert!(bound == Ok(RTO_MAX) || bound == Err(Errno::ENOPROTOOPT), "{bound:?}");
    }

    #[test]
    fn silence_is_noticed_within_a_minute() {
        let mut detector = DeadPeerDetector::default();
        let start = Instant::now();
        let noticed = (1..)
            .map(|look| look * PERIOD)
            .find(|&t| detector.is_dead(info(1, 0, 600 + t.as_secs()), start + t));
        assert_eq!(noticed, Some(PERIOD + PATIENCE));
        assert!(noticed.unwrap() < Duration::from_secs(60));
    }

    #[test]
    fn a_peer_that_answers_probes_is_never_given_up() {
        let mut detector = DeadPeerDetector::default();
        let start = Instant::now();
        for look in 1..1_000 {
            // A probe is out at every reading, and was answered since the last one.
            assert!(!detector.is_dead(info(0, 1, 4), start + look * PERIOD), "look {look}");
        }
    }

    #[test]
    fn an_idle_connection_is_left_to_keepalive() {
        let mut detector = DeadPeerDetector::default();
        let start = Instant::now();
        assert!(!detector.is_dead(info(1, 0, 9), start));
        assert!(!detector.is_dead(info(0, 0, 100), start + 10 * PERIOD));
        assert!(!detector.is_dead(info(1, 0, 200), start + 20 * PERIOD), "starts over");
    }

    #[test]
    fn one_probe_may_be_on_its_way() {
        let is_heard = |probes, last_ack| info(0, probes, last_ack).is_heard_lately();
        assert_eq!([is_heard(0, 1), is_heard(1, 1), is_heard(2, 1)], [true, true, false]);
        assert_eq!([is_heard(0, 3), is_heard(1, 3)], [false, false]);
    }

    #[test]
    fn what_was_sent_a_moment_ago_is_not_overdue() {
        let sent = |retransmits, last_ack| {
            let unacknowledged = 1;
            TcpInfo { unacknowledged, ..info(retransmits, 0, last_ack) }.is_overdue()
        };
        assert_eq!([sent(0, 0), sent(1, 0), sent(0, 3)], [false, true, true]);
        assert!(!info(0, 0, 600).is_overdue(), "nothing was sent");
    }

    #[test]
    fn the_kernels_account_shows_a_vanished_peer() {
        use std::io::Write;
        let (mut ours, theirs) = pair();
        assert_eq!(TcpInfo::of(&ours).unwrap().retransmits, 0);
        // A filter that accepts no packet: the peer answers nothing any more.
        SockRef::from(&theirs).attach_filter(&[SockFilter::new(6, 0, 0, 0)]).unwrap();
        ours.write_all(b"anybody?").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpInfo::of(&ours).unwrap().retransmits < 2 {
            assert!(Instant::now() < deadline, "no retransmission was counted");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(TcpInfo::of(&ours).unwrap().last_ack > Duration::from_millis(500));
        assert!(is_unacknowledged(&ours) && is_overdue(&ours) && !is_heard_lately(&ours));
    }

    #[test]
    fn a_connection_that_waits_is_asked_every_second_until_it_is_used() {
        let (ours, theirs) = pair();
        ask_often(&ours);
        assert_eq!(getsockopt(&ours, sockopt::KeepAlive), Ok(false), "only where it is wanted");
        keep_alive(&ours);
        ask_often(&ours);
        assert_eq!(SockRef::from(&ours).tcp_keepalive_time().unwrap(), WAITING_IDLE);
        assert!(is_heard_lately(&ours) && !is_unacknowledged(&ours));
        SockRef::from(&theirs).attach_filter(&[SockFilter::new(6, 0, 0, 0)]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_heard_lately(&ours) {
            assert!(Instant::now() < deadline, "a peer that answers nothing is taken to be there");
            std::thread::sleep(Duration::from_millis(20));
        }
        ask_as_usual(&ours);
        assert_eq!(SockRef::from(&ours).tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
    }
}
