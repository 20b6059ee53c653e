//! The PROXY protocol, versions 1 and 2: with it a load balancer announces its clients, and this
//! end announces them to a target.
//!
//! ```text
//!   client -> load balancer -- header --> knockpipe -- header --> target
//!                              incoming              outgoing
//! ```
//!
//! [`incoming`] reads a header without reading past it, [`outgoing`] writes one. Neither opens a
//! socket, waits, or decides which peer may send a header: that is configuration and never guessed,
//! because a client that is free to send one can claim any address (sections 2 and 5 of the
//! specification, <https://github.com/haproxy/haproxy/blob/master/doc/proxy-protocol.txt>).
//!
//! The `proxy-header` crate turns addresses into bytes and back. It has no dependencies, where
//! `ppp` would add a second `thiserror`. Either crate accepts headers that the specification
//! forbids, such as ports written `+80`, so [`incoming`] checks everything before it reaches the
//! crate.

pub mod incoming;
pub mod outgoing;

use std::fmt;
use std::str::FromStr;

/// Format that is written; both are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Reason why a text is no [`Version`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a version of the PROXY protocol; write v1 or v2")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_spelled_one_way() {
        for text in ["v1", "v2"] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), text);
        }
        for text in ["", "1", "V1", "v3", "v1 ", "v2\n"] {
            let message = text.parse::<Version>().unwrap_err().to_string();
            assert!(message.contains("; write v1 or v2"), "{message}");
        }
    }
}
