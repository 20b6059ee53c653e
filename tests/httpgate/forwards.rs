//! What the server sees of a request, and the client of its answer.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use testkit::{Addr, Launch, NEVER, Target, eventually};

use crate::http::Peer;
use crate::world::{Server, connect, get, hello, open_gate, start, url};

#[test]
fn the_server_sees_the_request_and_whom_it_is_from() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    let answer = connect(&gate).ask(
        "GET /a/../b%2f?c=d HTTP/1.1\r\nHost: app.example:81\r\nConnection: keep-alive, X-Hop\r\n\
         X-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
         Proxy-Authorization: Basic eA==\r\nX-Forwarded-For: 10.0.0.1\r\nX_Forwarded_For: 10.0.0.1\r\n\
         X-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\n\
         Cookie: a=b\r\nAccept: */*\r\n\r\n",
    );
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    let seen = server.only();
    assert_eq!(seen.first, "GET /a/../b%2f?c=d HTTP/1.1");
    let mut fields: Vec<String> =
        seen.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "accept: */*",
            "connection: te",
            "cookie: a=b",
            "forwarded: for=127.0.0.1;host=\"app.example:81\";proto=http",
            "host: app.example:81",
            "te: trailers",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: app.example:81",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn the_server_may_be_told_a_host_of_its_own() {
    let server = Server::hello();
    let gate = open_gate(&server, &["--target-host", "localhost:5173"]);
    connect(&gate).ask(&get("/"));
    assert_eq!(server.only().field("host"), Some("localhost:5173"));
    assert_eq!(server.only().field("x-forwarded-host"), Some("app.example"));
}

#[test]
fn an_answer_loses_the_fields_of_its_connection() {
    let server = Server::new(|_, peer| {
        peer.send(
            "HTTP/1.1 203 Fine\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: own\r\nContent-Length: 2\r\n\r\nok",
        );
    });
    let gate = open_gate(&server, &[]);
    let answer = connect(&gate).ask(&get("/"));
    assert_eq!((answer.status(), answer.text().as_str()), (203, "ok"));
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.field("server"), Some("own"));
    for gone in ["x-hop", "keep-alive", "connection"] {
        assert_eq!(answer.field(gone), None);
    }
}

#[test]
fn answers_without_a_body_keep_their_length() {
    let server = Server::new(|request, peer| {
        let status = if request.first.contains("/304") { "304 Not Modified" } else { "200 OK" };
        peer.send(format!("HTTP/1.1 {status}\r\nContent-Length: 5000\r\nETag: \"x\"\r\n\r\n"));
    });
    let gate = open_gate(&server, &[]);
    let mut client = connect(&gate);
    let answer = client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.field("content-length"), Some("5000"));
    assert_eq!(client.ask(&get("/304")).status(), 304);
    // The connection is still in step.
    assert_eq!(client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(server.target.counts().accepts(), 1, "one connection serves all of them");
}

#[test]
fn a_body_until_the_end_of_its_connection_is_passed_on_whole() {
    let server = Server::new(|_, peer| {
        peer.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
        let _ = peer.wire.shutdown(std::net::Shutdown::Both);
    });
    let gate = open_gate(&server, &[]);
    let mut client = connect(&gate);
    let answer = client.ask(&get("/"));
    assert_eq!(answer.text(), "until the end");
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    // An old client gets it in the same way.
    let answer = connect(&gate).ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(answer.text(), "until the end");
    assert_eq!(answer.field("transfer-encoding"), None);
}

#[test]
fn trailers_pass_both_ways() {
    let server = Server::new(|request, peer| {
        assert_eq!(request.trailers, [("x-sum".to_owned(), "7".to_owned())]);
        peer.send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 8\r\n\r\n",
        );
    });
    let gate = open_gate(&server, &[]);
    let answer = connect(&gate).ask(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "8".to_owned())]);
    assert_eq!(server.only().text(), "abc");
}

#[test]
fn a_body_is_passed_on_while_it_comes() {
    let (first, got_first) = channel();
    let target = Target::local(move |wire, _| {
        let mut peer = Peer::new(wire);
        let head = peer.head().expect("the head comes before the body is complete");
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        // Each piece is answered before the next is sent.
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in ["1\r\na\r\n", "1\r\nb\r\n"] {
            assert_eq!(peer.take(6).unwrap(), piece.as_bytes());
            peer.send(piece);
            let _ = first.send(());
        }
        assert_eq!(peer.take(5).unwrap(), b"0\r\n\r\n");
        peer.send("0\r\n\r\n");
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    got_first.recv_timeout(NEVER).unwrap();
    assert_eq!(client.head().unwrap().status(), 200);
    assert_eq!(client.take(6).unwrap(), b"1\r\na\r\n");
    client.send("1\r\nb\r\n0\r\n\r\n");
    assert_eq!(client.take(11).unwrap(), b"1\r\nb\r\n0\r\n\r\n");
    target.wait_idle();
}

#[test]
fn a_client_that_waits_is_told_to_go_on_by_the_server() {
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        let head = peer.head().unwrap();
        assert_eq!(head.field("expect"), Some("100-continue"));
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(peer.take(5).unwrap(), b"12345");
        hello(&mut peer);
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 100);
    client.send("12345");
    assert_eq!(client.answer(false).text(), "hello");
    target.wait_idle();
}

#[test]
fn a_client_that_waits_is_not_asked_for_a_body_that_is_refused() {
    let body = Arc::<Mutex<Vec<u8>>>::default();
    let theirs = Arc::clone(&body);
    let target = Target::local(move |wire, _| {
        let mut peer = Peer::new(wire);
        peer.head().unwrap();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n");
        let (rest, _) = peer.wire.read_to_ending(NEVER);
        theirs.lock().unwrap().extend(rest);
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.answer(false);
    assert_eq!((answer.status(), answer.text().as_str()), (413, "no\n"));
    assert!(client.is_ended(), "the body would be taken for the next request");
    target.wait_idle();
    assert_eq!(*body.lock().unwrap(), b"");
}

#[test]
fn a_server_that_never_says_continue_gets_the_body_after_a_while() {
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        let request = peer.request().unwrap();
        assert_eq!(request.text(), "12345");
        hello(&mut peer);
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 100);
    client.send("12345");
    assert_eq!(client.answer(false).text(), "hello");
    target.wait_idle();
}

#[test]
fn an_answer_before_the_end_of_the_request_is_passed_on() {
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        peer.head().unwrap();
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n");
        // As a server does that wants no more: it reads a little, and closes.
        let _ = peer.wire.read_to_ending(std::time::Duration::from_millis(200));
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nthe first bytes");
    let answer = client.answer(false);
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no\n"));
    target.wait_idle();
}

#[test]
fn a_client_that_leaves_ends_its_request_at_the_server() {
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        peer.head().unwrap();
        assert!(peer.is_ended(), "the request ends with its client");
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    for request in [get("/"), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".to_owned()]
    {
        let mut client = connect(&gate);
        client.send(&request);
        eventually("the server has the request", || target.counts().live() == 1);
        drop(client);
        target.wait_idle();
    }
}

#[test]
fn a_broken_body_is_never_a_shorter_one() {
    let server = Server::new(|request, peer| {
        let chunked = request.first.contains("/chunked");
        peer.send(match chunked {
            true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
        });
        let _ = peer.wire.shutdown(std::net::Shutdown::Both);
    });
    let gate = open_gate(&server, &[]);
    for (path, whole) in [("/chunked", "4\r\npart\r\n"), ("/counted", "part")] {
        let mut client = connect(&gate);
        client.send(get(path));
        assert_eq!(client.head().unwrap().status(), 200);
        let (body, _) = client.wire.read_to_ending(NEVER);
        let body = String::from_utf8_lossy(&body).into_owned();
        // What came behind the head may have been read with it.
        assert!(whole.ends_with(&body) && !body.contains("0\r\n\r\n"), "{path}: {body:?}");
    }
}

#[test]
fn a_server_at_a_unix_socket_is_told_its_clients_host() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::at(&Addr::Unix(dir.path().join("app.sock")), |_, peer| hello(peer));
    let gate = open_gate(&server, &[]);
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    assert_eq!(server.only().field("host"), Some("app.example"));
    let mut old = connect(&gate);
    old.wire.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.answer(false).text(), "hello");
    assert_eq!(server.seen()[1].field("host"), Some("localhost"));
}

#[test]
fn a_table_of_a_file_is_a_gate_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::hello();
    let file = dir.path().join("knockpipe.toml");
    let text = format!(
        "[process]\nlog-format = \"json\"\n[http.shop]\nsource = \"127.0.0.1:0\"\n\
         target = \"{}\"\nallow = \"127.0.0.0/8\"\n",
        server.url()
    );
    std::fs::write(&file, text).unwrap();
    let gate = Launch::new("run").args(["-c", file.to_str().unwrap()]).start();
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    let other = Server::new(|_, peer| {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother");
    });
    let text = std::fs::read_to_string(&file).unwrap().replace(&server.url(), &other.url());
    std::fs::write(&file, text).unwrap();
    gate.program.signal(nix::sys::signal::Signal::SIGHUP);
    gate.program.wait_line("reloaded", |line| line.is("reloaded"));
    assert_eq!(connect(&gate).ask(&get("/")).text(), "other");
}
