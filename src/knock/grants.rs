//! Grants: the entry of an authentic knock in the store, and its renewal.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::receiver::{KnockReceiver, Sender};
use super::renewal::Renewals;
use crate::gate::granting::{ChangeError, NewGrant};
use crate::gate::knocks::Granting;
use crate::gate::owners::Terms;
use crate::gate::store::EditResult;
use crate::observe::KnockResult;
use crate::proto::replay::MEMORY_MS;

/// Time for which the tag of a knock is kept in the store: as long as it could be fresh at any of
/// its receivers, the clocks of which may be as far apart as a sender's may be from theirs.
const CLAIM: Duration = Duration::from_millis(2 * MEMORY_MS.unsigned_abs());

/// Longest time until a grant that is in the store is in the memory of the gate: connections wait
/// no longer for it.
const SHOWN: Duration = Duration::from_millis(250);

/// Part of the time of a grant from one look at living sessions to the next, and its bounds.
const LOOKS: u32 = 16;
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// An authentic knock that may be granted.
pub(super) struct Authentic {
    pub(super) grant: NewGrant,
    pub(super) tag: [u8; 16],
    pub(super) source: IpAddr,
    /// Has connections of the address wait.
    pub(super) granting: Granting,
    /// Its share of the grants at once.
    pub(super) permit: OwnedSemaphorePermit,
}

impl KnockReceiver {
    /// Claims a knock in the store, so that no other process grants it as well, and makes its
    /// entry.
    pub(super) async fn ask_store(self: Arc<Self>, authentic: Authentic) {
        let Authentic { grant, tag, source, granting, permit } = authentic;
        let gate = &self.parts.gate;
        let sender = Sender { who: Some(grant.note.who.clone()), source };
        match gate.claim(&hex(tag), CLAIM).await {
            Ok(true) => {}
            Ok(false) => return self.refuse(KnockResult::Replayed, &sender, None),
            Err(error) => {
                return self.refuse(KnockResult::Store, &sender, Some(&error.to_string()));
            }
        }
        let is_open = gate.has(grant.member);
        let changed = if gate.has_for_ever(grant.member) {
            Ok(false)
        } else {
            gate.grant(grant.clone(), Terms::Later).await.map(|done| done.changed)
        };
        // What follows does not wait for the store, so that it keeps no other knock waiting.
        drop(permit);
        match changed {
            Ok(changed) => {
                self.parts.meters.received_knocks.count(KnockResult::Granted);
                if changed {
                    self.log(&grant, source, is_open);
                } else {
                    debug!(%sender, address = %grant.member, "knock of what is allowed longer");
                }
                if !is_open {
                    gate.admits(grant.member, Instant::now() + SHOWN).await;
                }
            }
            Err(error) => self.refuse(KnockResult::Store, &sender, Some(&error.to_string())),
        }
        drop(granting);
    }

    /// Logs a grant; one that makes another longer only for those who debug.
    fn log(&self, grant: &NewGrant, source: IpAddr, is_open: bool) {
        let NewGrant { member, lasting, note } = grant;
        let tunnel = self.parts.tunnel.as_deref();
        let until_s = note.at.saturating_add(*lasting).as_secs();
        let (who, label) = (&*note.who, note.label.as_deref());
        if is_open {
            debug!(tunnel, who, label, address = %member, %source, until_s, "grant extended");
        } else {
            info!(tunnel, who, label, address = %member, %source, until_s, "knock granted");
        }
    }

    /// Renews the grants that living sessions use, for as long as the receiver exists: also while
    /// its last sessions finish.
    pub(super) async fn renew(receiver: Weak<Self>) {
        let Some(lasting) = receiver.upgrade().map(|it| it.parts.options.ttl) else { return };
        let mut renewals = Renewals::new(lasting);
        loop {
            sleep((lasting / LOOKS).clamp(SHORTEST_LOOK, LONGEST_LOOK)).await;
            let Some(receiver) = receiver.upgrade() else { return };
            let gate = &receiver.parts.gate;
            let (in_use, now) = gate.in_use(|key| receiver.parts.options.may_knock(key));
            for ip in renewals.due(&in_use, now) {
                let receiver = Arc::clone(&receiver);
                tokio::spawn(async move {
                    let renewed = receiver.parts.gate.renew(ip, lasting).await;
                    receiver.note_renewal(ip, renewed);
                });
            }
        }
    }

    /// Notes how the renewal of the grant of `ip` ended. A failure ends sessions later, so it is
    /// logged: once for each cause, until a renewal succeeds.
    fn note_renewal(&self, ip: IpAddr, renewed: Result<EditResult, ChangeError>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match renewed {
            Ok(done) => {
                *failing = None;
                return debug!(%ip, changed = done.changed, "grant in use renewed");
            }
            Err(error) => error.to_string(),
        };
        self.parts.meters.received_knocks.count(KnockResult::Renewal);
        let is_new = failing.as_ref() != Some(&error);
        *failing = is_new.then(|| error.clone()).or_else(|| failing.take());
        drop(failing);
        if is_new {
            let tunnel = self.parts.tunnel.as_deref();
            let detail = "sessions end with their grant if this lasts";
            warn!(tunnel, address = %ip, error, detail, "grant in use not renewed");
        } else {
            debug!(%ip, error, "grant in use not renewed");
        }
    }
}

fn hex(tag: [u8; 16]) -> String {
    tag.iter().map(|byte| format!("{byte:02x}")).collect()
}
