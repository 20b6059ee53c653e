//! The decision about a knock over HTTP: what it asks for, and the grant or the refusal.
//!
//! Pure functions of the body, the token, the client and the moment, so that each case is a row of a
//! table. Texts, statuses and the order of the checks are Knocker's: the shape of the body, the
//! permission, the width of the network, the duration.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::api::{MOST_ADDRESS, MOST_LABEL, MOST_TTL_S};
use super::tokens::Token;
use crate::addr::ServiceName;
use crate::gate::granting::NewGrant;
use crate::gate::owners::Terms;
use crate::gate::{GrantNote, Member, UnixMillis};

/// Most bytes of a body.
pub(super) const MOST_BODY: usize = 4_096;

/// Wishes of a knock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Wished seconds.
    pub(super) ttl_s: Option<u64>,
    /// Another address than the client's own.
    pub(super) address: Option<Named>,
    /// Text for people; what a note does not hold is cut off it.
    pub(super) label: Option<String>,
    /// Name of a gate.
    pub(super) gate: Option<ServiceName>,
}

/// An address or network that a body names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// It, as it is kept.
    pub(super) member: Member,
    /// It, as it was written.
    pub(super) text: String,
}

/// A grant that is to be made, with the answer about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// The grant.
    pub(super) grant: NewGrant,
    /// What it does to the present grants of the address.
    pub(super) terms: Terms,
    /// Its address in the answer.
    pub(super) entry: String,
}

/// One who knocks, and the place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knocking<'a> {
    pub(super) token: &'a Token,
    /// The client's own address.
    pub(super) client: IpAddr,
    /// Names that the gate answers to; the first is meant where none is named.
    pub(super) gates: &'a [ServiceName],
    pub(super) now: UnixMillis,
}

/// Members of a JSON object, none of them twice.
struct Members(Map<String, Value>);

struct MembersVisitor;

/// Reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address of the client is not known.
    #[error("Could not determine client IP.")]
    NoClient,
    /// No token, or a wrong one.
    #[error("Invalid or missing API key.")]
    Token,
    /// Too many failures of the source.
    #[error("Too many knock attempts.")]
    Locked,
    /// Too many successes of the source.
    #[error("Too many knock attempts.")]
    TooMany,
    /// The body is too long.
    #[error("Request body too large.")]
    TooLarge,
    /// The body is no JSON by its header.
    #[error("Request body must be JSON.")]
    NotJson,
    /// The body is no JSON.
    #[error("Malformed JSON request body.")]
    Malformed,
    /// The body is another kind of JSON.
    #[error("Request body must be a JSON object.")]
    NoObject,
    /// The duration is no whole number above zero.
    #[error("Invalid TTL specified. Must be a positive integer.")]
    Ttl,
    /// The address is too long for one.
    #[error("IP address or CIDR notation too long.")]
    LongAddress,
    /// The address is none.
    #[error("Invalid IP address or CIDR notation in request body.")]
    Address,
    /// The body has something else, or a part of another type.
    #[error("Invalid request data.")]
    Data,
    /// The token may not name an address.
    #[error("API key lacks remote whitelist permission.")]
    Remote,
    /// The token does not open the gate, or there is no such gate.
    #[error("API key may not open this gate.")]
    Gate,
    /// The token may not list grants.
    #[error("API key may not list grants.")]
    List,
    /// The network is too wide.
    #[error("CIDR range too broad. Maximum 65536 addresses allowed.")]
    Wide,
    /// The address or network is of no client.
    #[error("No client has that address or network.")]
    Nobody,
    /// The duration is longer than any may be.
    #[error("TTL too large. Maximum allowed is 315360000 seconds (10 years).")]
    LongTtl,
    /// There are as many grants as there may be.
    #[error("Whitelist is at capacity. Try again later.")]
    Full,
    /// The store keeps no ends.
    #[error(
        "The allow-set is a plain set, and its members cannot expire; its operator has to add --allow-prefix."
    )]
    PlainSet,
    /// The store did not take it.
    #[error("Internal server error: whitelist persistence or firewall configuration failed.")]
    Store,
}

impl Refusal {
    /// Returns true if it is a failure of the client, which counts towards its lock.
    pub(super) fn counts(self) -> bool {
        !matches!(self, Self::Locked | Self::TooMany | Self::Full | Self::PlainSet | Self::Store)
    }
}

impl Asked {
    /// Reads the body of a knock. An empty one asks for nothing in particular.
    ///
    /// # Errors
    /// The refusal of what is none.
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let Some(mut members) = object(body)? else { return Ok(Self::default()) };
        let asked = Self {
            ttl_s: present(&mut members, "ttl").map(ttl).transpose()?,
            address: present(&mut members, "ip_address").map(address).transpose()?,
            label: present(&mut members, "label").map(label).transpose()?,
            gate: present(&mut members, "gate").map(gate).transpose()?,
        };
        if members.is_empty() { Ok(asked) } else { Err(Refusal::Data) }
    }

    /// Reads the body of a request to leave, which names an address or nothing.
    ///
    /// # Errors
    /// The refusal of what is none.
    pub(super) fn read_leave(body: &[u8]) -> Result<Option<Named>, Refusal> {
        let Some(mut members) = object(body)? else { return Ok(None) };
        let named = present(&mut members, "ip_address").map(address).transpose()?;
        if members.is_empty() { Ok(named) } else { Err(Refusal::Data) }
    }

    /// Decides about the knock.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn decide(self, knocking: &Knocking<'_>) -> Result<Decided, Refusal> {
        let Knocking { token, client, gates, now } = *knocking;
        if self.address.is_some() && !token.any_address {
            return Err(Refusal::Remote);
        }
        check_gate(token, self.gate.as_ref(), gates)?;
        let own = client.to_canonical();
        // As with Knocker: who may name addresses and names its own says until when that is in.
        let names_own = self.address.as_ref().is_some_and(|named| named.member == own.into());
        let terms = if names_own { Terms::ForTokens } else { Terms::Anew };
        if self.address.is_none() && !may_be_client(own) {
            return Err(Refusal::NoClient);
        }
        let Named { member, text } =
            self.address.unwrap_or_else(|| Named { member: own.into(), text: own.to_string() });
        if member.needs_force() {
            return Err(Refusal::Wide);
        }
        // This host may be let in by itself.
        if member != own.into()
            && (member.is_of_nobody() || (member.is_loopback() && !own.is_loopback()))
        {
            return Err(Refusal::Nobody);
        }
        let wished = self.ttl_s.unwrap_or(MOST_TTL_S);
        if wished > MOST_TTL_S {
            return Err(Refusal::LongTtl);
        }
        let lasting = Duration::from_secs(wished.min(MOST_TTL_S)).min(token.max_ttl);
        let note = GrantNote::new(&token.who(), self.label.as_deref(), now);
        Ok(Decided { grant: NewGrant { member, lasting, note }, terms, entry: text })
    }
}

/// Returns true for an address that a client may have, also on a link of this host, which a socket
/// tells without its zone.
fn may_be_client(ip: IpAddr) -> bool {
    let is_of_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    is_of_link || !Member::from(ip).is_of_nobody()
}

/// Checks that the token opens a gate that there is.
fn check_gate(
    token: &Token,
    gate: Option<&ServiceName>,
    gates: &[ServiceName],
) -> Result<(), Refusal> {
    let meant = gate.or_else(|| gates.first());
    let may_open = meant.is_some_and(|gate| gates.contains(gate) && token.opens(gate));
    if may_open { Ok(()) } else { Err(Refusal::Gate) }
}

/// Reads a JSON object; `None` is an empty body.
fn object(body: &[u8]) -> Result<Option<Map<String, Value>>, Refusal> {
    if body.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(_)) => {}
        Ok(_) => return Err(Refusal::NoObject),
        Err(_) => return Err(Refusal::Malformed),
    }
    // Once more, for members that are there twice: of these another reader takes the other one.
    match serde_json::from_slice(body) {
        Ok(Members(members)) => Ok(Some(members)),
        Err(_) => Err(Refusal::Malformed),
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with members of different names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
        let mut members = Map::new();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(Members(members))
    }
}

/// Takes a member out; `null` is as good as none.
fn present(members: &mut Map<String, Value>, name: &str) -> Option<Value> {
    members.remove(name).filter(|value| !value.is_null())
}

fn ttl(value: Value) -> Result<u64, Refusal> {
    // A float is none, 60.0 included.
    value.as_u64().filter(|seconds| *seconds > 0).ok_or(Refusal::Ttl)
}

fn address(value: Value) -> Result<Named, Refusal> {
    let Value::String(text) = value else { return Err(Refusal::Address) };
    if text.chars().count() > MOST_ADDRESS {
        return Err(Refusal::LongAddress);
    }
    let member = text.parse().map_err(|_| Refusal::Address)?;
    if is_mixed(&text, member) {
        return Err(Refusal::Address);
    }
    Ok(Named { member, text })
}

/// Returns true for a network that is written with an IPv4-mapped address and is wider than these:
/// it would be one of IPv6, with loopback in it.
fn is_mixed(text: &str, member: Member) -> bool {
    let address = text.split('/').next().and_then(|ip| ip.parse::<Ipv6Addr>().ok());
    let is_mapped = address.is_some_and(|ip| ip.to_ipv4_mapped().is_some());
    is_mapped && matches!(IpNet::from(member), IpNet::V6(_))
}

fn gate(value: Value) -> Result<ServiceName, Refusal> {
    let text = value.as_str().ok_or(Refusal::Data)?;
    text.parse().map_err(|_| Refusal::Data)
}

fn label(value: Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) if text.chars().count() <= MOST_LABEL => Ok(text),
        _ => Err(Refusal::Data),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
