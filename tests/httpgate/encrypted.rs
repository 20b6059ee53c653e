//! TLS and HTTP/2 from clients: curl, as it comes with the system.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;
use testkit::certificates::{Authority, Form};
use testkit::program::require;
use testkit::{End, Target, eventually};

use crate::http::Peer;
use crate::world::{Server, hello, start, url};

/// A gate with a certificate, and curl that trusts it.
struct Encrypted {
    gate: End,
    ca: PathBuf,
    dir: TempDir,
}

impl Encrypted {
    fn new(target: &str, args: &[&str]) -> Self {
        require("curl", "curl");
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "ca");
        let (cert, key) = authority.issue("web", "subjectAltName=DNS:app.example", Form::Pkcs8);
        let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let gate = start(target, &[&["--allow", "127.0.0.0/8"], &tls[..], args].concat());
        Self { gate, ca: authority.certificate(), dir }
    }

    /// Runs curl with more arguments; `PATH` is that of the URL.
    fn curl(&self, path: &str, args: &[&str]) -> Output {
        let port = self.gate.addr().tcp().port();
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "100", "--cacert"])
            .arg(&self.ca)
            .args(["--resolve", &format!("app.example:{port}:127.0.0.1")])
            .args(args)
            .arg(format!("https://app.example:{port}{path}"))
            .output()
            .expect("curl starts");
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

#[test]
fn both_versions_of_http_work_over_tls() {
    let server = Server::new(|request, peer| {
        let body = request.text();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    });
    let gate = Encrypted::new(&server.url(), &[]);
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let args =
            [version, "-d", "a=b", "-w", "|%{http_version}|%{http_code}", "-H", "Cookie: a=1"];
        let output = gate.curl("/x?y", &args);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("a=b|{number}|200"));
    }
    let port = gate.gate.addr().tcp().port();
    for seen in server.seen() {
        assert_eq!(seen.first, "POST /x?y HTTP/1.1");
        assert_eq!(seen.field("host"), Some(&*format!("app.example:{port}")));
        assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.field("content-length"), Some("3"));
    }
}

#[test]
fn an_http2_body_without_a_length_is_passed_on_in_chunks() {
    let server = Server::new(|_, peer| hello(peer));
    let gate = Encrypted::new(&server.url(), &[]);
    let large = gate.dir.path().join("large");
    fs::write(&large, vec![b'x'; 3_000_000]).unwrap();
    let from = format!("@{}", large.display());
    for method in ["-T", "--data-binary"] {
        let value = if method == "-T" { large.to_str().unwrap() } else { &from };
        gate.curl("/up", &["--http2", method, value, "-H", "Content-Length:"]);
    }
    for seen in server.seen() {
        assert_eq!(seen.body.len(), 3_000_000);
    }
}

#[test]
fn many_http2_requests_share_one_connection() {
    let server = Server::hello();
    let gate = Encrypted::new(&server.url(), &[]);
    let port = gate.gate.addr().tcp().port();
    let url = format!("https://app.example:{port}/[1-60]");
    let output = Command::new("curl")
        .args(["--silent", "--http2", "--parallel", "--parallel-max", "60", "--cacert"])
        .arg(&gate.ca)
        .args(["--resolve", &format!("app.example:{port}:127.0.0.1"), "-w", "%{http_code},", &url])
        .output()
        .expect("curl starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches("200,").count(), 60, "{text}");
    assert_eq!(server.seen().len(), 60);
}

#[test]
fn an_answer_that_breaks_off_is_an_error_in_http2() {
    let target = Target::local(|wire, _| {
        let mut peer = Peer::new(wire);
        peer.head().unwrap();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
    });
    let gate = Encrypted::new(&url(target.addr()), &[]);
    let port = gate.gate.addr().tcp().port();
    let output = Command::new("curl")
        .args(["--silent", "--http2", "--cacert"])
        .arg(&gate.ca)
        .args(["--resolve", &format!("app.example:{port}:127.0.0.1")])
        .arg(format!("https://app.example:{port}/"))
        .output()
        .expect("curl starts");
    assert!(!output.status.success());
}

#[test]
fn a_large_answer_passes_whole_over_http2() {
    let server = Server::new(|_, peer| {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n");
        peer.send(vec![b'x'; 20_000_000]);
    });
    let gate = Encrypted::new(&server.url(), &[]);
    let output = gate.curl("/", &["--http2", "-o", "/dev/null", "-w", "%{size_download}"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "20000000");
    eventually("nothing is left open", || server.target.counts().live() <= 1);
}
