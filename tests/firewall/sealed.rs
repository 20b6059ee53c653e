//! The sentence of the title, from end to end: a port that does not exist until a knock.

use testkit::netns::GATE4;
use testkit::nft::Sent;
use testkit::redis::redis_cli;
use testkit::wait::poll;
use testkit::{Addr, Launch, NEVER, keygen};

use crate::world::{OTHER, PEER, Seen, World};

#[test]
fn a_sealed_redis_is_there_for_who_knocks_and_for_nobody_else() {
    let world = World::new();
    let key = keygen(world.dir.path(), "key");
    let store = ["--gate", &world.redis.url(), "--allow-prefix", "ip-allowed:"];
    let decrypt = Launch::decrypt(&key).source(&Addr::Tcp("[::]:0".parse().unwrap()));
    let decrypt = decrypt.target(world.redis.tcp()).args(store);
    let decrypt = decrypt.args(["--knock", "--knock-ttl", "2s"]);
    let decrypt = world.net.at_gate(|| decrypt.start());
    decrypt.program.wait_line("it", |line| line.is("listening for knocks"));
    let port = decrypt.addr().tcp().port();
    let number = port.to_string();
    let firewall = Launch::new("firewall").args(["--ports", &number, "--cut"]).args(store);
    let _firewall = world.start(&firewall);
    // A scanner sees nothing, not even that nothing is there.
    let sent = world.net.at_gate(Sent::begin);
    let before = world.net.at_gate(|| sent.packets());
    for source in [PEER, OTHER] {
        let seen = world.look_at(source, port);
        assert!(matches!(seen, Seen::Nothing), "{source} sees {seen:?}");
    }
    assert_eq!(world.net.at_gate(|| sent.packets()), before);
    let local = Addr::Unix(world.dir.path().join("redis.sock"));
    let encrypt = Launch::encrypt(&key)
        .source(&local)
        .target(&Addr::Tcp(format!("{GATE4}:{port}").parse().unwrap()))
        .args(["--knock", "-b", PEER]);
    let mut encrypt = world.net.at_peers(|| encrypt.start());
    assert_eq!(redis_cli(&local, &["SET", "sealed", "yes"]).trim(), "OK");
    assert_eq!(redis_cli(&local, &["GET", "sealed"]).trim(), "yes");
    let seen = world.look_at(OTHER, port);
    assert!(matches!(seen, Seen::Nothing), "a stranger beside it sees {seen:?}");
    encrypt.stop();
    let gone = poll(NEVER, || matches!(world.look_at(PEER, port), Seen::Nothing).then_some(()));
    assert!(gone.is_some(), "the port is still there after the client has left");
}
