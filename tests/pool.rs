//! `--pool`: tunnels that wait for clients, and the fate of clients when they die.

use std::cell::OnceCell;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use knockpipe::proto::inbound::Event;
use knockpipe::proto::message::ResetReason;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::hand::{Acceptor, Hand};
use testkit::middleman::Middleman;
use testkit::wait::eventually_within;
use testkit::{Addr, End, Ending, Launch, Pair, PairOptions, Target, any, eventually, keygen};

/// Longer than an encrypt end waits for an answer.
const LONG: Duration = Duration::from_secs(10);

/// Log message of an encrypt end for each tunnel of its pool.
const READY: &str = "warm tunnel ready";

/// Its log message once the pool lacks something.
const NOT_FULL: &str = "pool below target size; clients dial directly meanwhile";

/// An encrypt end with a pool of one, and the test as its far end.
struct Scene {
    encrypt: End,
    far_end: Acceptor,
    _dir: TempDir,
}

impl Scene {
    fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = keygen(dir.path(), "key");
        let far_end = Acceptor::start(&key);
        let args = [&["--pool", "1", "--log-level", "debug"], args].concat();
        let encrypt = encrypt(&key, &far_end.addr(), &args);
        Self { encrypt, far_end, _dir: dir }
    }

    /// Returns the far end of the tunnel that the next client gets.
    fn accept_warm(&self) -> Hand {
        let ready = self.encrypt.count(READY);
        let hand = self.far_end.accept_warm();
        eventually("it is ready", || self.encrypt.count(READY) > ready);
        hand
    }
}

fn encrypt(key: &Path, to: &Addr, args: &[&str]) -> End {
    Launch::encrypt(key).source(&any()).target(to).args(args).start()
}

/// Starts a pair with an encrypt end that keeps `size` tunnels and logs its actions.
fn pair(size: &str, target: &Target) -> Pair {
    let options = PairOptions::both(&["--log-level", "debug"]).encrypt(&["--pool", size]);
    Pair::start(options, target.addr())
}

/// Waits until `pair`'s decrypt end holds `count` connections and no more.
#[track_caller]
fn wait_warm(decrypt: &End, idle: usize, count: usize) {
    eventually(&format!("{count} warm tunnels"), || decrypt.fds() == idle + count);
}

#[test]
fn a_client_finds_the_tunnel_ready_and_the_next_is_made() {
    let scene = Scene::new(&[]);
    let mut first = scene.accept_warm();
    let mut client = scene.encrypt.connect();
    assert!(matches!(first.hear(), Event::Open(_)), "without a word of the client");
    client.write_all(b"request").unwrap();
    assert!(matches!(first.hear(), Event::Data(_)), "without a word of the far end");
    drop(scene.accept_warm());
}

/// A target sees nothing of a pool, until there is a client.
#[test]
fn a_warm_tunnel_is_no_connection_to_the_target_and_no_session() {
    let target = Target::echo();
    let options = PairOptions::default().encrypt(&["--pool", "5", "--log-level", "debug"]);
    let pair = Pair::start(options.decrypt(&["-n", "1"]), target.addr());
    eventually("five are ready", || pair.encrypt.count(READY) == 5);
    assert_eq!(target.counts().accepts(), 0);
    for _ in 0..20 {
        let mut client = pair.connect();
        client.expect_echo(b"served");
        client.finish();
        assert_eq!(client.expect_ending(), Ending::Clean);
    }
    assert_eq!(target.counts().accepts(), 20);
    eventually("all are told", || pair.decrypt.closed().len() == 20);
    eventually("each that was taken is replaced", || pair.encrypt.count(READY) == 25);
    pair.stop();
}

/// A client is served if a warm tunnel dies in any way before the client has sent something.
#[test]
fn a_client_never_notices_a_tunnel_that_died_before_its_first_byte() {
    type Death = fn(Hand);
    let deaths: [(&str, Death); 5] = [
        ("reset", |hand| hand.into_wire().reset()),
        ("end", |hand| drop(hand.into_wire())),
        ("unopened", |mut hand| hand.reset(ResetReason::Unopened)),
        ("shutdown", |mut hand| hand.reset(ResetReason::Shutdown)),
        ("limit", |mut hand| hand.reset(ResetReason::LimitReached)),
    ];
    for (how, die) in deaths {
        for opened in [false, true] {
            let scene = Scene::new(&[]);
            let mut warm = scene.accept_warm();
            let client = if opened {
                let client = scene.encrypt.connect();
                assert!(matches!(warm.hear(), Event::Open(_)));
                // The pool makes another meanwhile.
                drop(scene.accept_warm().into_wire());
                die(warm);
                client
            } else {
                die(warm);
                scene.encrypt.connect()
            };
            let mut client = client;
            let mut fresh = next_open(&scene.far_end);
            fresh.opened();
            client.write_all(b"request").unwrap();
            assert!(matches!(fresh.hear(), Event::Data(_)), "{how}, opened: {opened}");
        }
    }
}

/// Returns the tunnel that a client gets, among those that the pool makes.
fn next_open(far_end: &Acceptor) -> Hand {
    loop {
        let (hand, first) = far_end.accept_any();
        if matches!(first, Event::Open(_)) {
            return hand;
        }
    }
}

#[test]
fn a_far_end_that_says_nothing_is_dialled_again() {
    let scene = Scene::new(&["-o", "2s"]);
    let mut silent = scene.accept_warm();
    let mut client = scene.encrypt.connect();
    assert!(matches!(silent.hear(), Event::Open(_)));
    let mut fresh = next_open(&scene.far_end);
    client.write_all(b"request").unwrap();
    assert!(matches!(fresh.hear(), Event::Data(_)));
}

/// Bytes that went into a tunnel may have reached the target: they are never sent again.
#[test]
fn a_client_that_has_sent_something_sees_a_reset() {
    let scene = Scene::new(&[]);
    let mut warm = scene.accept_warm();
    let mut client = scene.encrypt.connect();
    client.write_all(b"request").unwrap();
    assert!(matches!(warm.hear(), Event::Open(_)));
    assert!(matches!(warm.hear(), Event::Data(_)));
    warm.into_wire().reset();
    assert_eq!(client.expect_ending(), Ending::Reset);
    // The one of the pool.
    drop(scene.accept_warm());
}

/// A client's end is not passed on as a clean end of data that it never finished.
#[test]
fn a_reset_of_a_client_that_sent_nothing_is_a_reset_at_the_far_end() {
    let scene = Scene::new(&[]);
    let mut warm = scene.accept_warm();
    let client = scene.encrypt.connect();
    assert!(matches!(warm.hear(), Event::Open(_)));
    client.reset();
    assert_eq!(warm.hear(), Event::Reset(ResetReason::PlainReset));
    scene.encrypt.wait_closed("plain-reset");
}

/// A tunnel that was given up is no connection without a client at the target later; its client
/// waits on with another.
#[test]
fn a_tunnel_that_was_given_up_does_not_reach_the_target() {
    let target = Target::echo();
    let options = PairOptions::default().encrypt(&["--pool", "2", "--log-level", "debug"]);
    // With heartbeats the far end would say that it is at work, and none would be given up.
    let options = options.encrypt(&["-o", "1s", "--heartbeat", "off"]).decrypt(&["-n", "1"]);
    let pair = Pair::start(options, target.addr());
    eventually("two are ready", || pair.encrypt.count(READY) == 2);
    let mut first = pair.connect();
    first.expect_echo(b"the only session");
    // It says nothing, its tunnel waits for a slot in vain, and is given up.
    let mut second = pair.connect();
    eventually("it is given up", || pair.encrypt.count("warm tunnel was dead; dialing") == 1);
    pair.decrypt.wait_closed("unopened");
    first.finish();
    assert_eq!(first.expect_ending(), Ending::Clean);
    second.expect_echo(b"its turn");
    assert_eq!(target.counts().accepts(), 2);
}

#[test]
fn what_is_wrong_with_the_target_is_told_and_not_tried_twice() {
    for (told, reason) in [
        (ResetReason::TargetRefused, "target-refused"),
        (ResetReason::NoSuchService, "no-such-service"),
    ] {
        let scene = Scene::new(&[]);
        let mut warm = scene.accept_warm();
        let mut client = scene.encrypt.connect();
        assert!(matches!(warm.hear(), Event::Open(_)));
        warm.reset(told);
        assert_eq!(client.expect_ending(), Ending::Reset);
        let line = scene.encrypt.wait_closed(reason);
        assert!(line.field("detail").is_some_and(|detail| detail.contains("decrypt end")));
        drop(scene.accept_warm());
    }
}

/// Neither end waits for the other at a stop, and neither warns about it.
#[test]
fn unopened_tunnels_do_not_hold_a_stop_up() {
    let target = Target::echo();
    for first in ["encrypt", "decrypt"] {
        let mut pair = pair("3", &target);
        eventually("three are ready", || pair.encrypt.count(READY) == 3);
        let ends = if first == "encrypt" {
            [&mut pair.encrypt, &mut pair.decrypt]
        } else {
            [&mut pair.decrypt, &mut pair.encrypt]
        };
        for end in ends {
            end.program.signal(Signal::SIGTERM);
            assert_eq!(end.program.exit_code(), 0);
        }
        assert_eq!(pair.decrypt.count("refused"), 0, "{}", pair.decrypt.program.stderr());
    }
}

#[test]
fn a_pool_is_full_again_after_the_far_end_was_away() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let start = |at: &Addr| Launch::decrypt(&key).source(at).target(target.addr()).start();
    let address = {
        let decrypt = start(&any());
        decrypt.addr().clone()
    };
    let encrypt = encrypt(&key, &address, &["--pool", "4"]);
    let full = "pool back at target size";
    let not_full = "pool below target size; clients dial directly meanwhile";
    encrypt.program.wait_line(not_full, |line| line.is(not_full));
    // A client is reset as ever.
    assert_eq!(encrypt.connect().expect_ending(), Ending::Reset);
    let mut decrypt = start(&address);
    for round in 1..=3 {
        // Not always the first: nothing is answered that may be from before the start of the far
        // end.
        eventually("a client gets through", || encrypt.connect().echoes(b"hello", LONG));
        eventually("the pool is full again", || encrypt.count(full) == round);
        decrypt.program.signal(Signal::SIGKILL);
        decrypt.program.wait();
        drop(decrypt);
        decrypt = start(&address);
    }
    // Each is logged once, and then the other: the first loss, and one in each round.
    let log = encrypt.program.log();
    let told = log.iter().filter(|line| line.is(full) || line.is(not_full));
    let told: Vec<bool> = told.map(|line| line.is(full)).collect();
    assert!(!told[0] && told.windows(2).all(|two| two[0] != two[1]), "{told:?}");
    assert!(told.iter().filter(|is_full| !**is_full).count() <= 4, "{told:?}");
}

/// `docs/PROTOCOL.md`, 6.1: "A record that does not open, or one out of place: Reset 7 is sent",
/// also on a tunnel that has no client yet, and the log has the true reason.
#[test]
fn a_record_that_does_not_open_or_is_out_of_place_is_answered_on_a_warm_tunnel_too() {
    type Say = fn(&mut Hand);
    let cases: [(Say, &str); 4] = [
        (Hand::opened, "protocol-error"),
        (|hand| hand.data(b"unasked"), "protocol-error"),
        (Hand::fin, "protocol-error"),
        (Hand::garbage, "bad-record"),
    ];
    let harmed = "warm tunnel broken";
    for (say, reason) in cases {
        let scene = Scene::new(&[]);
        let mut warm = scene.accept_warm();
        say(&mut warm);
        assert_eq!(warm.hear(), Event::Reset(ResetReason::ProtocolError), "{reason}");
        let line = scene.encrypt.program.wait_line(harmed, |line| line.is(harmed));
        assert!(line.has("reason", reason), "{}", line.text());
    }
    // A client has asked for the target: it gets another tunnel.
    let scene = Scene::new(&[]);
    let mut warm = scene.accept_warm();
    let mut client = scene.encrypt.connect();
    assert!(matches!(warm.hear(), Event::Open(_)));
    warm.garbage();
    assert_eq!(warm.hear(), Event::Reset(ResetReason::ProtocolError));
    let mut fresh = next_open(&scene.far_end);
    client.write_all(b"request").unwrap();
    assert!(matches!(fresh.hear(), Event::Data(_)));
    let line = scene.encrypt.program.wait_line(harmed, |line| line.is(harmed));
    assert!(line.has("reason", "bad-record"), "{}", line.text());
}

/// A far end that stops, reloads its files, or keeps no tunnel for so long: that is no failure, and
/// another takes the place.
#[test]
fn a_far_end_that_lets_a_tunnel_go_and_says_so_has_not_failed() {
    let scene = Scene::new(&[]);
    for reason in [ResetReason::Shutdown, ResetReason::Unopened, ResetReason::Shutdown] {
        let mut warm = scene.accept_warm();
        warm.reset(reason);
    }
    drop(scene.accept_warm());
    scene.encrypt.program.wait_line(NOT_FULL, |line| line.is(NOT_FULL));
    let lines = scene.encrypt.program.log();
    let reasons: Vec<_> = lines.iter().filter(|line| line.is(NOT_FULL)).collect();
    // Not they, but the last one, which hung up without a word.
    assert!(reasons.len() == 1 && reasons[0].has("reason", "truncated"), "{reasons:?}");
}

/// An end that stops while a tunnel is being made finishes it, and says that it is not wanted:
/// broken off, it would count as a stranger at the far end.
#[test]
fn a_tunnel_that_is_being_made_at_a_stop_is_let_go_and_not_broken_off() {
    let mut scene = Scene::new(&[]);
    let (mut hand, first) = scene.far_end.accept_after(|| {
        scene.encrypt.terminate();
        scene.encrypt.wait_refusing();
    });
    assert_eq!(first, Event::Confirmed);
    assert_eq!(hand.hear(), Event::Reset(ResetReason::Unopened));
    assert_eq!(scene.encrypt.program.exit_code(), 0);
}

/// A far end that keeps fewer is neither hammered nor warned about for ever.
#[test]
fn a_pool_settles_for_what_the_far_end_keeps() {
    let target = Target::echo();
    let idle = Pair::to(target.addr()).decrypt.fds();
    let options = PairOptions::default().encrypt(&["--pool", "6"]);
    let middle = OnceCell::new();
    let pair = Pair::start_via(options.decrypt(&["--max-unopened", "2"]), target.addr(), |far| {
        middle.get_or_init(|| Middleman::start(far)).addr().clone()
    });
    let middle = middle.into_inner().unwrap();
    let line =
        pair.encrypt.program.wait_line("not full", |line| line.has("reason", "limit-reached"));
    assert!(line.field("detail").unwrap().contains("--max-unopened"), "{line:?}");
    wait_warm(&pair.decrypt, idle, 2);
    for _ in 0..5 {
        pair.connect().expect_echo(b"served");
    }
    wait_warm(&pair.decrypt, idle, 2);
    assert_eq!(pair.encrypt.count("pool below target size; clients dial directly meanwhile"), 1);
    println!("{} connections for 5 clients", middle.connections());
    assert!(middle.connections() < 40, "{}", middle.connections());
}

/// For longer than the far end keeps an unopened tunnel: all are replaced before.
#[test]
fn tunnels_are_renewed_before_the_far_end_ends_them() {
    let target = Target::echo();
    let options = PairOptions::both(&["--log-level", "debug"]).encrypt(&["--pool", "4"]);
    let middle = OnceCell::new();
    let pair = Pair::start_via(options, target.addr(), |far| {
        middle.get_or_init(|| Middleman::start(far)).addr().clone()
    });
    let middle = middle.into_inner().unwrap();
    eventually("the pool is full", || middle.live() == 4);
    let renewed = |line: &testkit::Line| line.is("unopened tunnel ended");
    eventually_within(Duration::from_secs(90), "all four are renewed", || {
        pair.decrypt.program.log().iter().filter(|line| renewed(line)).count() == 4
    });
    eventually("the old ones are gone", || middle.live() == 4);
    assert_eq!(middle.connections(), 8);
    assert_eq!(pair.encrypt.count("no warm tunnel"), 0, "{}", pair.encrypt.program.stderr());
    assert_eq!(target.counts().accepts(), 0);
    pair.connect().expect_echo(b"served");
}
