//! Too many of something: both ends stay alive, keep serving, and recover.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

mod flood;

use testkit::data::{Noise, Sum, send_noise};
use testkit::legit::{Clients, round_trip, round_trips};
use testkit::redis::Redis;
use testkit::{
    Addr, End, Ending, Launch, NEVER, Pair, PairOptions, Target, Wire, any, eventually, keygen,
    proc,
};

/// "5,000 silent sockets plus 1,000 drip-feeding ones: new
/// legitimate connections keep working": with the default limit, where newcomers
/// take the place of the oldest, and with a limit that holds all of them.
#[test]
fn silent_and_dripping_sockets_do_not_keep_legitimate_clients_out() {
    proc::need_descriptors(8000);
    for limit in ["1024", "8192"] {
        let target = Target::echo();
        let decrypt = ["-o", "600s", "--max-handshakes", limit];
        let pair = Pair::start(PairOptions::default().decrypt(&decrypt), target.addr());
        round_trips(pair.entrance(), 10);
        target.wait_idle();
        let fds = pair.decrypt.fds();
        let sealed = pair.decrypt.addr();
        let silent: Vec<Wire> = (0..5000).map(|_| Wire::connect(sealed).unwrap()).collect();
        let mut dripping: Vec<Wire> = (0..1000).map(|_| Wire::connect(sealed).unwrap()).collect();
        let legit = Clients::comers([pair.entrance().clone()], Duration::from_millis(5));
        for byte in Noise::new(1).bytes(5) {
            for wire in &mut dripping {
                // The oldest are dropped for newcomers; their writes fail then.
                let _ = wire.write_all(&[byte]);
            }
            // Sets how fast it drips; nothing is awaited.
            thread::sleep(Duration::from_secs(1));
        }
        let legit = legit.finish();
        println!("6,000 strangers, limit {limit}: {}", legit.summary());
        assert_eq!(target.counts().accepts(), 10 + legit.count() as u64);
        // One that only ends its direction would be held until the deadline.
        silent.into_iter().chain(dripping).for_each(Wire::reset);
        pair.decrypt.wait_fds(fds);
        pair.stop();
    }
}

/// Runs `end` out of descriptors with 100 held connections, and checks that it bears it.
fn starve(name: &str, end: &mut End, working: &mut Wire, mut admitted: impl FnMut() -> bool) {
    let to = end.addr().clone();
    let held: Vec<Wire> = (0..100).map(|_| Wire::connect(&to).unwrap()).collect();
    working.expect_echo(b"the live session does not notice");
    // CPU time is a property of the process: a loaded machine does not add to it. It is measured
    // over these seconds.
    let (before, start) = (proc::cpu(end.pid()), Instant::now());
    while start.elapsed() < Duration::from_secs(4) {
        working.expect_echo(b"and goes on");
        thread::sleep(Duration::from_millis(200));
    }
    let (spent, passed) = (proc::cpu(end.pid()) - before, start.elapsed());
    let percent = spent.as_secs_f64() / passed.as_secs_f64() * 100.0;
    println!("{name}, 64 descriptors, 100 held: {percent:.1} % CPU, {} open", end.fds());
    assert!(percent < 5.0, "{name} spins: {percent:.1} % CPU");
    assert!(end.program.is_running(), "{name} died:\n{}", end.program.tail());
    let lines = end.program.log().len();
    assert!(lines < 200, "{name} floods its log: {lines} lines");
    drop(held);
    let start = Instant::now();
    eventually("a newcomer is served again", &mut admitted);
    println!("{name} serves again after {:.1?}", start.elapsed());
    working.expect_echo(b"to the end");
}

/// "`nofile=64` with 100 held sockets: alive, under 5 % CPU, recovers within 2 s", at the decrypt
/// end, held by strangers.
#[test]
fn a_decrypt_end_out_of_descriptors_lives_on_and_recovers() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let decrypt = Launch::decrypt(&key).source(&any()).target(target.addr());
    // Nothing is dropped for a newcomer, so that the descriptors really run out.
    let mut decrypt = decrypt.args(["-o", "600s", "--max-handshakes", "4096"]).nofile(64).start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr()).start();
    let mut working = encrypt.connect();
    working.expect_echo(b"before");
    starve("decrypt", &mut decrypt, &mut working, || {
        encrypt.connect().echoes(b"let me in", Duration::from_secs(10))
    });
    drop(working);
    decrypt.stop();
}

/// The same test at the encrypt end, held by clients.
#[test]
fn an_encrypt_end_out_of_descriptors_lives_on_and_recovers() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let decrypt = Launch::decrypt(&key).source(&any()).target(target.addr()).start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr());
    let mut encrypt = encrypt.args(["-n", "0"]).nofile(64).start();
    let mut working = encrypt.connect();
    working.expect_echo(b"before");
    let to = encrypt.addr().clone();
    starve("encrypt", &mut encrypt, &mut working, || {
        Wire::connect(&to).is_ok_and(|mut w| w.echoes(b"let me in", Duration::from_secs(10)))
    });
    drop(working);
    encrypt.stop();
}

/// "A limit that cannot be met is said at start."
#[test]
fn a_limit_that_the_descriptors_cannot_meet_is_said_at_start() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
    let tight = launch.clone().args(["-n", "1000"]).nofile(64).start();
    let warned = |end: &End| end.program.log().iter().any(|line| line.level() == "WARN");
    assert!(warned(&tight), "no warning:\n{}", tight.program.tail());
    let roomy = launch.args(["-n", "10"]).start();
    assert!(!warned(&roomy), "a warning without need:\n{}", roomy.program.tail());
}

/// "At the limit: stop accepting (backlog holds the client), one warning, a clear
/// line when it is over."
#[test]
fn at_the_session_limit_clients_wait_and_the_log_says_so_once() {
    let target = Target::echo();
    let pair = Pair::start(PairOptions::default().encrypt(&["-n", "2"]), target.addr());
    let lines = |level: &str| {
        let log = pair.encrypt.program.log();
        let after = log.iter().position(|line| line.is("ready")).unwrap();
        log[after + 1..]
            .iter()
            .filter(|line| line.level() == level && line.message().contains("limit"))
            .count()
    };
    let mut first = pair.connect();
    let mut second = pair.connect();
    first.expect_echo(b"first");
    second.expect_echo(b"second");
    let mut third = pair.connect();
    let mut fourth = pair.connect();
    assert!(!third.echoes(b"third", Duration::from_millis(500)), "a third session of two");
    eventually("one warning", || lines("WARN") == 1);
    assert_eq!(target.counts().accepts(), 2);
    drop(first);
    assert_eq!(third.expect_bytes(5), b"third");
    assert_eq!(lines("WARN"), 1, "it is still the same limit");
    drop(second);
    fourth.expect_echo(b"fourth");
    drop(third);
    drop(fourth);
    eventually("one all-clear", || lines("INFO") == 1);
    assert_eq!(lines("WARN"), 1);
    round_trip(pair.entrance());
    pair.stop();
}

/// "9,000 idle sessions: memory per session per end measured".
/// The target is a Redis, because this process and it together need 18,000
/// descriptors, and the hard limit may be 20,000.
#[test]
fn nine_thousand_idle_sessions_are_cheap() {
    const SESSIONS: usize = 9000;
    /// A session that keeps a buffer of 64 KiB would cost more than this.
    const MOST_KIB: f64 = 48.0;
    proc::need_descriptors(20_000);
    let redis = Redis::start();
    let pair = Pair::start(PairOptions::both(&["-n", "9500"]), redis.unix());
    drop(ping(pair.entrance()));
    for (_, end) in pair.ends() {
        end.wait_closed("finished");
    }
    let baseline = pair.ends().map(|(_, end)| (end.fds(), proc::rss_kib(end.pid())));
    let sessions: Vec<Wire> = (0..SESSIONS).map(|_| ping(pair.entrance())).collect();
    for ((name, end), (fds, rss)) in pair.ends().into_iter().zip(baseline) {
        let now = proc::rss_kib(end.pid());
        #[expect(clippy::cast_precision_loss, reason = "a few GiB in KiB fit a double exactly")]
        let each = now.saturating_sub(rss) as f64 / SESSIONS as f64;
        println!("{SESSIONS} idle sessions, {name}: RSS {rss} -> {now} KiB, {each:.1} KiB each");
        assert_eq!(end.fds() - fds, 2 * SESSIONS, "{name}: two descriptors per session");
        assert!(each <= MOST_KIB, "{name}: {each:.1} KiB per idle session");
    }
    drop(sessions);
    for ((_, end), (fds, _)) in pair.ends().into_iter().zip(baseline) {
        end.wait_fds(fds);
    }
    drop(ping(pair.entrance()));
    pair.stop();
}

/// Returns a client of Redis that has been answered once; it takes one descriptor.
fn ping(entrance: &Addr) -> Wire {
    let mut wire = Wire::connect(entrance).unwrap_or_else(|e| panic!("no way in: {e}"));
    wire.write_all(b"PING\r\n").unwrap();
    assert_eq!(wire.expect_bytes(7), b"+PONG\r\n");
    wire
}

/// Bytes that pass through the tunnel beside a reader that stops.
const GIB: u64 = 1 << 30;

/// Bytes that the reader takes before it stops.
const BEFORE_STOP: u64 = GIB / 4;

/// Reads a GiB, with a stop in between that lasts until the test ends it.
struct Reader {
    stopped: Sender<()>,
    go_on: Receiver<()>,
}

/// Observes both ends while the reader is stopped.
struct Watcher {
    stopped: Receiver<()>,
    go_on: Sender<()>,
}

fn stopping_reader() -> (Reader, Watcher) {
    let (stopped, has_stopped) = channel();
    let (go_on, may_go_on) = channel();
    (Reader { stopped, go_on: may_go_on }, Watcher { stopped: has_stopped, go_on })
}

impl Reader {
    /// Returns the digest of the bytes that came.
    fn read(&self, wire: &mut Wire) -> String {
        let mut sum = Sum::default();
        let mut buffer = vec![0; 64 * 1024];
        let mut stop_at = BEFORE_STOP;
        while let n @ 1.. = wire.read(&mut buffer).unwrap() {
            sum.add(&buffer[..n]);
            if sum.bytes >= stop_at {
                stop_at = u64::MAX;
                self.stopped.send(()).unwrap();
                self.go_on.recv_timeout(NEVER).unwrap();
            }
        }
        assert_eq!(sum.bytes, GIB);
        sum.hex()
    }
}

impl Watcher {
    fn watch(&self, pair: &Pair, name: &str) {
        const GROWTH_KIB: u64 = 256;
        const STOP: Duration = Duration::from_secs(20);
        self.stopped.recv_timeout(NEVER).expect("the reader comes to its stop");
        let before = pair.ends().map(|(_, end)| proc::rss_kib(end.pid()));
        let mut most = before;
        let start = Instant::now();
        while start.elapsed() < STOP {
            thread::sleep(Duration::from_millis(100));
            for (most, (_, end)) in most.iter_mut().zip(pair.ends()) {
                *most = (*most).max(proc::rss_kib(end.pid()));
            }
        }
        self.go_on.send(()).unwrap();
        for (i, (end, _)) in pair.ends().into_iter().enumerate() {
            println!("{name}, {end}: RSS {} KiB, at most {} during the stop", before[i], most[i]);
            assert!(most[i] <= before[i] + GROWTH_KIB, "{name}: the {end} end keeps what it reads");
        }
    }
}

/// "a 1 GiB transfer to a reader that stops for 20 s: memory grows by at most 256 KiB", on either
/// side. Both readers are stopped at the same time.
#[test]
fn a_reader_that_stops_for_20_seconds_costs_no_memory() {
    thread::scope(|scope| {
        scope.spawn(client_stops_reading);
        scope.spawn(target_stops_reading);
    });
}

fn client_stops_reading() {
    let target = Target::local(|mut wire, _| send_noise(&mut wire, Noise::new(8), GIB).unwrap());
    let pair = Pair::to(target.addr());
    let (reader, watcher) = stopping_reader();
    let mut client = pair.connect();
    let reading = thread::spawn(move || reader.read(&mut client));
    watcher.watch(&pair, "client stops");
    assert_eq!(reading.join().unwrap(), Sum::of_noise(Noise::new(8), GIB));
    pair.stop();
}

fn target_stops_reading() {
    let (reader, watcher) = stopping_reader();
    let (reader, (sum, result)) = (Mutex::new(reader), channel());
    let target = Target::local(move |mut wire, _| {
        sum.send(reader.lock().unwrap().read(&mut wire)).unwrap();
    });
    let pair = Pair::to(target.addr());
    let mut client = pair.connect();
    let writing = thread::spawn(move || {
        send_noise(&mut client, Noise::new(9), GIB).unwrap();
        client.finish();
        assert_eq!(client.expect_ending(), Ending::Clean);
    });
    watcher.watch(&pair, "target stops");
    writing.join().unwrap();
    assert_eq!(result.recv_timeout(NEVER), Ok(Sum::of_noise(Noise::new(9), GIB)));
    pair.stop();
}

/// `--denied tarpit` lets strangers wait in their own slots, at either end, and not on the
/// descriptors of peers that may come in.
#[test]
fn held_strangers_leave_the_descriptors_to_the_others() {
    const STRANGERS: usize = 400;
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let hold = ["--deny", "127.0.0.1", "--denied", "tarpit", "-o", "60s"];
    let decrypt = Launch::decrypt(&key).source(&any()).target(target.addr());
    let decrypt = decrypt.args(hold).nofile(300).start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr());
    let encrypt = encrypt.args(hold).args(["-b", "127.0.0.2"]).nofile(300).start();
    for end in [&decrypt, &encrypt] {
        let held: Vec<Wire> = (0..STRANGERS).map(|_| end.connect()).collect();
        let ours = "127.0.0.2".parse().unwrap();
        Wire::connect_from(ours, encrypt.addr()).unwrap().expect_echo(b"let in");
        assert_eq!(end.count("cannot accept"), 0, "{}", end.program.tail());
        drop(held);
    }
}

/// A reader that is stopped delays no other.
#[test]
fn a_stalled_reader_does_not_disturb_other_sessions() {
    let quit = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&quit);
    let target = Target::local(move |mut wire, counts| {
        let mut first = [0];
        if wire.read_exact(&mut first).is_err() || first != *b"F" {
            return testkit::target::echo_after(&first, wire, counts);
        }
        // Floods the client that asked for it, until it reads no more.
        while !theirs.load(Ordering::SeqCst) && wire.write_all(&[0; 4096]).is_ok() {}
    });
    let pair = Pair::to(target.addr());
    let mut stalled: Vec<Wire> = (0..20).map(|_| pair.connect()).collect();
    for wire in &mut stalled {
        wire.write_all(b"F").unwrap();
        wire.expect_bytes(1);
    }
    let others = round_trips(pair.entrance(), 200);
    println!("beside 20 stalled readers: {}", others.summary());
    quit.store(true, Ordering::SeqCst);
    stalled.into_iter().for_each(Wire::reset);
    target.wait_idle();
    pair.stop();
}
