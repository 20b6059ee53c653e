//! Revoked tokens: what they granted ends with the reload or the start that finds them gone.
//!
//! Their names are those that the tokens file lists as revoked, and at a reload also those that it
//! lacks. A token may be made anew by the name of one that was revoked: what it grants is noted after
//! the revocation, and stays. Tokens of other services at the same store are known by their names
//! alone, so those have to differ.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::knocks::Knocks;
use super::progress::lock;
use super::tokens::{Token, who};
use crate::gate::UnixMillis;
use crate::gate::granting::ChangeError;
use crate::gate::store::Grant;

/// Longest time in which the store lists the grants of tokens that are gone, and the pause after it
/// did not.
const SWEEP_PATIENCE: Duration = Duration::from_secs(60);
const SWEEP_PAUSE: Duration = Duration::from_secs(5);

/// Owner of grants, a token that is gone.
struct Owner {
    who: String,
    /// Moment after which it granted nothing.
    until: UnixMillis,
}

impl Owner {
    fn granted(&self, grant: &Grant) -> bool {
        grant.note_by(&self.who).is_some_and(|note| note.at <= self.until)
    }
}

impl Knocks {
    /// Returns true for a token that a reload has taken out since this service read its file.
    pub(super) fn is_revoked(&self, token: &Token) -> bool {
        !lock(&self.progress.tokens).has(token)
    }

    /// Ends what tokens granted that are gone, now or once the store can be asked.
    pub(super) async fn end_gone(&self) {
        let mut is_told = false;
        loop {
            let gone = lock(&self.progress.gone).clone();
            if gone.is_empty() {
                return;
            }
            match self.end_grants_of(&gone).await {
                Ok(()) => lock(&self.progress.gone).retain(|name, at| gone.get(name) != Some(at)),
                Err(error) => {
                    if !is_told {
                        let detail = "it is tried again until the store answers";
                        warn!(tunnel = self.name(), %error, detail, "grants of revoked tokens not ended");
                    }
                    is_told = true;
                    sleep(SWEEP_PAUSE).await;
                }
            }
        }
    }

    async fn end_grants_of(&self, gone: &BTreeMap<String, UnixMillis>) -> Result<(), ChangeError> {
        let owners = gone.iter().map(|(name, at)| Owner { who: who(name), until: *at });
        let owners: Vec<Owner> = owners.collect();
        let is_of = |grant: &Grant| owners.iter().any(|owner| owner.granted(grant));
        let grants = self.gate.grants_by_note(usize::MAX, SWEEP_PATIENCE, is_of).await?;
        for grant in grants {
            for Owner { who, until } in owners.iter().filter(|owner| owner.granted(&grant)) {
                let done = self.gate.take_back(grant.member, who, Some(*until)).await?;
                if done.changed {
                    let (tunnel, address) = (self.name(), grant.member);
                    info!(tunnel, who, %address, "grant of a revoked token ended");
                }
            }
        }
        Ok(())
    }
}
