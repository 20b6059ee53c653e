//! What proxies ask, without a proxy: an empty answer, from memory.

use std::io::Write;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::{Addr, NEVER, Wire};

use super::http::{Answer, ask, exchange, get, request};
use super::world::World;

const IN: &str = "198.51.100.7";
const OUT: &str = "198.51.100.8";

fn world() -> World {
    let world = World::start(&[
        "--trusted-proxies",
        "127.0.0.2,10.9.0.0/16",
        "--exclude-path",
        "/public",
        "--exclude-path",
        "media.example/app",
    ]);
    world.redis.ask("SET allow:127.1.3.1 1");
    world.redis.ask(&format!("SET allow:{IN} 1"));
    testkit::eventually("the service knows", || {
        get("127.1.3.1", world.addr(), "/verify", &[]).status == 200
    });
    testkit::eventually("the service knows", || verify(&world, &[&forwarded(IN)]) == 200);
    world
}

fn forwarded(ip: &str) -> String {
    format!("X-Forwarded-For: {ip}")
}

#[track_caller]
fn verify(world: &World, lines: &[&str]) -> u16 {
    let answer = get("127.0.0.2", world.addr(), "/verify", lines);
    assert_eq!(answer.body, "", "{answer:?}");
    answer.status
}

#[test]
fn the_answer_is_empty_and_says_nothing_of_the_client() {
    let world = world();
    for (ip, status) in [(IN, 200), (OUT, 401)] {
        let answer = get("127.0.0.2", world.addr(), "/verify", &[&forwarded(ip)]);
        assert_eq!((answer.status, &*answer.body), (status, ""));
        assert_eq!(answer.header("content-length"), ["0"]);
        let names: Vec<&str> =
            answer.headers.lines().filter_map(|line| line.split(':').next()).collect();
        for name in names {
            let name = name.to_ascii_lowercase();
            let known = ["content-length", "connection", "date", "cache-control"];
            assert!(known.contains(&&*name), "{answer:?}");
        }
    }
}

#[test]
fn the_store_is_not_asked_and_may_hang() {
    let world = world();
    world.redis.signal(Signal::SIGSTOP);
    assert_eq!(verify(&world, &[&forwarded(IN)]), 200);
    assert_eq!(verify(&world, &[&forwarded(OUT)]), 401);
    world.redis.signal(Signal::SIGCONT);
}

#[test]
fn internal_is_the_socket_and_not_what_a_header_says() {
    let world = World::start(&["--trusted-proxies", "127.0.0.2", "--internal", "allow"]);
    let status = |from, lines: &[&str]| get(from, world.addr(), "/verify", lines).status;
    assert_eq!(status("127.1.3.7", &[]), 200);
    for claimed in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fd00::1"] {
        assert_eq!(status("127.0.0.2", &[&forwarded(claimed)]), 401, "{claimed}");
    }
}

/// An address in a PROXY header is a load balancer's word, as one in X-Forwarded-For is a proxy's.
#[test]
fn internal_is_not_what_a_load_balancer_announces() {
    let world = World::start(&["--proxy-from", "127.0.0.2", "--internal", "allow"]);
    let status = |announced: &str| {
        let question = format!(
            "PROXY TCP4 {announced} 192.0.2.1 40000 80\r\nGET /verify HTTP/1.1\r\nHost: x\r\n\
             Connection: close\r\n\r\n"
        );
        Answer::parse(&exchange("127.0.0.2", world.addr(), question.as_bytes())).status
    };
    for claimed in ["127.0.0.1", "10.1.2.3", "192.168.0.1", OUT] {
        assert_eq!(status(claimed), 401, "{claimed}");
    }
    world.redis.ask("SET allow:10.1.2.3 1");
    testkit::eventually("the service knows", || status("10.1.2.3") == 200);
}

/// Its documentation lists these headers; it also passes on those of the client, without a body.
#[test]
fn traefiks_requests_are_answered() {
    let world = world();
    let traefik = |ip: &str, uri: &str, host: &str| {
        verify(
            &world,
            &[
                "User-Agent: Go-http-client/1.1",
                "Accept: text/html",
                "Cookie: session=1",
                "X-Forwarded-Method: POST",
                "X-Forwarded-Proto: https",
                &format!("X-Forwarded-Host: {host}"),
                &format!("X-Forwarded-Uri: {uri}"),
                &forwarded(ip),
                "Accept-Encoding: gzip",
            ],
        )
    };
    assert_eq!(traefik(IN, "/admin", "app.example.org"), 200);
    assert_eq!(traefik(OUT, "/admin", "app.example.org"), 401);
    assert_eq!(traefik(OUT, "/public/x", "app.example.org"), 200);
    assert_eq!(traefik(OUT, "/app", "media.example"), 200);
    assert_eq!(traefik(OUT, "/app", "app.example.org"), 401);
    assert_eq!(traefik(OUT, "/public/../admin", "media.example"), 401);
    // With trustForwardHeader it appends to what the client sent.
    assert_eq!(traefik(&format!("{OUT}, {IN}"), "/admin", "app.example.org"), 200);
    assert_eq!(traefik(&format!("{IN}, {OUT}"), "/admin", "app.example.org"), 401);
}

#[test]
fn nothing_is_excluded_for_a_peer_that_is_no_trusted_proxy() {
    let world = world();
    for lines in
        [&["X-Forwarded-Uri: /public"][..], &["X-Forwarded-Host: x", "X-Forwarded-Uri: /public"]]
    {
        assert_eq!(get("127.1.3.9", world.addr(), "/verify", lines).status, 401);
        assert_eq!(verify(&world, lines), 200);
    }
    for lines in [
        &["X-Forwarded-Uri: /public", "X-Forwarded-Uri: /public"][..],
        &["X-Forwarded-Uri: /admin", "X-Forwarded-Uri: /public"],
        &["X-Forwarded-Host: media.example", "X-Forwarded-Host: x", "X-Forwarded-Uri: /app"],
        &["X-Forwarded-Host: media.example, x", "X-Forwarded-Uri: /public"],
        &["X-Forwarded-Host: media.example@x", "X-Forwarded-Uri: /app"],
    ] {
        assert_eq!(verify(&world, lines), 401, "{lines:?}");
    }
}

#[test]
fn proxies_on_a_unix_socket_are_trusted_if_they_are_named() {
    let dir = TempDir::new().unwrap();
    for (name, trusted, expected) in [("one", "unix", [200, 401]), ("two", "0.0.0.0/0", [401, 401])]
    {
        let at = Addr::Unix(dir.path().join(name));
        let world = World::start_at(&at, &["--trusted-proxies", trusted, "--allow", IN]);
        let ask = |ip: &str| {
            let mut wire = Wire::connect(world.addr()).unwrap();
            wire.write_all(&request("GET", "/verify", &[&forwarded(ip)])).unwrap();
            Answer::parse(&wire.read_to_ending(NEVER).0).status
        };
        assert_eq!([ask(IN), ask(OUT)], expected, "{trusted}");
    }
}

#[test]
fn only_get_and_head_are_answered_and_only_there() {
    let world = world();
    let from = forwarded(IN);
    let status = |method: &str, target: &str| {
        ask("127.0.0.2", world.addr(), method, target, &[&from]).status
    };
    assert_eq!((status("GET", "/verify?x=%zz"), status("HEAD", "/verify")), (200, 200));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        assert_eq!(status(method, "/verify"), 405, "{method}");
    }
    for target in ["/verify/", "/verify/x", "/Verify", "//verify", "/verify;x", "/verify%2f"] {
        assert_eq!(status("GET", target), 404, "{target}");
    }
}

#[test]
fn each_request_of_a_connection_has_a_client_of_its_own() {
    let world = world();
    let ask = |ip: &str| format!("GET /verify HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {ip}\r\n");
    let both = format!("{}\r\n{}Connection: close\r\n\r\n", ask(IN), ask(OUT));
    let got = String::from_utf8(exchange("127.0.0.2", world.addr(), both.as_bytes())).unwrap();
    let statuses: Vec<&str> = got.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "401"], "{got}");
}
