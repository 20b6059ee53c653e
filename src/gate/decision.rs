//! Who may come in: six rules in one order, and the first that speaks decides.
//!
//! [`decide`], [`recheck`] and [`explain`] walk the same rules, so that what an
//! operator is told by `gate why` is what happened. The rules ask nobody: a
//! decision is a function of the operator's rules, the [`Snapshot`] of the
//! store, the address and the moment.
//!
//! | | rule | store fresh | away: `closed` | away: `open` | away: `stale:D` |
//! |---|---|---|---|---|---|
//! | 1 | static deny | denied | same | same | same |
//! | 2 | static allow | allowed | same | same | same |
//! | 3 | ban in the store | denied | bans known | bans known | bans known |
//! | 4 | allow-set | allowed | passed over | passed over | last known, for D |
//! | 5 | internal address, with `--internal allow` | allowed | same | same | same |
//! | 6 | nothing of these | denied | denied | allowed | denied |
//!
//! A client without an address ([`Peer::Nameless`]) is denied by rule 1 if anybody
//! is, let in by rule 2 if that names every address, and denied otherwise.
//!
//! Entries end by their own expiry in every column. A store that was never read
//! is away, and has no last known state to be stale.

use std::net::IpAddr;

use super::member::Member;
use super::rules::{Internal, Rules, Stance, internal_network};
use super::snapshot::{Entry, Snapshot};

/// Whom a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The address of the socket.
    Socket(IpAddr),
    /// An address that a load balancer wrote into a PROXY header. It is never
    /// internal: the claim of an address proves no cable to it.
    Announced(IpAddr),
    /// A client whose load balancer does not tell its address. It may have any, so
    /// it is denied where some are, and comes in where every address may.
    Nameless,
}

/// The rules, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The operator's networks to deny.
    StaticDeny,
    /// The operator's networks to allow.
    StaticAllow,
    /// A ban in the store.
    Ban,
    /// The store's allow-set.
    AllowSet,
    /// Loopback and private networks.
    Internal,
    /// What holds when no other rule spoke.
    Default,
}

/// Why somebody may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// In a network that the operator allows.
    StaticAllow,
    /// In the store's allow-set.
    AllowSet,
    /// An internal address.
    Internal,
    /// The store is away, and the policy is `open`.
    StoreAway,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// In a network that the operator denies.
    StaticDeny,
    /// Banned in the store.
    Banned,
    /// Not in the allow-set.
    NotAllowed,
    /// The store is away, and nobody is admitted on its word.
    StoreAway,
    /// It has no address that a rule could let in.
    Nameless,
}

/// One of the two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// May come in.
    Allowed(Grant),
    /// May not.
    Denied(Why),
}

/// The answer, and what it hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// The entry that decided: in the store, or in the rules.
    pub member: Option<Member>,
    /// When it ends by itself (unix ms), and has to be asked for again.
    pub until_ms: Option<u64>,
}

/// What one rule found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The rule.
    pub rule: Rule,
    /// The entry that matches, whether or not it counts.
    pub entry: Option<Entry>,
    /// Why the rule was passed over.
    pub skipped: Option<Skip>,
    /// What it says, if it speaks.
    pub decision: Option<Decision>,
}

/// Why a rule is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The store is away, so its allow-set does not count.
    StoreAway,
    /// Internal addresses are checked as all others are.
    InternalChecked,
    /// The address is announced, not the socket's own.
    NotTheSocket,
    /// There is no address.
    Nameless,
}

/// Every rule with what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// All rules in their order, also those after the one that decided.
    pub lines: Vec<Line>,
    /// Which rule decided: the first that spoke.
    pub decided: Rule,
    /// What it decided.
    pub decision: Decision,
    /// What the allow-set counted for.
    pub stance: Stance,
}

struct Ask<'a> {
    rules: &'a Rules,
    facts: &'a Snapshot,
    peer: Peer,
    now_ms: u64,
    stance: Stance,
}

/// Whether a newcomer may come in.
pub fn decide(rules: &Rules, facts: &Snapshot, peer: Peer, now_ms: u64) -> Decision {
    let stance = rules.away.stance(facts.freshness(), now_ms);
    Ask { rules, facts, peer, now_ms, stance }.decide().1
}

/// Whether somebody who was let in may stay. A removal, a ban or an expiry ends
/// that; a store that is out of reach took nothing back, so the last known
/// state counts without limit, except that `open` stays open. A store that was never
/// read, as that of a gate which a reload has just changed, has said nothing at all.
pub fn recheck(rules: &Rules, facts: &Snapshot, peer: Peer, now_ms: u64) -> Decision {
    let stance = match rules.away.stance(facts.freshness(), now_ms) {
        _ if facts.freshness().is_never_read() => Stance::Open,
        Stance::Closed | Stance::Stale(_) => Stance::Stale(None),
        stance => stance,
    };
    Ask { rules, facts, peer, now_ms, stance }.decide().1
}

/// What [`decide`] says, and what each rule found.
pub fn explain(rules: &Rules, facts: &Snapshot, peer: Peer, now_ms: u64) -> Explanation {
    let stance = rules.away.stance(facts.freshness(), now_ms);
    let ask = Ask { rules, facts, peer, now_ms, stance };
    let (decided, decision) = ask.decide();
    Explanation { lines: ask.lines().collect(), decided, decision, stance }
}

// === impl Ask ===

impl Ask<'_> {
    /// The first rule that speaks.
    fn decide(&self) -> (Rule, Decision) {
        let mut spoken = self.lines().filter_map(|line| Some((line.rule, line.decision?)));
        spoken.next().unwrap_or_else(|| (Rule::Default, self.default()))
    }

    /// Looks up no more than the caller goes through.
    fn lines(&self) -> impl Iterator<Item = Line> {
        Rule::ORDER.into_iter().map(|rule| self.line(rule))
    }

    fn line(&self, rule: Rule) -> Line {
        let (entry, skipped) = self.find(rule);
        let decision = match (rule.verdict(), entry) {
            (Some(verdict), Some(entry)) if skipped.is_none() => {
                Some(self.by_entry(verdict, entry))
            }
            (Some(_), _) => None,
            (None, _) => Some(self.default()),
        };
        Line { rule, entry, skipped, decision }
    }

    fn find(&self, rule: Rule) -> (Option<Entry>, Option<Skip>) {
        let Some(ip) = self.peer.ip() else { return self.find_for_nameless(rule) };
        match rule {
            Rule::StaticDeny => (self.rules.deny.lookup(ip).map(|(net, ())| net.into()), None),
            Rule::StaticAllow => (self.rules.allow.lookup(ip).map(|(net, ())| net.into()), None),
            Rule::Ban => (self.facts.banned(ip, self.now_ms), None),
            Rule::AllowSet => {
                let counts = matches!(self.stance, Stance::Fresh | Stance::Stale(_));
                let skipped = if counts { None } else { Some(Skip::StoreAway) };
                (self.facts.allowed(ip, self.now_ms), skipped)
            }
            Rule::Internal => {
                let skipped = match (self.rules.internal, self.peer) {
                    (Internal::Check, _) => Some(Skip::InternalChecked),
                    (Internal::Allow, Peer::Announced(_)) => Some(Skip::NotTheSocket),
                    (Internal::Allow, _) => None,
                };
                (internal_network(ip).map(Entry::from), skipped)
            }
            Rule::Default => (None, None),
        }
    }

    /// The operator's rules alone: what the store knows are addresses, and which of
    /// them is banned can change at any moment.
    fn find_for_nameless(&self, rule: Rule) -> (Option<Entry>, Option<Skip>) {
        match rule {
            Rule::StaticDeny => (self.rules.deny.iter().next().map(|(net, ())| net.into()), None),
            Rule::StaticAllow => (self.rules.allows_everybody().map(Entry::from), None),
            Rule::Ban | Rule::AllowSet | Rule::Internal => (None, Some(Skip::Nameless)),
            Rule::Default => (None, None),
        }
    }

    fn by_entry(&self, verdict: Verdict, entry: Entry) -> Decision {
        let limit = match (verdict, self.stance) {
            (Verdict::Allowed(Grant::AllowSet), Stance::Stale(limit)) => limit,
            _ => None,
        };
        let until_ms = [entry.expires_ms, limit].into_iter().flatten().min();
        Decision { verdict, member: Some(entry.member), until_ms }
    }

    fn default(&self) -> Decision {
        let verdict = match self.stance {
            _ if self.peer == Peer::Nameless => Verdict::Denied(Why::Nameless),
            Stance::Fresh | Stance::Stale(_) => Verdict::Denied(Why::NotAllowed),
            Stance::Open => Verdict::Allowed(Grant::StoreAway),
            Stance::Closed => Verdict::Denied(Why::StoreAway),
        };
        Decision { verdict, member: None, until_ms: None }
    }
}

// === impl Rule ===

impl Rule {
    /// The order of decision.
    pub const ORDER: [Self; 6] = [
        Self::StaticDeny,
        Self::StaticAllow,
        Self::Ban,
        Self::AllowSet,
        Self::Internal,
        Self::Default,
    ];

    /// The stable name, in kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaticDeny => "static-deny",
            Self::StaticAllow => "static-allow",
            Self::Ban => "ban",
            Self::AllowSet => "allow-set",
            Self::Internal => "internal",
            Self::Default => "default",
        }
    }

    /// What an entry that it finds means.
    fn verdict(self) -> Option<Verdict> {
        match self {
            Self::StaticDeny => Some(Verdict::Denied(Why::StaticDeny)),
            Self::StaticAllow => Some(Verdict::Allowed(Grant::StaticAllow)),
            Self::Ban => Some(Verdict::Denied(Why::Banned)),
            Self::AllowSet => Some(Verdict::Allowed(Grant::AllowSet)),
            Self::Internal => Some(Verdict::Allowed(Grant::Internal)),
            Self::Default => None,
        }
    }
}

// === impl Decision ===

impl Decision {
    /// Whether the peer may come in.
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allowed(_))
    }

    /// The stable name of the reason in logs and metrics, in kebab case.
    pub fn reason(&self) -> &'static str {
        match self.verdict {
            Verdict::Allowed(Grant::StaticAllow) => "static-allow",
            Verdict::Allowed(Grant::AllowSet) => "allow-set",
            Verdict::Allowed(Grant::Internal) => "internal",
            Verdict::Allowed(Grant::StoreAway) => "store-away-open",
            Verdict::Denied(Why::StaticDeny) => "static-deny",
            Verdict::Denied(Why::Banned) => "banned",
            Verdict::Denied(Why::NotAllowed) => "not-allowed",
            Verdict::Denied(Why::StoreAway) => "store-away",
            Verdict::Denied(Why::Nameless) => "nameless",
        }
    }
}

// === impl Explanation ===

impl Skip {
    /// The reason as a phrase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StoreAway => "the store is away",
            Self::InternalChecked => "internal addresses are checked",
            Self::NotTheSocket => "announced by a proxy, not the socket's own address",
            Self::Nameless => "announced by a proxy without an address",
        }
    }
}

// === impl Peer ===

impl Peer {
    /// The address, where it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Socket(ip) | Self::Announced(ip) => Some(ip.to_canonical()),
            Self::Nameless => None,
        }
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
