//! Senders that were away: halted while their host slept, without a network, or killed. Each knocks
//! as soon as it is back, before a client asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use testkit::clock::HostTime;
use testkit::{Addr, End, Launch, Program, eventually};

use crate::command::{command, free};
use crate::site::{
    Arrived, CLIENT4, CLIENT6, Receiver, SERVER4, Site, entrance, gets_through, live_soon,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Times of sleep: shorter than half of an hour's grant, which is not renewed by then, and longer
/// than the whole.
const NAPS: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(9 * 3_600)];

/// Longest pause between two attempts of one who stays.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Starts `knock --keep` at the client, which asks for an hour.
fn keep(site: &Site, time: &HostTime, at: &Addr) -> Program {
    let log = ["--log-format", "json", "--log-level", "debug"];
    let at = at.to_string();
    let args = [&["--keep", "--ttl", "1h", &at], &log[..]].concat();
    let mut command = command(site, &args);
    command.envs(time.variables());
    site.client.enter(|| Program::spawn("knock", &mut command))
}

/// Starts a decrypt end at the server with the same time.
#[track_caller]
fn decrypt(site: &Site, time: &HostTime, args: &[&str]) -> End {
    let source = Addr::Tcp("[::]:0".parse().unwrap());
    let launch = Launch::decrypt(&site.key).source(&source).target(site.target.addr());
    let launch = launch.args(args).prelude(&time.prelude());
    site.server.enter(|| launch.start())
}

/// Halts a program while its host sleeps, and returns the knock that follows.
#[track_caller]
fn sleep(program: &Program, time: &HostTime, nap: Duration, receiver: &Receiver) -> Arrived {
    program.signal(Signal::SIGSTOP);
    receiver.drain();
    time.sleep(nap);
    receiver.expect_none();
    program.signal(Signal::SIGCONT);
    receiver.next()
}

/// Counts the knocks of a log that were sent for `reason`.
fn knocked(program: &Program, reason: &str) -> usize {
    let is_one = |line: &testkit::Line| line.is("knocked") && line.has("reason", reason);
    program.log().iter().filter(|line| is_one(line)).count()
}

/// The clock of a knock is that after the sleep.
#[track_caller]
fn expect_clock(arrived: &Arrived, asleep: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + asleep;
    let clock = Duration::from_millis(arrived.knock.knock.clock_ms);
    assert!(clock.abs_diff(now) < Duration::from_secs(100), "{clock:?} at {now:?}");
}

#[test]
fn one_who_stays_knocks_at_once_after_its_host_slept() {
    let site = Site::new();
    let time = HostTime::new(site.dir.path());
    let at = free(&site, SERVER4);
    let receiver = site.receiver(&at);
    let program = keep(&site, &time, &at);
    expect_clock(&receiver.next(), Duration::ZERO);
    let mut asleep = Duration::ZERO;
    for (count, nap) in (1..).zip(NAPS) {
        asleep += nap;
        expect_clock(&sleep(&program, &time, nap, &receiver), asleep);
        eventually("it says why", || knocked(&program, "resume") == count);
        receiver.expect_none();
    }
}

#[test]
fn an_encrypt_end_knocks_at_once_after_its_host_slept() {
    for pool in [&[][..], &["--pool", "1"]] {
        let site = Site::new();
        let time = HostTime::new(site.dir.path());
        // Both ends share the time, as hosts with right clocks do.
        let decrypt = decrypt(&site, &time, &[]);
        let to = entrance(&decrypt, CLIENT4);
        let receiver = site.receiver(&to);
        let args = [&["--knock", "--knock-ttl", "1h"], pool].concat();
        let client = site.start(&site.encrypt(&to, &args).prelude(&time.prelude()));
        drop(live_soon(&client));
        receiver.next();
        for (count, nap) in (1..).zip(NAPS) {
            sleep(&client.program, &time, nap, &receiver);
            eventually("it says why", || knocked(&client.program, "resume") == count);
            assert!(gets_through(&client), "{}", client.program.tail());
        }
    }
}

/// The grant ends while the client is halted.
#[test]
fn a_client_that_slept_for_longer_than_its_grant_is_let_in_before_it_connects() {
    let site = Site::new();
    let time = HostTime::new(site.dir.path());
    let decrypt = decrypt(&site, &time, &["--knock"]);
    for address in [CLIENT4, CLIENT6] {
        let encrypt = site.encrypt(&entrance(&decrypt, address), &["--knock"]);
        let client = site.start(&encrypt.prelude(&time.prelude()));
        assert!(gets_through(&client), "{}", client.program.tail());
        let grants = granted(&decrypt, address);
        client.program.signal(Signal::SIGSTOP);
        time.sleep(NAPS[1]);
        client.program.signal(Signal::SIGCONT);
        eventually("it is let in again", || granted(&decrypt, address) > grants);
        assert!(gets_through(&client), "{}", client.program.tail());
    }
}

/// Counts the grants of an address that was not admitted.
fn granted(decrypt: &End, address: &str) -> usize {
    let is_one = |line: &testkit::Line| line.is("knock granted") && line.has("address", address);
    decrypt.program.log().iter().filter(|line| is_one(line)).count()
}

/// Takes the client's link away, and brings it back. The IPv4 address stays meanwhile.
fn set_link(site: &Site, is_up: bool) {
    let up = format!("link set kp0 up\nroute replace {SERVER4}/32 dev kp0\n");
    site.client.batch(if is_up { &up } else { "link set kp0 down\n" });
}

/// A host keeps its IPv4 address while its cable is out, so that only routes tell of the return.
#[test]
fn one_who_stays_knocks_at_once_when_its_network_is_back() {
    let site = Site::new();
    site.client.batch(&format!("addr del {CLIENT6}/128 dev kp0\n"));
    let time = HostTime::new(site.dir.path());
    let at = free(&site, SERVER4);
    let receiver = site.receiver(&at);
    let program = keep(&site, &time, &at);
    receiver.next();
    let count = |message: &str| program.log().iter().filter(|line| line.is(message)).count();
    for round in 1..=2 {
        set_link(&site, false);
        // The grant ends, and attempts become so rare that none helps in time.
        time.pass(HOUR);
        let before = count("cannot knock");
        for failures in 1..=10 {
            eventually("it fails", || count("cannot knock") >= before + failures);
            time.pass(LONGEST_PAUSE);
        }
        eventually("it fails once more", || count("cannot knock") > before + 10);
        receiver.expect_none();
        set_link(&site, true);
        receiver.next();
        eventually("it says so", || count("knocking works again") == round);
    }
}

#[test]
fn an_encrypt_end_knocks_at_once_when_its_network_is_back() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock"]);
    site.client.batch(&format!("addr del {CLIENT6}/128 dev kp0\n"));
    let to = entrance(&decrypt, CLIENT4);
    let client = site.start(&site.encrypt(&to, &["--knock", "-o", "2s"]));
    assert!(gets_through(&client), "{}", client.program.tail());
    for _ in 0..2 {
        set_link(&site, false);
        assert!(!gets_through(&client), "it has no network");
        let before = knocked(&client.program, "address-change");
        set_link(&site, true);
        eventually("it knocks", || knocked(&client.program, "address-change") > before);
        assert!(gets_through(&client), "{}", client.program.tail());
    }
}

#[test]
fn an_encrypt_end_that_was_killed_and_started_again_gets_through() {
    let site = Site::new();
    let decrypt = site.decrypt(&["--knock"]);
    for address in [CLIENT4, CLIENT6] {
        let to = entrance(&decrypt, address);
        for pool in [&[][..], &["--pool", "1"]] {
            let launch = site.encrypt(&to, &[&["--knock"], pool].concat());
            let client = site.start(&launch);
            assert!(gets_through(&client), "{address}; {}", client.program.tail());
            client.program.signal(Signal::SIGKILL);
            drop(client);
            let client = site.start(&launch);
            assert!(gets_through(&client), "{address}; {}", client.program.tail());
        }
    }
}
