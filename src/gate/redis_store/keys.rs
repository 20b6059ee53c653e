//! The names of keys, and their subjects: redis-knocking's set and hash,
//! rack-attack's bans and counts.
//!
//! A key is read by taking its known prefix away, never by splitting it at its
//! colons, since IPv6 addresses have some of their own.

use std::net::IpAddr;
use std::time::Duration;

use super::super::member::Member;
use crate::unix_time::UnixMillis;

/// Hash slots of a Cluster.
pub(super) const SLOTS: u16 = 16384;

/// The prefix of keys that each claim one knock.
const CLAIMS: &str = "knockpipe:knock:";

/// Names of the keys that make up a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The SET or ZSET of members.
    pub allow_set: String,
    /// The prefix of keys that each allow one address.
    pub allow_prefix: Option<String>,
    /// The HASH of the times at which addresses were last admitted.
    pub history: String,
    /// The prefix of keys that each ban one address.
    pub ban_prefix: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            allow_set: "ip-allowed".to_owned(),
            allow_prefix: None,
            history: "ip-history".to_owned(),
            ban_prefix: "cache:gitlab:rack::attack:allow2ban:ban:".to_owned(),
        }
    }
}

/// A length of time in which failures are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Its number since the epoch.
    number: u64,
    /// The time for which a count that is written now has to live: until just after the end.
    pub(super) ttl_s: u64,
}

/// The subject of a key that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    AllowSet,
    AllowKey(IpAddr),
    Ban(Member),
    /// Notes or a claim: of the gate, but no entry.
    Beside,
}

impl Keys {
    /// The reason why these names cannot work, in one line; `None` if they can.
    pub fn problem(&self) -> Option<&'static str> {
        let prefix = self.allow_prefix.as_deref();
        if self.allow_set.is_empty() || self.history.is_empty() {
            return Some("the names of the allow-set and the history must not be empty");
        }
        if self.notes_keys().contains(&self.history) {
            return Some("the history must not have the name of the notes of grants, SET:grants");
        }
        let is_empty = |prefix: &str| prefix.is_empty();
        if is_empty(&self.ban_prefix) || prefix.is_some_and(is_empty) {
            return Some("a prefix must not be empty, or every key would be an address");
        }
        if self.allow_set == self.history {
            return Some("the allow-set and the history need two names");
        }
        let clash = prefix.is_some_and(|allow| {
            allow.starts_with(&self.ban_prefix) || self.ban_prefix.starts_with(allow)
        });
        clash.then_some("the prefixes of allow keys and of bans must not begin with each other")
    }

    /// The key of a ban: Rack::Attack's for an address; an IPv6 /64 is unknown to it.
    pub(super) fn ban_key(&self, subject: impl Into<Member>) -> String {
        format!("{}{}", self.ban_prefix, subject.into())
    }

    pub(super) fn allow_key(&self, ip: IpAddr) -> Option<String> {
        self.allow_prefix.as_ref().map(|prefix| format!("{prefix}{ip}"))
    }

    /// The key of its own that lets a member in, where members have one: a network has none.
    pub(super) fn own_key(&self, member: Member) -> Option<String> {
        match member {
            Member::Address(ip) => self.allow_key(ip),
            Member::Network(_) => None,
        }
    }

    /// The key of a count of failures, as rack-attack has it: the window's number, then the
    /// address. Next to
    /// `ROOT:FILTER:ban:` it stands where rack-attack has it.
    pub(super) fn strike_key(&self, subject: impl Into<Member>, window: Window) -> String {
        let ip = subject.into();
        let number = window.number;
        let named = self.ban_prefix.strip_suffix(":ban:");
        let named = named.filter(|named| !named.is_empty() && !named.ends_with(':'));
        match named.map(|named| named.rsplit_once(':').ok_or(named)) {
            Some(Ok((root, filter))) => format!("{root}:{number}:{filter}:count:{ip}"),
            Some(Err(filter)) => format!("{number}:{filter}:count:{ip}"),
            // Must not begin with the ban prefix, or it would be read as a ban.
            None => format!("strikes:{}{number}:allow2ban:count:{ip}", self.ban_prefix),
        }
    }

    /// The possible keys of the notes of members: the plain one, and the one that has the slot
    /// of the set in a Cluster.
    pub(super) fn notes_keys(&self) -> [String; 2] {
        let set = &self.allow_set;
        [format!("{set}:grants"), format!("{{{set}}}:grants")]
    }

    /// The key of a claim. The same for all gates of a server: a recorded knock is no better at
    /// another gate.
    pub(super) fn claim_key(&self, name: &str) -> String {
        format!("{CLAIMS}{name}")
    }

    /// The channel on which writers name the members that they changed.
    pub(super) fn channel(&self) -> String {
        format!("knockpipe:gate:{}", self.allow_set)
    }

    pub(super) fn subject(&self, key: &str) -> Option<Subject> {
        if key == self.allow_set {
            return Some(Subject::AllowSet);
        }
        if key.starts_with(CLAIMS) || self.notes_keys().iter().any(|own| own == key) {
            return Some(Subject::Beside);
        }
        let address = |prefix: &str| {
            key.strip_prefix(prefix)?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
        };
        let network = |prefix: &str| {
            let text = key.strip_prefix(prefix).filter(|text| text.contains('/'))?;
            let member = text.parse::<Member>().ok().filter(Member::can_be_banned)?;
            matches!(member, Member::Network(_)).then_some(Subject::Ban(member))
        };
        let allowed = || address(self.allow_prefix.as_deref()?).map(Subject::AllowKey);
        let banned = address(&self.ban_prefix).map(|ip| Subject::Ban(ip.into()));
        banned.or_else(|| network(&self.ban_prefix)).or_else(allowed)
    }

    /// The prefixes to track. Redis refuses two of which one begins with the other.
    pub(super) fn tracked(&self) -> Vec<&str> {
        let mut all = vec![self.allow_set.as_str(), &self.ban_prefix];
        all.extend(self.allow_prefix.as_deref());
        all.sort_unstable();
        all.dedup_by(|longer, shorter| longer.starts_with(&**shorter));
        all
    }
}

impl Window {
    /// The window of `findtime`, at least a second, that `now` is in.
    pub(super) fn at(now: UnixMillis, findtime: Duration) -> Self {
        let (now_s, length) = (now.as_secs(), findtime.as_secs().max(1));
        Self { number: now_s / length, ttl_s: length - now_s % length + 1 }
    }
}

/// `text` as a pattern that matches only itself, and then anything.
pub(super) fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "*"
}

/// Other ways in which programs write `member`, the canonical one first.
pub(super) fn spellings(member: Member) -> Vec<String> {
    let mut all = vec![member.to_string()];
    match member {
        Member::Address(ip) => all.extend(spellings_of(ip)),
        Member::Network(_) => all.push(all[0].to_uppercase()),
    }
    if let Member::Address(ip) = member {
        all.push(format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }));
    }
    all.dedup();
    all
}

/// Other ways in which programs write `ip`, without the canonical one.
pub(super) fn spellings_of(ip: IpAddr) -> Vec<String> {
    match ip {
        IpAddr::V4(ip) => {
            let mapped = ip.to_ipv6_mapped().segments();
            vec![format!("::ffff:{ip}"), format!("::ffff:{:x}:{:x}", mapped[6], mapped[7])]
        }
        IpAddr::V6(ip) => {
            let full: Vec<String> = ip.segments().iter().map(|s| format!("{s:04x}")).collect();
            let plain: Vec<String> = ip.segments().iter().map(|s| format!("{s:x}")).collect();
            vec![ip.to_string().to_uppercase(), full.join(":"), plain.join(":")]
        }
    }
}

/// The slot of `key` in a Cluster: CRC-16/XMODEM of the key, or of what stands
/// in its first non-empty braces.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_those_of_the_tools() {
        let keys = Keys::default();
        assert_eq!(
            keys.ban_key(ip("2001:db8::7")),
            "cache:gitlab:rack::attack:allow2ban:ban:2001:db8::7"
        );
        assert_eq!(
            keys.strike_key(ip("192.130.160.212"), window(26_176_509)),
            "cache:gitlab:rack::attack:26176509:allow2ban:count:192.130.160.212"
        );
        assert_eq!(
            keys.strike_key(ip("2001:DB8::7"), window(26_176_509)),
            "cache:gitlab:rack::attack:26176509:allow2ban:count:2001:db8::7"
        );
    }

    fn window(number: u64) -> Window {
        Window { number, ttl_s: 1 }
    }

    #[test]
    fn failures_are_counted_next_to_prefixes_of_any_form() {
        for (ban_prefix, expected) in [
            ("app:fail2ban:ban:", "app:9:fail2ban:count:1.2.3.4"),
            ("cache:x::y:allow2ban:ban:", "cache:x::y:9:allow2ban:count:1.2.3.4"),
            ("allow2ban:ban:", "9:allow2ban:count:1.2.3.4"),
            (":x:ban:", ":9:x:count:1.2.3.4"),
            ("bans:", "strikes:bans:9:allow2ban:count:1.2.3.4"),
            ("pentesters-", "strikes:pentesters-9:allow2ban:count:1.2.3.4"),
            (":ban:", "strikes::ban:9:allow2ban:count:1.2.3.4"),
            ("a::ban:", "strikes:a::ban:9:allow2ban:count:1.2.3.4"),
        ] {
            let keys = Keys { ban_prefix: ban_prefix.into(), ..Keys::default() };
            let strike = keys.strike_key(ip("1.2.3.4"), window(9));
            assert_eq!(strike, expected);
            assert_eq!(keys.subject(&strike), None, "{strike} is no ban");
            assert!(!strike.starts_with(ban_prefix), "{strike} is not even scanned as one");
        }
    }

    #[test]
    fn windows_are_aligned_to_the_epoch() {
        let at = |seconds: u64, findtime| {
            let now = UnixMillis(seconds * 1_000 + 999);
            let window = Window::at(now, Duration::from_secs(findtime));
            (window.number, window.ttl_s)
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
    fn a_key_says_what_it_is_about() {
        let keys = Keys { allow_prefix: Some("ip-allowed:".into()), ..Keys::default() };
        assert_eq!(keys.subject("ip-allowed"), Some(Subject::AllowSet));
        assert_eq!(keys.subject("ip-allowed-too"), None);
        for own in ["ip-allowed:grants", "{ip-allowed}:grants", "knockpipe:knock:00ff"] {
            assert_eq!(keys.subject(own), Some(Subject::Beside), "{own}");
        }
        assert_eq!(keys.subject("ip-allowed:::1"), Some(Subject::AllowKey(ip("::1"))));
        let ban = keys.ban_prefix.clone() + "::ffff:1.2.3.4";
        assert_eq!(keys.subject(&ban), Some(Subject::Ban(ip("1.2.3.4").into())));
        for (text, expected) in [
            ("2001:db8:0:1::/64", Some("2001:db8:0:1::/64")),
            ("2001:DB8:0:1::7/64", Some("2001:db8:0:1::/64")),
            ("2001:db8::/48", None),
            ("2001:db8::1/128", None),
            ("203.0.113.0/24", None),
        ] {
            let expected = expected.map(|text| Subject::Ban(text.parse().unwrap()));
            assert_eq!(keys.subject(&(keys.ban_prefix.clone() + text)), expected, "{text}");
        }
        assert_eq!(keys.subject(&(keys.ban_prefix.clone() + "pentesters-1.2.3.4")), None);
        assert_eq!(keys.tracked(), [&keys.ban_prefix, "ip-allowed"]);
        assert_eq!(keys.problem(), None);
    }

    #[test]
    fn names_that_cannot_work_are_reported() {
        let with = |change: fn(&mut Keys)| {
            let mut keys = Keys::default();
            change(&mut keys);
            keys.problem()
        };
        assert!(with(|keys| keys.allow_set.clear()).is_some());
        assert!(with(|keys| keys.ban_prefix.clear()).is_some());
        assert!(with(|keys| keys.history = "ip-allowed:grants".to_owned()).is_some());
        assert!(with(|keys| keys.allow_prefix = Some(String::new())).is_some());
        assert!(with(|keys| keys.history.clone_from(&keys.allow_set)).is_some());
        assert!(with(|keys| keys.allow_prefix = Some(keys.ban_prefix.clone() + "x")).is_some());
    }

    #[test]
    fn a_pattern_matches_only_its_text() {
        assert_eq!(pattern("a*b[c]?\\"), "a\\*b\\[c\\]\\?\\\\*");
    }

    #[test]
    fn every_spelling_is_the_same_member() {
        for text in ["203.0.113.7", "2001:db8::a", "2001:db8:a::/48", "10.0.0.0/8"] {
            let member: Member = text.parse().unwrap();
            let all = spellings(member);
            assert_eq!(all[0], text);
            for spelling in all {
                assert_eq!(spelling.parse(), Ok(member), "{spelling}");
            }
        }
    }

    #[test]
    fn notes_have_the_slot_of_the_set() {
        for (set, place) in [("ip-allowed", 1), ("{office}:allowed", 0), ("a}b", 1), ("{}x", 1)] {
            let keys = Keys { allow_set: set.to_owned(), ..Keys::default() };
            let same = keys.notes_keys().map(|notes| slot(&notes) == slot(set));
            let at_all = set != "a}b" && set != "{}x";
            assert_eq!(same[place], at_all, "{set}");
        }
    }

    #[test]
    fn slots_are_those_of_redis() {
        // From CLUSTER KEYSLOT of redis-server 7.0.15.
        assert_eq!(slot("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}bar"), 12182);
        assert_eq!(slot("x{}y"), slot("x{}y"));
        assert_ne!(slot("x{}y"), slot(""));
    }
}
