//! firewalld, with the real one and a D-Bus of its own in the namespace of the host.

use testkit::eventually;
use testkit::firewalld::Firewalld;

use crate::world::{OTHER, PEER, World};

const ZONE: &str = r#"<zone><interface name="kp0"/><service name="http"/></zone>"#;

#[test]
fn a_grant_opens_a_zone_for_its_time_and_survives_a_reload() {
    let world = World::new();
    let server = world.net.at_gate(|| Firewalld::start(&[("guarded", ZONE)]));
    let bus = server.bus();
    let prelude = format!("export DBUS_SYSTEM_BUS_ADDRESS={bus};");
    let flags = ["--backend", "firewalld", "--firewalld-zone", "guarded"];
    let launch = world.launch(&flags).args(["--allow-prefix", "allow:"]).prelude(&prelude);
    let firewall = world.start(&launch);
    world.expect_nothing(OTHER);
    world.redis.ask(&format!("SET allow:{PEER} 1 EX 600"));
    world.wait_open(PEER);
    world.expect_nothing(OTHER);
    server.cmd(&["--reload"]).unwrap();
    eventually("the rules are there again", || {
        server.rules("guarded").iter().any(|rule| rule.contains(PEER))
    });
    world.wait_open(PEER);
    world.redis.ask(&format!("SET allow:{PEER} 1 PX 1200"));
    world.wait_closed(PEER);
    drop(firewall);
    // Another process finds what is there, and takes away what was revoked in between.
    world.redis.ask(&format!("SET allow:{OTHER} 1"));
    let firewall = world.start(&launch);
    world.wait_open(OTHER);
    firewall.signal(nix::sys::signal::Signal::SIGKILL);
    world.redis.ask(&format!("DEL allow:{OTHER}"));
    let _firewall = world.start(&launch);
    world.wait_closed(OTHER);
}
