//! Limits of sessions, sources and descriptors, in running processes: a peer within them is served,
//! any other waits or is told why, and all of it ends.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use knockpipe::proto::inbound::Event;
use knockpipe::proto::message::ResetReason;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::admin::Admin;
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::hand::Hand;
use testkit::legit::{round_trip, round_trips};
use testkit::program::require;
use testkit::wait::poll;
use testkit::{
    End, Ending, Launch, NEVER, Pair, PairOptions, Program, Target, Wire, any, binary, eventually,
    keygen, proc,
};

/// Another address of this machine.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

// === -n at the decrypt end ===

/// `-n 1` and six clients at once: each gets its turn when the one before it has ended, however
/// long that takes, and none is lost. Both deadlines (`-o`) at the decrypt end pass while they
/// wait.
#[test]
fn proven_dialers_wait_for_a_slot_and_none_is_lost() {
    const CLIENTS: usize = 6;
    let target = Target::echo();
    let options = PairOptions::default().decrypt(&["-n", "1", "-o", "500ms"]);
    let pair = Pair::start(options.encrypt(&["-o", "60s"]), target.addr());
    let mut waiting: Vec<Wire> = (0..CLIENTS).map(|_| pair.connect()).collect();
    for client in &mut waiting {
        client.write_all(b"x").unwrap();
    }
    for turn in 1..=CLIENTS {
        let served = first_echo(&mut waiting);
        // Longer than the deadline of a handshake, with its random part.
        thread::sleep(Duration::from_millis(700));
        for other in &mut waiting {
            assert!(!has_byte(other), "two sessions of one");
        }
        assert_eq!(target.counts().accepts(), turn as u64);
        drop(served);
    }
    for (name, end) in pair.ends() {
        let served = || end.closed().iter().filter(|line| line.has("reason", "finished")).count();
        eventually(&format!("{name}: all have ended well"), || served() == CLIENTS);
        assert_eq!((end.closed().len(), end.strangers()), (CLIENTS, 0), "{name}");
    }
    eventually("one all-clear", || pair.decrypt.count("below session limit again") == 1);
    assert_eq!(pair.decrypt.count("session limit reached"), 1, "one warning");
    round_trip(pair.entrance());
    pair.stop();
}

/// Takes out the client that has its byte first.
#[track_caller]
fn first_echo(waiting: &mut Vec<Wire>) -> Wire {
    let served = poll(NEVER, || waiting.iter_mut().position(has_byte));
    waiting.remove(served.expect("none is served"))
}

fn has_byte(wire: &mut Wire) -> bool {
    wire.read_limit(Duration::from_millis(1));
    match wire.read(&mut [0]) {
        Ok(1) => true,
        Ok(_) => panic!("a client lost its place"),
        Err(e) => {
            let kind = e.kind();
            assert_eq!(kind, std::io::ErrorKind::WouldBlock, "a client lost its place");
            false
        }
    }
}

/// Dialers that were accepted before the last slot was taken wait for one too, and that is worth
/// the same warning, although no other comes.
#[test]
fn a_proven_dialer_that_waits_for_a_slot_is_warned_of() {
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
    let mut decrypt = launch.args(["-n", "1"]).start();
    let mut first = Hand::dial(decrypt.addr(), &key);
    let mut second = Hand::dial(decrypt.addr(), &key);
    first.open();
    assert_eq!(first.hear(), Event::Opened);
    second.open();
    eventually("one warning", || decrypt.count("session limit reached") == 1);
    assert_eq!(target.counts().accepts(), 1);
    first.reset(ResetReason::PlainReset);
    assert_eq!(second.hear(), Event::Opened, "its turn has come");
    second.reset(ResetReason::PlainReset);
    eventually("one all-clear", || decrypt.count("below session limit again") == 1);
    assert_eq!(decrypt.count("session limit reached"), 1);
    decrypt.stop();
}

/// "Capacity does not show": with all sessions taken a stranger is accepted, held in
/// silence, and reset at the deadline, as at any other time.
#[test]
fn strangers_see_the_same_when_all_sessions_are_taken() {
    let target = Target::echo();
    let options = PairOptions::default().decrypt(&["-n", "1", "-o", "1s"]);
    let pair = Pair::start(options.encrypt(&["-o", "60s"]), target.addr());
    let mut client = pair.connect();
    client.expect_echo(b"the only session");
    // One dialer waits for it, too.
    let mut waiting = pair.connect();
    waiting.write_all(b"x").unwrap();
    eventually("it waits", || pair.decrypt.count("session limit reached") == 1);
    for finishes in [false, true] {
        let mut strangers: Vec<Wire> = (0..3).map(|_| pair.decrypt.connect()).collect();
        for wire in &mut strangers {
            wire.write_all(b"who knocks?").unwrap();
            if finishes {
                wire.finish();
            }
        }
        let start = Instant::now();
        for wire in &mut strangers {
            assert_eq!(wire.expect_ending(), Ending::Reset);
        }
        assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    }
    assert!(!has_byte(&mut waiting));
    drop(client);
    assert_eq!(waiting.expect_bytes(1), b"x");
    drop(waiting);
    pair.stop();
}

/// Half as many dialers as `--max-handshakes` wait for a session; one that comes then is told at
/// once that the limit is reached. Those that hang up while they wait make room.
#[test]
fn more_than_may_wait_for_a_session_are_told_so() {
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
    let mut decrypt = launch.args(["-n", "1", "--max-handshakes", "8"]).start();
    let open = || {
        let mut hand = Hand::dial(decrypt.addr(), &key);
        hand.open();
        hand
    };
    let mut served = open();
    assert_eq!(served.hear(), Event::Opened);
    let is_told = |hand: Hand| {
        let (bytes, _) = hand.into_wire().read_to_ending(Duration::from_millis(500));
        !bytes.is_empty()
    };
    let mut waiting: Vec<Hand> = (0..4).map(|_| open()).collect();
    eventually("a fifth is told", || is_told(open()));
    let mut fifth = open();
    assert_eq!(fifth.hear(), Event::Reset(ResetReason::LimitReached));
    decrypt.wait_closed("limit-reached");
    // Strangers displace none of those that wait.
    let strangers: Vec<Wire> = (0..40).map(|_| decrypt.connect()).collect();
    decrypt.wait_refused("evicted");
    drop(waiting.pop());
    let mut late = {
        let mut late = None;
        eventually("one who hung up makes room", || {
            let mut hand = open();
            hand.wire().read_limit(Duration::from_millis(500));
            let kind = hand.wire().read(&mut [0]).map_err(|error| error.kind());
            let waits = matches!(kind, Err(std::io::ErrorKind::WouldBlock));
            if waits {
                late = Some(hand);
            }
            waits
        });
        late.unwrap()
    };
    served.reset(ResetReason::PlainReset);
    for hand in waiting.iter_mut().chain([&mut late]) {
        assert_eq!(hand.hear(), Event::Opened, "each has its turn");
        hand.reset(ResetReason::PlainReset);
    }
    drop(strangers);
    decrypt.stop();
}

// === --max-per-source ===

/// A decrypt end with this `--max-per-source`, an echo behind it, and encrypt ends from any
/// address.
struct Gate {
    decrypt: End,
    target: Target,
    key: PathBuf,
    _dir: TempDir,
}

impl Gate {
    fn new(per_source: &str) -> Self {
        let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
        let key = keygen(dir.path(), "key");
        let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
        let decrypt = launch.args(["-o", "600s", "--max-per-source", per_source]).start();
        Self { decrypt, target, key, _dir: dir }
    }

    fn encrypt_from(&self, from: &str) -> End {
        let launch = Launch::encrypt(&self.key).source(&any()).target(self.decrypt.addr());
        launch.args(["-b", from]).start()
    }
}

/// "Strangers cannot take the sessions' places", also not those of their own source: two silent
/// ones where a source may have two sessions.
#[test]
fn strangers_do_not_lock_a_legitimate_end_of_their_source_out() {
    let gate = Gate::new("2");
    let _strangers = [gate.decrypt.connect(), gate.decrypt.connect()];
    let encrypt = gate.encrypt_from("127.0.0.1");
    let mut clients = [encrypt.connect(), encrypt.connect()];
    for client in &mut clients {
        client.expect_echo(b"in spite of the strangers");
    }
    assert_eq!(gate.decrypt.refused("source-limit"), 0);
}

/// "Per-source limit of sessions": one too many is refused and both ends say why,
/// other sources go on, and the place of a session that has ended is free.
#[test]
fn a_source_has_as_many_sessions_as_it_may_have() {
    let gate = Gate::new("2");
    let encrypt = gate.encrypt_from("127.0.0.1");
    let mut first = encrypt.connect();
    let mut second = encrypt.connect();
    first.expect_echo(b"first");
    second.expect_echo(b"second");

    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset, "a third of two");
    let line = gate.decrypt.wait_closed("source-limit");
    assert!(line.field("detail").is_some(), "no remedy: {}", line.text());
    // The text of Reset 6; its reason stands in the decrypt end's log.
    encrypt.wait_closed("limit-reached");
    assert_eq!(gate.target.counts().accepts(), 2);

    let other = gate.encrypt_from("127.0.0.2");
    let mut elsewhere = other.connect();
    elsewhere.expect_echo(b"another source");
    first.expect_echo(b"and the first goes on");

    drop(second);
    gate.decrypt.wait_closed("finished");
    encrypt.connect().expect_echo(b"its place is free");
    first.expect_echo(b"to the end");
}

/// The same at the encrypt end, where clients are sessions from the start.
#[test]
fn a_client_has_as_many_sessions_as_it_may_have() {
    let target = Target::echo();
    let options = PairOptions::default().encrypt(&["--max-per-source", "2"]);
    let pair = Pair::start(options, target.addr());
    let mut first = pair.connect();
    let mut second = pair.connect();
    first.expect_echo(b"first");
    second.expect_echo(b"second");
    assert_eq!(pair.connect().expect_ending(), Ending::Reset, "a third of two");
    pair.encrypt.wait_refused("source-limit");
    let mut elsewhere = Wire::connect_from(OTHER, pair.entrance()).unwrap();
    elsewhere.expect_echo(b"another source");
    first.expect_echo(b"and the first goes on");
    drop(second);
    pair.encrypt.wait_closed("finished");
    pair.connect().expect_echo(b"its place is free");
    assert_eq!(target.counts().accepts(), 4);
}

/// "... and of handshakes per second": of a burst as many pass as a second allows,
/// and those that come later pass again.
#[test]
fn a_source_connects_as_often_as_it_may_at_the_decrypt_end() {
    let mut gate = Gate::new("100/5");
    let start = Instant::now();
    let mut burst: Vec<Wire> = (0..40).map(|_| gate.decrypt.connect()).collect();
    let refused = refused_of(&mut burst, start);
    let encrypt = gate.encrypt_from("127.0.0.1");
    let elsewhere = gate.encrypt_from("127.0.0.2");
    elsewhere.connect().expect_echo(b"another source has its own second");
    eventually("the next second allows more", || encrypt.connect().echoes(b"later", NEVER));
    drop(burst);
    gate.decrypt.stop();
    let counted = gate.decrypt.refused("source-limit");
    assert!(counted >= refused, "{counted} of at least {refused} are in the log");
}

/// Clients of an encrypt end are limited alike.
#[test]
fn a_client_connects_as_often_as_it_may() {
    let target = Target::echo();
    let options = PairOptions::default().encrypt(&["--max-per-source", "100/5"]);
    let mut pair = Pair::start(options, target.addr());
    let start = Instant::now();
    let mut burst: Vec<Wire> = (0..40).map(|_| pair.connect()).collect();
    refused_of(&mut burst, start);
    for client in &mut burst {
        client.expect_echo(b"within the limit");
    }
    let mut elsewhere = Wire::connect_from(OTHER, pair.entrance()).unwrap();
    elsewhere.expect_echo(b"another source has its own second");
    eventually("the next second allows more", || pair.connect().echoes(b"later", NEVER));
    let passed = pair.encrypt.closed().len() as u64;
    drop((burst, elsewhere));
    pair.encrypt.stop();
    let (closed, refused) = (pair.encrypt.closed().len() as u64, pair.encrypt.strangers());
    assert_eq!(closed, target.counts().accepts(), "all that passed were served ({passed} before)");
    assert_eq!(refused, pair.encrypt.refused("source-limit"));
    assert!(refused >= 1, "the burst was within the limit");
    pair.decrypt.stop();
}

/// Keeps those of `burst` that were not reset, and returns their number. At a rate of 5 at least 5
/// must have passed, and at most 5 more for each second since `start`.
#[track_caller]
fn refused_of(burst: &mut Vec<Wire>, start: Instant) -> u64 {
    let all = burst.len();
    // A refusal comes at once: the last one is there when all have been accepted.
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let most = 5 + 5 * seconds;
    eventually("those beyond the rate are reset", || {
        burst.retain_mut(|wire| match wire.read_to_ending(Duration::from_millis(1)) {
            (bytes, Ending::Silent) => bytes.is_empty(),
            (bytes, ending) => {
                assert_eq!((bytes.len(), ending), (0, Ending::Reset), "a byte for an answer");
                false
            }
        });
        burst.len() <= most
    });
    assert!(burst.len() >= 5, "only {} of a burst passed", burst.len());
    println!("{} of {all} passed at 5 a second", burst.len());
    (all - burst.len()) as u64
}

// === descriptors that really run out ===

/// Sets the soft limit of descriptors of a running process.
#[track_caller]
fn limit_descriptors(end: &End, limit: usize) {
    require("prlimit", "util-linux");
    let mut command = Command::new("prlimit");
    command.args(["--pid", &end.pid().to_string(), &format!("--nofile={limit}:")]);
    assert!(command.status().unwrap().success(), "prlimit cannot limit a child of ours");
}

/// Takes all descriptors away from `end` while 100 clients knock, checks that it bears it, gives
/// them back, and waits until `admitted`.
fn starve(name: &str, end: &mut End, working: &mut Wire, admitted: impl Fn() -> bool) {
    const SPAN: Duration = Duration::from_secs(4);
    let plenty = 4096;
    // Fewer than it has open: every new descriptor is refused with EMFILE.
    limit_descriptors(end, end.fds() - 2);
    let held: Vec<Wire> = (0..100).map(|_| end.connect()).collect();
    end.program.wait_line("cannot accept", |line| line.message().starts_with("cannot accept"));
    let (before, start) = (proc::cpu(end.pid()), Instant::now());
    while start.elapsed() < SPAN {
        working.expect_echo(b"the live session does not notice");
        thread::sleep(Duration::from_millis(200));
    }
    // CPU time is a property of the process: a loaded machine does not add to it.
    let (spent, passed) = (proc::cpu(end.pid()) - before, start.elapsed());
    let percent = spent.as_secs_f64() / passed.as_secs_f64() * 100.0;
    println!("{name}, no descriptor left, 100 knocking: {percent:.1} % CPU");
    assert!(percent < 5.0, "{name} spins: {percent:.1} % CPU");
    assert!(end.program.is_running(), "{name} died:\n{}", end.program.tail());
    assert_eq!(end.count("cannot accept"), 1, "one warning:\n{}", end.program.tail());

    limit_descriptors(end, plenty);
    let start = Instant::now();
    eventually("a newcomer is served", &admitted);
    println!("{name} serves again after {:.1?}", start.elapsed());
    // Reported once it has gone well for a while, so a client has to come by then.
    eventually("it says that it is over", || admitted() && end.count("accepting again") == 1);
    drop(held);
    working.expect_echo(b"to the end");
    assert_eq!(end.count("cannot accept"), 1, "and never again:\n{}", end.program.tail());
}

/// "EMFILE on accept: back off, stay alive, keep live sessions moving, recover by itself", at the
/// decrypt end, with strangers knocking. The lack of a descriptor for its checks says nothing about
/// the target.
#[test]
fn a_decrypt_end_without_a_descriptor_left_backs_off_and_recovers() {
    let target = Target::echo();
    let args = ["-o", "600s", "--check", "tcp/1s"];
    let mut pair = Pair::start(PairOptions::default().decrypt(&args), target.addr());
    let entrance = pair.entrance().clone();
    let mut working = pair.connect();
    working.expect_echo(b"before");
    starve("decrypt", &mut pair.decrypt, &mut working, || {
        Wire::connect(&entrance).unwrap().echoes(b"let me in", NEVER)
    });
    assert_eq!(pair.decrypt.count("target is down"), 0, "{}", pair.decrypt.program.tail());
    drop(working);
    pair.stop();
}

/// The same test at the encrypt end, with clients knocking: they are held by the backlog meanwhile,
/// and served afterwards.
#[test]
fn an_encrypt_end_without_a_descriptor_left_backs_off_and_recovers() {
    let target = Target::echo();
    let mut pair = Pair::to(target.addr());
    let entrance = pair.entrance().clone();
    let mut working = pair.connect();
    working.expect_echo(b"before");
    starve("encrypt", &mut pair.encrypt, &mut working, || {
        Wire::connect(&entrance).unwrap().echoes(b"let me in", NEVER)
    });
    drop(working);
    target.wait_idle();
    round_trips(pair.entrance(), 10);
    // The one that worked, the 100 that knocked, those that tried, and these.
    assert!(target.counts().accepts() > 111, "{} were served", target.counts().accepts());
    pair.stop();
}

// === shares of several tunnels ===

/// A tunnel that a reload adds takes descriptors of the present one. That one's pool shrinks, and
/// grows again when they are back.
#[test]
fn a_share_that_changes_reaches_the_pool_of_a_tunnel_that_does_not() {
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    keygen(dir.path(), "key");
    let table = decrypt_table("far", target.addr(), "\"key\"", "max-unopened = 200");
    let mut far = Service::start(dir.path(), "far.toml", &table);
    let of = |name: &str, more: &str| {
        encrypt_table(name, &far.addr("far"), "\"key\"", &format!("max-sessions = 10\n{more}"))
    };
    let admin = Admin(dir.path().join("admin"));
    let process = format!("[process]\nlog-format = \"json\"\nadmin = {:?}\n", admin.0);
    let (file, alone) = (dir.path().join("near.toml"), of("near", "pool = 40"));
    // The other asks for more than there is, and gets an equal part.
    let both = alone.clone() + &of("other", "").replace("= 10\n", "= 1000\n");
    fs::write(&file, process.clone() + &alone).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 512; exec \"$0\" \"$@\""]).arg(binary());
    command.args(["run", "-c"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
    let mut near = Program::spawn("near", &mut command);
    near.wait_line("ready", |line| line.is("ready"));
    let pool = || {
        let status = admin.status();
        let tunnels = status["tunnels"].as_array().unwrap();
        let pool = tunnels.iter().find(|tunnel| tunnel["name"] == "near").unwrap()["pool"].clone();
        (pool["warm"].as_u64().unwrap(), pool["size"].as_u64().unwrap())
    };
    eventually("the pool is full", || pool() == (40, 40));

    fs::write(&file, process.clone() + &both).unwrap();
    assert!(admin.says(0, &["reload"]).contains("1 the same"));
    let few = near.wait_line("too few", |line| line.message().ends_with("for the pool"));
    assert!(few.has("tunnel", "near"), "{}", few.text());
    let size = few.number("unopened").unwrap();
    assert!(size < 40 && pool().1 == size, "{}", few.text());
    eventually("what is too many is let go", || pool() == (size, size));

    fs::write(&file, process + &alone).unwrap();
    admin.says(0, &["reload"]);
    eventually("the pool is full again", || pool() == (40, 40));
    near.signal(Signal::SIGTERM);
    assert_eq!(near.exit_code(), 0, "{}", near.tail());
    far.stop();
}
