//! `why`: what the gate says to one address, rule by rule.
//!
//! Asks the store about the address, makes of the answer what a tunnel has in
//! memory, and hands it to the function that decides.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::gate_args::RuleArgs;
use super::super::output::{Output, date, left};
use super::place::{Absent, Place, now_ms, runtime};
use super::{CommonArgs, GateCommandError};
use crate::addr::ClientAddr;
use crate::gate::decision::Line;
use crate::gate::store::{Standing, StoreError};
use crate::gate::{
    BanAfter, Entry, Explanation, Item, Member, MemberError, Peer, Snapshot, StoreOptions, explain,
};
use crate::run::Failure;

/// Only the tunnel's command line has them, and this command does not see it.
const NO_RULES: &str =
    "static rules as given here, which is none; repeat the tunnel's --allow/--deny/--internal";

/// `gate why`.
#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// Who asks; "unknown" is a client whose load balancer does not tell its address
    #[arg(value_name = "ADDR")]
    address: Subject,

    /// The address comes out of a PROXY header, so it is never internal
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

/// What there is to tell.
struct Answer {
    peer: Peer,
    explanation: Explanation,
    /// `None` without a store.
    standing: Option<Result<Standing, StoreError>>,
    ban_after: Option<BanAfter>,
    now_ms: u64,
    /// No static rule was given, which a tunnel may well have.
    no_rules: bool,
}

/// Explains a decision.
///
/// # Errors
/// [`Failure`]; the explanation is printed also when the store is away.
pub(super) async fn why(args: WhyArgs) -> Result<Done, Failure> {
    let ip = match args.address {
        Subject::Member(Member::Address(ip)) => Some(ip),
        Subject::Member(network) => return Err(GateCommandError::NetworkWhy(network).into()),
        Subject::Nameless => None,
    };
    let options = args.common.store.options()?;
    let rules = args.rules.rules(&options);
    let standing = if matches!(options, StoreOptions::None) && args.rules.is_gate() {
        None
    } else {
        let place = Place::open(&args.common.store, Absent::Refuse)?;
        let findtime = args.ban_after.map(|ban_after| ban_after.findtime());
        match ip {
            Some(ip) => Some(place.standing(ip, findtime).await),
            // What is in the store are addresses.
            None => None,
        }
    };
    let now_ms = now_ms();
    let facts = facts(standing.as_ref(), now_ms);
    let peer = match ip {
        Some(ip) if args.announced => Peer::Announced(ip),
        Some(ip) => Peer::Socket(ip),
        None => Peer::Nameless,
    };
    let explanation = explain(&rules, &facts, peer, now_ms);
    let (ban_after, no_rules) = (args.ban_after, args.rules.is_empty());
    let answer = Answer { peer, explanation, standing, ban_after, now_ms, no_rules };
    answer.print(args.common.output())?;
    match answer.standing {
        Some(Err(error)) => Err(runtime(error)),
        _ => Ok(Done::Clean),
    }
}

/// What a tunnel would have in memory; a store that cannot be read is away.
fn facts(standing: Option<&Result<Standing, StoreError>>, now_ms: u64) -> Snapshot {
    let mut facts = Snapshot::default();
    let items = match standing {
        Some(Err(_)) => {
            let _ = facts.away(now_ms);
            return facts;
        }
        Some(Ok(standing)) => items(standing),
        None => vec![],
    };
    facts.begin();
    // Nobody is connected here who would be concerned.
    let _ = facts.items(&items);
    let _ = facts.end(now_ms);
    facts
}

fn items(standing: &Standing) -> Vec<Item> {
    let grants = standing.grants.iter();
    let allowed = grants.map(|grant| Item::Allowed(grant.member, grant.expires_ms));
    allowed
        .chain(standing.ban.as_ref().map(|ban| Item::Banned(ban.member, ban.expires_ms)))
        .collect()
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
    fn who(&self) -> String {
        self.peer.ip().map_or_else(|| ClientAddr::Nameless.to_string(), |ip| ip.to_string())
    }

    fn print(&self, mut output: Output) -> Result<(), Failure> {
        output.say(|| self.text(), || self.object())?;
        output.finish()
    }

    fn verdict(&self) -> &'static str {
        if self.explanation.decision.is_allowed() { "allowed" } else { "denied" }
    }

    fn known(&self) -> Option<&Standing> {
        self.standing.as_ref().and_then(|standing| standing.as_ref().ok())
    }

    /// The key in which an entry stands, by the rule that found it.
    fn key(&self, line: &Line, member: Member) -> Option<&str> {
        let known = self.known()?;
        match line.rule.as_str() {
            "ban" => known.ban.as_ref().map(|ban| ban.key.as_str()),
            "allow-set" => {
                let grant = known.grants.iter().find(|grant| grant.member == member);
                grant.map(|grant| grant.key.as_str())
            }
            _ => None,
        }
    }

    fn text(&self) -> String {
        let decision = self.explanation.decision;
        let until = decision.until_ms.map(|until| until.saturating_sub(self.now_ms));
        let until = until.map(|ms| format!(", for {}", left(Some(Duration::from_millis(ms)))));
        let mut text = format!(
            "{} is {}: {}{}\n",
            self.who(),
            self.verdict(),
            decision.reason(),
            until.unwrap_or_default()
        );
        for line in &self.explanation.lines {
            let mark = if line.rule == self.explanation.decided { "=>" } else { "" };
            text += &format!("{mark:>2} {:<13} {}\n", line.rule.as_str(), self.finding(line));
        }
        text += &format!("   {:<13} {}", "store", self.store());
        if let Some(at) = self.known().and_then(|known| known.seen) {
            text += &format!("\n   {:<13} {}", "last-seen", date(at));
        }
        if let Some((count, ban_after)) = self.strikes() {
            text += &format!("\n   {:<13} {count} of {}", "strikes", ban_after.maxretry());
        }
        if self.no_rules {
            text += &format!("\n   {:<13} {NO_RULES}", "note");
        }
        text
    }

    fn finding(&self, line: &Line) -> String {
        let entry = line.entry.map(|entry| self.entry(line, entry));
        match (entry, line.skipped, line.decision) {
            (Some(entry), Some(skip), _) => format!("{entry}; does not count: {}", skip.as_str()),
            (None, Some(skip), _) => format!("not asked: {}", skip.as_str()),
            (Some(entry), None, _) => entry,
            (None, None, Some(decision)) => decision.reason().to_owned(),
            (None, None, None) => "no match".to_owned(),
        }
    }

    fn entry(&self, line: &Line, entry: Entry) -> String {
        let mut text = entry.member.to_string();
        if let Some(key) = self.key(line, entry.member) {
            text += &format!(
                " in key {key}, ends {}",
                match entry.ttl(self.now_ms) {
                    None => "never".to_owned(),
                    ttl => format!("in {}", left(ttl)),
                }
            );
        }
        text
    }

    fn store(&self) -> String {
        match &self.standing {
            None if self.peer == Peer::Nameless => "not asked".to_owned(),
            None => "none".to_owned(),
            Some(Ok(standing)) => standing.server.clone(),
            Some(Err(_)) => format!("away, so by --gate-away: {}", self.stance()),
        }
    }

    fn stance(&self) -> &'static str {
        self.explanation.stance.as_str()
    }

    fn strikes(&self) -> Option<(u64, BanAfter)> {
        self.known()?.strikes.zip(self.ban_after)
    }

    fn object(&self) -> Value {
        let explanation = &self.explanation;
        let rules: Vec<Value> = explanation.lines.iter().map(|line| self.rule(line)).collect();
        json!({
            "address": self.who(),
            "verdict": self.verdict(),
            "reason": explanation.decision.reason(),
            "decided": explanation.decided.as_str(),
            "until_ms": explanation.decision.until_ms,
            "rules": rules,
            "stance": self.stance(),
            "server": self.known().map(|known| &known.server),
            "seen": self.known().and_then(|known| known.seen),
            "strikes": self.known().and_then(|known| known.strikes),
        })
    }

    fn rule(&self, line: &Line) -> Value {
        let entry = line.entry;
        json!({
            "rule": line.rule.as_str(),
            "entry": entry.map(|entry| entry.member.to_string()),
            "key": entry.and_then(|entry| self.key(line, entry.member)),
            "expires_ms": entry.and_then(|entry| entry.expires_ms),
            "ttl_s": entry.and_then(|entry| entry.ttl(self.now_ms)).map(|ttl| ttl.as_secs()),
            "skipped": line.skipped.map(|skip| skip.as_str()),
            "says": line.decision.map(|decision| decision.reason()),
        })
    }
}
