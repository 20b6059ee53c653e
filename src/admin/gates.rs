//! Gates of running tunnels: the addresses of their stores, and the current decision of each gate
//! about an address.
//!
//! A password is never sent, and its file is not read for a client: a client gets the path, and
//! needs the right to read that file.

use std::net::IpAddr;

use super::protocol::{
    EditReply, EditRequest, EntriesReply, GatePlace, MAX_ENTRIES, RequestError, RuleReply, WhyReply,
};
use super::registry::Registry;
use crate::addr::ClientAddr;
use crate::gate::admission::LiveExplanation;
use crate::gate::decision::{Line, Rule};
use crate::gate::memory_store::MemoryStore;
use crate::gate::{Explanation, Gate, GrantNote, Member, Peer, StoreOptions, UnixMillis};
use crate::service::Service;

/// The part of an entry that only its store knows.
#[derive(Clone, Debug, Default)]
pub struct StoredEntry {
    /// The key in which it stands.
    pub key: Option<String>,
    /// The note beside it.
    pub note: Option<GrantNote>,
}

impl WhyReply {
    /// Makes a reply of `explanation` about `peer`, without a store. `stored` returns what the
    /// store has of an entry.
    pub fn of(
        peer: Peer,
        explanation: &Explanation,
        now: UnixMillis,
        stored: impl Fn(&Line, Member) -> StoredEntry,
    ) -> Self {
        let decision = explanation.decision;
        let rules = explanation.lines.iter().map(|line| RuleReply::of(line, now, &stored));
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
    fn of(line: &Line, now: UnixMillis, stored: impl Fn(&Line, Member) -> StoredEntry) -> Self {
        let entry = line.entry;
        let StoredEntry { key, note } =
            entry.map(|entry| stored(line, entry.member)).unwrap_or_default();
        let mut reply = Self {
            rule: line.rule.as_str().to_owned(),
            entry: entry.map(|entry| entry.member.to_string()),
            key,
            who: None,
            label: None,
            granted_ms: None,
            expires_ms: entry.and_then(|entry| entry.expiry.as_millis()),
            ttl_s: entry.and_then(|entry| entry.ttl(now)).map(|ttl| ttl.as_secs()),
            skipped: line.skipped.map(|skip| skip.as_str().to_owned()),
            says: line.decision.map(|decision| decision.reason().to_owned()),
        };
        reply.add_note(note);
        reply
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
            memory: match &options.store {
                StoreOptions::Memory(name) => Some(name.clone()),
                _ => None,
            },
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
            ..WhyReply::of(peer, &explanation, now, |line, member| in_memory(gate, line, member))
        }
    })
}

/// Returns what the gate of a tunnel has in the memory of this process.
pub(super) fn entries(registry: &Registry, tunnel: &str) -> Result<EntriesReply, RequestError> {
    let store = memory(registry, tunnel)?;
    let mut lines = store.lines();
    let more = lines.len().saturating_sub(MAX_ENTRIES);
    lines.truncate(MAX_ENTRIES);
    Ok(EntriesReply { lines, more })
}

/// Changes what the gate of a tunnel has in the memory of this process.
pub(super) fn change(
    registry: &Registry,
    tunnel: &str,
    request: &EditRequest,
) -> Result<EditReply, RequestError> {
    let edit = request.edit()?;
    let result = memory(registry, tunnel)?.edit(&edit)?;
    tracing::info!(
        tunnel, action = %request.action, subject = %request.subject, changed = result.changed,
        "gate changed at the admin socket"
    );
    Ok(result.into())
}

fn memory(registry: &Registry, tunnel: &str) -> Result<MemoryStore, RequestError> {
    let found = gated(registry, Some(tunnel), |_, gate| gate.memory())?;
    let found = found.into_iter().flatten().next();
    found.ok_or_else(|| RequestError::NotInMemory(tunnel.to_owned()))
}

/// The note of an entry whose store is the memory of this process. The notes of other stores are
/// not held here: the command reads them there.
fn in_memory(gate: &Gate, line: &Line, member: Member) -> StoredEntry {
    let memory = gate.memory().filter(|_| line.rule == Rule::AllowSet);
    StoredEntry { key: None, note: memory.and_then(|store| store.note(&member)) }
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
    of: impl Fn(&Service, &Gate) -> T,
) -> Result<Vec<T>, RequestError> {
    let newest = registry.newest();
    let tunnels: Vec<&Service> = newest.iter().map(|service| &**service).collect();
    if let Some(name) = wanted
        && !tunnels.iter().any(|tunnel| tunnel.name() == name)
    {
        let names: Vec<&str> = tunnels.iter().map(|tunnel| tunnel.name()).collect();
        return Err(RequestError::NoTunnel(name.to_owned(), names.join(", ")));
    }
    let is_wanted = |tunnel: &&&Service| wanted.is_none_or(|name| name == tunnel.name());
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
