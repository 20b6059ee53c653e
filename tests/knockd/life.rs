//! Grants by their life: made, told, listed, taken back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Answer, Ask};
use super::service::{Service, Settings};
use testkit::redis::{Redis, Reply};
use testkit::wait::poll;
use testkit::{NEVER, binary};

pub(super) const GUEST: &str = "guest-token-of-the-tests-0001";
pub(super) const PHONE: &str = "phone-token-of-the-tests-0002";
pub(super) const ADMIN: &str = "admin-token-of-the-tests-0003";

fn service() -> Service {
    settings().in_file().start()
}

pub(super) fn settings() -> Settings {
    Settings::new()
        .with_token("guest", GUEST, &["--max-ttl", "1h"])
        .with_token("phone", PHONE, &["--max-ttl", "12h", "--one-address"])
        .with_token("admin", ADMIN, &["--max-ttl", "30d", "--any-address", "--see-grants"])
}

/// The body of a knock for so many seconds.
pub(super) fn ttl(seconds: u64) -> String {
    json!({ "ttl": seconds }).to_string()
}

pub(super) fn knock(service: &Service, peer: &str, token: &str, body: &str) -> Answer {
    Ask::new(peer, "POST", "/knock").token(token).json(body).send(service.addr())
}

pub(super) fn state(service: &Service, peer: &str, token: &str) -> Value {
    let answer = Ask::new(peer, "GET", "/knock").token(token).send(service.addr());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("*"));
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    answer.json()
}

pub(super) fn leave(service: &Service, peer: &str, token: &str) -> Answer {
    Ask::new(peer, "DELETE", "/knock").token(token).send(service.addr())
}

pub(super) fn listed(service: &Service) -> Vec<(String, Value)> {
    let answer = Ask::new("127.5.5.5", "GET", "/grants").token(ADMIN).send(service.addr());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let grants = answer.json()["grants"].as_array().unwrap().clone();
    grants.into_iter().map(|it| (it["address"].as_str().unwrap().to_owned(), it)).collect()
}

/// Runs a `gate` command on the store of a service.
#[track_caller]
fn gate(service: &Service, args: &[&str]) {
    let store = format!("file:{}", service.path().join("gate").display());
    let mut command = std::process::Command::new(binary());
    let output = command.arg("gate").args(args).args(["--gate", &store]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_client_learns_whether_it_is_in_and_leaves() {
    let service = service();
    let before = state(&service, "127.2.0.1", GUEST);
    let outside = json!({
        "address": "127.2.0.1", "allowed": false, "expires_at": null,
        "expires_in_seconds": null, "label": null, "max_ttl": 3600,
    });
    assert_eq!(before, outside);
    let granted = knock(&service, "127.2.0.1", GUEST, r#"{"ttl": 600, "label": "Anna's laptop"}"#);
    assert_eq!(granted.status, 200, "{}", granted.text());
    let inside = state(&service, "127.2.0.1", GUEST);
    assert_eq!(inside["allowed"], true);
    let end = |answer: &Value| answer["expires_at"].as_u64().unwrap();
    assert!(end(&inside).abs_diff(end(&granted.json())) <= 1);
    assert!(inside["expires_in_seconds"].as_u64().is_some_and(|left| (590..=600).contains(&left)));
    assert_eq!(inside["label"], "Anna's laptop");
    // Another token at the same address is in too, and does not see whose label it is.
    assert_eq!(state(&service, "127.2.0.1", PHONE)["allowed"], true);
    assert_eq!(state(&service, "127.2.0.1", PHONE)["label"], Value::Null);
    assert_eq!(leave(&service, "127.2.0.1", PHONE).json(), json!({"removed": false}));
    assert_eq!(leave(&service, "127.2.0.1", GUEST).json(), json!({"removed": true}));
    assert_eq!(state(&service, "127.2.0.1", GUEST), outside);
    assert_eq!(leave(&service, "127.2.0.1", GUEST).json(), json!({"removed": false}));
}

#[test]
fn what_an_operator_wrote_is_neither_shortened_nor_taken_out() {
    let service = service();
    gate(&service, &["allow", "127.2.1.1", "--label", "office"]);
    gate(&service, &["allow", "127.2.1.2", "--ttl", "30d"]);
    // Beside one with an end the token has a grant of its own, beside an endless one none.
    for (peer, removed) in [("127.2.1.1", false), ("127.2.1.2", true)] {
        let granted = knock(&service, peer, GUEST, r#"{"ttl": 5}"#);
        assert_eq!(granted.json()["expires_in_seconds"], 5);
        assert_eq!(leave(&service, peer, GUEST).json(), json!({"removed": removed}));
    }
    let grants = listed(&service);
    let of = |address: &str| &grants.iter().find(|(it, _)| it == address).unwrap().1;
    assert_eq!(of("127.2.1.1")["expires_at"], Value::Null);
    assert_eq!(of("127.2.1.1")["label"], "office");
    assert!(of("127.2.1.1")["who"].as_str().unwrap().starts_with("operator:"));
    assert!(of("127.2.1.2")["expires_at"].as_u64().is_some());
    assert_eq!(state(&service, "127.2.1.1", GUEST)["allowed"], true);
    assert_eq!(state(&service, "127.2.1.1", GUEST)["expires_at"], Value::Null);
}

#[test]
fn a_token_with_one_address_takes_the_previous_one_back() {
    let service = service();
    for peer in ["127.2.2.1", "127.2.2.2", "127.2.2.3"] {
        assert_eq!(knock(&service, peer, PHONE, "{}").status, 200);
    }
    assert_eq!(knock(&service, "127.2.2.4", GUEST, "{}").status, 200);
    let grants: Vec<String> = listed(&service).into_iter().map(|(address, _)| address).collect();
    assert_eq!(grants, ["127.2.2.3", "127.2.2.4"]);
    service.end.program.wait_line("it", |line| line.is("previous grant taken back"));
}

#[test]
fn knocks_at_once_of_a_token_with_one_address_leave_one() {
    let service = settings().in_file().args(&["--most-knocks", "0"]).start();
    std::thread::scope(|scope| {
        for host in 1..=12 {
            let service = &service;
            scope.spawn(move || {
                assert_eq!(knock(service, &format!("127.2.3.{host}"), PHONE, "{}").status, 200);
            });
        }
    });
    assert_eq!(listed(&service).len(), 1);
}

#[test]
fn knocks_at_once_do_not_exceed_the_most_grants() {
    let service = settings().in_file().args(&["--most-grants", "5"]).start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let knocks = (1..=20).map(|host| {
            let service = &service;
            scope.spawn(move || knock(service, &format!("127.2.4.{host}"), GUEST, "{}").status)
        });
        let knocks: Vec<_> = knocks.collect();
        knocks.into_iter().map(|knock| knock.join().unwrap()).collect()
    });
    let granted = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((granted, listed(&service).len()), (5, 5), "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 503].contains(status)));
    // One that is in already may knock again.
    let inside = listed(&service)[0].0.clone();
    assert_eq!(knock(&service, &inside, GUEST, "{}").status, 200);
}

#[test]
fn grants_are_listed_for_tokens_that_may_see_them() {
    let service = service();
    knock(&service, "127.2.5.1", GUEST, r#"{"ttl": 600, "label": "laptop"}"#);
    knock(&service, "127.2.5.2", ADMIN, r#"{"ip_address": "198.51.100.0/24"}"#);
    let refused = Ask::new("127.2.5.3", "GET", "/grants").token(GUEST).send(service.addr());
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json(), json!({"error": "API key may not list grants."}));
    let [(own, guest), (network, admin)] = &listed(&service)[..] else { panic!("two") };
    assert_eq!((own.as_str(), network.as_str()), ("127.2.5.1", "198.51.100.0/24"));
    assert_eq!((&guest["who"], &guest["label"]), (&json!("token:guest"), &json!("laptop")));
    assert_eq!((&admin["who"], &admin["label"]), (&json!("token:admin"), &Value::Null));
    assert!(guest["since"].as_u64() < guest["expires_at"].as_u64());
}

#[test]
fn a_named_address_is_let_out_by_the_token_that_let_it_in() {
    let service = service();
    let body = r#"{"ip_address": "198.51.100.7"}"#;
    assert_eq!(knock(&service, "127.2.6.1", ADMIN, body).status, 200);
    let out = |token: &str| {
        Ask::new("127.2.6.1", "DELETE", "/knock").token(token).json(body).send(service.addr())
    };
    assert_eq!(out(GUEST).status, 403);
    assert_eq!(out(ADMIN).json(), json!({"removed": true}));
    assert_eq!(listed(&service), []);
}

#[test]
fn a_token_opens_its_gates_and_no_others() {
    let service = Settings::new()
        .with_token("redis", GUEST, &["--gates", "redis"])
        .with_token("all", PHONE, &[])
        .in_file()
        .args(&["--knock-gate", "web", "--knock-gate", "redis"])
        .start();
    for (token, body, status) in [
        (GUEST, "{}", 403),
        (GUEST, r#"{"gate": "web"}"#, 403),
        (GUEST, r#"{"gate": "redis"}"#, 200),
        (PHONE, "{}", 200),
        (PHONE, r#"{"gate": "web"}"#, 200),
        (PHONE, r#"{"gate": "mysql"}"#, 403),
    ] {
        let answer = knock(&service, "127.2.7.1", token, body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
}

#[test]
fn nobody_is_let_in_by_what_two_readers_take_differently_or_no_client_has() {
    let service = service();
    for body in [
        r#"{"ttl": 60, "ttl": 600}"#,
        r#"{"ip_address": "198.51.100.1", "ip_address": "198.51.100.2"}"#,
        r#"{"ip_address": "0.0.0.0"}"#,
        r#"{"ip_address": "::/64"}"#,
        r#"{"ip_address": "fe80::1"}"#,
        r#"{"ip_address": "239.1.2.3"}"#,
        "\u{feff}{}",
    ] {
        let refused = knock(&service, "127.2.11.1", ADMIN, body);
        assert_eq!(refused.status, 400, "{body}: {}", refused.text());
    }
    assert_eq!(listed(&service), []);
}

#[test]
fn a_plain_set_refuses_a_knock_with_the_remedy() {
    let redis = Redis::start();
    redis.ask("SADD ip-allowed 203.0.113.1");
    let url = redis.url();
    let service = settings().args(&["--gate", &url]).start();
    let refused = knock(&service, "127.2.8.1", GUEST, "{}");
    assert_eq!(refused.status, 500);
    assert!(refused.text().contains("--allow-prefix"), "{}", refused.text());
    let line = service.end.program.wait_line("it", |line| line.is("knock refused"));
    assert!(
        line.field("error").is_some_and(|error| error.contains("plain set")),
        "{}",
        line.text()
    );
    drop(service);
    let service = settings().args(&["--gate", &url, "--allow-prefix", "allow:"]).start();
    assert_eq!(knock(&service, "127.2.8.1", GUEST, "{}").status, 200);
    let note = redis.ask("GET allow:127.2.8.1").text();
    assert!(note.contains("token:guest"), "{note}");
    assert_eq!(knock(&service, "127.2.8.1", GUEST, r#"{"ttl": 2}"#).status, 200);
    let Reply::Number(left) = redis.ask("PTTL allow:127.2.8.1") else { panic!("no time") };
    assert!((1..=2_000).contains(&left), "{left}");
    assert_eq!(leave(&service, "127.2.8.1", GUEST).json(), json!({"removed": true}));
}

#[test]
fn a_store_that_is_away_refuses_knocks_and_is_not_ready() {
    let mut redis = Redis::start();
    let service = settings().args(&["--gate", &redis.url()]).start();
    let ready = || Ask::new("127.2.9.1", "GET", "/ready").send(service.addr());
    assert_eq!(ready().status, 200);
    redis.kill();
    assert!(poll(NEVER, || (ready().status == 503).then_some(())).is_some(), "not ready");
    assert_eq!(ready().json()["status"], "unhealthy");
    let health = Ask::new("127.2.9.1", "GET", "/health").send(service.addr());
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok"})));
    let refused = knock(&service, "127.2.9.1", GUEST, "{}");
    assert_eq!(refused.status, 500, "{}", refused.text());
    redis.revive();
    assert!(poll(NEVER, || (ready().status == 200).then_some(())).is_some(), "ready again");
    assert_eq!(knock(&service, "127.2.9.1", GUEST, "{}").status, 200);
}

#[test]
fn an_answer_has_no_header_that_names_the_program() {
    let service = service();
    for path in ["/knock", "/health", "/nothing"] {
        let answer = Ask::new("127.2.10.1", "GET", path).send(service.addr());
        assert_eq!(answer.header("server"), None);
        let text = format!("{:?}", answer.headers).to_lowercase();
        assert!(!text.contains("knockpipe") && !text.contains("hyper"), "{text}");
    }
}

#[test]
fn a_body_that_does_not_come_holds_nobody_up() {
    use std::io::{Read, Write};
    let service = service();
    let mut stream = std::net::TcpStream::connect(service.addr()).unwrap();
    let head = format!(
        "POST /knock HTTP/1.1\r\nHost: k\r\nX-Api-Key: {GUEST}\r\n\
         Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let began = Instant::now();
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    assert!(began.elapsed() < Duration::from_secs(25), "it is answered or closed in time");
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(listed(&service), []);
}
