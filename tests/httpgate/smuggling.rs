//! Requests that two parsers could read in two ways: each is refused, or reaches the server as
//! exactly one request with one length. What arrives there is recorded byte by byte.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::{End, Target};

use crate::http::{Message, Peer};
use crate::world::start;

/// Mark in each hidden request: it must never be a request of its own at the server.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// Time in which a request that is not refused gets its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A server that records all bytes, and answers after each.
struct Recorder {
    target: Target,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn new() -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let theirs = Arc::clone(&bytes);
        let target = Target::local(move |mut wire, _| {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = wire.read(&mut buffer) {
                theirs.lock().unwrap().extend(&buffer[..n]);
                let all = theirs.lock().unwrap().clone();
                if is_whole(&all) {
                    let _ = wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            }
        });
        Self { target, bytes }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// Returns true when the last request is complete.
fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    match length {
        Some(length) => body.len() >= length,
        None if head.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
        None => true,
    }
}

/// Outcome of an attempt.
struct Outcome {
    answers: Vec<u16>,
    /// Bytes at the server.
    seen: String,
}

fn attempt(request: &[u8]) -> Outcome {
    let recorder = Recorder::new();
    let target = format!("http://{}", recorder.target.addr());
    let gate = start(&target, &["--allow", "127.0.0.0/8", "-o", "1s"]);
    let answers = answers(&gate, request);
    Outcome { answers, seen: recorder.text() }
}

/// Sends all of it, and reads answers until the connection ends or nothing more comes.
fn answers(gate: &End, request: &[u8]) -> Vec<u16> {
    let mut wire = gate.connect();
    // A refusal may come before all was sent.
    let _ = wire.write_all(request);
    let (bytes, _) = wire.read_to_ending(ANSWER);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("HTTP/1."));
    lines.map(|line| Message { first: line.to_owned(), ..Message::default() }.status()).collect()
}

/// Checks that a request is refused, and that no byte of it reaches the server.
#[track_caller]
fn expect_refused(what: &str, request: &str) {
    let Outcome { answers, seen } = attempt(request.as_bytes());
    assert_eq!(seen, "", "{what}: {answers:?}");
    assert!(answers.iter().all(|status| (400..500).contains(status)), "{what}: {answers:?}");
    assert!(answers.len() <= 1, "{what}: {answers:?}");
}

/// Checks that what arrives is one request with one length, which has no line of its own for
/// what was hidden in it.
#[track_caller]
fn expect_one(what: &str, request: &str) -> String {
    let Outcome { answers, seen } = attempt(request.as_bytes());
    assert!(answers.first().is_none_or(|status| *status == 200), "{what}: {answers:?}");
    let lower = seen.to_ascii_lowercase();
    let head = lower.split("\r\n\r\n").next().unwrap_or_default();
    let lengths = head.matches("\r\ncontent-length:").count();
    let codings = head.matches("\r\ntransfer-encoding:").count();
    assert!(lengths + codings <= 1, "{what}: {seen}");
    seen
}

#[test]
fn a_length_and_a_coding_together_are_refused() {
    // CL.TE and TE.CL: with the hidden request inside one body, and outside of the other.
    let length = HIDDEN.len() + 5;
    let cl_te = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\n{HIDDEN}"
    );
    let te_cl = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n\
         {:x}\r\n{HIDDEN}\r\n0\r\n\r\n",
        HIDDEN.len()
    );
    for (what, request) in [("CL.TE", cl_te), ("TE.CL", te_cl)] {
        expect_refused(what, &request);
    }
}

#[test]
fn codings_that_servers_read_differently_are_refused() {
    for coding in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer\0-Encoding: chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer_Encoding: chunked\r\nTransfer-Encoding: chunked, chunked",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{coding}\r\n\r\n0\r\n\r\n{HIDDEN}");
        expect_refused(coding, &request);
    }
    let old = format!("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}");
    expect_refused("a coding in HTTP/1.0", &old);
}

#[test]
fn lengths_that_servers_read_differently_are_refused() {
    for length in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 05",
        "Content-Length: 5, 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 5.0",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Content-Length : 5",
        "Content-Length: 5\0",
        "X: y\r\n\tContent-Length: 5",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n12345{HIDDEN}");
        expect_refused(length, &request);
    }
}

#[test]
fn heads_that_servers_read_differently_are_refused() {
    for (what, request) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        ("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned()),
        ("a host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned()),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n".to_owned()),
        ("obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n".to_owned()),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n".to_owned()),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n".to_owned()),
        ("CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n".to_owned()),
        ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n".to_owned()),
        ("a space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("a space in front", " GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("a tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("another version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned()),
        ("HTTP/2 in the clear", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned()),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned()),
    ] {
        expect_refused(what, &(request + HIDDEN));
    }
}

#[test]
fn chunks_that_servers_read_differently_are_not_passed_on() {
    for (what, chunks) in [
        ("a sign", "+5\r\n12345\r\n0\r\n\r\n"),
        ("a prefix", "0x5\r\n12345\r\n0\r\n\r\n"),
        ("bare LF", "5\n12345\n0\n\n"),
        ("LF in an extension", "5;a\nb\r\n12345\r\n0\r\n\r\n"),
        ("a size too large", "fffffffffffffffff\r\n12345\r\n0\r\n\r\n"),
        ("no line behind a chunk", "5\r\n12345XX0\r\n\r\n"),
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{HIDDEN}"
        );
        let Outcome { answers, seen } = attempt(request.as_bytes());
        assert!(!seen.contains("hidden"), "{what}: {answers:?} {seen}");
        // Without its last chunk no server takes it for a whole request.
        assert!(!seen.ends_with("0\r\n\r\n"), "{what}: {answers:?} {seen}");
    }
    let extended = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5;name=\"a b\"\r\n12345\r\n0\r\nX-Trailer: y\r\n\r\n";
    let seen = expect_one("an extension", extended);
    assert!(seen.ends_with("5\r\n12345\r\n0\r\n\r\n"), "{seen}");
}

#[test]
fn bare_line_feeds_reach_no_server() {
    let seen = expect_one("bare LF", "GET /x HTTP/1.1\nHost: a\nX: y\n\n");
    assert!(!seen.replace("\r\n", "").contains('\n'), "{seen:?}");
    assert!(seen.is_empty() || seen.starts_with("GET /x HTTP/1.1\r\n"), "{seen}");
}

#[test]
fn a_body_where_none_is_expected_stays_a_body() {
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
    let seen = expect_one("GET with a body", &request);
    assert!(seen.contains(&format!("content-length: {}", HIDDEN.len())), "{seen}");
    let chunked = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n",
        HIDDEN.len()
    );
    let seen = expect_one("GET with chunks", &chunked);
    assert!(seen.contains("transfer-encoding: chunked"), "{seen}");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let recorder = Recorder::new();
    let target = format!("http://{}", recorder.target.addr());
    let gate = start(&target, &["--allow", "127.0.0.0/8"]);
    let mut peer = Peer::new(gate.connect());
    peer.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(peer.answer(false).status(), 200);
    assert_eq!(peer.answer(false).status(), 200);
    let text = recorder.text();
    assert!(text.find("GET /1 ") < text.find("GET /2 "), "{text}");
}
