//! Sources of connections: an address to listen on, or a socket that systemd listens on already.
//!
//! Only a source can be inherited. [`Address`] refuses the spelling, so that a target of this kind
//! is a usage error and not a failed lookup of a host `systemd`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{AddrError, Address};

/// Prefix of the name of an inherited socket.
const SYSTEMD: &str = "systemd:";

/// Longest name that systemd takes for a socket, in bytes.
const MAX_NAME: usize = 255;

/// Source of connections: a socket to accept them from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Bound by this process.
    Address(Address),
    /// Bound by systemd and handed over under this name (`FileDescriptorName=`).
    Inherited(String),
}

impl Source {
    /// Returns the address that this process binds.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Address(address) => Some(address),
            Self::Inherited(_) => None,
        }
    }

    /// Returns the name of a socket that is handed over.
    pub fn inherited(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Inherited(name) => Some(name),
        }
    }

    /// Returns true if the system picks the port, see [`Address::is_any_port`].
    pub fn is_any_port(&self) -> bool {
        self.address().is_some_and(Address::is_any_port)
    }

    /// Returns true if only one of both can be bound, as far as the text shows: they are the same,
    /// or one port on one address and on all addresses of its family.
    pub fn excludes(&self, other: &Self) -> bool {
        if self.is_any_port() {
            return false;
        }
        let tcp = |source: &Self| match source {
            Self::Address(Address::Tcp { host, port }) => {
                Some((host.parse::<IpAddr>().ok()?, port.clone()))
            }
            _ => None,
        };
        let is_around = |(one, port): (IpAddr, String), (all, other_port): (IpAddr, String)| {
            let is_all = one.is_unspecified() || all.is_unspecified();
            is_all && one.is_ipv4() == all.is_ipv4() && port == other_port
        };
        self == other || tcp(self).zip(tcp(other)).is_some_and(|(one, two)| is_around(one, two))
    }

    /// Returns true if its meaning never changes, see [`Address::is_literal`].
    pub fn is_literal(&self) -> bool {
        self.address().is_none_or(Address::is_literal)
    }
}

impl From<Address> for Source {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl FromStr for Source {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let Some(name) = text.strip_prefix(SYSTEMD) else {
            return text.parse().map(Self::Address).map_err(AddrError::listening);
        };
        let good = |b: u8| b == b' ' || (b.is_ascii_graphic() && b != b':');
        if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good) {
            Ok(Self::Inherited(name.to_owned()))
        } else {
            Err(AddrError::SocketName(name.to_owned()))
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Inherited(name) => write!(f, "{SYSTEMD}{name}"),
        }
    }
}

/// Returns true if `text` spells an inherited socket, which no address can be.
pub(super) fn is_inherited(text: &str) -> bool {
    text.starts_with(SYSTEMD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read_and_written_back() {
        for text in ["systemd:redis", "systemd:redis.socket", "systemd:a b", "127.0.0.1:1", "/a"] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            assert_eq!(source.address().is_none(), text.starts_with("systemd:"));
            assert!(source.is_literal());
        }
        assert!(!"localhost:1".parse::<Source>().unwrap().is_literal());
    }

    #[test]
    fn an_address_and_all_of_its_kind_exclude_each_other() {
        let excludes = |one: &str, other: &str| {
            let (one, other): (Source, Source) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one.excludes(&other), other.excludes(&one));
            one.excludes(&other)
        };
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("127.0.0.1:1", "0.0.0.0:1"),
            ("[::]:http", "[::1]:http"),
            ("/run/a", "/run/a"),
            ("systemd:a", "systemd:a"),
        ] {
            assert!(excludes(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:1", "0.0.0.0:2"),
            ("0.0.0.0:1", "[::]:1"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("/run/a", "/run/b"),
            ("systemd:a", "systemd:b"),
        ] {
            assert!(!excludes(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_systemd_would_not_take_is_refused() {
        for name in ["", "a:b", "a\nb", "é", &"x".repeat(256)] {
            let error = format!("systemd:{name}").parse::<Source>().unwrap_err();
            assert_eq!(error, AddrError::SocketName(name.to_owned()));
        }
    }

    #[test]
    fn a_target_cannot_be_inherited() {
        let error = "systemd:redis".parse::<Address>().unwrap_err();
        assert_eq!(error, AddrError::Inherited("systemd:redis".into()));
    }
}
