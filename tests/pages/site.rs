//! The knock page in place of a site that a gate denies.

use std::io::{Read, Write};

use serde_json::json;
use testkit::{Target, eventually};

use super::checks::{looks_right, violations};
use super::service::{Knocking, OWN, TOKEN};

/// A server of one page.
fn application() -> Target {
    Target::local(|mut wire, _| {
        let _ = wire.read(&mut [0; 4096]);
        let page = "<!doctype html><title>site</title><p id=site>The application";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
        let _ = wire
            .write_all(format!("{head}Content-Length: {}\r\n\r\n{page}", page.len()).as_bytes());
    })
}

#[test]
fn a_denied_browser_knocks_on_the_site_and_gets_it() {
    let application = application();
    let knocking = Knocking::on_site(&format!("http://{}", application.addr()));
    let browser = &knocking.browser;
    browser.wait_text("You are not in");
    assert_eq!(browser.run("return location.pathname + location.search"), json!("/shop?item=7"));
    let open = "return document.getElementById('open').hidden";
    assert_eq!(browser.run(open), json!(true));
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are in");
    knocking.wait_entries(&[OWN]);
    assert_eq!(violations(browser), Vec::<String>::new());
    looks_right(browser, "knock-on-site");
    browser.click("#open");
    browser.wait_text("The application");
    assert_eq!(browser.run("return location.pathname + location.search"), json!("/shop?item=7"));
    let workers = "return navigator.serviceWorker.getRegistrations().then((all) => all.length)";
    assert_eq!(browser.run(workers), json!(0), "the site has no worker of the page");
    knocking.command(&["remove", OWN]);
    eventually("the application is closed", || {
        browser.go(&format!("{}/shop?item=7", knocking.origin));
        browser.run("return document.getElementById('site') === null") == json!(true)
    });
    browser.wait_text("You are not in");
    // The page has an address of its own as well.
    browser.go(&format!("{}/.knockpipe/", knocking.origin));
    browser.wait_text("You are not in");
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are in");
    assert_eq!(browser.run(open), json!(true));
    let requests = browser.all_requests();
    assert!(requests.iter().all(|url| url.starts_with(&knocking.origin)), "{requests:?}");
}
