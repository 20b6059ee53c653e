//! Many connections that come and go, politely or not: nothing is left over.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::data::Noise;
use testkit::target::echo;
use testkit::{Kind, NEVER, Pair, PairOptions, Target, Wire, eventually, proc};

/// Memory that an end may hold in addition afterwards, in KiB.
const GROWTH_KIB: u64 = 8 * 1024;

/// "100,000 short connections: no descriptor, task or memory left
/// over". A task that was left over would keep its session's descriptors, its slot
/// of `-n`, or the drain at the end from finishing.
#[test]
fn a_hundred_thousand_short_connections_leave_nothing_behind() {
    const WARM_UP: usize = 2000;
    const CONNECTIONS: usize = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let target = Target::serve(&Kind::Unix.fresh(dir.path(), "target.sock"), echo);
    // Unix sockets on the plain sides: half a million TCP connections in a minute
    // would run out of ports before anything else.
    let options = PairOptions::both(&["--drain", "20s"]).source(Kind::Unix);
    let mut pair = Pair::start(options, target.addr());
    short_connections(&pair, WARM_UP);
    settled(&pair, &target, WARM_UP);
    let baseline =
        pair.ends().map(|(_, end)| (end.fds(), proc::threads(end.pid()), proc::rss_kib(end.pid())));
    let start = Instant::now();
    short_connections(&pair, CONNECTIONS);
    println!("{CONNECTIONS} short connections in {:.1?}", start.elapsed());
    settled(&pair, &target, WARM_UP + CONNECTIONS);
    assert_eq!(target.counts().accepts(), (WARM_UP + CONNECTIONS) as u64);
    for ((name, end), (fds, threads, rss)) in pair.ends().into_iter().zip(baseline) {
        end.wait_fds(fds);
        eventually("threads return", || proc::threads(end.pid()) <= threads);
        let now = proc::rss_kib(end.pid());
        println!("{name}: RSS {rss} -> {now} KiB");
        assert!(now <= rss + GROWTH_KIB, "{name} grew from {rss} to {now} KiB");
    }
    pair.encrypt.stop();
    pair.decrypt.stop();
    for (name, end) in pair.ends() {
        let finished = end.closed().iter().filter(|line| line.has("reason", "finished")).count();
        assert_eq!(finished, WARM_UP + CONNECTIONS, "{name}: one line each");
    }
}

/// Connects, exchanges a few bytes and closes, `count` times, on a few threads.
fn short_connections(pair: &Pair, count: usize) {
    const THREADS: usize = 8;
    let left = AtomicUsize::new(count);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let mut wire = pair.connect();
                    wire.expect_echo(b"sixteen bytes...");
                    wire.finish();
                    // Until the far side has finished too, so that no reset is provoked.
                    wire.expect_ending();
                }
            });
        }
    });
}

/// Waits until both ends have logged the end of all sessions.
fn settled(pair: &Pair, target: &Target, sessions: usize) {
    target.wait_idle();
    for (name, end) in pair.ends() {
        let what = format!("{name} has {sessions} closed lines");
        eventually(&what, || end.program.count_containing(b"\"closed\"") >= sessions);
    }
}

/// "-n 4, 12 threads x 300 iterations of reset or abandon: afterwards
/// exactly 4 usable".
#[test]
fn after_thousands_of_abandoned_sessions_exactly_four_of_four_slots_are_usable() {
    let target = Target::echo();
    let pair = Pair::start(PairOptions::default().encrypt(&["-n", "4"]), target.addr());
    thread::scope(|scope| {
        for seed in 0..12 {
            let pair = &pair;
            scope.spawn(move || {
                let mut noise = Noise::new(seed + 1);
                for _ in 0..300 {
                    abandon(pair.connect(), noise.below(6));
                }
            });
        }
    });
    target.wait_idle();
    let mut four: Vec<Wire> = (0..4).map(|_| pair.connect()).collect();
    for wire in &mut four {
        wire.expect_echo(b"a slot of its own");
    }
    let mut fifth = pair.connect();
    assert!(!fifth.echoes(b"is there a fifth", Duration::from_millis(500)), "a fifth of four");
    drop(four.pop());
    assert_eq!(fifth.expect_bytes(16), b"is there a fifth");
    drop((four, fifth));
    pair.stop();
}

/// Leaves a session in one of six bad ways.
fn abandon(mut wire: Wire, way: usize) {
    match way {
        0 => wire.reset(),
        1 => drop(wire),
        2 => {
            let _ = wire.write_all(&[1; 100]);
            wire.reset();
        }
        3 => {
            // Unread answers turn the close into a reset.
            let _ = wire.write_all(&[2; 100_000]);
            drop(wire);
        }
        4 => {
            let _ = wire.write_all(b"hello");
            wire.read_limit(NEVER);
            let _ = wire.read(&mut [0; 1]);
            wire.reset();
        }
        _ => {
            wire.finish();
            wire.read_limit(NEVER);
            let _ = wire.read(&mut [0; 1]);
        }
    }
}

/// The target is as impolite: it resets, or closes without reading.
#[test]
fn targets_that_reset_or_close_early_leave_nothing_behind() {
    let turn = Arc::new(AtomicUsize::new(0));
    let target = Target::local(move |mut wire, _| match turn.fetch_add(1, Ordering::SeqCst) % 4 {
        0 => wire.reset(),
        1 => drop(wire),
        2 => {
            wire.read_limit(NEVER);
            let _ = wire.read(&mut [0; 1]);
            wire.reset();
        }
        _ => {
            let _ = wire.write_all(b"good bye");
            drop(wire);
        }
    });
    let pair = Pair::to(target.addr());
    let visit = |pair: &Pair| {
        let mut wire = pair.connect();
        let _ = wire.write_all(&[3; 1000]);
        let (_, ending) = wire.read_to_ending(NEVER);
        assert_ne!(ending, testkit::Ending::Silent, "the session does not end");
    };
    visit(&pair);
    let baseline = pair.ends().map(|(_, end)| end.fds());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| visit(&pair)));
        }
    });
    for ((_, end), fds) in pair.ends().into_iter().zip(baseline) {
        end.wait_fds(fds);
    }
    pair.stop();
}

/// "1,000 half-closed then abandoned sessions: all reaped".
#[test]
fn a_thousand_sessions_that_are_half_closed_and_then_abandoned_are_reaped() {
    const EACH: usize = 500;
    // Answers when the client has finished; by then the client is gone.
    let late = Target::local(|mut wire, _| {
        let (request, _) = wire.read_to_ending(NEVER);
        let _ = wire.write_all(&request);
    });
    // Finishes first and reads on.
    let early = Target::local(|mut wire, _| {
        let _ = wire.write_all(b"good bye");
        wire.finish();
        wire.read_to_ending(NEVER);
    });
    for (name, target) in [("client first", &late), ("target first", &early)] {
        let pair = Pair::to(target.addr());
        let mut polite = pair.connect();
        polite.finish();
        polite.read_to_ending(NEVER);
        target.wait_idle();
        pair.encrypt.wait_closed("finished");
        let baseline = pair.ends().map(|(_, end)| end.fds());
        let mut abandoned = Vec::new();
        for _ in 0..EACH {
            let mut wire = pair.connect();
            wire.write_all(&[4; 2000]).unwrap();
            if name == "client first" {
                wire.finish();
            } else {
                wire.expect_bytes(8);
            }
            abandoned.push(wire);
        }
        for (i, wire) in abandoned.into_iter().enumerate() {
            if i % 2 == 0 { wire.reset() } else { drop(wire) }
        }
        target.wait_idle();
        for ((_, end), fds) in pair.ends().into_iter().zip(baseline) {
            end.wait_fds(fds);
        }
        pair.stop();
    }
}
