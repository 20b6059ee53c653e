//! The firewall with 100,000 addresses: its first fill, a change of the store until it is in the
//! packet filter, its memory, and the repair of a rule set that was flushed.
//!
//! `cargo bench --bench firewall`; needs root, nftables and redis-server.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "what it measured is for a person to read")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use testkit::netns::{GATE4, Net};
use testkit::redis::{Redis, Reply};
use testkit::{Addr, Launch, Program, Target, eventually, proc};

/// Addresses in the store.
const ADDRESSES: i64 = 100_000;

/// Changes that are timed.
const CHANGES: usize = 100;

/// An address of a peer.
const PEER: &str = "203.0.113.7";

/// For EVAL: a key for each address, of which none ends within an hour.
const FILL: &str = "for i = 0, 99999 do \
    local a = '11.' .. math.floor(i / 65536) .. '.' .. math.floor(i / 256) % 256 .. '.' .. i % 256 \
    redis.call('SET', 'ip-allowed:' .. a, '1', 'EX', 3600 + i) end return redis.call('DBSIZE')";

struct World {
    net: Net,
    redis: Redis,
    target: Target,
}

fn main() {
    let net = Net::make();
    let redis = net.at_gate(Redis::start);
    let any = Addr::Tcp("0.0.0.0:0".parse().unwrap());
    let target = net.at_gate(|| Target::serve(&any, testkit::target::echo));
    let world = World { net, redis, target };
    world.measure("an empty store");
    assert_eq!(world.redis.direct().ask(&["EVAL", FILL, "0"]), Reply::Number(ADDRESSES));
    world.measure("100,000 addresses");
}

impl World {
    fn measure(&self, what: &str) {
        let port = self.target.addr().tcp().port().to_string();
        let url = self.redis.url();
        let launch = Launch::new("firewall").args(["--ports", &port, "--gate", &url]);
        let launch = launch.args(["--allow-prefix", "ip-allowed:", "--at-exit", "remove"]);
        let began = Instant::now();
        let mut program = self.net.at_gate(|| launch.spawn());
        program.wait_line("in step", |line| line.is("firewall in step"));
        println!("{what}: in step {:.2?} after the start", began.elapsed());
        self.changes(what);
        self.repair(what);
        println!("{what}: memory {} KiB", proc::rss_kib(program.pid()));
        program.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(Program::exit_code(&mut program), 0);
    }

    /// Times grants until a connection is made, and removals until none is.
    fn changes(&self, what: &str) {
        let mut store = self.redis.direct();
        let (mut grants, mut removals) = (vec![], vec![]);
        for _ in 0..CHANGES {
            let began = Instant::now();
            store.ask(&["SET", &format!("ip-allowed:{PEER}"), "1"]);
            self.wait(true);
            grants.push(began.elapsed());
            let began = Instant::now();
            store.ask(&["DEL", &format!("ip-allowed:{PEER}")]);
            self.wait(false);
            removals.push(began.elapsed());
        }
        for (change, mut times) in [("grant", grants), ("removal", removals)] {
            times.sort_unstable();
            let (p50, p99) = (times[CHANGES / 2], times[CHANGES * 99 / 100]);
            println!("{what}: a {change} is there after p50 {p50:.1?}, p99 {p99:.1?}");
        }
    }

    /// Waits until a connection is made, or is not.
    fn wait(&self, is_open: bool) {
        let to = SocketAddr::new(GATE4.parse().unwrap(), self.target.addr().tcp().port());
        self.net.at_peers(|| eventually("it changes", || connects(to) == is_open));
    }

    /// Times the repair of a rule set that was flushed.
    fn repair(&self, what: &str) {
        let nft = |arguments: &[&str]| {
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            Command::new("nft").env("PATH", path).args(arguments).output().unwrap()
        };
        let flushed = Instant::now();
        self.net.at_gate(|| nft(&["flush", "ruleset"]));
        self.wait(false);
        println!("{what}: closed again {:.0?} after a flush", flushed.elapsed());
    }
}

fn connects(to: SocketAddr) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(PEER.parse().unwrap(), 0).into()).unwrap();
    match socket.connect_timeout(&to.into(), Duration::from_millis(4)) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::TimedOut => false,
        Err(error) => panic!("{error}"),
    }
}
