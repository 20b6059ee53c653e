//! The operator's rules for a gate: static networks, internal addresses, and the policy
//! for a store that is unavailable.
//!
//! The order in which they apply is `decision`'s.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::nets::Nets;
use crate::snapshot::Freshness;
use knockpipe_base::duration::{self, DurationError};
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// Networks that redis-knocking calls internal: not link-local, not carrier-grade NAT.
pub const INTERNAL: [IpNet; 6] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)),
];

/// The operator's rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Denied whatever the store says.
    pub deny: Nets<()>,
    /// Allowed whatever the store says: never looked up, never banned.
    pub allow: Nets<()>,
    /// The treatment of internal addresses.
    pub internal: Internal,
    /// The policy while the store is unavailable.
    pub failure: FailurePolicy,
}

impl Rules {
    /// The network of all IPv4 addresses, if static networks allow every address of
    /// both families, also as several that add up to that.
    pub(crate) fn allows_every_address(&self) -> Option<IpNet> {
        let mut all = IpNet::aggregate(&self.allow.iter().map(|(net, ())| net).collect());
        all.retain(|net| net.prefix_len() == 0);
        if let [v4, _v6] = all[..] { Some(v4) } else { None }
    }
}

/// The treatment of internal addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Internal {
    /// Allowed unless banned, as in redis-knocking. Never by default: behind a NAT, a
    /// container bridge or a load balancer every client has such an address.
    Allow,
    /// Checked as every other address is.
    #[default]
    Check,
}

/// The policy while the store is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The allow-set admits no address.
    #[default]
    Closed,
    /// Every address is admitted that is not denied and not known to be banned.
    Open,
    /// The last known state counts for so long, then as `Closed`.
    Stale(Duration),
}

/// The reason why a text is no [`FailurePolicy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailurePolicyError {
    /// None of the three.
    #[error("\"{0}\" is not a policy; write closed, open or stale:DURATION, such as stale:5m")]
    Unknown(String),
    /// `stale:` something.
    #[error(transparent)]
    Duration(#[from] DurationError),
}

/// The policy in force at one moment: the worth of the allow-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectivePolicy {
    /// The store is fresh, and its content counts.
    Fresh,
    /// Its last known content counts, until this end.
    Stale(Expiry),
    /// It counts for nothing: every address passes that is not denied or banned.
    Open,
    /// It counts for nothing: it admits no address.
    Closed,
}

/// Returns true for what redis-knocking calls internal: loopback, RFC 1918, fc00::/7.
pub fn is_internal(ip: IpAddr) -> bool {
    internal_network(ip).is_some()
}

/// The internal network that `ip` is in.
pub(crate) fn internal_network(ip: IpAddr) -> Option<IpNet> {
    let ip = ip.to_canonical();
    INTERNAL.into_iter().find(|network| network.contains(&ip))
}

// === impl FailurePolicy ===

impl FailurePolicy {
    /// The policy in force for a newcomer at `now`.
    pub fn effective(self, freshness: Freshness, now: UnixMillis) -> EffectivePolicy {
        let since = match freshness {
            Freshness::Fresh => return EffectivePolicy::Fresh,
            // Not known to be unavailable, so that no policy for that holds yet.
            Freshness::Unread => return EffectivePolicy::Closed,
            Freshness::Unavailable { since } => since,
        };
        match (self, since) {
            (Self::Open, _) => EffectivePolicy::Open,
            (Self::Stale(limit), Some(since)) => {
                let end = Expiry::At(since.saturating_add(limit));
                if end.is_past(now) { EffectivePolicy::Closed } else { EffectivePolicy::Stale(end) }
            }
            (Self::Closed, _) | (Self::Stale(_), None) => EffectivePolicy::Closed,
        }
    }
}

impl FromStr for FailurePolicy {
    type Err = FailurePolicyError;

    fn from_str(text: &str) -> Result<Self, FailurePolicyError> {
        match (text, text.strip_prefix("stale:")) {
            ("closed", _) => Ok(Self::Closed),
            ("open", _) => Ok(Self::Open),
            (_, Some(limit)) => Ok(Self::Stale(duration::parse(limit)?)),
            _ => Err(FailurePolicyError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Open => f.write_str("open"),
            Self::Stale(limit) => write!(f, "stale:{}", duration::format(*limit)),
        }
    }
}

// === impl EffectivePolicy ===

impl EffectivePolicy {
    /// The stable name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale(_) => "stale",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_networks_are_those_of_redis_knocking() {
        let inside = [
            "127.0.0.1",
            "127.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.0",
            "192.168.255.255",
            "::1",
            "fc00::",
            "fd00::7",
            "fdff:ffff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
        ];
        let outside = [
            "126.255.255.255",
            "128.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "0.0.0.0",
            "169.254.1.1",
            "100.64.0.1",
            "192.0.2.1",
            "::",
            "::2",
            "fbff::1",
            "fe00::1",
            "fe80::1",
            "::10.0.0.1",
            "2001:db8::1",
            "::ffff:172.32.0.1",
            "255.255.255.255",
        ];
        for ip in inside {
            assert!(is_internal(ip.parse().unwrap()), "{ip}");
        }
        for ip in outside {
            assert!(!is_internal(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn policies_are_read_and_written_back() {
        for text in ["closed", "open", "stale:5m", "stale:90s"] {
            assert_eq!(text.parse::<FailurePolicy>().unwrap().to_string(), text);
        }
        assert_eq!(FailurePolicy::default(), FailurePolicy::Closed);
        for bad in ["", "Closed", "stale", "stale:", "stale:0", "stale:5", "open:5m", "stale:x"] {
            let error = bad.parse::<FailurePolicy>().unwrap_err().to_string();
            assert!(error.contains("; write"), "{error}");
        }
    }

    #[test]
    fn stale_ends_at_its_limit() {
        let stance = |policy: &str, since: Option<u64>, now| {
            let policy: FailurePolicy = policy.parse().unwrap();
            let since = since.map(UnixMillis);
            policy.effective(Freshness::Unavailable { since }, UnixMillis(now))
        };
        let stale = |until| EffectivePolicy::Stale(Expiry::At(UnixMillis(until)));
        assert_eq!(stance("stale:1s", Some(500), 1499), stale(1500));
        assert_eq!(stance("stale:1s", Some(500), 1500), EffectivePolicy::Closed);
        assert_eq!(stance("stale:1s", Some(500), 0), stale(1500), "a clock set back");
        assert_eq!(stance("stale:1s", Some(u64::MAX), 0), stale(u64::MAX));
        assert_eq!(stance("stale:1s", None, 0), EffectivePolicy::Closed, "never read");
        assert_eq!(stance("open", None, 0), EffectivePolicy::Open);
        for policy in [FailurePolicy::Closed, FailurePolicy::Open, "stale:1s".parse().unwrap()] {
            assert_eq!(
                policy.effective(Freshness::Unread, UnixMillis(0)),
                EffectivePolicy::Closed,
                "{policy}"
            );
        }
        assert_eq!(stance("closed", Some(1), 2), EffectivePolicy::Closed);
        let fresh = FailurePolicy::Closed.effective(Freshness::Fresh, UnixMillis(7));
        assert_eq!((fresh, fresh.as_str()), (EffectivePolicy::Fresh, "fresh"));
    }
}
