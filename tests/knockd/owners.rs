//! Several tokens at one address, as behind one NAT: none ends what another one granted.

use serde_json::json;

use super::life::{ADMIN, GUEST, PHONE, knock, leave, settings, state, ttl};
use super::service::Service;
use testkit::NEVER;
use testkit::redis::Redis;
use testkit::wait::poll;

/// Returns the seconds that an address is in for; `None` if it is not.
fn left(service: &Service, peer: &str) -> Option<u64> {
    state(service, peer, GUEST)["expires_in_seconds"].as_u64()
}

#[track_caller]
fn lasts(service: &Service, peer: &str, seconds: u64) {
    let is_it = |left: &u64| *left <= seconds && *left + 10 > seconds;
    let told = poll(NEVER, || left(service, peer).filter(is_it));
    assert!(told.is_some(), "{:?} s are left of {seconds}", left(service, peer));
}

fn check(service: &Service) {
    let peer = "127.8.0.1";
    let granted = |token, seconds| {
        let answer = knock(service, peer, token, &ttl(seconds));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    granted(GUEST, 600);
    granted(ADMIN, 60);
    lasts(service, peer, 600);
    granted(PHONE, 7_200);
    lasts(service, peer, 7_200);
    // Each sets its own end anew, sooner too, and not beyond that of the others.
    granted(PHONE, 300);
    lasts(service, peer, 600);
    granted(GUEST, 100);
    lasts(service, peer, 300);
    granted(GUEST, 900);
    lasts(service, peer, 900);
    // A token of one address moves on, and takes its own grant with it.
    assert_eq!(knock(service, "127.8.0.2", PHONE, "{}").status, 200);
    assert_eq!(leave(service, peer, PHONE).json(), json!({"removed": false}), "it moved");
    lasts(service, peer, 900);
    assert_eq!(leave(service, peer, GUEST).json(), json!({"removed": true}));
    lasts(service, peer, 60);
    assert_eq!(leave(service, peer, ADMIN).json(), json!({"removed": true}));
    is_out(service, peer);
}

#[track_caller]
fn is_out(service: &Service, peer: &str) {
    let is_out = || left(service, peer).is_none().then_some(());
    assert!(poll(NEVER, is_out).is_some(), "{peer} is in");
}

#[test]
fn tokens_at_one_address_do_not_end_each_others_grants_in_a_file() {
    check(&settings().in_file().args(&["--most-knocks", "0"]).start());
}

#[test]
fn tokens_at_one_address_do_not_end_each_others_grants_in_redis() {
    let redis = Redis::start();
    let url = redis.url();
    check(&settings().args(&["--gate", &url, "--most-knocks", "0"]).start());
    redis.ask("FLUSHALL");
    let prefix = ["--gate", &url, "--most-knocks", "0", "--allow-prefix", "allow:"];
    check(&settings().args(&prefix).start());
}

#[test]
fn a_revoked_token_leaves_what_others_granted() {
    let service = settings().in_file().start();
    for (token, seconds) in [(ADMIN, 60), (GUEST, 600)] {
        assert_eq!(knock(&service, "127.8.1.1", token, &ttl(seconds)).status, 200);
    }
    let gate = format!("file:{}", service.path().join("gate").display());
    let file = service.tokens();
    let revoke = ["revoke", "guest", "--tokens", file.to_str().unwrap(), "--gate", &gate];
    let revoked = super::service::token(&revoke);
    assert!(revoked.status.success(), "{revoked:?}");
    lasts(&service, "127.8.1.1", 60);
}

/// A network has no key of its own and makes the set a sorted one, in which later grants are.
#[test]
fn a_shorter_knock_ends_the_key_of_before_the_set() {
    let redis = Redis::start();
    let url = redis.url();
    let service = settings().args(&["--gate", &url, "--allow-prefix", "allow:"]).start();
    let peer = "127.8.2.1";
    assert_eq!(knock(&service, peer, GUEST, &ttl(600)).status, 200);
    let network = r#"{"ip_address": "198.51.100.0/24"}"#;
    assert_eq!(knock(&service, "127.8.2.9", ADMIN, network).status, 200);
    assert_eq!(redis.ask("TYPE ip-allowed").text(), "zset");
    assert_eq!(knock(&service, peer, GUEST, &ttl(60)).status, 200);
    lasts(&service, peer, 60);
    assert_eq!(leave(&service, peer, GUEST).json(), json!({"removed": true}));
    is_out(&service, peer);
}
