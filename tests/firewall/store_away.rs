//! The store is away: each policy, in the firewall.

use testkit::eventually;

use crate::world::{OTHER, PEER, World};

#[test]
fn each_policy_holds_in_the_firewall_while_the_store_is_away() {
    for (policy, is_in, is_other_in) in
        [("closed", false, false), ("open", true, true), ("stale:1h", true, false)]
    {
        let mut world = World::new();
        let firewall = world.firewall(&["--gate-failure", policy]);
        world.gate(&["allow", PEER]);
        world.gate(&["ban", "203.0.113.9"]);
        world.wait_open(PEER);
        world.redis.kill();
        firewall.wait_line("it is noticed", |line| line.message().starts_with("gate "));
        for (source, is_open) in [(PEER, is_in), (OTHER, is_other_in), ("203.0.113.9", false)] {
            eventually(&format!("{policy}: {source}"), || world.is_open(source) == is_open);
        }
        world.revive();
        world.redis.ask("SADD ip-allowed 203.0.113.7");
        world.wait_open(PEER);
        world.wait_closed(OTHER);
    }
}

#[test]
fn what_is_stale_is_over_after_its_time_and_a_start_without_a_store_closes() {
    let mut world = World::new();
    let mut firewall = world.firewall(&["--gate-failure", "stale:1s"]);
    world.gate(&["allow", PEER]);
    world.wait_open(PEER);
    world.redis.kill();
    world.wait_closed(PEER);
    crate::lets_in::end(&mut firewall);
    world.revive();
    world.redis.ask("SADD ip-allowed 203.0.113.7");
    let mut firewall = world.firewall(&[]);
    world.wait_open(PEER);
    crate::lets_in::end(&mut firewall);
    world.redis.kill();
    assert!(world.is_open(PEER), "nothing says otherwise");
    let _firewall = world.firewall(&[]);
    world.wait_closed(PEER);
}
