//! Revoked tokens: what they granted ends with the reload or the start that finds them gone.
//!
//! Their names are those that the tokens file lists as revoked, and at a reload also those that it
//! lacks. Tokens of other services at the same store are not known here, and nothing is done about
//! them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::knocks::Knocks;
use super::progress::lock;
use super::tokens::{Token, who};
use crate::gate::granting::ChangeError;
use crate::gate::store::Grant;

/// Longest time in which the store lists the grants of tokens that are gone, and the pause after it
/// did not.
const SWEEP_PATIENCE: Duration = Duration::from_secs(60);
const SWEEP_PAUSE: Duration = Duration::from_secs(5);

impl Knocks {
    /// Returns true for a token that a reload has taken out since this service read its file.
    pub(super) fn is_revoked(&self, token: &Token) -> bool {
        !lock(&self.progress.tokens).has(token)
    }

    /// Ends what tokens granted that are gone, now or once the store can be asked.
    pub(super) async fn end_gone(&self) {
        let mut is_told = false;
        loop {
            let names = lock(&self.progress.gone).clone();
            if names.is_empty() {
                return;
            }
            match self.end_grants_of(&names).await {
                Ok(()) => lock(&self.progress.gone).retain(|name| !names.contains(name)),
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

    async fn end_grants_of(&self, names: &BTreeSet<String>) -> Result<(), ChangeError> {
        let owners: Vec<String> = names.iter().map(|name| who(name)).collect();
        let is_of = |grant: &Grant| owners.iter().any(|who| grant.is_by(who));
        let grants = self.gate.grants(usize::MAX, SWEEP_PATIENCE, is_of).await?;
        for grant in grants {
            for who in owners.iter().filter(|who| grant.is_by(who)) {
                let done = self.gate.take_back(grant.member, who).await?;
                if done.changed {
                    let (tunnel, address) = (self.name(), grant.member);
                    info!(tunnel, who, %address, "grant of a revoked token ended");
                }
            }
        }
        Ok(())
    }
}
