//! The content of a store: members of the allow-set, and bans.
//!
//! One client has one spelling here, however a login page wrote it: IPv4-mapped
//! addresses are unmapped and host bits cleared where text comes in, so that
//! nothing behind this module compares two forms of one address.
//! It refuses to guess: a member that is not an address is an error, not a host
//! name to look up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// Networks shorter than this need force: more than 65,536 IPv4 addresses.
const WIDEST_V4: u8 = 16;
/// Networks shorter than this need force: more than one customer of a provider.
const WIDEST_V6: u8 = 64;
/// Bits in front of an IPv4 address in its IPv4-mapped form.
const MAPPED_PREFIX: u8 = 96;
/// Characters of a text that an error repeats: a store may hold megabytes of garbage.
const SHOWN: usize = 64;

/// An entry of the allow-set.
///
/// Canonical when made by `from` or `parse`, the only ways to make one:
/// unmapped, host bits cleared, and a network of one address is an `Address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// One address.
    Address(IpAddr),
    /// All addresses with a common prefix.
    Network(IpNet),
}

/// An entry of a store, with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A member of the allow-set.
    Allowed(Member, Expiry),
    /// An address that is banned, or an IPv6 /64.
    Banned(Member, Expiry),
}

/// An entry that matches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The member, as in the store or in the static rules.
    pub member: Member,
    /// Its end.
    pub expiry: Expiry,
}

/// The reason why a text is no [`Member`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not an address or network; write one such as 203.0.113.7, 2001:db8::7 or 203.0.113.0/24"
)]
pub struct MemberError(String);

// === impl Member ===

impl Member {
    /// Returns true for a network so wide that it looks like a mistake: wider than /16
    /// (IPv4) or /64 (IPv6).
    pub fn needs_force(&self) -> bool {
        match self {
            Self::Address(_) => false,
            Self::Network(IpNet::V4(network)) => network.prefix_len() < WIDEST_V4,
            Self::Network(IpNet::V6(network)) => network.prefix_len() < WIDEST_V6,
        }
    }

    /// The subject for which failures of `ip` are counted, and which they ban: an IPv4
    /// address, or an IPv6 /64, because a single IPv6 host commonly owns every address of
    /// its /64.
    pub fn source_of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Net::new(ip, WIDEST_V6)
                .map_or_else(|_| Self::from(ip), |network| Self::from(IpNet::V6(network))),
            v4 @ IpAddr::V4(_) => Self::Address(v4),
        }
    }

    /// The possible subjects of a ban on `ip`: the address, and its /64 where it is IPv6.
    pub fn bans_of(ip: IpAddr) -> impl Iterator<Item = Self> + Clone {
        let (address, source) = (Self::from(ip), Self::source_of(ip));
        std::iter::once(address).chain((source != address).then_some(source))
    }

    /// Returns true for what can be banned: an address, or an IPv6 /64.
    pub fn can_be_banned(&self) -> bool {
        match self {
            Self::Address(_) => true,
            Self::Network(network) => Self::source_of(network.addr()) == *self,
        }
    }

    /// Returns true if no client of another host has an address of it: unspecified, multicast,
    /// broadcast, reserved or link-local, which says nothing without an interface.
    pub fn is_of_nobody(&self) -> bool {
        match IpNet::from(*self) {
            IpNet::V4(network) => {
                let (ip, length) = (network.addr(), network.prefix_len());
                let first = ip.octets()[0];
                (first == 0 && length >= 8)
                    || (first >= 224 && length >= 3)
                    || (ip.is_link_local() && length >= 16)
            }
            IpNet::V6(network) => {
                let (ip, length) = (network.addr(), network.prefix_len());
                let is_of_old_forms = ip.segments()[..4] == [0; 4] && length >= WIDEST_V6;
                (is_of_old_forms && !self.is_loopback())
                    || (ip.is_multicast() && length >= 8)
                    || (ip.is_unicast_link_local() && length >= 10)
            }
        }
    }

    /// Returns true if it has addresses of this host alone.
    pub fn is_loopback(&self) -> bool {
        match IpNet::from(*self) {
            IpNet::V4(network) => network.addr().is_loopback() && network.prefix_len() >= 8,
            IpNet::V6(_) => *self == Self::from(Ipv6Addr::LOCALHOST),
        }
    }

    /// Returns true if both have an address in common.
    pub fn meets(&self, other: &Self) -> bool {
        let (one, other) = (IpNet::from(*self), IpNet::from(*other));
        one.contains(&other) || other.contains(&one)
    }

    /// Returns true if it covers `ip`, in either spelling of an IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Self::Address(own) => *own == ip.to_canonical(),
            Self::Network(network) => network.contains(&ip.to_canonical()),
        }
    }
}

impl From<IpAddr> for Member {
    fn from(ip: IpAddr) -> Self {
        Self::Address(ip.to_canonical())
    }
}

impl From<IpNet> for Member {
    fn from(network: IpNet) -> Self {
        let network = canonical(network);
        if network.prefix_len() == network.max_prefix_len() {
            Self::Address(network.addr())
        } else {
            Self::Network(network)
        }
    }
}

impl From<Ipv4Addr> for Member {
    fn from(ip: Ipv4Addr) -> Self {
        Self::Address(ip.into())
    }
}

impl From<Ipv6Addr> for Member {
    fn from(ip: Ipv6Addr) -> Self {
        Self::from(IpAddr::from(ip))
    }
}

impl From<Member> for IpNet {
    fn from(member: Member) -> Self {
        match member {
            Member::Address(ip) => ip.into(),
            Member::Network(network) => network,
        }
    }
}

// === impl Entry ===

impl From<IpNet> for Entry {
    fn from(network: IpNet) -> Self {
        Self { member: network.into(), expiry: Expiry::Never }
    }
}

impl Entry {
    /// The time for which it still lasts; `None` is for ever.
    pub fn ttl(&self, now: UnixMillis) -> Option<Duration> {
        self.expiry.left(now)
    }
}

/// The one form of a network: unmapped, host bits cleared.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    unmapped(network).trunc()
}

/// A network inside ::ffff:0:0/96 is one of IPv4. A wider one that only covers
/// that range stays IPv6 and says nothing about IPv4 clients: `::/0` is not
/// `0.0.0.0/0`.
fn unmapped(network: IpNet) -> IpNet {
    let length = network.prefix_len().checked_sub(MAPPED_PREFIX);
    match (network.addr().to_canonical(), length) {
        (IpAddr::V4(ip), Some(length)) if matches!(network, IpNet::V6(_)) => {
            Ipv4Net::new(ip, length).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

impl FromStr for Member {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, MemberError> {
        let parsed = match text.split_once('/') {
            None => text.parse::<IpAddr>().ok().map(Self::from),
            Some((ip, length)) => network(ip, length).map(Self::from),
        };
        parsed.ok_or_else(|| MemberError(text.escape_debug().take(SHOWN).collect()))
    }
}

/// A few digits only: `u8` would also read a plus sign, and any number of zeros.
fn network(ip: &str, length: &str) -> Option<IpNet> {
    let digits = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.then(|| length.parse().ok())??;
    IpNet::new(ip.parse().ok()?, length).ok()
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> Member {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_spelling_has_one_form() {
        let cases = [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7/32", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("::FFFF:cb00:7107", "203.0.113.7"),
            ("::ffff:203.0.113.7/128", "203.0.113.7"),
            ("203.0.113.7/24", "203.0.113.0/24"),
            ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("2001:DB8:0::7", "2001:db8::7"),
            ("2001:db8::7/128", "2001:db8::7"),
            ("2001:db8::7/64", "2001:db8::/64"),
            ("::/0", "::/0"),
            ("::1.2.3.4", "::102:304"),
        ];
        for (text, shown) in cases {
            assert_eq!(member(text).to_string(), shown, "{text}");
            assert_eq!(member(shown), member(text), "{text} written back");
        }
        assert_eq!(Member::from("::ffff:1.2.3.4".parse::<IpAddr>().unwrap()), member("1.2.3.4"));
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let source = |text: &str| Member::source_of(text.parse().unwrap()).to_string();
        assert_eq!(source("203.0.113.7"), "203.0.113.7");
        assert_eq!(source("::ffff:203.0.113.7"), "203.0.113.7");
        assert_eq!(source("2001:db8:0:1::7"), "2001:db8:0:1::/64");
        let bans = |text: &str| Member::bans_of(text.parse().unwrap()).count();
        assert_eq!((bans("203.0.113.7"), bans("2001:db8::7")), (1, 2));
        for (text, can) in [
            ("203.0.113.7", true),
            ("2001:db8::7", true),
            ("2001:db8::/64", true),
            ("2001:db8::/65", false),
            ("2001:db8::/63", false),
            ("203.0.113.0/24", false),
        ] {
            assert_eq!(member(text).can_be_banned(), can, "{text}");
        }
        let meets = |one: &str, other: &str| member(one).meets(&member(other));
        assert!(meets("2001:db8::/32", "2001:db8::/64") && meets("2001:db8::/64", "2001:db8::7"));
        assert!(meets("2001:db8::/64", "2001:db8::/32") && !meets("::/0", "203.0.113.7"));
    }

    #[test]
    fn garbage_is_named_and_shortened() {
        let garbage = [
            "",
            "/",
            "x",
            "localhost",
            " 1.2.3.4",
            "1.2.3.4 ",
            "1.2.3.4:5",
            "[::1]",
            "fe80::1%eth0",
            "1.2.3",
            "01.2.3.4",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "1.2.3.4/-1",
            "1.2.3.4/8/8",
            "::1/129",
            "1.2.3.4/255.0.0.0",
            "1.2.3.4/256",
            "/8",
        ];
        for text in garbage {
            let error = text.parse::<Member>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{text}\" is no")), "{error}");
        }
        let long = "x\n\x1b".repeat(1_000_000).parse::<Member>().unwrap_err().to_string();
        assert!(long.len() < 200 && !long.contains(['\n', '\x1b']), "{long}");
    }

    #[test]
    fn wide_networks_need_force() {
        for wide in ["0.0.0.0/0", "::/0", "10.0.0.0/15", "2001:db8::/63", "::ffff:0:0/111"] {
            assert!(member(wide).needs_force(), "{wide}");
        }
        for narrow in ["10.0.0.0/16", "2001:db8::/64", "::ffff:0:0/112", "0.0.0.0", "::"] {
            assert!(!member(narrow).needs_force(), "{narrow}");
        }
    }

    #[test]
    fn what_no_client_has_is_of_nobody() {
        for nobody in [
            "0.0.0.0",
            "0.1.2.3",
            "0.0.0.0/8",
            "0.0.0.0/16",
            "169.254.1.1",
            "169.254.0.0/16",
            "224.0.0.1",
            "239.0.0.0/16",
            "240.0.0.1",
            "255.255.255.255",
            "255.255.0.0/16",
            "::",
            "::/64",
            "::/127",
            "::7f00:1",
            "fe80::1",
            "fe80::/64",
            "febf::1",
            "ff02::1",
            "ff02::/64",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
        ] {
            assert!(member(nobody).is_of_nobody(), "{nobody}");
            assert!(!member(nobody).is_loopback(), "{nobody}");
        }
        for client in [
            "1.0.0.1",
            "10.0.0.0/16",
            "100.64.0.1",
            "192.168.1.0/24",
            "203.0.113.7",
            "223.255.0.0/16",
            "2001:db8::7",
            "2001:db8::/64",
            "fd00::1",
            "64:ff9b::cb00:7107",
            "fec0::1",
            "127.0.0.1",
            "::1",
        ] {
            assert!(!member(client).is_of_nobody(), "{client}");
        }
        for own in ["127.0.0.1", "127.9.9.9", "127.0.0.0/16", "::1", "::ffff:127.0.0.1"] {
            assert!(member(own).is_loopback(), "{own}");
        }
    }

    #[test]
    fn a_member_covers_its_addresses() {
        let speaks = |text: &str, ip: &str| member(text).contains(ip.parse().unwrap());
        assert!(speaks("203.0.113.0/24", "203.0.113.255"));
        assert!(speaks("203.0.113.0/24", "::ffff:203.0.113.1"));
        assert!(!speaks("203.0.113.0/24", "203.0.114.0"));
        assert!(speaks("203.0.113.7", "::ffff:203.0.113.7"));
        assert!(!speaks("::/0", "203.0.113.7"), "IPv6's everything is not IPv4's");
        assert!(!speaks("0.0.0.0/0", "2001:db8::1"));
    }
}
