//! The knock page of a real service: every state, what it asks for, and what it keeps.

use std::io::{Read, Write};

use serde_json::json;
use testkit::Target;
use testkit::admin::metrics_address;

use super::checks::{keeps_to_itself, looks_right, violations};
use super::service::{Knocking, OWN, TOKEN};

/// Complaint of the browser about an answer that is not 200.
const ANSWER: &str = "Failed to load resource";

/// Returns the seconds of a countdown such as `59:59`.
fn seconds(left: &str) -> u64 {
    left.split(':').fold(0, |all, part| all * 60 + part.parse::<u64>().unwrap())
}

#[test]
fn a_knock_counts_down_is_extended_and_ends_when_the_user_leaves() {
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    browser.wait_text("You are not in");
    looks_right(browser, "knock-out");
    knocking.wait_entries(&[]);
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are in");
    knocking.wait_entries(&[OWN]);
    assert!(browser.text("#detail").starts_with(&format!("{OWN} until ")));
    browser.wait(
        "it counts down",
        "return /^59:5[0-8]$/.test(document.getElementById('left').textContent)",
    );
    looks_right(browser, "knock-in");
    let before = seconds(&browser.text("#left"));
    browser.click("#settings > summary");
    browser.click("label:has([name=duration][value='14400'])");
    browser.click("#extend");
    browser.wait(
        "it is extended",
        "return /^3:59:5/.test(document.getElementById('left').textContent)",
    );
    assert!(seconds(&browser.text("#left")) > before + 3 * 3_500);
    knocking.wait_entries(&[OWN]);
    browser.click("#leave");
    browser.wait_text("You have left");
    knocking.wait_entries(&[]);
    let kept = knocking.kept();
    assert!(!kept.contains(TOKEN), "nothing was to be remembered: {kept}");
    assert_eq!(violations(browser), Vec::<String>::new());
    keeps_to_itself(browser, &knocking.origin, &[]);
}

#[test]
fn a_capped_knock_says_so() {
    let knocking = Knocking::start(&["--max-ttl", "90s"], &[]);
    let browser = &knocking.browser;
    knocking.knock(TOKEN, "86400");
    browser.wait_text("You asked for 1 d. The server gives 1 min 30 s at most.");
    looks_right(browser, "knock-capped");
    keeps_to_itself(browser, &knocking.origin, &[]);
}

#[test]
fn a_grant_that_ends_is_over_on_the_page_too() {
    let knocking = Knocking::start(&["--max-ttl", "3s"], &[]);
    let browser = &knocking.browser;
    knocking.knock(TOKEN, "most");
    browser.wait_text("You are in");
    browser.wait_text("Your time is over");
    knocking.wait_entries(&[]);
}

#[test]
fn a_wrong_token_is_refused_once_and_not_kept() {
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    browser.click("label:has(#keep)");
    browser.click("label:has(#on-load)");
    knocking.questions();
    knocking.knock("not-a-token-of-this-service", "most");
    browser.wait_text("Refused");
    browser.wait_text("This token is not accepted");
    assert_eq!(browser.run("return document.activeElement.id"), json!("token"));
    let invalid = "return document.getElementById('token').getAttribute('aria-invalid')";
    assert_eq!(browser.run(invalid), json!("true"));
    assert!(!knocking.kept().contains("not-a-token"));
    looks_right(browser, "knock-refused");
    // Time enough for another question, if there were one.
    assert_eq!(knocking.questions(), 1);
    knocking.open();
    browser.wait_text("You are not in");
    assert_eq!(knocking.questions(), 0);
    for (token, words) in [("", "Enter a token."), ("tökén", "This is no token")] {
        browser.fill("#token", token);
        browser.click("#knock");
        browser.wait_text(words);
    }
    assert_eq!(knocking.questions(), 0, "a mistake is no guess");
    keeps_to_itself(browser, &knocking.origin, &[ANSWER]);
}

#[test]
fn another_address_needs_a_token_that_may_name_one() {
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    browser.click("#more > summary");
    browser.fill("#address", "203.0.113.7");
    browser.fill("#label", "phone");
    knocking.knock(TOKEN, "3600");
    browser.wait_text("The server does not allow that.");
    knocking.wait_entries(&[]);
    let able = Knocking::start(&["--any-address"], &[]);
    able.browser.click("#more > summary");
    able.browser.fill("#address", "203.0.113.7");
    able.browser.fill("#label", "phone");
    able.knock(TOKEN, "3600");
    able.browser.wait_text("203.0.113.7 until ");
    able.wait_entries(&["203.0.113.7"]);
    assert!(able.entries()[0].to_string().contains("phone"));
    able.browser.click("#leave");
    able.browser.wait_text("You have left");
    able.wait_entries(&[]);
}

#[test]
fn a_source_that_guessed_too_often_is_told_to_wait() {
    let knocking = Knocking::start(&[], &["--most-failures", "2/1h"]);
    let browser = &knocking.browser;
    for token in ["not-a-token-of-this-service", "neither-one-of-this-service"] {
        knocking.knock(token, "most");
        browser.wait_text("This token is not accepted");
    }
    knocking.questions();
    knocking.knock(TOKEN, "most");
    browser.wait_text("Too many attempts from your network.");
    browser.wait_text("Next try in 5");
    looks_right(browser, "knock-locked");
    assert_eq!(knocking.questions(), 1, "it waits as long as the server says");
    browser.click("#stop");
    browser.wait_text("You are not in");
    keeps_to_itself(browser, &knocking.origin, &[ANSWER]);
}

#[test]
fn a_remembered_token_knocks_when_the_page_opens_and_is_forgotten_when_asked() {
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    browser.click("label:has(#keep)");
    browser.click("label:has(#on-load)");
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are in");
    let cookies_and_place = "return document.cookie + location.href";
    assert!(!browser.run(cookies_and_place).as_str().unwrap().contains(TOKEN));
    browser.click("#leave");
    browser.wait_text("You have left");
    knocking.wait_entries(&[]);
    knocking.questions();
    knocking.open();
    browser.wait_text("You are in");
    assert_eq!(knocking.questions(), 1);
    knocking.wait_entries(&[OWN]);
    assert!(browser.requests().iter().all(|url| !url.contains(TOKEN)));
    // A token that was taken back is not tried again and again.
    knocking.revoke();
    knocking.open();
    browser.wait_text("This token is not accepted");
    assert!(!knocking.kept().contains(TOKEN));
    knocking.questions();
    knocking.open();
    browser.wait_text("You are not in");
    assert_eq!(knocking.questions(), 0);
}

#[test]
fn what_is_remembered_is_erased_with_one_click() {
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    browser.click("label:has(#keep)");
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are in");
    assert!(knocking.kept().contains(TOKEN));
    knocking.open();
    // It asks for the state, and knocks only when it is told to.
    browser.wait_text("You are in");
    browser.click("#settings > summary");
    browser.wait_text("This token gives up to 12 h.");
    browser.click("label:has(#keep)");
    assert!(!knocking.kept().contains(TOKEN));
    let log = knocking.end.program.stderr();
    assert!(log.contains("pages") && !log.contains(TOKEN), "{log}");
}

/// Something between the page and the service may answer anything.
#[test]
fn markup_in_an_answer_stays_text() {
    const MARKUP: &str = "<img src=x onerror=document.title='taken'>";
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    for (status, body) in [
        (403, json!({ "error": MARKUP })),
        (200, json!({ "whitelisted_entry": MARKUP, "expires_in_seconds": 60 })),
    ] {
        let answer = "const [status, body] = arguments; \
            window.fetch = async () => new Response(JSON.stringify(body), { status });";
        browser.run_with(answer, vec![json!(status), body]);
        browser.fill("#token", TOKEN);
        browser.click("#knock");
        browser.wait_text(MARKUP);
        assert_eq!(browser.run("return document.images.length"), json!(1));
    }
    assert_ne!(browser.run("return document.title"), json!("taken"));
    // Markup that a script makes is refused by the policy, whatever the script does.
    let made = "try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); return 'made'; } \
        catch (error) { return error.name; }";
    assert_eq!(browser.run(made), json!("TypeError"));
    assert_eq!(violations(browser).len(), 1);
}

#[test]
fn no_other_site_can_put_the_page_into_a_frame() {
    let knocking = Knocking::start(&[], &[]);
    let frame = format!("<iframe src='{}/'></iframe>", knocking.origin);
    let site = Target::local(move |mut wire, _| {
        let _ = wire.read(&mut [0; 4096]);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n";
        let _ = wire.write_all(format!("{head}<title>site</title>{frame}").as_bytes());
    });
    knocking.browser.complaints();
    knocking.browser.go(&format!("http://{}/", site.addr()));
    testkit::eventually("the frame is refused", || {
        let complaints = knocking.browser.complaints();
        complaints.iter().any(|line| line.contains("frame") && line.contains("ancestors"))
    });
}

#[test]
fn the_service_is_on_the_status_page() {
    let knocking = Knocking::start(&[], &["--metrics", ":0"]);
    let browser = &knocking.browser;
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are in");
    let page = format!("http://{}", metrics_address(&knocking.end.program));
    browser.go(&format!("{page}/"));
    browser.wait_text("Serving");
    let card = browser.text(".service");
    assert!(card.contains("knockd") && card.contains("fresh"), "{card}");
    assert!(!card.contains("Handshakes") && !card.contains("Received"), "{card}");
    looks_right(browser, "status-knockd");
}
