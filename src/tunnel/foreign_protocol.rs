//! Guesses the protocol of a program that is not a knockpipe by its first bytes.
//!
//! For operators who pointed one end at the wrong port. It is only a guess: it decides nothing, and
//! none of the bytes are passed on. A sealed handshake begins with random bytes, which look like
//! one of these once in millions of times.

use std::fmt;

/// Protocol that first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ForeignProtocol {
    /// MySQL's or MariaDB's own protocol.
    Mysql,
    /// RESP: Redis and compatible servers.
    Redis,
    /// HTTP, versions 1 and 2.
    Http,
    /// A record of TLS.
    Tls,
    /// SSH.
    Ssh,
    /// PostgreSQL's protocol.
    Postgres,
    /// A mail or FTP server, or a client of one.
    Mail,
    /// The PROXY header of a load balancer.
    Proxy,
    /// Text of another kind.
    Text,
}

/// Printable bytes that are needed to call them text: random bytes qualify once in 2^22 times.
const TEXT: usize = 16;

/// The beginnings of servers.
const SERVERS: [(&[u8], ForeignProtocol); 13] = [
    (b"HTTP/", ForeignProtocol::Http),
    (b"SSH-", ForeignProtocol::Ssh),
    (b"-ERR", ForeignProtocol::Redis),
    (b"-NOAUTH", ForeignProtocol::Redis),
    (b"-DENIED", ForeignProtocol::Redis),
    (b"-LOADING", ForeignProtocol::Redis),
    (b"-MASTERDOWN", ForeignProtocol::Redis),
    (b"+OK\r\n", ForeignProtocol::Redis),
    (b"+PONG", ForeignProtocol::Redis),
    (b"+OK ", ForeignProtocol::Mail),
    (b"* OK", ForeignProtocol::Mail),
    (b"220", ForeignProtocol::Mail),
    (b"554 ", ForeignProtocol::Mail),
];

/// The beginnings of clients.
const CLIENTS: [(&[u8], ForeignProtocol); 19] = [
    (b"GET ", ForeignProtocol::Http),
    (b"POST ", ForeignProtocol::Http),
    (b"HEAD ", ForeignProtocol::Http),
    (b"PUT ", ForeignProtocol::Http),
    (b"DELETE ", ForeignProtocol::Http),
    (b"OPTIONS ", ForeignProtocol::Http),
    (b"CONNECT ", ForeignProtocol::Http),
    (b"PATCH ", ForeignProtocol::Http),
    (b"PRI * HTTP/2", ForeignProtocol::Http),
    (b"SSH-", ForeignProtocol::Ssh),
    (b"PING\r\n", ForeignProtocol::Redis),
    (b"AUTH ", ForeignProtocol::Redis),
    (b"HELLO ", ForeignProtocol::Redis),
    (b"INFO\r\n", ForeignProtocol::Redis),
    (b"EHLO ", ForeignProtocol::Mail),
    (b"HELO ", ForeignProtocol::Mail),
    (b"PROXY TCP", ForeignProtocol::Proxy),
    (b"PROXY UNKNOWN", ForeignProtocol::Proxy),
    (b"\r\n\r\n\0\r\nQUIT\n", ForeignProtocol::Proxy),
];

impl ForeignProtocol {
    /// Names the protocol of a server by its first bytes; `None` for an unknown one.
    pub(super) fn of_server(bytes: &[u8]) -> Option<Self> {
        let begins = |(start, _): &&(&[u8], Self)| bytes.starts_with(start);
        if let Some((_, speech)) = SERVERS.iter().find(begins) {
            return Some(*speech);
        }
        match bytes {
            // Length, number 0, then protocol 10 and a version, or an error.
            [_, _, 0, 0, 0x0a, b'0'..=b'9', ..] | [_, _, 0, 0, 0xff, _, 0x04, ..] => {
                Some(Self::Mysql)
            }
            // SETTINGS of stream 0.
            [0, 0, _, 4, 0, 0, 0, 0, 0, ..] => Some(Self::Http),
            [b'E', 0, 0, ..] if bytes.windows(5).any(|word| word == b"FATAL") => {
                Some(Self::Postgres)
            }
            _ => Self::of_both(bytes),
        }
    }

    /// Names the protocol of a client by its first bytes; `None` for an unknown one.
    pub(super) fn of_client(bytes: &[u8]) -> Option<Self> {
        let begins = |(start, _): &&(&[u8], Self)| bytes.starts_with(start);
        if let Some((_, speech)) = CLIENTS.iter().find(begins) {
            return Some(*speech);
        }
        match bytes {
            // An array: `*2\r\n$4\r\n...`
            [b'*', b'1'..=b'9', rest @ ..] if is_array(rest) => Some(Self::Redis),
            // A request for TLS, or version 3 of the protocol.
            [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f, ..] | [0, 0, _, _, 0, 3, 0, 0, ..] => {
                Some(Self::Postgres)
            }
            _ => Self::of_both(bytes),
        }
    }

    fn of_both(bytes: &[u8]) -> Option<Self> {
        let is_text = |byte: &u8| matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~');
        match bytes {
            [0x14..=0x17, 0x03, 0..=4, _, _, ..] => Some(Self::Tls),
            _ if bytes.len() >= TEXT && bytes[..TEXT].iter().all(is_text) => Some(Self::Text),
            _ => None,
        }
    }
}

/// Returns true when this follows the first digit of an array of RESP.
fn is_array(rest: &[u8]) -> bool {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits < 8 && rest[digits..].starts_with(b"\r\n$")
}

impl ForeignProtocol {
    /// Returns its name for people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Mysql => "MySQL or MariaDB",
            Self::Redis => "Redis",
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Ssh => "SSH",
            Self::Postgres => "PostgreSQL",
            Self::Mail => "mail or FTP",
            Self::Proxy => "a PROXY header",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for ForeignProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_distinguished_by_their_first_bytes() {
        let cases: [(&[u8], ForeignProtocol); 17] = [
            (b"J\0\0\0\x0a8.0.36\0", ForeignProtocol::Mysql),
            (b"Z\0\0\0\x0a5.5.5-10.11.6-MariaDB", ForeignProtocol::Mysql),
            (b"E\0\0\0\xff\x6a\x04Host '10.0.0.1' is not allowed", ForeignProtocol::Mysql),
            (b"-ERR unknown command", ForeignProtocol::Redis),
            (b"-NOAUTH Authentication required.\r\n", ForeignProtocol::Redis),
            (b"-DENIED Redis is running in protected mode", ForeignProtocol::Redis),
            (b"+OK\r\n", ForeignProtocol::Redis),
            (b"+OK POP3 ready", ForeignProtocol::Mail),
            (b"HTTP/1.1 400 Bad Request\r\n", ForeignProtocol::Http),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", ForeignProtocol::Http),
            (b"\x15\x03\x01\0\x02\x02\x46", ForeignProtocol::Tls),
            (b"\x16\x03\x03\0\x7a\x02", ForeignProtocol::Tls),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", ForeignProtocol::Ssh),
            (b"220 mail.example.org ESMTP\r\n", ForeignProtocol::Mail),
            (b"* OK IMAP4 ready\r\n", ForeignProtocol::Mail),
            (b"E\0\0\0\x9eSFATAL\0", ForeignProtocol::Postgres),
            (b"Welcome to the machine\n", ForeignProtocol::Text),
        ];
        for (bytes, speech) in cases {
            assert_eq!(ForeignProtocol::of_server(bytes), Some(speech), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn clients_are_distinguished_by_their_first_bytes() {
        let cases: [(&[u8], ForeignProtocol); 12] = [
            (b"*1\r\n$4\r\nPING\r\n", ForeignProtocol::Redis),
            (b"*12\r\n$4\r\n", ForeignProtocol::Redis),
            (b"PING\r\n", ForeignProtocol::Redis),
            (b"GET / HTTP/1.1\r\n", ForeignProtocol::Http),
            (b"PRI * HTTP/2.0\r\n", ForeignProtocol::Http),
            (b"\x16\x03\x01\x02\0\x01", ForeignProtocol::Tls),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", ForeignProtocol::Ssh),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", ForeignProtocol::Postgres),
            (b"\0\0\0\x54\0\x03\0\0user\0", ForeignProtocol::Postgres),
            (b"EHLO host\r\n", ForeignProtocol::Mail),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", ForeignProtocol::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", ForeignProtocol::Proxy),
        ];
        for (bytes, speech) in cases {
            assert_eq!(ForeignProtocol::of_client(bytes), Some(speech), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_too_short_or_random_looks_like_nothing() {
        let random: &[u8] = b"\x93\x1f\x00\x77\xc0\x0a\x81\x02\xee\x47\x55\x90\xaa\x13\x37\x8b\xc1";
        let short: [&[u8]; 6] = [b"", b"*", b"-", b"\x16", b"*9", b"hello"];
        for bytes in short.into_iter().chain([random]) {
            assert_eq!(ForeignProtocol::of_server(bytes), None, "{}", bytes.escape_ascii());
            assert_eq!(ForeignProtocol::of_client(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
