//! Entries as elements of the table's sets, and the commands that change these.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use knockpipe_base::unix_time::{Expiry, UnixMillis};
use nftables::expr::{Elem, Expression, NamedExpression};
use nftables::schema::{Element, NfCmd, NfListObject};
use nftables::types::NfFamily;
use serde_json::Value;

use super::layout::{Commands, SetOf};
use crate::backend::BackendError;
use crate::clock::now;
use crate::entries::{Entries, Entry};
use crate::reconcile::Step;

/// The sets of a table and what is in them.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) sets: BTreeSet<SetOf>,
    pub(super) entries: Entries,
}

/// Reads the sets of a listed table.
pub(super) fn listed(objects: &[Value]) -> Result<Listed, BackendError> {
    let now = now();
    let (mut sets, mut entries) = (BTreeSet::new(), vec![]);
    for set in objects.iter().filter_map(|object| object.get("set")) {
        let name = set.get("name").and_then(Value::as_str);
        let Some(own) = name.and_then(SetOf::named) else { continue };
        sets.insert(own);
        let elements = set.get("elem").and_then(Value::as_array);
        for element in elements.into_iter().flatten() {
            entries.push(read(own, element, now).ok_or_else(|| unknown(element))?);
        }
    }
    Ok(Listed { sets, entries: entries.into_iter().collect() })
}

fn unknown(element: &Value) -> BackendError {
    let text: String = element.to_string().chars().take(100).collect();
    BackendError::passing(
        format!("a set has the element {text}, which this program does not make"),
        "remove it with 'nft delete element'",
    )
}

/// Reads one element: an address, perhaps with a timeout.
fn read(set: SetOf, element: &Value, now: UnixMillis) -> Option<Entry> {
    let (value, end) = match element.get("elem") {
        None => (element, Expiry::Never),
        Some(whole) => (whole.get("val")?, end_of(whole, now)),
    };
    let address = value.as_str()?.parse().ok()?;
    // One with more bits matches no packet, and could not be removed by its network.
    let network = set.network(address).filter(|network| network.addr() == address)?;
    Some(Entry::new(network, end))
}

/// Returns the end by the whole seconds that are left. It is never early.
fn end_of(element: &Value, now: UnixMillis) -> Expiry {
    let left = element.get("expires").or_else(|| element.get("timeout")).and_then(Value::as_u64);
    let left = left.map(|seconds| Duration::from_secs(seconds.saturating_add(1)));
    Expiry::after(now, left)
}

/// Returns the commands for steps, as one transaction, where the table has the sets `there`.
///
/// An element that ends may be gone when its removal arrives, and removing what is not there fails.
/// So what is to be removed is added first, which changes nothing where it is there. Another
/// end takes a removal, too: to add what is there leaves it as it is.
pub(super) fn commands(table: &str, steps: &[Step], there: &BTreeSet<SetOf>) -> Commands {
    let now = now();
    let mut changes: BTreeMap<SetOf, Changes> = BTreeMap::new();
    for step in steps {
        let changes = changes.entry(SetOf::of(step.network())).or_default();
        if !matches!(step, Step::Add(_)) {
            changes.gone.push(value(step.network()));
        }
        changes.new.extend(addition(step, now));
    }
    let mut commands = Commands::default();
    for (set, Changes { gone, new }) in changes {
        if !there.contains(&set) {
            commands.add_set(table, set);
        }
        let element = |elem: Vec<Expression<'static>>| {
            NfListObject::Element(Element {
                family: NfFamily::INet,
                table: table.to_owned().into(),
                name: set.name().into(),
                elem: elem.into(),
            })
        };
        if !gone.is_empty() {
            commands.push(NfCmd::Add(element(gone.clone())));
            commands.push(NfCmd::Delete(element(gone)));
        }
        if !new.is_empty() {
            commands.push(NfCmd::Add(element(new)));
        }
    }
    commands
}

/// Changes of one set.
#[derive(Default)]
struct Changes {
    gone: Vec<Expression<'static>>,
    new: Vec<Expression<'static>>,
}

/// Returns the element that a step adds, with the time that is left.
fn addition(step: &Step, now: UnixMillis) -> Option<Expression<'static>> {
    let (Step::Add(entry) | Step::Change(entry)) = step else { return None };
    let value = value(entry.network);
    let Some(left) = entry.lasting.end.left(now) else { return Some(value) };
    // Never earlier than the end; the program removes it in time.
    let seconds = left.as_millis().div_ceil(1000).max(1);
    let timeout = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
    let element = Elem { val: Box::new(value), timeout, ..Elem::default() };
    Some(Expression::Named(NamedExpression::Elem(element)))
}

fn value(network: IpNet) -> Expression<'static> {
    Expression::String(network.addr().to_string().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_of_an_element_is_read() {
        let now = UnixMillis(1_000_000);
        let set = |name| SetOf::named(name).unwrap();
        let never = |text| Some(Entry::new(net(text), Expiry::Never));
        assert_eq!(read(set("ipv4_32"), &json!("192.0.2.1"), now), never("192.0.2.1/32"));
        assert_eq!(read(set("ipv6_64"), &json!("2001:db8::"), now), never("2001:db8::/64"));
        let timed = json!({"elem": {"val": "192.0.2.0", "timeout": 600, "expires": 59}});
        let end = Expiry::At(UnixMillis(1_060_000));
        let entry = Entry::new(net("192.0.2.0/24"), end);
        assert_eq!(read(set("ipv4_24"), &timed, now), Some(entry));
        for odd in [json!(7), json!("eth0"), json!("::1"), json!({})] {
            assert_eq!(read(set("ipv4_24"), &odd, now), None, "{odd}");
        }
        for odd in ["ipv4_33", "ipv4_", "ipv5_1", "ipv4_01", "ipv4_+1", "ipv6_129", "other"] {
            assert_eq!(SetOf::named(odd), None, "{odd}");
        }
    }

    #[test]
    fn elements_are_removed_before_others_are_added_and_only_if_they_may_be_there() {
        let end = Expiry::At(now().saturating_add(Duration::from_millis(1_500)));
        let steps = [
            Step::Add(Entry::new(net("192.0.2.0/29"), Expiry::Never)),
            Step::Change(Entry::new(net("192.0.2.9/32"), end)),
            Step::Remove(net("192.0.2.0/28")),
        ];
        let there = ["ipv4_32", "ipv4_28"].into_iter().filter_map(SetOf::named).collect();
        let lines = commands("t", &steps, &there).lines();
        let verbs: Vec<String> = lines
            .iter()
            .map(|line| line[2..].split("\":{\"").take(2).collect::<Vec<_>>().join(" "))
            .collect();
        let wanted = [
            "add element",
            "delete element",
            "add set",
            "add rule",
            "add element",
            "add element",
            "delete element",
            "add element",
        ];
        assert_eq!(verbs, wanted, "{lines:?}");
        assert!(lines[7].contains(r#""timeout":2"#) && lines[7].contains("ipv4_32"), "{lines:?}");
        assert!(commands("t", &[], &there).is_empty());
    }
}
