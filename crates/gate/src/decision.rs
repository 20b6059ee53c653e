//! The decision about an address: six rules in one order, and the first that applies decides.
//!
//! [`decide`], [`recheck`] and [`explain`] walk the same rules, so that `gate why`
//! shows an operator what happened. The rules make no request: a
//! decision is a function of the operator's rules, the [`Snapshot`] of the
//! store, the address and the moment.
//!
//! | | rule | store fresh | unavailable: `closed` | unavailable: `open` | unavailable: `stale:D` |
//! |---|---|---|---|---|---|
//! | 1 | static deny | denied | same | same | same |
//! | 2 | static allow | allowed | same | same | same |
//! | 3 | ban in the store | denied | bans known | bans known | bans known |
//! | 4 | allow-set | allowed | passed over | passed over | last known, for D |
//! | 5 | internal address, with `--internal allow` | allowed | same | same | same |
//! | 6 | nothing of these | denied | denied | allowed | denied |
//!
//! A client without an address ([`Peer::Nameless`]) is denied by rule 1 if that names any
//! address, allowed by rule 2 if that names every address, and denied otherwise.
//!
//! Entries end by their own expiry in every column. A store that was never read
//! is unavailable, and has no last known state to be stale.

use std::net::IpAddr;

use crate::member::{Entry, Member};
use crate::rules::{EffectivePolicy, Internal, Rules, internal_network};
use crate::snapshot::Snapshot;
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The client that a decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The address of the socket.
    Socket(IpAddr),
    /// An address that a load balancer wrote into a PROXY header. It is never
    /// internal: an announced address does not prove a connection from it.
    Announced(IpAddr),
    /// A client for which the load balancer announces no address. It may have any, so
    /// it is denied where some are, and allowed where every address is.
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
    /// The default, if no other rule applies.
    Default,
}

/// The reason for an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AllowReason {
    /// In a network that the operator allows.
    StaticAllow,
    /// In the store's allow-set.
    AllowSet,
    /// An internal address.
    Internal,
    /// The store is unavailable, and the policy is `open`.
    StoreUnavailable,
}

/// The reason for a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// In a network that the operator denies.
    StaticDeny,
    /// Banned in the store.
    Banned,
    /// Not in the allow-set.
    NotAllowed,
    /// The store is unavailable, and the policy admits no address by the allow-set.
    StoreUnavailable,
    /// It has no address that a rule could allow.
    Nameless,
}

/// One of the two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Admitted.
    Allowed(AllowReason),
    /// Not admitted.
    Denied(DenyReason),
}

/// The answer, and what it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// The entry that decided, of the store or of the rules.
    pub member: Option<Member>,
    /// The end of the answer, after which it has to be decided again.
    pub until: Expiry,
}

/// The finding of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The rule.
    pub rule: Rule,
    /// The entry that matches, even if it does not count.
    pub entry: Option<Entry>,
    /// The reason why the rule was passed over.
    pub skipped: Option<Skip>,
    /// Its decision, if it applies.
    pub decision: Option<Decision>,
}

/// The reason why a rule is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The store is unavailable, so its allow-set does not count.
    StoreUnavailable,
    /// Internal addresses are checked as all others are.
    InternalChecked,
    /// The address is announced, not the socket's own.
    NotTheSocket,
    /// There is no address.
    Nameless,
}

/// All rules with their findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// All rules in their order, also those after the one that decided.
    pub lines: Vec<Line>,
    /// The rule that decided: the first that applies.
    pub decided: Rule,
    /// Its decision.
    pub decision: Decision,
    /// The policy in force.
    pub policy: EffectivePolicy,
}

struct Query<'a> {
    rules: &'a Rules,
    facts: &'a Snapshot,
    peer: Peer,
    now: UnixMillis,
    policy: EffectivePolicy,
}

/// Decides about a newcomer.
pub fn decide(rules: &Rules, facts: &Snapshot, peer: Peer, now: UnixMillis) -> Decision {
    let policy = rules.failure.effective(facts.freshness(), now);
    Query { rules, facts, peer, now, policy }.decide().1
}

/// Decides about a client that was admitted before. A removal, a ban or an expiry ends
/// its permit; a store that is unavailable took nothing back, so the last known
/// state counts without limit, except that `open` stays open. A store that was never
/// read, as that of a gate which a reload has just changed, has said nothing at all.
pub fn recheck(rules: &Rules, facts: &Snapshot, peer: Peer, now: UnixMillis) -> Decision {
    let policy = match rules.failure.effective(facts.freshness(), now) {
        _ if facts.freshness().is_never_read() => EffectivePolicy::Open,
        EffectivePolicy::Closed | EffectivePolicy::Stale(_) => {
            EffectivePolicy::Stale(Expiry::Never)
        }
        policy => policy,
    };
    Query { rules, facts, peer, now, policy }.decide().1
}

/// Decides as [`decide`] does, and returns the finding of each rule.
pub fn explain(rules: &Rules, facts: &Snapshot, peer: Peer, now: UnixMillis) -> Explanation {
    let policy = rules.failure.effective(facts.freshness(), now);
    let query = Query { rules, facts, peer, now, policy };
    let (decided, decision) = query.decide();
    Explanation { lines: query.lines().collect(), decided, decision, policy }
}

// === impl Query ===

impl Query<'_> {
    /// The first rule that applies.
    fn decide(&self) -> (Rule, Decision) {
        let mut decisions = self.lines().filter_map(|line| Some((line.rule, line.decision?)));
        decisions.next().unwrap_or_else(|| (Rule::Default, self.default()))
    }

    /// Findings of the rules in their order, each looked up when the caller gets to it.
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
            Rule::Ban => (self.facts.banned(ip, self.now), None),
            Rule::AllowSet => {
                let counts =
                    matches!(self.policy, EffectivePolicy::Fresh | EffectivePolicy::Stale(_));
                let skipped = if counts { None } else { Some(Skip::StoreUnavailable) };
                (self.facts.allowed(ip, self.now), skipped)
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

    /// Looks at the operator's rules alone: the store knows addresses, and any of them
    /// can become banned at any moment.
    fn find_for_nameless(&self, rule: Rule) -> (Option<Entry>, Option<Skip>) {
        match rule {
            Rule::StaticDeny => (self.rules.deny.iter().next().map(|(net, ())| net.into()), None),
            Rule::StaticAllow => (self.rules.allows_every_address().map(Entry::from), None),
            Rule::Ban | Rule::AllowSet | Rule::Internal => (None, Some(Skip::Nameless)),
            Rule::Default => (None, None),
        }
    }

    fn by_entry(&self, verdict: Verdict, entry: Entry) -> Decision {
        let limit = match (verdict, self.policy) {
            (Verdict::Allowed(AllowReason::AllowSet), EffectivePolicy::Stale(limit)) => limit,
            _ => Expiry::Never,
        };
        Decision { verdict, member: Some(entry.member), until: entry.expiry.min(limit) }
    }

    fn default(&self) -> Decision {
        let verdict = match self.policy {
            _ if self.peer == Peer::Nameless => Verdict::Denied(DenyReason::Nameless),
            EffectivePolicy::Fresh | EffectivePolicy::Stale(_) => {
                Verdict::Denied(DenyReason::NotAllowed)
            }
            EffectivePolicy::Open => Verdict::Allowed(AllowReason::StoreUnavailable),
            EffectivePolicy::Closed => Verdict::Denied(DenyReason::StoreUnavailable),
        };
        Decision { verdict, member: None, until: Expiry::Never }
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

    /// The verdict of an entry that it finds.
    fn verdict(self) -> Option<Verdict> {
        match self {
            Self::StaticDeny => Some(Verdict::Denied(DenyReason::StaticDeny)),
            Self::StaticAllow => Some(Verdict::Allowed(AllowReason::StaticAllow)),
            Self::Ban => Some(Verdict::Denied(DenyReason::Banned)),
            Self::AllowSet => Some(Verdict::Allowed(AllowReason::AllowSet)),
            Self::Internal => Some(Verdict::Allowed(AllowReason::Internal)),
            Self::Default => None,
        }
    }
}

// === impl Decision ===

impl Decision {
    /// Returns true if the peer is admitted.
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allowed(_))
    }

    /// The stable name of the reason in logs and metrics, in kebab case.
    pub fn reason(&self) -> &'static str {
        match self.verdict {
            Verdict::Allowed(AllowReason::StaticAllow) => "static-allow",
            Verdict::Allowed(AllowReason::AllowSet) => "allow-set",
            Verdict::Allowed(AllowReason::Internal) => "internal",
            Verdict::Allowed(AllowReason::StoreUnavailable) => "store-unavailable-open",
            Verdict::Denied(DenyReason::StaticDeny) => "static-deny",
            Verdict::Denied(DenyReason::Banned) => "banned",
            Verdict::Denied(DenyReason::NotAllowed) => "not-allowed",
            Verdict::Denied(DenyReason::StoreUnavailable) => "store-unavailable",
            Verdict::Denied(DenyReason::Nameless) => "nameless",
        }
    }
}

// === impl Explanation ===

impl Skip {
    /// The reason as a phrase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StoreUnavailable => "the store is unavailable",
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
