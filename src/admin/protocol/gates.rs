//! Replies about gates: the places of their stores, and their decisions about an address.

use serde::{Deserialize, Serialize};

use crate::gate::{GrantNote, UnixMillis};

/// The place of the store of a tunnel's gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePlace {
    /// The tunnel.
    pub tunnel: String,
    /// The flags that name the store; none where the gate has none.
    pub store: Vec<String>,
    /// The store is the memory of the process, under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// The password came from the environment of the process.
    pub password_of_environment: bool,
    /// The networks that always come in.
    pub allow: Vec<String>,
    /// The load balancers.
    pub proxy_from: Vec<String>,
}

/// The decision of a gate about an address, with all rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReply {
    /// The running tunnel that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// The address that was asked about.
    pub address: String,
    /// `allowed` or `denied`.
    pub verdict: String,
    /// The reason, as the log has it.
    pub reason: String,
    /// The rule that decided.
    pub decided: String,
    /// The moment when that ends by itself, in unix milliseconds.
    pub until_ms: Option<u64>,
    /// All rules in their order.
    pub rules: Vec<RuleReply>,
    /// The worth of the allow-set: its stance.
    pub stance: String,
    /// The server or file that was asked; none where a tunnel's memory was.
    pub server: Option<String>,
    /// The moment when the address was last let in, in unix seconds.
    pub seen: Option<u64>,
    /// Its failed handshakes in this FINDTIME.
    pub strikes: Option<u64>,
    /// The end of the allow-set's key, with all its members, in unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_ends_ms: Option<u64>,
    /// The treatment of denied peers, where the tunnel's flags are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
    /// The moment that is meant, in unix milliseconds.
    pub now_ms: u64,
    /// The tunnel would ask the store first: the allow-set changed, and was not read yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsure: bool,
    /// The address is a load balancer of the tunnel, which has to announce its clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balancer: bool,
}

/// The finding of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReply {
    /// Name of the rule.
    pub rule: String,
    /// The entry that matches.
    pub entry: Option<String>,
    /// The key in which it stands.
    pub key: Option<String>,
    /// Its end, in unix milliseconds.
    pub expires_ms: Option<u64>,
    /// The same, as time that is left.
    pub ttl_s: Option<u64>,
    /// Name of the granter of the entry, from its note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The label in its note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The moment at which it was granted, in unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_ms: Option<u64>,
    /// The reason why it does not count.
    pub skipped: Option<String>,
    /// Its text.
    pub says: Option<String>,
}

impl RuleReply {
    /// Adds the note of the entry.
    pub fn add_note(&mut self, note: Option<GrantNote>) {
        let Some(GrantNote { who, label, at }) = note else { return };
        (self.who, self.label, self.granted_ms) = (Some(who), label, Some(at.0));
    }

    /// The note of the entry, if it has one.
    pub fn note(&self) -> Option<GrantNote> {
        let (who, at) = (self.who.clone()?, UnixMillis(self.granted_ms?));
        Some(GrantNote { who, label: self.label.clone(), at })
    }
}
