//! Servers with TLS behind the gate. Another gate with a certificate is the server, in front of one
//! that keeps what it saw.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use testkit::certificates::{Authority, Form};
use testkit::{End, binary, eventually};

use crate::world::{Server, connect, get, launch, start};

/// A server with TLS, for clients that trust its authority.
struct Secured {
    server: Server,
    front: End,
    ca: PathBuf,
    authority: Authority,
    _dir: TempDir,
}

impl Secured {
    /// Starts a server with a certificate for this name.
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "ca");
        let name = format!("subjectAltName={name}");
        let (cert, key) = authority.issue("web", &name, Form::Pkcs8);
        let server = Server::hello();
        let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let front = start(&server.url(), &[&tls[..], &["--allow", "127.0.0.0/8"]].concat());
        Self { server, front, ca: authority.certificate(), authority, _dir: dir }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.front.addr().tcp().port())
    }

    fn ca(&self) -> &str {
        self.ca.to_str().unwrap()
    }
}

fn gate(url: &str, args: &[&str]) -> End {
    start(url, &[&["--allow", "127.0.0.0/8"], args].concat())
}

#[test]
fn a_server_with_a_certificate_of_its_name_is_passed_requests() {
    let secured = Secured::new("DNS:localhost,IP:127.0.0.1");
    for host in ["localhost", "127.0.0.1"] {
        let gate = gate(&secured.url(host), &["--target-ca", secured.ca()]);
        let mut client = connect(&gate);
        assert_eq!(client.ask(&get("/a")).text(), "hello");
        let posted = client.ask("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(posted.text(), "hello");
        assert_eq!(secured.server.seen().last().unwrap().text(), "abc");
    }
    assert!(secured.server.seen()[0].field("host") == Some("app.example"));
}

#[test]
fn a_certificate_that_proves_nothing_is_502_and_one_line() {
    let secured = Secured::new("DNS:other.example");
    let stranger = Authority::new(secured.ca.parent().unwrap(), "stranger");
    let stranger = stranger.certificate();
    for (what, args) in [
        ("another name", ["--target-ca", secured.ca()]),
        ("another authority", ["--target-ca", stranger.to_str().unwrap()]),
    ] {
        let gate = gate(&secured.url("localhost"), &args);
        for _ in 0..3 {
            let answer = connect(&gate).ask(&get("/"));
            assert_eq!(answer.status(), 502, "{what}");
            assert!(!answer.text().contains("certificate"), "{}", answer.text());
        }
        let lines = gate.program.stderr();
        let told = lines.lines().filter(|line| line.contains("request failed"));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 1, "{what}: {lines}");
        assert!(told[0].contains("no TLS with it") && told[0].contains("--target-ca"), "{told:?}");
    }
    // The system trusts neither.
    let gate = gate(&secured.url("localhost"), &[]);
    assert_eq!(connect(&gate).ask(&get("/")).status(), 502);
    assert_eq!(secured.server.seen().len(), 0, "no byte of a request has left");
}

#[test]
fn another_name_may_be_the_one_to_prove() {
    let secured = Secured::new("DNS:other.example");
    let args = ["--target-ca", secured.ca(), "--target-name", "other.example"];
    assert_eq!(connect(&gate(&secured.url("127.0.0.1"), &args)).ask(&get("/")).text(), "hello");
}

#[test]
fn the_next_server_is_used_when_the_first_proves_nothing() {
    let secured = Secured::new("DNS:other.example");
    let plain = Server::hello();
    let args = ["-t", &plain.url(), "--target-ca", secured.ca(), "--check", "tcp/1s"];
    let gate = gate(&secured.url("localhost"), &args);
    gate.program.wait_line("the first is down", |line| line.is("target is down"));
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    assert_eq!((plain.seen().len(), secured.server.seen().len()), (1, 0));
    // A port alone would be up again. It writes one line of the first look, and one of the next ten.
    let looks = || secured.front.program.count_containing(b"handshake-failed");
    eventually("it is looked at again", || looks() > 1);
    let lines = gate.program.stderr();
    assert!(!lines.contains("up again"), "{lines}");
}

#[test]
fn a_renewed_authority_counts_after_a_reload() {
    let secured = Secured::new("DNS:localhost");
    let file = secured.ca.parent().unwrap().join("trusted.pem");
    let stranger = Authority::new(secured.ca.parent().unwrap(), "stranger");
    std::fs::copy(stranger.certificate(), &file).unwrap();
    let gate = gate(&secured.url("localhost"), &["--target-ca", file.to_str().unwrap()]);
    assert_eq!(connect(&gate).ask(&get("/")).status(), 502);
    std::fs::copy(secured.authority.certificate(), &file).unwrap();
    gate.program.signal(nix::sys::signal::Signal::SIGHUP);
    gate.program.wait_line("reloaded", |line| line.is("reloaded"));
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
}

#[test]
fn flags_about_tls_are_refused_without_it() {
    for (url, args, said) in [
        ("http://127.0.0.1:1", ["--target-ca", "/nowhere"], "no -t begins with https://"),
        ("http://127.0.0.1:1", ["--target-name", "a"], "no -t begins with https://"),
        ("https://127.0.0.1:1", ["--target-ca", "/nowhere"], "--target-ca /nowhere"),
        ("https://127.0.0.1:1", ["--target-name", "a b"], "neither a name nor an address"),
    ] {
        let mut command = Command::new(binary());
        let command = command.args(["http", "-s", "127.0.0.1:0", "--allow", "::1", "-t", url]);
        let output = command.args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn a_server_that_does_not_answer_a_path_well_is_down() {
    let sick = Server::new(|request, peer| {
        let answer = match request.first.as_str() {
            "GET /health?all HTTP/1.1" => "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsick",
        };
        peer.send(answer);
    });
    let well = Server::hello();
    let args = ["-t", &well.url(), "--check-path", "/health?all", "--check", "tcp/1s"];
    let args = [&["--allow", "127.0.0.0/8"][..], &args].concat();
    let gate = launch(&sick.url(), &args).start();
    let line = gate.program.wait_line("it is down", |line| line.is("target is down"));
    assert!(line.text().contains("503") && line.text().contains("--check-path"), "{line:?}");
    assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    let seen = sick.seen();
    assert_eq!(seen[0].first, "GET /health?all HTTP/1.1");
    assert_eq!(seen[0].field("host"), Some(&*sick.url().replace("http://", "")));
    eventually("both are asked", || !well.seen().is_empty());
}
