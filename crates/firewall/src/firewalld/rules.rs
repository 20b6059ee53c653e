//! The text of our rich rules, and reading it back.
//!
//! Rich rules have no names, so their priorities are the mark: a rule is ours if it is letter by
//! letter what we would have written for its network and ports. Priorities below zero come before
//! whatever else the zone lets in.

use ipnet::IpNet;

use crate::ports::PortRange;

/// Priority of the rules that keep all others out.
const KEEP_OUT: i32 = -20_001;

/// Priorities of the rules that let in. firewalld cannot change the timeout of a rule that is there;
/// so a rule with the other priority comes first, and then the old one goes.
const LET_IN: [i32; 2] = [-20_002, -20_003];

/// A rule that lets a network in to ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LetIn {
    pub(super) network: IpNet,
    pub(super) ports: PortRange,
    /// The second of both priorities.
    pub(super) second: bool,
}

/// A rule that keeps all others from ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepOut {
    pub(super) ports: PortRange,
    /// They are told so.
    pub(super) reject: bool,
}

/// A rule of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    LetIn(LetIn),
    KeepOut(KeepOut),
}

impl LetIn {
    /// Returns the rule as firewalld writes it.
    pub(super) fn text(&self) -> String {
        let (family, address) = match self.network {
            IpNet::V4(_) => ("ipv4", address(self.network)),
            IpNet::V6(_) => ("ipv6", address(self.network)),
        };
        let priority = LET_IN[usize::from(self.second)];
        format!(
            "rule priority=\"{priority}\" family=\"{family}\" source address=\"{address}\" {} accept",
            port(self.ports)
        )
    }

    /// Returns the rule with the other priority.
    pub(super) fn other(self) -> Self {
        Self { second: !self.second, ..self }
    }
}

impl KeepOut {
    /// Returns the rule as firewalld writes it.
    pub(super) fn text(&self) -> String {
        let verb = if self.reject { "reject" } else { "drop" };
        format!("rule priority=\"{KEEP_OUT}\" {} {verb}", port(self.ports))
    }
}

impl Own {
    /// Reads a rule; `None` if it is not ours.
    pub(super) fn read(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let (_, rest) = text.split_once(&format!(" {name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let ports = format!("{}/{}", value("port port")?, value("protocol")?);
        let ports = ports.parse::<crate::Ports>().ok()?;
        let [ports] = ports.ranges() else { return None };
        let own = match value("source address") {
            None => Self::KeepOut(KeepOut { ports: *ports, reject: text.ends_with(" reject") }),
            Some(address) => {
                let network = match address.parse::<IpNet>() {
                    Ok(network) => network,
                    Err(_) => address.parse::<std::net::IpAddr>().ok()?.into(),
                };
                let second = value("priority")? == LET_IN[1].to_string();
                Self::LetIn(LetIn { network, ports: *ports, second })
            }
        };
        let written = match &own {
            Self::LetIn(rule) => rule.text(),
            Self::KeepOut(rule) => rule.text(),
        };
        (written == text).then_some(own)
    }
}

fn port(range: PortRange) -> String {
    let PortRange { protocol, first, last } = range;
    let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
    format!("port port=\"{numbers}\" protocol=\"{}\"", protocol.as_str())
}

fn address(network: IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_rules_are_read_back_and_all_others_are_not_ours() {
        for (text, is_ours) in [
            (
                r#"rule priority="-20002" family="ipv4" source address="203.0.113.7" port port="22" protocol="tcp" accept"#,
                true,
            ),
            (
                r#"rule priority="-20003" family="ipv6" source address="2001:db8::/64" port port="5000-5010" protocol="udp" accept"#,
                true,
            ),
            (r#"rule priority="-20001" port port="22" protocol="tcp" drop"#, true),
            (r#"rule priority="-20001" port port="22" protocol="tcp" reject"#, true),
            (
                r#"rule priority="1000" family="ipv4" source address="203.0.113.7" port port="22" protocol="tcp" accept"#,
                false,
            ),
            (
                r#"rule priority="-20002" family="ipv4" source address="203.0.113.7" port port="22" protocol="tcp" log prefix="x" accept"#,
                false,
            ),
            (
                r#"rule priority="-20002" family="ipv4" source NOT address="203.0.113.7" port port="22" protocol="tcp" accept"#,
                false,
            ),
            (
                r#"rule priority="-20002" family="ipv4" source address="203.0.113.7" service name="ssh" accept"#,
                false,
            ),
            (r#"rule priority="-20001" port port="22" protocol="sctp" drop"#, false),
            (r#"rule family="ipv4" source address="203.0.113.7" accept"#, false),
            ("", false),
        ] {
            assert_eq!(Own::read(text).is_some(), is_ours, "{text}");
        }
    }
}
