//! The decision about an authentic knock: a grant, or the reason for none.
//!
//! A pure function of the settings, the knock, its source and the moment, so that each case is a
//! row of a table. Freshness and replays are judged before it: they need a memory.

use std::net::IpAddr;

use ipnet::IpNet;

use super::options::{ReceiverOptions, SourcePolicy};
use crate::gate::granting::NewGrant;
use crate::gate::{GrantNote, Member, UnixMillis, grant};
use crate::keys::KeyId;
use crate::observe::KnockResult;
use crate::proto::knock::ReceivedKnock;

/// Returns the name of the holders of a key beside their grants.
pub(super) fn who(key: KeyId) -> String {
    format!("{}{key}", grant::KEY)
}

/// Decides about a knock from `source`.
///
/// # Errors
/// The reason for no grant.
pub(super) fn decide(
    options: &ReceiverOptions,
    received: &ReceivedKnock,
    source: IpAddr,
    now: UnixMillis,
) -> Result<NewGrant, KnockResult> {
    let knock = &received.knock;
    if !options.may_knock(received.key) {
        return Err(KnockResult::Key);
    }
    if knock.gate.as_ref().is_some_and(|gate| !options.gates.contains(gate)) {
        return Err(KnockResult::Gate);
    }
    let (member, most) = match knock.address {
        None if options.source == SourcePolicy::Refuse => return Err(KnockResult::Source),
        None => (Member::from(source.to_canonical()), options.ttl),
        Some(net) if is_too_wide(options, net) || is_of_nobody(net.into(), source) => {
            return Err(KnockResult::Network);
        }
        Some(net) => (Member::from(net), options.max_ttl),
    };
    let wished = knock.ttl_s.map(|seconds| std::time::Duration::from_secs(seconds.get().into()));
    let lasting = wished.map_or(most, |wished| wished.min(most));
    let label = knock.label.as_ref().map(|label| label.as_str());
    let note = GrantNote::new(&who(received.key), label, now);
    Ok(NewGrant { member, lasting, note })
}

fn is_too_wide(options: &ReceiverOptions, net: IpNet) -> bool {
    let narrowest = match net {
        IpNet::V4(_) => options.networks.v4,
        IpNet::V6(_) => options.networks.v6,
    };
    net.prefix_len() < narrowest
}

/// Returns true for what is no address of the sender, nor of another client.
fn is_of_nobody(member: Member, source: IpAddr) -> bool {
    member.is_of_nobody() || (member.is_loopback() && !source.to_canonical().is_loopback())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
