//! What a request is answered with, read from the roster.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::gates;
use super::protocol::{
    GateReply, MAX_SESSIONS, PoolReply, ReloadReply, Reply, Request, RequestError, SessionReply,
    StatusReply, TargetReply, TunnelReply, WhoReply, key, peer,
};
use super::roster::{Named, Phase, Reload, Roster};
use super::wrong::wrong;
use super::{Order, Outcome};
use crate::gate::GateStatus;
use crate::observe::Selector;
use crate::observe::metrics::ByReason;
use crate::observe::sessions::Entry;
use crate::reason::CloseReason;
use crate::sys::nofile;
use crate::tunnel::{Status, TargetHealth};

/// What comes of a request.
pub(super) enum Answer {
    /// What can be read from the roster.
    Now(Reply),
    /// Somebody has to carry this out first, which takes its time.
    Ordered(fn(Outcome) -> Order),
}

/// Answers a request, or says which order it is.
///
/// # Errors
/// [`RequestError`]
pub(super) fn answer(roster: &Roster, request: &Request) -> Result<Answer, RequestError> {
    Ok(Answer::Now(match request {
        Request::Status {} => Reply::Status(Box::new(status(roster))),
        Request::Who { tunnel, peer: from } => {
            let tunnel = tunnel.clone().map(Selector::Tunnel);
            let from = from.as_deref().map(peer).transpose()?;
            Reply::Who(who(roster, &[tunnel, from]))
        }
        Request::Kick { id, peer: from, tunnel, key: of } => {
            let wanted = [
                id.map(Selector::Id),
                from.as_deref().map(peer).transpose()?,
                tunnel.clone().map(Selector::Tunnel),
                of.as_deref().map(key).transpose()?,
            ];
            let mut wanted = wanted.into_iter().flatten();
            match (wanted.next(), wanted.next()) {
                (Some(whom), None) => Reply::Kicked(kick(roster, &whom)),
                _ => return Err(RequestError::NotOne),
            }
        }
        Request::Gates { tunnel } => Reply::Gates(gates::places(roster, tunnel.as_deref())?),
        Request::Why { address, announced, tunnel } => {
            let peer = gates::peer(address, *announced)?;
            Reply::Why(gates::why(roster, peer, tunnel.as_deref())?)
        }
        Request::Reload {} => return Ok(Answer::Ordered(Order::Reload)),
        Request::Drain {} => return Ok(Answer::Ordered(Order::Drain)),
    }))
}

fn kick(roster: &Roster, whom: &Selector) -> usize {
    let kicked = roster.sessions().kick(whom);
    tracing::info!(by = %whom, sessions = kicked, "kicked");
    kicked
}

fn who(roster: &Roster, wanted: &[Option<Selector>]) -> WhoReply {
    let is_wanted = |entry: &Entry| wanted.iter().flatten().all(|whom| entry.is(whom));
    let list = roster.sessions().list();
    let mut meant = list.iter().filter(|entry| is_wanted(entry));
    let sessions = meant.by_ref().take(MAX_SESSIONS).map(|entry| session(entry)).collect();
    WhoReply { sessions, more: meant.count() }
}

fn session(entry: &Entry) -> SessionReply {
    let facts = entry.facts();
    SessionReply {
        id: entry.id(),
        tunnel: entry.tunnel().to_owned(),
        peer: facts.peer.to_string(),
        client: facts.client.map(|client| client.to_string()),
        target: facts.target.to_string(),
        service: (!facts.service.is_empty()).then(|| facts.service.to_string()),
        key: facts.key.to_string(),
        suite: facts.suite.to_string(),
        age_ms: u64::try_from(entry.began().elapsed().as_millis()).unwrap_or(u64::MAX),
        sent: entry.traffic().sent.get(),
        received: entry.traffic().received.get(),
    }
}

fn status(roster: &Roster) -> StatusReply {
    let ready = roster.ready();
    let state = match roster.phase() {
        Phase::Starting => "starting",
        Phase::Draining => "draining",
        Phase::Serving if ready.is_ok() => "ready",
        Phase::Serving => "not ready",
    };
    StatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: roster.started.1.elapsed().as_secs(),
        state: state.to_owned(),
        why: ready.err(),
        descriptors: nofile::used(),
        descriptor_limit: roster.descriptors,
        reload: roster.last_reload().map(reload),
        tunnels: roster.named().iter().map(tunnel).collect(),
    }
}

fn reload(Reload { at, result }: Reload) -> ReloadReply {
    let message = match &result {
        Ok(changes) => changes.to_string(),
        Err(why) => why.clone(),
    };
    ReloadReply { at: unix(at).as_secs(), ok: result.is_ok(), message, changes: result.ok() }
}

/// The time since 1970; zero before that.
pub(super) fn unix(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn tunnel(Named { meters, status }: &Named) -> TunnelReply {
    let Status { mode, draining, listeners, targets, keys, .. } = status;
    let (sent, received) = meters.bytes();
    TunnelReply {
        name: meters.tunnel().to_owned(),
        mode: (*mode).to_owned(),
        state: if *draining { "draining" } else { "serving" }.to_owned(),
        listeners: listeners.clone(),
        targets: targets.iter().map(target).collect(),
        keys: keys.iter().map(ToString::to_string).collect(),
        sessions: status.sessions,
        handshakes: status.handshakes,
        unopened: status.unopened,
        pool: status.pool.map(|(warm, size)| PoolReply {
            warm,
            size,
            taken: meters.pool.taken.get(),
            missed: meters.pool.missed.get(),
            failed: meters.pool.failed.get(),
        }),
        wrong: wrong(status),
        gate: status.gate.clone().map(gate),
        accepted: meters.accepted.get(),
        closed: counted(&meters.closed),
        refused: counted(&meters.refused),
        sent,
        received,
    }
}

fn target(health: &TargetHealth) -> TargetReply {
    let TargetHealth { service, target, state, failing, last_error, in_use, .. } = health;
    TargetReply {
        service: (!service.is_empty()).then(|| service.to_string()),
        target: target.to_string(),
        state: state.map(|(state, _)| state.as_str().to_owned()),
        since_s: state.map(|(_, since)| since.elapsed().as_secs()),
        failing_s: failing.map(|since| since.elapsed().as_secs()),
        in_use: *in_use,
        last_error: last_error.clone(),
    }
}

/// The reasons that there were.
fn counted(by_reason: &ByReason) -> BTreeMap<String, u64> {
    let all = CloseReason::ALL.iter().map(|reason| (reason.to_string(), by_reason.get(*reason)));
    all.filter(|(_, count)| *count > 0).collect()
}

fn gate(gate: GateStatus) -> GateReply {
    GateReply {
        stance: gate.policy.as_str().to_owned(),
        addresses: gate.counts.addresses,
        networks: gate.counts.networks,
        bans: gate.counts.bans,
        away: gate.unavailable,
        since_read_s: gate.since_read.map(|since| since.as_secs()),
        denied: gate.denied,
        revoked: gate.revoked,
        strikes: gate.strikes,
        bans_made: gate.bans_made,
    }
}
