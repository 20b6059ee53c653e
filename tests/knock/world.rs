//! A decrypt end that knocks open, and peers that knock.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use testkit::end::key_id;
use testkit::knock::Knocking;
use testkit::netns::{GATE4, GATE6, Net};
use testkit::redis::Redis;
use testkit::wait::poll;
use testkit::{Addr, End, Launch, Line, NEVER, Target, Wire, binary, eventually, keygen};

/// Peers with public addresses.
pub(crate) const PEER: &str = "203.0.113.7";
pub(crate) const OTHER: &str = "203.0.113.8";
pub(crate) const PEER6: &str = "2001:db8:0:1::7";

/// Limit of a round trip through a tunnel; a longer one counts as none.
const ROUND_TRIP: Duration = Duration::from_secs(10);

/// Two machines, a key, and a target.
pub(crate) struct World {
    pub net: Net,
    pub key: PathBuf,
    pub target: Target,
    pub dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target =
            Target::serve(&Addr::Unix(dir.path().join("target.sock")), testkit::target::echo);
        Self { net: Net::make(), key: keygen(dir.path(), "key"), target, dir }
    }

    /// Starts a decrypt end in front of the echo, on all addresses of the gate's machine.
    #[track_caller]
    pub(crate) fn decrypt(&self, args: &[&str]) -> End {
        self.decrypt_to(self.target.addr(), args)
    }

    #[track_caller]
    pub(crate) fn decrypt_to(&self, target: &Addr, args: &[&str]) -> End {
        self.decrypt_at("[::]:0", target, args)
    }

    #[track_caller]
    pub(crate) fn decrypt_at(&self, source: &str, target: &Addr, args: &[&str]) -> End {
        let source = Addr::Tcp(source.parse().unwrap());
        let launch = Launch::decrypt(&self.key).source(&source).target(target).args(args);
        let end = self.net.at_gate(|| launch.start());
        if args.contains(&"--knock") {
            wait_listening(&end);
        }
        end
    }

    pub(crate) fn redis(&self) -> Redis {
        self.net.at_gate(Redis::start)
    }

    /// Returns an encrypt end that dials from `source`.
    #[track_caller]
    pub(crate) fn encrypt(&self, source: &str, to: &End) -> End {
        let entrance = entrance(to, source);
        let name = format!("{}-{}.sock", source.replace(':', "_"), entrance.tcp().port());
        let launch = Launch::encrypt(&self.key)
            .source(&Addr::Unix(self.dir.path().join(name)))
            .target(&entrance)
            .args(["-n", "0", "-b", source]);
        self.net.at_peers(|| launch.start())
    }

    /// Knocks from `source`.
    #[track_caller]
    pub(crate) fn knock(&self, source: &str, to: &End) {
        self.send(source, to, &self.knocking());
    }

    pub(crate) fn knocking(&self) -> Knocking {
        Knocking::new(&self.key)
    }

    #[track_caller]
    pub(crate) fn send(&self, source: &str, to: &End, knocking: &Knocking) {
        self.send_bytes(source, to, &knocking.message());
    }

    #[track_caller]
    pub(crate) fn send_bytes(&self, source: &str, to: &End, bytes: &[u8]) {
        let entrance = entrance(to, source);
        let sent = || testkit::knock::send_from(source, &entrance, bytes);
        self.net.at_peers(sent).expect("a datagram can be sent");
    }

    /// Returns true if a connection from `source` is denied at once.
    pub(crate) fn is_denied(&self, source: &str, to: &End) -> bool {
        self.net.is_denied(source, &entrance(to, source))
    }

    #[track_caller]
    pub(crate) fn wait_denied(&self, source: &str, to: &End) {
        eventually(&format!("{source} is denied"), || self.is_denied(source, to));
    }

    #[track_caller]
    pub(crate) fn wait_admitted(&self, source: &str, to: &End) {
        eventually(&format!("{source} is admitted"), || !self.is_denied(source, to));
    }

    /// Runs `knockpipe gate ARGS` on the gate's machine.
    pub(crate) fn gate(&self, args: &[&str]) -> Output {
        let run = || Command::new(binary()).arg("gate").args(args).output().expect("it starts");
        self.net.at_gate(run)
    }

    /// Returns the name of the key's holders beside their grants.
    pub(crate) fn who(&self) -> String {
        format!("key:{}", key_id(&self.key))
    }
}

/// Waits until an end says that it listens for knocks.
#[track_caller]
pub(crate) fn wait_listening(end: &End) -> Line {
    end.program.wait_line("listening for knocks", |line| line.is("listening for knocks"))
}

/// Waits until an end says that it has granted a knock, and returns the newest such line.
#[track_caller]
pub(crate) fn wait_granted(end: &End, count: usize) -> Line {
    eventually(&format!("{count} knocks are granted"), || granted(end).len() >= count);
    granted(end).pop().expect("there is one")
}

pub(crate) fn granted(end: &End) -> Vec<Line> {
    end.program.log().into_iter().filter(|line| line.is("knock granted")).collect()
}

/// Counts authentic knocks that were refused for `reason`, by the log.
pub(crate) fn refused(end: &End, reason: &str) -> u64 {
    let of = |line: &Line| -> u64 {
        let reasons = line.field("reasons").unwrap_or_default();
        let counts = reasons.split(' ').filter_map(|each| each.split_once('='));
        counts.filter(|(why, _)| *why == reason).map(|(_, n)| n.parse::<u64>().unwrap()).sum()
    };
    end.program.log().iter().filter(|line| line.is("knock refused")).map(of).sum()
}

/// Returns the address of `end` in the family of `source`.
pub(crate) fn entrance(end: &End, source: &str) -> Addr {
    let ip = if source.contains(':') { GATE6 } else { GATE4 };
    Addr::Tcp((ip.parse::<std::net::IpAddr>().unwrap(), end.addr().tcp().port()).into())
}

/// Returns a live connection through a tunnel; panics when there is none.
#[track_caller]
pub(crate) fn live(client: &End) -> Wire {
    let mut wire = client.connect();
    wire.expect_echo(b"live");
    wire
}

/// Returns a live connection through a tunnel as soon as there is one.
#[track_caller]
pub(crate) fn live_soon(client: &End) -> Wire {
    let live = poll(NEVER, || {
        let mut wire = client.connect();
        wire.echoes(b"live", ROUND_TRIP).then_some(wire)
    });
    live.unwrap_or_else(|| panic!("no session; its log:\n{}", client.program.tail()))
}

pub(crate) fn gets_through(client: &End) -> bool {
    client.connect().echoes(b"may I?", ROUND_TRIP)
}
