//! Addresses as people write them, and peers as the log names them.
//!
//! Pure text: nothing here opens a socket, asks a name server or reads /etc/services. A host name
//! stays text until the program looks it up. A text that can be refused by looking at it is refused
//! here, so that a typing error is a usage error with a remedy and not a failed lookup a minute
//! later.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

mod error;
mod habits;
mod source;

pub use error::{AddrError, ServiceNameError};
pub use source::Source;

/// Longest path of a unix socket in bytes: `sun_path` holds 108 with the final NUL.
const MAX_UNIX_PATH: usize = 107;

/// Longest host name in bytes (RFC 1035 section 2.3.4, in text form).
const MAX_HOST: usize = 253;

/// Longest service name in bytes.
const MAX_SERVICE_NAME: usize = 64;

/// Address to listen on or to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP literal (with an optional zone), and a port or service name.
    Tcp {
        /// Host name or IP literal without brackets.
        host: String,
        /// Port number, or a name from /etc/services.
        port: String,
    },
    /// A unix stream socket.
    Unix(PathBuf),
}

/// Local address for outgoing connections; port 0 is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress {
    /// Local IP address.
    pub ip: IpAddr,
    /// Local port, 0 for any.
    pub port: u16,
}

/// Name of a service in Open; empty is the default target. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ServiceName(Arc<str>);

/// Address of the peer of an accepted connection, in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// Over TCP. Never an IPv4-mapped IPv6 address; see [`ClientAddr::from`].
    Ip(SocketAddr),
    /// Over a unix socket; its clients have no address.
    Unix,
    /// Standard input and output of a dialer that serves no other client.
    Pipe,
    /// A client of a load balancer that does not say its address.
    Nameless,
}

/// Source that limits count by: an IPv4 address, or an IPv6 /64, because a single IPv6 host
/// commonly owns every address of its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKey {
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    V6([u8; 8]),
    /// All clients of load balancers that do not say their addresses: nothing distinguishes them,
    /// and without a common limit each would go uncounted.
    Nameless,
}

// === impl Address ===

impl Address {
    /// Returns true if the system picks the port.
    pub fn is_any_port(&self) -> bool {
        matches!(self, Self::Tcp { port, .. } if port.parse() == Ok(0))
    }

    /// Returns true if its meaning never changes: a unix path or an IP literal.
    pub fn is_literal(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => is_ip(host),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        if text.is_empty() {
            return Err(AddrError::Empty);
        }
        habits::refuse(text)?;
        if source::is_inherited(text) {
            return Err(AddrError::Inherited(text.to_owned()));
        }
        if text.starts_with('/') {
            return unix(text);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => bracketed(text, rest)?,
            None => plain(text)?,
        };
        check_port(port)?;
        Ok(Self::Tcp { host: host.to_owned(), port: port.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

fn unix(text: &str) -> Result<Address, AddrError> {
    if text.len() > MAX_UNIX_PATH {
        return Err(AddrError::PathTooLong(text.len()));
    }
    if text.contains('\0') {
        return Err(AddrError::PathWithNul);
    }
    Ok(Address::Unix(text.into()))
}

fn bracketed<'a>(text: &str, rest: &'a str) -> Result<(&'a str, &'a str), AddrError> {
    let Some((host, tail)) = rest.split_once(']') else {
        return Err(AddrError::Brackets(text.to_owned()));
    };
    if tail.is_empty() {
        return Err(AddrError::NoPort(text.to_owned()));
    }
    let Some(port) = tail.strip_prefix(':') else {
        return Err(AddrError::Brackets(text.to_owned()));
    };
    if port.is_empty() {
        return Err(AddrError::EmptyPort(format!("[{host}]")));
    }
    if is_ip(host) { Ok((host, port)) } else { Err(AddrError::NotAnIp(host.to_owned())) }
}

fn plain(text: &str) -> Result<(&str, &str), AddrError> {
    let Some((host, port)) = text.rsplit_once(':') else {
        // No host has a name of digits only.
        let bare = text.parse().map(AddrError::OnlyPort);
        return Err(bare.unwrap_or_else(|_| AddrError::NoPort(text.to_owned())));
    };
    if host.is_empty() {
        return Err(AddrError::NoHost(text.to_owned()));
    }
    if host.contains(':') {
        return Err(AddrError::Unbracketed(text.to_owned()));
    }
    if port.is_empty() {
        return Err(AddrError::EmptyPort(host.to_owned()));
    }
    if host.contains('=') {
        return Err(AddrError::Named(text.to_owned()));
    }
    check_host(host)?;
    Ok((host, port))
}

/// Refuses hosts that no name server could know. A last label of digits is no top-level domain, so
/// such a host must be a whole IPv4 address: C libraries would read `127.1` or `1.2.3` in ways that
/// few people expect.
fn check_host(host: &str) -> Result<(), AddrError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "[]/@%=,;\"'\\".contains(c);
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    if host.len() > MAX_HOST
        || host.contains(odd)
        || last.is_empty()
        || (numeric && host.parse::<Ipv4Addr>().is_err())
    {
        return Err(AddrError::BadHost(host.to_owned()));
    }
    Ok(())
}

/// Checks the form of a port. Only /etc/services can say, later, whether a name exists.
fn check_port(port: &str) -> Result<(), AddrError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-_+.".contains(&b);
    let good = if port.bytes().all(|b| b.is_ascii_digit()) {
        port.parse::<u16>().is_ok()
    } else {
        port.bytes().all(word) && port.bytes().any(|b| b.is_ascii_alphabetic())
    };
    if good { Ok(()) } else { Err(AddrError::BadPort(port.to_owned())) }
}

/// Returns true for an IP literal; an IPv6 one may have a zone.
fn is_ip(host: &str) -> bool {
    match host.split_once('%') {
        Some((ip, zone)) => {
            ip.parse::<Ipv6Addr>().is_ok()
                && !zone.is_empty()
                && zone.bytes().all(|b| b.is_ascii_graphic() && !b"%/[]".contains(&b))
        }
        None => host.parse::<IpAddr>().is_ok(),
    }
}

// === impl BindAddress ===

impl FromStr for BindAddress {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        if text.is_empty() {
            return Err(AddrError::Empty);
        }
        habits::refuse(text)?;
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = unbracketed.unwrap_or(text).parse() {
            return Ok(Self { ip, port: 0 });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => bracketed(text, rest)?,
            None => text.rsplit_once(':').ok_or_else(|| AddrError::BadBind(text.to_owned()))?,
        };
        let ip = host.parse().map_err(|_| AddrError::BadBind(text.to_owned()))?;
        let port = port.parse().map_err(|_| AddrError::BadPort(port.to_owned()))?;
        Ok(Self { ip, port })
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

// === impl ServiceName ===

impl ServiceName {
    /// Returns the name; empty for the default target.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true for the default target.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=MAX_SERVICE_NAME).contains(&text.len()) && text.bytes().all(word) {
            Ok(Self(text.into()))
        } else {
            Err(ServiceNameError::new(text))
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ClientAddr ===

impl ClientAddr {
    /// Returns the source that limits count this client by; `None` if such clients have no address.
    pub fn source(&self) -> Option<SourceKey> {
        match self {
            Self::Ip(addr) => Some(addr.ip().into()),
            Self::Nameless => Some(SourceKey::Nameless),
            Self::Unix | Self::Pipe => None,
        }
    }
}

impl From<SocketAddr> for ClientAddr {
    /// Converts the IPv4-mapped addresses (`::ffff:a.b.c.d`) that a dual-stack listener reports to
    /// IPv4 here, once, so that no limit, rule or log line sees two spellings of one client.
    fn from(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            ip @ IpAddr::V4(_) => Self::Ip(SocketAddr::new(ip, addr.port())),
            IpAddr::V6(_) => Self::Ip(addr),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Pipe => f.write_str("pipe"),
            Self::Nameless => f.write_str("unknown"),
        }
    }
}

// === impl SourceKey ===

impl From<IpAddr> for SourceKey {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6(upper_half(ip)),
        }
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(ip) => ip.fmt(f),
            Self::V6(upper) => {
                let bits = u128::from(u64::from_be_bytes(*upper)) << 64;
                write!(f, "{}/64", Ipv6Addr::from_bits(bits))
            }
            Self::Nameless => f.write_str("unknown"),
        }
    }
}

fn upper_half(ip: Ipv6Addr) -> [u8; 8] {
    ((ip.to_bits() >> 64) as u64).to_be_bytes()
}

#[cfg(test)]
#[path = "addr_tests.rs"]
mod tests;
