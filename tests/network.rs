//! Peers that vanish without a word are noticed within a minute; peers that are only slow are not
//! cut.
//!
//! A peer vanishes here by a packet filter on its own socket that drops everything that arrives: it
//! acknowledges nothing any more, as a host without power. The scenarios wait for the same minute,
//! side by side.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use testkit::data::{Noise, Sum};
use testkit::proc::{TcpState, tcp_sockets};
use testkit::way::{Way, vanish};
use testkit::{Addr, End, Ending, Line, NEVER, Pair, PairOptions, Target, Wire, eventually};

/// "A vanished peer is noticed within 60 s", and an allowance for a loaded machine.
const NOTICED: Duration = Duration::from_secs(90);

/// Waits until `end` reports one vanished peer, and not much longer than a minute.
#[track_caller]
fn noticed(name: &str, end: &End, reason: &str, since: Instant) {
    let closed = |line: &Line| line.is("closed");
    let left = NOTICED.saturating_sub(since.elapsed());
    let line = end.program.wait_line_within(left, closed).unwrap_or_else(|| {
        panic!("{name}: not noticed within {NOTICED:?}; its log:\n{}", end.program.tail())
    });
    println!("{name}: noticed after {:.1?}", since.elapsed());
    assert!(line.has("reason", reason), "{name}: {}", line.text());
}

/// Opens a session through which a byte has gone both ways.
fn session(pair: &Pair) -> Wire {
    let mut client = pair.connect();
    client.expect_echo(b"x");
    client
}

fn client_vanishes() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let client = session(&pair);
    vanish(&client.socket());
    let since = Instant::now();
    noticed("an idle client", &pair.encrypt, "plain-reset", since);
    pair.decrypt.wait_closed("peer-reset");
    // What follows passes the filter: the client cannot receive even a reset.
    target.wait_idle();
}

fn target_vanishes() {
    let target = Target::local(|mut wire, _| {
        let byte = wire.expect_bytes(1);
        wire.write_all(&byte).unwrap();
        vanish(&wire.socket());
        wire.read_to_ending(NOTICED);
    });
    let pair = Pair::to(target.addr());
    let mut client = session(&pair);
    let since = Instant::now();
    noticed("an idle target", &pair.decrypt, "plain-reset", since);
    pair.encrypt.wait_closed("peer-reset");
    assert_eq!(client.expect_ending(), Ending::Reset);
}

/// Starts a pair with a [`Way`] between its ends.
fn pair_by_way(target: &Addr) -> (Pair, Way) {
    let way = Mutex::new(None);
    let pair = Pair::start_via(PairOptions::default(), target, |sealed| {
        let started = Way::to(sealed);
        let addr = started.addr.clone();
        *way.lock().unwrap() = Some(started);
        addr
    });
    (pair, way.into_inner().unwrap().unwrap())
}

fn decrypt_end_vanishes() {
    let target = Target::echo();
    let (pair, way) = pair_by_way(target.addr());
    let mut client = session(&pair);
    way.vanish();
    let since = Instant::now();
    noticed("an idle decrypt end", &pair.encrypt, "peer-lost", since);
    assert_eq!(client.expect_ending(), Ending::Reset);
}

fn encrypt_end_vanishes() {
    let target = Target::local(|mut wire, _| {
        let byte = wire.expect_bytes(1);
        wire.write_all(&byte).unwrap();
        assert_eq!(wire.read_to_ending(NOTICED), (vec![], Ending::Reset), "at the target");
    });
    let (pair, way) = pair_by_way(target.addr());
    let _client = session(&pair);
    way.vanish();
    let since = Instant::now();
    noticed("an idle encrypt end", &pair.decrypt, "peer-lost", since);
    target.wait_idle();
}

fn client_vanishes_with_data_in_flight() {
    let gone = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&gone);
    let target = Target::local(move |mut wire, _| {
        let byte = wire.expect_bytes(1);
        wire.write_all(&byte).unwrap();
        eventually("the client has vanished", || theirs.load(Ordering::SeqCst));
        wire.write_all(b"is anybody there?").unwrap();
        wire.read_to_ending(NOTICED);
    });
    let pair = Pair::to(target.addr());
    let client = session(&pair);
    vanish(&client.socket());
    gone.store(true, Ordering::SeqCst);
    let since = Instant::now();
    noticed("a client with data in flight", &pair.encrypt, "plain-reset", since);
    pair.decrypt.wait_closed("peer-reset");
}

fn client_vanishes_behind_a_closed_window() {
    let target = flooding_target();
    let pair = Pair::to(target.addr());
    let mut client = pair.connect();
    client.expect_bytes(1);
    wait_stalled(&target);
    vanish(&client.socket());
    let since = Instant::now();
    noticed("a client behind a closed window", &pair.encrypt, "plain-reset", since);
    pair.decrypt.wait_closed("peer-reset");
}

/// More than both ends, both kernels and all sockets in between can hold.
const FLOOD: u64 = 64 * 1024 * 1024;

/// Sends [`FLOOD`] bytes, as fast as they are taken.
fn flooding_target() -> Target {
    Target::local(|mut wire, counts| {
        let mut noise = Noise::new(65);
        let mut piece = vec![0; 64 * 1024];
        while counts.bytes() < FLOOD {
            noise.fill(&mut piece);
            if wire.write_all(&piece).is_err() {
                return;
            }
            counts.add_bytes(piece.len());
        }
    })
}

/// Waits until the target could send nothing for a whole second.
fn wait_stalled(target: &Target) {
    let mut sent = 0;
    eventually("the flood has filled everything", || {
        thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut sent, target.counts().bytes());
        before == sent && sent > 0
    });
    assert!(sent < FLOOD, "the flood was held by the sockets");
}

/// "Keepalive with TCP_USER_TIMEOUT so that a vanished peer is noticed within 60 s", for each peer,
/// in each state of the connection.
#[test]
fn a_vanished_peer_is_noticed_within_a_minute() {
    thread::scope(|scope| {
        for scenario in [
            client_vanishes,
            target_vanishes,
            decrypt_end_vanishes,
            encrypt_end_vanishes,
            client_vanishes_with_data_in_flight,
            client_vanishes_behind_a_closed_window,
        ] {
            scope.spawn(scenario);
        }
    });
}

/// A peer that lives and does not read is not cut, however long it takes: a paused pager, a replica
/// that loads its data.
#[test]
fn a_client_that_stops_reading_for_longer_than_a_minute_is_not_cut() {
    let target = flooding_target();
    let pair = Pair::to(target.addr());
    let mut client = pair.connect();
    let first = client.expect_bytes(1);
    wait_stalled(&target);
    let pause = Instant::now();
    while pause.elapsed() < NOTICED {
        thread::sleep(Duration::from_millis(500));
        for (name, end) in pair.ends() {
            assert_eq!(end.closed().len(), 0, "{name} cut it after {:?}", pause.elapsed());
        }
    }
    let mut sum = Sum::default();
    sum.add(&first);
    client.read_limit(NEVER);
    let mut buffer = vec![0; 64 * 1024];
    while let n @ 1.. = client.read(&mut buffer).unwrap() {
        sum.add(&buffer[..n]);
    }
    assert_eq!((sum.bytes, sum.hex()), (FLOOD, Sum::of_noise(Noise::new(65), FLOOD)));
    drop(client);
    pair.encrypt.wait_closed("finished");
    pair.decrypt.wait_closed("finished");
    pair.stop();
}

/// `-j`: no connection of either end has a keepalive timer, and without it all do.
#[test]
fn keepalive_is_on_everywhere_unless_it_is_switched_off() {
    const KEEPALIVE: u8 = 2;
    let target = Target::echo();
    for (args, timer) in [(&[][..], KEEPALIVE), (&["-j"], 0)] {
        let pair = Pair::start(PairOptions::both(args), target.addr());
        let mut client = session(&pair);
        client.expect_echo(b"and once more");
        for (name, end) in pair.ends() {
            let live = || {
                let mut all = tcp_sockets(end.pid());
                all.retain(|socket| socket.state == TcpState::Established);
                all
            };
            // The look at the far end when a process starts is one more until it has ended.
            eventually(&format!("{name}: a session is two connections"), || live().len() == 2);
            // Right after an exchange retransmission or a delayed ACK may be due instead.
            eventually(&format!("{name} {args:?}: all timers are {timer}"), || {
                live().iter().all(|socket| socket.timer == timer)
            });
        }
        drop(client);
        pair.stop();
    }
}
