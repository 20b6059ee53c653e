//! A decrypt end with a policy for an unavailable store, the clients connected through it, and
//! peers that try to get in meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::world::{AWAY, OTHER, PEER, READ, SOON, Stage, entrance};
use testkit::netns::dial_from;
use testkit::target::Target;
use testkit::wait::poll;
use testkit::{End, Ending, NEVER, Wire, eventually};

/// Banned, and in the allow-set.
pub(crate) const BANNED: &str = "203.0.113.66";

/// Log message for what decides while the store is unavailable.
pub(crate) const CLOSED: &str = "gate closed: store unavailable";
const OPEN: &str = "gate open: store unavailable";
const STALE: &str = "gate using stale data";

/// A gate with its policy, and a connected client.
pub(crate) struct Guarded {
    pub policy: &'static str,
    pub gate: End,
    /// A connection of [`PEER`].
    pub live: Wire,
    peers: HashMap<&'static str, End>,
}

impl Guarded {
    /// Starts a gate at the store `url` that admits [`PEER`].
    pub(crate) fn start(stage: &Stage, url: &str, target: &Target, policy: &'static str) -> Self {
        Self::with(stage, url, target, &["--gate-failure", policy])
    }

    /// Starts a gate with more options, its policy the last of them.
    pub(crate) fn with(stage: &Stage, url: &str, target: &Target, args: &[&'static str]) -> Self {
        let gate = stage.decrypt(target.addr(), &[&["--gate", url], args].concat());
        gate.program.wait_line(READ, |line| line.is(READ));
        let peer = stage.encrypt(PEER, &entrance(&gate, PEER));
        let mut live = peer.connect();
        live.expect_echo(b"live");
        let policy = args.last().expect("the policy is an option");
        Self { policy, gate, live, peers: HashMap::from([(PEER, peer)]) }
    }

    pub(crate) fn count(&self, message: &str) -> usize {
        self.gate.program.log().iter().filter(|line| line.is(message)).count()
    }

    /// Returns a connection through a tunnel that comes from `source`.
    pub(crate) fn connect(&mut self, stage: &Stage, source: &'static str) -> Wire {
        let end = match self.peers.entry(source) {
            Entry::Occupied(end) => end.into_mut(),
            Entry::Vacant(none) => {
                none.insert(stage.encrypt(source, &entrance(&self.gate, source)))
            }
        };
        end.connect()
    }

    /// Returns true if `source` reaches the target now.
    pub(crate) fn gets_in(&mut self, stage: &Stage, source: &'static str) -> bool {
        self.connect(stage, source).echoes(b"may I?", NEVER)
    }

    /// Returns a live connection from `source`, as soon as it is admitted.
    #[track_caller]
    pub(crate) fn live_soon(&mut self, stage: &Stage, source: &'static str) -> Wire {
        let live = poll(NEVER, || {
            let mut wire = self.connect(stage, source);
            wire.echoes(b"live", NEVER).then_some(wire)
        });
        live.unwrap_or_else(|| panic!("{source} does not get in"))
    }

    pub(crate) fn is_denied(&self, stage: &Stage, source: &str) -> bool {
        stage.net.is_denied(source, &entrance(&self.gate, source))
    }

    /// Starts a peer that tries all the time and must not get in.
    pub(crate) fn knocker(&self, stage: &Stage, source: &'static str) -> Knocker {
        Knocker::start(stage, source, &self.gate)
    }

    /// Starts [`BANNED`], and [`OTHER`] where the policy never admits an unlisted address.
    pub(crate) fn knockers(&self, stage: &Stage) -> Vec<Knocker> {
        let sources = if self.policy == "open" { &[BANNED][..] } else { &[BANNED, OTHER] };
        sources.iter().map(|source| self.knocker(stage, source)).collect()
    }

    /// Checks the admissions while the store is unavailable for the `times`th time.
    #[track_caller]
    pub(crate) fn expect_away(&mut self, stage: &Stage, times: usize) {
        eventually("it is noticed", || self.count(AWAY) == times);
        self.live.expect_echo(b"who is in stays in");
        let (listed, stranger) = match self.policy {
            "closed" => (false, false),
            "open" => (true, true),
            _ => (true, false),
        };
        assert_eq!(!self.is_denied(stage, PEER), listed, "{}: one of the allow-set", self.policy);
        assert_eq!(!self.is_denied(stage, OTHER), stranger, "{}: a stranger", self.policy);
        assert!(self.is_denied(stage, BANNED), "{}: a banned peer", self.policy);
        assert_eq!(self.gets_in(stage, PEER), listed, "{}", self.policy);
    }

    /// Checks that everything is as before, after the store came back for the `times`th time.
    #[track_caller]
    pub(crate) fn expect_back(&mut self, stage: &Stage, times: usize) {
        eventually("it is read again", || self.count(READ) == times + 1);
        self.live.expect_echo(b"never left");
        self.connect(stage, PEER).expect_echo(b"come in");
        for source in [OTHER, BANNED] {
            stage.net.expect_denied(source, &entrance(&self.gate, source));
        }
        self.expect_told(times);
    }

    /// Checks that there is one line for each change of state, after `times` absences.
    #[track_caller]
    pub(crate) fn expect_told(&self, times: usize) {
        let stance = match self.policy {
            "closed" => CLOSED,
            "open" => OPEN,
            _ => STALE,
        };
        for (line, expected) in [(AWAY, times), (stance, times), (READ, times + 1)] {
            let count = self.count(line);
            assert_eq!(count, expected, "{line}, {}:\n{}", self.policy, self.gate.program.tail());
        }
    }
}

/// Waits until all have read their store once more, for the `times`th time.
#[track_caller]
pub(crate) fn wait_read(all: &[Guarded], times: usize) {
    eventually("it is read again", || all.iter().all(|each| each.count(READ) == times + 1));
}

/// Pause between two tries of a knocker.
const PAUSE: Duration = Duration::from_millis(20);

/// A thread that dials a gate again and again.
pub(crate) struct Knocker {
    stop: Arc<AtomicBool>,
    knocks: Receiver<Knocks>,
}

/// Results of a knocker.
#[derive(Default)]
pub(crate) struct Knocks {
    denied: usize,
    slowest: Duration,
    /// The first ending that was no denial.
    other: Option<String>,
}

impl Knocker {
    fn start(stage: &Stage, source: &'static str, gate: &End) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (done, knocks) = channel();
        let (to, stopped) = (entrance(gate, source), Arc::clone(&stop));
        stage.net.spawn_at_peers(move || {
            let mut knocks = Knocks::default();
            let finished = || stopped.load(Ordering::Relaxed).then_some(());
            while knocks.other.is_none() && poll(PAUSE, finished).is_none() {
                let began = Instant::now();
                let mut wire = dial_from(source, &to).expect("the gate listens");
                let (bytes, ending) = wire.read_to_ending(SOON);
                knocks.note(began.elapsed(), &bytes, ending);
            }
            // The receiver is gone after a test that failed.
            let _ = done.send(knocks);
        });
        Self { stop, knocks }
    }

    /// Checks that no knocker was admitted, and that none had to wait.
    #[track_caller]
    pub(crate) fn finish(self) -> Knocks {
        self.stop.store(true, Ordering::Relaxed);
        let knocks = self.knocks.recv().expect("the thread does not panic");
        assert!(knocks.other.is_none(), "not denied: {:?}", knocks.other);
        assert!(knocks.denied > 0, "no knocker was denied");
        knocks
    }
}

impl Drop for Knocker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Knocks {
    fn note(&mut self, took: Duration, bytes: &[u8], ending: Ending) {
        if bytes.is_empty() && ending != Ending::Silent {
            self.denied += 1;
            self.slowest = self.slowest.max(took);
        } else {
            self.other = Some(format!("{} bytes, {ending:?}, after {took:?}", bytes.len()));
        }
    }
}

/// Stops them all, and prints their results.
#[track_caller]
pub(crate) fn finish(what: &str, knockers: Vec<Knocker>) {
    let all: Vec<Knocks> = knockers.into_iter().map(Knocker::finish).collect();
    let denied: usize = all.iter().map(|knocks| knocks.denied).sum();
    let slowest = all.iter().map(|knocks| knocks.slowest).max();
    println!("{what}: {denied} denied, the slowest after {:?}", slowest.unwrap_or_default());
}
