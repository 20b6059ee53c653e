//! The tokens file on a reload, and what a reload must not forget.

use nix::sys::signal::Signal;

use super::http::Ask;
use super::service::{Service, Settings, token, token_from};
use testkit::NEVER;
use testkit::wait::poll;

const OLD: &str = "old-token-of-the-tests-000001";
const NEW: &str = "new-token-of-the-tests-000002";

fn status(service: &Service, peer: &str, key: &str) -> u16 {
    Ask::new(peer, "POST", "/knock").token(key).send(service.addr()).status
}

#[test]
fn a_reload_takes_new_tokens_in_and_revoked_ones_out() {
    let service = Settings::new().with_token("old", OLD, &[]).in_file().start();
    let file = service.tokens();
    let file = file.to_str().unwrap();
    token_from(&["new", "new", "--tokens", file, "--from", "-"], NEW);
    assert_eq!(
        (status(&service, "127.3.0.1", OLD), status(&service, "127.3.0.2", NEW)),
        (200, 401)
    );
    let gate = format!("file:{}", service.path().join("gate").display());
    let revoked = token(&["revoke", "old", "--tokens", file, "--gate", &gate]);
    assert!(revoked.status.success(), "{revoked:?}");
    let told = String::from_utf8(revoked.stdout).unwrap();
    assert!(told.starts_with("token old revoked, and 1 of its grants ended; "), "{told}");
    assert!(told.contains("SIGHUP") && told.lines().count() == 1, "{told}");
    // Until the reload its holder may knock again.
    assert_eq!(status(&service, "127.3.0.5", OLD), 200);
    service.end.program.signal(Signal::SIGHUP);
    let is_new = || (status(&service, "127.3.0.3", NEW) == 200).then_some(());
    assert!(poll(NEVER, is_new).is_some(), "{}", service.end.program.tail());
    assert_eq!(status(&service, "127.3.0.4", OLD), 401);
    // What it granted in between is ended by the reload.
    let nothing_left = || {
        let again = token(&["revoke", "old", "--tokens", file, "--gate", &gate]);
        (again.status.code() == Some(3)).then_some(())
    };
    assert!(poll(NEVER, nothing_left).is_some(), "{}", service.end.program.tail());
}

#[test]
fn a_reload_with_a_bad_file_keeps_the_tokens() {
    let service = Settings::new().with_token("old", OLD, &[]).in_file().start();
    std::fs::write(service.tokens(), "old sha256:nonsense\n").unwrap();
    service.end.program.signal(Signal::SIGHUP);
    let line = service.end.program.wait_line("it", |line| line.text().contains("no sha256:"));
    assert!(line.text().contains("line 1"), "{}", line.text());
    assert_eq!(status(&service, "127.3.1.1", OLD), 200);
}

#[test]
fn a_reload_does_not_end_a_lock() {
    let service = Settings::new()
        .with_token("old", OLD, &[])
        .in_file()
        .args(&["--most-failures", "3/600s"])
        .start();
    for _ in 0..3 {
        assert_eq!(status(&service, "127.3.2.1", "wrong"), 401);
    }
    assert_eq!(status(&service, "127.3.2.1", OLD), 429);
    token_from(&["new", "new", "--tokens", service.tokens().to_str().unwrap(), "--from", "-"], NEW);
    service.end.program.signal(Signal::SIGHUP);
    let is_new = || (status(&service, "127.3.2.2", NEW) == 200).then_some(());
    assert!(poll(NEVER, is_new).is_some(), "{}", service.end.program.tail());
    assert_eq!(status(&service, "127.3.2.1", OLD), 429);
}
