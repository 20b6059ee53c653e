//! Slow clients: a hundred of them, in every part of a request, keep nobody else waiting and are
//! ended in time.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Ending, NEVER, Wire};

use crate::http::Peer;
use crate::world::{Server, connect, get, open_gate};

const CLIENTS: usize = 100;

#[test]
fn a_hundred_slow_clients_keep_nobody_waiting() {
    let server = Server::new(|request, peer| {
        if request.first.contains("/large") {
            let _ = peer.wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
            while peer.wire.write_all(&[b'x'; 65536]).is_ok() {}
            return;
        }
        crate::world::hello(peer);
    });
    let gate = open_gate(&server, &["-o", "2s", "--idle-timeout", "3s"]);
    let starts = [
        // Nothing, half a head, half a body, an answer that is not read.
        String::new(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf".to_owned(),
        get("/large"),
    ];
    let mut slow: Vec<Wire> = (0..CLIENTS)
        .map(|at| {
            let mut wire = gate.connect();
            wire.write_all(starts[at % starts.len()].as_bytes()).unwrap();
            wire
        })
        .collect();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // All of them end, and nobody had to ask for it.
    thread::scope(|scope| {
        for wire in &mut slow {
            scope.spawn(|| {
                let (_, ending) = wire.read_to_ending(NEVER);
                assert_ne!(ending, Ending::Silent, "a slow client is ended");
            });
        }
    });
    server.target.wait_idle();
}

#[test]
fn a_client_that_sends_a_byte_at_a_time_gets_its_answer() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    let mut wire = gate.connect();
    for byte in get("/").into_bytes() {
        wire.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Peer::new(wire).answer(false).text(), "hello");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    let mut client = connect(&gate);
    let _ = client.wire.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n");
    for at in 0..10_000 {
        let line = format!("X-{at}: {}\r\n", "y".repeat(1000));
        if client.wire.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let (bytes, _) = client.wire.read_to_ending(NEVER);
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(server.seen().len(), 0);
}
