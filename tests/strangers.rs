//! Peers without the key: they reach nothing, learn nothing, and leave nothing behind.

use std::io::{ErrorKind, Read, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use knockpipe::proto::SuiteSet;
use knockpipe::proto::handshake::MESSAGE_LEN;
use testkit::address::refusing;
use testkit::data::Noise;
use testkit::hand::Call;
use testkit::legit::{Clients, round_trips};
use testkit::middleman::{Middleman, Toward};
use testkit::{
    Addr, End, Ending, Kind, Launch, Pair, PairOptions, Target, Wire, any, eventually, keygen, proc,
};

/// Threads that play strangers.
const THREADS: usize = 4;

/// Connections that each thread holds at once.
const AT_ONCE: usize = 250;

/// Memory that an end may hold in addition afterwards, in KiB.
const GROWTH_KIB: u64 = 16 * 1024;

/// The most log lines that all strangers of a scenario may cause.
const LINES: usize = 100;

/// Next step of a stranger after its bytes.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// Waits until it is disconnected.
    Stall,
    /// Finishes cleanly and waits for an answer.
    Finish,
    /// Resets.
    Reset,
}

/// A decrypt end in normal use, and its state before the strangers came.
struct Stage {
    target: Target,
    pair: Pair,
    fds: usize,
    rss: u64,
}

impl Stage {
    fn new() -> Self {
        proc::need_descriptors(8000);
        let target = Target::echo();
        let decrypt = ["-o", "2s", "--max-handshakes", "4096"];
        let pair = Pair::start(PairOptions::default().decrypt(&decrypt), target.addr());
        let idle = round_trips(pair.entrance(), 200);
        println!("idle: {}", idle.summary());
        target.wait_idle();
        eventually("the sessions have ended", || pair.decrypt.closed().len() == 200);
        let (fds, rss) = (pair.decrypt.fds(), proc::rss_kib(pair.decrypt.pid()));
        Self { target, pair, fds, rss }
    }

    /// Runs `attack` while a legitimate client works, and then checks that exactly `strangers`
    /// connections were counted and nothing is left of them.
    fn survives(self, name: &str, strangers: RangeInclusive<u64>, attack: impl FnOnce(&Self)) {
        let before = self.target.counts().accepts();
        let legit = Clients::comers([self.pair.entrance().clone()], Duration::from_millis(5));
        attack(&self);
        let legit = legit.finish();
        println!("{name}: {}", legit.summary());
        let served = before + legit.count() as u64;
        assert_eq!(self.target.counts().accepts(), served, "a stranger reached the target");
        let decrypt = &self.pair.decrypt;
        decrypt.wait_fds(self.fds);
        let rss = proc::rss_kib(decrypt.pid());
        println!("{name}: RSS {} -> {rss} KiB, {} descriptors", self.rss, decrypt.fds());
        assert!(rss <= self.rss + GROWTH_KIB, "RSS grew from {} to {rss} KiB", self.rss);
        let Self { mut pair, .. } = self;
        pair.encrypt.stop();
        pair.decrypt.stop();
        exactly(&pair.decrypt, strangers);
    }
}

/// Checks that the log of an end that was stopped counts `strangers`, in at most [`LINES`] lines.
#[track_caller]
fn exactly(end: &End, strangers: RangeInclusive<u64>) {
    let counted = end.strangers();
    assert!(strangers.contains(&counted), "{counted} and not {strangers:?}");
    let lines = end.program.log().iter().filter(|line| line.strangers() > 0).count();
    assert!(lines <= LINES, "{lines} lines for {counted} strangers");
}

/// Makes all `visits` to `to`, [`AT_ONCE`] at a time in each thread.
fn visit(to: &Addr, visits: Vec<(Vec<u8>, Leave)>) {
    let queue = Mutex::new(visits);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let batch: Vec<_> = {
                        let mut left = queue.lock().unwrap();
                        let keep = left.len().saturating_sub(AT_ONCE);
                        left.drain(keep..).collect()
                    };
                    if batch.is_empty() {
                        return;
                    }
                    visit_batch(to, batch);
                }
            });
        }
    });
}

fn visit_batch(to: &Addr, batch: Vec<(Vec<u8>, Leave)>) {
    let mut waiting = Vec::new();
    for (bytes, leave) in batch {
        let mut wire = Wire::connect(to).unwrap();
        // A stranger may be disconnected before it has sent everything.
        let _ = wire.write_all(&bytes);
        match leave {
            Leave::Reset => wire.reset(),
            Leave::Finish => {
                wire.finish();
                waiting.push(wire);
            }
            Leave::Stall => waiting.push(wire),
        }
    }
    for mut wire in waiting {
        // Ends without a byte, cleanly or not: that tells nothing.
        wire.expect_ending();
    }
}

/// "10,000 connections of random bytes: the target sees 0
/// connections, 0 bytes are sent to them, memory and descriptors return to the
/// baseline", "10,000 bad handshakes are at most 100 lines with an exact count".
#[test]
fn ten_thousand_connections_of_random_bytes_reach_nothing() {
    Stage::new().survives("10,000 of random bytes", 10_000..=10_000, |stage| {
        let mut noise = Noise::new(2026);
        let visits = (0..10_000)
            .map(|i| {
                let length = 1 + noise.below(4096);
                let leave = [Leave::Stall, Leave::Finish, Leave::Reset][i % 3];
                (noise.bytes(length), leave)
            })
            .collect();
        visit(stage.pair.decrypt.addr(), visits);
    });
}

/// "1,000 with a wrong key": real encrypt ends, which reset their clients and log that there was no
/// answer. Each makes a second attempt, if there is time for one.
#[test]
fn a_thousand_connections_with_a_wrong_key_reach_nothing() {
    Stage::new().survives("1,000 with a wrong key", 1000..=2000, |stage| {
        let wrong = keygen(stage.pair.dir(), "wrong");
        let mut encrypt = Launch::encrypt(&wrong)
            .source(&Kind::Tcp4.fresh(Path::new("/"), ""))
            .target(stage.pair.decrypt.addr())
            .args(["-o", "1s"])
            .start();
        for _ in 0..4 {
            let mut clients: Vec<Wire> = (0..250).map(|_| encrypt.connect()).collect();
            for client in &mut clients {
                client.write_all(b"let me in").unwrap();
            }
            for client in &mut clients {
                assert_eq!(client.expect_ending(), Ending::Reset);
            }
        }
        encrypt.stop();
        counted_in_few_lines(&encrypt, "no-answer", 1000);
    });
}

/// Checks that the log of a stopped encrypt end reports `clients` that failed for the same reason:
/// an exact count, in at most [`LINES`] warnings, one of them with the remedy.
#[track_caller]
fn counted_in_few_lines(encrypt: &End, reason: &str, clients: u64) {
    let closed = encrypt.closed().iter().filter(|line| line.has("reason", reason)).count() as u64;
    assert_eq!(encrypt.refused(reason) + closed, clients, "the count is exact");
    assert_eq!(encrypt.strangers() + closed, clients, "none failed for another reason");
    let log = encrypt.program.log();
    let warnings = log.iter().filter(|line| line.level() == "WARN").count();
    assert!(warnings <= LINES, "{warnings} warnings for {clients} clients");
    let full = |line: &&testkit::Line| line.is("closed") && line.field("detail").is_some();
    let told = log.iter().filter(full).count();
    assert!((1..=LINES).contains(&told), "{told} clients are told of in full");
    println!("{clients} clients, {reason}: {warnings} warnings, {told} in full");
}

/// "Failures aggregated": a far end that is down is no flood of lines either.
#[test]
fn a_thousand_clients_of_a_far_end_that_is_down_are_few_lines() {
    let (no_listener, _socket) = refusing();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let any = Kind::Tcp4.fresh(Path::new("/"), "");
    let mut encrypt = Launch::encrypt(&key).source(&any).target(&no_listener).start();
    for _ in 0..4 {
        let mut clients: Vec<Wire> = (0..250).map(|_| encrypt.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.expect_ending(), Ending::Reset);
        }
    }
    encrypt.stop();
    counted_in_few_lines(&encrypt, "peer-unreachable", 1000);
}

/// "1,000 recorded handshakes replayed (also after a restart)".
#[test]
fn a_thousand_replayed_handshakes_reach_nothing_not_even_after_a_restart() {
    let target = Target::echo();
    let middle = Mutex::new(None);
    let options = PairOptions::default().decrypt(&["-o", "2s"]);
    let mut pair = Pair::start_via(options, target.addr(), |sealed| {
        let started = Middleman::start(sealed);
        let addr = started.addr().clone();
        *middle.lock().unwrap() = Some(started);
        addr
    });
    let middle = middle.into_inner().unwrap().unwrap();
    middle.record(true);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| round_trips(pair.entrance(), 1000 / THREADS));
        }
    });
    eventually("the recorded sessions have ended", || middle.live() == 0);
    target.wait_idle();
    let recorded = middle.take_recordings();
    assert_eq!((recorded.len(), target.counts().accepts()), (1000, 1000));
    // Half of them the first message alone, half everything the client had sent.
    let visits: Vec<(Vec<u8>, Leave)> = (0..)
        .zip(&recorded)
        .map(|(i, one)| {
            let frames = one.frames(Toward::Acceptor);
            let take = if i % 2 == 0 { 1 } else { frames.len() };
            (frames[..take].concat(), [Leave::Stall, Leave::Finish][i / 2 % 2])
        })
        .collect();

    visit(pair.decrypt.addr(), visits.clone());
    assert_eq!(target.counts().accepts(), 1000, "a replay reached the target");
    pair.encrypt.stop();
    pair.decrypt.stop();
    exactly(&pair.decrypt, 1000..=1000);

    let mut again = Launch::decrypt(pair.key())
        .source(pair.decrypt.addr())
        .target(target.addr())
        .args(["-o", "2s"])
        .start();
    visit(again.addr(), visits);
    assert_eq!(target.counts().accepts(), 1000, "a replay reached the target after a restart");
    again.stop();
    exactly(&again, 1000..=1000);
}

/// A holder of a first message under a right key that gets no answer (it was seen before, its clock
/// is wrong, its suites are) sees what a stranger sees: an open connection and not a byte until the
/// deadline, also after the end of its own direction.
#[test]
fn a_valid_first_message_that_is_refused_looks_like_random_bytes() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let mut decrypt = Launch::decrypt(&key)
        .source(&Kind::Tcp4.fresh(Path::new("/"), ""))
        .target(target.addr())
        .args(["-o", "2s", "--suite", "aes-256-gcm"])
        .start();
    let seen = Call::new(&key);
    let replayed = *seen.message();
    drop(seen.shake(decrypt.addr()));
    let mut rounds = 0;
    for more in [0, 1, 300, 100_000] {
        for leave in [Leave::Stall, Leave::Finish] {
            rounds += 1;
            let call = |ahead, suites| *Call::with(&key, ahead, suites).message();
            let messages = [
                ("random", Noise::new(rounds).bytes(replayed.len())),
                ("replayed", replayed.to_vec()),
                ("stale", call(-121, SuiteSet::BOTH).to_vec()),
                ("early", call(3600, SuiteSet::BOTH).to_vec()),
                ("without a suite", call(0, SuiteSet::PORTABLE).to_vec()),
            ];
            // Each on a thread of its own, so that each end is timed as it comes.
            thread::scope(|scope| {
                for (name, mut bytes) in messages {
                    bytes.extend(Noise::new(5).bytes(more));
                    let wire = decrypt.connect();
                    let name = format!("{name}, {more} bytes more, {leave:?}");
                    scope.spawn(move || probe(wire, &bytes, leave, &name));
                }
            });
        }
    }
    decrypt.stop();
    for (reason, each) in
        [("handshake-failed", 1), ("replayed", 1), ("clock-skew", 2), ("no-common-suite", 1)]
    {
        assert_eq!(decrypt.refused(reason), each * rounds, "{reason}");
    }
    assert_eq!(target.counts().accepts(), 0);
}

/// "The time from a stranger's end to the reset tells nothing": a ring of eight keys, and messages
/// that take different amounts of work, down to none at all. All are held until the deadline.
#[test]
fn an_end_without_an_answer_is_held_until_the_deadline() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..8).map(|n| keygen(dir.path(), &format!("key{n}"))).collect();
    let mut launch = Launch::decrypt(&keys[0]).source(&any()).target(target.addr());
    for key in &keys[1..] {
        launch = launch.args(["-k".as_ref(), key.as_os_str()]);
    }
    let mut decrypt = launch.args(["-o", "2s"]).start();
    let call = Call::new(&keys[7]);
    let first = *call.message();
    drop(call.shake(decrypt.addr()));
    let messages = [
        ("nothing", vec![]),
        ("a byte", vec![1]),
        ("all but a byte", first[..MESSAGE_LEN - 1].to_vec()),
        ("random", Noise::new(9).bytes(MESSAGE_LEN)),
        ("replayed", first.to_vec()),
    ];
    thread::scope(|scope| {
        for (name, bytes) in messages {
            let wire = decrypt.connect();
            scope.spawn(move || probe(wire, &bytes, Leave::Finish, name));
        }
    });
    decrypt.stop();
}

/// "One deadline": with `--denied tarpit` a denied peer is held as long as a stranger in
/// its handshake, the random part included, so that many do not end at one moment.
#[test]
fn a_denied_peer_in_the_tarpit_ends_as_a_stranger_does() {
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let hold = ["--deny", "127.0.0.1", "--denied", "tarpit", "-o", "2s"];
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr()).args(hold);
    let mut decrypt = launch.start();
    let times: Vec<Duration> = thread::scope(|scope| {
        let held: Vec<_> = (0..24)
            .map(|i| {
                let mut wire = decrypt.connect();
                scope.spawn(move || {
                    let start = Instant::now();
                    if i % 2 == 0 {
                        wire.finish();
                    }
                    assert_eq!(wire.expect_ending(), Ending::Reset);
                    start.elapsed()
                })
            })
            .collect();
        held.into_iter().map(|held| held.join().unwrap()).collect()
    });
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    println!("held from {first:?} to {last:?}");
    assert!(*first >= Duration::from_millis(1_950), "ended after {first:?}");
    // All 24 within a fifth of the random part do not happen.
    assert!(*last - *first > Duration::from_millis(100), "all ended after {first:?}");
    decrypt.stop();
}

/// `docs/PROTOCOL.md`, 3.2: the deadline is one, after the connection was accepted, also for
/// clients of a load balancer: for its header, its handshake, and its being held.
#[test]
fn a_slow_peer_behind_a_load_balancer_is_held_no_longer() {
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let flags =
        ["--proxy-from", "127.0.0.1", "--deny", "192.0.2.1", "--denied", "tarpit", "-o", "3s"];
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr()).args(flags);
    let mut decrypt = launch.start();
    thread::scope(|scope| {
        for (name, client) in
            [("denied", Some("192.0.2.1")), ("let in", Some("192.0.2.2")), ("none", None)]
        {
            let mut wire = decrypt.connect();
            scope.spawn(move || {
                let start = Instant::now();
                if let Some(client) = client {
                    // Late, but in time.
                    thread::sleep(Duration::from_millis(2_700));
                    let header = format!("PROXY TCP4 {client} 192.0.2.9 40000 8023\r\n");
                    let _ = wire.write_all(header.as_bytes());
                }
                assert_eq!(wire.expect_ending(), Ending::Reset, "{name}");
                let took = start.elapsed();
                // A second deadline would be over after 5.7 seconds and more.
                let once = Duration::from_millis(2_950)..Duration::from_millis(5_600);
                assert!(once.contains(&took), "{name}: {took:?}");
            });
        }
    });
    decrypt.stop();
    for (reason, some) in [("bad-proxy-header", 1), ("gate-denied", 1), ("handshake-failed", 1)] {
        assert_eq!(decrypt.refused(reason), some, "{reason}: {}", decrypt.program.tail());
    }
    assert_eq!(target.counts().accepts(), 0);
}

/// Sends `bytes` to an end with a deadline of 2 s, and checks the time that it takes.
fn probe(mut wire: Wire, bytes: &[u8], leave: Leave, name: &str) {
    const DEADLINE: Duration = Duration::from_secs(2);
    /// A quarter more is random; the rest is for a loaded machine.
    const LATEST: Duration = Duration::from_secs(20);
    let start = Instant::now();
    wire.write_all(bytes).unwrap();
    if matches!(leave, Leave::Finish) {
        wire.finish();
    }
    assert_eq!(wire.expect_ending(), Ending::Reset, "{name}");
    let took = start.elapsed();
    assert!(took < LATEST, "{name}: {took:?}");
    assert!(took >= DEADLINE * 99 / 100, "{name}: thrown out after {took:?}");
}

/// "No fixed offset": for any bytes, and any number of them, the connection stays open, silent and
/// readable until the deadline, which is an hour here.
#[test]
fn a_prober_learns_nothing_from_how_much_it_may_send() {
    let target = Target::echo();
    let pair = Pair::start(PairOptions::default().decrypt(&["-o", "3600s"]), target.addr());
    let mut noise = Noise::new(11);
    let mut probers: Vec<Wire> = Vec::new();
    for length in [0, 1, 2, 31, 32, 255, 256, 257, 258, 319, 320, 512, 4096, 65_536, 8 << 20] {
        let mut wire = Wire::connect(pair.decrypt.addr()).unwrap();
        wire.write_all(&noise.bytes(length)).unwrap_or_else(|e| panic!("after {length}: {e}"));
        probers.push(wire);
    }
    // Byte by byte, past every length that could matter.
    let mut slow = Wire::connect(pair.decrypt.addr()).unwrap();
    slow.socket().set_tcp_nodelay(true).unwrap();
    for byte in noise.bytes(2000) {
        slow.write_all(&[byte]).unwrap();
    }
    probers.push(slow);
    round_trips(pair.entrance(), 20);
    // A close would be here by now; one that comes later is not seen, but none is invented.
    thread::sleep(Duration::from_secs(1));
    for (number, wire) in probers.iter_mut().enumerate() {
        wire.read_limit(Duration::from_millis(1));
        let kind = wire.read(&mut [0; 1]).map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::WouldBlock)), "prober {number} saw {kind:?}");
    }
    assert_eq!(target.counts().accepts(), 20);
}
