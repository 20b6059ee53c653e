//! Renders answers for people.
//!
//! Foreign text (a chosen name, the message of a server) was made printable before: what is printed
//! here cannot move a terminal's cursor, or break a line.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::Serialize;

use super::super::output::span;
use super::rates::Rates;
use crate::admin::protocol::{
    FirewallReply, GateReply, KnocksReply, PoolReply, SentKnocksReply, SessionReply, TargetReply,
    TunnelReply,
};
use crate::tunnel::Level;

/// A live connection with its current rates.
#[derive(Debug, Serialize)]
pub(super) struct Rated {
    #[serde(flatten)]
    pub(super) session: SessionReply,
    /// Stream bytes in a second, from the plain side to the sealed side.
    pub(super) sent_per_s: u64,
    /// Stream bytes in a second, from the sealed side to the plain side.
    pub(super) received_per_s: u64,
}

/// Names of the columns of `who`.
const COLUMNS: [&str; 12] = [
    "ID", "TUNNEL", "PEER", "CLIENT", "TARGET", "SERVICE", "KEY", "AGE", "SENT", "RECEIVED",
    "SENT/S", "RECV/S",
];

/// Adds to `sessions` their rates since `before`, or since they began if that is later.
pub(super) fn rated(before: &[SessionReply], sessions: Vec<SessionReply>) -> Vec<Rated> {
    let before: HashMap<u64, &SessionReply> = before.iter().map(|one| (one.id, one)).collect();
    let rate = |session: SessionReply| {
        let old = before.get(&session.id);
        let (age_ms, sent, received) =
            old.map_or((0, 0, 0), |old| (old.age_ms, old.sent, old.received));
        let per_s = |now: u64, before: u64| {
            let ms = session.age_ms.saturating_sub(age_ms).max(1);
            now.saturating_sub(before).saturating_mul(1000) / ms
        };
        let sent_per_s = per_s(session.sent, sent);
        let received_per_s = per_s(session.received, received);
        Rated { session, sent_per_s, received_per_s }
    };
    sessions.into_iter().map(rate).collect()
}

/// Shows the connections as a table.
pub(super) fn who(sessions: &[Rated]) -> String {
    let rows = sessions.iter().map(|Rated { session, sent_per_s, received_per_s }| {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        [
            session.id.to_string(),
            session.tunnel.clone(),
            session.peer.clone(),
            or_none(&session.client),
            session.target.clone(),
            or_none(&session.service),
            session.key.clone(),
            span(session.age_ms / 1000),
            size(session.sent),
            size(session.received),
            size(*sent_per_s),
            size(*received_per_s),
        ]
    });
    table(std::iter::once(COLUMNS.map(str::to_owned)).chain(rows).collect())
}

/// Formats rows as aligned lines.
pub(super) fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let length = |cell: &String| cell.chars().count();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| length(&row[column])).max().unwrap_or(0)
    });
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Shows all about one tunnel.
pub(super) fn tunnel(tunnel: &TunnelReply, rates: Option<&Rates>) -> String {
    let TunnelReply { name, mode, state, .. } = tunnel;
    let mut out = format!("{name}: {mode}, {state}\n");
    let mut say = |what: &str, text: &str| line(&mut out, "  ", what, text);
    if !tunnel.wrong.is_empty() {
        // The lines below have the details.
        let words: Vec<&str> = tunnel.wrong.iter().map(|it| &*it.what).collect();
        say("wrong", &words.join(", "));
    }
    say("listens", &tunnel.listeners.join(" "));
    for (place, target) in tunnel.targets.iter().enumerate() {
        say(if place == 0 { "targets" } else { "" }, &of_target(target));
    }
    say("keys", &tunnel.keys.join(" "));
    say("sessions", &level(tunnel.sessions));
    say("handshakes", &level(tunnel.handshakes));
    if let Some(unopened) = tunnel.unopened {
        say("unopened", &level(unopened));
    }
    if let Some(PoolReply { warm, size, taken, missed, failed }) = tunnel.pool {
        say(
            "pool",
            &format!("{warm} of {size} warm; {taken} taken, {missed} missed, {failed} failed"),
        );
    }
    if let Some(gate) = &tunnel.gate {
        say("gate", &of_gate(gate));
        if let Some(why) = &gate.unavailable {
            say("store", &format!("unavailable: {why}"));
        }
    }
    if let Some(FirewallReply { backend, entries, steps, repairs, errors, trouble, .. }) =
        &tunnel.firewall
    {
        let state = trouble.as_deref().unwrap_or("in step");
        let counts = format!("{steps} steps, {repairs} repairs, {errors} errors");
        say("firewall", &format!("{backend}, {entries} entries; {counts}; {state}"));
    }
    if let Some(KnocksReply { listeners, results }) = &tunnel.knocks {
        say("knocks", &format!("at {}; {}", listeners.join(" "), some_counts(results)));
    }
    if let Some(SentKnocksReply { sent, failed }) = &tunnel.knocks_sent {
        say("knocks", &format!("sent: {}; {failed} failed", some_counts(sent)));
    }
    let sent = size(tunnel.sent);
    let received = size(tunnel.received);
    say("bytes", &format!("{sent} sent, {received} received"));
    if let Some(Rates { accepted, sent, received }) = rates {
        let sent = size(*sent);
        let received = size(*received);
        let text = format!("{accepted} connections, {sent} sent, {received} received");
        say("per second", &text);
    }
    say("accepted", &tunnel.accepted.to_string());
    say("closed", &counts(&tunnel.closed));
    say("refused", &counts(&tunnel.refused));
    out
}

/// Shows `[NAME=]ADDR`, and its state.
fn of_target(target: &TargetReply) -> String {
    let TargetReply { service, target, state, since_s, failing_s, in_use, last_error } = target;
    let name = service.as_ref().map_or_else(|| target.clone(), |name| format!("{name}={target}"));
    if let (Some(seconds), Some(error)) = (failing_s, last_error) {
        return format!("{name} failing for {}: {error}", span(*seconds));
    }
    let Some(state) = state else { return name };
    let since = since_s.map_or_else(String::new, span);
    let error = last_error.as_deref().filter(|_| state == "down").unwrap_or_default();
    let error = if error.is_empty() { String::new() } else { format!(": {error}") };
    let in_use = if *in_use { ", in use" } else { "" };
    format!("{name} {state} for {since}{in_use}{error}")
}

pub(super) fn line(out: &mut String, indent: &str, what: &str, text: &str) {
    let _ = writeln!(out, "{indent}{what:12} {}", if text.is_empty() { "-" } else { text });
}

fn level(Level { now, most, limit }: Level) -> String {
    format!("{now} now, peak {most}, limit {limit}")
}

fn of_gate(gate: &GateReply) -> String {
    let GateReply { stance, addresses, networks, bans, .. } = gate;
    let read = gate
        .since_read_s
        .map_or_else(|| "never read".to_owned(), |seconds| format!("read {} ago", span(seconds)));
    let GateReply { denied, revoked, strikes, bans_made, .. } = gate;
    format!(
        "{stance}, {read}; {addresses} addresses, {networks} networks, {bans} bans; \
         {denied} denied, {revoked} revoked, {strikes} strikes, {bans_made} bans made"
    )
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(reason, count)| format!("{reason}={count}")).collect::<Vec<_>>().join(" ")
}

fn some_counts(all: &BTreeMap<String, u64>) -> String {
    if all.is_empty() { "none yet".to_owned() } else { counts(all) }
}

/// Formats a number of bytes with a binary unit and at least three digits.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let mut unit = 0;
    let mut left = bytes as f64;
    while left >= 1024.0 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => bytes.to_string(),
        _ if left < 10.0 => format!("{left:.2}{}", UNITS[unit]),
        _ if left < 100.0 => format!("{left:.1}{}", UNITS[unit]),
        _ => format!("{left:.0}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: u64, age_ms: u64, sent: u64) -> SessionReply {
        SessionReply {
            id,
            tunnel: "redis".to_owned(),
            peer: "192.0.2.1:5".to_owned(),
            client: None,
            target: "db:1".to_owned(),
            service: None,
            key: "00112233".to_owned(),
            suite: "chacha20-poly1305".to_owned(),
            age_ms,
            sent,
            received: 0,
        }
    }

    #[test]
    fn a_rate_is_what_changed_between_two_looks() {
        let before = [session(1, 1_000, 500), session(2, 9_000, 7)];
        let rated = rated(&before, vec![session(1, 1_500, 1_500), session(3, 100, 10)]);
        let rates: Vec<_> = rated.iter().map(|one| (one.session.id, one.sent_per_s)).collect();
        assert_eq!(rates, [(1, 2_000), (3, 100)]);
        let text = who(&rated);
        assert_eq!(text.lines().count(), 3);
        let column = text.find("PEER").unwrap();
        assert!(text.lines().skip(1).all(|line| line[column..].starts_with("192.0.2.1:5  -")));
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in
            [(0, "0"), (1023, "1023"), (1024, "1.00K"), (15 << 20, "15.0M"), (200 << 30, "200G")]
        {
            assert_eq!(size(bytes), shown);
        }
    }
}
