//! The gate's decision about each request: by Redis, in memory, with public client addresses.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use testkit::netns::GATE4;
use testkit::redis::Reply;
use testkit::{Ending, NEVER, eventually};

use crate::http::Peer;
use crate::world::{OTHER, PEER, World, get};

/// Longest time from a change of the store to its effect.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Returns true when a request from `source` gets no byte.
fn is_denied(world: &World, source: &str) -> bool {
    let mut wire = world.wire(source);
    // It may be closed already.
    let _ = std::io::Write::write_all(&mut wire, get("/").as_bytes());
    let (bytes, ending) = wire.read_to_ending(NEVER);
    assert_ne!(ending, Ending::Silent);
    bytes.is_empty()
}

#[test]
fn only_addresses_in_the_set_get_an_answer() {
    let world = World::new(&[]);
    assert!(is_denied(&world, PEER));
    world.admit(PEER);
    assert!(is_denied(&world, OTHER));
    let mut client = world.dial(PEER);
    assert_eq!(client.ask(&get("/")).text(), "hello");
    // The same connection is denied its next request, or is gone.
    let removed = Instant::now();
    world.redis(&format!("SREM ip-allowed {PEER}"));
    assert!(client.is_ended());
    assert!(removed.elapsed() < AT_ONCE, "{:?}", removed.elapsed());
    assert!(is_denied(&world, PEER));
    assert!(world.server.seen().len() >= 2, "the denied ones reached no server");
}

#[test]
fn the_time_of_an_admission_is_recorded() {
    let world = World::new(&[]);
    world.admit(PEER);
    let recorded = || match world.redis.ask(&format!("HGET ip-history {PEER}")) {
        Reply::Nil => None,
        reply => reply.text().parse::<u64>().ok(),
    };
    eventually("the time is recorded", || recorded().is_some());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(recorded().unwrap()) < 60);
    assert!(is_denied(&world, OTHER));
    assert_eq!(world.redis.ask(&format!("HGET ip-history {OTHER}")), Reply::Nil);
}

#[test]
fn a_long_answer_ends_when_its_address_is_removed() {
    for args in [&[][..], &["--redirect", "https://login.example/"]] {
        let world = World::with(args, |request, peer| {
            if request.first.contains("/long") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbegin");
                // The gate ends it.
                let _ = peer.wire.read_to_ending(NEVER);
            } else {
                crate::world::hello(peer);
            }
        });
        world.admit(PEER);
        let mut client = world.dial(PEER);
        client.send(get("/long"));
        assert_eq!(client.head().unwrap().status(), 200);
        assert_eq!(client.take(5).unwrap(), b"begin");
        let removed = Instant::now();
        world.redis(&format!("SREM ip-allowed {PEER}"));
        assert!(client.is_ended());
        assert!(removed.elapsed() < AT_ONCE, "{args:?}: {:?}", removed.elapsed());
        world.server.target.wait_idle();
    }
}

#[test]
fn an_answer_that_its_client_does_not_read_ends_all_the_same() {
    for args in [&[][..], &["--redirect", "https://login.example/"]] {
        let world = World::with(args, |request, peer| {
            if request.first.contains("/flood") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                // Until the gate takes no more, and then has ended it.
                while std::io::Write::write_all(&mut peer.wire, &[b'x'; 65536]).is_ok() {}
            } else {
                crate::world::hello(peer);
            }
        });
        world.admit(PEER);
        let mut client = world.dial(PEER);
        client.send(get("/flood"));
        assert_eq!(client.head().unwrap().status(), 200);
        eventually("the server is busy with it", || world.server.target.counts().live() > 0);
        world.redis(&format!("SREM ip-allowed {PEER}"));
        // Nothing is read here: the server notices.
        eventually("the server has no client any more", || {
            world.server.target.counts().live() == 0
        });
        drop(client);
    }
}

#[test]
fn a_denied_client_is_sent_to_another_page() {
    let world =
        World::new(&["--redirect", "https://login.example/?a=b", "--redirect-parameter", "rd"]);
    let answer = world.dial(PEER).ask("GET /a?b=c HTTP/1.1\r\nHost: app.example:81\r\n\r\n");
    assert_eq!(answer.status(), 302);
    assert_eq!(
        answer.field("location"),
        Some("https://login.example/?a=b&rd=http%3A%2F%2Fapp.example%3A81%2Fa%3Fb%3Dc")
    );
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(world.server.seen().len(), 0);
    world.admit(PEER);
    // The connection that was sent away is used for the page afterwards, as a browser does.
    let mut client = world.dial(OTHER);
    assert_eq!(client.ask(&get("/")).status(), 302);
    world.redis(&format!("SADD ip-allowed {OTHER}"));
    eventually("the same connection gets in", || client.ask(&get("/")).status() == 200);
    world.redis(&format!("SREM ip-allowed {OTHER}"));
    // A request that is under way at this moment ends without an answer.
    eventually("and out again", || {
        let mut client = world.dial(OTHER);
        client.send(get("/"));
        client.head().is_some_and(|answer| answer.status() == 302)
    });
}

#[test]
fn a_redirect_without_a_parameter_is_sent_as_it_was_written() {
    let world = World::new(&["--redirect", "https://www.google.com"]);
    let answer = world.dial(PEER).ask(&get("/x"));
    assert_eq!((answer.status(), answer.field("location")), (302, Some("https://www.google.com")));
}

#[test]
fn the_client_behind_a_trusted_proxy_is_judged_and_no_other() {
    let world = World::new(&["--trusted-proxies", "203.0.113.0/29"]);
    world.redis("SADD ip-allowed 192.0.2.3");
    let ask = |from: &str, fields: &str| {
        let mut client = world.dial(from);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.head().map(|answer| answer.status())
    };
    let through = |fields: &str| ask(PEER, fields);
    eventually("the client gets in", || through("X-Forwarded-For: 192.0.2.3\r\n") == Some(200));
    for (what, fields) in [
        ("spoofed on the left", "X-Forwarded-For: 192.0.2.3, 192.0.2.9\r\n"),
        ("a second line", "X-Forwarded-For: 192.0.2.3\r\nX-Forwarded-For: 192.0.2.9\r\n"),
        ("loopback", "X-Forwarded-For: 127.0.0.1\r\n"),
        ("no address", "X-Forwarded-For: unknown\r\n"),
        ("no field", ""),
        ("another field", "X-Real-IP: 192.0.2.3\r\n"),
    ] {
        assert_eq!(through(fields), None, "{what}");
    }
    let right = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-For: 192.0.2.3, 203.0.113.6\r\n";
    assert_eq!(through(right), Some(200), "trusted proxies on the right are passed over");
    assert_eq!(ask("192.0.2.4", "X-Forwarded-For: 192.0.2.3\r\n"), None, "not a proxy");
    let seen = world.server.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        last.field("x-forwarded-for"),
        Some(&*format!("127.0.0.1, 192.0.2.3, 203.0.113.6, {PEER}"))
    );
    assert_eq!(
        last.field("forwarded"),
        Some(&*format!("for=192.0.2.3, for={PEER};host=\"a\";proto=http"))
    );
}

#[test]
fn proxies_may_name_the_client_in_a_field_of_their_own() {
    let world = World::new(&["--trusted-proxies", PEER, "--client-ip-header", "CF-Connecting-IP"]);
    world.redis("SADD ip-allowed 192.0.2.3");
    let ask = |field: &str| {
        let mut client = world.dial(PEER);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
        client.head().map(|answer| answer.status())
    };
    eventually("the client gets in", || ask("CF-Connecting-IP: 192.0.2.3\r\n") == Some(200));
    assert_eq!(ask("X-Forwarded-For: 192.0.2.3\r\n"), None);
    assert_eq!(ask("CF-Connecting-IP: 192.0.2.4\r\n"), None);
}

#[test]
fn one_connection_of_a_proxy_serves_clients_that_are_judged_apart() {
    let world = World::new(&["--trusted-proxies", PEER]);
    world.redis("SADD ip-allowed 192.0.2.3");
    let of =
        |client: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n");
    eventually("the client gets in", || {
        let mut proxy = world.dial(PEER);
        proxy.send(of("192.0.2.3"));
        proxy.head().is_some_and(|answer| answer.status() == 200)
    });
    let mut proxy = world.dial(PEER);
    assert_eq!(proxy.ask(&of("192.0.2.3")).status(), 200);
    proxy.send(of("192.0.2.4"));
    assert!(proxy.is_ended());
}

#[test]
fn an_internal_address_is_checked_unless_it_is_allowed() {
    let world = World::new(&["--internal", "allow"]);
    let local = |fields: &str| {
        let to = world.gate.addr().tcp().port();
        let to = testkit::Addr::Tcp(format!("127.0.0.1:{to}").parse().unwrap());
        world.net.at_gate(|| {
            let mut client = Peer::new(testkit::Wire::connect(&to).unwrap());
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            client.head().map(|answer| answer.status())
        })
    };
    assert_eq!(local(""), Some(200));
    assert!(is_denied(&world, PEER), "{GATE4}");
    let mut spoofing = world.dial(PEER);
    spoofing.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n");
    assert!(spoofing.is_ended());
}
