//! Uploads that go on when their answer is there.

use std::sync::mpsc::channel;

use testkit::redis::Redis;
use testkit::{NEVER, Target};

use crate::http::Peer;
use crate::world::{connect, start, url};

#[test]
fn an_upload_that_outlives_its_answer_ends_with_its_permission() {
    let (tell, ended) = channel();
    let target = Target::local(move |wire, _| {
        let mut peer = Peer::new(wire);
        peer.head().unwrap();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let (rest, _) = peer.wire.read_to_ending(NEVER);
        let _ = tell.send(rest.len());
    });
    let redis = Redis::start();
    redis.ask("SADD ip-allowed 127.0.0.1");
    // Each request has a permit of its own then.
    let args = ["--gate", &redis.url(), "--redirect", "https://login.example/"];
    let gate = start(&url(target.addr()), &args);
    gate.program.wait_line("gate store synced", |line| line.is("gate store synced"));
    let mut client = connect(&gate);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst");
    assert_eq!(client.answer(false).text(), "ok");
    redis.ask("SREM ip-allowed 127.0.0.1");
    let uploaded = ended.recv_timeout(NEVER).expect("the server's connection ends");
    assert!(uploaded < 1_000_000, "{uploaded}");
}
