//! The PROXY protocol in front of the gate and behind it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;

use knockpipe::proxy_protocol::Version;
use knockpipe::proxy_protocol::outgoing::encode;

use super::world::{OTHER, PEER, PEER6, SOON, Stage, World, entrance, refused};
use testkit::mariadb::{MariaDb, query};
use testkit::netns::{Net, dial_from};
use testkit::wire::Listener;
use testkit::{Addr, Launch, NEVER, Wire, eventually};

/// The load balancer that is listed.
const BALANCER: &str = "203.0.113.10";

/// A peer that is not listed and sends headers.
const IMPOSTOR: &str = "203.0.113.11";

/// Forwards every connection to `to` from `source`, behind `header`; returns the address to connect
/// to.
fn balancer(stage: &Stage, source: &'static str, header: &[u8], to: &Addr) -> Addr {
    let listener =
        stage.net.at_peers(|| Listener::bind(&Addr::Tcp("127.0.0.1:0".parse().unwrap())));
    let listener = listener.unwrap();
    let (entrance, header, to) = (listener.addr(), header.to_vec(), to.clone());
    stage.net.spawn_at_peers(move || {
        while let Ok(client) = listener.accept() {
            let mut server = dial_from(source, &to).unwrap();
            server.write_all(&header).unwrap();
            let back = (server.try_clone(), client.try_clone());
            thread::spawn(move || copy(back.0, &back.1));
            thread::spawn(move || copy(client, &server));
        }
    });
    entrance
}

/// Copies to the end of `from`, clean or not.
fn copy(mut from: Wire, to: &Wire) {
    let _ = std::io::copy(&mut from, &mut to.try_clone());
    let _ = to.shutdown(Shutdown::Write);
}

/// Starts an encrypt end on the peers' machine that dials `to` and listens on a unix socket.
fn encrypt(stage: &Stage, name: &str, to: &Addr) -> testkit::End {
    let launch = Launch::encrypt(&stage.key)
        .source(&Addr::Unix(stage.dir.path().join(name)))
        .target(to)
        .args(["-o", "2s"]);
    stage.net.at_peers(|| launch.start())
}

#[test]
fn a_listed_peer_announces_its_clients() {
    let flags = ["--proxy-from", "203.0.113.10/32", "-o", "1s", "--internal", "allow"];
    let world = World::new(&flags);
    let (stage, entrance) = (&world.stage, world.entrance(PEER));
    let announce = |client: &str| {
        let header = match client.contains(':') {
            true => format!("PROXY TCP6 {client} 2001:db8:0:2::1 40001 8023\r\n"),
            false => format!("PROXY TCP4 {client} 198.51.100.1 40001 8023\r\n"),
        };
        let front = balancer(stage, BALANCER, header.as_bytes(), &entrance);
        encrypt(stage, &format!("{}.sock", client.replace(':', "_")), &front)
    };
    let gets_in = |end: &testkit::End| end.connect().echoes(b"may I?", NEVER);

    // The announced address counts, not that of the balancer.
    world.redis(&format!("SADD ip-allowed {BALANCER} {OTHER}"));
    world.wait_in(OTHER);
    for client in [PEER, PEER6] {
        let end = announce(client);
        assert!(!gets_in(&end), "{client}");
        world.redis(&format!("SADD ip-allowed {client}"));
        eventually("the client is let in", || gets_in(&end));
        // Live ones end by their own address.
        let mut live = end.connect();
        live.expect_echo(b"live");
        world.redis(&format!("SREM ip-allowed {client}"));
        super::world::expect_end(&mut live);
    }
    // An announced internal address does not make a client internal.
    let end = announce("10.1.2.3");
    assert!(!gets_in(&end));
    drop(end);
    let logged = |line: &testkit::Line| line.field("peer");
    let peers: Vec<String> = world.gate.closed().iter().filter_map(logged).collect();
    assert!(peers.iter().any(|peer| peer == &format!("{PEER}:40001")), "{peers:?}");
    assert!(peers.iter().any(|peer| peer == &format!("[{PEER6}]:40001")), "{peers:?}");
}

#[test]
fn a_header_from_an_unlisted_peer_is_refused() {
    let world = World::new(&["--proxy-from", "203.0.113.10", "-o", "1s"]);
    world.redis(&format!("SADD ip-allowed {IMPOSTOR} {PEER}"));
    world.wait_in(IMPOSTOR);
    let before = world.target.counts().accepts();
    let header = format!("PROXY TCP4 {PEER} 198.51.100.1 40001 8023\r\n");
    let entrance = world.entrance(IMPOSTOR);
    let front = balancer(&world.stage, IMPOSTOR, header.as_bytes(), &entrance);
    let end = encrypt(&world.stage, "impostor.sock", &front);
    assert!(!end.connect().echoes(b"may I?", NEVER));
    assert_eq!(world.target.counts().accepts(), before);
}

/// A listed peer must announce a client: nothing, or anything else, is refused.
#[test]
fn malformed_headers_are_refused() {
    let world = World::new(&["--proxy-from", "203.0.113.0/28,203.0.113.200", "-o", "1s"]);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n";
    let more = |rest: &[u8]| [&v2[..], rest].concat();
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        b"PROXY".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x55; 2_000],
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40001\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40001 70000\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 198.51.100.1 40001 1\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7  198.51.100.1 40001 1\r\n".to_vec(),
        b"PROXY TCP5 203.0.113.7 198.51.100.1 40001 1\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40001 1\n".to_vec(),
        [&b"PROXY TCP4 "[..], &[b'1'; 200], b"\r\n"].concat(),
        more(&[]),
        more(&[0x31, 0x11, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]),
        more(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]),
        more(&[0x22, 0x11, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]),
        more(&[0x21, 0x11, 0xff, 0xff]),
    ];
    let count = cases.len() as u64;
    let entrance = world.entrance(PEER);
    let net = &world.stage.net;
    thread::scope(|scope| {
        for case in cases {
            let entrance = &entrance;
            scope.spawn(move || expect_refused(net, BALANCER, entrance, &case));
        }
    });
    assert_eq!(world.target.counts().accepts(), 0);
    let World { mut gate, .. } = world;
    gate.stop();
    assert_eq!(refused(&gate, "bad-proxy-header"), count, "{}", gate.program.tail());
}

/// Sends `bytes` from `source`; panics unless the connection ends without an answer.
fn expect_refused(net: &Net, source: &str, to: &Addr, bytes: &[u8]) {
    let mut wire = net.dial(source, to);
    // It may be closed before all is sent.
    let _ = wire.write_all(bytes);
    let (answer, ending) = wire.read_to_ending(SOON * 2);
    assert!(answer.is_empty() && ending != testkit::Ending::Silent, "{bytes:?}");
}

/// `--proxy-to-target`: the target learns the address of the client of the encrypt end.
#[test]
fn the_target_learns_the_client() {
    for version in ["v1", "v2"] {
        // Answers with as many of the bytes it gets as a header of IPv4 has.
        let world = World::with(&["--proxy-to-target", version], |mut wire, _| {
            let mut all = vec![];
            let mut byte = [0];
            let is_whole = |all: &[u8]| match all.starts_with(b"P") {
                true => all.ends_with(b"\r\n"),
                false => all.len() == 28,
            };
            while !is_whole(&all) {
                if !wire.read(&mut byte).is_ok_and(|n| n == 1) {
                    return;
                }
                all.push(byte[0]);
            }
            let _ = wire.write_all(&all);
        });
        world.redis(&format!("SADD ip-allowed {OTHER}"));
        let outside = world.entrance(OTHER);
        eventually("it is let in", || !world.stage.net.is_denied(OTHER, &outside));
        let launch = Launch::encrypt(&world.stage.key)
            .source(&Addr::Tcp("127.0.0.1:0".parse().unwrap()))
            .target(&world.entrance(OTHER))
            .args(["-b", OTHER]);
        let end = world.stage.net.at_peers(|| launch.start());
        let mut client = world.stage.net.dial(PEER, end.addr());
        let port = client.socket().local_addr().unwrap().as_socket().unwrap().port();
        let start = match version {
            "v1" => format!("PROXY TCP4 {PEER} ").into_bytes(),
            _ => [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(), vec![203, 0, 113, 7]].concat(),
        };
        let header = match version {
            "v1" => {
                let mut line = vec![];
                while !line.ends_with(b"\r\n") {
                    line.extend(client.expect_bytes(1));
                }
                let text = String::from_utf8(line.clone()).unwrap();
                assert_eq!(text.split(' ').nth(4), Some(port.to_string().as_str()), "{text}");
                line
            }
            _ => {
                let header = client.expect_bytes(28);
                assert_eq!(header[24..26], port.to_be_bytes());
                header
            }
        };
        assert!(header.starts_with(&start), "{header:?}");
    }
}

/// "mariadbd (which supports it) reports the true client address", through the whole path: client,
/// load balancer or none, encrypt end, decrypt end, server.
#[test]
fn mariadb_behind_the_tunnel_reports_the_true_client() {
    let stage = Stage::new();
    let networks = ["--proxy-protocol-networks=127.0.0.1", "--skip-name-resolve"];
    let server = stage.net.at_gate(|| MariaDb::start_with(&networks));
    for version in ["v1", "v2"] {
        let decrypt = Launch::decrypt(&stage.key)
            .source(&Addr::Tcp("127.0.0.1:0".parse().unwrap()))
            .target(server.addr())
            .args(["--proxy-to-target", version]);
        let decrypt = stage.net.at_gate(|| decrypt.start());
        let encrypt = Launch::encrypt(&stage.key)
            .source(&Addr::Tcp("[::]:0".parse().unwrap()))
            .target(decrypt.addr())
            .args(["--proxy-from", BALANCER]);
        let encrypt = stage.net.at_gate(|| encrypt.start());
        for client in [PEER, PEER6] {
            let front = balancer(&stage, client, b"", &entrance(&encrypt, client));
            let reported = reported_by(&stage, &front, client);
            assert!(reported.port() != 0, "{version}: {reported}");
            decrypt.program.wait_line("the same client", |line| {
                line.is("closed") && line.has("client", &reported.to_string())
            });
        }
        for client in ["203.0.113.77:40001", "[2001:db8::77]:40002"] {
            let client: SocketAddr = client.parse().unwrap();
            for upstream in [Version::V1, Version::V2] {
                let here = if client.is_ipv4() { "198.51.100.1:3306" } else { "[::1]:3306" };
                let here = here.parse::<SocketAddr>().unwrap();
                let header = encode(upstream, client.into(), here.into());
                let front = balancer(&stage, BALANCER, &header, &entrance(&encrypt, BALANCER));
                let reported = reported_by(&stage, &front, &client.ip().to_string());
                assert_eq!(reported, client, "{upstream} in, {version} out");
            }
        }
    }
}

/// Checks that the server behind `front` takes a client for `ip`.
#[track_caller]
fn reported_by(stage: &Stage, front: &Addr, ip: &str) -> SocketAddr {
    let who = "SELECT USER(), HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()";
    let answer = stage.net.at_peers(|| query(front, who));
    let (user, host) = answer.split_once('\t').unwrap();
    assert_eq!(user, format!("knock@{ip}"));
    // MariaDB writes IPv6 without brackets.
    let (ip, port) = host.rsplit_once(':').unwrap();
    SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap())
}
