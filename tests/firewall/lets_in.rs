//! Who gets through, who gets nothing, and how soon that changes.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::Duration;

use testkit::netns::{GATE4, dial_from};
use testkit::nft::Sent;
use testkit::redis::redis_cli;
use testkit::wait::poll;
use testkit::{Addr, End, Ending, Launch, NEVER, Program, Target, Wire, eventually, keygen};

use crate::world::{OTHER, OTHER6, PEER, PEER6, Seen, World, works};

/// Time in which a grant is in the firewall of the same host.
const SOON: Duration = Duration::from_millis(250);

/// The shortest of some times counts: other tests run on the same processors.
const ATTEMPTS: usize = 5;

#[test]
fn a_stranger_gets_not_one_packet_and_who_is_allowed_connects_at_once() {
    let world = World::new();
    let _firewall = world.firewall(&[]);
    let sent = world.net.at_gate(Sent::begin);
    let before = world.net.at_gate(|| sent.packets());
    [PEER, OTHER, PEER6, OTHER6].iter().for_each(|source| world.expect_nothing(source));
    assert_eq!(world.net.at_gate(|| sent.packets()), before, "a stranger was answered");
    for (source, other) in [(PEER, OTHER), (PEER6, OTHER6)] {
        let store = world.redis.unix();
        let times = (0..ATTEMPTS).map(|_| {
            world.net.at_gate(|| redis_cli(store, &["SADD", "ip-allowed", source]));
            let time = world.time_to_open(source);
            world.net.at_gate(|| redis_cli(store, &["SREM", "ip-allowed", source]));
            world.wait_closed(source);
            time
        });
        let shortest = times.min().unwrap();
        assert!(shortest < SOON, "{source} connects only after {shortest:?}");
        world.gate(&["allow", source]);
        let mut wire = world.wait_open(source);
        world.expect_nothing(other);
        world.gate(&["deny", source]);
        world.wait_closed(source);
        assert!(works(&mut wire), "a connection that runs goes on without --cut");
    }
}

#[test]
fn a_ban_and_an_end_close_the_port_and_networks_open_it() {
    let world = World::new();
    let firewall = world.firewall(&["--allow-prefix", "ip-allowed:"]);
    world.gate(&["allow", "203.0.113.0/29", "2001:db8:0:1::/64"]);
    world.wait_open(PEER);
    world.wait_open(PEER6);
    world.wait_open(OTHER6);
    world.expect_nothing(OTHER);
    // Out of a network, and for a while only.
    world.gate(&["ban", PEER, "--ttl", "2s"]);
    world.wait_closed(PEER);
    world.wait_open("203.0.113.6");
    world.wait_open(PEER);
    world.redis.ask("SET ip-allowed:203.0.113.8 1 PX 1500");
    world.wait_open(OTHER);
    world.wait_closed(OTHER);
    world.redis.ask("FLUSHALL");
    [PEER, PEER6, OTHER6].iter().for_each(|source| world.wait_closed(source));
    assert_eq!(firewall.count_containing(b"not in step"), 0, "{}", firewall.stderr());
}

#[test]
fn with_cut_running_connections_end_at_both_ends() {
    let world = World::new();
    let _firewall = world.firewall(&["--cut"]);
    for source in [PEER, PEER6] {
        world.gate(&["allow", source]);
        let mut wire = world.wait_open(source);
        assert!(works(&mut wire));
        world.gate(&["deny", source]);
        world.wait_closed(source);
        assert!(!works(&mut wire), "it goes on");
        assert_ne!(wire.read_to_ending(Duration::from_secs(5)).1, Ending::Silent);
    }
}

/// What a service sends to an address that was let in is answered by a reset, which it has to get.
#[test]
fn with_cut_a_service_that_sends_learns_of_the_end() {
    let world = World::new();
    let send = |mut wire: Wire, _: &testkit::target::Counts| {
        while wire.write_all(b"news").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let any = Addr::Tcp("[::]:0".parse().unwrap());
    let talker = world.net.at_gate(|| Target::serve(&any, send));
    let port = talker.addr().tcp().port();
    let ports = port.to_string();
    let launch = Launch::new("firewall").args(["--ports", &ports, "--cut"]);
    let _firewall = world.start(&launch.args(["--gate", &world.redis.url()]));
    world.gate(&["allow", PEER]);
    let opened = poll(NEVER, || match world.look_at(PEER, port) {
        Seen::Open(wire) => Some(wire),
        Seen::Refused | Seen::Nothing => None,
    });
    let wire = opened.expect("it is let in");
    eventually("only this one is left", || talker.counts().live() == 1);
    world.gate(&["deny", PEER]);
    eventually("it ends", || talker.counts().live() == 0);
    drop(wire);
}

/// Connections that this host begins from a guarded port have answers from anybody.
#[test]
fn what_the_host_began_itself_goes_on_with_cut() {
    let world = World::new();
    let server = world.net.at_peers(|| {
        let at = Addr::Tcp("[::]:0".parse().unwrap());
        Target::serve(&at, testkit::target::echo)
    });
    let own = world.net.at_gate(testkit::address::free_port);
    let ports = format!("{own},{}", world.port());
    let launch = Launch::new("firewall").args(["--ports", &ports, "--cut"]);
    let _firewall = world.start(&launch.args(["--gate", &world.redis.url()]));
    let to = Addr::Tcp(format!("198.51.100.2:{}", server.addr().tcp().port()).parse().unwrap());
    let mut wire = world.net.at_gate(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let from: std::net::SocketAddr = format!("198.51.100.1:{own}").parse().unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.tcp().into()).unwrap();
        Wire::Tcp(socket.into())
    });
    assert!(works(&mut wire), "its answers are dropped");
    // And a connection to itself is not guarded.
    let local = Addr::Tcp(format!("127.0.0.1:{}", world.port()).parse().unwrap());
    let mut local = world.net.at_gate(|| Wire::connect(&local).unwrap());
    assert!(works(&mut local));
}

#[test]
fn with_reject_a_stranger_is_told_at_once() {
    let world = World::new();
    let _firewall = world.firewall(&["--reject"]);
    for source in [PEER, PEER6] {
        assert!(matches!(world.look(source), Seen::Refused), "{source}");
    }
}

/// A game server: UDP, and a range of ports.
#[test]
fn datagrams_get_through_from_who_is_allowed_only() {
    let world = World::new();
    let server = world.net.at_gate(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let port = server.local_addr().unwrap().port();
    server.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    let url = world.redis.url();
    let ports = format!("1-2,{port}/udp");
    let launch = Launch::new("firewall").args(["--ports", &ports, "--gate", &url]);
    let _firewall = world.start(&launch);
    let arrives = |source: &str| {
        let to = Addr::Tcp(format!("{GATE4}:{port}").parse().unwrap());
        world.net.at_peers(|| testkit::knock::send_from(source, &to, b"play").unwrap());
        server.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(!arrives(PEER));
    world.gate(&["allow", PEER]);
    eventually("its datagrams arrive", || arrives(PEER));
    assert!(!arrives(OTHER));
    world.gate(&["deny", PEER]);
    eventually("they are dropped again", || !arrives(PEER));
}

/// As Docker publishes ports: the packets never come to a program of this host.
#[test]
fn a_port_that_is_sent_on_is_guarded_by_the_forward_hook() {
    let world = World::new();
    let inner = testkit::netns::Namespace::unique("kpi");
    let port = world.target.addr().tcp().port();
    world.net.link_gate_to(&inner, "10.99.0.1", "10.99.0.2");
    let at = Addr::Tcp("10.99.0.2:80".parse().unwrap());
    let _web = inner.enter(|| Target::serve(&at, testkit::target::echo));
    let to = format!("iifname kp0 tcp dport {port} dnat to 10.99.0.2:80");
    world.nft(&["add table ip nat"]);
    world.nft(&["add chain ip nat pre { type nat hook prerouting priority -100; }"]);
    world.nft(&[&format!("add rule ip nat pre {to}")]);
    world.net.at_gate(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    let mut firewall = world.firewall(&[]);
    assert!(world.is_open(PEER), "the chain for this host does not see it");
    let port = world.port();
    let url = world.redis.url();
    let check = world.run(&["firewall", "check", "--ports", &port, "--gate", &url]);
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.code() == Some(1) && said.contains("--hook input,forward"), "{said}");
    end(&mut firewall);
    let _firewall = world.firewall(&["--hook", "input,forward"]);
    world.expect_nothing(PEER);
    world.gate(&["allow", PEER]);
    let mut wire = world.wait_open(PEER);
    assert!(works(&mut wire));
    world.expect_nothing(OTHER);
}

/// The packets come to the chain with the port of the program, which is not guarded.
#[test]
fn a_port_that_is_redirected_on_this_host_is_guarded() {
    let world = World::new();
    world.nft(&["add table inet nat"]);
    world.nft(&["add chain inet nat pre { type nat hook prerouting priority -100; }"]);
    let redirect = format!("tcp dport 7 redirect to :{}", world.port());
    world.nft(&[&format!("add rule inet nat pre {redirect}")]);
    assert!(matches!(world.look_at(OTHER, 7), Seen::Open(_)));
    let url = world.redis.url();
    let _firewall = world.start(&Launch::new("firewall").args(["--ports", "7", "--gate", &url]));
    let seen = world.look_at(OTHER, 7);
    assert!(matches!(seen, Seen::Nothing), "{seen:?}");
    world.gate(&["allow", PEER]);
    eventually("it is let in", || matches!(world.look_at(PEER, 7), Seen::Open(_)));
}

#[track_caller]
pub(crate) fn end(firewall: &mut Program) {
    firewall.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(firewall.exit_code(), 0);
}

/// A signed knock at a decrypt end, and one over HTTP: both write the store, and the firewall reads
/// it. The knock's own port is not guarded.
#[test]
fn knocks_open_the_firewall() {
    let world = World::new();
    let key = keygen(world.dir.path(), "key");
    let store = ["--gate", &world.redis.url(), "--allow-prefix", "ip-allowed:"];
    let _firewall = world.firewall(&["--allow-prefix", "ip-allowed:"]);
    let decrypt = Launch::decrypt(&key).source(&Addr::Tcp("[::]:0".parse().unwrap()));
    let decrypt = decrypt.target(world.target.addr()).args(store).args(["--knock"]);
    let decrypt = world.net.at_gate(|| decrypt.start());
    decrypt.program.wait_line("it", |line| line.is("listening for knocks"));
    world.expect_nothing(PEER);
    let port = decrypt.addr().tcp().port();
    let to = Addr::Tcp(format!("{GATE4}:{port}").parse().unwrap());
    world.net.at_peers(|| testkit::knock::Knocking::new(&key).send(PEER, &to));
    world.wait_open(PEER);
    world.expect_nothing(OTHER);
    let knockd = knockd(&world, &store);
    let port = knockd.addr().tcp().port();
    let to = Addr::Tcp(format!("{GATE4}:{port}").parse().unwrap());
    let answer = world.net.at_peers(|| {
        let mut wire = dial_from(OTHER, &to).unwrap();
        let head = "POST /knock HTTP/1.1\r\nHost: a\r\nX-Api-Key: token-of-the-tests-00000001\r\n";
        write!(wire, "{head}Connection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        wire.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    world.wait_open(OTHER);
    world.expect_nothing("203.0.113.9");
}

/// Starts a service of knocks over HTTP with one token.
fn knockd(world: &World, store: &[&str]) -> End {
    let tokens = world.dir.path().join("tokens");
    let tokens = tokens.to_str().unwrap();
    let token = world.dir.path().join("token");
    std::fs::write(&token, "token-of-the-tests-00000001").unwrap();
    let token = token.to_str().unwrap();
    std::fs::set_permissions(token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let made = world.run(&["knockd", "token", "new", "phone", "--tokens", tokens, "--from", token]);
    assert!(made.status.success(), "{made:?}");
    let launch = Launch::new("knockd").args(["-s", "[::]:0", "--allow-plain-http"]);
    let launch = launch.args(["--tokens", tokens]).args(store);
    world.net.at_gate(|| launch.start())
}
