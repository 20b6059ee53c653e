//! Watch on the heads of requests for what the parser takes and forgets, although two parsers could
//! read it in two ways: a second length of one body, and a fragment behind the target.
//!
//! A request with both Content-Length and Transfer-Encoding ends at two places, so that a proxy in
//! front may have taken a part of it for another request. The parser goes by the latter and forgets
//! the former, as it may; who wants to refuse such a request has to see the bytes. This decides
//! nothing else: what is malformed is for the parser. Where a body cannot be followed to its end,
//! the next request counts as one with two lengths.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a line that are kept: enough for the names and a number.
const KEPT: usize = 64;

/// Marks of a connection. Clones are the same marks.
#[derive(Clone, Debug, Default)]
pub struct RawHeads(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    has_two_lengths: AtomicBool,
    has_fragment: AtomicBool,
}

/// A connection with requests that are watched.
pub(super) struct Watched<I> {
    io: I,
    scan: Scan,
    marks: RawHeads,
}

/// The place in what was read so far, and what was found.
#[derive(Debug, Default)]
struct Scan {
    place: Place,
    /// The beginning of the line.
    line: Vec<u8>,
    /// The line is longer than what is kept of it.
    is_cut: bool,
    /// The last byte of the line so far.
    last: Option<u8>,
    head: Head,
    has_two_lengths: bool,
    has_fragment: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// In a body with so many bytes left.
    Body(u64),
    /// In the line with the size of a chunk.
    Size,
    /// In a chunk with so many bytes left, those of the end of its line included.
    Chunk(u64),
    /// Behind the last chunk.
    Trailers,
}

/// The lengths in a head so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    is_begun: bool,
    length: Option<u64>,
    has_coding: bool,
}

impl RawHeads {
    /// Returns true if there is a mark.
    pub(super) fn is_marked(&self) -> bool {
        self.has_two_lengths() || self.has_fragment()
    }

    /// Returns true if a request had two lengths, or one that is none.
    pub fn has_two_lengths(&self) -> bool {
        self.0.has_two_lengths.load(Ordering::Relaxed)
    }

    /// Returns true if a target had a fragment.
    pub fn has_fragment(&self) -> bool {
        self.0.has_fragment.load(Ordering::Relaxed)
    }
}

impl Scan {
    /// Looks at bytes that were read.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.place {
                Place::Body(left) => {
                    let (rest, left) = skip(bytes, left);
                    bytes = rest;
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                }
                Place::Chunk(left) => {
                    let (rest, left) = skip(bytes, left);
                    bytes = rest;
                    self.place = if left == 0 { Place::Size } else { Place::Chunk(left) };
                }
                Place::Head | Place::Size | Place::Trailers => {
                    let Some(rest) = self.take_line(bytes) else { break };
                    bytes = rest;
                }
            }
        }
    }

    /// Looks at the rest of a line; returns what is behind it, `None` where it goes on.
    fn take_line<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        if self.place == Place::Head && !self.head.is_begun {
            self.has_fragment |= line.contains(&b'#');
        }
        let room = KEPT.saturating_sub(self.line.len());
        self.is_cut |= line.len() > room;
        self.line.extend_from_slice(&line[..line.len().min(room)]);
        self.last = line.last().copied().or(self.last);
        let rest = &bytes[end? + 1..];
        let is_whole = self.last.take() == Some(b'\r');
        let begun = std::mem::take(&mut self.line);
        let is_cut = std::mem::take(&mut self.is_cut);
        let text = begun.strip_suffix(b"\r").unwrap_or(&begun);
        match self.place {
            Place::Size => self.end_size(text, is_whole && !is_cut),
            Place::Trailers => self.end_trailer(text, is_whole),
            _ => self.end_line(text, is_cut),
        }
        // The room is used again.
        self.line = begun;
        self.line.clear();
        Some(rest)
    }

    /// Reads a line of a head.
    fn end_line(&mut self, line: &[u8], is_cut: bool) {
        if line.is_empty() {
            if self.head.is_begun {
                self.end_head();
            }
            return;
        }
        self.head.is_begun = true;
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        match value.and_then(|value| str::from_utf8(value).ok()) {
            Some(value) if name.eq_ignore_ascii_case(b"content-length") => {
                let value = value.trim();
                let is_again = self.head.length.is_some();
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                self.head.length = value.parse().ok().filter(|_| is_number);
                // A server that reads it in another way sees another length.
                self.has_two_lengths |= is_again || is_cut || self.head.length.is_none();
            }
            Some(_) if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.head.has_coding = true;
            }
            _ => {}
        }
    }

    fn end_head(&mut self) {
        let Head { length, has_coding, .. } = std::mem::take(&mut self.head);
        self.place = match length {
            _ if has_coding => Place::Size,
            Some(length) if length > 0 => Place::Body(length),
            _ => Place::Head,
        };
        self.has_two_lengths |= has_coding && length.is_some();
    }

    /// Reads the line with the size of a chunk.
    fn end_size(&mut self, line: &[u8], is_whole: bool) {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = str::from_utf8(&line[..digits]).ok();
        let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
        // One that the parser does not take ends the connection.
        self.has_two_lengths |= size.is_none() || !is_whole;
        self.place = match size {
            Some(0) => Place::Trailers,
            size => Place::Chunk(size.unwrap_or_default().saturating_add(2)),
        };
    }

    /// Reads a line behind the last chunk.
    fn end_trailer(&mut self, line: &[u8], is_whole: bool) {
        // The parser sees no end of a line there.
        self.has_two_lengths |= !is_whole;
        if line.is_empty() && is_whole {
            self.place = Place::Head;
        }
    }
}

/// Returns what is behind `left` bytes, and how many of them are to come.
fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let part = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (&bytes[part..], left - part as u64)
}

impl<I> Watched<I> {
    /// Watches what is read from `io`.
    pub(super) fn new(io: I) -> Self {
        Self { io, scan: Scan::default(), marks: RawHeads::default() }
    }

    /// Returns the marks of this connection.
    pub(super) fn marks(&self) -> RawHeads {
        self.marks.clone()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, scan, marks: RawHeads(marks) } = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(io).poll_read(context, buffer);
        scan.take(&buffer.filled()[before..]);
        if scan.has_two_lengths {
            marks.has_two_lengths.store(true, Ordering::Relaxed);
        }
        if scan.has_fragment {
            marks.has_fragment.store(true, Ordering::Relaxed);
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

    /// Looks at a text in parts of each length; returns whether two lengths and a fragment were
    /// found.
    fn found(text: &str) -> (bool, bool) {
        let all: Vec<(bool, bool)> = [1, 2, 3, 7, 64, 10_000]
            .iter()
            .map(|length| {
                let mut scan = Scan::default();
                text.as_bytes().chunks(*length).for_each(|part| scan.take(part));
                (scan.has_two_lengths, scan.has_fragment)
            })
            .collect();
        assert!(all.iter().all(|found| *found == all[0]), "{all:?}: {text}");
        all[0]
    }

    fn is_found(text: &str) -> bool {
        found(text).0
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
    fn the_same_length_again_is_a_second_one() {
        for lines in
            ["Content-Length: 3\r\nContent-Length: 3", "content-length:3\nCONTENT-LENGTH: 3"]
        {
            assert!(is_found(&format!("POST / HTTP/1.1\r\n{lines}\r\n\r\nabc")), "{lines}");
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

    #[test]
    fn a_request_behind_chunks_is_watched_as_the_first_is() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(50));
        for chunks in [
            "5\r\nabcde\r\n0\r\n\r\n",
            "0\r\n\r\n",
            "A;x=\"y\"\r\n0\r\n\r\n01234\r\n0 \r\nX-Sum: 1\r\nContent-Length: 5\r\n\r\n",
            &format!("{long}1 \t\r\n\n\r\n000\r\n\r\n"),
        ] {
            let first = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(!is_found(&first), "{first}");
            assert!(is_found(&format!("{first}{TWO}")), "{first}");
            assert!(found(&format!("{first}GET /a#b HTTP/1.1\r\n\r\n")).1, "{first}");
            assert!(!is_found(&format!("{first}GET / HTTP/1.1\r\nContent-Length: 4\r\n\r\n")));
        }
    }

    #[test]
    fn where_a_body_ends_in_two_ways_what_follows_counts_as_two() {
        let far = format!("{}5\r\nabcde\r\n0\r\n\r\n", "0".repeat(KEPT));
        for chunks in
            ["5\nabcde\r\n0\r\n\r\n", "x\r\n", "0\n\n", "0\r\nX: y\n\n", "0\r\n\n\r\n", &far]
        {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(is_found(&text), "{chunks}");
        }
    }

    #[test]
    fn a_fragment_is_found_in_a_target_and_nowhere_else() {
        let long = "x".repeat(5_000);
        for target in ["/#", "/a?b#c", "#", "http://a/#b", &format!("/{long}#a")] {
            assert!(found(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).1, "{target}");
            let second = format!("\r\nGET / HTTP/1.1\r\nA: #\r\n\r\nGET {target} HTTP/1.1\r\n\r\n");
            assert!(found(&second).1, "{target}");
        }
        for text in [
            "GET / HTTP/1.1\r\nReferer: /#a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n/#",
        ] {
            assert!(!found(text).1, "{text}");
        }
    }
}
