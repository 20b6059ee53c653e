//! Record suites, and the sets of them that an end offers and picks from.

use std::fmt;
use std::str::FromStr;

/// Record suite: the AEAD that seals records after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Id 1: ChaCha20-Poly1305 (RFC 8439). Always available.
    ChaCha20Poly1305,
    /// Id 2: AES-256-GCM (NIST SP 800-38D). Fast on CPUs with AES and carry-less multiplication.
    Aes256Gcm,
}

/// Set of suites; on the wire one byte in which bit `id - 1` stands for suite `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuiteSet(u8);

/// Error of a suite name that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no record suite '{0}'; use auto, chacha20-poly1305 or aes-256-gcm")]
pub struct UnknownSuite(String);

impl Suite {
    /// All suites, in the order of ids.
    pub const ALL: [Self; 2] = [Self::ChaCha20Poly1305, Self::Aes256Gcm];

    /// Returns the id on the wire.
    pub fn id(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }

    /// Returns the suite with this id on the wire.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.id() == id)
    }

    /// Returns the name on the command line and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }
}

impl SuiteSet {
    /// No suite: the set of a Hello that offers only unknown suites.
    pub const NONE: Self = Self(0);

    /// ChaCha20-Poly1305, which every end has.
    pub const PORTABLE: Self = Self(1);

    /// Both suites.
    pub const BOTH: Self = Self(3);

    /// Returns the set of only `suite`.
    pub fn only(suite: Suite) -> Self {
        Self(1 << (suite.id() - 1))
    }

    /// Reads the byte on the wire; bits of unknown suites are dropped.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & Self::BOTH.0)
    }

    /// Returns the byte on the wire.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Returns true if `suite` is in the set.
    pub fn contains(self, suite: Suite) -> bool {
        self.0 & Self::only(suite).0 != 0
    }

    /// Returns the suites that are in both sets.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the suite to use from the set: AES-256-GCM before ChaCha20-Poly1305.
    pub fn preferred(self) -> Option<Suite> {
        [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].into_iter().find(|suite| self.contains(*suite))
    }
}

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.as_str() == name)
            .ok_or_else(|| UnknownSuite(name.to_owned()))
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bits_are_dropped_and_aes_is_preferred() {
        assert_eq!(SuiteSet::from_bits(0xff), SuiteSet::BOTH);
        assert_eq!(SuiteSet::BOTH.preferred(), Some(Suite::Aes256Gcm));
        assert_eq!(SuiteSet::PORTABLE.preferred(), Some(Suite::ChaCha20Poly1305));
        assert_eq!(SuiteSet::PORTABLE.and(SuiteSet::only(Suite::Aes256Gcm)).preferred(), None);
    }

    #[test]
    fn names_and_ids_go_both_ways() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_id(suite.id()), Some(suite));
            assert_eq!(suite.as_str().parse::<Suite>().unwrap(), suite);
        }
        assert!("aes".parse::<Suite>().is_err());
        assert_eq!(Suite::from_id(0), None);
    }
}
