//! The ports that a firewall guards: `22,6380/tcp,514/udp,5000-5010/tcp`.

use std::fmt;
use std::str::FromStr;

/// The ports, sorted and without overlaps; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(Vec<PortRange>);

/// Ports of one protocol, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// The reason why a text is no [`Ports`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a list of ports; write one such as 22,514/udp,5000-5010/tcp")]
pub struct PortsError(String);

// === impl Ports ===

impl Ports {
    /// Returns the ranges, TCP first.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Returns the ranges of one protocol.
    pub fn of(&self, protocol: Protocol) -> impl Iterator<Item = PortRange> + Clone {
        self.0.iter().copied().filter(move |range| range.protocol == protocol)
    }

    /// Joins ranges that overlap or follow each other.
    fn joined(mut all: Vec<PortRange>) -> Self {
        all.sort_unstable();
        let mut joined: Vec<PortRange> = Vec::with_capacity(all.len());
        for range in all {
            match joined.last_mut() {
                Some(before)
                    if before.protocol == range.protocol
                        && range.first <= before.last.saturating_add(1) =>
                {
                    before.last = before.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let all: Option<Vec<_>> = text.split(',').map(range).collect();
        all.map(Self::joined).ok_or_else(|| PortsError(text.escape_debug().take(64).collect()))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = self;
        match first == last {
            true => write!(f, "{first}/{}", protocol.as_str()),
            false => write!(f, "{first}-{last}/{}", protocol.as_str()),
        }
    }
}

impl Protocol {
    /// Returns its name, as firewalls have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Reads `22`, `514/udp` or `5000-5010/tcp`.
fn range(text: &str) -> Option<PortRange> {
    let (numbers, protocol) = match text.trim().split_once('/') {
        None => (text.trim(), Protocol::Tcp),
        Some((numbers, "tcp")) => (numbers, Protocol::Tcp),
        Some((numbers, "udp")) => (numbers, Protocol::Udp),
        Some(_) => return None,
    };
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let first = port(first)?;
    let last = port(last)?;
    (first <= last).then_some(PortRange { protocol, first, last })
}

/// Reads digits only: `u16` would take a plus sign, too.
fn port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_joined_and_written_back() {
        for (text, shown) in [
            ("22", "22/tcp"),
            ("22,6380/tcp,514/udp,5000-5010/tcp", "22/tcp,5000-5010/tcp,6380/tcp,514/udp"),
            ("5,1-3,4,2", "1-5/tcp"),
            ("53/udp,53", "53/tcp,53/udp"),
            ("1-65535, 65535", "1-65535/tcp"),
        ] {
            let ports: Ports = text.parse().unwrap();
            assert_eq!(ports.to_string(), shown);
            assert_eq!(shown.parse::<Ports>().unwrap(), ports);
        }
    }

    #[test]
    fn what_is_no_port_is_refused_with_an_example() {
        for text in ["", ",", "0", "65536", "+22", "22/sctp", "9-8", "1-2-3", "ssh", "22;x", "-5"] {
            let error = text.parse::<Ports>().unwrap_err().to_string();
            assert!(error.contains("; write one such as 22"), "{error}");
        }
    }
}
