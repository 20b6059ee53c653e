//! Changes while peers connect, other programs that change the rule set, and ends of the process at
//! any moment.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::admin::{Metrics, metrics_address};
use testkit::data::Noise;
use testkit::eventually;

use crate::lets_in::end;
use crate::world::{OTHER, PEER, Seen, World, look_from, works};

/// Changes of the store while peers hammer at the port.
const CHANGES: usize = 1_000;

/// Ends of the process at a random moment.
const KILLS: usize = 50;

/// A time in which a connection is made where nothing drops packets, on a loaded machine, too.
const PATIENCE: Duration = Duration::from_millis(900);

/// Rules of another program.
const FOREIGN: [&str; 4] = [
    "add table inet other",
    "add set inet other names { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }",
    "add chain inet other input { type filter hook input priority 0; policy accept; }",
    "add rule inet other input ip saddr @names tcp dport 22 accept",
];

/// One thread connects all the time from an address that is allowed, one from another.
fn hammered(world: &World, work: impl FnOnce()) {
    let (is_over, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    let port = world.target.addr().tcp().port();
    thread::scope(|scope| {
        let allowed = scope.spawn(|| {
            world.net.at_peers(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Its echo, too: else it would be faster than the service accepts.
                    match look_from(PEER, port, PATIENCE) {
                        Seen::Open(mut wire) => assert!(works(&mut wire), "{PEER} is cut off"),
                        seen => panic!("{PEER} is shut out: {seen:?}"),
                    }
                    tries.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let stranger = scope.spawn(|| {
            world.net.at_peers(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let seen = look_from(OTHER, port, Duration::from_millis(20));
                    assert!(matches!(seen, Seen::Nothing), "{OTHER} gets in: {seen:?}");
                }
            });
        });
        work();
        is_over.store(true, Ordering::Relaxed);
        allowed.join().unwrap();
        stranger.join().unwrap();
    });
    assert!(tries.into_inner() > 20, "it was hardly tried");
}

/// Returns the command of a change, and its undoing, which follow each other. The networks take the
/// place of an address in them, and give it back.
fn change(number: usize) -> Vec<String> {
    let round = number / 4;
    let key = format!("ip-allowed:203.0.113.{}", 9 + round % 100);
    let network = match round % 3 {
        0 => format!("10.{}.0.0/{}", round % 8, 13 + round % 12),
        1 => "203.0.113.0/29".to_owned(),
        _ => "203.0.112.0/24".to_owned(),
    };
    let words = match number % 4 {
        0 => vec!["SET", &key, "1"],
        1 => vec!["SADD", "ip-allowed", &network],
        2 => vec!["DEL", &key],
        _ => vec!["SREM", "ip-allowed", &network],
    };
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn no_change_has_a_wrong_moment() {
    let world = World::new();
    let args = ["--allow-prefix", "ip-allowed:", "--metrics", "127.0.0.1:0"];
    let firewall = world.firewall(&args);
    world.gate(&["allow", PEER]);
    world.wait_open(PEER);
    let mut store = world.redis.direct();
    let metrics = metrics_address(&firewall);
    let steps = || world.net.at_gate(|| Metrics::at(&metrics).sum("firewall_steps_total"));
    hammered(&world, || {
        for number in 0..CHANGES {
            let before = steps();
            let words = change(number);
            store.ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
            // So that each is a transaction of its own.
            eventually("the change is carried out", || steps() > before);
        }
    });
    assert!(steps() >= CHANGES as f64);
    assert_eq!(firewall.count_containing(b"not in step"), 0, "{}", firewall.stderr());
}

#[test]
fn a_flushed_rule_set_heals_within_a_second_and_foreign_tables_are_untouched() {
    let world = World::new();
    FOREIGN.iter().for_each(|command| drop(world.nft(&[command])));
    let foreign = || world.nft(&["-s", "list", "table", "inet", "other"]);
    let before = foreign();
    let mut firewall = world.firewall(&["--at-exit", "remove"]);
    world.gate(&["allow", PEER, "10.0.0.0/16"]);
    world.wait_open(PEER);
    assert_eq!(foreign(), before);
    let heals = |damage: &str| {
        world.nft(&[damage]);
        let began = Instant::now();
        eventually("it is back", || {
            let tables = world.nft(&["list", "ruleset"]);
            tables.contains("10.0.0.0") && tables.contains("goto guard")
        });
        began.elapsed()
    };
    let times = (0..3).map(|_| heals("delete table inet knockpipe"));
    let shortest = times.min().unwrap();
    assert!(shortest < Duration::from_secs(1), "it took {shortest:?}");
    heals("flush table inet knockpipe");
    heals("flush set inet knockpipe ipv4_16");
    world.expect_nothing(OTHER);
    assert!(world.is_open(PEER));
    assert_eq!(foreign(), before);
    let shortest = (0..3).map(|_| heals("flush ruleset")).min().unwrap();
    assert!(shortest < Duration::from_secs(1), "it took {shortest:?}");
    firewall.wait_line("it is said", |line| {
        line.is("firewall was changed by another program; putting it right")
    });
    end(&mut firewall);
    assert_eq!(world.nft(&["list", "tables"]), "");
    assert!(world.is_open(OTHER), "the ports are as open as before");
}

#[test]
fn a_process_that_is_killed_at_any_moment_leaves_the_ports_as_they_were() {
    let world = World::new();
    world.gate(&["allow", PEER]);
    let mut firewall = world.firewall(&["--allow-prefix", "ip-allowed:"]);
    let mut store = world.redis.direct();
    let mut noise = Noise::new(7);
    hammered(&world, || {
        for kill in 0..KILLS {
            firewall.signal(Signal::SIGKILL);
            firewall.wait();
            store.ask(&["SADD", "ip-allowed", &format!("10.0.0.{kill}")]);
            let launch = world.launch(&["--allow-prefix", "ip-allowed:"]);
            firewall = world.net.at_gate(|| launch.spawn());
            // At a random moment of its start, or of its work.
            thread::sleep(Duration::from_millis(noise.next_u64() % 120));
        }
        eventually("the last of them is in step", || {
            let listed = world.nft(&["list", "table", "inet", "knockpipe"]);
            listed.contains(&format!("10.0.0.{}", KILLS - 1))
        });
    });
    end(&mut firewall);
    assert!(world.is_open(PEER), "what is there stays at the end");
    world.expect_nothing(OTHER);
}

#[test]
fn two_processes_at_one_table_agree() {
    let world = World::new();
    let firewalls = [world.firewall(&[]), world.firewall(&[])];
    for round in 0..10 {
        let address = format!("203.0.113.{}", 100 + round);
        world.gate(&["allow", &address, "203.0.113.64/28"]);
        world.wait_open(&address);
        world.gate(&["deny", &address]);
        world.wait_closed(&address);
    }
    eventually("each set is asked once, whichever process made it", || {
        let listed = world.nft(&["list", "table", "inet", "knockpipe"]);
        ["@ipv4_32", "@ipv4_28", "@ipv6_128"].iter().all(|set| listed.matches(set).count() == 1)
    });
    for firewall in &firewalls {
        assert!(firewall.count_containing(b"not in step") < 10, "{}", firewall.stderr());
    }
    world.expect_nothing(OTHER);
}
