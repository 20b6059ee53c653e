//! Excluded paths: what a proxy may let through for anybody, without a grant.
//!
//! The proxy asks about a request that a server behind it will read once more, in a way of its own:
//! one decodes twice, another takes `\` for `/`, cuts a segment at `;` or the text at NUL. So a path
//! is excluded only if it is plain, so that all of them read the same; and only what is left after
//! decoding once and resolving dots counts. What is not plain is not excluded, nor is anything for a
//! host that is not plain. This module never says that an address may pass: at most that none need
//! be asked.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Longest path that is looked at, in bytes.
const LONGEST: usize = 8_192;

/// The host that stands for every host.
const ANY_HOST: &str = "*";

/// Excluded paths, for every request and for those to one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExcludedPaths {
    everywhere: Vec<PlainPath>,
    /// For requests that name a host, whichever.
    any_host: Vec<PlainPath>,
    by_host: HashMap<Host, Vec<PlainPath>>,
}

/// An excluded path with all below it, as people write it: `/path` or `host/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExcludedPath {
    host: Scope,
    path: PlainPath,
}

/// A request that a proxy asks about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Its target, as it came.
    pub target: &'a [u8],
    /// Its host; `None` if the proxy names none.
    pub host: Option<&'a [u8]>,
}

/// The reason why a text is no [`ExcludedPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExcludedPathError {
    /// No `/` in it.
    #[error("'{0}' has no path; write /path for every host, host/path for one, or */path")]
    NoPath(String),
    /// A path that not all servers read alike.
    #[error("'{0}' is not a plain path; leave out dots as segments, %, ;, \\, ? and #")]
    Path(String),
    /// Not the name of a host.
    #[error("'{0}' is not a host; write a name such as media.example, or * for every host")]
    Host(String),
}

/// The hosts for which a path is excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Everywhere,
    AnyHost,
    One(Host),
}

/// A host without its port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Name(String),
    V6(Ipv6Addr),
}

/// A path as every server reads it: decoded segments.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlainPath(Vec<String>);

// === impl ExcludedPaths ===

impl ExcludedPaths {
    /// Returns true if anybody may have what is asked for.
    pub fn cover(&self, asked: Asked<'_>) -> bool {
        let host = match asked.host {
            None | Some(b"") => None,
            Some(text) => match Host::read(text) {
                Some(host) => Some(host),
                // It may be any host, or several.
                None => return false,
            },
        };
        let of_host = host.as_ref().map(|host| {
            let own = self.by_host.get(host).map_or(&[][..], Vec::as_slice);
            own.iter().chain(&self.any_host)
        });
        let mut excluded = self.everywhere.iter().chain(of_host.into_iter().flatten()).peekable();
        if excluded.peek().is_none() {
            return false;
        }
        let readings = readings(asked.target);
        // The root holds whatever a server may make of a path, if it is one.
        excluded.any(|excluded| match &readings {
            Readings::NoPath => false,
            Readings::Several => excluded.is_root(),
            Readings::These(paths) => paths.iter().all(|path| excluded.covers(path)),
        })
    }

    /// Returns true if every path of every host is excluded.
    pub fn cover_all(&self) -> bool {
        self.everywhere.iter().chain(&self.any_host).any(PlainPath::is_root)
    }

    /// Returns true if nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_empty() && self.any_host.is_empty() && self.by_host.is_empty()
    }
}

impl FromIterator<ExcludedPath> for ExcludedPaths {
    fn from_iter<I: IntoIterator<Item = ExcludedPath>>(items: I) -> Self {
        let mut all = Self::default();
        for ExcludedPath { host, path } in items {
            match host {
                Scope::Everywhere => all.everywhere.push(path),
                Scope::AnyHost => all.any_host.push(path),
                Scope::One(host) => all.by_host.entry(host).or_default().push(path),
            }
        }
        all
    }
}

// === impl ExcludedPath ===

impl FromStr for ExcludedPath {
    type Err = ExcludedPathError;

    fn from_str(text: &str) -> Result<Self, ExcludedPathError> {
        let Some(at) = text.find('/') else {
            return Err(ExcludedPathError::NoPath(text.to_owned()));
        };
        let (host, path) = text.split_at(at);
        let host = match host {
            "" => Scope::Everywhere,
            ANY_HOST => Scope::AnyHost,
            host => Host::read(host.as_bytes())
                .map(Scope::One)
                .ok_or_else(|| ExcludedPathError::Host(host.to_owned()))?,
        };
        let bad = || ExcludedPathError::Path(path.to_owned());
        let is_literal = !path.contains(['?', '#', '%', '\\']) && !path.starts_with("//");
        let plain = PlainPath::decode(path.as_bytes()).filter(|_| is_literal).ok_or_else(bad)?;
        let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
        if dots { Err(bad()) } else { Ok(Self { host, path: plain }) }
    }
}

// === impl Host ===

impl Host {
    /// Reads a host with or without a port; `None` for a list, a user, a URL and all else that two
    /// programs may read differently.
    fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']')?;
            let is_plain = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            return is_plain.then(|| ip.parse().ok()).flatten().map(Self::V6);
        }
        let name = match text.split_once(':') {
            Some((name, port)) => is_port(port).then_some(name)?,
            None => text,
        };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_plain = !name.is_empty() && name.bytes().all(is_word);
        is_plain.then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

// === impl PlainPath ===

impl PlainPath {
    /// Reads a path without query: decodes it once, and resolves dots and repeated slashes.
    /// `None` if it is not plain.
    fn decode(path: &[u8]) -> Option<Self> {
        let text = String::from_utf8(percent_decode(path)?).ok()?;
        let mut segments: Vec<String> = Vec::new();
        for segment in text.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                // Some systems drop dots and blanks at the end of a name.
                odd if odd.trim_end_matches(['.', ' ']).is_empty() => return None,
                plain if plain.chars().all(is_plain) => segments.push(plain.to_owned()),
                _ => return None,
            }
        }
        Some(Self(segments))
    }

    fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns true for a character that no server takes for anything but itself. Outside of ASCII these
/// are letters and digits: some servers turn the wide forms of dots and slashes into dots and
/// slashes.
fn is_plain(char: char) -> bool {
    if char.is_ascii() {
        !char.is_ascii_control() && !"%;\\?#".contains(char)
    } else {
        char.is_alphanumeric()
    }
}

/// Decodes percent signs once; `None` if one is not followed by two digits, or stands for a byte
/// that is read in more than one way.
fn percent_decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        if *byte != b'%' {
            decoded.push(*byte);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2)?;
        let value = 16 * hex(digits[0])? + hex(digits[1])?;
        if value == b'/' {
            return None;
        }
        decoded.push(value);
        rest = tail;
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The paths that servers may read in a target.
enum Readings {
    /// It is none, or a whole URL, which may go to another host.
    NoPath,
    /// It is not plain, so that no reader can tell which.
    Several,
    /// Each of these by some servers.
    These(Vec<PlainPath>),
}

/// Returns the paths that servers may read in a request's target.
fn readings(target: &[u8]) -> Readings {
    let end = target.iter().position(|byte| b"?#".contains(byte)).unwrap_or(target.len());
    let (path, rest) = target.split_at(end);
    let is_url = !path.starts_with(b"/") && path.contains(&b':');
    if is_url || path.is_empty() || target.len() > LONGEST {
        return Readings::NoPath;
    }
    // Not all servers end the path at a fragment, which no browser sends.
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    if rest.strip_prefix(b"#").is_some_and(|fragment| !fragment.iter().all(is_word)) {
        return Readings::Several;
    }
    let whole = PlainPath::decode(path);
    let Some(whole) = whole else { return Readings::Several };
    let mut paths = vec![whole];
    // As a reference to another authority, of which only what follows is the path. Some servers
    // take any number of slashes in front of it.
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    let authority = path.get(slashes..).filter(|_| slashes > 1);
    if let Some(authority) = authority
        && let Some(slash) = authority.iter().position(|byte| *byte == b'/')
    {
        match PlainPath::decode(&authority[slash..]) {
            Some(path) => paths.push(path),
            None => return Readings::Several,
        }
    }
    Readings::These(paths)
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
