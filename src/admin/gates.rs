//! Gates of running tunnels: the addresses of their stores, and the current decision of each gate
//! about an address.
//!
//! A password is never sent, and its file is not read for a client: a client gets the path, and
//! needs the right to read that file.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::protocol::RequestError;
use super::registry::Registry;
use crate::addr::ClientAddr;
use crate::gate::admission::LiveExplanation;
use crate::gate::decision::Line;
use crate::gate::{Explanation, Gate, Member, Peer, UnixMillis};
use crate::tunnel::Tunnel;

/// The place of the store of a tunnel's gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePlace {
    /// The tunnel.
    pub tunnel: String,
    /// The flags that name the store; none where the gate has none.
    pub store: Vec<String>,
    /// The password came from the environment of the process.
    pub password_of_environment: bool,
    /// Networks that are always admitted.
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
    /// Moment when that ends by itself, in unix milliseconds.
    pub until_ms: Option<u64>,
    /// All rules in their order.
    pub rules: Vec<RuleReply>,
    /// Stance of the gate: whether its allow-set is fresh.
    pub stance: String,
    /// The server or file that was asked; none where a tunnel's memory was.
    pub server: Option<String>,
    /// Moment when the address was last admitted, in unix seconds.
    pub seen: Option<u64>,
    /// Its failed handshakes in this FINDTIME.
    pub strikes: Option<u64>,
    /// The end of the allow-set's key, with all its members, in unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_ends_ms: Option<u64>,
    /// Treatment of denied peers, where the tunnel's flags are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
    /// Moment of the decision, in unix milliseconds.
    pub now_ms: u64,
    /// The tunnel would ask the store first: the allow-set changed, and was not read yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsure: bool,
    /// The address is a load balancer of the tunnel, which has to announce its clients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balancer: bool,
}

/// Result of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReply {
    /// Name of the rule.
    pub rule: String,
    /// The entry that matches.
    pub entry: Option<String>,
    /// The key that contains it.
    pub key: Option<String>,
    /// Its end, in unix milliseconds.
    pub expires_ms: Option<u64>,
    /// The same, as remaining time.
    pub ttl_s: Option<u64>,
    /// Reason why it does not count.
    pub skipped: Option<String>,
    /// Its text.
    pub says: Option<String>,
}

impl WhyReply {
    /// Makes a reply of `explanation` about `peer`, without a store. `key` names the key of an
    /// entry.
    pub fn of(
        peer: Peer,
        explanation: &Explanation,
        now: UnixMillis,
        key: impl Fn(&Line, Member) -> Option<String>,
    ) -> Self {
        let decision = explanation.decision;
        let rules = explanation.lines.iter().map(|line| RuleReply::of(line, now, &key));
        Self {
            tunnel: None,
            address: peer
                .ip()
                .map_or_else(|| ClientAddr::Nameless.to_string(), |ip| ip.to_string()),
            verdict: if decision.is_allowed() { "allowed" } else { "denied" }.to_owned(),
            reason: decision.reason().to_owned(),
            decided: explanation.decided.as_str().to_owned(),
            until_ms: decision.until.as_millis(),
            rules: rules.collect(),
            stance: explanation.policy.as_str().to_owned(),
            server: None,
            seen: None,
            strikes: None,
            set_ends_ms: None,
            denied: None,
            now_ms: now.0,
            unsure: false,
            balancer: false,
        }
    }
}

impl RuleReply {
    fn of(line: &Line, now: UnixMillis, key: impl Fn(&Line, Member) -> Option<String>) -> Self {
        let entry = line.entry;
        Self {
            rule: line.rule.as_str().to_owned(),
            entry: entry.map(|entry| entry.member.to_string()),
            key: entry.and_then(|entry| key(line, entry.member)),
            expires_ms: entry.and_then(|entry| entry.expiry.as_millis()),
            ttl_s: entry.and_then(|entry| entry.ttl(now)).map(|ttl| ttl.as_secs()),
            skipped: line.skipped.map(|skip| skip.as_str().to_owned()),
            says: line.decision.map(|decision| decision.reason().to_owned()),
        }
    }
}

/// Returns the places of the gates of all tunnels, or of that `tunnel`.
pub(super) fn places(
    registry: &Registry,
    tunnel: Option<&str>,
) -> Result<Vec<GatePlace>, RequestError> {
    gated(registry, tunnel, |tunnel, gate| {
        let options = gate.options();
        let allow = options.rules.allow.iter().map(|(net, ())| Member::from(net).to_string());
        let proxies = tunnel.balancers().nets.iter().map(|(net, ())| Member::from(net).to_string());
        GatePlace {
            tunnel: tunnel.name().to_owned(),
            store: options.named.arguments.clone(),
            password_of_environment: options.named.has_password_of_environment,
            allow: allow.collect(),
            proxy_from: proxies.collect(),
        }
    })
}

/// Explains the decisions of the tunnels' gates about an address, from the memory of each.
pub(super) fn why(
    registry: &Registry,
    peer: Peer,
    tunnel: Option<&str>,
) -> Result<Vec<WhyReply>, RequestError> {
    gated(registry, tunnel, |tunnel, gate| {
        let LiveExplanation { explanation, now, is_invalidated } = gate.explain(peer);
        let is_balancer = |ip| tunnel.balancers().nets.lookup(ip).is_some();
        WhyReply {
            tunnel: Some(tunnel.name().to_owned()),
            denied: Some(gate.options().denied.to_string()),
            unsure: is_invalidated,
            balancer: matches!(peer, Peer::Socket(ip) if is_balancer(ip)),
            ..WhyReply::of(peer, &explanation, now, |_, _| None)
        }
    })
}

/// Parses the address of a client: that of its socket, or one that a load balancer announced.
///
/// # Errors
/// [`RequestError::Address`]
pub(super) fn peer(address: &str, announced: bool) -> Result<Peer, RequestError> {
    if address == ClientAddr::Nameless.to_string() {
        return Ok(Peer::Nameless);
    }
    let ip = address.parse::<IpAddr>().map_err(|_| RequestError::Address(address.to_owned()))?;
    let ip = ip.to_canonical();
    Ok(if announced { Peer::Announced(ip) } else { Peer::Socket(ip) })
}

/// Collects the results of `of` for each tunnel with a gate, the newest of each name.
fn gated<T>(
    registry: &Registry,
    wanted: Option<&str>,
    of: impl Fn(&Tunnel, &Gate) -> T,
) -> Result<Vec<T>, RequestError> {
    let newest = registry.newest();
    let tunnels: Vec<&Tunnel> = newest.iter().filter_map(|service| service.as_tunnel()).collect();
    if let Some(name) = wanted
        && !tunnels.iter().any(|tunnel| tunnel.name() == name)
    {
        let names: Vec<&str> = tunnels.iter().map(|tunnel| tunnel.name()).collect();
        return Err(RequestError::NoTunnel(name.to_owned(), names.join(", ")));
    }
    let is_wanted = |tunnel: &&&Tunnel| wanted.is_none_or(|name| name == tunnel.name());
    let found: Vec<T> = tunnels
        .iter()
        .filter(is_wanted)
        .filter_map(|tunnel| tunnel.gate().map(|gate| of(tunnel, gate)))
        .collect();
    match wanted {
        Some(name) if found.is_empty() => Err(RequestError::NoGate(format!("tunnel {name} has"))),
        None if found.is_empty() => Err(RequestError::NoGate("its tunnels have".to_owned())),
        _ => Ok(found),
    }
}
