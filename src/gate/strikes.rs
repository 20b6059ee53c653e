//! Failed handshakes as Rack::Attack's allow2ban counts them: windows, key
//! names and times to live, so that GitLab's tools see and lift our bans.
//!
//! Windows are fixed and aligned to the epoch, with all that follows from it:
//! up to twice the limit, less one, can fall on both sides of a boundary. The
//! counting itself is the store's; this module only says where and until when.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::duration::{self, DurationError};

/// Where GitLab's Rack::Attack keeps its bans.
pub const GITLAB_BANS: &str = "cache:gitlab:rack::attack:allow2ban:ban";

/// What a count is called when the prefix does not tell.
const ALLOW2BAN: &str = "allow2ban";

/// `--ban-after N/FINDTIME/BANTIME`: when strikes become a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanAfter {
    maxretry: u32,
    findtime: Duration,
    bantime: Duration,
}

/// Why a text is no [`BanAfter`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanAfterError {
    /// Not three parts.
    #[error("\"{0}\" is not N/FINDTIME/BANTIME; write one such as 10/60s/1h")]
    Shape(String),
    /// The first part is no count.
    #[error("\"{0}\" is no number of strikes; write a whole number from 1 to 1000000")]
    Strikes(String),
    /// The second or third part is no duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
}

/// The stretch of time in which strikes are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which one it is since the epoch: part of the count's key.
    pub number: u64,
    /// Seconds that a count written now has to live: until just after the end.
    pub ttl_seconds: u64,
}

/// The names of keys for bans and counts, from the prefix of the bans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanKeys {
    /// Ends with a colon, as `root` does.
    bans: String,
    root: String,
    filter: String,
}

/// A prefix that would match keys of every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the prefix of the ban keys is empty; write one such as {GITLAB_BANS}")]
pub struct NoPrefix;

// === impl BanAfter ===

impl BanAfter {
    /// The most strikes that can be asked for.
    const MOST: u32 = 1_000_000;

    /// Strikes within one window that make a ban.
    pub fn maxretry(&self) -> u32 {
        self.maxretry
    }

    /// The length of a window, at least a second.
    pub fn findtime(&self) -> Duration {
        self.findtime
    }

    /// How long a ban lasts.
    pub fn bantime(&self) -> Duration {
        self.bantime
    }

    /// Whether `count` strikes in one window make a ban.
    pub fn reached(&self, count: u64) -> bool {
        count >= u64::from(self.maxretry)
    }
}

impl FromStr for BanAfter {
    type Err = BanAfterError;

    fn from_str(text: &str) -> Result<Self, BanAfterError> {
        let mut parts = text.split('/');
        let (Some(strikes), Some(findtime), Some(bantime), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BanAfterError::Shape(text.to_owned()));
        };
        // `u32` would also read a plus sign.
        let digits = strikes.bytes().all(|byte| byte.is_ascii_digit());
        let maxretry = digits.then(|| strikes.parse().ok()).flatten();
        Ok(Self {
            maxretry: maxretry
                .filter(|count| (1..=Self::MOST).contains(count))
                .ok_or_else(|| BanAfterError::Strikes(strikes.to_owned()))?,
            findtime: duration::parse(findtime)?,
            bantime: duration::parse(bantime)?,
        })
    }
}

impl fmt::Display for BanAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (findtime, bantime) = (duration::format(self.findtime), duration::format(self.bantime));
        write!(f, "{}/{findtime}/{bantime}", self.maxretry)
    }
}

// === impl Window ===

impl Window {
    /// The window of `findtime` (whole seconds, at least one) that `now_ms` is in.
    pub fn at(now_ms: u64, findtime: Duration) -> Self {
        let now = now_ms / 1000;
        let length = findtime.as_secs().max(1);
        Self { number: now / length, ttl_seconds: length - now % length + 1 }
    }
}

// === impl BanKeys ===

impl BanKeys {
    /// `prefix` is what stands before the address, with or without a colon at
    /// the end. Counts go where Rack::Attack puts them next to
    /// `ROOT:FILTER:ban:`; next to a prefix of another form, below it.
    pub fn new(prefix: &str) -> Result<Self, NoPrefix> {
        let prefix = prefix.strip_suffix(':').unwrap_or(prefix);
        if prefix.is_empty() {
            return Err(NoPrefix);
        }
        let named = prefix.strip_suffix(":ban").and_then(|rest| rest.rsplit_once(':'));
        let named = named.filter(|(root, filter)| !root.is_empty() && !filter.is_empty());
        let (root, filter) = named.unwrap_or((prefix, ALLOW2BAN));
        Ok(Self { bans: format!("{prefix}:"), root: format!("{root}:"), filter: filter.to_owned() })
    }

    /// What every ban's key starts with: for SCAN and for tracking.
    pub fn prefix(&self) -> &str {
        &self.bans
    }

    /// The key whose presence bans `ip`.
    pub fn ban(&self, ip: IpAddr) -> String {
        format!("{}{}", self.bans, ip.to_canonical())
    }

    /// The key that counts the strikes of `ip` in a window.
    pub fn count(&self, ip: IpAddr, window: Window) -> String {
        format!("{}{}:{}:count:{}", self.root, window.number, self.filter, ip.to_canonical())
    }

    /// What a successful handshake deletes: the count of this window, and the ban.
    pub fn reset(&self, ip: IpAddr, window: Window) -> [String; 2] {
        [self.count(ip, window), self.ban(ip)]
    }

    /// The address that a ban's key is about; `None` for keys of other things,
    /// such as the bans of web users that share the prefix. Never splits at a
    /// colon: IPv6 addresses and prefixes are full of them.
    pub fn address(&self, key: &str) -> Option<IpAddr> {
        let ip: IpAddr = key.strip_prefix(&self.bans)?.parse().ok()?;
        Some(ip.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ban_after_is_three_parts() {
        let rule: BanAfter = "10/60s/1h".parse().unwrap();
        assert_eq!((rule.maxretry(), rule.findtime().as_secs()), (10, 60));
        assert_eq!(rule.bantime().as_secs(), 3600);
        assert_eq!(rule.to_string(), "10/1m/1h");
        assert_eq!("1/1s/1s".parse::<BanAfter>().unwrap().to_string(), "1/1s/1s");
        assert!(!rule.reached(9) && rule.reached(10) && rule.reached(11));
        let bad = [
            "",
            "10",
            "10/60",
            "10/60s/1h/",
            "/60s/1h",
            "0/60s/1h",
            "-1/60s/1h",
            "+1/60s/1h",
            "1000001/60s/1h",
            "10/0/1h",
            "10/60s/0",
            "10/60/1h",
            "10/60s/1",
            "10/x/1h",
            "10/60s/1y",
            "10//1h",
        ];
        for text in bad {
            let error = text.parse::<BanAfter>().unwrap_err().to_string();
            assert!(error.contains("; write") && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn windows_are_aligned_to_the_epoch() {
        let at = |seconds: u64, findtime| {
            let window = Window::at(seconds * 1000 + 999, Duration::from_secs(findtime));
            (window.number, window.ttl_seconds)
        };
        assert_eq!(at(0, 60), (0, 61));
        assert_eq!(at(59, 60), (0, 2));
        assert_eq!(at(60, 60), (1, 61));
        // The sample of GitLab's runbook: findtime 60.
        assert_eq!(at(26_176_509 * 60 + 17, 60), (26_176_509, 44));
        assert_eq!(at(1_000_000_007, 180), (5_555_555, 74));
        assert_eq!(at(5, 0), (5, 2), "no length is a second, not a panic");
    }

    #[test]
    fn keys_are_those_of_rack_attack() {
        let keys = BanKeys::new(GITLAB_BANS).unwrap();
        let window = Window { number: 26_176_509, ttl_seconds: 1 };
        let count = "cache:gitlab:rack::attack:26176509:allow2ban:count:192.130.160.212";
        assert_eq!(keys.count(ip("192.130.160.212"), window), count);
        assert_eq!(
            keys.reset(ip("2001:DB8::7"), window),
            [
                "cache:gitlab:rack::attack:26176509:allow2ban:count:2001:db8::7",
                "cache:gitlab:rack::attack:allow2ban:ban:2001:db8::7"
            ]
        );
        assert_eq!(keys.ban(ip("::ffff:1.2.3.4")), format!("{GITLAB_BANS}:1.2.3.4"));
        assert_eq!(BanKeys::new(&format!("{GITLAB_BANS}:")), Ok(keys));
    }

    #[test]
    fn counts_next_to_prefixes_of_any_form() {
        let count = |prefix: &str| {
            let window = Window { number: 9, ttl_seconds: 1 };
            BanKeys::new(prefix).unwrap().count(ip("1.2.3.4"), window)
        };
        assert_eq!(count("app:fail2ban:ban"), "app:9:fail2ban:count:1.2.3.4");
        assert_eq!(count("bans"), "bans:9:allow2ban:count:1.2.3.4");
        assert_eq!(count("a:ban"), "a:ban:9:allow2ban:count:1.2.3.4");
        assert_eq!(count(":x:ban:"), ":x:ban:9:allow2ban:count:1.2.3.4");
        assert_eq!(BanKeys::new(""), Err(NoPrefix));
        assert_eq!(BanKeys::new(":"), Err(NoPrefix));
    }

    #[test]
    fn a_ban_key_is_read_by_its_prefix() {
        let keys = BanKeys::new("p:ban").unwrap();
        for (key, want) in [
            ("p:ban:1.2.3.4", Some("1.2.3.4")),
            ("p:ban:::ffff:1.2.3.4", Some("1.2.3.4")),
            ("p:ban:2001:db8::7", Some("2001:db8::7")),
            ("p:ban:::1", Some("::1")),
            ("p:ban:pentesters-1.2.3.4", None),
            ("p:ban:10.0.0.0/8", None),
            ("p:ban:", None),
            ("p:ban1.2.3.4", None),
            ("q:ban:1.2.3.4", None),
        ] {
            assert_eq!(keys.address(key), want.map(ip), "{key}");
        }
    }
}
