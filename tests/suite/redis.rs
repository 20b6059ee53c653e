//! A real redis-server behind the tunnel: clients notice no difference.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use testkit::data::{Noise, Sum, send_noise};
use testkit::redis::{Redis, Reply, Resp, receive_line, redis_cli, replica_of, send_command};
use testkit::{Addr, Kind, NEVER, Pair, PairOptions, Suite, eventually, proc};

/// A timeout (`-o`) that every idle phase below exceeds many times.
const TIMEOUT: &[&str] = &["-o", "500ms"];

/// Longer than every timeout that any end was given.
const IDLE: Duration = Duration::from_secs(3);

/// "both suites, unix and TCP, v4 and v6": a few commands over
/// every combination of suite, plain side and sealed side.
#[test]
fn commands_get_their_answers_over_every_kind_of_socket_and_both_suites() {
    let redis = Redis::start();
    for suite in Suite::BOTH {
        for source in Kind::ALL {
            for middle in Kind::ALL {
                let target = if source == Kind::Unix { redis.tcp() } else { redis.unix() };
                let options = PairOptions::default().suite(suite).source(source).middle(middle);
                let pair = Pair::start(options, target);
                small_commands(pair.entrance(), &format!("{suite:?} {source:?} {middle:?}"));
                pair.stop();
            }
        }
    }
}

fn small_commands(entrance: &Addr, name: &str) {
    let mut client = Resp::connect(entrance);
    assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".into()), "{name}");
    assert_eq!(client.ask(&["SET", name, "1"]), Reply::ok());
    assert_eq!(client.ask(&["INCRBY", name, "41"]), Reply::Number(42));
    assert_eq!(client.ask(&["GET", name]), Reply::bulk("42"));
    assert_eq!(client.ask(&["GET", "nothing here"]), Reply::Nil);
    assert!(matches!(client.ask(&["NONSENSE"]), Reply::Error(_)));
    client.send(&["MULTI"]);
    client.send(&["DEL", name]);
    client.send(&["EXEC"]);
    assert_eq!(client.receive(), Reply::ok());
    assert_eq!(client.receive(), Reply::Simple("QUEUED".into()));
    assert_eq!(client.receive(), Reply::Array(vec![Reply::Number(1)]));
}

/// "redis-cli".
#[test]
fn redis_cli_works_over_tcp_and_unix() {
    let redis = Redis::start();
    for source in Kind::ALL {
        let pair = Pair::start(PairOptions::default().source(source), redis.tcp());
        assert_eq!(redis_cli(pair.entrance(), &["PING"]), "PONG");
        assert_eq!(redis_cli(pair.entrance(), &["SET", "greeting", "hello there"]), "OK");
        assert_eq!(redis_cli(pair.entrance(), &["GET", "greeting"]), "hello there");
    }
}

/// "100,000 pipelined commands".
#[test]
fn a_hundred_thousand_pipelined_commands_are_answered_in_order() {
    const COMMANDS: usize = 100_000;
    let redis = Redis::start();
    for suite in Suite::BOTH {
        let pair = Pair::start(PairOptions::default().suite(suite), redis.tcp());
        assert_eq!(redis.direct().ask(&["FLUSHALL"]), Reply::ok());
        let (mut writer, mut reader) = Resp::connect(pair.entrance()).split();
        let sender = thread::spawn(move || {
            for i in 0..COMMANDS / 2 {
                let (key, value) = (format!("key:{i}"), format!("value of {i}"));
                send_command(&mut writer, &["SET", &key, &value]).unwrap();
                send_command(&mut writer, &["GET", &key]).unwrap();
            }
            writer.flush().unwrap();
            writer
        });
        for i in 0..COMMANDS / 2 {
            assert_eq!(reader.receive(), Reply::ok(), "SET {i}");
            assert_eq!(reader.receive(), Reply::bulk(format!("value of {i}")), "GET {i}");
        }
        drop((sender.join().unwrap(), reader));
        let size = i64::try_from(COMMANDS / 2).unwrap();
        assert_eq!(redis.direct().ask(&["DBSIZE"]), Reply::Number(size));
        pair.stop();
    }
}

/// "pub/sub": a subscriber that waits longer than every timeout
/// still gets what is published then, in order.
#[test]
fn a_subscriber_gets_messages_after_a_long_idle_time() {
    let redis = Redis::start();
    let pair = Pair::start(PairOptions::both(TIMEOUT), redis.tcp());
    let mut subscriber = Resp::connect(pair.entrance());
    let subscribed = subscriber.ask(&["SUBSCRIBE", "news"]);
    assert_eq!(
        subscribed,
        Reply::Array(vec![Reply::bulk("subscribe"), Reply::bulk("news"), Reply::Number(1)])
    );
    thread::sleep(IDLE);
    let mut publisher = Resp::connect(pair.entrance());
    for i in 0..1000 {
        let text = format!("message {i}");
        assert_eq!(publisher.ask(&["PUBLISH", "news", &text]), Reply::Number(1));
        assert_eq!(
            subscriber.receive(),
            Reply::Array(vec![Reply::bulk("message"), Reply::bulk("news"), Reply::bulk(&text)])
        );
    }
}

/// "BLPOP across a long idle time".
#[test]
fn blpop_waits_longer_than_every_timeout() {
    let redis = Redis::start();
    let pair = Pair::start(PairOptions::both(TIMEOUT), redis.tcp());
    let mut waiting = Resp::connect(pair.entrance());
    waiting.send(&["BLPOP", "queue", "0"]);
    let mut direct = redis.direct();
    eventually("redis has a blocked client", || {
        direct.ask(&["INFO", "clients"]).text().contains("blocked_clients:1")
    });
    thread::sleep(IDLE);
    assert_eq!(direct.ask(&["RPUSH", "queue", "work"]), Reply::Number(1));
    assert_eq!(waiting.receive(), Reply::Array(vec![Reply::bulk("queue"), Reply::bulk("work")]));
    assert_eq!(waiting.ask(&["PING"]), Reply::Simple("PONG".into()));
}

/// "a 512 MiB value in and out", sums equal, and neither end
/// keeps it: memory stays bounded.
#[test]
fn a_value_of_512_mib_goes_in_and_out_and_memory_stays_bounded() {
    const LEN: u64 = 512 * 1024 * 1024;
    const GROWTH_KIB: u64 = 16 * 1024;
    let redis = Redis::start();
    let ways = [
        (Suite::ChaCha20Poly1305, Kind::Tcp4, Kind::Tcp4),
        (Suite::Aes256Gcm, Kind::Tcp4, Kind::Tcp4),
        (Suite::Auto, Kind::Unix, Kind::Tcp6),
    ];
    for (seed, (suite, source, middle)) in (1..).zip(ways) {
        let options = PairOptions::default().suite(suite).source(source).middle(middle);
        let pair = Pair::start(options, redis.tcp());
        let mut client = Resp::connect(pair.entrance());
        assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".into()));
        let before = pair.ends().map(|(_, end)| proc::rss_kib(end.pid()));

        let (writer, _) = client.raw();
        write!(writer, "*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${LEN}\r\n").unwrap();
        send_noise(writer, Noise::new(seed), LEN).unwrap();
        writer.write_all(b"\r\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(client.receive(), Reply::ok());

        client.send(&["GET", "big"]);
        let (_, reader) = client.raw();
        assert_eq!(receive_line(reader).unwrap(), format!("${LEN}"));
        let sum = Sum::of(&mut reader.by_ref().take(LEN)).unwrap();
        assert_eq!(sum.bytes, LEN);
        assert_eq!(sum.hex(), Sum::of_noise(Noise::new(seed), LEN), "{suite:?}");
        assert_eq!(receive_line(reader).unwrap(), "");

        for ((name, end), before) in pair.ends().into_iter().zip(before) {
            let after = proc::rss_kib(end.pid());
            println!(
                "512 MiB in and out, {suite:?}, {source:?}, {name}: RSS {before} -> {after} KiB"
            );
            assert!(after <= before + GROWTH_KIB, "{name} grew from {before} to {after} KiB");
        }
        assert_eq!(client.ask(&["DEL", "big"]), Reply::Number(1));
        drop(client);
        pair.stop();
    }
}

/// "replication (PSYNC) through the tunnel".
#[test]
fn a_replica_syncs_through_the_tunnel_and_follows() {
    for suite in Suite::BOTH {
        let primary = Redis::start();
        let mut source = primary.direct();
        assert_eq!(source.ask(&["DEBUG", "POPULATE", "50000", "key", "300"]), Reply::ok());
        let pair = Pair::start(PairOptions::both(TIMEOUT).suite(suite), primary.tcp());
        let follow = replica_of(pair.entrance());
        let replica = Redis::start_with(&follow.each_ref().map(String::as_str));
        let mut copy = replica.direct();
        eventually("the replica's link is up", || {
            copy.ask(&["INFO", "replication"]).text().contains("master_link_status:up")
        });
        assert_eq!(digest(&mut source), digest(&mut copy), "after the full sync");

        for i in 0..1000 {
            source.ask(&["SET", &format!("later:{i}"), "written after the sync"]);
        }
        eventually("the replica has everything", || copy.ask(&["DBSIZE"]) == Reply::Number(51_000));
        assert_eq!(digest(&mut source), digest(&mut copy), "after the stream");
        // One full sync and nothing else: the link was never lost.
        let stats = source.ask(&["INFO", "stats"]).text();
        assert!(stats.contains("sync_full:1\r\n"), "{stats}");
    }
}

fn digest(server: &mut Resp) -> String {
    server.read_limit(NEVER);
    server.ask(&["DEBUG", "DIGEST"]).text()
}
