//! Doors that open for knocks: firewalls in front of a far end, and the two flags of a pair.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::{binary, eventually, keygen};

use crate::site::{CLIENT4, CLIENT6, Site, entrance, gets_through, live_soon};

#[test]
fn two_flags_and_a_key_are_enough_and_without_either_nobody_gets_in() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock", "--knock-ttl", "2s"]);
    for address in [CLIENT4, CLIENT6] {
        let to = entrance(&decrypt, address);
        let without = site.start(&site.encrypt(&to, &[]));
        assert!(!gets_through(&without), "{address} did not knock");
        drop(without);
        let client = site.start(&site.encrypt(&to, &["--knock"]));
        assert!(gets_through(&client), "{address}; its log:\n{}", client.program.tail());
        let since = Instant::now();
        assert!(gets_through(&client), "{address} again");
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
    // Clients that have left are out again, and another key opens nothing.
    let other = keygen(site.dir.path(), "other");
    let to = entrance(&decrypt, CLIENT4);
    let without = site.start(&site.encrypt(&to, &[]));
    eventually("the grant ends", || !gets_through(&without));
    let socket = testkit::Addr::Unix(site.dir.path().join("other.sock"));
    let launch = testkit::Launch::encrypt(&other).source(&socket).target(&to).args(["--knock"]);
    assert!(!gets_through(&site.start(&launch)));
}

/// Drops the first datagrams to a port of the server, and counts them.
fn lose(site: &Site, port: u16, count: u32) {
    site.server.nft(&format!(
        "table inet lose {{\n counter lost {{ }}\n\
         chain in {{\n type filter hook input priority 0;\n\
         udp dport {port} limit rate over 1/hour burst {count} packets accept\n\
         udp dport {port} counter name lost drop\n }}\n}}\n"
    ));
}

/// Returns the number of those that were dropped.
fn lost(site: &Site) -> u32 {
    let list = || {
        let mut command = Command::new("nft");
        command.env("PATH", std::env::var("PATH").unwrap() + ":/usr/sbin:/sbin");
        command.args(["list", "counter", "inet", "lose", "lost"]).output().unwrap().stdout
    };
    let text = String::from_utf8(site.server.enter(list)).unwrap();
    let packets = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    packets.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[test]
fn a_lost_knock_is_repeated_within_the_deadline() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock"]);
    for (count, address) in [(1, CLIENT4), (2, CLIENT6)] {
        lose(&site, decrypt.addr().tcp().port(), count);
        let client = site.start(&site.encrypt(&entrance(&decrypt, address), &["--knock"]));
        let since = Instant::now();
        assert!(gets_through(&client), "{address}; its log:\n{}", client.program.tail());
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert_eq!(lost(&site), count, "{address}");
        site.server.nft("delete table inet lose\n");
    }
}

/// A port that rejects, and one that does not exist, until a knock has come by.
#[test]
fn a_firewall_that_opens_for_a_knock_is_waited_for() {
    for verdict in ["reject with tcp reset", "drop"] {
        let site = Site::new();
        let decrypt = site.decrypt(&[]);
        let to = entrance(&decrypt, CLIENT4);
        let port = to.tcp().port();
        let receiver = site.receiver(&to);
        site.server.nft(&format!(
            "table inet gate {{\n chain in {{\n type filter hook input priority 0;\n\
             tcp dport {port} {verdict}\n }}\n}}\n"
        ));
        let client = site.start(&site.encrypt(&to, &["--knock"]));
        let since = Instant::now();
        let mut wire = client.connect();
        receiver.next();
        site.server.nft("delete table inet gate\n");
        wire.expect_echo(b"hello");
        assert!(since.elapsed() < Duration::from_secs(4), "{verdict}: {:?}", since.elapsed());
    }
}

#[test]
fn a_decrypt_end_that_was_restarted_and_has_forgotten_lets_its_clients_in_again() {
    let site = Site::new();
    let mut decrypt = site.decrypt(&["--knock"]);
    let port = decrypt.addr().tcp().port();
    let to = entrance(&decrypt, CLIENT4);
    let client = site.start(&site.encrypt(&to, &["--knock"]));
    assert!(gets_through(&client));
    decrypt.stop();
    drop(decrypt);
    let _decrypt = site.decrypt_at(port, &["--knock"]);
    let since = Instant::now();
    drop(live_soon(&client));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[test]
fn a_pool_is_filled_through_a_gate_and_stays_filled() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock", "--knock-ttl", "6s"]);
    let socket = site.dir.path().join("metrics.sock");
    let to = entrance(&decrypt, CLIENT4);
    let args = ["--knock", "--knock-ttl", "6s", "--pool", "2", "--metrics"];
    let client = site.start(&site.encrypt(&to, &[&args[..], &[socket.to_str().unwrap()]].concat()));
    let metrics = testkit::Addr::Unix(socket);
    let get = |name: &str| testkit::admin::Metrics::at(&metrics).get(name, "");
    client.program.wait_line("ready", |line| line.is("ready"));
    eventually("the pool is full", || get("pool_warm") == 2.0);
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        assert_eq!(get("pool_failed_total"), 0.0, "{}", client.program.tail());
    }
    assert!(gets_through(&client));
}

#[test]
fn pipe_knocks_too() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock"]);
    let to = entrance(&decrypt, CLIENT4).to_string();
    for (knock, gets_in) in [(&[][..], false), (&["--knock", "--knock-label", "ssh"][..], true)] {
        let output = site.client.enter(|| {
            let mut child = Command::new(binary())
                .args(["pipe", "-t", &to, "-o", "2s", "-k"])
                .arg(&site.key)
                .args(knock)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            use std::io::Write;
            let _ = child.stdin.take().unwrap().write_all(b"through a pipe");
            child.wait_with_output().unwrap()
        });
        assert_eq!(output.status.success(), gets_in, "{knock:?}");
        assert_eq!(output.stdout == b"through a pipe", gets_in);
    }
}

#[test]
fn check_knocks_if_it_is_told_to() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock"]);
    let to = entrance(&decrypt, CLIENT4).to_string();
    let check = |knock: &[&str]| {
        let run = || {
            let mut command = Command::new(binary());
            command.args(["check", "-t", &to, "-o", "2s", "-k"]).arg(&site.key).args(knock);
            command.output().unwrap().status.code()
        };
        site.client.enter(run)
    };
    assert_eq!(check(&[]), Some(1));
    assert_eq!(check(&["--knock"]), Some(0));
}
