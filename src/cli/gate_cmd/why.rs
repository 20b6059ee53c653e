//! `why`: explains the decision of the gate about one address, rule by rule.
//!
//! Asks the store about the address, builds from the answer the state that a tunnel has in memory,
//! and passes it to the function that decides. Or asks a running tunnel, which answers from its own
//! memory.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::Done;
use super::super::admin_cmd::unexpected_reply;
use super::super::gate_args::RuleArgs;
use super::super::output::{date, left};
use super::find_gate::ProcessSocket;
use super::opened_store::{Absent, OpenedStore, runtime};
use super::{CommonArgs, GateCommandError, note};
use crate::addr::ClientAddr;
use crate::admin::StoredEntry;
use crate::admin::protocol::{Reply, Request};
use crate::admin::protocol::{RuleReply, WhyReply};
use crate::gate::decision::{Line, Rule};
use crate::gate::store::{AddressRecord, AllowEntry, StoreError, is_implausible};
use crate::gate::{
    BanAfter, Item, Member, MemberError, Peer, Rules, Snapshot, StoreOptions, UnixMillis, explain,
};
use crate::net::clock;
use crate::run::Failure;

/// Only the tunnel's command line has them, and this command does not see it.
const NO_RULES: &str = "static rules as given here, which is none; repeat the tunnel's \
     --allow/--deny/--internal, or name its configuration file (-c) or process (--admin)";

/// The flags that the gate itself has, where a file or a process names it.
const RULES: [&str; 5] = ["allow", "deny", "internal", "gate_failure", "ban_after"];

/// `gate why`.
#[derive(Debug, Args)]
#[command(mut_arg("config", |arg| arg.conflicts_with_all(RULES)))]
#[command(mut_arg("admin", |arg| arg.conflicts_with_all(RULES)))]
pub(super) struct WhyArgs {
    /// Address of the client; "unknown" is one that its load balancer did not announce
    #[arg(value_name = "ADDR")]
    address: Subject,

    /// The address is from a PROXY header, so it is never internal
    #[arg(long)]
    announced: bool,

    /// Also show the failed handshakes of the current FINDTIME
    #[arg(long, value_name = "N/FINDTIME/BANTIME")]
    ban_after: Option<BanAfter>,

    #[command(flatten)]
    rules: RuleArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// The client that is asked about.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Member(Member),
    Nameless,
}

/// An answer, with the notes that only this command can add.
struct Answer {
    reply: WhyReply,
    ban_after: Option<BanAfter>,
    notes: Vec<(&'static str, String)>,
}

/// Explains a decision.
///
/// # Errors
/// [`Failure`]; the explanation is printed also when the store is unavailable.
pub(super) async fn why(args: WhyArgs) -> Result<Done, Failure> {
    let ip = match args.address {
        Subject::Member(Member::Address(ip)) => Some(ip.to_canonical()),
        Subject::Member(network) => return Err(GateCommandError::NetworkWhy(network).into()),
        Subject::Nameless => None,
    };
    let peer = match ip {
        Some(ip) if args.announced => Peer::Announced(ip),
        Some(ip) => Peer::Socket(ip),
        None => Peer::Nameless,
    };
    if let Some(process) = args.common.store.process() {
        return of_process(&args, &process, peer).await;
    }
    of_store(&args, peer).await
}

/// Explains the decision of the gates of a process, from their memory. The notes of entries are
/// in their stores.
async fn of_process(
    args: &WhyArgs,
    process: &ProcessSocket<'_>,
    peer: Peer,
) -> Result<Done, Failure> {
    let address = peer.ip().map_or_else(|| ClientAddr::Nameless.to_string(), |ip| ip.to_string());
    let announced = args.announced;
    let reply = process.ask(|tunnel| Request::Why { address, announced, tunnel })?;
    let Reply::Why(replies) = reply else { return Err(unexpected_reply()) };
    let mut output = args.common.output();
    for mut reply in replies {
        let mut notes = vec![];
        if let Err(failure) = add_note(args, peer, &mut reply).await {
            let note = format!("who granted it is in the store, which cannot be read: {failure}");
            notes.push(("note", note));
        }
        if let Some(tunnel) = &reply.tunnel {
            notes.push(("tunnel", format!("{tunnel}, which answers from its memory")));
        }
        if reply.unsure {
            let note = "the allow-set has just changed; who is not in it yet is asked about first";
            notes.push(("note", note.to_owned()));
        }
        if reply.balancer {
            let note = "a load balancer (--proxy-from): the gate judges the client that it announces, see --announced";
            notes.push(("note", note.to_owned()));
        }
        let answer = Answer { reply, ban_after: None, notes };
        output.say(|| answer.text(), || json!(answer.reply))?;
    }
    output.finish()?;
    Ok(Done::Clean)
}

/// Adds the note of the entry that a tunnel found, from its store.
async fn add_note(args: &WhyArgs, peer: Peer, reply: &mut WhyReply) -> Result<(), Failure> {
    let rule = reply
        .rules
        .iter_mut()
        .find(|rule| rule.rule == Rule::AllowSet.as_str() && rule.entry.is_some());
    let (Some(rule), Some(tunnel), Some(ip)) = (rule, &reply.tunnel, peer.ip()) else {
        return Ok(());
    };
    if rule.note().is_some() {
        return Ok(());
    }
    let source = args.common.store.of_tunnel(tunnel)?;
    let place = OpenedStore::of(source, Absent::Refuse)?;
    let record = place.address_record(ip, None).await.map_err(runtime)?;
    let entries = record.allow_entries.into_iter();
    let mut same = entries.filter(|entry| Some(entry.member.to_string()) == rule.entry);
    rule.add_note(same.find_map(|entry| entry.note));
    Ok(())
}

/// Explains the decision of a gate with this store.
async fn of_store(args: &WhyArgs, peer: Peer) -> Result<Done, Failure> {
    let source = args.common.store.look()?;
    let gate = source.options.clone();
    let rules: Rules =
        gate.as_ref().map_or_else(|| args.rules.rules(&source.store), |gate| gate.rules.clone());
    let ban_after = gate.as_ref().map_or(args.ban_after, |gate| gate.ban_after);
    let is_known = gate.is_some() || args.rules.is_gate();
    let standing = if matches!(source.store, StoreOptions::None) && is_known {
        None
    } else {
        let place = match source.store {
            StoreOptions::None => OpenedStore::open(&args.common.store, Absent::Refuse)?,
            _ => OpenedStore::of(source, Absent::Refuse)?,
        };
        let findtime = ban_after.map(|ban_after| ban_after.findtime());
        match peer.ip() {
            Some(ip) => Some(place.address_record(ip, findtime).await),
            // The store contains addresses only.
            None => None,
        }
    };
    let now = clock::now();
    let facts = facts(standing.as_ref(), now);
    let explanation = explain(&rules, &facts, peer, now);
    let known = standing.as_ref().and_then(|standing| standing.as_ref().ok());
    let stored = |line: &Line, member| known.map(|known| stored(known, line, member));
    let stored = |line: &Line, member| stored(line, member).unwrap_or_default();
    let mut reply = WhyReply::of(peer, &explanation, now, stored);
    if let Some(known) = known {
        reply.server = Some(known.server.clone());
        (reply.seen, reply.strikes) = (known.seen, known.strikes);
        reply.set_ends_ms = known.set_expiry.as_millis();
    }
    reply.denied = gate.as_ref().map(|gate| gate.denied.to_string());
    let store = match &standing {
        None if peer == Peer::Nameless => "not asked".to_owned(),
        None => "none".to_owned(),
        Some(Ok(standing)) => standing.server.clone(),
        Some(Err(_)) => format!("unavailable, so by --gate-failure: {}", reply.stance),
    };
    let mut notes = vec![("store", store)];
    if gate.is_none() && args.rules.is_empty() {
        notes.push(("note", NO_RULES.to_owned()));
    }
    notes.extend(known.into_iter().flat_map(in_milliseconds));
    let answer = Answer { reply, ban_after, notes };
    let mut output = args.common.output();
    output.say(|| answer.text(), || json!(answer.reply))?;
    output.finish()?;
    match standing {
        Some(Err(error)) => Err(runtime(error)),
        _ => Ok(Done::Clean),
    }
}

/// Returns a note about each score that is probably in milliseconds.
fn in_milliseconds(known: &AddressRecord) -> impl Iterator<Item = (&'static str, String)> {
    let entries = known.allow_entries.iter().filter(|entry| is_implausible(entry.expiry));
    entries.map(|AllowEntry { member, key, .. }| {
        let note = format!(
            "the score of {member} in key {key} looks like milliseconds, and scores are unix seconds; write it again, or it ends in some 50,000 years"
        );
        ("note", note)
    })
}

/// Returns what the store has of an entry, by the rule that found it.
fn stored(known: &AddressRecord, line: &Line, member: Member) -> StoredEntry {
    let entries = || known.allow_entries.iter().filter(|entry| entry.member == member);
    match line.rule {
        Rule::Ban => StoredEntry { key: known.ban.as_ref().map(|ban| ban.key.clone()), note: None },
        // Of two keys that let it in, one may have a note.
        Rule::AllowSet => StoredEntry {
            key: entries().next().map(|entry| entry.key.clone()),
            note: entries().find_map(|entry| entry.note.clone()),
        },
        _ => StoredEntry::default(),
    }
}

/// Builds the state that a tunnel would have in memory; a store that cannot be read is unavailable.
fn facts(standing: Option<&Result<AddressRecord, StoreError>>, now: UnixMillis) -> Snapshot {
    let mut facts = Snapshot::default();
    let items = match standing {
        Some(Err(_)) => {
            let _ = facts.set_unavailable(now);
            return facts;
        }
        Some(Ok(standing)) => items(standing),
        None => vec![],
    };
    facts.begin();
    // No connection here could be affected.
    let _ = facts.items(&items);
    let _ = facts.end(now);
    facts
}

fn items(standing: &AddressRecord) -> Vec<Item> {
    let grants = standing.allow_entries.iter();
    let allowed = grants.map(|grant| Item::Allowed(grant.member, grant.expiry));
    allowed.chain(standing.ban.as_ref().map(|ban| Item::Banned(ban.member, ban.expiry))).collect()
}

impl FromStr for Subject {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, MemberError> {
        if text == ClientAddr::Nameless.to_string() {
            return Ok(Self::Nameless);
        }
        text.parse().map(Self::Member)
    }
}

impl Answer {
    fn text(&self) -> String {
        let WhyReply { address, verdict, reason, decided, until_ms, .. } = &self.reply;
        let until = until_ms.map(|until| format!(", for {}", self.left(until)));
        let mut text = format!("{address} is {verdict}: {reason}{}\n", until.unwrap_or_default());
        for rule in &self.reply.rules {
            let mark = if rule.rule == *decided { "=>" } else { "" };
            text += &format!("{mark:>2} {:<13} {}\n", rule.rule, self.finding(rule));
        }
        let lines = self.lines().map(|(name, what)| format!("   {name:<13} {what}"));
        text + &lines.collect::<Vec<_>>().join("\n")
    }

    /// Lists the lines below the rules.
    fn lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        let (store, notes): (Vec<_>, Vec<_>) =
            self.notes.iter().cloned().partition(|(name, _)| *name != "note");
        let reply = &self.reply;
        let ends = reply
            .set_ends_ms
            .map(|end| ("set-ends", format!("in {}, as a whole (EXPIRE)", self.left(end))));
        let seen = reply.seen.map(|at| ("last-seen", date(at)));
        let strikes = reply
            .strikes
            .zip(self.ban_after)
            .map(|(count, ban_after)| ("strikes", format!("{count} of {}", ban_after.maxretry())));
        let denied = reply.denied.as_ref().filter(|_| reply.verdict == "denied");
        let denied = denied.map(|how| ("response", format!("{how} (--denied)")));
        store.into_iter().chain(denied).chain(ends).chain(seen).chain(strikes).chain(notes)
    }

    /// Returns the time until `end`.
    fn left(&self, end: u64) -> String {
        left(Some(Duration::from_millis(end.saturating_sub(self.reply.now_ms))))
    }

    fn finding(&self, rule: &RuleReply) -> String {
        let entry = rule.entry.as_ref().map(|entry| self.entry(rule, entry));
        match (entry, &rule.skipped, &rule.says) {
            (Some(entry), Some(skip), _) => format!("{entry}; does not count: {skip}"),
            (None, Some(skip), _) => format!("not asked: {skip}"),
            (Some(entry), None, _) => entry,
            (None, None, Some(says)) => says.clone(),
            (None, None, None) => "no match".to_owned(),
        }
    }

    fn entry(&self, rule: &RuleReply, entry: &str) -> String {
        let ends = || match rule.expires_ms {
            None => "never".to_owned(),
            Some(end) => format!("in {}", self.left(end)),
        };
        let place = match &rule.key {
            Some(key) => format!("{entry} in key {key}, ends {}", ends()),
            // A running tunnel knows the end, but not the key.
            None if rule.expires_ms.is_some() => format!("{entry}, ends {}", ends()),
            None => entry.to_owned(),
        };
        match rule.note() {
            Some(note) => format!("{place}, {}", note::text(Some(&note))),
            None => place,
        }
    }
}
