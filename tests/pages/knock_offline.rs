//! The knock page without a network, without a server, and as an app.

use serde_json::json;

use super::checks::{keeps_to_itself, looks_right};
use super::service::{Knocking, OWN, TOKEN};

/// Waits until the worker serves the page.
#[track_caller]
fn wait_for_worker(knocking: &Knocking) {
    let ready = "return navigator.serviceWorker.ready.then((it) => it.active !== null)";
    knocking.browser.wait("the worker is there", ready);
    let control = "return navigator.serviceWorker.controller !== null";
    knocking.browser.wait("the worker serves the page", control);
}

#[test]
fn a_knock_without_a_network_waits_for_one() {
    let knocking = Knocking::start(&[], &[]);
    let browser = &knocking.browser;
    browser.set_offline(true);
    knocking.questions();
    knocking.knock(TOKEN, "3600");
    browser.wait_text("You are offline");
    browser.wait_text("The page knocks as soon as there is a network.");
    looks_right(browser, "knock-offline");
    assert_eq!(knocking.questions(), 0);
    browser.set_offline(false);
    browser.wait_text("You are in");
    assert_eq!(knocking.questions(), 1, "one knock, and not one for each second");
    knocking.wait_entries(&[OWN]);
    browser.set_offline(true);
    browser.wait_text("You are offline. Your time goes on.");
    browser.set_offline(false);
    keeps_to_itself(browser, &knocking.origin, &["ERR_INTERNET_DISCONNECTED"]);
}

#[test]
fn a_server_that_is_away_is_asked_again_ever_more_rarely() {
    let mut knocking = Knocking::start(&[], &[]);
    knocking.end.stop();
    knocking.questions();
    knocking.knock(TOKEN, "3600");
    knocking.browser.wait_text("The server does not answer.");
    knocking.browser.wait_text("Next try in ");
    looks_right(&knocking.browser, "knock-unreachable");
    knocking.restart();
    knocking.browser.wait_text("You are in");
    // The pauses are 2, 4, 8 seconds: a storm would be hundreds.
    let asked = knocking.questions();
    assert!((2..=6).contains(&asked), "asked {asked} times");
    knocking.wait_entries(&[OWN]);
}

#[test]
fn the_page_opens_without_a_server_and_its_worker_keeps_no_answer() {
    let mut knocking = Knocking::start(&[], &[]);
    wait_for_worker(&knocking);
    knocking.knock(TOKEN, "3600");
    knocking.browser.wait_text("You are in");
    let names = "return caches.open('knockpipe-page').then((cache) => cache.keys())\
        .then((all) => all.map((one) => new URL(one.url).pathname))";
    let kept = knocking.browser.run(names);
    let kept: Vec<String> = serde_json::from_value(kept).unwrap();
    assert!(kept.len() > 10 && kept.contains(&"/page/app.js".to_owned()), "{kept:?}");
    assert!(!kept.iter().any(|path| path.contains("knock") && !path.ends_with(".css")), "{kept:?}");
    keeps_to_itself(&knocking.browser, &knocking.origin, &[]);
    knocking.end.stop();
    knocking.open();
    knocking.browser.wait_text("You are not in");
    knocking.knock(TOKEN, "3600");
    knocking.browser.wait_text("The server does not answer.");
    knocking.restart();
    knocking.browser.wait_text("You are in");
}

#[test]
fn the_page_can_be_installed() {
    let knocking = Knocking::start(&[], &[]);
    wait_for_worker(&knocking);
    let errors = knocking.browser.cdp("Page.getInstallabilityErrors", &json!({}));
    assert_eq!(errors["installabilityErrors"], json!([]));
    let manifest = knocking.browser.cdp("Page.getAppManifest", &json!({}));
    assert_eq!(manifest["errors"], json!([]));
    let data: serde_json::Value = serde_json::from_str(manifest["data"].as_str().unwrap()).unwrap();
    assert_eq!(data["display"], "standalone");
    // Each icon has the size that the manifest says.
    let sizes = "return Promise.all(arguments[0].map(async (icon) => { \
        const image = new Image(); image.src = icon.src; await image.decode(); \
        return icon.sizes === 'any' || icon.sizes === image.naturalWidth + 'x' + image.naturalHeight; }))";
    let fit = knocking.browser.run_with(sizes, vec![data["icons"].clone()]);
    assert_eq!(fit, json!([true, true, true, true]));
    keeps_to_itself(&knocking.browser, &knocking.origin, &[]);
}
