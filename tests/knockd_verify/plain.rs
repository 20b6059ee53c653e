//! Plain HTTP stays on this host, unless the operator wants it elsewhere.

use std::io::Write;

use tempfile::TempDir;
use testkit::netns::{GATE4, Net};
use testkit::{Addr, End, Launch, NEVER};

use super::disguise::write_secret;
use super::http::request;
use super::path;

/// A trusted proxy, and another host.
const PROXY: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";

fn launch(dir: &TempDir, source: &str, args: &[&str]) -> Launch {
    let (tokens, gate) = (dir.path().join("tokens"), dir.path().join("gate"));
    write_secret(&tokens, "");
    Launch::new("knockd")
        .args(["-s", source, "--tokens", path(&tokens), "--gate"])
        .args([format!("file:{}", gate.display())])
        .args(args)
}

/// Returns what `from` is answered.
fn health(net: &Net, from: &str, end: &End) -> String {
    let entrance = Addr::Tcp(format!("{GATE4}:{}", end.addr().tcp().port()).parse().unwrap());
    let mut wire = net.dial(from, &entrance);
    let _ = wire.write_all(&request("GET", "/health", &[]));
    String::from_utf8(wire.read_to_ending(NEVER).0).unwrap()
}

#[test]
fn another_host_is_served_without_tls_only_if_the_operator_says_so() {
    let net = Net::make();
    for (args, is_served) in
        [(&["--trusted-proxies", PROXY][..], false), (&["--allow-plain-http"], true)]
    {
        let dir = TempDir::new().unwrap();
        let end = net.at_gate(|| launch(&dir, "[::]:0", args).start());
        let answer = health(&net, OTHER, &end);
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), is_served, "{answer}");
        assert_eq!(answer.is_empty(), !is_served, "{answer}");
        assert!(health(&net, PROXY, &end).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn a_service_that_would_serve_nobody_does_not_start() {
    let dir = TempDir::new().unwrap();
    for (source, args, starts) in [
        ("0.0.0.0:0", &[][..], false),
        ("[::]:0", &[], false),
        ("127.0.0.1:0", &[], true),
        ("localhost:0", &[], true),
        ("0.0.0.0:0", &["--trusted-proxies", PROXY], true),
        ("0.0.0.0:0", &["--proxy-from", PROXY], true),
        ("0.0.0.0:0", &["--allow-plain-http"], true),
    ] {
        let mut program = launch(&dir, source, args).spawn();
        if starts {
            program.wait_line("ready", |line| line.is("ready"));
            continue;
        }
        assert_eq!(program.exit_code(), 2, "{}", program.tail());
        let said = program.stderr();
        assert!(said.contains("--tls-cert") && said.contains("--allow-plain-http"), "{said}");
    }
}
