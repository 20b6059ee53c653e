//! Signed knocks beside those over HTTP: one process, one store, no tunnel.

use std::process::Command;

use super::http::Ask;
use super::service::Settings;
use testkit::end::key_id;
use testkit::wait::poll;
use testkit::{NEVER, binary, keygen};

const ADMIN: &str = "admin-token-of-the-tests-0003";

#[test]
fn a_signed_knock_is_granted_without_a_tunnel() {
    let settings = Settings::new().with_token("admin", ADMIN, &["--see-grants"]).in_file();
    let key = keygen(settings.dir.path(), "key");
    let key = key.to_str().unwrap().to_owned();
    let service =
        settings.args(&["--udp", "127.0.0.1:0", "-k", &key, "--knock-ttl", "90s"]).start();
    let line = service.end.program.wait_line("it", |line| line.is("listening for knocks"));
    let at = line.field("address").unwrap();
    let knocked = Command::new(binary()).args(["knock", &at, "-k", &key]).output().unwrap();
    assert!(knocked.status.success(), "{}", String::from_utf8_lossy(&knocked.stderr));
    let listed = || {
        let answer = Ask::new("127.9.0.1", "GET", "/grants").token(ADMIN).send(service.addr());
        answer.json()["grants"].as_array().unwrap().first().cloned()
    };
    let grant = poll(NEVER, listed).expect("it is granted");
    assert_eq!(grant["address"], "127.0.0.1");
    assert_eq!(grant["who"], format!("key:{}", key_id(key.as_ref())));
    // One over HTTP neither shortens it nor takes it out.
    let ask = |method| Ask::new("127.0.0.1", method, "/knock").token(ADMIN);
    assert_eq!(ask("POST").json(r#"{"ttl": 5}"#).send(service.addr()).status, 200);
    assert_eq!(ask("DELETE").send(service.addr()).json()["removed"], true);
    assert_eq!(listed().unwrap()["who"], grant["who"]);
}

#[test]
fn flags_of_signed_knocks_need_each_other() {
    let settings = || Settings::new().with_token("admin", ADMIN, &[]).in_file();
    for (args, what) in [
        (vec!["--udp", "127.0.0.1:0"], "-k FILE"),
        (vec!["--knock-ttl", "90s"], "--udp"),
        (vec!["--knock-networks", "24/64"], "--udp"),
    ] {
        let mut program = settings().args(&args).launch().spawn();
        assert_eq!(program.exit_code(), 2, "{args:?}");
        assert!(program.stderr().contains(what), "{}", program.stderr());
    }
}
