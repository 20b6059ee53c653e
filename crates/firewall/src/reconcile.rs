//! The steps that make what is there what is wanted.

use std::cmp::Ordering;
use std::time::Duration;

use ipnet::IpNet;
use knockpipe_base::unix_time::Expiry;

pub(crate) use crate::entries::Step;
use crate::entries::{Entries, Entry, Lasting, order};

/// Properties of entries that a firewall keeps. Others are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeps {
    /// It ends entries by itself, so much later than is wanted at most, and never earlier. `None`
    /// where it keeps entries until they are removed.
    pub ends: Option<Duration>,
    /// It has names for entries.
    pub labels: bool,
}

/// Returns the steps from what is `present` to what is `wanted`: first those that let in, so that
/// firewalls without transactions have no moment in which a wanted network is missing.
pub fn reconcile(wanted: &Entries, present: &Entries, keeps: Keeps) -> Vec<Step> {
    let (mut steps, mut removals) = (vec![], vec![]);
    let (mut wanted, mut present) = (wanted.iter().peekable(), present.iter().peekable());
    loop {
        let order = match (wanted.peek(), present.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((wish, _)), Some((there, _))) => order(wish).cmp(&order(there)),
        };
        let wish = if order.is_le() { wanted.next() } else { None };
        let there = if order.is_ge() { present.next() } else { None };
        match (wish, there) {
            (Some(wish), None) => steps.push(Step::Add(entry(wish))),
            (Some(wish), Some((_, lasting))) if !is_same(wish.1, lasting, keeps) => {
                steps.push(Step::Change(entry(wish)));
            }
            (None, Some((network, _))) => removals.push(Step::Remove(*network)),
            _ => {}
        }
    }
    steps.append(&mut removals);
    steps
}

fn entry((network, lasting): (&IpNet, &Lasting)) -> Entry {
    Entry { network: *network, lasting: lasting.clone() }
}

/// Returns true if a firewall that keeps so much has no reason to change the entry.
fn is_same(wanted: &Lasting, present: &Lasting, keeps: Keeps) -> bool {
    let has_end = keeps.ends.is_none_or(|late| ends_in_time(wanted.end, present.end, late));
    has_end && (!keeps.labels || wanted.label == present.label)
}

/// Returns true if what is there ends no earlier than it should, and `late` by so much at most. An
/// end that is too early would shut a client out until the next comparison.
fn ends_in_time(wanted: Expiry, present: Expiry, late: Duration) -> bool {
    match (wanted.moment(), present.moment()) {
        (None, None) => true,
        (Some(wanted), Some(present)) => {
            wanted <= present && present.saturating_since(wanted) <= late
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
