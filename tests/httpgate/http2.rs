//! Raw HTTP/2 through openssl: clients that take nothing of an answer, and connections with
//! requests of several clients, which no library would send.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use testkit::certificates::{Authority, Form};
use testkit::program::require;
use testkit::redis::Redis;
use testkit::{End, Launch, NEVER, eventually};

use crate::http::{Message, Peer};
use crate::world::{Server, get, hello, launch};

/// Kinds of frames.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// Settings that let the server send nothing of a body.
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

/// A frame as it came.
struct Frame {
    kind: u8,
    stream: u32,
}

/// A client's connection, which answers pings: only so does it last.
struct Client {
    openssl: Child,
    into: Arc<Mutex<ChildStdin>>,
    frames: Receiver<Frame>,
}

impl Client {
    /// Connects, with these settings.
    fn connect(gate: &End, settings: &[u8]) -> Self {
        require("openssl", "openssl");
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-quiet", "-alpn", "h2", "-connect", &gate.addr().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let mut from = openssl.stdout.take().unwrap();
        let (tell, frames) = channel();
        let into = Arc::new(Mutex::new(openssl.stdin.take().unwrap()));
        let answers = Arc::clone(&into);
        thread::spawn(move || {
            let mut head = [0; 9];
            while from.read_exact(&mut head).is_ok() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut body = vec![0; length as usize];
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if from.read_exact(&mut body).is_err() {
                    return;
                }
                if head[3] == PING && head[4] == 0 {
                    // The connection may have ended.
                    let _ = answers.lock().unwrap().write_all(&frame(PING, 1, 0, &body));
                }
                if tell.send(Frame { kind: head[3], stream }).is_err() {
                    return;
                }
            }
        });
        let client = Self { openssl, into, frames };
        client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send(SETTINGS, 0, 0, settings);
        client
    }

    fn write(&self, bytes: &[u8]) {
        self.into.lock().unwrap().write_all(bytes).unwrap();
    }

    fn send(&self, kind: u8, flags: u8, stream: u32, body: &[u8]) {
        self.write(&frame(kind, flags, stream, body));
    }

    /// Asks for `/`, with more fields.
    fn get(&self, stream: u32, fields: &[(&str, &str)]) {
        self.write(&question(stream, fields));
    }

    /// Returns the kind of the first frame of a request's answer; `None` when the connection ends.
    fn first_of(&self, stream: u32) -> Option<u8> {
        loop {
            match self.frames.recv_timeout(NEVER) {
                Ok(frame) if frame.stream == stream => return Some(frame.kind),
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.openssl.kill();
        let _ = self.openssl.wait();
    }
}

/// Makes the frame that asks for `/`, with more fields.
fn question(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    // GET, https, and the path, as the table of HPACK has them; then names and values.
    let mut block = vec![0x82, 0x87, 0x84];
    for (name, value) in [(":authority", "a")].iter().chain(fields) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    // Both the fields and the request end here.
    frame(HEADERS, 5, stream, &block)
}

/// Makes a frame.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// Starts a gate with a certificate.
fn start(target: &str, args: &[&str]) -> End {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new(dir.path(), "ca").issue("web", "", Form::Pkcs8);
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    launch(target, &[&tls[..], args].concat()).start()
}

/// A server with an answer that does not end.
fn flood(_: &Message, peer: &mut Peer) {
    let _ = peer.wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    while peer.wire.write_all(&[b'x'; 65536]).is_ok() {}
}

#[test]
fn a_stranger_loses_its_http2_connection_with_its_request() {
    let server = Server::new(|_, peer| hello(peer));
    for denied in ["close", "reset"] {
        let args = ["-o", "10m", "--allow", "192.0.2.0/24", "--trusted-proxies", "192.0.2.1"];
        let gate = start(&server.url(), &[&args[..], &["--denied", denied]].concat());
        let client = Client::connect(&gate, &[]);
        client.get(1, &[]);
        let first = client.first_of(1);
        assert!(first.is_none() || first == Some(RST_STREAM), "{first:?}");
        assert_eq!(client.first_of(3), None, "{denied}: the connection ends");
    }
}

#[test]
fn a_client_that_takes_its_requests_back_writes_no_line_of_a_library() {
    let server = Server::hello();
    let gate = start(&server.url(), &["--allow", "127.0.0.0/8", "-o", "10m"]);
    for _ in 0..3 {
        let client = Client::connect(&gate, &[]);
        let back = |stream| [question(stream, &[]), frame(RST_STREAM, 0, stream, &[0; 4])].concat();
        let all: Vec<u8> = (0..100).flat_map(|number| back(2 * number + 1)).collect();
        client.write(&all);
        assert_eq!(client.first_of(999), None, "the connection ends");
    }
    gate.program.signal(nix::sys::signal::Signal::SIGHUP);
    // It has no certificate any more.
    gate.program.wait_line("all before it is there", |line| line.is("cannot reload"));
    let lines = gate.program.stderr();
    assert!(!lines.contains("recv_reset"), "{lines}");
}

#[test]
fn a_denied_client_of_a_proxy_costs_the_others_nothing() {
    let server = Server::new(|_, peer| hello(peer));
    let args = ["--allow", "192.0.2.0/24", "--trusted-proxies", "127.0.0.0/8"];
    let gate = start(&server.url(), &[&args[..], &["--denied", "reset"]].concat());
    let proxy = Client::connect(&gate, &[]);
    proxy.get(1, &[("x-forwarded-for", "198.51.100.1")]);
    assert_eq!(proxy.first_of(1), Some(RST_STREAM));
    proxy.get(3, &[("x-forwarded-for", "192.0.2.7")]);
    assert_eq!(proxy.first_of(3), Some(HEADERS));
    // The denial counts for the client, and not for the proxy.
    gate.program.wait_line("the denied client", |line| line.text().contains("198.51.100.1"));
}

#[test]
fn an_http2_answer_of_which_nothing_is_taken_ends_with_its_permit() {
    let server = Server::new(flood);
    let redis = Redis::start();
    for (address, proxies) in [("127.0.0.1", "192.0.2.1"), ("203.0.113.7", "127.0.0.0/8")] {
        redis.ask(&format!("SADD ip-allowed {address}"));
        let gate = start(&server.url(), &["--gate", &redis.url(), "--trusted-proxies", proxies]);
        gate.program.wait_line("gate store synced", |line| line.is("gate store synced"));
        let client = Client::connect(&gate, NO_WINDOW);
        client.get(1, &[("x-forwarded-for", "203.0.113.7")]);
        assert_eq!(client.first_of(1), Some(HEADERS));
        redis.ask(&format!("SREM ip-allowed {address}"));
        assert_eq!(client.first_of(3), None, "{proxies}: the connection ends");
        eventually("the server has no client", || server.target.counts().live() == 0);
    }
}

#[test]
fn an_http2_answer_of_which_nothing_is_taken_for_too_long_ends() {
    let server = Server::new(flood);
    let gate =
        start(&server.url(), &["--allow", "127.0.0.0/8", "--idle-timeout", "1s", "-o", "10m"]);
    let client = Client::connect(&gate, NO_WINDOW);
    client.get(1, &[]);
    assert_eq!(client.first_of(1), Some(HEADERS));
    assert_eq!(client.first_of(3), None, "the connection ends");
    eventually("the server has no client", || server.target.counts().live() == 0);
}

#[test]
fn a_request_of_http2_is_as_clean_as_one_of_http1() {
    let server = Server::hello();
    let gate = start(&server.url(), &["--allow", "127.0.0.0/8", "-o", "10m"]);
    let client = Client::connect(&gate, &[]);
    for (stream, field) in
        [(1, ("host", "b")), (3, ("transfer_encoding", "chunked")), (5, ("host", "a,b"))]
    {
        client.get(stream, &[field]);
        assert_eq!(client.first_of(stream), Some(HEADERS), "{field:?}");
        assert_eq!(server.seen().len(), 0, "{field:?}");
    }
    client.get(
        7,
        &[("host", "a"), ("x.forwarded.for", "192.0.2.66"), ("cf_connecting_ip", "192.0.2.66")],
    );
    assert_eq!(client.first_of(7), Some(HEADERS));
    let seen = server.only();
    assert_eq!((seen.field("host"), seen.field("x-forwarded-for")), (Some("a"), Some("127.0.0.1")));
    assert!(!format!("{:?}", seen.fields).contains("192.0.2.66"), "{seen:?}");
}

#[test]
fn requests_under_way_count_after_a_reload() {
    let server = Server::new(|_, peer| {
        // There is no answer until the gate ends it.
        let _ = peer.wire.read_to_ending(NEVER);
    });
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new(dir.path(), "ca").issue("web", "", Form::Pkcs8);
    let file = dir.path().join("knockpipe.toml");
    let write = |idle: &str| {
        let text = format!(
            "[process]\nlog-format = \"json\"\n[http.shop]\nsource = \"127.0.0.1:0\"\n\
             target = \"{}\"\nallow = \"127.0.0.0/8\"\nmax-sessions = 2\n\
             tls-cert = \"{}\"\ntls-key = \"{}\"\nidle-timeout = \"{idle}\"\n",
            server.url(),
            cert.display(),
            key.display()
        );
        std::fs::write(&file, text).unwrap();
    };
    write("10m");
    let gate = Launch::new("run").args(["-c", file.to_str().unwrap()]).start();
    let old = Client::connect(&gate, &[]);
    old.get(1, &[]);
    old.get(3, &[]);
    eventually("two requests are under way", || server.seen().len() == 2);
    write("9m");
    gate.program.signal(nix::sys::signal::Signal::SIGHUP);
    gate.program.wait_line("reloaded", |line| line.is("reloaded"));
    let new = Client::connect(&gate, &[]);
    new.get(1, &[]);
    // There is no place for it: it is answered at once.
    assert_eq!(new.first_of(1), Some(HEADERS));
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn strangers_who_hold_connections_keep_no_client_out() {
    let server = Server::hello();
    // They could stay for longer than the client waits.
    let args =
        ["-n", "8", "-o", "10m", "--allow", "127.0.0.2", "--redirect", "https://login.example/"];
    let gate = launch(&server.url(), &args).start();
    let strangers: Vec<_> = (0..20).map(|_| gate.connect()).collect();
    let mut client =
        Peer::new(testkit::Wire::connect_from("127.0.0.2".parse().unwrap(), gate.addr()).unwrap());
    assert_eq!(client.ask(&get("/")).text(), "hello");
    // It stays, whoever else comes.
    let more: Vec<_> = (0..20).map(|_| gate.connect()).collect();
    assert_eq!(client.ask(&get("/")).text(), "hello");
    drop((strangers, more));
}
