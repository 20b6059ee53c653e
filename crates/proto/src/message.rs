//! Meaning of records: their types, and the bodies of Open and Reset.
//!
//! | type | from | body | meaning |
//! |---|---|---|---|
//! | 1 Confirm | dialer | none | I am live; no target yet |
//! | 2 Open | dialer | service name, client address | dial the target now; Data may follow at once |
//! | 3 Opened | acceptor | none | the target is connected |
//! | 4 Data | both | bytes | |
//! | 5 Fin | both | none | authenticated end of this direction |
//! | 6 Reset | both | reason u8 | abort |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::PeerError;
use knockpipe_base::addr::{ClientAddr, ServiceName};

/// Type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The dialer is live.
    Confirm,
    /// Dial the target.
    Open,
    /// The target is connected.
    Opened,
    /// Bytes of the stream.
    Data,
    /// End of the stream in this direction.
    Fin,
    /// Abort of both directions.
    Reset,
}

/// Body of an Open record.
///
/// ```text
///   name length u8 | name | family u8 | address | port u16
///   family 0: no address, no port (the client came through a unix socket, or a
///             load balancer that does not say its address)
///   family 1: no address, no port (the dialer's own standard input and output)
///   family 4: 4 bytes   family 6: 16 bytes
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Name of the service; empty is the default target.
    pub service: ServiceName,
    /// Address of the dialer's client.
    pub client: ClientAddr,
}

/// Reason for which an end aborts, as it tells the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// The plain side was reset.
    PlainReset,
    /// The target refused, or its address cannot be reached.
    TargetRefused,
    /// The target did not answer in time.
    TargetTimeout,
    /// The target's name does not resolve.
    TargetUnresolved,
    /// There is no such service.
    NoSuchService,
    /// A limit was reached.
    LimitReached,
    /// A record from the other end was not authentic, or not allowed.
    ProtocolError,
    /// This end is shutting down.
    Shutdown,
    /// Open did not come in time after Confirm.
    Unopened,
    /// The gate no longer admits this address.
    Revoked,
    /// No application data passed for longer than this end allows.
    Idle,
    /// Nothing authentic came from the other end for three heartbeats.
    Unheard,
    /// This end failed, or the reason is unknown to this version.
    Failed,
}

impl Kind {
    /// Returns the byte on the wire.
    pub fn id(self) -> u8 {
        match self {
            Self::Confirm => 1,
            Self::Open => 2,
            Self::Opened => 3,
            Self::Data => 4,
            Self::Fin => 5,
            Self::Reset => 6,
        }
    }

    /// Returns the type with this byte on the wire.
    pub fn from_id(id: u8) -> Option<Self> {
        [Self::Confirm, Self::Open, Self::Opened, Self::Data, Self::Fin, Self::Reset]
            .into_iter()
            .find(|kind| kind.id() == id)
    }
}

impl ResetReason {
    const ALL: [Self; 13] = [
        Self::PlainReset,
        Self::TargetRefused,
        Self::TargetTimeout,
        Self::TargetUnresolved,
        Self::NoSuchService,
        Self::LimitReached,
        Self::ProtocolError,
        Self::Shutdown,
        Self::Unopened,
        Self::Revoked,
        Self::Idle,
        Self::Unheard,
        Self::Failed,
    ];

    /// Returns the byte on the wire.
    pub fn id(self) -> u8 {
        match self {
            Self::PlainReset => 1,
            Self::TargetRefused => 2,
            Self::TargetTimeout => 3,
            Self::TargetUnresolved => 4,
            Self::NoSuchService => 5,
            Self::LimitReached => 6,
            Self::ProtocolError => 7,
            Self::Shutdown => 8,
            Self::Unopened => 9,
            Self::Revoked => 10,
            Self::Idle => 11,
            Self::Unheard => 12,
            Self::Failed => 255,
        }
    }

    /// Returns the reason with this byte on the wire; [`Self::Failed`] for an unknown one.
    pub fn from_id(id: u8) -> Self {
        Self::ALL.into_iter().find(|reason| reason.id() == id).unwrap_or(Self::Failed)
    }
}

impl Open {
    /// Returns the body on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.service.as_str().as_bytes();
        let mut body = vec![u8::try_from(name.len()).expect("a service name has at most 64 bytes")];
        body.extend(name);
        match self.client {
            ClientAddr::Unix | ClientAddr::Nameless => body.push(0),
            ClientAddr::Pipe => body.push(1),
            ClientAddr::Ip(client) => {
                match client.ip() {
                    IpAddr::V4(ip) => {
                        body.push(4);
                        body.extend(ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        body.push(6);
                        body.extend(ip.octets());
                    }
                }
                body.extend(client.port().to_be_bytes());
            }
        }
        body
    }

    /// Reverses [`Self::encode`].
    ///
    /// # Errors
    /// [`PeerError::Misbehaved`] for anything else.
    pub fn decode(body: &[u8]) -> Result<Self, PeerError> {
        Self::parse(body).ok_or(PeerError::Misbehaved)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (len, rest) = body.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*len))?;
        let service = match std::str::from_utf8(name).ok()? {
            "" => ServiceName::default(),
            name => name.parse().ok()?,
        };
        let (family, rest) = rest.split_first()?;
        let client = match (family, rest) {
            (0, []) => ClientAddr::Unix,
            (1, []) => ClientAddr::Pipe,
            (4, [ip @ .., high, low]) => {
                client(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?), *high, *low)
            }
            (6, [ip @ .., high, low]) => {
                client(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?), *high, *low)
            }
            _ => return None,
        };
        Some(Self { service, client })
    }
}

fn client(ip: impl Into<IpAddr>, high: u8, low: u8) -> ClientAddr {
    ClientAddr::from(SocketAddr::new(ip.into(), u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_reason_bytes_are_distinct_and_go_both_ways() {
        for id in 0..=255 {
            if let Some(kind) = Kind::from_id(id) {
                assert_eq!(kind.id(), id);
            }
        }
        assert_eq!((1..=6).filter_map(Kind::from_id).count(), 6);
        for reason in ResetReason::ALL {
            assert_eq!(ResetReason::from_id(reason.id()), reason);
        }
        assert_eq!(ResetReason::from_id(77), ResetReason::Failed);
    }

    fn open(service: &str, client: &str) -> Open {
        Open {
            service: if service.is_empty() {
                ServiceName::default()
            } else {
                service.parse().unwrap()
            },
            client: match client {
                "unix" => ClientAddr::Unix,
                "pipe" => ClientAddr::Pipe,
                address => address.parse::<SocketAddr>().unwrap().into(),
            },
        }
    }

    #[test]
    fn open_goes_both_ways() {
        for service in ["", "redis", &"x".repeat(64)] {
            for client in ["unix", "pipe", "203.0.113.7:1234", "[2001:db8::7]:65535"] {
                let open = open(service, client);
                assert_eq!(Open::decode(&open.encode()), Ok(open));
            }
        }
    }

    #[test]
    fn open_cut_at_any_byte_or_with_more_behind_it_is_refused() {
        for client in ["unix", "pipe", "203.0.113.7:1234", "[2001:db8::7]:1"] {
            let body = open("redis", client).encode();
            for len in 0..body.len() {
                assert_eq!(Open::decode(&body[..len]), Err(PeerError::Misbehaved), "{len}");
            }
            let longer = [&body[..], &[0]].concat();
            assert_eq!(Open::decode(&longer), Err(PeerError::Misbehaved));
        }
        assert!(Open::decode(&[1, b'/', 0]).is_err(), "a name no option can hold");
        assert!(Open::decode(&[1, 0xff, 0]).is_err(), "a name that is not text");
        assert!(Open::decode(&[0, 5]).is_err(), "an unknown family");
    }
}
