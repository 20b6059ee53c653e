//! Connections to the server that are kept for a next request.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testkit::{Launch, Target, eventually};

use crate::http::Peer;
use crate::world::{Server, connect, get, hello, open_gate, start, url};

/// Time after which a connection that waits is ended by itself.
const ALONE: Duration = Duration::from_secs(4);

#[test]
fn requests_of_many_clients_share_few_connections() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    for _ in 0..50 {
        assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    }
    // One for each worker.
    let workers = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(server.target.counts().accepts() <= workers, "{}", server.target.counts().accepts());
}

#[test]
fn those_that_wait_end_with_their_service() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Server::hello(), Server::hello());
    let file = dir.path().join("knockpipe.toml");
    let write = |server: &Server| {
        let text = format!(
            "[process]\nlog-format = \"json\"\n[http.shop]\nsource = \"127.0.0.1:0\"\n\
             target = \"{}\"\nallow = \"127.0.0.0/8\"\n",
            server.url()
        );
        std::fs::write(&file, text).unwrap();
    };
    write(&old);
    let gate = Launch::new("run").args(["-c", file.to_str().unwrap()]).start();
    let (mut this, mut next) = (&old, &new);
    let mut reload_ends_it = || {
        let asked = Instant::now();
        assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
        assert_eq!(this.target.counts().live(), 1);
        write(next);
        let reloads = gate.program.count_containing(b"\"reloaded\"");
        gate.program.signal(nix::sys::signal::Signal::SIGHUP);
        eventually("it reloads", || gate.program.count_containing(b"\"reloaded\"") > reloads);
        this.target.wait_idle();
        std::mem::swap(&mut this, &mut next);
        asked.elapsed() < ALONE
    };
    // On a machine that is slow enough it could have been the time, which says nothing.
    assert!((0..5).any(|_| reload_ends_it()), "it lives as long as it would alone");
    let seen = old.seen().len() + new.seen().len();
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    assert_eq!(old.seen().len() + new.seen().len(), seen + 1);
}

#[test]
fn none_is_kept_where_none_may_be() {
    let server = Server::hello();
    let gate = open_gate(&server, &["--keep", "0"]);
    let mut client = connect(&gate);
    for _ in 0..3 {
        assert_eq!(client.ask(&get("/")).text(), "hello");
    }
    assert_eq!(server.target.counts().accepts(), 3);
    server.target.wait_idle();
}

#[test]
fn one_that_waits_too_long_is_ended() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    connect(&gate).ask(&get("/"));
    assert_eq!(server.target.counts().live(), 1);
    eventually("it ends", || server.target.counts().live() == 0);
    drop(gate);
}

#[test]
fn a_server_that_ends_idle_connections_loses_no_request() {
    // It ends each after one answer, without a word.
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        if peer.request().is_some() {
            hello(&mut peer);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    for at in 0..40 {
        let mut client = connect(&gate);
        assert_eq!(client.ask(&get("/")).text(), "hello");
        std::thread::sleep(Duration::from_millis(15 + at % 10));
    }
}

#[test]
fn only_what_may_be_repeated_is_sent_again() {
    // The first connection answers once, and ends at the next request without an answer.
    let posts = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&posts);
    let target = Target::local(move |wire, counts| {
        let mut peer = Peer::new(wire);
        let mut answered = 0;
        while let Some(request) = peer.request() {
            if request.first.starts_with("POST") {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            if answered == 1 && counts.accepts() == 1 {
                return;
            }
            answered += 1;
            if peer.wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    assert_eq!(client.ask(&get("/")).status(), 200);
    // As long as a connection waits that a server may be about to end.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(client.ask(&get("/")).status(), 200, "GET is repeated");
    drop((gate, target));
    assert_eq!(posts.load(Ordering::SeqCst), 0);
}

#[test]
fn a_post_that_the_server_may_have_seen_is_not_repeated() {
    let posts = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&posts);
    let target = Target::local(move |wire, _| {
        let mut peer = Peer::new(wire);
        while let Some(request) = peer.request() {
            if request.first.starts_with("POST") {
                counted.fetch_add(1, Ordering::SeqCst);
                return;
            }
            hello(&mut peer);
        }
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    assert_eq!(client.ask(&get("/")).status(), 200);
    std::thread::sleep(Duration::from_millis(500));
    let answer = client.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(answer.status(), 502);
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}
