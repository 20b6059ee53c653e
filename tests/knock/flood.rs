//! A flood of noise from many sources: sessions go on, memory stays, and a right knock among it is
//! granted.

use std::time::{Duration, Instant};

use testkit::flood::{Flood, Size};
use testkit::proc::rss_kib;
use testkit::wait::poll;
use testkit::{Addr, End, Ending, NEVER};

use crate::world::{PEER, World, entrance, live};

/// Beyond what the kernel's queue holds, so that knocks get lost.
const SIZE: Size = Size { sources: 60_000, per_second: 200_000 };

/// Datagrams in all: of ten seconds, or of longer where the machine sends fewer in a second.
const FLOOD: u64 = 10 * SIZE.per_second as u64;

/// Time in which even a slow machine sends them: reaching it means that it hangs.
const HANGS: Duration = Duration::from_secs(300);

/// Growth of the memory that is none.
const FLAT_KIB: u64 = 16 * 1024;

#[test]
fn a_flood_from_many_sources_keeps_out_no_knock_and_ends_no_session() {
    let world = World::new();
    let end = world.decrypt(&["--knock"]);
    let client = world.encrypt(PEER, &end);
    world.knock(PEER, &end);
    let mut session = live(&client);
    let flood = Flood::start(&world.net, entrance(&end, PEER).tcp(), SIZE);
    // Every source was there.
    let all = u64::from(SIZE.sources) * Flood::ROW;
    poll(HANGS, || (flood.sent() > all).then_some(())).expect("it begins");
    let before = rss_kib(end.pid());
    let begun = Instant::now();
    let (mut slowest, mut trips, mut let_in) = (Duration::ZERO, 0, 0);
    while flood.sent() < all + FLOOD {
        let asked = Instant::now();
        session.expect_echo(b"in a flood");
        slowest = slowest.max(asked.elapsed());
        assert!(begun.elapsed() < HANGS, "{} datagrams in {HANGS:?}", flood.sent());
        trips += 1;
        if trips % 50 == 1 {
            knock_in(&world, &format!("203.0.113.{}", 100 + let_in % 100), &end);
            let_in += 1;
        }
    }
    let took = begun.elapsed();
    let after = rss_kib(end.pid());
    println!(
        "{FLOOD} datagrams in {took:?}; {trips} round trips, the slowest {slowest:?}; {let_in} were \
         let in; {before} KiB, then {after} KiB"
    );
    assert!(let_in > 0);
    assert!(after < before + FLAT_KIB, "{before} KiB, then {after} KiB");
}

/// Knocks as an honest sender does, again until the port opens.
#[track_caller]
fn knock_in(world: &World, source: &str, end: &End) {
    let opened = poll(NEVER, || {
        world.knock(source, end);
        let to: Addr = entrance(end, source);
        let is_silent = world.net.dial(source, &to).read_to_ending(Duration::from_millis(300));
        (is_silent.1 == Ending::Silent).then_some(())
    });
    opened.unwrap_or_else(|| panic!("{source} knocks in vain"));
}
