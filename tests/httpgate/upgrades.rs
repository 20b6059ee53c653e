//! Upgraded connections: WebSocket through a real library at both ends, and what is no upgrade.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use testkit::{Addr, End, NEVER, Target, Wire, eventually};
use tungstenite::{Message, WebSocket};

use crate::http::Peer;
use crate::world::{PEER, Server, World, connect, hello, open_gate, start, url};

/// Longest time from a change of the store to its effect.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Returns a server that echoes messages.
fn echo_server(at: &Addr) -> Target {
    Target::serve(at, |wire, _| {
        let Ok(mut socket) = tungstenite::accept(wire) else { return };
        while let Ok(message) = socket.read() {
            if message.is_close() || socket.send(message).is_err() {
                break;
            }
        }
        let _ = socket.flush();
    })
}

fn websocket(wire: Wire) -> WebSocket<Wire> {
    let (socket, answer) = tungstenite::client("ws://app.example/chat", wire).expect("it changes");
    assert_eq!(answer.status(), 101);
    socket
}

#[track_caller]
fn expect_echo(socket: &mut WebSocket<Wire>, text: &str) {
    socket.send(Message::text(text)).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(text));
}

#[test]
fn a_websocket_passes_messages_of_every_size_until_it_closes() {
    let target = echo_server(&testkit::any());
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut socket = websocket(gate.connect());
    for size in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        expect_echo(&mut socket, &"x".repeat(size));
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    target.wait_idle();
}

#[test]
fn a_websocket_ends_when_its_address_is_removed() {
    for args in [&[][..], &["--redirect", "https://login.example/"]] {
        let world = World::with(args, |request, peer| {
            if request.field("upgrade").is_none() {
                return hello(peer);
            }
            peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            let mut buffer = [0; 16];
            while let Ok(n @ 1..) = peer.read(&mut buffer) {
                if peer.wire.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        });
        world.admit(PEER);
        let mut client = upgraded(world.dial(PEER));
        client.send("ping");
        assert_eq!(client.take(4).unwrap(), b"ping");
        let removed = Instant::now();
        world.redis(&format!("SREM ip-allowed {PEER}"));
        assert!(client.is_ended());
        assert!(removed.elapsed() < AT_ONCE, "{args:?}: {:?}", removed.elapsed());
        world.server.target.wait_idle();
    }
}

fn upgraded(mut client: Peer) -> Peer {
    client.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(client.head().unwrap().status(), 101);
    client
}

#[test]
fn a_live_websocket_is_waited_for_at_the_end_and_cut_at_the_second_signal() {
    let target = echo_server(&testkit::any());
    let mut gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut socket = websocket(gate.connect());
    expect_echo(&mut socket, "live");
    gate.program.signal(nix::sys::signal::Signal::SIGTERM);
    gate.program.wait_line("stopping", |line| line.message().starts_with("stopping"));
    expect_echo(&mut socket, "still live");
    gate.program.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(socket.read().is_err());
    gate.program.wait();
}

#[test]
fn one_without_traffic_ends_after_its_time() {
    let target = echo_server(&testkit::any());
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8", "--idle-timeout", "1s"]);
    let mut socket = websocket(gate.connect());
    expect_echo(&mut socket, "live");
    assert!(socket.read().is_err());
    target.wait_idle();
}

#[test]
fn bytes_behind_an_answer_belong_to_the_new_protocol() {
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        peer.head().unwrap();
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x/1\r\n\r\nfirst",
        );
        assert_eq!(peer.take(5).unwrap(), b"early");
        let _ = peer.wire.shutdown(Shutdown::Write);
        assert!(peer.is_ended());
    });
    let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut client = connect(&gate);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x/1\r\n\r\nearly");
    assert_eq!(client.head().unwrap().status(), 101);
    assert_eq!(client.take(5).unwrap(), b"first");
    client.wire.finish();
    assert!(client.is_ended());
    target.wait_idle();
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let server = Server::new(|_, peer| {
        peer.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 3\r\n\r\nno\n");
    });
    let gate = open_gate(&server, &[]);
    let mut client = connect(&gate);
    for _ in 0..2 {
        let answer = client
            .ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!((answer.status(), answer.text().as_str()), (426, "no\n"));
    }
}

#[test]
fn a_server_cannot_change_to_what_was_not_asked_for() {
    for (asked, given) in [("", "websocket"), ("Connection: upgrade\r\nUpgrade: a\r\n", "b")] {
        let server = Server::new(move |_, peer| {
            peer.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {given}\r\n\r\n"
            ));
        });
        let gate = open_gate(&server, &[]);
        let answer = connect(&gate).ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n"));
        assert_eq!(answer.status(), 502, "{asked}");
        gate.program.wait_line("request failed", |line| {
            line.is("request failed")
                && line.field("error").is_some_and(|error| error.contains("did not ask for"))
        });
    }
}

#[test]
fn another_http_is_not_offered_to_the_server() {
    let server = Server::hello();
    let gate = open_gate(&server, &[]);
    let answer = connect(&gate).ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    assert_eq!(answer.text(), "hello");
    let seen = server.only();
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(seen.field(name), None);
    }
}

#[test]
fn a_client_that_vanishes_ends_the_servers_side() {
    let target = echo_server(&testkit::any());
    let gate: End = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
    let mut socket = websocket(gate.connect());
    expect_echo(&mut socket, "live");
    drop(socket);
    target.wait_idle();
    eventually("the gate holds no descriptor of it", || {
        TcpStream::connect_timeout(&gate.addr().tcp(), NEVER).is_ok()
    });
}
