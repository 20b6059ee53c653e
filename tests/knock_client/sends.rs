//! What an encrypt end sends, when, and from where: read by a socket of the test. The decrypt end
//! has no gate here, so that connections succeed.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::admin::{Admin, Metrics};
use testkit::clock::FakeClock;
use testkit::{Addr, End, Launch, Wire};

use crate::site::{CLIENT4, CLIENT6, OTHER4, Site, entrance};

/// Returns a session through `client`, and the address that the decrypt end saw.
fn session(client: &End, decrypt: &End) -> std::net::SocketAddr {
    let before = decrypt.closed().len();
    let mut wire = client.connect();
    wire.expect_echo(b"hello");
    drop(wire);
    testkit::eventually("the session ends", || decrypt.closed().len() > before);
    decrypt.closed().pop().unwrap().field("peer").unwrap().parse().unwrap()
}

#[test]
fn a_connection_knocks_once_and_comes_from_the_same_address() {
    let site = Site::new();
    let decrypt = site.decrypt(&[]);
    for address in [CLIENT4, CLIENT6] {
        let to = entrance(&decrypt, address);
        let receiver = site.receiver(&to);
        let words = ["--knock", "--knock-gate", "redis", "--knock-label", "my laptop"];
        let client =
            site.start(&site.encrypt(&to, &[&words[..], &["--knock-ttl", "90s"]].concat()));
        receiver.expect_none();
        let seen = session(&client, &decrypt);
        let arrived = receiver.next();
        assert_eq!(arrived.from.ip().to_string(), address);
        assert_eq!(seen.ip(), arrived.from.ip());
        let knock = arrived.knock.knock;
        assert_eq!(knock.gate.unwrap().as_str(), "redis");
        assert_eq!(knock.label.unwrap().as_str(), "my laptop");
        assert_eq!(knock.ttl_s, NonZeroU32::new(90));
        assert_eq!(knock.address, None);
        for _ in 0..3 {
            session(&client, &decrypt);
        }
        receiver.expect_none();
    }
}

#[test]
fn an_end_without_the_flag_sends_no_datagram_and_does_not_try_again() {
    let site = Site::new();
    let decrypt = site.decrypt(&[]);
    let to = entrance(&decrypt, CLIENT4);
    let receiver = site.receiver(&to);
    let client = site.start(&site.encrypt(&to, &[]));
    session(&client, &decrypt);
    client.program.signal(Signal::SIGHUP);
    client.program.wait_line("reloaded", |line| line.is("reloaded"));
    receiver.expect_none();
}

#[test]
fn the_bind_address_is_that_of_datagram_and_connection() {
    let site = Site::new();
    site.client.batch(&format!("addr add {OTHER4}/32 dev kp0\n"));
    let decrypt = site.decrypt(&[]);
    let to = entrance(&decrypt, CLIENT4);
    let receiver = site.receiver(&to);
    let client = site.start(&site.encrypt(&to, &["--knock", "-b", OTHER4]));
    let seen = session(&client, &decrypt);
    assert_eq!(receiver.next().from.ip().to_string(), OTHER4);
    assert_eq!(seen.ip().to_string(), OTHER4);
}

/// Half of the shortest time that can be wished passes quickly.
#[test]
fn a_knock_that_is_older_than_half_of_its_time_is_repeated_before_a_connection() {
    let site = Site::new();
    let decrypt = site.decrypt(&[]);
    let to = entrance(&decrypt, CLIENT4);
    let receiver = site.receiver(&to);
    let client = site.start(&site.encrypt(&to, &["--knock", "--knock-ttl", "2s"]));
    session(&client, &decrypt);
    let first = receiver.next().knock;
    let since = Instant::now();
    let second = loop {
        session(&client, &decrypt);
        if let Some(second) = receiver.next_within(Duration::from_millis(10)) {
            break second.knock;
        }
    };
    assert!(since.elapsed() > Duration::from_millis(700), "{:?}", since.elapsed());
    assert_ne!(first.tag, second.tag, "each is new");
}

/// Warm tunnels need a grant although no client is there.
#[test]
fn a_pool_knocks_again_before_the_grant_ends() {
    let site = Site::new();
    let decrypt = site.decrypt(&[]);
    let to = entrance(&decrypt, CLIENT4);
    let receiver = site.receiver(&to);
    let client = site.start(&site.encrypt(&to, &["--knock", "--knock-ttl", "6s", "--pool", "2"]));
    receiver.next();
    let since = Instant::now();
    for _ in 0..2 {
        receiver.next_within(Duration::from_secs(6)).expect("the next one");
    }
    assert!(since.elapsed() > Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!(client.count("pool below target size"), 0);
}

#[test]
fn a_reload_knocks_at_once_and_metrics_count_by_reason() {
    let site = Site::new();
    let decrypt = site.decrypt(&[]);
    let to = entrance(&decrypt, CLIENT4);
    let receiver = site.receiver(&to);
    let socket = site.dir.path().join("metrics.sock");
    let metrics = socket.to_str().unwrap();
    let admin = site.dir.path().join("admin.sock");
    let doors = ["--metrics", metrics, "--admin", admin.to_str().unwrap()];
    let client = site.start(&site.encrypt(&to, &[&["--knock"], &doors[..]].concat()));
    session(&client, &decrypt);
    receiver.next();
    client.program.signal(Signal::SIGHUP);
    receiver.next_within(Duration::from_secs(2)).expect("it knocks at once");
    let line = client.program.wait_line("knocked", |line| line.is("knocked"));
    assert!(line.has("reason", "request") && line.has("from", CLIENT4), "{}", line.text());
    let counts = Metrics::at(&Addr::Unix(socket));
    let sent = |reason: &str| counts.get("knocks_sent_total", &format!(",reason=\"{reason}\""));
    assert_eq!((sent("dial"), sent("request"), sent("retry")), (1.0, 1.0, 0.0));
    let admin = Admin(admin);
    let knocks = admin.tunnel()["knocks_sent"].clone();
    let expected = serde_json::json!({"sent": {"dial": 1, "request": 1}, "failed": 0});
    assert_eq!(knocks, expected);
    let told = admin.says(0, &["status"]);
    let line = told.lines().find(|line| line.trim_start().starts_with("knocks")).unwrap();
    assert!(line.contains("sent: dial=1 request=1; 0 failed"), "{line}");
}

/// A gate closes at once what it does not let in.
#[test]
fn a_connection_that_is_hung_up_on_is_repeated_with_a_knock_and_the_other_clock() {
    let site = Site::new();
    for (knock, tries) in [(&["--knock"][..], 4..=6), (&[][..], 1..=1)] {
        let listener = site.server.enter(|| std::net::TcpListener::bind("198.51.100.1:0").unwrap());
        let to = Addr::Tcp(listener.local_addr().unwrap());
        let receiver = site.receiver(&to);
        let client = site.start(&site.encrypt(&to, &[knock, &["-o", "2s"]].concat()));
        let since = Instant::now();
        let accepts = std::thread::spawn(move || {
            let mut count = 0_usize;
            for stream in listener.incoming() {
                count += 1;
                if stream.unwrap().peer_addr().unwrap().ip().is_loopback() {
                    return count - 1;
                }
            }
            unreachable!("it accepts for ever")
        });
        let mut wire = client.connect();
        wire.expect_ending();
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        let stop = to.tcp();
        site.server.enter(|| {
            let stop = std::net::SocketAddr::from(([127, 0, 0, 1], stop.port()));
            drop(Wire::connect(&Addr::Tcp(stop)));
        });
        let detail = client.wait_closed("no-answer").field("detail").unwrap();
        let remedies = ["check that --knock is on there", "add --knock here"];
        let told = remedies.map(|remedy| detail.contains(remedy));
        assert_eq!(told, [!knock.is_empty(), knock.is_empty()], "{detail}");
        drop(client);
        let knocks = receiver.drain();
        if knock.is_empty() {
            assert!(knocks.is_empty());
        } else {
            assert!(tries.contains(&knocks.len()), "{}", knocks.len());
            let clock = |number: usize| knocks[number].knock.knock.clock_ms as i64;
            let lead = |number: usize| (clock(number) - clock(0)) / 1_000;
            assert!((55..65).contains(&lead(1)), "the other guess: {} s", lead(1));
            assert!((0..10).contains(&lead(2)), "the first one: {} s", lead(2));
        }
        drop(accepts);
    }
}

/// There is no gate that could let this end in.
#[test]
fn another_program_at_the_far_end_is_told_without_a_word_about_knocks() {
    let site = Site::new();
    let listener = site.server.enter(|| std::net::TcpListener::bind("198.51.100.1:0").unwrap());
    let to = Addr::Tcp(listener.local_addr().unwrap());
    let answers = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut stream, b"-ERR unknown command\r\n").unwrap();
        }
    });
    for knock in [&["--knock"][..], &[]] {
        let client = site.start(&site.encrypt(&to, &[knock, &["-o", "2s"]].concat()));
        client.connect().expect_ending();
        let detail = client.wait_closed("no-answer").field("detail").unwrap();
        assert!(detail.contains("Redis") && !detail.contains("--knock"), "{detail}");
    }
    answers.join().unwrap();
}

#[test]
fn the_clock_of_the_far_end_is_that_of_later_knocks() {
    let site = Site::new();
    let clock = FakeClock::new(site.dir.path(), "clock", 3_000);
    let source = Addr::Tcp("[::]:0".parse().unwrap());
    let launch = Launch::decrypt(&site.key).source(&source).target(site.target.addr());
    let launch = launch.args(["--no-sandbox"]).prelude(&clock.prelude());
    let decrypt = site.server.enter(|| launch.start());
    let to = entrance(&decrypt, CLIENT4);
    let receiver = site.receiver(&to);
    // Its own clock is right by that of the far end at first, and then is set back.
    let own = FakeClock::new(site.dir.path(), "own", 3_000);
    let encrypt = site.encrypt(&to, &["--knock", "--no-sandbox"]).prelude(&own.prelude());
    let client = site.start(&encrypt);
    session(&client, &decrypt);
    let first = receiver.next().knock.knock.clock_ms;
    own.set(0);
    client.program.signal(Signal::SIGHUP);
    let second = receiver.next().knock.knock.clock_ms;
    assert!(second.abs_diff(first) < 60_000, "{first} {second}");
}

#[test]
fn flags_that_make_no_sense_are_refused_with_the_remedy() {
    let site = Site::new();
    for (args, said) in [
        (&["--knock-label", "x"][..], "add --knock"),
        (&["--knock", "--knock-ttl", "0s"], "0 seconds is not allowed"),
        (&["--knock", "--knock-ttl", "1500ms"], "whole number of seconds"),
        (&["--knock", "--knock-gate", "a b"], "letters, digits"),
        (&["--knock", "--gate", "office"], "write --knock-gate NAME"),
        (&["--knock", "--gate", "office/1"], "redis://HOST:PORT"),
        (&["--knock", "-t", "/run/x.sock"], "leave --knock out"),
    ] {
        let to = Addr::Tcp("198.51.100.1:1".parse().unwrap());
        let mut program = site.encrypt(&to, args).spawn();
        assert_eq!(program.exit_code(), 2, "{args:?}");
        assert!(program.stderr().contains(said), "{args:?}: {}", program.stderr());
    }
}
