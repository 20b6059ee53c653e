//! Warm tunnels while files are read again: ends that are ended on purpose say so, and no log warns
//! of it.

use std::time::{Duration, Instant};

use testkit::wait::eventually;

use super::reload::{KEY, Two};

/// Log message of an encrypt end.
const NOT_FULL: &str = "pool below target size; clients dial directly meanwhile";

/// Starts both ends, with a pool of eight, and waits for its tunnels.
fn two_with_a_pool() -> Two {
    let two = Two::start();
    two.encrypt.reload(&two.near(KEY, "pool = 8"));
    testkit::Wire::connect(&two.entrance()).unwrap().expect_echo(b"served");
    two
}

/// Checks that no tunnel was refused, and that the pool lacked nothing.
fn is_unremarkable(two: &Two) {
    assert_eq!(two.encrypt.program.log().iter().filter(|line| line.is(NOT_FULL)).count(), 0);
    let refused = |line: &&testkit::Line| line.is("refused") || line.is("warm tunnel broken");
    let decrypt = two.decrypt.program.log();
    assert_eq!(decrypt.iter().filter(refused).count(), 0, "{}", two.decrypt.program.tail());
}

/// docs/operating/reload.md: "Warm tunnels are made anew", at a reload of the far end, and
/// that is no failure.
#[test]
fn a_reload_of_the_far_end_is_no_trouble_of_the_pool() {
    let (two, begin) = (two_with_a_pool(), Instant::now());
    for round in 0..30 {
        // If all tunnels are ended as soon as they are made for longer than half a minute, that is
        // logged.
        if begin.elapsed() > Duration::from_secs(15) {
            break;
        }
        two.decrypt.reload(&two.far(KEY, &format!("max-unopened = {}", 100 + round)));
        let mut client = testkit::Wire::connect(&two.entrance()).unwrap();
        client.expect_echo(b"served");
    }
    is_unremarkable(&two);
    two.stop();
}

/// Tunnels that are being made at a reload are ended as those that are ready are.
#[test]
fn an_own_reload_shows_no_strangers_at_the_far_end() {
    let two = two_with_a_pool();
    // So many that some are always being made.
    for round in 0..20 {
        two.encrypt.reload(&two.near(KEY, &format!("pool = {}", 100 + round % 2)));
    }
    eventually("it serves", || {
        let client = testkit::Wire::connect(&two.entrance());
        client.is_ok_and(|mut client| client.echoes(b"served", testkit::NEVER))
    });
    is_unremarkable(&two);
    two.stop();
}
