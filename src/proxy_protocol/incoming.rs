//! Reads the header that a load balancer sends first, and not a byte more.
//!
//! The bytes after a header belong to the connection, so [`HeaderReader`] returns how many may be
//! read without touching them. It examines one byte after the other, so the result does not depend
//! on how the network splits the header, and it refuses at the first byte that no header has there.
//! It holds no socket and no clock: the end of the stream and the deadline (3 seconds or more, says
//! the specification) are up to the caller, which must not use the connection before
//! [`Progress::Done`].

use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};

/// Longest header of version 1 in bytes, with its CR LF.
pub const MAX_V1: usize = 107;

/// Longest header of version 2 in bytes.
///
/// The specification intends headers to fit into the smallest TCP segment, 536 bytes. Addresses
/// take 232 of them at most, but load balancers append TLS details (a server name, the names in a
/// certificate), which can be longer. 4096 is enough for everything that is registered, and nginx
/// stops there too; the length field itself would let a peer make us wait for 64 KiB.
pub const MAX_V2: usize = 4096;

/// Length of `PROXY UNKNOWN\r\n`, the shortest header: it can always be read.
const SHORTEST: usize = 15;

/// Start of version 1.
const V1_START: &[u8] = b"PROXY ";

/// Start of version 2.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 up to its length field.
const V2_FIXED: usize = 16;

/// Reads one header, in pieces of any size.
#[derive(Debug, Default)]
pub struct HeaderReader {
    /// The header so far.
    held: Vec<u8>,
    outcome: Option<Outcome>,
}

/// Progress of a [`HeaderReader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The header is incomplete. The next read may ask for this many bytes (at least 1) without
    /// taking any that follow the header.
    Need(usize),
    /// The header is complete.
    Done {
        /// Origin of the connection.
        sender: Sender,
        /// Number of the bytes just pushed that are header; the others follow it.
        used: usize,
    },
    /// No header, or a malformed one. The connection must be closed.
    Bad(HeaderError),
}

/// Origin of a connection, as announced by its load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The load balancer itself: a health check, for example (the command LOCAL of
    /// version 2; version 1 has no such thing).
    Balancer,
    /// A client at this address, in canonical form.
    Client(SocketAddr),
    /// A client without an announced address: UNKNOWN, UNSPEC, AF_UNIX. The load balancer's own
    /// address says nothing about it.
    Nameless,
}

type Outcome = Result<Sender, HeaderError>;

/// Reason why the first bytes of a connection are no valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Neither version starts like this.
    #[error(
        "no PROXY protocol header; let the load balancer send one, or do not list it as one that does"
    )]
    NotAHeader,
    /// More than [`MAX_V1`] or [`MAX_V2`] bytes.
    #[error("a PROXY header that is too long; let the load balancer send fewer details")]
    TooLong,
    /// CR and LF other than as the pair that ends version 1.
    #[error("a PROXY v1 line that does not end in CR LF; correct its sender, or let it send v2")]
    LineEnd,
    /// Other than TCP4, TCP6 and UNKNOWN.
    #[error("a PROXY v1 line for an unknown protocol; correct its sender, or let it send v2")]
    Protocol,
    /// Too few or too many words, or more than one space between them.
    #[error("a PROXY v1 line with misplaced words; correct its sender, or let it send v2")]
    Words,
    /// A port that is not 0 to 65535 without sign and leading zeros.
    #[error("a PROXY v1 line with a malformed port; correct its sender, or let it send v2")]
    Port,
    /// An address that is malformed or not of the announced family.
    #[error("a PROXY v1 line with a malformed address; correct its sender, or let it send v2")]
    Address,
    /// The signature of version 2 followed by another version.
    #[error("a PROXY header of an unknown version; let the load balancer send v1 or v2")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("a PROXY v2 header with an unknown command; correct its sender, or let it send v1")]
    Command,
    /// A combination of address family and transport that is not defined.
    #[error("a PROXY v2 header of an unknown family; correct its sender, or let it send v1")]
    Family,
    /// The header of a datagram, on a stream.
    #[error("a PROXY v2 header for datagrams; let the load balancer forward TCP")]
    Datagram,
    /// Shorter than the addresses that it announces.
    #[error("a PROXY v2 header that is too short; correct its sender, or let it send v1")]
    TooShort,
}

// === impl HeaderReader ===

impl HeaderReader {
    /// Number of bytes that the first read may ask for.
    pub const FIRST_READ: usize = SHORTEST;

    /// Takes the next bytes of the connection; there may be more than the header has.
    ///
    /// After [`Progress::Done`] or [`Progress::Bad`] the answer stays, and no
    /// further byte is used.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let mut used = 0;
        while self.outcome.is_none() && used < bytes.len() {
            self.held.push(bytes[used]);
            self.outcome = judge(&self.held);
            used += 1;
        }
        match self.outcome {
            None => Progress::Need(need(&self.held)),
            Some(Ok(sender)) => Progress::Done { sender, used },
            Some(Err(error)) => Progress::Bad(error),
        }
    }
}

/// Decides by the last byte of `held`; without it nothing was decided.
fn judge(held: &[u8]) -> Option<Outcome> {
    match held.first() {
        Some(b'P') => judge_v1(held),
        Some(b'\r') => judge_v2(held).transpose(),
        _ => Some(Err(HeaderError::NotAHeader)),
    }
}

/// Returns the lowest number of bytes that are missing to the end of the header.
fn need(held: &[u8]) -> usize {
    match held.first() {
        None => SHORTEST,
        Some(b'P') => need_v1(held),
        Some(_) if held.len() < V2_FIXED => V2_FIXED - held.len(),
        Some(_) => announced_len(held) - held.len(),
    }
}

// === version 1 ===

fn judge_v1(held: &[u8]) -> Option<Outcome> {
    if held.len() <= V1_START.len() {
        return (!V1_START.starts_with(held)).then_some(Err(HeaderError::NotAHeader));
    }
    match held {
        [.., b'\r', b'\n'] => Some(parse_line(held)),
        [.., b'\n'] | [.., b'\r', _] => Some(Err(HeaderError::LineEnd)),
        _ if held.len() == MAX_V1 => Some(Err(HeaderError::TooLong)),
        _ => None,
    }
}

fn parse_line(line: &[u8]) -> Outcome {
    let text = &line[V1_START.len()..line.len() - 2];
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    match words[..] {
        // The rest must be ignored.
        [b"UNKNOWN", ..] => Ok(Sender::Nameless),
        [b"TCP4" | b"TCP6", _, _, source, destination] => {
            if !is_port(source) || !is_port(destination) {
                return Err(HeaderError::Port);
            }
            addresses(line)
        }
        [b"TCP4" | b"TCP6", ..] => Err(HeaderError::Words),
        _ => Err(HeaderError::Protocol),
    }
}

/// Returns true for a number up to 65535 in its only spelling.
fn is_port(word: &[u8]) -> bool {
    let text = str::from_utf8(word).unwrap_or_default();
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
}

fn need_v1(held: &[u8]) -> usize {
    let line_end = if held.ends_with(b"\r") { 1 } else { 2 };
    let line = if held.starts_with(b"PROXY TCP") {
        // Five words follow the first; each one still to come has a space and a byte.
        let begun = held.iter().filter(|byte| **byte == b' ').count();
        2 * 5_usize.saturating_sub(begun) + usize::from(held.ends_with(b" "))
    } else {
        0
    };
    (line + line_end).max(SHORTEST.saturating_sub(held.len()))
}

// === version 2 ===

/// `Ok(None)`: not decided yet.
fn judge_v2(held: &[u8]) -> Result<Option<Sender>, HeaderError> {
    match held.len() {
        0..=12 if V2_START.starts_with(held) => Ok(None),
        0..=12 => Err(HeaderError::NotAHeader),
        13 => command(held[12]).map(|_| None),
        14 => block_len(held).map(|_| None),
        15 => Ok(None),
        len => {
            let announced = announced_len(held);
            if announced > MAX_V2 {
                return Err(HeaderError::TooLong);
            }
            if announced < V2_FIXED + block_len(held)? {
                return Err(HeaderError::TooShort);
            }
            if len < announced { Ok(None) } else { sender(held).map(Some) }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    /// A connection of the load balancer itself. The rest of the header is to be skipped.
    Local,
    /// A connection on behalf of a client.
    Proxy,
}

fn command(byte: u8) -> Result<Command, HeaderError> {
    match byte {
        0x20 => Ok(Command::Local),
        0x21 => Ok(Command::Proxy),
        0x22..=0x2f => Err(HeaderError::Command),
        _ => Err(HeaderError::Version),
    }
}

/// Returns the length of the addresses of the announced family.
fn block_len(held: &[u8]) -> Result<usize, HeaderError> {
    if command(held[12])? == Command::Local {
        return Ok(0);
    }
    match held[13] {
        0x00 => Ok(0),
        0x11 => Ok(12),
        0x21 => Ok(36),
        0x31 => Ok(216),
        0x12 | 0x22 | 0x32 => Err(HeaderError::Datagram),
        _ => Err(HeaderError::Family),
    }
}

/// Returns the length of the whole header; `held` has its fixed part.
fn announced_len(held: &[u8]) -> usize {
    V2_FIXED + usize::from(u16::from_be_bytes([held[14], held[15]]))
}

fn sender(header: &[u8]) -> Outcome {
    match (command(header[12])?, header[13]) {
        (Command::Local, _) => Ok(Sender::Balancer),
        (Command::Proxy, 0x11 | 0x21) => addresses(header),
        // No family is announced, or one with clients that have no address to judge.
        (Command::Proxy, _) => Ok(Sender::Nameless),
    }
}

// === both ===

/// Returns the client in a complete header of TCP over IPv4 or IPv6.
fn addresses(header: &[u8]) -> Outcome {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(header, config) {
        Ok((parsed, used)) if used == header.len() => {
            let source = parsed.proxied_address().ok_or(HeaderError::Address)?.source;
            let ip = source.ip().to_canonical();
            Ok(Sender::Client(SocketAddr::new(ip, source.port())))
        }
        _ => Err(HeaderError::Address),
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
