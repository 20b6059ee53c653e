//! A host with a guarded port, its store and its firewall, and peers who connect.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use testkit::netns::{GATE4, GATE6, Net};
use testkit::redis::Redis;
use testkit::wait::poll;
use testkit::{Addr, Launch, NEVER, Program, Target, Wire, binary};

/// Peers with public addresses.
pub(crate) const PEER: &str = "203.0.113.7";
pub(crate) const OTHER: &str = "203.0.113.8";
pub(crate) const PEER6: &str = "2001:db8:0:1::7";
pub(crate) const OTHER6: &str = "2001:db8:0:1::8";

/// Time after which a connection that is not answered counts as dropped.
const LOOK: Duration = Duration::from_millis(150);

/// What a peer sees of a port.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A connection.
    Open(Wire),
    /// An answer that there is none.
    Refused,
    /// Nothing.
    Nothing,
}

/// The host, its peers, a store and a service that echoes.
pub(crate) struct World {
    pub net: Net,
    pub redis: Redis,
    pub target: Target,
    pub dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let net = Net::make();
        let redis = net.at_gate(Redis::start);
        let at = Addr::Tcp("[::]:0".parse().unwrap());
        let target = net.at_gate(|| Target::serve(&at, testkit::target::echo));
        Self { net, redis, target, dir: tempfile::tempdir().unwrap() }
    }

    /// Returns the number of the guarded port.
    pub(crate) fn port(&self) -> String {
        self.target.addr().tcp().port().to_string()
    }

    /// Returns the command line of a firewall in front of the service.
    pub(crate) fn launch(&self, args: &[&str]) -> Launch {
        let (port, url) = (self.port(), self.redis.url());
        Launch::new("firewall").args(["--ports", &port, "--gate", &url]).args(args)
    }

    /// Starts a firewall, and waits until it is in step.
    #[track_caller]
    pub(crate) fn firewall(&self, args: &[&str]) -> Program {
        self.start(&self.launch(args))
    }

    #[track_caller]
    pub(crate) fn start(&self, launch: &Launch) -> Program {
        let program = self.net.at_gate(|| launch.spawn());
        program.wait_line("in step", |line| line.is("firewall in step"));
        program
    }

    /// Starts the store again, after it was killed.
    pub(crate) fn revive(&mut self) {
        let Self { net, redis, .. } = self;
        net.at_gate(|| redis.revive());
    }

    /// Runs a command of the program to its end, on the host.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let run = || Command::new(binary()).args(args).output().expect("it starts");
        self.net.at_gate(run)
    }

    /// Runs `knockpipe gate ARGS` with the store.
    #[track_caller]
    pub(crate) fn gate(&self, args: &[&str]) {
        let url = self.redis.url();
        let output = self.run(&[&["gate"], args, &["--gate", &url]].concat());
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs `nft` on the host.
    #[track_caller]
    pub(crate) fn nft(&self, args: &[&str]) -> String {
        let output = self.net.at_gate(|| {
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            Command::new("nft").env("PATH", path).args(args).output().expect("it starts")
        });
        assert!(output.status.success(), "{args:?} {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Looks at the guarded port from `source`.
    pub(crate) fn look(&self, source: &str) -> Seen {
        self.look_at(source, self.target.addr().tcp().port())
    }

    /// Looks at a port of the host from `source`.
    pub(crate) fn look_at(&self, source: &str, port: u16) -> Seen {
        self.net.at_peers(|| look_from(source, port, LOOK))
    }

    pub(crate) fn is_open(&self, source: &str) -> bool {
        matches!(self.look(source), Seen::Open(_))
    }

    #[track_caller]
    pub(crate) fn expect_nothing(&self, source: &str) {
        let seen = self.look(source);
        assert!(matches!(seen, Seen::Nothing), "{source} sees {seen:?}");
    }

    #[track_caller]
    pub(crate) fn wait_open(&self, source: &str) -> Wire {
        let opened = poll(NEVER, || match self.look(source) {
            Seen::Open(wire) => Some(wire),
            Seen::Refused | Seen::Nothing => None,
        });
        opened.unwrap_or_else(|| panic!("{source} is not let in"))
    }

    #[track_caller]
    pub(crate) fn wait_closed(&self, source: &str) {
        let closed = poll(NEVER, || matches!(self.look(source), Seen::Nothing).then_some(()));
        assert!(closed.is_some(), "{source} is still let in");
    }

    /// Returns the time until `source` gets a connection.
    #[track_caller]
    pub(crate) fn time_to_open(&self, source: &str) -> Duration {
        let port = self.target.addr().tcp().port();
        let began = Instant::now();
        let short = Duration::from_millis(20);
        let opened = self.net.at_peers(|| {
            poll(NEVER, || matches!(look_from(source, port, short), Seen::Open(_)).then_some(()))
        });
        assert!(opened.is_some(), "{source} is not let in");
        began.elapsed()
    }
}

/// Looks at a port of the host, in the namespace of the caller.
pub(crate) fn look_from(source: &str, port: u16, limit: Duration) -> Seen {
    let source: IpAddr = source.parse().expect("it is an address");
    let host: IpAddr = if source.is_ipv4() { GATE4 } else { GATE6 }.parse().expect("so is this");
    let to = SocketAddr::new(host, port);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    match socket.connect_timeout(&to.into(), limit) {
        Ok(()) => Seen::Open(Wire::Tcp(socket.into())),
        Err(error) if error.kind() == ErrorKind::TimedOut => Seen::Nothing,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Seen::Refused,
        Err(error) => panic!("{error}"),
    }
}

/// Returns true if a connection carries bytes there and back.
pub(crate) fn works(wire: &mut Wire) -> bool {
    wire.echoes(b"still here?", Duration::from_secs(1))
}
