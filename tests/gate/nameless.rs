//! Load balancers that do not announce the addresses of their clients, and the limits of the
//! clients that they do announce.

use std::io::Write;
use std::time::{Duration, Instant};

use super::world::{OTHER, PEER, SOON, Stage, World, entrance};
use testkit::target::echo;
use testkit::{Addr, End, Ending, Launch, Target, Wire, eventually};

/// A load balancer with an address that `--internal allow` admits.
const BALANCER: &str = "10.1.2.3";

/// The start of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A client that asks for the target through the balancer, behind `header`.
fn announced(stage: &Stage, end: &End, header: &[u8]) -> Wire {
    let mut wire = stage.net.dial(BALANCER, &entrance(end, BALANCER));
    wire.write_all(header).unwrap();
    wire
}

fn v2(rest: &[u8]) -> Vec<u8> {
    [V2, rest].concat()
}

fn of(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 40001 8023\r\n").into_bytes()
}

/// Returns every header of a client without an address.
fn nameless() -> Vec<Vec<u8>> {
    vec![
        b"PROXY UNKNOWN\r\n".to_vec(),
        format!("PROXY UNKNOWN {PEER} 198.51.100.1 40001 8023\r\n").into_bytes(),
        v2(&[0x21, 0x00, 0, 0]),
        v2(&[0x21, 0x00, 0, 5, 0x02, 0, 2, b'a', b'b']),
        v2(&[&[0x21, 0x31, 0, 216][..], &[b'/'; 216]].concat()),
    ]
}

/// Returns LOCAL, with and without addresses, which count for nothing.
fn own() -> [Vec<u8>; 2] {
    let rest = [0x20, 0x11, 0, 12, 203, 0, 113, 66, 198, 51, 100, 1, 0, 1, 0, 2];
    [v2(&[0x20, 0x00, 0, 0]), v2(&rest)]
}

/// Starts an encrypt end with `flags` that trusts the balancer, and its decrypt end.
fn pair(stage: &Stage, target: &Addr, flags: &[&str]) -> (End, End) {
    let decrypt = stage.decrypt(target, &[]);
    let to = Addr::Tcp(([127, 0, 0, 1], decrypt.addr().tcp().port()).into());
    let launch = Launch::encrypt(&stage.key)
        .source(&Addr::Tcp("[::]:0".parse().unwrap()))
        .target(&to)
        .args(["--proxy-from", BALANCER])
        .args(flags);
    (stage.net.at_gate(|| launch.start()), decrypt)
}

/// "A client without an address is denied by a gate, unless every address may come in": at the
/// encrypt end, where it was admitted as the internal balancer.
#[test]
fn a_nameless_client_is_denied_where_not_every_address_may_come_in() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let gates: [&[&str]; 3] = [
        &["--allow", PEER, "--internal", "allow"],
        &["--allow", "0.0.0.0/0", "--internal", "allow"],
        // Every address but one, which it may be.
        &["--deny", PEER, "--internal", "allow"],
    ];
    for flags in gates {
        let (mut encrypt, mut decrypt) = pair(&stage, target.addr(), flags);
        for header in nameless() {
            let mut wire = announced(&stage, &encrypt, &header);
            let _ = wire.write_all(b"may I?");
            assert_ne!(wire.read_to_ending(SOON).1, Ending::Silent);
            assert_eq!(target.counts().accepts(), 0, "{flags:?}: {}", header.escape_ascii());
        }
        encrypt.stop();
        assert_eq!(encrypt.refused("gate-denied"), 5, "{}", encrypt.program.tail());
        assert!(encrypt.program.log().iter().any(|line| line.has("example", "unknown")));
        decrypt.stop();
    }
}

/// "Only LOCAL is the load balancer itself", and its own address counts then.
#[test]
fn the_balancers_own_connections_are_judged_by_its_own_address() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let (encrypt, _decrypt) =
        pair(&stage, target.addr(), &["--allow", PEER, "--internal", "allow"]);
    for header in own() {
        announced(&stage, &encrypt, &header).expect_echo(b"a health check");
    }
    let checked: [&[&str]; 2] =
        [&["--allow", PEER, "--internal", "check"], &["--deny", BALANCER, "--internal", "allow"]];
    for flags in checked {
        let (encrypt, _decrypt) = pair(&stage, target.addr(), flags);
        for header in own() {
            let mut wire = announced(&stage, &encrypt, &header);
            assert!(!wire.echoes(b"a health check", SOON), "{flags:?}");
        }
    }
}

/// If every address may come in, a client without one does, and is not taken for the balancer:
/// neither in the log nor at the far end.
#[test]
fn a_nameless_client_comes_in_where_every_address_may() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let every_address = ["--allow", "0.0.0.0/0", "--allow", "::/0", "--internal", "check"];
    for flags in [&every_address[..], &[]] {
        let (encrypt, decrypt) = pair(&stage, target.addr(), flags);
        for header in nameless() {
            announced(&stage, &encrypt, &header).expect_echo(b"may I?");
        }
        let closed = |end: &End, field: &str, value: &str| {
            end.closed().iter().filter(|line| line.has(field, value)).count()
        };
        eventually("their lines", || {
            closed(&encrypt, "peer", "unknown") == 5 && closed(&decrypt, "client", "unix") == 5
        });
    }
}

/// The decrypt end, with an empty set, does the same.
#[test]
fn a_nameless_encrypt_end_stays_out_of_an_empty_set() {
    let world = World::new(&["--proxy-from", BALANCER, "--internal", "allow", "-o", "1s"]);
    for header in nameless() {
        assert_ne!(announced(&world.stage, &world.gate, &header).expect_ending(), Ending::Silent);
    }
    // It waits for a handshake; a denied one is gone at once.
    let mut local = announced(&world.stage, &world.gate, &own()[0]);
    assert_eq!(local.read_to_ending(Duration::from_millis(100)).1, Ending::Silent);
    drop(local);
    let World { mut gate, .. } = world;
    gate.stop();
    assert_eq!(gate.refused("gate-denied"), 5, "{}", gate.program.tail());
}

/// Makes thirty connections of each at once; returns how many of them are not reset at once.
#[track_caller]
fn served(stage: &Stage, end: &End, header: &[u8]) -> usize {
    let began = Instant::now();
    let mut all: Vec<Wire> = (0..30).map(|_| announced(stage, end, header)).collect();
    let mut is_open =
        |wire: &mut Wire| wire.read_to_ending(Duration::from_millis(1)).1 == Ending::Silent;
    if header.starts_with(V2) && header[12] == 0x20 {
        assert!(all.iter_mut().all(is_open), "the balancer's own are not limited");
        return all.len();
    }
    eventually("those beyond the rate are reset", || {
        all.retain_mut(&mut is_open);
        // Without a limit all stay.
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        all.len() <= 2 + 2 * seconds.min(10)
    });
    all.len()
}

/// `--max-per-source 100/2`: "new connections per second, of one address", also where
/// a load balancer announces the address.
#[test]
fn an_announced_client_connects_as_often_as_it_may() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let limit = ["--max-per-source", "100/2"];
    let (encrypt, _far) = pair(&stage, target.addr(), &limit);
    let decrypt = stage
        .decrypt(target.addr(), &[&limit[..], &["--proxy-from", BALANCER, "-o", "60s"]].concat());
    for mut end in [encrypt, decrypt] {
        let own = served(&stage, &end, &own()[0]);
        // Each client has its own rate; those without an address share one.
        let mut open = 0;
        for header in [of(PEER), of(OTHER), nameless()[0].clone()] {
            let served = served(&stage, &end, &header);
            assert!(served >= 2, "{served} of {}", header.escape_ascii());
            open += served;
        }
        assert_eq!(own, 30);
        eventually("the next second allows more", || {
            let mut wire = announced(&stage, &end, &of(PEER));
            wire.read_to_ending(Duration::from_millis(50)).1 == Ending::Silent
        });
        end.stop();
        let refused = end.refused("source-limit");
        assert!(refused >= 3 * 30 - open as u64, "{open}: {}", end.program.tail());
        assert!(end.program.log().iter().any(|line| line.has("example", PEER)));
    }
}
