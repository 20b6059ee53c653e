//! Names of a gate's store, in a mount namespace with names of our own: addresses that swallow
//! packets, and the step that a message names.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};
use testkit::machine::Machine;
use testkit::redis::Redis;
use testkit::{Launch, any, keygen};

/// A name with an IPv6 address, which name service gives first, and an IPv4 address.
const NAME: &str = "store.knockpipe.test";
const HOSTS: &str = "::1 store.knockpipe.test\n127.0.0.1 store.knockpipe.test\n";

/// A listener that swallows connection attempts: its backlog is full.
struct BlackHole(Vec<Socket>);

impl BlackHole {
    fn at(addr: SocketAddr) -> Self {
        let hole = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        hole.set_only_v6(true).unwrap();
        hole.bind(&SockAddr::from(addr)).unwrap();
        hole.listen(0).unwrap();
        let mut kept = vec![hole];
        for _ in 0..8 {
            let filler = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&addr.into());
            kept.push(filler);
        }
        Self(kept)
    }
}

fn gate(knockpipe: &Path, words: &str) -> Output {
    Command::new(knockpipe).arg("gate").args(words.split_whitespace()).output().unwrap()
}

#[track_caller]
fn works(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

#[track_caller]
fn complains(output: &Output, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// As for targets: the second address of the name is tried a quarter of a second after
/// the first, which takes all the time that there is.
#[test]
fn a_store_is_found_behind_an_address_that_swallows_packets() {
    let (machine, redis) = (Machine::new(HOSTS), Redis::start());
    let port = redis.tcp().tcp().port();
    let hole = BlackHole::at((Ipv6Addr::LOCALHOST, port).into());
    let knockpipe = machine.knockpipe();
    let url = format!("redis://{NAME}:{port}");
    works(&gate(&knockpipe, &format!("allow 127.0.0.1 --gate {url}")));

    let key = keygen(machine.path(), "key");
    let launch = Launch::decrypt(&key).binary(&knockpipe).source(&any());
    let end = launch.args(["-t", "127.0.0.1:1", "--gate", &url]).start();
    end.program.wait_line("the store is read", |line| line.is("gate store synced"));
    assert_eq!(end.count("gate store unavailable"), 0, "{}", end.program.tail());

    let file = machine.path().join("far.toml");
    let target = redis.tcp();
    let table = format!(
        "[tunnels.far]\nmode = \"decrypt\"\nsource = \"127.0.0.1:0\"\ntarget = \"{target}\"\n\
         key = \"{}\"\ngate = \"{url}\"\n",
        key.display()
    );
    fs::write(&file, table).unwrap();
    let check = Command::new(&knockpipe).args(["check", "--connect", "-c"]).arg(&file).output();
    works(&check.unwrap());
    assert_eq!(hole.0.len(), 9);
}

/// Look-up, connection, TLS and login fail in their own words.
#[test]
fn a_message_names_the_step_that_failed() {
    let (machine, redis) = (Machine::new(HOSTS), Redis::start());
    let knockpipe = machine.knockpipe();
    let port = redis.tcp().tcp().port();
    let list = |url: &str| gate(&knockpipe, &format!("list --gate {url}"));
    complains(
        &list("redis://none.knockpipe.test:1"),
        &["looking up none.knockpipe.test", "check name service"],
    );
    let closed = testkit::address::free_port();
    complains(
        &list(&format!("redis://{NAME}:{closed}")),
        &[&format!("connecting to {NAME} ("), &format!(":{closed})"), "nothing listens there"],
    );
    #[cfg(feature = "aws-lc")]
    complains(
        &list(&format!("rediss://{NAME}:{port}")),
        &[&format!("TLS with {NAME} (127.0.0.1:{port}): ")],
    );
    redis.signal(Signal::SIGSTOP);
    complains(
        &list(&format!("redis://{NAME}:{port}")),
        &[&format!("logging in at {NAME} (127.0.0.1:{port}): does not answer within a second")],
    );
    redis.signal(Signal::SIGCONT);
}

/// A connection without an answer takes its own time and no more.
#[test]
fn an_unanswered_connection_is_given_up() {
    let hosts = "::1 store.knockpipe.test\n";
    let (machine, port) = (Machine::new(hosts), testkit::address::free_port());
    let _hole = BlackHole::at((Ipv6Addr::LOCALHOST, port).into());
    let output = gate(&machine.knockpipe(), &format!("list --gate redis://{NAME}:{port}"));
    complains(&output, &[&format!("connecting to {NAME} ([::1]:{port}): no answer within 2 s")]);
}
