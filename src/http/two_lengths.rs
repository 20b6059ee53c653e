//! Watch on the heads of requests for two lengths of one body, or one that two parsers could read
//! in two ways.
//!
//! A request with both Content-Length and Transfer-Encoding ends at two places, so that a proxy in
//! front may have taken a part of it for another request. The parser goes by the latter and forgets
//! the former, as it may; who wants to refuse such a request has to see the bytes. This decides
//! nothing else: what is malformed is for the parser.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a line that are kept: enough for the names and a number.
const KEPT: usize = 64;

/// Mark of a connection on which a request had two lengths. Clones are the same mark.
#[derive(Clone, Debug, Default)]
pub struct TwoLengths(Arc<AtomicBool>);

/// A connection with requests that are watched.
pub(super) struct Watched<I> {
    io: I,
    scan: Scan,
    mark: TwoLengths,
}

/// The place in what was read so far.
#[derive(Debug, Default)]
struct Scan {
    place: Place,
    /// The beginning of the line.
    line: Vec<u8>,
    /// The line is longer than what is kept of it.
    is_cut: bool,
    head: Head,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// In a body with so many bytes left.
    Body(u64),
    /// Behind a head with a coding: where that body ends is the parser's business.
    Unwatched,
}

/// The lengths in a head so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    is_begun: bool,
    length: Option<u64>,
    has_coding: bool,
}

impl TwoLengths {
    /// Returns true if there was one.
    pub fn is_found(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Scan {
    /// Looks at bytes that were read; returns true if a head in them has two lengths.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut is_found = false;
        while !bytes.is_empty() {
            match self.place {
                Place::Unwatched => break,
                Place::Body(left) => {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[part..];
                    let left = left - part as u64;
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                }
                Place::Head => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let line = &bytes[..end.unwrap_or(bytes.len())];
                    let room = KEPT.saturating_sub(self.line.len());
                    self.is_cut |= line.len() > room;
                    self.line.extend_from_slice(&line[..line.len().min(room)]);
                    let Some(end) = end else { break };
                    bytes = &bytes[end + 1..];
                    is_found |= self.end_line();
                }
            }
        }
        is_found
    }

    fn end_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let is_cut = std::mem::take(&mut self.is_cut);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            return self.head.is_begun && self.end_head();
        }
        self.head.is_begun = true;
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        match value.and_then(|value| str::from_utf8(value).ok()) {
            Some(value) if name.eq_ignore_ascii_case(b"content-length") => {
                let value = value.trim();
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                self.head.length = value.parse().ok().filter(|_| is_number);
                // A server that reads it in another way sees another length.
                return is_cut || self.head.length.is_none();
            }
            Some(_) if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.head.has_coding = true;
            }
            _ => {}
        }
        false
    }

    fn end_head(&mut self) -> bool {
        let Head { length, has_coding, .. } = std::mem::take(&mut self.head);
        self.place = match length {
            _ if has_coding => Place::Unwatched,
            Some(length) if length > 0 => Place::Body(length),
            _ => Place::Head,
        };
        has_coding && length.is_some()
    }
}

impl<I> Watched<I> {
    /// Watches what is read from `io`.
    pub(super) fn new(io: I) -> Self {
        Self { io, scan: Scan::default(), mark: TwoLengths::default() }
    }

    /// Returns the mark of this connection.
    pub(super) fn mark(&self) -> TwoLengths {
        self.mark.clone()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, scan, mark } = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(io).poll_read(context, buffer);
        if scan.take(&buffer.filled()[before..]) {
            mark.0.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// Looks at a text in parts of each length.
    fn is_found(text: &str) -> bool {
        let all: Vec<bool> = [1, 2, 3, 7, 64, 10_000]
            .iter()
            .map(|length| {
                let mut scan = Scan::default();
                text.as_bytes().chunks(*length).fold(false, |found, part| found | scan.take(part))
            })
            .collect();
        assert!(all.iter().all(|found| *found == all[0]), "{all:?}: {text}");
        all[0]
    }

    #[test]
    fn two_lengths_of_one_request_are_found_however_it_comes() {
        let other = "POST / HTTP/1.1\nTRANSFER-ENCODING:chunked\nX: 1\ncontent-length:0\n\n";
        let long = format!("X-Long: {}\r\n", "x".repeat(5_000));
        let behind =
            format!("GET /a HTTP/1.1\r\n{long}\r\nPUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
        for text in [TWO, other, &format!("\r\n{TWO}"), &format!("{behind}{TWO}")] {
            assert!(is_found(text), "{text}");
        }
    }

    #[test]
    fn a_length_that_is_none_or_too_long_to_read_counts_as_two() {
        let far = format!("{}4", " ".repeat(KEPT));
        let long = format!("4{}", "0".repeat(KEPT));
        for length in ["", "+4", "-4", "4, 4", "4x", "0x4", "99999999999999999999", &far, &long] {
            let text = format!("POST / HTTP/1.1\r\nContent-Length:{length}\r\n\r\n");
            assert!(is_found(&text), "{length}");
        }
    }

    #[test]
    fn one_length_and_what_stands_in_a_body_are_nothing() {
        let inner = TWO.len();
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\naPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            &format!("POST / HTTP/1.1\r\nContent-Length: {inner}\r\n\r\n{TWO}"),
            &format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{inner:x}\r\n{TWO}\r\n0\r\n\r\n"
            ),
            "\u{16}\u{3}\n:\n\n",
        ] {
            assert!(!is_found(text), "{text}");
        }
    }
}
