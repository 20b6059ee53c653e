//! A client that sends exactly the bytes that it is given, from an address of its own.

use std::io::Write;
use std::net::IpAddr;

use testkit::{Addr, NEVER, Wire};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Header lines without the first.
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { panic!("no answer: {text:?}") };
        let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {line:?}"));
        Self { status, headers: headers.to_owned(), body: body.to_owned() }
    }

    /// Returns the values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        let of = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        of.map(|(_, value)| value.trim()).collect()
    }
}

/// Sends bytes from an address, and returns everything that comes until the connection ends.
#[track_caller]
pub(crate) fn exchange(from: &str, to: &Addr, bytes: &[u8]) -> Vec<u8> {
    let from: IpAddr = from.parse().unwrap();
    let mut wire = Wire::connect_from(from, to).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
    // The other end may answer before it has read all.
    let _ = wire.write_all(bytes);
    wire.read_to_ending(NEVER).0
}

/// Asks with GET, with these header lines.
#[track_caller]
pub(crate) fn get(from: &str, to: &Addr, target: &str, lines: &[&str]) -> Answer {
    ask(from, to, "GET", target, lines)
}

/// Asks, with these header lines, of which one may be `Host`.
#[track_caller]
pub(crate) fn ask(from: &str, to: &Addr, method: &str, target: &str, lines: &[&str]) -> Answer {
    Answer::parse(&exchange(from, to, &request(method, target, lines)))
}

/// Returns the bytes of a request. Characters below U+0100 are single bytes.
pub(crate) fn request(method: &str, target: &str, lines: &[&str]) -> Vec<u8> {
    let has_host = lines.iter().any(|line| line.starts_with("Host:"));
    let host = if has_host { "" } else { "Host: app.example.org\r\n" };
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    latin1(&format!("{method} {target} HTTP/1.1\r\n{host}{lines}Connection: close\r\n\r\n"))
}

pub(crate) fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).expect("a single byte")).collect()
}
