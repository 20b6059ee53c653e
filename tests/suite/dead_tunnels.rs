//! Warm tunnels that died without a word: a client has another within `-o`, or a reset
//! where something of its was sent.

use std::cell::OnceCell;
use std::io::Write;
use std::time::{Duration, Instant};

use testkit::middleman::Middleman;
use testkit::redis::{Redis, Reply, Resp};
use testkit::way::Way;
use testkit::{Ending, Pair, PairOptions, Target, Wire, eventually};

/// Log message of an encrypt end for each tunnel of its pool.
const READY: &str = "warm tunnel ready";

/// Far less than TCP's own patience, and more than `-o 2s` and a loaded machine.
const SOON: Duration = Duration::from_secs(20);

/// Flags of every end here.
const QUICK: [&str; 4] = ["-o", "2s", "--log-level", "debug"];

/// Starts a pair with a pool of four, over a path that can break.
fn over_a_way(target: &testkit::Addr, args: &[&str]) -> (Pair, Way) {
    let way = OnceCell::new();
    let options = PairOptions::both(&QUICK).encrypt(&["--pool", "4"]).encrypt(args).decrypt(args);
    let pair =
        Pair::start_via(options, target, |far| way.get_or_init(|| Way::to(far)).addr.clone());
    eventually("four are ready", || pair.encrypt.count(READY) >= 4);
    (pair, way.into_inner().unwrap())
}

/// Measures the time that `work` took.
fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// Starts a target that speaks first.
fn greeter() -> Target {
    Target::local(|mut wire, counts| {
        if wire.write_all(b"hello").is_ok() {
            testkit::target::echo(wire, counts);
        }
    })
}

fn greeted(mut client: Wire) {
    assert_eq!(client.expect_bytes(5), b"hello");
}

/// As a NAT that has lost its connections: nothing is acknowledged any more.
#[test]
fn clients_are_served_at_once_where_warm_tunnels_died_without_a_word() {
    let redis = Redis::start();
    for args in [&[][..], &["--heartbeat", "off"]] {
        let (pair, way) = over_a_way(redis.tcp(), args);
        way.vanish();
        // A tunnel that was last heard of so long ago is not trusted, and not given up either.
        std::thread::sleep(Duration::from_millis(2300));
        let took = timed(|| {
            let mut client = Resp::connect(pair.entrance());
            assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".to_owned()));
            // Nothing is risked on tunnels that were not heard of lately, and soon none are left.
            eventually("the pool has found out", || pair.encrypt.count(READY) >= 8);
            for _ in 0..4 {
                let mut client = Resp::connect(pair.entrance());
                assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".to_owned()));
            }
        });
        assert!(took < SOON, "{took:?}");
    }
}

/// A client that waits for a greeting has sent nothing: another tunnel is used, and the old ones
/// are not tried by the clients that follow.
#[test]
fn clients_that_wait_for_a_greeting_get_another_tunnel() {
    let target = greeter();
    let (pair, way) = over_a_way(target.addr(), &[]);
    way.vanish();
    let took = timed(|| (0..4).for_each(|_| greeted(pair.connect())));
    // Each by itself would take twice `-o`.
    assert!(took < SOON / 2, "{took:?}");
    assert!(pair.encrypt.count("warm tunnel was dead; dialing") <= 1);
    assert_eq!(target.counts().accepts(), 4, "none is dialled without a client");
}

/// Bytes that went into a tunnel are never sent again, so their client sees a reset, within `-o`.
#[test]
fn a_client_that_has_sent_something_sees_a_reset_within_the_timeout() {
    let target = Target::echo();
    for args in [&[][..], &["--heartbeat", "off"]] {
        // Where the machine takes seconds for that, they are held back and sent elsewhere.
        assert!((0..5).any(|_| is_reset(&target, args)), "{args:?}: none was ever sent");
    }
}

/// Returns true if the bytes that a client has sent into a dead tunnel ended as a reset; otherwise
/// it got an answer.
fn is_reset(target: &Target, args: &[&str]) -> bool {
    let (pair, way) = over_a_way(target.addr(), args);
    way.vanish();
    let mut client = pair.connect();
    client.write_all(b"request").unwrap();
    client.read_limit(SOON);
    let (bytes, ending) = client.read_to_ending(Duration::from_secs(6));
    if ending != Ending::Reset {
        assert_eq!(bytes, b"request");
        return false;
    }
    assert_eq!(pair.encrypt.wait_closed("peer-vanished").number("received"), Some(0));
    true
}

/// A host on the path answers TCP and swallows the rest. TCP notices nothing; the lack of the far
/// end's heartbeat shows it.
#[test]
fn swallowed_tunnels_cost_one_client_no_more_than_the_timeout() {
    let target = greeter();
    let middle = OnceCell::new();
    let options = PairOptions::both(&QUICK).encrypt(&["--pool", "4"]);
    let pair = Pair::start_via(options, target.addr(), |far| {
        middle.get_or_init(|| Middleman::start(far)).addr().clone()
    });
    let middle = middle.into_inner().unwrap();
    eventually("four are ready", || pair.encrypt.count(READY) >= 4);
    // The Open of tunnels that wait, and all records of a new one but its handshake.
    middle.swallow_from(2);
    let mut unlucky = pair.connect();
    unlucky.write_all(b"request").unwrap();
    unlucky.read_limit(SOON);
    assert_eq!(unlucky.expect_ending(), Ending::Reset);
    pair.encrypt.wait_closed("peer-vanished");
    middle.swallow_nothing();
    let took = timed(|| (0..4).for_each(|_| greeted(pair.connect())));
    assert!(took < SOON, "{took:?}");
}

/// A target that takes longer than a round trip is not dialled twice for that, and a client waits
/// for a session as long as without a pool: the far end says that it is at work.
#[test]
fn a_far_end_that_is_at_work_is_waited_for() {
    let target = Target::echo();
    let options = PairOptions::both(&["-o", "1s", "--log-level", "debug"]);
    let options = options.encrypt(&["--pool", "2"]).decrypt(&["-n", "1"]);
    let pair = Pair::start(options, target.addr());
    eventually("two are ready", || pair.encrypt.count(READY) == 2);
    let mut first = pair.connect();
    first.expect_echo(b"the only session");
    let mut second = pair.connect();
    second.write_all(b"its turn").unwrap();
    // Longer than `-o`, in which it would be given up.
    let (bytes, ending) = second.read_to_ending(Duration::from_millis(2500));
    assert_eq!((bytes, ending), (vec![], Ending::Silent));
    first.finish();
    assert_eq!(first.expect_ending(), Ending::Clean);
    assert_eq!(second.expect_bytes(8), b"its turn");
    assert_eq!(target.counts().accepts(), 2);
    assert_eq!(pair.encrypt.count("warm tunnel was dead; dialing"), 0);
}
