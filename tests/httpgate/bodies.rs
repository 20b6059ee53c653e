//! Bodies of 1 GiB, both ways, with a length and in chunks: whole, and without being kept.

use std::io::Write;

use testkit::proc::most_rss_kib;
use testkit::{End, Target, Wire};

use crate::http::Peer;
use crate::world::{start, url};

const GIB: u64 = 1 << 30;

/// Bytes of one write.
const PIECE: usize = 256 * 1024;

/// Growth of the memory that a body may cost.
const FLAT_KIB: u64 = 48 * 1024;

/// A server that takes and gives bodies of 1 GiB.
fn server() -> Target {
    Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        while let Some(head) = peer.head() {
            let is_chunked = head.first.contains("/chunked");
            if head.first.starts_with("POST") {
                read_body(&mut peer, is_chunked);
                peer.send("HTTP/1.1 204 No Content\r\n\r\n");
            } else {
                peer.send(match is_chunked {
                    true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
                    false => format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"),
                });
                write_body(&mut peer.wire, is_chunked);
            }
        }
    })
}

fn write_body(wire: &mut Wire, is_chunked: bool) {
    let piece: Vec<u8> = (0..PIECE).map(|at| (at % 251) as u8).collect();
    for _ in 0..GIB / PIECE as u64 {
        if is_chunked {
            write!(wire, "{PIECE:x}\r\n").unwrap();
        }
        wire.write_all(&piece).unwrap();
        if is_chunked {
            wire.write_all(b"\r\n").unwrap();
        }
    }
    if is_chunked {
        wire.write_all(b"0\r\n\r\n").unwrap();
    }
}

/// Reads a body, and checks each byte of it.
fn read_body(peer: &mut Peer, is_chunked: bool) {
    let mut left = GIB;
    let mut at = 0_u64;
    let mut buffer = vec![0; PIECE];
    while left > 0 {
        let mut chunk = left;
        if is_chunked {
            let size = peer.text_line();
            chunk = u64::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        }
        left -= chunk;
        while chunk > 0 {
            let want = buffer.len().min(usize::try_from(chunk).unwrap());
            let got = peer.read(&mut buffer[..want]).unwrap();
            assert!(got > 0, "the body ends {} bytes early", left + chunk);
            for byte in &buffer[..got] {
                assert_eq!(*byte, (at % PIECE as u64 % 251) as u8);
                at += 1;
            }
            chunk -= got as u64;
        }
        if is_chunked {
            assert_eq!(peer.text_line(), "");
        }
    }
    if is_chunked {
        assert_eq!((peer.text_line().as_str(), peer.text_line().as_str()), ("0", ""));
    }
}

/// Runs an exchange, and checks that it costs little memory.
fn flat(gate: &End, exchange: impl FnOnce(&mut Peer)) {
    let before = most_rss_kib(gate.pid());
    let mut client = Peer::new(gate.connect());
    exchange(&mut client);
    let grown = most_rss_kib(gate.pid()) - before;
    assert!(grown < FLAT_KIB, "{grown} KiB more");
}

#[test]
fn a_gibibyte_passes_both_ways_and_is_not_kept() {
    let target = server();
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    for is_chunked in [false, true] {
        let path = if is_chunked { "/chunked" } else { "/counted" };
        flat(&gate, |client| {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(client.head().unwrap().status(), 200);
            read_body(client, is_chunked);
        });
        flat(&gate, |client| {
            let framing = match is_chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {GIB}"),
            };
            client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            write_body(&mut client.wire, is_chunked);
            assert_eq!(client.head().unwrap().status(), 204);
        });
    }
    target.wait_idle();
}
