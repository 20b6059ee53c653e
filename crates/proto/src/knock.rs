//! The knock: one datagram under the tunnel's key that asks a gate to let an address in.
//!
//! It is message 1 of the handshake with another prologue, so it has the same keys, freshness and
//! memory of replays, and neither can be used as the other. What is asked for are extensions of the
//! payload; suites and padding mean nothing here. It is never answered, so a receiver needs no
//! X25519 at all: a stranger's datagram costs a few hashes and a tag for each key.
//!
//! Decides nothing: whether the gate, the time and the address are granted is up to the receiver,
//! and so are freshness and replays (`replay.rs`).

use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::{IpNet, Ipv4Net};

use super::dh::{DhKey, KEY_LEN};
use super::handshake::{self, MESSAGE_LEN, Message};
use super::noise::TAG_LEN;
use super::payload::{self, Fields, PAYLOAD_LEN, Writer};
use super::{Padding, PeerError, SuiteSet, labels};
use crate::keys::{Key, KeyId, KeyRing};
use knockpipe_base::secret::Secret;

mod label;

/// Name of a gate; it has the form of a service name.
pub use knockpipe_base::addr::ServiceName as GateName;
pub use label::{Label, LabelError, MOST_LABEL};

/// Length of a knock in bytes. Datagrams of any other length are none.
pub const KNOCK_LEN: usize = MESSAGE_LEN;

/// Knock on the wire.
pub type KnockMessage = Message;

/// Type of the extension with the name of the gate.
const GATE: u8 = 2;

/// Type of the extension with the time for which the address wants to be let in.
const TTL: u8 = 3;

/// Type of the extension with the label.
const LABEL: u8 = 4;

/// Type of the extension with the address.
const ADDRESS: u8 = 5;

/// Length of the prefix of an IPv6 network of IPv4-mapped addresses.
const MAPPED_PREFIX: u8 = 96;

/// Request of a knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// Sender's estimate of the receiver's clock in unix milliseconds.
    pub clock_ms: u64,
    /// Gate to open; `None` is the receiver's default one.
    pub gate: Option<GateName>,
    /// Wished duration in seconds; `None` is as long as the receiver allows.
    pub ttl_s: Option<NonZeroU32>,
    /// Text that is shown beside the entry.
    pub label: Option<Label>,
    /// Address or network to let in; `None` is the source of the datagram. Of a received knock it
    /// has no host bits, and no IPv4-mapped address.
    pub address: Option<IpNet>,
}

/// Authentic knock, which may still be old, a replay, or ask for too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedKnock {
    /// Its request.
    pub knock: Knock,
    /// Key that it was made with.
    pub key: KeyId,
    /// First 8 bytes of the tag, for the memory of replays.
    pub fingerprint: u64,
    /// Tag, which distinguishes this knock from all others.
    pub tag: [u8; TAG_LEN],
}

impl Knock {
    /// Makes the datagram, with a fresh ephemeral private key: the same one twice would reveal the
    /// difference of two payloads.
    pub fn seal(&self, key: &Key, ephemeral: Secret<32>) -> KnockMessage {
        let mut message = [0; MESSAGE_LEN];
        message[KEY_LEN..KEY_LEN + PAYLOAD_LEN].copy_from_slice(&self.encode());
        let ephemeral = DhKey::new(&ephemeral);
        handshake::write_message1(labels::KNOCK_PROLOGUE, key, &ephemeral, &mut message);
        message
    }

    /// Returns the bytes before encryption.
    fn encode(&self) -> [u8; PAYLOAD_LEN] {
        let suites = SuiteSet::NONE.bits();
        let mut writer =
            Writer::new(Fields { suites, padding: Padding::NONE, clock_ms: self.clock_ms });
        if let Some(gate) = self.gate.as_ref().filter(|gate| !gate.is_empty()) {
            writer.extend(GATE, gate.as_str().as_bytes());
        }
        if let Some(ttl_s) = self.ttl_s {
            writer.extend(TTL, &ttl_s.get().to_be_bytes());
        }
        if let Some(label) = &self.label {
            writer.extend(LABEL, label.as_str().as_bytes());
        }
        if let Some(address) = self.address {
            match canonical(address) {
                IpNet::V4(net) => {
                    let [a, b, c, d] = net.addr().octets();
                    writer.extend(ADDRESS, &[4, net.prefix_len(), a, b, c, d]);
                }
                IpNet::V6(net) => {
                    let mut bytes = [6; 18];
                    bytes[1] = net.prefix_len();
                    bytes[2..].copy_from_slice(&net.addr().octets());
                    writer.extend(ADDRESS, &bytes);
                }
            }
        }
        writer.finish()
    }

    /// Reverses [`Self::encode`]. Unknown extensions are skipped, those of one type must all be
    /// well formed, and the first of them counts.
    fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let mut knock = Self { clock_ms: 0, gate: None, ttl_s: None, label: None, address: None };
        let fields = payload::read(payload, |kind, bytes| {
            match kind {
                GATE => first(&mut knock.gate, read_gate(bytes)),
                TTL => first(&mut knock.ttl_s, read_ttl(bytes)),
                LABEL => first(&mut knock.label, Label::from_bytes(bytes)),
                ADDRESS => first(&mut knock.address, read_address(bytes)),
                _ => Some(()),
            }
            .ok_or(PeerError::Misbehaved)
        })?;
        knock.clock_ms = fields.clock_ms;
        Ok(knock)
    }
}

/// Reads a datagram with the keys of `ring`; the first key that fits is its key. All are tried,
/// even after one did. Costs a few hashes and a tag for each key, and no X25519.
///
/// # Errors
/// [`PeerError::BadLength`] for another length than [`KNOCK_LEN`], [`PeerError::BadTag`] if no key
/// fits, [`PeerError::Misbehaved`] for an authentic one that is malformed.
pub fn read_knock(ring: &KeyRing, datagram: &[u8]) -> Result<ReceivedKnock, PeerError> {
    let message: &KnockMessage = datagram.try_into().map_err(|_| PeerError::BadLength)?;
    handshake::with_every_key(ring, |key| {
        let mut opened = *message;
        let (state, _) = handshake::read_tokens1(labels::KNOCK_PROLOGUE, key, message);
        state.decrypt_last(&mut opened[KEY_LEN..])?;
        Ok(ReceivedKnock {
            knock: Knock::decode(handshake::payload(&opened))?,
            key: key.id(),
            fingerprint: handshake::fingerprint(message),
            tag: *handshake::tag(message),
        })
    })
}

/// Sets `field` unless an extension before did; `None` if the value is malformed.
fn first<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    field.get_or_insert(value?);
    Some(())
}

fn read_gate(bytes: &[u8]) -> Option<GateName> {
    str::from_utf8(bytes).ok()?.parse().ok()
}

fn read_ttl(bytes: &[u8]) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads a network in the one form that it has: a second spelling of an address would let a rule
/// about one miss the other.
fn read_address(bytes: &[u8]) -> Option<IpNet> {
    let [family, prefix, address @ ..] = bytes else { return None };
    let ip: IpAddr = match family {
        4 => <[u8; 4]>::try_from(address).ok()?.into(),
        6 => <[u8; 16]>::try_from(address).ok()?.into(),
        _ => return None,
    };
    let net = IpNet::new(ip, *prefix).ok()?;
    (net == net.trunc() && ip == ip.to_canonical()).then_some(net)
}

/// Returns the form of a network that may be sent: no host bits, IPv4 where it is IPv4-mapped.
fn canonical(net: IpNet) -> IpNet {
    let prefix = net.prefix_len().checked_sub(MAPPED_PREFIX);
    let mapped = match (net, prefix) {
        (IpNet::V6(net), Some(prefix)) => {
            net.addr().to_ipv4_mapped().and_then(|ip| Ipv4Net::new(ip, prefix).ok())
        }
        _ => None,
    };
    mapped.map_or(net, IpNet::V4).trunc()
}

#[cfg(test)]
#[path = "knock_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "knock_random_tests.rs"]
mod random_tests;
