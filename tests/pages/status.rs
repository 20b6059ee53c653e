//! The status page of real ends, with real connections.

use std::fs;
use std::io::{Read, Write};

use serde_json::{Value, json};
use testkit::address::refusing;
use testkit::admin::{http, http_with, metrics_address};
use testkit::{Addr, End, Launch, Pair, PairOptions, Target, Wire, eventually, keygen};

use super::browser::Browser;
use super::checks::{keeps_to_itself, looks_right};

fn origin(end: &End) -> String {
    format!("http://{}", metrics_address(&end.program))
}

/// Starts a pair with a page at both ends, and the clients on it where `decrypt` says so.
fn pair(target: &Addr, decrypt: &[&str]) -> Pair {
    let options = PairOptions::both(&["--metrics", ":0"]);
    Pair::start(options.encrypt(&["--pool", "3"]).decrypt(decrypt), target)
}

/// Opens a session, and sends `bytes` through it to an echo.
#[track_caller]
fn session(pair: &Pair, bytes: usize) -> Wire {
    let mut wire = pair.connect();
    wire.expect_echo(&vec![7; bytes]);
    wire
}

#[test]
fn the_page_shows_the_numbers_of_a_real_pair_as_they_change() {
    let target = Target::echo();
    let pair = pair(target.addr(), &["--allow", "127.0.0.1", "-n", "8", "--status-clients"]);
    let held = session(&pair, 100_000);
    let stranger = Wire::connect(pair.decrypt.addr()).unwrap();
    drop(stranger);
    let browser = Browser::start();
    let here = origin(&pair.decrypt);
    browser.go(&format!("{here}/"));
    browser.wait_text("Ready");
    browser.wait_text("1 of 8");
    browser.wait_text("Refused, by reason");
    assert!(browser.text(".service .kind").contains(&pair.decrypt.addr().to_string()));
    assert!(browser.text("section.part").contains(&target.addr().to_string()));
    let shown = browser.text("main");
    for part in ["Gate", "fresh", "Handshakes", "Unopened tunnels", "Keys", "97.7 KiB in all"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // The page refreshes itself.
    let more = session(&pair, 100_000);
    browser.wait_text("2 of 8");
    let line = "return document.querySelector('.service .spark .curve').getAttribute('d') !== ''";
    browser.wait("rates are drawn", line);
    let label = "return document.querySelector('.service .spark').getAttribute('aria-label')";
    assert!(browser.run(label).as_str().unwrap().starts_with("Connections: now "));
    looks_right(&browser, "status-decrypt");
    drop((held, more));
    browser.wait_text("0 of 8");
    keeps_to_itself(&browser, &here, &[]);
    let browser = Browser::start();
    browser.go(&format!("{}/", origin(&pair.encrypt)));
    browser.wait_text("Warm tunnels");
    browser.wait_text("3 of 3");
    looks_right(&browser, "status-encrypt");
    keeps_to_itself(&browser, &origin(&pair.encrypt), &[]);
}

#[test]
fn clients_are_on_the_page_only_where_the_operator_said_so() {
    let target = Target::echo();
    let pair = pair(target.addr(), &["--status-clients"]);
    let wire = session(&pair, 10);
    let client = wire.socket().local_addr().unwrap().as_socket().unwrap().to_string();
    let json = |end: &End| -> Value {
        let at = metrics_address(&end.program);
        let answer = http_with(&at, "GET", "/status.json", "");
        assert_eq!(answer.status, 421, "a name of another host: {answer:?}");
        let answer = of_localhost(&at, "/status.json");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let silent = json(&pair.encrypt);
    assert_eq!(silent["tunnels"][0]["sessions"]["now"], 1);
    assert!(silent["who"].is_null() && !silent.to_string().contains(&client), "{silent}");
    let browser = Browser::start();
    browser.go(&format!("{}/", origin(&pair.encrypt)));
    browser.wait_text("1 of ");
    assert!(!browser.text("body").contains(&client));
    browser.go(&format!("{}/", origin(&pair.decrypt)));
    browser.wait_text(&client);
    assert_eq!(json(&pair.decrypt)["who"]["sessions"][0]["client"], client);
}

/// Asks as a browser on this machine does.
fn of_localhost(at: &Addr, path: &str) -> String {
    let mut wire = Wire::connect(at).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost:{}\r\n\r\n", at.tcp().port());
    wire.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).unwrap();
    answer
}

/// The browser of an operator may be led to 127.0.0.1 by another site's name.
#[test]
fn a_page_at_loopback_answers_to_no_foreign_name() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::echo();
    let end = Launch::decrypt(&keygen(dir.path(), "key"))
        .args(["-s", "127.0.0.1:0", "--metrics", ":0"])
        .target(target.addr())
        .start();
    let at = metrics_address(&end.program);
    for path in ["/", "/status.json", "/page/status.js"] {
        let answer = http(&at, "GET", path);
        assert_eq!((answer.status, answer.body.contains("localhost")), (421, true), "{answer:?}");
        assert!(of_localhost(&at, path).starts_with("HTTP/1.0 200"), "{path}");
    }
    assert_eq!(http(&at, "GET", "/metrics").status, 200);
    assert_eq!(http(&at, "GET", "/page/other.js").status, 404);
}

/// A store can answer anything, and its answer is on the page.
#[test]
fn text_of_a_hostile_server_stays_text() {
    const MARKUP: &str = "<img src=x onerror=document.title='taken'>";
    let dir = tempfile::tempdir().unwrap();
    let store = Target::local(|mut wire, _| {
        while wire.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {
            let _ = wire.write_all(format!("-ERR {MARKUP}\r\n").repeat(4).as_bytes());
        }
    });
    let target = Target::echo();
    let end = Launch::decrypt(&keygen(dir.path(), "key"))
        .args(["-s", "127.0.0.1:0", "--metrics", ":0"])
        .args(["--gate", &format!("redis://{}", store.addr())])
        .target(target.addr())
        .start();
    let browser = Browser::start();
    browser.go(&format!("{}/", origin(&end)));
    browser.wait_text("Not ready");
    browser.wait_text(MARKUP);
    let images = "return [...document.images].every((image) => image.src.endsWith('icon.svg'))";
    assert_eq!(browser.run(images), json!(true));
    assert_ne!(browser.run("return document.title"), json!("taken"));
    looks_right(&browser, "status-not-ready");
    keeps_to_itself(&browser, &origin(&end), &[]);
}

#[test]
fn a_page_without_an_answer_says_so_and_comes_back() {
    let target = Target::echo();
    let pair = pair(target.addr(), &[]);
    let browser = Browser::start();
    browser.go(&format!("{}/", origin(&pair.decrypt)));
    browser.wait_text("Ready");
    browser.set_offline(true);
    browser.wait_text("what you see is old");
    looks_right(&browser, "status-stale");
    browser.set_offline(false);
    browser.wait("it is up to date", "return document.getElementById('stale').hidden");
    browser.run("document.getElementById('pause').click()");
    browser.wait_text("paused");
    eventually("the last question is answered", || browser.requests().is_empty());
    let held = session(&pair, 10);
    browser.run("document.getElementById('pause').click()");
    browser.wait_text("1 of ");
    drop(held);
    keeps_to_itself(&browser, &origin(&pair.decrypt), &["ERR_INTERNET_DISCONNECTED"]);
}

#[test]
fn services_with_problems_come_first_and_many_can_be_filtered() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let (nowhere, _held) = refusing();
    let tunnel = |name: &str, more: &str| {
        format!(
            "[tunnels.{name}]\nmode = 'encrypt'\nsource = '127.0.0.1:0'\ntarget = '{nowhere}'\n\
             key = 'key'\n{more}"
        )
    };
    let calm: String = ["ash", "beech", "cedar", "elm"].map(|name| tunnel(name, "")).concat();
    let config = dir.path().join("knockpipe.toml");
    let process = "[process]\nmetrics = ':0'\nlog-format = 'json'\n";
    fs::write(&config, format!("{process}{calm}{}", tunnel("yew", "pool = 1\n"))).unwrap();
    let end = Launch::new("run").args(["-c"]).args([&config]).start();
    let browser = Browser::start();
    browser.go(&format!("{}/", origin(&end)));
    browser.wait_text("1 broken, 4 serving");
    browser.wait_text("Far end down");
    assert_eq!(browser.text(".service h3"), "yew");
    looks_right(&browser, "status-many");
    let names = "return [...document.querySelectorAll('.service h3')].map((one) => one.innerText)\
        .join()";
    browser.fill("#wanted", "ee");
    browser.wait("only one is left", &format!("{names} === 'beech'"));
    browser.click("label:has(#problems)");
    browser.wait_text("No service matches.");
    browser.fill("#wanted", "w");
    browser.wait("that with a problem is left", &format!("{names} === 'yew'"));
    keeps_to_itself(&browser, &origin(&end), &[]);
}
