//! A client that connects and leaves without a byte is a health check, and causes no trouble.

use std::io::Write;
use std::path::Path;

use testkit::haproxy::Haproxy;
use testkit::mariadb::{MariaDb, query};
use testkit::{
    Addr, Ending, Kind, Launch, Pair, PairOptions, Target, Wire, any, eventually, keygen,
};

/// More than `max_connect_errors` allows below.
const PROBES: usize = 20;

/// Returns the counts of MariaDB against hosts for failed connections.
fn counted(server: &MariaDb) -> String {
    query(server.addr(), "SHOW GLOBAL STATUS LIKE 'Aborted_connects%'")
}

/// The greeting waits for a second, nothing else does; and probes never arrive.
#[test]
fn a_lazy_end_keeps_connect_and_close_probes_from_mysql() {
    let server = MariaDb::start_with(&["--max-connect-errors=3"]);
    for pool in [&[][..], &["--pool", "2"]] {
        let options = PairOptions::default().encrypt(&["--lazy"]).encrypt(pool);
        let pair = Pair::start(options, server.addr());
        let before = counted(&server);
        for probe in 0..PROBES {
            let wire = pair.connect();
            if probe % 2 == 0 { drop(wire) } else { wire.reset() }
        }
        assert_eq!(query(pair.entrance(), "SELECT 6 * 7"), "42");
        assert_eq!(counted(&server), before);
        eventually("the client is told", || pair.decrypt.closed().len() == 1);
        assert_eq!(pair.encrypt.closed().len(), 1);
        assert_eq!(pair.encrypt.count("refused"), 0, "{}", pair.encrypt.program.stderr());
    }
}

/// A client that speaks first is not delayed.
#[test]
fn a_lazy_end_opens_with_the_first_byte() {
    let target = Target::echo();
    let pair = Pair::start(PairOptions::default().encrypt(&["--lazy"]), target.addr());
    let mut silent = pair.connect();
    let mut client = pair.connect();
    client.expect_echo(b"first");
    silent.expect_echo(b"later");
    let gone = pair.connect();
    gone.shutdown(std::net::Shutdown::Write).unwrap();
    let mut gone = gone;
    assert_eq!(gone.expect_ending(), Ending::Clean);
    assert_eq!(target.counts().accepts(), 2);
}

/// haproxy's own checks: a bare connection, and one that says LOCAL.
#[test]
fn health_checks_of_a_listed_balancer_are_no_warnings() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let listed = ["--proxy-from", "127.0.0.1", "--lazy", "--log-level", "debug"];
    let decrypt = Launch::decrypt(&key).source(&any()).target(target.addr());
    let decrypt = decrypt.args(["--proxy-from", "127.0.0.1", "--log-level", "debug", "-o", "1s"]);
    let decrypt = decrypt.start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr()).args(listed).start();
    for end in [&encrypt, &decrypt] {
        for words in
            ["send-proxy check inter 100ms", "check inter 100ms check-send-proxy send-proxy-v2"]
        {
            let before = end.count(PROBE);
            let haproxy = Haproxy::start("", end.addr(), words);
            eventually("some checks have come", || end.count(PROBE) > before + 2);
            drop(haproxy);
        }
        assert_eq!(end.count("refused"), 0, "{}", end.program.stderr());
    }
    assert_eq!(target.counts().accepts(), 0);
}

/// The log line of a health check at `--log-level debug`.
const PROBE: &str = "health check: connected and left without a byte";

/// A unix socket with clients that a balancer announces.
#[test]
fn a_unix_socket_can_be_listed_and_its_headers_are_read() {
    let target = Target::echo();
    let options = PairOptions::both(&["--log-level", "debug"]).source(Kind::Unix);
    let pair = Pair::start(options.encrypt(&["--proxy-from", "unix"]), target.addr());
    let haproxy = Haproxy::start("", pair.entrance(), "send-proxy-v2");
    let mut client = Wire::connect(haproxy.entrance(Kind::Tcp4)).unwrap();
    client.expect_echo(b"announced");
    drop(client);
    let line = pair.decrypt.program.wait_line("its end", |line| line.is("closed"));
    assert!(line.field("client").unwrap().starts_with("127.0.0.1:"), "{}", line.text());
    // A client that sends no such header stays out.
    let mut other = pair.connect();
    other.write_all(b"no header at all").unwrap();
    assert!(matches!(other.expect_ending(), Ending::Clean | Ending::Reset));
    pair.encrypt.wait_refused("bad-proxy-header");
    assert_eq!(target.counts().accepts(), 1);
}

/// At a decrypt end over a unix socket an unlisted header is a failed handshake, as over TCP.
#[test]
fn an_unlisted_header_over_a_unix_socket_is_a_failed_handshake() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    for (listed, is_served) in [(&["-o", "1s"][..], false), (&["--proxy-from", "unix"], true)] {
        let socket = Kind::Unix.fresh(dir.path(), if is_served { "listed" } else { "not" });
        let decrypt = Launch::decrypt(&key).source(&socket).target(target.addr());
        let decrypt = decrypt.args(listed).start();
        let haproxy = Haproxy::start("", decrypt.addr(), "send-proxy-v2");
        let encrypt = through(&key, haproxy.entrance(Kind::Tcp4));
        let mut client = encrypt.connect();
        if is_served {
            client.expect_echo(b"announced");
        } else {
            assert_eq!(client.expect_ending(), Ending::Reset);
            decrypt.wait_refused("handshake-failed");
        }
    }
}

fn through(key: &Path, to: &Addr) -> testkit::End {
    Launch::encrypt(key).source(&any()).target(to).start()
}
