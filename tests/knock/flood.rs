//! A flood of noise from many sources: sessions go on, memory stays, and a right knock among it is
//! granted.

use std::time::{Duration, Instant};

use testkit::flood::{Flood, Size};
use testkit::proc::rss_kib;
use testkit::wait::poll;
use testkit::{Addr, End, Ending, NEVER};

use crate::world::{PEER, World, entrance, live};

/// Time of the flood.
const FLOOD: Duration = Duration::from_secs(4);

/// Beyond what the kernel's queue holds, so that knocks get lost.
const SIZE: Size = Size { sources: 60_000, per_second: 100_000 };

#[test]
fn a_flood_from_many_sources_keeps_out_no_knock_and_ends_no_session() {
    let world = World::new();
    let end = world.decrypt(&["--knock"]);
    let client = world.encrypt(PEER, &end);
    world.knock(PEER, &end);
    let mut session = live(&client);
    let flood = Flood::start(&world.net, entrance(&end, PEER).tcp(), SIZE);
    poll(NEVER, || (flood.sent() > u64::from(SIZE.per_second)).then_some(())).unwrap();
    let before = rss_kib(end.pid());
    let begun = Instant::now();
    let (mut slowest, mut host) = (Duration::ZERO, 0_u32);
    while begun.elapsed() < FLOOD {
        let asked = Instant::now();
        session.expect_echo(b"in a flood");
        slowest = slowest.max(asked.elapsed());
        host += 1;
        if host % 50 == 1 {
            let source = format!("203.0.113.{}", 100 + host / 50 % 100);
            knock_in(&world, &source, &end);
        }
    }
    let after = rss_kib(end.pid());
    println!(
        "{} datagrams in {:?}; {host} round trips, the slowest {slowest:?}; {before} KiB, then {after} KiB",
        flood.sent(),
        begun.elapsed()
    );
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
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
