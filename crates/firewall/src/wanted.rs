//! The networks that may connect, by the operator's rules and the content of the store.
//!
//! What `knockpipe_gate::decide` says of one address, this says of all of them. A network in another
//! one is there only if it lasts longer. Firewalls have no common way to take something away from a
//! network, so what is banned is cut out: what remains are the parts around it.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use knockpipe_base::unix_time::{Expiry, UnixMillis};
use knockpipe_gate::rules::INTERNAL;
use knockpipe_gate::{EffectivePolicy, Internal, Item, Rules, Snapshot};

use crate::entries::{Entries, Entry, order};

/// Parts that one network is cut into at most. One that needs more is left out as a whole: it
/// would fill a firewall, and to leave the bans out instead would let in who must not.
const MOST_PARTS: usize = 20_000;

/// Longest time that is one: a hundred years. Firewalls count seconds in 32 bits.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The networks.
    pub entries: Entries,
    /// Networks that were left out, because too many parts of them are banned.
    pub left_out: Vec<IpNet>,
}

/// What a rule says of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Allowed whatever the store says.
    Always,
    /// Allowed until this end, unless banned.
    Until(Expiry),
    /// Banned in the store.
    Banned,
    /// Denied whatever the store says.
    Never,
}

/// What all rules say of the addresses of a network that is not in a smaller one.
#[derive(Clone, Copy, Debug, Default)]
struct Says {
    always: bool,
    until: Option<Expiry>,
    is_banned: bool,
    is_denied: bool,
}

/// A network with those inside it.
struct Frame {
    network: IpNet,
    says: Says,
    /// Parts for which something else holds.
    holes: Vec<IpNet>,
}

/// Determines what may connect at `now`. `policy` is the one in force.
pub fn wanted(rules: &Rules, store: &Snapshot, policy: EffectivePolicy, now: UnixMillis) -> Wanted {
    let mut words = words_of_rules(rules, policy);
    let counts = matches!(policy, EffectivePolicy::Fresh | EffectivePolicy::Stale(_));
    words.extend(store.entries(now).filter_map(|item| match item {
        Item::Allowed(member, expiry) if counts => {
            Some((member.into(), Word::Until(bounded(expiry, now))))
        }
        Item::Allowed(..) => None,
        Item::Banned(member, _) => Some((member.into(), Word::Banned)),
    }));
    // A network before those inside it.
    words.sort_unstable_by_key(|(network, _)| order(network));
    resolve(&words)
}

/// Returns what the operator's rules say, and the policy for a store that is away.
fn words_of_rules(rules: &Rules, policy: EffectivePolicy) -> Vec<(IpNet, Word)> {
    let deny = rules.deny.iter().map(|(network, ())| (network, Word::Never));
    let allow = rules.allow.iter().map(|(network, ())| (network, Word::Always));
    let internal = match rules.internal {
        Internal::Allow => &INTERNAL[..],
        Internal::Check => &[],
    };
    let everyone = match policy {
        EffectivePolicy::Open => &everyone()[..],
        _ => &[],
    };
    let others = internal.iter().chain(everyone).map(|net| (*net, Word::Until(Expiry::Never)));
    deny.chain(allow).chain(others).collect()
}

/// Makes an end that no firewall can represent none at all: a store may have milliseconds where
/// seconds are meant.
fn bounded(expiry: Expiry, now: UnixMillis) -> Expiry {
    if expiry.left(now).is_some_and(|left| left > LONGEST) { Expiry::Never } else { expiry }
}

/// Returns the networks of all addresses.
const fn everyone() -> [IpNet; 2] {
    [
        IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
    ]
}

/// Joins what is said of networks, which come sorted.
fn resolve(words: &[(IpNet, Word)]) -> Wanted {
    let mut resolving = Resolving::default();
    for (network, word) in words {
        resolving.close_until(*network);
        resolving.open(*network, *word);
    }
    while resolving.close() {}
    Wanted { entries: resolving.entries.into_iter().collect(), left_out: resolving.left_out }
}

/// The networks that are open, each inside the one before, and the result so far.
#[derive(Default)]
struct Resolving {
    open: Vec<Frame>,
    entries: Vec<Entry>,
    left_out: Vec<IpNet>,
}

impl Resolving {
    /// Closes the networks that do not contain `network`.
    fn close_until(&mut self, network: IpNet) {
        while self.open.last().is_some_and(|last| !last.network.contains(&network)) {
            self.close();
        }
    }

    fn open(&mut self, network: IpNet, word: Word) {
        match self.open.last_mut() {
            Some(last) if last.network == network => last.says.add(word),
            last => {
                let mut says = last.map(|outer| outer.says).unwrap_or_default();
                says.add(word);
                self.open.push(Frame { network, says, holes: vec![] });
            }
        }
    }

    /// Closes the innermost network. Returns false if there is none.
    fn close(&mut self) -> bool {
        let Some(frame) = self.open.pop() else { return false };
        let (end, outer) = (frame.says.end(), self.open.last_mut());
        let outer_end = outer.as_ref().and_then(|outer| outer.says.end());
        match outer {
            Some(outer) if end == outer_end => outer.holes.extend(frame.holes),
            outer => {
                match (outer, end) {
                    (Some(outer), None) => outer.holes.push(frame.network),
                    // It lasts longer, and what is not in it is not in the one around it either.
                    (Some(outer), Some(_)) => outer.holes.extend(&frame.holes),
                    (None, _) => {}
                }
                if let Some(end) = end {
                    self.emit(&frame, end);
                }
            }
        }
        true
    }

    /// Adds the network to the result, without its holes.
    fn emit(&mut self, frame: &Frame, end: Expiry) {
        let mut parts = Parts { out: vec![], budget: MOST_PARTS };
        if frame.holes.is_empty() {
            self.entries.push(Entry::new(frame.network, end));
        } else if parts.around(frame.network, &frame.holes) {
            self.entries.extend(parts.out.into_iter().map(|part| Entry::new(part, end)));
        } else {
            self.left_out.push(frame.network);
        }
    }
}

impl Says {
    fn add(&mut self, word: Word) {
        match word {
            Word::Always => self.always = true,
            Word::Until(end) => self.until = self.until.max(Some(end)),
            Word::Banned => self.is_banned = true,
            Word::Never => self.is_denied = true,
        }
    }

    /// Returns the end of the right to connect; `None` is none at all. The order is that of
    /// `knockpipe_gate::decision`.
    fn end(self) -> Option<Expiry> {
        match self {
            Self { is_denied: true, .. } => None,
            Self { always: true, .. } => Some(Expiry::Never),
            Self { is_banned: true, .. } => None,
            Self { until, .. } => until,
        }
    }
}

/// The parts of a network around its holes.
struct Parts {
    out: Vec<IpNet>,
    budget: usize,
}

impl Parts {
    /// Collects the parts; returns false if there are too many. Holes are sorted and disjoint.
    fn around(&mut self, network: IpNet, holes: &[IpNet]) -> bool {
        match holes {
            [] if self.out.len() == self.budget => return false,
            [] => self.out.push(network),
            [hole, ..] if *hole == network => {}
            holes => {
                let Some([low, high]) = halves(network) else { return true };
                let middle = holes.partition_point(|hole| low.contains(hole));
                let (below, above) = holes.split_at(middle);
                return self.around(low, below) && self.around(high, above);
            }
        }
        true
    }
}

/// Returns both halves of a network.
fn halves(network: IpNet) -> Option<[IpNet; 2]> {
    let mut halves = network.subnets(network.prefix_len() + 1).ok()?;
    Some([halves.next()?, halves.next()?])
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
