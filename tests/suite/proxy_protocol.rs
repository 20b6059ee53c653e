//! The PROXY protocol with other implementations: MariaDB reads what we write, haproxy writes what
//! we read, and passes on what it understood of ours.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use knockpipe::addr::ClientAddr;
use knockpipe::proxy_protocol::Version;
use knockpipe::proxy_protocol::incoming::{HeaderReader, Progress, Sender};
use knockpipe::proxy_protocol::outgoing::encode;
use testkit::haproxy::Haproxy;
use testkit::mariadb::{MariaDb, query};
use testkit::wait::bounded;
use testkit::wire::Listener;
use testkit::{Addr, Kind, Launch, NEVER, Pair, PairOptions, Wire, eventually, keygen};

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];

/// A client, and the address it is announced to have connected to.
const PAIRS: [(&str, &str); 6] = [
    ("203.0.113.7:1234", "192.0.2.1:3306"),
    ("[2001:db8::7]:65535", "[2001:db8::1]:3306"),
    ("203.0.113.8:1", "[2001:db8::1]:3306"),
    ("[2001:db8::8]:2", "192.0.2.1:3306"),
    ("203.0.113.9:3", "unix"),
    ("[2001:db8::9]:4", "unix"),
];

fn addr(text: &str) -> ClientAddr {
    text.parse::<SocketAddr>().map_or(ClientAddr::Unix, ClientAddr::from)
}

/// "mariadbd (which supports it) reports the true client address".
#[test]
fn mariadb_reports_the_announced_client() {
    let options = ["--proxy-protocol-networks=127.0.0.1", "--skip-name-resolve"];
    let server = MariaDb::start_with(&options);
    let who = "SELECT USER(), HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()";
    for version in VERSIONS {
        for (client, local) in PAIRS {
            let header = encode(version, addr(client), addr(local));
            let answer = query(&with_header(server.addr(), header), who);
            let ip = client.parse::<SocketAddr>().unwrap().ip();
            // MariaDB writes IPv6 without brackets.
            let client = client.replace(['[', ']'], "");
            assert_eq!(answer, format!("knock@{ip}\t{client}"), "{version}");
        }
        // A client without an address: MariaDB takes the connection's own.
        let header = encode(version, ClientAddr::Unix, addr("192.0.2.1:3306"));
        let answer = query(&with_header(server.addr(), header), who);
        assert!(answer.starts_with("knock@127.0.0.1\t127.0.0.1:"), "{version}: {answer}");
    }
}

/// "Loopback and unspecified addresses are never announced": a client of the far end's own host is
/// not `user@localhost` of a server next to the decrypt end.
#[test]
fn the_loopback_of_a_far_end_is_not_localhost_of_mariadb() {
    // No --skip-name-resolve: only then is 127.0.0.1 localhost.
    let server = MariaDb::start_with(&["--proxy-protocol-networks=127.0.0.2"]);
    let who = |at: &Addr| query(at, "SELECT USER()");
    assert_eq!(who(server.addr()), "knock@localhost");
    for version in ["v1", "v2"] {
        let options = PairOptions::default().encrypt(&["--proxy-from", "127.0.0.1"]);
        let options = options.decrypt(&["--proxy-to-target", version, "-b", "127.0.0.2"]);
        let pair = Pair::start(options, server.addr());
        let user = |header: &str| who(&with_header(pair.entrance(), header.as_bytes().to_vec()));
        let own = user("PROXY UNKNOWN\r\n");
        assert_ne!(own, "knock@localhost", "{version}");
        assert_eq!(user("PROXY TCP4 203.0.113.7 192.0.2.1 5 6\r\n"), "knock@203.0.113.7");
        for claim in ["127.0.0.1", "127.0.0.9", "0.0.0.0"] {
            assert_eq!(user(&format!("PROXY TCP4 {claim} 192.0.2.1 5 6\r\n")), own, "{claim}");
        }
        for claim in ["::1", "::", "::ffff:127.0.0.1", "::127.0.0.1"] {
            assert_eq!(user(&format!("PROXY TCP6 {claim} ::1 5 6\r\n")), own, "{claim}");
        }
        pair.stop();
    }
}

/// Returns an address of which the first connection is forwarded to `to`, behind `header`.
fn with_header(to: &Addr, header: Vec<u8>) -> Addr {
    let listener = listener();
    let (entrance, to) = (listener.addr(), to.clone());
    std::thread::spawn(move || {
        let client = listener.accept().unwrap();
        let mut server = Wire::connect(&to).unwrap();
        server.write_all(&header).unwrap();
        let back = (server.try_clone(), client.try_clone());
        let copied = std::thread::spawn(move || copy(back.0, &back.1));
        copy(client, &server);
        copied.join().unwrap();
    });
    entrance
}

/// Copies to the end of `from`, clean or not.
fn copy(mut from: Wire, to: &Wire) {
    let _ = std::io::copy(&mut from, &mut to.try_clone());
    let _ = to.shutdown(Shutdown::Write);
}

/// A load balancer's headers, with what it may append, from clients of every kind.
#[test]
fn headers_of_haproxy_are_read() {
    for words in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,ssl"] {
        let server = listener();
        let haproxy = Haproxy::start("", &server.addr(), words);
        for kind in Kind::ALL {
            let (client, forwarded) = exchange(haproxy.entrance(kind), &server, b"");
            let want = match kind {
                // In version 2 haproxy announces its unix clients as itself.
                Kind::Unix if words == "send-proxy" => Sender::Nameless,
                Kind::Unix => Sender::Balancer,
                Kind::Tcp4 | Kind::Tcp6 => Sender::Client(client),
            };
            assert_eq!(forwarded, want, "{words}, {kind:?}");
        }
    }
}

/// A health check is a connection of haproxy's own: LOCAL.
#[test]
fn a_health_check_of_haproxy_has_no_client() {
    let server = listener();
    let words = "check check-send-proxy inter 10ms send-proxy-v2";
    let _haproxy = Haproxy::start("", &server.addr(), words);
    assert_eq!(read_header(&mut accept(&server)), Sender::Balancer);
}

/// The reference understands our headers: it announces the client that we told it.
#[test]
fn haproxy_passes_on_the_announced_client() {
    let server = listener();
    let haproxy = Haproxy::start("accept-proxy", &server.addr(), "send-proxy-v2");
    for version in VERSIONS {
        for (client, local) in PAIRS {
            let header = encode(version, addr(client), addr(local));
            let (_, forwarded) = exchange(haproxy.entrance(Kind::Tcp4), &server, &header);
            let client = client.parse().unwrap();
            assert_eq!(forwarded, Sender::Client(client), "{version} {local}");
        }
        let header = encode(version, ClientAddr::Unix, ClientAddr::Unix);
        let (own, forwarded) = exchange(haproxy.entrance(Kind::Tcp4), &server, &header);
        assert_eq!(forwarded, Sender::Client(own), "{version}: the connection's own");
    }
}

/// Connects through haproxy and sends `header` and a question. Returns the client's own address and
/// the one that haproxy announces; the bytes behind the header are unharmed.
fn exchange(entrance: &Addr, server: &Arc<Listener>, header: &[u8]) -> (SocketAddr, Sender) {
    let mut client = Wire::connect(entrance).unwrap();
    client.write_all(&[header, b"PROXY question"].concat()).unwrap();
    let mut accepted = accept(server);
    let announced = read_header(&mut accepted);
    assert_eq!(accepted.expect_bytes(14), b"PROXY question");
    accepted.write_all(b"answer").unwrap();
    assert_eq!(client.expect_bytes(6), b"answer");
    let own = client.socket().local_addr().unwrap().as_socket();
    (own.unwrap_or_else(|| SocketAddr::from(([0; 4], 0))), announced)
}

fn listener() -> Arc<Listener> {
    Arc::new(Listener::bind(&Kind::Tcp4.fresh("/".as_ref(), "")).unwrap())
}

#[track_caller]
fn accept(server: &Arc<Listener>) -> Wire {
    let server = Arc::clone(server);
    bounded("haproxy forwards", move || server.accept().unwrap())
}

/// Reads a header as a server has to: only as many bytes as the reader asks for.
fn read_header(from: &mut Wire) -> Sender {
    from.read_limit(NEVER);
    let (mut reader, mut ask) = (HeaderReader::default(), HeaderReader::FIRST_READ);
    loop {
        let mut bytes = vec![0; ask];
        let len = from.read(&mut bytes).unwrap();
        assert_ne!(len, 0, "the stream ends in the header");
        match reader.push(&bytes[..len]) {
            Progress::Need(more) => ask = more,
            Progress::Done { sender, used } => {
                assert_eq!(used, len);
                return sender;
            }
            Progress::Bad(error) => panic!("{error}"),
        }
    }
}

/// A client that owes a header has a second when the end is stopped, and not its whole `-o`.
#[test]
fn a_peer_that_owes_its_header_does_not_hold_a_stop_up() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let no_listener = Addr::parse("127.0.0.1:9").unwrap();
    for launch in [Launch::encrypt(&key), Launch::decrypt(&key)] {
        let source = Kind::Tcp4.fresh(dir.path(), "");
        let args = ["--proxy-from", "127.0.0.0/8", "-o", "3600s", "--drain", "3600s"];
        let mut end = launch.source(&source).target(&no_listener).args(args).start();
        end.wait_looked();
        let before = end.fds();
        let _silent = end.connect();
        eventually("it is accepted", || end.fds() > before);
        end.stop();
    }
}
