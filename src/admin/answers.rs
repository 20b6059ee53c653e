//! Answers to requests, read from the registry.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::gates;
use super::problems::wrong;
use super::protocol::{
    FirewallReply, GateReply, KnocksReply, MAX_SESSIONS, PoolReply, ReloadReply, Reply, Request,
    RequestError, SentKnocksReply, SessionReply, StatusReply, TargetReply, TunnelReply, WhoReply,
    key, peer,
};
use super::registry::{Phase, Registry, Reload, TunnelView};
use super::{Command, ReplySender};
use crate::gate::GateStatus;
use crate::observe::firewall::FirewallStatus;
use crate::observe::metrics::ByReason;
use crate::observe::sessions::SessionEntry;
use crate::observe::{KnockReason, KnockResult, Selector, SentKnockMeters};
use crate::reason::CloseReason;
use crate::sys::nofile;
use crate::tunnel::Status;
use crate::upstream::TargetHealth;

/// Answer to a request, or the command that leads to one.
pub(super) enum Response {
    /// Read from the registry.
    Now(Reply),
    /// Known once the supervisor has executed the command, which may take long.
    Commanded(fn(ReplySender) -> Command),
}

/// Answers a request, or returns its command.
///
/// # Errors
/// [`RequestError`]
pub(super) fn answer(registry: &Registry, request: &Request) -> Result<Response, RequestError> {
    Ok(Response::Now(match request {
        Request::Status {} => Reply::Status(Box::new(status(registry))),
        Request::Who { tunnel, peer: from } => {
            let tunnel = tunnel.clone().map(Selector::Tunnel);
            let from = from.as_deref().map(peer).transpose()?;
            Reply::Who(who(registry, &[tunnel, from], MAX_SESSIONS))
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
                (Some(selector), None) => Reply::Kicked(kick(registry, &selector)),
                _ => return Err(RequestError::NotOne),
            }
        }
        Request::Gates { tunnel } => Reply::Gates(gates::places(registry, tunnel.as_deref())?),
        Request::Why { address, announced, tunnel } => {
            let peer = gates::peer(address, *announced)?;
            Reply::Why(gates::why(registry, peer, tunnel.as_deref())?)
        }
        Request::Entries { tunnel } => Reply::Entries(gates::entries(registry, tunnel)?),
        Request::Change { tunnel, edit } => Reply::Changed(gates::change(registry, tunnel, edit)?),
        Request::Reload {} => return Ok(Response::Commanded(Command::Reload)),
        Request::Drain {} => return Ok(Response::Commanded(Command::Drain)),
    }))
}

fn kick(registry: &Registry, selector: &Selector) -> usize {
    let kicked = registry.sessions().kick(selector);
    tracing::info!(by = %selector, sessions = kicked, "kicked");
    kicked
}

/// Returns the oldest sessions that match all of `wanted`, up to `most`.
pub(super) fn who(registry: &Registry, wanted: &[Option<Selector>], most: usize) -> WhoReply {
    let is_wanted =
        |entry: &SessionEntry| wanted.iter().flatten().all(|selector| entry.is(selector));
    let list = registry.sessions().list();
    let mut meant = list.iter().filter(|entry| is_wanted(entry));
    let sessions = meant.by_ref().take(most).map(|entry| session(entry)).collect();
    WhoReply { sessions, more: meant.count() }
}

fn session(entry: &SessionEntry) -> SessionReply {
    let info = entry.info();
    let keyed = entry.keyed();
    SessionReply {
        id: entry.id(),
        tunnel: entry.tunnel().to_owned(),
        peer: info.peer.to_string(),
        client: info.client.map(|client| client.to_string()),
        target: info.target.as_deref().unwrap_or_default().to_owned(),
        service: (!info.service.is_empty()).then(|| info.service.to_string()),
        key: keyed.key.to_string(),
        suite: keyed.suite.to_string(),
        age_ms: u64::try_from(entry.began().elapsed().as_millis()).unwrap_or(u64::MAX),
        sent: entry.traffic().sent.get(),
        received: entry.traffic().received.get(),
    }
}

/// Returns the status of the process.
pub(super) fn status(registry: &Registry) -> StatusReply {
    let ready = registry.ready();
    let state = match registry.phase() {
        Phase::Starting => "starting",
        Phase::Draining => "draining",
        Phase::Serving if ready.is_ok() => "ready",
        Phase::Serving => "not ready",
    };
    StatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: registry.started.instant.elapsed().as_secs(),
        state: state.to_owned(),
        why: ready.err(),
        descriptors: nofile::used(),
        descriptor_limit: registry.descriptors,
        reload: registry.last_reload().map(reload),
        tunnels: registry.tunnels().iter().map(tunnel).collect(),
    }
}

fn reload(Reload { at, result }: Reload) -> ReloadReply {
    let message = match &result {
        Ok(changes) => changes.to_string(),
        Err(why) => why.clone(),
    };
    ReloadReply { at: unix(at).as_secs(), ok: result.is_ok(), message, changes: result.ok() }
}

/// Returns the time since 1970; zero before that.
pub(super) fn unix(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn tunnel(TunnelView { kind, meters, status }: &TunnelView) -> TunnelReply {
    let Status { mode, draining, listeners, targets, keys, .. } = status;
    let (sent, received) = meters.bytes();
    TunnelReply {
        name: meters.tunnel().to_owned(),
        kind: *kind,
        mode: (*mode).to_owned(),
        state: if *draining { "draining" } else { "serving" }.to_owned(),
        listeners: listeners.clone(),
        targets: targets.iter().map(target).collect(),
        keys: keys.iter().map(ToString::to_string).collect(),
        sessions: status.sessions,
        handshakes: status.handshakes,
        unopened: status.unopened,
        pool: status.pool.map(|pool| PoolReply {
            warm: pool.ready,
            size: pool.size,
            taken: meters.pool.taken.get(),
            missed: meters.pool.missed.get(),
            failed: meters.pool.failed.get(),
        }),
        wrong: wrong(status),
        gate: status.gate.clone().map(gate),
        firewall: status.firewall.clone().map(firewall),
        knocks: status.knock_listeners.clone().map(|listeners| {
            let all =
                KnockResult::ALL.iter().map(|it| (it.to_string(), meters.received_knocks.get(*it)));
            KnocksReply { listeners, results: all.filter(|(_, count)| *count > 0).collect() }
        }),
        knocks_sent: status.is_knocking.then(|| sent_knocks(&meters.sent_knocks)),
        accepted: meters.accepted.get(),
        closed: counted(&meters.closed),
        refused: counted(&meters.refused),
        sent,
        received,
    }
}

fn sent_knocks(meters: &SentKnockMeters) -> SentKnocksReply {
    let all = KnockReason::ALL.iter().map(|reason| (reason.to_string(), meters.get(*reason)));
    let sent = all.filter(|(_, count)| *count > 0).collect();
    SentKnocksReply { sent, failed: meters.failed.get() }
}

fn target(health: &TargetHealth) -> TargetReply {
    let TargetHealth { service, target, state, failing, last_error, in_use, .. } = health;
    TargetReply {
        service: (!service.is_empty()).then(|| service.to_string()),
        target: target.to_string(),
        state: state.map(|at| at.state.as_str().to_owned()),
        since_s: state.map(|at| at.since.elapsed().as_secs()),
        failing_s: failing.map(|since| since.elapsed().as_secs()),
        in_use: *in_use,
        last_error: last_error.clone(),
    }
}

/// Returns the counts of the reasons that occurred.
fn counted(by_reason: &ByReason) -> BTreeMap<String, u64> {
    let all = CloseReason::ALL.iter().map(|reason| (reason.to_string(), by_reason.get(*reason)));
    all.filter(|(_, count)| *count > 0).collect()
}

fn firewall(status: FirewallStatus) -> FirewallReply {
    let FirewallStatus { backend, entries, steps, repairs, errors, last_success, trouble } = status;
    FirewallReply {
        backend: backend.to_owned(),
        entries,
        steps,
        repairs,
        errors,
        last_success: last_success.map(|at| unix(at).as_secs()),
        trouble,
    }
}

fn gate(gate: GateStatus) -> GateReply {
    GateReply {
        stance: gate.policy.as_str().to_owned(),
        addresses: gate.counts.addresses,
        networks: gate.counts.networks,
        bans: gate.counts.bans,
        unavailable: gate.unavailable,
        since_read_s: gate.since_read.map(|since| since.as_secs()),
        denied: gate.denied,
        revoked: gate.revoked,
        strikes: gate.strikes,
        bans_made: gate.bans_made,
    }
}
