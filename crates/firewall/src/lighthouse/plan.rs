//! The rules that entries need, and the changes from the rules that an instance has.
//!
//! Pure: rules and steps in, rules to create, rename and delete out. A foreign rule is never
//! among the latter two; where it lets in what we would let in, there is nothing to do.

use std::collections::HashSet;

use ipnet::IpNet;
use knockpipe_base::civil::Date;

use super::api::Rule;
use super::naming::Prefix;
use crate::entries::Entry;
use crate::ports::{PortRange, Ports, Protocol};
use crate::reconcile::Step;

/// The most characters of the ports of one rule.
const LONGEST_PORTS: usize = 64;

/// Action of rules that let in.
const ACCEPT: &str = "ACCEPT";

/// Settings that rules are made by.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) prefix: Prefix,
    pub(super) ports: Vec<PortText>,
}

/// The ports of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortText {
    pub(super) protocol: &'static str,
    pub(super) text: String,
}

/// Identity of a rule for the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    protocol: String,
    ports: Vec<String>,
    pub(super) network: IpNet,
}

/// Changes of the rules of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) create: Vec<Rule>,
    /// Rules with the description that they are to have.
    pub(super) rename: Vec<Rule>,
    pub(super) delete: Vec<Rule>,
}

/// Divides ports into rules: single ones together, since a rule takes no list with ranges in it.
pub(super) fn port_texts(ports: &Ports) -> Vec<PortText> {
    let mut texts: Vec<PortText> = vec![];
    for (protocol, name) in [(Protocol::Tcp, "TCP"), (Protocol::Udp, "UDP")] {
        let (single, ranges): (Vec<PortRange>, _) =
            ports.of(protocol).partition(|range| range.last - range.first < 2);
        let mut list = String::new();
        for port in single.iter().flat_map(|range| range.first..=range.last) {
            let port = port.to_string();
            if !list.is_empty() && list.len() + 1 + port.len() > LONGEST_PORTS {
                texts.push(PortText { protocol: name, text: std::mem::take(&mut list) });
            }
            let comma = if list.is_empty() { "" } else { "," };
            list += &format!("{comma}{port}");
        }
        if !list.is_empty() {
            texts.push(PortText { protocol: name, text: list });
        }
        texts.extend(ranges.iter().map(|range: &PortRange| PortText {
            protocol: name,
            text: format!("{}-{}", range.first, range.last),
        }));
    }
    texts
}

// === impl Form ===

impl Form {
    /// Returns the rules that an entry needs.
    pub(super) fn rules(&self, entry: &Entry, today: Date) -> impl Iterator<Item = Rule> {
        let description = self.prefix.describe(entry.lasting.label.as_deref(), today);
        let address = address(entry.network);
        self.ports.iter().map(move |PortText { protocol, text }| {
            let (v4, v6) = match entry.network {
                IpNet::V4(_) => (Some(address.clone()), None),
                IpNet::V6(_) => (None, Some(address.clone())),
            };
            Rule {
                protocol: (*protocol).to_owned(),
                port: Some(text.clone()),
                cidr_block: v4,
                ipv6_cidr_block: v6,
                action: ACCEPT.to_owned(),
                firewall_rule_description: Some(description.clone()),
            }
        })
    }

    /// Returns the key of a rule and the date of its description if it is ours.
    pub(super) fn own(&self, rule: &Rule) -> Option<(Key, Date)> {
        let name = self.prefix.read(rule.firewall_rule_description.as_deref()?)?;
        Some((Key::of(rule)?, name.date))
    }

    /// Returns the changes that carry the steps out on the rules `present`.
    pub(super) fn work(&self, present: &[Rule], steps: &[Step], today: Date) -> Work {
        let mut work = Work::default();
        for step in steps {
            match step {
                Step::Add(entry) => self.let_in(present, entry, today, &mut work),
                Step::Change(entry) => {
                    self.let_in(present, entry, today, &mut work);
                    let wanted: HashSet<Key> =
                        self.rules(entry, today).filter_map(|rule| Key::of(&rule)).collect();
                    work.delete.extend(self.of_network(present, entry.network, &wanted));
                }
                Step::Remove(network) => {
                    work.delete.extend(self.of_network(present, *network, &HashSet::new()));
                }
            }
        }
        work
    }

    fn let_in(&self, present: &[Rule], entry: &Entry, today: Date, work: &mut Work) {
        for wish in self.rules(entry, today) {
            let key = Key::of(&wish);
            match present.iter().find(|rule| Key::of(rule) == key) {
                None => work.create.push(wish),
                Some(rule) if self.own(rule).is_none() => {}
                Some(rule) if rule.firewall_rule_description == wish.firewall_rule_description => {}
                Some(rule) => {
                    let description = wish.firewall_rule_description;
                    work.rename
                        .push(Rule { firewall_rule_description: description, ..rule.clone() });
                }
            }
        }
    }

    /// Returns our rules for a network, without those of these keys.
    fn of_network(
        &self,
        present: &[Rule],
        network: IpNet,
        without: &HashSet<Key>,
    ) -> impl Iterator<Item = Rule> {
        present
            .iter()
            .filter(move |rule| {
                self.own(rule)
                    .is_some_and(|(key, _)| key.network == network && !without.contains(&key))
            })
            .cloned()
    }

    /// Returns our rules that are from `last` or before it, without those that `keep`.
    pub(super) fn old(
        &self,
        present: &[Rule],
        last: Date,
        keep: impl Fn(IpNet) -> bool,
    ) -> Vec<Rule> {
        let is_old = |rule: &&Rule| {
            self.own(rule).is_some_and(|(key, date)| date <= last && !keep(key.network))
        };
        present.iter().filter(is_old).cloned().collect()
    }
}

// === impl Key ===

impl Key {
    /// Returns true if the rule is for these ports.
    pub(super) fn is_for(&self, ports: &PortText) -> bool {
        let mut text: Vec<&str> = ports.text.split(',').collect();
        text.sort_unstable();
        self.protocol == ports.protocol && self.ports == text
    }

    /// Returns the key of a rule that lets a network in to ports; `None` of any other.
    pub(super) fn of(rule: &Rule) -> Option<Self> {
        if rule.action != ACCEPT {
            return None;
        }
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let blocks = (set(&rule.cidr_block), set(&rule.ipv6_cidr_block));
        let ((Some(text), None) | (None, Some(text))) = blocks else { return None };
        let network = match text.parse::<IpNet>() {
            Ok(network) => network.trunc(),
            Err(_) => text.parse::<std::net::IpAddr>().ok()?.into(),
        };
        let mut ports: Vec<String> =
            set(&rule.port)?.split(',').map(|port| port.trim().to_owned()).collect();
        ports.sort_unstable();
        Some(Self { protocol: rule.protocol.to_ascii_uppercase(), ports, network })
    }
}

/// Returns a network as the API has it: an address without a length.
pub(super) fn address(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}
