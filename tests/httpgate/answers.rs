//! Answers of the gate itself: in plain words, without an inner address.

use std::io::Write;

use testkit::address::{deaf, refusing};
use testkit::admin::{http, metrics_address};
use testkit::{End, Target};

use crate::http::Message;
use crate::world::{Server, connect, get, start, url};

#[track_caller]
fn expect_plain(gate: &End, status: u16, words: &str, inner: &str) -> Message {
    let answer = connect(gate).ask(&get("/"));
    assert_eq!(answer.status(), status, "{answer:?}");
    let text = answer.text();
    assert!(text.contains(words) && text.ends_with(".\n"), "{text}");
    assert!(!format!("{answer:?}").contains(inner), "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    answer
}

#[test]
fn requests_are_counted_by_the_class_of_their_answer() {
    let server = Server::new(|request, peer| {
        let status = if request.first.contains("/gone") { "404 No" } else { "200 OK" };
        peer.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    });
    let args = ["--trusted-proxies", "127.0.0.0/8", "--allow", "192.0.2.7", "--metrics", ":0"];
    let gate = start(&server.url(), &args);
    let ask = |path: &str, client: &str| {
        let mut wire = connect(&gate);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n"));
        wire.head().map(|answer| answer.status())
    };
    assert_eq!(ask("/", "192.0.2.7"), Some(200));
    assert_eq!(ask("/gone", "192.0.2.7"), Some(404));
    assert_eq!(ask("a", "192.0.2.7"), Some(400));
    assert_eq!(ask("/", "192.0.2.8"), None);
    let metrics = http(&metrics_address(&gate.program), "GET", "/metrics").body;
    for (status, count) in [("none", 1), ("2xx", 1), ("3xx", 0), ("4xx", 2)] {
        let line =
            format!("knockpipe_http_requests_total{{tunnel=\"http\",status=\"{status}\"}} {count}");
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
}

#[test]
fn each_request_is_a_line_where_that_is_wanted() {
    let server = Server::hello();
    let args = ["--trusted-proxies", "127.0.0.0/8", "--allow", "192.0.2.7", "--access-log"];
    let gate = start(&server.url(), &args);
    let ask = |target: &str, client: &str| {
        let mut wire = connect(&gate);
        wire.send(format!(
            "GET {target} HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: {client}\r\n\r\n"
        ));
        wire.head()
    };
    assert_eq!(ask("/a%1b?token=secret", "192.0.2.7").unwrap().status(), 200);
    assert!(ask("/b", "192.0.2.8").is_none());
    let line = gate.program.wait_line("the first", |line| line.is("request"));
    let fields = ["client", "method", "host", "path", "status"].map(|name| line.field(name));
    let fields = fields.map(Option::unwrap_or_default);
    assert_eq!(fields, ["192.0.2.7", "GET", "app.example", "/a%1b", "200"]);
    let denied =
        gate.program.wait_line("the denied", |line| line.field("path").as_deref() == Some("/b"));
    assert_eq!(denied.field("status"), None);
    assert!(!gate.program.stderr().contains("secret"));
}

#[test]
fn a_server_that_is_not_there_is_502() {
    let (nowhere, _held) = refusing();
    let gate = start(&url(&nowhere), &["--allow", "127.0.0.0/8"]);
    expect_plain(&gate, 502, "cannot be reached", &nowhere.to_string());
    let line = gate.program.wait_line("request failed", |line| line.is("request failed"));
    assert!(line.text().contains(&nowhere.to_string()), "the log names it: {}", line.text());
}

#[test]
fn a_server_that_does_not_answer_in_time_is_504() {
    let silent = Target::hold();
    let gate = start(&url(silent.addr()), &["--allow", "127.0.0.0/8", "--response-timeout", "1s"]);
    expect_plain(&gate, 504, "did not answer in time", &silent.addr().to_string());
    let (deaf, _held) = deaf();
    let gate = start(&url(&deaf), &["--allow", "127.0.0.0/8", "--connect-timeout", "500ms"]);
    expect_plain(&gate, 504, "did not answer in time", &deaf.to_string());
}

#[test]
fn what_is_no_answer_is_502() {
    for words in
        ["", "SSH-2.0-x\r\n", "HTTP/1.1 2xx OK\r\n\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n"]
    {
        let target = Target::local(move |mut wire, _| {
            let _ = std::io::Read::read(&mut wire, &mut [0; 4096]);
            let _ = wire.write_all(words.as_bytes());
        });
        let gate = start(&url(target.addr()), &["--allow", "127.0.0.0/8"]);
        expect_plain(&gate, 502, "no proper answer", &target.addr().to_string());
    }
}

#[test]
fn the_next_server_is_used_when_the_first_is_not_there() {
    let (nowhere, _held) = refusing();
    let server = Server::hello();
    let gate = start(&url(&nowhere), &["-t", &server.url(), "--allow", "127.0.0.0/8"]);
    for _ in 0..3 {
        assert_eq!(connect(&gate).ask(&get("/")).text(), "hello");
    }
    gate.program.wait_line("target down", |line| line.text().contains("down"));
}
