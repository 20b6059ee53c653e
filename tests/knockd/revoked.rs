//! Revoked tokens: neither a request that is under way, nor what they granted, outlasts a reload.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use super::http::Ask;
use super::life::{ADMIN, GUEST, knock, listed, settings, ttl};
use super::service::{Service, Settings, token};
use testkit::NEVER;
use testkit::redis::Redis;
use testkit::wait::poll;

const SEES: &[&str] = &["--see-grants"];
const OTHER: &str = "other-token-of-the-tests-0004";

/// Takes a token out of the file, and leaves its grants to the service.
#[track_caller]
fn revoke(file: &std::path::Path, name: &str) {
    let revoked = token(&["revoke", name, "--tokens", file.to_str().unwrap()]);
    assert!(revoked.status.success(), "{revoked:?}");
    let told = String::from_utf8(revoked.stdout).unwrap();
    assert!(told.contains("SIGHUP") && told.contains("--gate"), "{told}");
}

fn addresses(service: &Service) -> Vec<String> {
    listed(service).into_iter().map(|(address, _)| address).collect()
}

#[track_caller]
fn has_only(service: &Service, expected: &[&str]) {
    let is_it = || (addresses(service) == expected).then_some(());
    assert!(poll(NEVER, is_it).is_some(), "{:?}", addresses(service));
}

/// The request waits for its body, as one may for the store, when the token is revoked.
#[test]
fn a_request_under_way_at_a_reload_grants_nothing_to_a_revoked_token() {
    let service = settings().in_file().start();
    let mut stream = TcpStream::connect(service.addr()).unwrap();
    let head = format!(
        "POST /knock HTTP/1.1\r\nHost: k\r\nX-Api-Key: {GUEST}\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    revoke(&service.tokens(), "guest");
    service.end.program.signal(Signal::SIGHUP);
    let status = || Ask::new("127.9.0.1", "GET", "/knock").token(GUEST).send(service.addr()).status;
    assert!(poll(NEVER, || (status() == 401).then_some(())).is_some(), "it is revoked");
    stream.write_all(b"{}").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(std::str::from_utf8(&answer), Ok("HTTP/1.1 401"));
    assert_eq!(addresses(&service), [""; 0]);
}

#[test]
fn a_reload_ends_what_a_revoked_token_granted_and_nothing_else() {
    let service = settings().in_file().start();
    let gate = format!("file:{}", service.path().join("gate").display());
    let neighbour = Settings::new().with_token("other", OTHER, &[]).args(&["--gate", &gate]);
    let neighbour = neighbour.start();
    assert_eq!(knock(&neighbour, "127.9.1.1", OTHER, "{}").status, 200);
    for (peer, token) in [("127.9.1.2", GUEST), ("127.9.1.3", GUEST), ("127.9.1.4", ADMIN)] {
        assert_eq!(knock(&service, peer, token, &ttl(600)).status, 200);
    }
    assert_eq!(knock(&service, "127.9.1.3", ADMIN, &ttl(60)).status, 200);
    revoke(&service.tokens(), "guest");
    service.end.program.signal(Signal::SIGHUP);
    has_only(&service, &["127.9.1.1", "127.9.1.3", "127.9.1.4"]);
    let line =
        service.end.program.wait_line("it", |line| line.is("grant of a revoked token ended"));
    assert!(line.text().contains("token:guest"), "{}", line.text());
}

#[test]
fn a_start_ends_what_a_revoked_token_granted() {
    let settings = settings().in_file();
    let service = settings.launch().start();
    let service = Service { end: service, dir: settings.dir };
    for (peer, token) in [("127.9.2.1", GUEST), ("127.9.2.2", ADMIN)] {
        assert_eq!(knock(&service, peer, token, "{}").status, 200);
    }
    revoke(&service.tokens(), "guest");
    let Service { end, dir } = service;
    drop(end);
    let again = Settings { dir, ..Settings::new() }.in_file().start();
    has_only(&again, &["127.9.2.2"]);
}

/// Makes another token by the name of one that was revoked.
#[track_caller]
fn make_anew(file: &std::path::Path) -> String {
    let made = token(&["new", "guest", "--tokens", file.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// The usual way out after a theft: the token is replaced under its name, and the service begins
/// again.
#[test]
fn a_start_ends_what_was_granted_before_the_token_was_made_anew() {
    let settings = settings().in_file();
    let end = settings.launch().start();
    let service = Service { end, dir: settings.dir };
    assert_eq!(knock(&service, "127.9.3.1", GUEST, "{}").status, 200);
    revoke(&service.tokens(), "guest");
    // The service was not reloaded, and knows the token still.
    assert_eq!(knock(&service, "127.9.3.2", GUEST, "{}").status, 200);
    let key = make_anew(&service.tokens());
    let Service { end, dir } = service;
    drop(end);
    let settings = Settings { dir, ..Settings::new() }.in_file();
    let end = settings.launch().start();
    let service = Service { end, dir: settings.dir };
    has_only(&service, &[]);
    assert_eq!(knock(&service, "127.9.3.3", &key, "{}").status, 200);
    // What the new one granted outlasts the next start.
    let Service { end, dir } = service;
    drop(end);
    let again = Settings { dir, ..Settings::new() }.in_file().start();
    assert_eq!(knock(&again, "127.9.3.4", ADMIN, "{}").status, 200);
    has_only(&again, &["127.9.3.3", "127.9.3.4"]);
    let text = std::fs::read_to_string(again.tokens()).unwrap();
    assert_eq!(text.matches("guest revoked ").count(), 1, "{text}");
}

/// Both reloads find a store that does not answer.
#[test]
fn a_token_made_anew_while_the_store_is_away_keeps_only_its_own_grants() {
    let redis = Redis::start();
    let service = settings().args(&["--gate", &redis.url()]).start();
    assert_eq!(knock(&service, "127.9.4.1", GUEST, "{}").status, 200);
    redis.signal(Signal::SIGSTOP);
    revoke(&service.tokens(), "guest");
    service.end.program.signal(Signal::SIGHUP);
    let asks = |key: &str| Ask::new("127.9.4.2", "GET", "/knock").token(key).send(service.addr());
    assert!(poll(NEVER, || (asks(GUEST).status == 401).then_some(())).is_some(), "it is revoked");
    let key = make_anew(&service.tokens());
    service.end.program.signal(Signal::SIGHUP);
    assert!(poll(NEVER, || (asks(&key).status == 200).then_some(())).is_some(), "it is there");
    redis.signal(Signal::SIGCONT);
    let granted = || (knock(&service, "127.9.4.3", &key, "{}").status == 200).then_some(());
    assert!(poll(NEVER, granted).is_some(), "the store is back");
    has_only(&service, &["127.9.4.3"]);
}

/// Entries without notes look as if the token had granted none of them.
#[test]
fn grants_are_not_taken_for_ended_when_their_notes_cannot_be_read() {
    let redis = Redis::start();
    redis.ask("ACL SETUSER gate on >word ~* &* +@all");
    let service = Settings::new();
    let password = service.dir.path().join("password");
    std::fs::write(&password, "gate:word\n").unwrap();
    std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let password = password.to_str().unwrap().to_owned();
    let store = ["--gate", &redis.url(), "--gate-credentials", &password];
    let service = service.with_token("guest", GUEST, &[]).with_token("admin", ADMIN, SEES);
    let service = service.args(&store).start();
    assert_eq!(knock(&service, "127.9.5.1", GUEST, "{}").status, 200);
    redis.ask("ACL SETUSER gate -hstrlen -hmget");
    let file = service.tokens();
    let args = ["revoke", "guest", "--tokens", file.to_str().unwrap()];
    for what in ["guest is revoked in ", "guest is revoked already"] {
        let failed = token(&[&args[..], &store[..]].concat());
        let told = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(failed.status.code(), Some(1), "{told}");
        assert!(told.contains(what) && told.contains("NOPERM"), "{told}");
        assert!(told.contains("run again, or knockd is reloaded: "), "{told}");
    }
    service.end.program.signal(Signal::SIGHUP);
    let line = |line: &testkit::Line| line.is("grants of revoked tokens not ended");
    let line = service.end.program.wait_line("it", line);
    assert!(line.text().contains("NOPERM"), "{}", line.text());
    redis.ask("ACL SETUSER gate +hstrlen +hmget");
    has_only(&service, &[]);
}
