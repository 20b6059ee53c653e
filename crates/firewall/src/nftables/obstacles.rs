//! What other programs' rules do with the guarded ports, as far as a list of them shows.
//!
//! A report for an operator: rules can say a thing in more ways than are known here, so silence is
//! no proof. Nothing is changed.

use serde_json::Value;

use super::NftablesOptions;
use crate::ports::{PortRange, Protocol};

/// A rule of another program.
#[derive(Clone, Copy)]
struct Foreign<'a> {
    table: &'a str,
    family: &'a str,
    chain: &'a str,
    statements: &'a [Value],
}

/// Returns a line for each obstacle in a listed rule set.
pub(super) fn find(objects: &[Value], options: &NftablesOptions) -> Vec<String> {
    let rules: Vec<Foreign<'_>> =
        objects.iter().filter_map(foreign).filter(|rule| !rule.is_in(&options.table)).collect();
    let mut found: Vec<String> = vec![];
    let redirected = rules.iter();
    found.extend(redirected.filter_map(|rule| rule.redirects(options)));
    found.extend(rules.iter().filter_map(|rule| rule.refuses(options)));
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    found.extend(chains.filter_map(|chain| drops_by_default(chain, &rules, options)));
    found.dedup();
    found
}

fn foreign(object: &Value) -> Option<Foreign<'_>> {
    let rule = object.get("rule")?;
    let text = |field| rule.get(field).and_then(Value::as_str);
    let statements = rule.get("expr")?.as_array()?;
    let (table, family, chain) = (text("table")?, text("family")?, text("chain")?);
    Some(Foreign { table, family, chain, statements })
}

/// Returns the line about a chain that drops what no rule of its table accepts.
fn drops_by_default(
    chain: &Value,
    rules: &[Foreign<'_>],
    options: &NftablesOptions,
) -> Option<String> {
    let text = |field| chain.get(field).and_then(Value::as_str);
    let (family, table, name) = (text("family")?, text("table")?, text("name")?);
    let hook = text("hook")?;
    let is_on_the_way =
        (hook == "input" && options.hooks.input) || (hook == "forward" && options.hooks.forward);
    let is_ours = family == "inet" && table == options.table;
    if !is_on_the_way || is_ours || text("policy") != Some("drop") {
        return None;
    }
    let accepts = |range: &PortRange| {
        let own = rules.iter().filter(|rule| rule.table == table && rule.family == family);
        own.into_iter().any(|rule| rule.does("accept") && rule.may_concern(*range))
    };
    let closed = options.ports.ranges().iter().find(|range| !accepts(range))?;
    Some(format!(
        "chain {family} {table} {name} drops by default, and no rule of that table accepts {closed}; \
         accept it there, from anybody: this firewall keeps strangers out before"
    ))
}

impl Foreign<'_> {
    fn is_in(&self, table: &str) -> bool {
        self.family == "inet" && self.table == table
    }

    fn does(&self, word: &str) -> bool {
        self.statements.iter().any(|statement| statement.get(word).is_some())
    }

    /// Returns the line about a rule that sends packets for a guarded port to another address,
    /// where chains for this host's own packets do not see them.
    fn redirects(&self, options: &NftablesOptions) -> Option<String> {
        // Rules of iptables are shown without the address that they lead to.
        let may_leave = self.does("dnat") || (self.does("xt") && self.table == "nat");
        // What stays on this host, by `redirect` or `tproxy`, passes the chain for its own packets.
        let stays = may_leave || self.does("redirect") || self.does("tproxy");
        let hooks = options.hooks;
        let leads_away = (may_leave && !hooks.forward) || (stays && !hooks.input);
        let range = options.ports.ranges().iter().find(|range| self.names(**range))?;
        leads_away.then(|| {
            let Self { family, table, chain, .. } = self;
            format!(
                "a rule of {family} {table} {chain} sends {range} to another address or port (as \
                 Docker does with published ports), past the chain that is there; write --hook \
                 input,forward"
            )
        })
    }

    /// Returns the line about a rule that drops or rejects packets for a guarded port.
    fn refuses(&self, options: &NftablesOptions) -> Option<String> {
        let range = options.ports.ranges().iter().find(|range| self.names(**range))?;
        (self.does("drop") || self.does("reject")).then(|| {
            let Self { family, table, chain, .. } = self;
            format!(
                "a rule of {family} {table} {chain} refuses {range} to some; who is let in here \
                 may still be refused there: look at it with 'nft list chain {family} {table} {chain}'"
            )
        })
    }

    /// Returns true if a match of the rule is about one of these ports.
    fn names(&self, range: PortRange) -> bool {
        self.ports(range.protocol).any(|value| meets(value, range))
    }

    /// Returns true if the rule is about these ports, or about no ports at all.
    fn may_concern(&self, range: PortRange) -> bool {
        let is_about_ports = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .any(|protocol| self.ports(protocol).next().is_some());
        let is_about_else =
            self.statements.iter().any(|statement| statement.get("match").is_some());
        self.names(range) || (!is_about_ports && !is_about_else)
    }

    /// Returns the right sides of matches about destination ports.
    fn ports(&self, protocol: Protocol) -> impl Iterator<Item = &Value> {
        self.statements.iter().filter_map(move |statement| {
            let found = statement.get("match")?;
            let payload = found.get("left")?.get("payload")?;
            let is = |field: &str, wanted: &[&str]| {
                payload.get(field).and_then(Value::as_str).is_some_and(|it| wanted.contains(&it))
            };
            let is_port = is("field", &["dport"]) && is("protocol", &[protocol.as_str(), "th"]);
            is_port.then(|| found.get("right")).flatten()
        })
    }
}

/// Returns true if a value, range or set has one of these ports.
fn meets(value: &Value, range: PortRange) -> bool {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    if let Some(port) = number(value) {
        return (range.first..=range.last).contains(&port);
    }
    if let Some(bounds) = value.get("range") {
        let bound = |place: usize| bounds.get(place).and_then(number);
        return bound(0)
            .zip(bound(1))
            .is_some_and(|(first, last)| first <= range.last && range.first <= last);
    }
    let members = value.get("set").and_then(Value::as_array);
    members.is_some_and(|members| members.iter().any(|member| meets(member, range)))
}
