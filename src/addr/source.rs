//! Where to accept connections: an address, or what systemd listens on already.
//!
//! Only a source can be inherited. [`Address`] refuses the spelling, so that a
//! target of this kind is a usage error and no failed lookup of a host `systemd`.

use std::fmt;
use std::str::FromStr;

use super::{AddrError, Address};

/// What stands before the name of an inherited socket.
const SYSTEMD: &str = "systemd:";

/// Longest name that systemd takes for a socket, in bytes.
const MAX_NAME: usize = 255;

/// Where to accept connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Bound by this process.
    Address(Address),
    /// Bound by systemd and handed over under this name (`FileDescriptorName=`).
    Inherited(String),
}

impl Source {
    /// The address that this process binds.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Address(address) => Some(address),
            Self::Inherited(_) => None,
        }
    }

    /// The name of a socket that is handed over.
    pub fn inherited(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Inherited(name) => Some(name),
        }
    }

    /// Whether the system picks the port, see [`Address::is_any_port`].
    pub fn is_any_port(&self) -> bool {
        self.address().is_some_and(Address::is_any_port)
    }

    /// Whether it means the same for ever, see [`Address::is_literal`].
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
            return text.parse().map(Self::Address);
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

/// Whether `text` is the spelling of a source that no address can have.
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
