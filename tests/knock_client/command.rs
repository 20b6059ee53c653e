//! `knockpipe knock`: for people and scripts.

use std::num::NonZeroU32;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{Addr, Program, binary};

use crate::site::{CLIENT4, CLIENT6, OTHER4, OTHER6, SERVER4, SERVER6, Site, entrance};

/// Runs `knockpipe knock` at the client.
fn knock(site: &Site, args: &[&str]) -> Output {
    site.client.enter(|| command(site, args).output().unwrap())
}

pub(crate) fn command(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("knock").arg("-k").arg(&site.key).args(args).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Returns the address of a port of the server that nobody listens on over TCP.
pub(crate) fn free(site: &Site, ip: &str) -> Addr {
    let at = std::net::SocketAddr::new(ip.parse().unwrap(), 0);
    let at = site.server.enter(|| std::net::TcpListener::bind(at).unwrap().local_addr().unwrap());
    Addr::Tcp(at)
}

#[test]
fn one_knock_carries_what_was_asked_for_and_says_what_was_sent() {
    let site = Site::new();
    for (server, client) in [(SERVER4, CLIENT4), (SERVER6, CLIENT6)] {
        let at = free(&site, server);
        let receiver = site.receiver(&at);
        let (status, out, err) = said(&knock(&site, &[&at.to_string()]));
        assert_eq!((status, err.as_str()), (Some(0), ""));
        assert_eq!(out, format!("knocked at {at} from {client} (start)\n"));
        let arrived = receiver.next();
        assert_eq!(arrived.from.ip().to_string(), client);
        assert_eq!((arrived.knock.knock.ttl_s, arrived.knock.knock.address), (None, None));
        let asked = ["--ttl", "8h", "--address", "192.0.2.0/28", "--gate", "db", "--label", "x y"];
        let at = at.to_string();
        let (status, out, _) =
            said(&knock(&site, &[&[at.as_str(), "--json"], &asked[..]].concat()));
        assert_eq!(status, Some(0));
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&line["event"], &line["to"]), (&"sent".into(), &at.as_str().into()));
        assert_eq!((&line["from"], &line["ttl_s"]), (&client.into(), &28_800.into()));
        let knock = receiver.next().knock.knock;
        assert_eq!(knock.ttl_s, NonZeroU32::new(28_800));
        assert_eq!(knock.address.unwrap().to_string(), "192.0.2.0/28");
        assert_eq!(knock.gate.unwrap().as_str(), "db");
        assert_eq!(knock.label.unwrap().as_str(), "x y");
        receiver.expect_none();
    }
}

#[test]
fn a_knock_that_cannot_be_sent_or_is_refused_is_status_1() {
    let site = Site::new();
    let nobody = free(&site, SERVER4);
    for (at, why) in [
        ("192.0.2.1:6380", "unreachable"),
        (&nobody.to_string(), "refused"),
        ("no-such-host.invalid:6380", "cannot resolve"),
    ] {
        let (status, out, err) = said(&knock(&site, &[at, "-o", "2s", "--json"]));
        assert!(out.contains("\"event\":\"failed\"") && out.contains(why), "{at}: {out}");
        assert_eq!(status, Some(1), "{at}: {err}");
        assert!(err.contains(why) && err.contains("; "), "{at}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2_with_the_remedy() {
    let site = Site::new();
    for (args, remedy) in [
        (&["https://db.example.org/"][..], "give --token-file FILE in its place"),
        (&["/run/gate.sock"], "write HOST:PORT"),
        (&["db.example.org"], "db.example.org:PORT"),
        (&["a:1", "--ttl", "0s"], "give a time"),
        (&["a:1", "--ttl", "10ms"], "whole number of seconds"),
        (&["a:1", "--address", "x"], "write one such as 203.0.113.7"),
        (&["a:1", "--label", ""], "write a few words"),
        (&["a:1", "--knock-label", "x"], "write --label"),
        (&["-t", "a:1"], "write HOST:PORT without a flag"),
        (&["a:1", "-o", "0s"], "give a time"),
        (&[], "HOST:PORT"),
    ] {
        let (status, out, err) = said(&knock(&site, args));
        assert_eq!((status, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains(remedy), "{args:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn a_port_is_waited_for_until_it_opens() {
    let site = Site::new();
    let mut decrypt = site.decrypt(&["--knock"]);
    for address in [CLIENT4, CLIENT6] {
        let at = entrance(&decrypt, address).to_string();
        let (status, out, err) = said(&knock(&site, &[&at, "--wait-for", &at]));
        assert_eq!(status, Some(0), "{out}{err}");
        assert!(out.ends_with(&format!("{at} is open\n")), "{out}");
    }
    // Another key opens nothing: the port hangs up.
    let other = testkit::keygen(site.dir.path(), "other");
    let at = entrance(&decrypt, CLIENT4).to_string();
    site.move_client([CLIENT4, CLIENT6], [OTHER4, OTHER6]);
    let asked = || {
        let mut command = Command::new(binary());
        command.args(["knock", &at, "--wait-for", &at, "-o", "2s", "--json", "-k"]).arg(&other);
        command.output().unwrap()
    };
    let since = Instant::now();
    let (status, out, err) = said(&site.client.enter(asked));
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(
        out.contains("\"event\":\"closed\"") && err.contains("did not open within 2 s"),
        "{err}"
    );
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // To look whether a port opens is no failed handshake. What is not logged yet is, at the end.
    decrypt.stop();
    assert_eq!(decrypt.refused("handshake-failed"), 0, "{}", decrypt.program.tail());
    assert!(decrypt.refused("gate-denied") > 0, "{}", decrypt.program.tail());
}

/// A program of `knock --keep` that asks for a short time.
fn keep(site: &Site, args: &[&str]) -> Program {
    let args = [&["--keep", "--ttl", "5s"], args].concat();
    site.client.enter(|| Program::spawn("knock", &mut command(site, &args)))
}

#[test]
fn one_who_stays_knocks_before_the_grant_ends_and_ends_with_status_0() {
    let site = Site::new();
    let at = free(&site, SERVER4);
    let receiver = site.receiver(&at);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut program = keep(&site, &[&at.to_string()]);
        receiver.next();
        receiver.next_within(Duration::from_secs(5)).expect("the next one");
        program.signal(signal);
        assert_eq!(program.exit_code(), 0, "{}", program.tail());
        receiver.drain();
    }
}

#[test]
fn one_who_stays_knocks_at_once_when_asked_moved_halted_or_started_again() {
    let site = Site::new();
    let at = free(&site, SERVER4);
    let receiver = site.receiver(&at);
    let start = || {
        let args = ["--keep", "--ttl", "1h", &at.to_string()];
        let program = site.client.enter(|| Program::spawn("knock", &mut command(&site, &args)));
        receiver.next();
        program
    };
    let soon = |what: &str| {
        let arrived = receiver.next_within(Duration::from_secs(10));
        arrived.unwrap_or_else(|| panic!("it knocks after {what}")).from.ip().to_string()
    };
    let program = start();
    program.signal(Signal::SIGHUP);
    soon("SIGHUP");
    site.move_client([CLIENT4, CLIENT6], [OTHER4, OTHER6]);
    let mut sources = vec![soon("another address")];
    sources.extend(receiver.drain().iter().map(|arrived| arrived.from.ip().to_string()));
    assert!(sources.contains(&OTHER4.to_owned()), "{sources:?}");
    // Killed, and started again.
    program.signal(Signal::SIGKILL);
    drop(program);
    drop(start());
    // Halted for longer than a grant, as by a lid that is closed.
    let program = keep(&site, &[&at.to_string()]);
    receiver.next();
    program.signal(Signal::SIGSTOP);
    receiver.drain();
    std::thread::sleep(Duration::from_secs(6));
    receiver.expect_none();
    program.signal(Signal::SIGCONT);
    soon("a halt");
}

/// The gate would give longer, and some refuse a clock that is a minute ahead.
#[test]
fn one_who_stays_asks_for_a_minute_each_time_by_its_own_clock() {
    let site = Site::new();
    let at = free(&site, SERVER4);
    let receiver = site.receiver(&at);
    let args = ["--keep", &at.to_string()];
    let program = site.client.enter(|| Program::spawn("knock", &mut command(&site, &args)));
    for number in 0..3 {
        let arrived = receiver.next_within(Duration::from_secs(30)).expect("it knocks");
        let knock = arrived.knock.knock;
        assert_eq!(knock.ttl_s, NonZeroU32::new(60), "knock {number}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let off_s = knock.clock_ms.abs_diff(u64::try_from(now.as_millis()).unwrap()) / 1_000;
        assert!(off_s < 30, "knock {number} has a clock that is {off_s} s off");
        program.signal(Signal::SIGHUP);
    }
}

/// It starts before the network does, and does not give up.
#[test]
fn one_who_stays_survives_a_network_that_is_away() {
    let site = Site::new();
    let at = free(&site, SERVER4);
    let receiver = site.receiver(&at);
    site.client.batch("link set kp0 down\n");
    let mut program = keep(&site, &[&at.to_string()]);
    testkit::eventually("it says so", || program.stderr().contains("knocking does not work"));
    assert!(program.is_running());
    site.client.batch(&format!("link set kp0 up\nroute replace {SERVER4}/32 dev kp0\n"));
    receiver.next_within(Duration::from_secs(10)).expect("it knocks when the network is there");
    testkit::eventually("it says so", || program.stderr().contains("knocking works again"));
}

#[test]
fn one_who_stays_keeps_a_real_gate_open() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock", "--knock-ttl", "5s"]);
    let at = entrance(&decrypt, CLIENT4);
    let _program = keep(&site, &[&at.to_string()]);
    decrypt.program.wait_line("knock granted", |line| line.is("knock granted"));
    let client = site.start(&site.encrypt(&at, &["-o", "2s"]));
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert!(crate::site::gets_through(&client), "{}", client.program.tail());
    }
}
