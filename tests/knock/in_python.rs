//! The sender of tests/suite/knock_sender.py, which was written from docs/PROTOCOL.md alone, at a
//! real decrypt end.

use std::process::Command;

use testkit::End;

use crate::world::{OTHER, PEER, PEER6, World, entrance, wait_granted};

/// Knocks from `source` with the sender in Python.
#[track_caller]
fn knock(world: &World, source: &str, to: &End, arguments: &[&str]) {
    let address = entrance(to, source).tcp();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut python = Command::new("python3");
    python.args(["-B", "tests/suite/knock_sender.py"]).arg(&world.key);
    python.args([&host, &port, "--from", source]).args(arguments);
    let output = world.net.at_peers(|| python.output()).expect("python3 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_sender_written_from_the_document_opens_the_port() {
    let world = World::new();
    let end = world.decrypt(&["--knock", "--knock-gate", "office"]);
    for (count, source) in [(1, PEER), (2, PEER6)] {
        assert!(world.is_denied(source, &end));
        knock(&world, source, &end, &["--gate", "office", "--ttl", "30", "--label", "snake"]);
        let line = wait_granted(&end, count);
        assert!(line.has("label", "snake") && line.has("who", &world.who()), "{line:?}");
        world.wait_admitted(source, &end);
    }
    // Another gate opens nothing; an address in the datagram is let in instead of its source.
    knock(&world, OTHER, &end, &["--gate", "elsewhere"]);
    knock(&world, PEER, &end, &["--address", OTHER]);
    wait_granted(&end, 3);
    world.wait_admitted(OTHER, &end);
}
