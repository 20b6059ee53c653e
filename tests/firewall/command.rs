//! The command itself: what it shows, what it refuses, reloads, its status.

use nix::sys::signal::Signal;
use testkit::admin::{http, metrics_address};
use testkit::{Launch, eventually};

use crate::world::{OTHER, PEER, World};

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_look_changes_nothing_and_says_what_differs() {
    let world = World::new();
    let (port, url) = (world.port(), world.redis.url());
    let flags = ["--ports", &port, "--gate", &url];
    world.gate(&["allow", PEER]);
    let dry = world.run(&[&["firewall", "--dry-run"], &flags[..]].concat());
    let said = text(&dry);
    assert!(dry.status.success() && said.contains(PEER) && said.contains("\"table\""), "{dry:?}");
    assert_eq!(world.nft(&["list", "tables"]), "");
    let check = world.run(&[&["firewall", "check"], &flags[..]].concat());
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    assert!(text(&check).contains("differs: 203.0.113.7/32 is missing (for ever)"), "{check:?}");
    let _firewall = world.firewall(&[]);
    let check = world.run(&[&["firewall", "check"], &flags[..]].concat());
    assert!(check.status.success() && text(&check).contains("as the store wants"), "{check:?}");
    let status = world.run(&[&["firewall", "status"], &flags[..]].concat());
    assert!(text(&status).contains("  203.0.113.7/32 for ever"), "{status:?}");
    world.nft(&["add table inet late"]);
    world.nft(&["add chain inet late input { type filter hook input priority 9; policy drop; }"]);
    // The store has to answer.
    world.nft(&["add rule inet late input iifname lo accept"]);
    let check = world.run(&[&["firewall", "check"], &flags[..]].concat());
    let said = text(&check);
    assert!(said.contains("in the way: chain inet late input drops by default"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let world = World::new();
    let url = world.redis.url();
    for (args, piece) in [
        (vec!["--gate", &url], "--ports"),
        (vec!["--ports", "22"], "--gate"),
        (vec!["--ports", "ssh", "--gate", &url], "5000-5010/tcp"),
        (vec!["--ports", "22", "--gate", &url, "-u", "nobody"], "CAP_NET_ADMIN"),
        (vec!["--ports", "22", "--gate", &url, "--table", "a b"], "name of a table"),
        (vec!["--ports", "22", "--gate", &url, "--table", "inet"], "no word of nft's own"),
        (vec!["--ports", "22", "--gate", &url, "--backend", "iptables"], "nftables"),
    ] {
        let output = world.run(&[&["firewall"], &args[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(piece) && said.trim().lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn a_reload_takes_other_ports_and_status_and_metrics_tell_the_state() {
    let world = World::new();
    let file = world.dir.path().join("knockpipe.toml");
    let (admin, url) = (world.dir.path().join("admin"), world.redis.url());
    let write = |ports: &str| {
        let text = format!(
            "[process]\nadmin = \"{}\"\nmetrics = \"127.0.0.1:0\"\nlog-format = \"json\"\n\
             [gates.home]\ngate = \"{url}\"\n\
             [firewalls.ssh]\nports = \"{ports}\"\ngate = \"home\"\n",
            admin.display()
        );
        std::fs::write(&file, text).unwrap();
    };
    write("1");
    let launch = Launch::new("run").args(["-c".as_ref(), file.as_os_str()]);
    let program = world.start(&launch);
    assert!(world.is_open(OTHER), "another port is guarded");
    write(&world.port());
    program.signal(Signal::SIGHUP);
    let reloaded = program.wait_line("it", |line| line.is("reloaded"));
    assert!(reloaded.text().contains("ports"), "{}", reloaded.text());
    world.wait_closed(OTHER);
    world.gate(&["allow", PEER]);
    world.wait_open(PEER);
    let socket = admin.to_str().unwrap();
    let status = world.run(&["status", "--admin", socket]);
    assert!(text(&status).contains("firewall"), "{status:?}");
    let status = world.run(&["status", "--admin", socket, "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let firewall = &status["tunnels"][0]["firewall"];
    assert_eq!((&firewall["backend"], &firewall["entries"]), (&"nftables".into(), &1.into()));
    assert_eq!(status["state"], "ready");
    let ask = || http(&metrics_address(&program), "GET", "/metrics");
    let metrics = world.net.at_gate(ask);
    let metrics = format!("{metrics:?}");
    for name in ["firewall_in_step", "firewall_entries", "firewall_steps", "firewall_repairs"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    world.nft(&["delete table inet knockpipe-ssh"]);
    eventually("it is back", || world.nft(&["list", "tables"]).contains("knockpipe-ssh"));
    let url = world.redis.url();
    let twice = world.dir.path().join("twice.toml");
    std::fs::write(&twice, format!("[defaults]\ngate = \"{url}\"\n[firewalls.a]\nports = 1\ntable = \"t\"\n[firewalls.b]\nports = 2\ntable = \"t\"\n")).unwrap();
    let refused = world.run(&["check", "-c", twice.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("it keeps table inet t, and firewall a does already"), "{said}");
}

/// As the unit starts it: no right but the one.
#[test]
fn one_capability_is_enough_and_without_it_the_cause_is_named() {
    let world = World::new();
    let with = |rights: &str| {
        let words = format!("setpriv --reuid 65534 --clear-groups {rights}");
        world.launch(&[]).prelude(&format!("exec {words} \"$0\" \"$@\";"))
    };
    let one = "--inh-caps -all,+net_admin --ambient-caps -all,+net_admin \
               --bounding-set -all,+net_admin";
    let _firewall = world.start(&with(one));
    world.expect_nothing(OTHER);
    let none = world.net.at_gate(|| with("--inh-caps -all --bounding-set -all").spawn());
    let line = none.wait_line("it is said", |line| line.is("firewall not in step"));
    assert!(line.text().contains("CAP_NET_ADMIN"), "{}", line.text());
    world.expect_nothing(OTHER);
}
