//! The knocks at one far end.
//!
//! A datagram leaves by the way of the connection that it is for: it goes to the address that is
//! dialled, and tells from which local address, so that the connection can be bound to that. It
//! carries the far end's clock as message 1 of a handshake does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tracing::{debug, info, warn};

use super::schedule::Moment;
use super::sent::{DueKnock, Occasion, SentKnocks, Way};
use crate::addr::{BindAddress, ServiceName};
use crate::keys::Key;
use crate::net::clock::{ms_awake, ms_since_boot};
use crate::net::far_clock::{FarClock, Guess};
use crate::net::{Outgoing, Target};
use crate::observe::{KnockReason, SentKnockMeters};
use crate::proto::knock::{Knock, KnockMessage, Label};
use crate::random::ephemeral;

/// Time of a grant where no other is wished: what a decrypt end gives the source of a datagram,
/// unless it is told otherwise.
pub const DEFAULT_LASTING: Duration = Duration::from_secs(60);

/// Text of a knock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnockWish {
    /// Time that is wished, in seconds; `None` is as long as the far end allows.
    pub ttl_s: Option<NonZeroU32>,
    /// Gate that is to open; `None` is the default one of the far end.
    pub gate: Option<ServiceName>,
    /// Text for those who look at the grants.
    pub label: Option<Label>,
    /// Address or network to let in; `None` is the source of the datagram.
    pub address: Option<IpNet>,
}

/// Parts that a [`Knocker`] is made of.
pub struct KnockerParts {
    /// Text of its knocks.
    pub wish: KnockWish,
    /// Key that seals them.
    pub key: Key,
    /// Clock of the far end, as handshakes teach it.
    pub far_clock: Arc<FarClock>,
    /// Local address.
    pub bind: Option<BindAddress>,
    /// Name of the tunnel in the log, where a process has several.
    pub tunnel: Option<Arc<str>>,
    /// Counters.
    pub meters: Arc<SentKnockMeters>,
}

/// Sends the knocks at one far end.
pub struct Knocker {
    parts: KnockerParts,
    sent: Mutex<SentKnocks>,
    /// A warning was logged since a knock was last sent.
    is_warned: AtomicBool,
}

/// A knock that was sent.
#[derive(Debug)]
pub struct SentTo {
    /// Address of the far end.
    pub to: SocketAddr,
    /// Address of this host.
    pub from: IpAddr,
    /// Its socket, which hears of a refusal on the way.
    pub outgoing: Outgoing,
}

/// A knock that was not sent.
#[derive(Debug)]
pub struct NotSent {
    /// Address of the far end, or of a zone that there is not.
    pub to: String,
    /// The system's error.
    pub error: io::Error,
}

impl KnockWish {
    /// Returns the time for which a grant may be expected to last.
    pub fn lasting(&self) -> Duration {
        self.ttl_s.map_or(DEFAULT_LASTING, |ttl_s| Duration::from_secs(ttl_s.get().into()))
    }
}

/// Reads the clocks of a schedule.
pub fn now() -> Moment {
    Moment { since_boot_ms: ms_since_boot(), awake_ms: ms_awake() }
}

impl Knocker {
    /// Creates one that has sent nothing yet.
    pub fn new(parts: KnockerParts) -> Self {
        let sent = Mutex::new(SentKnocks::new(parts.wish.lasting()));
        Self { parts, sent, is_warned: AtomicBool::new(false) }
    }

    /// Returns the time for which a grant may be expected to last.
    pub fn lasting(&self) -> Duration {
        self.parts.wish.lasting()
    }

    /// Knocks at an address that is about to be dialled, if that is due. Returns the local address
    /// to dial from; the dial itself tells what is wrong if there is none.
    pub fn before_dial(&self, to: SocketAddr, occasion: Occasion) -> Option<IpAddr> {
        let reason = match occasion {
            Occasion::Denied => KnockReason::Retry,
            Occasion::Wanted | Occasion::Changed => KnockReason::Dial,
        };
        let outgoing = self.way(to).ok()?;
        if let Some(due) = self.due(to, outgoing.from(), occasion) {
            // A failure is logged; a grant may be there already.
            let _ = self.send(&outgoing, to, due, reason);
        }
        outgoing.bindable()
    }

    /// Knocks at every address of the far end where that is due.
    pub fn knock(
        &self,
        target: &Target,
        occasion: Occasion,
        reason: KnockReason,
    ) -> Vec<Result<SentTo, NotSent>> {
        let Target::Ips(endpoints) = target else { return vec![] };
        let knocks = endpoints.iter().filter_map(|endpoint| {
            let not_sent = |error| NotSent { to: endpoint.to_string(), error };
            match endpoint.now() {
                Ok(to) => Some(self.knock_at(to, occasion, reason).transpose()?.map_err(not_sent)),
                Err(error) => Some(Err(not_sent(error))),
            }
        });
        knocks.collect()
    }

    fn knock_at(
        &self,
        to: SocketAddr,
        occasion: Occasion,
        reason: KnockReason,
    ) -> io::Result<Option<SentTo>> {
        let outgoing = self.way(to)?;
        let from = outgoing.from();
        let Some(due) = self.due(to, from, occasion) else { return Ok(None) };
        self.send(&outgoing, to, due, reason)?;
        Ok(Some(SentTo { to, from, outgoing }))
    }

    /// Finds the way to an address.
    fn way(&self, to: SocketAddr) -> io::Result<Outgoing> {
        Outgoing::towards(to, self.parts.bind).inspect_err(|error| {
            self.sent().lost_way(to);
            self.failed(&to, error);
        })
    }

    /// Notes that a handshake succeeded: the gate is open.
    pub fn answered(&self) {
        self.sent().answered();
    }

    /// Returns whether a way to the far end leaves from another local address than the last knock
    /// there, or there was none and now there is.
    pub fn has_moved(&self, target: &Target) -> bool {
        let Target::Ips(endpoints) = target else { return false };
        endpoints.iter().filter_map(|endpoint| endpoint.now().ok()).any(|to| {
            let before = self.sent().source_to(to);
            Outgoing::towards(to, self.parts.bind).is_ok_and(|now| Some(now.from()) != before)
        })
    }

    /// Returns the local address of the way to each address of the far end, if there is one.
    pub fn sources(&self, target: &Target) -> Vec<Option<IpAddr>> {
        let Target::Ips(endpoints) = target else { return vec![] };
        let source = |to| Outgoing::towards(to, self.parts.bind).ok().map(|way| way.from());
        endpoints.iter().map(|endpoint| endpoint.now().ok().and_then(source)).collect()
    }

    fn due(&self, to: SocketAddr, from: IpAddr, occasion: Occasion) -> Option<DueKnock> {
        self.sent().due(Way { to, from }, occasion, ms_since_boot())
    }

    fn send(
        &self,
        outgoing: &Outgoing,
        to: SocketAddr,
        due: DueKnock,
        reason: KnockReason,
    ) -> io::Result<()> {
        // Noted first, so that others who dial at the same moment send none.
        self.sent().sent(Way { to, from: outgoing.from() }, due, ms_since_boot());
        let sent = self.message(due.guess).and_then(|message| outgoing.send(&message));
        sent.inspect_err(|error| self.failed(&to, error))?;
        self.parts.meters.count(reason);
        let tunnel = self.parts.tunnel.as_deref();
        let from = outgoing.from();
        match reason {
            KnockReason::Start
            | KnockReason::AddressChange
            | KnockReason::Resume
            | KnockReason::Request => info!(tunnel, %to, %from, %reason, "knocked"),
            _ => debug!(tunnel, %to, %from, %reason, "knocked"),
        }
        if self.is_warned.swap(false, Ordering::Relaxed) {
            info!(tunnel, %to, "can knock again");
        }
        Ok(())
    }

    fn message(&self, guess: Guess) -> io::Result<KnockMessage> {
        let KnockWish { ttl_s, gate, label, address } = self.parts.wish.clone();
        let clock_ms = self.parts.far_clock.guess_ms(guess);
        let knock = Knock { clock_ms, gate, ttl_s, label, address };
        Ok(knock.seal(&self.parts.key, ephemeral()?))
    }

    /// Counts a knock that did not leave, and logs the first of several. A host without an address
    /// of a family, or without a network, is none of the reasons: its dials fail as well.
    fn failed(&self, to: &SocketAddr, error: &io::Error) {
        self.parts.meters.failed.inc();
        let tunnel = self.parts.tunnel.as_deref();
        let is_expected = matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::AddrNotAvailable
        );
        if is_expected || self.is_warned.swap(true, Ordering::Relaxed) {
            debug!(tunnel, %to, %error, "cannot knock");
        } else {
            let detail = "check the firewall of this host: knocks are UDP, to the port of -t";
            warn!(tunnel, %to, %error, detail, "cannot knock");
        }
    }

    fn sent(&self) -> MutexGuard<'_, SentKnocks> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
