//! A client's host that gets another address: the grant and a session follow within two seconds.

use std::time::{Duration, Instant};

use testkit::{End, NEVER, eventually};

use crate::site::{CLIENT4, CLIENT6, OTHER4, OTHER6, Receiver, Site, entrance, live_soon};

/// Time in which grant and session have to be there.
const SOON: Duration = Duration::from_secs(2);

fn is_granted(decrypt: &End, address: &str) -> bool {
    let log = decrypt.program.log();
    log.iter().any(|line| line.is("knock granted") && line.has("address", address))
}

/// Moves the client back and forth. A loaded machine may be slow once, not each time.
#[test]
fn another_address_is_granted_and_serves_within_two_seconds() {
    const MOVES: usize = 4;
    for (one, other) in [(CLIENT4, OTHER4), (CLIENT6, OTHER6)] {
        for pool in [&[][..], &["--pool", "2"]] {
            let site = Site::new();
            let decrypt = site.decrypt(&["--knock"]);
            let far_end = entrance(&decrypt, one);
            let client = site.start(&site.encrypt(&far_end, &[&["--knock"], pool].concat()));
            drop(live_soon(&client));
            let (mut here, mut there) = ([CLIENT4, CLIENT6], [OTHER4, OTHER6]);
            let mut fastest = NEVER;
            for number in 0..MOVES {
                let moved = Instant::now();
                site.move_client(here, there);
                if number == 0 {
                    eventually("the other address is granted", || is_granted(&decrypt, other));
                }
                let mut wire = client.connect();
                wire.expect_echo(b"from elsewhere");
                fastest = fastest.min(moved.elapsed());
                std::mem::swap(&mut here, &mut there);
            }
            assert!(fastest < SOON, "{other} {pool:?}: {fastest:?}");
            let line = client.program.wait_line("knocked", |line| line.is("knocked"));
            assert!(line.has("reason", "address-change"), "{}", line.text());
        }
    }
}

/// A client that has knocked, and receives of its next knocks.
struct Moving {
    receiver: Receiver,
    _client: End,
    _decrypt: End,
}

impl Moving {
    fn at(site: &Site) -> Self {
        let decrypt = site.decrypt(&[]);
        let to = entrance(&decrypt, CLIENT4);
        let receiver = site.receiver(&to);
        let client = site.start(&site.encrypt(&to, &["--knock"]));
        drop(live_soon(&client));
        receiver.next();
        Self { receiver, _client: client, _decrypt: decrypt }
    }
}

/// The old address stays, and the route to the far end leaves from another one.
#[test]
fn another_route_is_noticed_as_well() {
    let site = Site::new();
    let moving = Moving::at(&site);
    let receiver = &moving.receiver;
    site.client.batch(&format!("addr add {OTHER4}/32 dev kp0\n"));
    // An address that is new may be the one to use, so this is a change by itself.
    assert_eq!(receiver.next().from.ip().to_string(), CLIENT4);
    site.client.batch(&format!("route replace 198.51.100.1/32 dev kp0 src {OTHER4}\n"));
    let arrived = receiver.next();
    assert_eq!(arrived.from.ip().to_string(), OTHER4);
}

/// Routers announce addresses again and again; interfaces come and go.
#[test]
fn what_does_not_concern_the_far_end_causes_no_storm() {
    let site = Site::new();
    let moving = Moving::at(&site);
    let receiver = &moving.receiver;
    for round in 0..50 {
        let lifetime = 1_000 + round;
        site.client.batch(&format!(
            "addr change {CLIENT6}/128 dev kp0 valid_lft {lifetime} preferred_lft {lifetime}\n\
             route add 192.0.2.0/24 dev kp0\nroute del 192.0.2.0/24 dev kp0\n"
        ));
    }
    receiver.expect_none();
    for _ in 0..50 {
        site.client.batch(&format!("addr add {OTHER4}/32 dev kp0\naddr del {OTHER4}/32 dev kp0\n"));
    }
    let knocks = receiver.drain().len();
    assert!((1..=8).contains(&knocks), "{knocks} knocks for 100 changes");
}
