//! A decrypt end behind a gate, and the peers that want to reach it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use testkit::netns::{GATE4, GATE6, Net};
use testkit::redis::{Redis, Reply, Resp};
use testkit::wait::poll;
use testkit::{Addr, End, Ending, Launch, Line, NEVER, Target, Wire, eventually, keygen};

/// Peers with public addresses.
pub(crate) const PEER: &str = "203.0.113.7";
pub(crate) const OTHER: &str = "203.0.113.8";
pub(crate) const PEER6: &str = "2001:db8:0:1::7";

/// Prefix of Rack::Attack before the address of a ban.
pub(crate) const BAN: &str = "cache:gitlab:rack::attack:allow2ban:ban";

/// Log messages for a synced store, and for the loss of it.
pub(crate) const READ: &str = "gate store synced";
pub(crate) const AWAY: &str = "gate store unavailable";

/// Limit of an answer's time where the time is asserted; most are much faster.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Limit of a round trip through a tunnel; a longer one counts as none.
const ROUND_TRIP: Duration = Duration::from_secs(10);

/// A gate with its Redis, a target behind it, and a machine of peers.
pub(crate) struct World {
    // Ends go first, what they talk to next, their machines last.
    pub peers: RefCell<HashMap<String, End>>,
    pub gate: End,
    pub target: Target,
    pub redis: Redis,
    pub stage: Stage,
}

/// The surroundings of a gate, before it starts.
pub(crate) struct Stage {
    pub net: Net,
    pub key: PathBuf,
    pub dir: TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { net: Net::make(), key: keygen(dir.path(), "key"), dir }
    }

    pub(crate) fn redis(&self) -> Redis {
        self.net.at_gate(Redis::start)
    }

    /// Returns the address of a target that everything on this machine can reach, in any namespace.
    pub(crate) fn target(&self) -> Addr {
        Addr::Unix(self.dir.path().join("target.sock"))
    }

    /// Starts a decrypt end on all addresses of the gate's machine.
    pub(crate) fn decrypt(&self, target: &Addr, args: &[&str]) -> End {
        let any = Addr::Tcp("[::]:0".parse().unwrap());
        let launch = Launch::decrypt(&self.key).source(&any).target(target).args(args);
        self.net.at_gate(|| launch.start())
    }

    /// Starts an encrypt end that dials from `source` and listens on a unix socket.
    pub(crate) fn encrypt(&self, source: &str, to: &Addr) -> End {
        self.encrypt_with(source, to, &[])
    }

    pub(crate) fn encrypt_with(&self, source: &str, to: &Addr, args: &[&str]) -> End {
        let name = format!("{}-{}.sock", source.replace(':', "_"), to.tcp().port());
        let launch = Launch::encrypt(&self.key)
            .source(&Addr::Unix(self.dir.path().join(name)))
            .target(to)
            .args(["-n", "0", "-b", source])
            .args(args);
        self.net.at_peers(|| launch.start())
    }
}

impl World {
    /// Starts a gate with more options than its Redis.
    pub(crate) fn new(args: &[&str]) -> Self {
        Self::with(args, testkit::target::echo)
    }

    pub(crate) fn with(
        args: &[&str],
        serve: impl Fn(Wire, &testkit::target::Counts) + Send + Sync + 'static,
    ) -> Self {
        let stage = Stage::new();
        let redis = stage.redis();
        let target = Target::serve(&stage.target(), serve);
        let url = url(&redis);
        let gate = stage.decrypt(target.addr(), &[&["--gate", &url], args].concat());
        gate.program.wait_line("gate store synced", |line| line.is("gate store synced"));
        Self { peers: RefCell::default(), gate, target, redis, stage }
    }

    /// Asks Redis; panics on an error.
    #[track_caller]
    pub(crate) fn redis(&self, command: &str) -> Reply {
        ask(&mut self.redis.direct(), command)
    }

    /// Returns the gate's address for `source`.
    pub(crate) fn entrance(&self, source: &str) -> Addr {
        entrance(&self.gate, source)
    }

    /// Returns a connection through a tunnel that comes from `source`.
    pub(crate) fn connect(&self, source: &str) -> Wire {
        let mut peers = self.peers.borrow_mut();
        let end = peers
            .entry(source.to_owned())
            .or_insert_with(|| self.stage.encrypt(source, &self.entrance(source)));
        end.connect()
    }

    /// Returns a live connection from `source`; panics when it is not admitted.
    #[track_caller]
    pub(crate) fn live(&self, source: &str) -> Wire {
        let mut wire = self.connect(source);
        wire.expect_echo(b"live");
        wire
    }

    /// Returns a live connection from `source`, as soon as it is admitted.
    #[track_caller]
    pub(crate) fn live_soon(&self, source: &str) -> Wire {
        let live = poll(NEVER, || {
            let mut wire = self.connect(source);
            wire.echoes(b"live", ROUND_TRIP).then_some(wire)
        });
        live.unwrap_or_else(|| panic!("{source} does not get in"))
    }

    /// Returns true if `source` reaches the target now.
    pub(crate) fn gets_in(&self, source: &str) -> bool {
        self.connect(source).echoes(b"may I?", ROUND_TRIP)
    }

    #[track_caller]
    pub(crate) fn wait_in(&self, source: &str) {
        eventually(&format!("{source} gets in"), || self.gets_in(source));
    }

    /// Waits until `source` is denied.
    #[track_caller]
    pub(crate) fn wait_out(&self, source: &str) {
        let entrance = self.entrance(source);
        let what = format!("{source} is denied");
        eventually(&what, || self.stage.net.is_denied(source, &entrance));
        assert!(!self.gets_in(source), "{source} is denied, but gets through");
    }

    /// Expects a denial now, and returns its form.
    #[track_caller]
    pub(crate) fn expect_denied(&self, source: &str) -> Ending {
        self.stage.net.expect_denied(source, &self.entrance(source))
    }

    pub(crate) fn lines(&self, message: &str) -> Vec<Line> {
        self.gate.program.log().into_iter().filter(|line| line.is(message)).collect()
    }
}

/// Returns the `redis://` URL of a server on the gate's machine.
pub(crate) fn url(redis: &Redis) -> String {
    format!("redis://{}", redis.tcp())
}

/// Returns the address of `gate` in the family of `source`.
pub(crate) fn entrance(gate: &End, source: &str) -> Addr {
    let ip = if source.contains(':') { GATE6 } else { GATE4 };
    Addr::Tcp((ip.parse::<std::net::IpAddr>().unwrap(), gate.addr().tcp().port()).into())
}

#[track_caller]
pub(crate) fn ask(redis: &mut Resp, command: &str) -> Reply {
    let words: Vec<&str> = command.split_whitespace().collect();
    let reply = redis.ask(&words);
    assert!(!matches!(reply, Reply::Error(_)), "{command}: {reply:?}");
    reply
}

/// Returns a number that Redis answered.
#[track_caller]
pub(crate) fn number(reply: &Reply) -> i64 {
    match reply {
        Reply::Number(number) => *number,
        other => other.text().parse().unwrap(),
    }
}

/// Returns the present time in unix seconds.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Counts the connections refused for `reason`, by the log.
pub(crate) fn refused(gate: &End, reason: &str) -> u64 {
    let of = |line: &Line| -> u64 {
        let reasons = line.field("reasons").unwrap_or_default();
        let counts = reasons.split(' ').filter_map(|each| each.split_once('='));
        counts.filter(|(why, _)| *why == reason).map(|(_, n)| n.parse::<u64>().unwrap()).sum()
    };
    gate.program.log().iter().filter(|line| line.is("refused")).map(of).sum()
}

/// Waits for the end of a live connection.
#[track_caller]
pub(crate) fn expect_end(wire: &mut Wire) {
    let (_, ending) = wire.read_to_ending(NEVER);
    assert_ne!(ending, Ending::Silent, "the connection does not end");
}
