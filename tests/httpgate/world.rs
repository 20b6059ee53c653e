//! Servers behind the gate that keep what they saw, and the gate in front of them.

use std::io::Write;
use std::sync::{Arc, Mutex};

use testkit::netns::Net;
use testkit::redis::Redis;
use testkit::{Addr, End, Launch, Target, Wire, eventually};

use crate::http::{Message, Peer};

/// A client that the gate lets in, and one that it does not.
pub(crate) const PEER: &str = "203.0.113.7";
pub(crate) const OTHER: &str = "203.0.113.8";

/// A server that answers each request, and keeps them all.
pub(crate) struct Server {
    pub target: Target,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Server {
    /// Answers each request with `answer`, on loopback.
    pub(crate) fn new(answer: impl Fn(&Message, &mut Peer) + Send + Sync + 'static) -> Self {
        Self::at(&testkit::any(), answer)
    }

    pub(crate) fn at(
        at: &Addr,
        answer: impl Fn(&Message, &mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let theirs = Arc::clone(&seen);
        let target = Target::serve(at, move |wire, _| {
            let mut peer = Peer::new(wire);
            while let Some(request) = peer.request() {
                theirs.lock().unwrap().push(request.clone());
                answer(&request, &mut peer);
            }
        });
        Self { target, seen }
    }

    /// Answers each request with "hello".
    pub(crate) fn hello() -> Self {
        Self::new(|_, peer| hello(peer))
    }

    pub(crate) fn url(&self) -> String {
        url(self.target.addr())
    }

    /// Returns the requests that it got.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the only request that it got.
    #[track_caller]
    pub(crate) fn only(&self) -> Message {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen[0].clone()
    }
}

pub(crate) fn hello(peer: &mut Peer) {
    // The client may be gone.
    let _ = peer.wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
}

/// Returns the URL of a server for `-t`.
pub(crate) fn url(addr: &Addr) -> String {
    match addr {
        Addr::Tcp(_) => format!("http://{addr}"),
        Addr::Unix(path) => format!("http+unix://{}", path.display()),
    }
}

/// Starts a gate on loopback that lets every address of it in.
#[track_caller]
pub(crate) fn open_gate(server: &Server, args: &[&str]) -> End {
    start(&server.url(), &[&["--allow", "127.0.0.0/8"], args].concat())
}

#[track_caller]
pub(crate) fn start(target: &str, args: &[&str]) -> End {
    launch(target, args).start()
}

pub(crate) fn launch(target: &str, args: &[&str]) -> Launch {
    Launch::new("http").args(["-s", "127.0.0.1:0", "-t", target]).args(args)
}

pub(crate) fn connect(gate: &End) -> Peer {
    Peer::new(gate.connect())
}

/// Returns a request without a body.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.example\r\n\r\n")
}

/// Two machines: that of the gate with its Redis, and that of clients with public addresses.
pub(crate) struct World {
    pub gate: End,
    pub redis: Redis,
    pub server: Server,
    pub net: Net,
    _dir: tempfile::TempDir,
}

impl World {
    /// Starts a gate that asks Redis, in front of a server of hellos.
    #[track_caller]
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::with(args, |_, peer| hello(peer))
    }

    #[track_caller]
    pub(crate) fn with(
        args: &[&str],
        answer: impl Fn(&Message, &mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = Net::make();
        let redis = net.at_gate(Redis::start);
        let server = Server::at(&Addr::Unix(dir.path().join("server.sock")), answer);
        let gate = Launch::new("http")
            .args(["-s", "[::]:0", "-t", &server.url(), "--gate", &redis.url()])
            .args(args);
        let gate = net.at_gate(|| gate.start());
        gate.program.wait_line("gate store synced", |line| line.is("gate store synced"));
        Self { gate, redis, server, net, _dir: dir }
    }

    /// Returns a connection from `source`.
    #[track_caller]
    pub(crate) fn dial(&self, source: &str) -> Peer {
        Peer::new(self.wire(source))
    }

    #[track_caller]
    pub(crate) fn wire(&self, source: &str) -> Wire {
        self.net.dial(source, &self.entrance())
    }

    pub(crate) fn entrance(&self) -> Addr {
        let port = self.gate.addr().tcp().port();
        Addr::Tcp(format!("{}:{port}", testkit::netns::GATE4).parse().unwrap())
    }

    #[track_caller]
    pub(crate) fn redis(&self, command: &str) {
        self.redis.ask(command);
    }

    /// Lets an address in, and waits until the gate knows it.
    #[track_caller]
    pub(crate) fn admit(&self, address: &str) {
        self.redis(&format!("SADD ip-allowed {address}"));
        eventually(&format!("{address} gets in"), || {
            let mut peer = self.dial(address);
            peer.send(get("/"));
            peer.head().is_some_and(|answer| answer.status() == 200)
        });
    }
}
