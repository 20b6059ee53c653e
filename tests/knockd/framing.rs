//! Requests that a proxy in front may have read in another way.

use super::http::exchange;
use super::service::Settings;

const TOKEN: &str = "guest-token-of-the-tests-0001";

#[test]
fn a_request_that_servers_read_differently_is_refused() {
    let service = Settings::new().with_token("guest", TOKEN, &[]).in_file().start();
    let answer = |head: &str| {
        let request = format!("{head}\r\nX-Api-Key: {TOKEN}\r\nConnection: close\r\n\r\n");
        let peer = "127.5.5.5".parse().unwrap();
        let answer = exchange(peer, service.addr(), request.as_bytes(), false);
        String::from_utf8_lossy(&answer).into_owned()
    };
    for head in [
        "GET knock HTTP/1.1\r\nHost: a",
        "GET /knock#a HTTP/1.1\r\nHost: a",
        "GET /knock HTTP/1.1\r\nHost: a,b",
        "GET /knock HTTP/1.1\r\nHost: a;for=b",
        "GET /knock HTTP/1.1\r\nHost: u@a",
        "GET http://a/knock HTTP/1.1",
        "GET /knock HTTP/1.1\r\nHost: a\r\nContent_Length: 3",
        "GET /knock HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked",
    ] {
        let answer = answer(head);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
    }
    let answer = answer("GET /knock HTTP/1.1\r\nHost: a:8000");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn two_lengths_are_refused_behind_a_chunked_request_too() {
    let service = Settings::new().with_token("guest", TOKEN, &[]).in_file().start();
    let knock = "POST /knock HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                 Transfer-Encoding: chunked\r\n";
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    let one = format!("{knock}X-Api-Key: {TOKEN}\r\n\r\n{chunks}");
    let two = format!("{knock}X-Api-Key: {TOKEN}\r\nContent-Length: 3\r\n\r\n{chunks}");
    let peer = "127.5.5.5".parse().unwrap();
    let answers = exchange(peer, service.addr(), format!("{one}{one}{two}").as_bytes(), false);
    let answers = String::from_utf8_lossy(&answers);
    // The bytes of all three may have come before the first was answered.
    assert!(answers.contains("HTTP/1.1 400 "), "{answers}");
    assert!(answers.matches("HTTP/1.1 200 ").count() <= 2, "{answers}");
}

#[test]
fn settings_that_protect_nothing_are_told() {
    let args = ["--trusted-proxies", "::/0", "--exclude-path", "/", "--most-failures", "0"];
    let settings = Settings::new().with_token("guest", TOKEN, &[]).args(&args);
    let service = settings.in_file().start();
    for flag in ["--trusted-proxies", "--exclude-path", "--most-failures"] {
        service.end.program.wait_line(flag, |line| line.text().contains(flag));
    }
}
