//! Problems of a tunnel, in words, for an operator who watches many of them.
//!
//! They are read from its status. The words are stable, so that a program can rely on them;
//! particulars of a case are in the detail.

use super::protocol::WrongReply;
use crate::gate::{EffectivePolicy, GateStatus};
use crate::tunnel::{Level, PoolLevel, Status};
use crate::upstream::{State, TargetHealth};

/// Lists the problems, the worst first.
pub(super) fn wrong(status: &Status) -> Vec<WrongReply> {
    let Status { draining, listeners, targets, sessions, handshakes, unopened, pool, .. } = status;
    let Status { gate, firewall, .. } = status;
    let mut all = vec![];
    if *draining {
        all.push(one("draining", false, "it accepts no more, and its connections may finish"));
    } else if let Some(firewall) = firewall {
        let trouble = firewall.trouble.as_ref();
        all.extend(trouble.map(|cause| one("firewall not in step", true, cause)));
    } else if listeners.is_empty() {
        all.push(one("not ready", true, "it does not listen"));
    }
    all.extend(of_targets(status.mode, targets));
    all.extend(gate.as_ref().and_then(of_gate));
    let of_sessions =
        Limit { full: "full", is_broken: true, almost: "almost full", what: "sessions" };
    all.extend(of_sessions.reached(*sessions));
    // At an encrypt end without a gate the limit is one, which each client takes for a moment.
    let handshakes = Some(*handshakes).filter(|level| level.limit > 1);
    for (level, what) in [(handshakes, "unproven connections"), (*unopened, "unopened tunnels")] {
        let almost = "almost at a limit";
        let limit = Limit { full: almost, is_broken: false, almost, what };
        all.extend(level.and_then(|level| limit.reached(level)));
    }
    if let Some(PoolLevel { ready: 0, size }) = pool {
        all.push(one(
            "pool empty",
            false,
            &format!("none of {size} is warm: clients dial directly"),
        ));
    }
    all.sort_by_key(|wrong| !wrong.broken);
    all
}

fn one(what: &str, broken: bool, detail: &str) -> WrongReply {
    WrongReply { what: what.to_owned(), broken, detail: Some(detail.to_owned()) }
}

/// Lists the problems of each service separately.
fn of_targets(mode: &str, targets: &[TargetHealth]) -> Vec<WrongReply> {
    let services = targets.chunk_by(|one, next| one.service == next.service);
    services.filter_map(|targets| of_service(mode, targets)).collect()
}

fn of_service(mode: &str, targets: &[TargetHealth]) -> Option<WrongReply> {
    let down: Vec<&TargetHealth> = targets.iter().filter(|target| is_down(target)).collect();
    let named = |target: &&TargetHealth| {
        let service = if target.service.is_empty() { "" } else { "=" };
        let name = format!("{}{service}{}", target.service, target.target);
        target.last_error.as_ref().map_or_else(|| name.clone(), |error| format!("{name}: {error}"))
    };
    let detail = down.iter().map(named).collect::<Vec<_>>().join(" | ");
    match (mode, down.len()) {
        (_, 0) => None,
        ("encrypt", many) if many == targets.len() => Some(one("far end down", true, &detail)),
        ("encrypt", _) => Some(one("a far end down", false, &detail)),
        (_, many) if many == targets.len() => Some(one("all targets down", true, &detail)),
        _ => Some(one("a target down", false, &detail)),
    }
}

fn is_down(target: &TargetHealth) -> bool {
    let is_down = target.state.is_some_and(|at| at.state == State::Down);
    is_down || target.failing.is_some()
}

fn of_gate(gate: &GateStatus) -> Option<WrongReply> {
    let stance = match gate.policy {
        EffectivePolicy::Fresh => return None,
        EffectivePolicy::Stale(_) => "the last known state counts",
        EffectivePolicy::Open => "it is open to every client that is not denied or banned",
        EffectivePolicy::Closed => "it admits no client on the store's word",
    };
    Some(one("gate store down", gate.policy == EffectivePolicy::Closed, stance))
}

/// Words about a limit.
struct Limit<'a> {
    /// Word for a limit that is reached.
    full: &'a str,
    /// New connections do not get through then.
    is_broken: bool,
    almost: &'a str,
    /// Name of the counted things.
    what: &'a str,
}

impl Limit<'_> {
    /// Returns the problem of a level that is at the limit, or almost.
    fn reached(&self, Level { now, limit, .. }: Level) -> Option<WrongReply> {
        let detail = format!("{now} of {limit} {}", self.what);
        match now {
            _ if limit == 0 => None,
            _ if now >= limit => Some(one(self.full, self.is_broken, &detail)),
            _ if now * 10 > limit * 9 => Some(one(self.almost, false, &detail)),
            _ => None,
        }
    }
}
