//! Rules of others that let all hosts in to ports that are guarded: with one of them the gate has
//! no effect. A new instance has such rules for its usual ports.

use super::api::Rule;
use super::plan::Key;
use crate::ports::{PortRange, Ports};

use knockpipe_base::printable::printable;

/// Returns the line about a rule that lets all hosts in to one of the ports.
pub(super) fn line(rule: &Rule, ports: &Ports, instance: &str) -> Option<String> {
    let key = Key::of(rule)?;
    if key.network.prefix_len() != 0 {
        return None;
    }
    let hit = ports.ranges().iter().find(|range| covers(rule, **range))?;
    let rule = text(rule);
    Some(format!(
        "the rule {rule} of instance {instance} lets every host in to {hit}; delete it in the console"
    ))
}

/// Returns true if a rule is for one of the ports.
fn covers(rule: &Rule, range: PortRange) -> bool {
    let protocol = rule.protocol.to_ascii_lowercase();
    if protocol != "all" && protocol != range.protocol.as_str() {
        return false;
    }
    let ports = rule.port.as_deref().unwrap_or("ALL");
    ports.split(',').map(str::trim).any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => first <= range.last && range.first <= last,
            _ => part.eq_ignore_ascii_case("all"),
        }
    })
}

/// Returns a rule as one line.
pub(super) fn text(rule: &Rule) -> String {
    let from = [&rule.cidr_block, &rule.ipv6_cidr_block].into_iter().flatten();
    let from = from.map(String::as_str).find(|text| !text.is_empty()).unwrap_or("?");
    let port = rule.port.as_deref().unwrap_or("ALL");
    let name = rule.firewall_rule_description.as_deref().unwrap_or_default();
    let text = format!("{} {port} from {from} \"{name}\"", rule.protocol);
    printable(&text).into_owned()
}
