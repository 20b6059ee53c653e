//! What holds for every page.

use serde_json::json;

use super::browser::{Browser, LOOKS, Window};

/// Measures the page: controls without names or too small, text with too little contrast, width.
const MEASURE: &str = include_str!("measure.js");

/// Returns the violations of the page's policy.
#[track_caller]
pub(super) fn violations(browser: &Browser) -> Vec<String> {
    serde_json::from_value(browser.run("return window.violations")).expect("the page is watched")
}

/// Checks that nothing was violated, and that the browser asked no other origin since its start. `expected` are complaints that belong to the test.
#[track_caller]
pub(super) fn keeps_to_itself(browser: &Browser, origin: &str, expected: &[&str]) {
    assert_eq!(violations(browser), Vec::<String>::new());
    let requests = browser.all_requests();
    assert!(requests.iter().any(|url| url.starts_with(origin)), "{requests:?}");
    let away: Vec<_> = requests.iter().filter(|url| !url.starts_with(origin)).collect();
    assert!(away.is_empty(), "requests to other origins: {away:?}");
    let complaints = browser.complaints();
    let is_expected = |line: &&String| expected.iter().any(|part| line.contains(part));
    let others: Vec<_> = complaints.iter().filter(|line| !is_expected(line)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Checks that the page is usable in every window and scheme, and keeps a screenshot of each.
#[track_caller]
pub(super) fn looks_right(browser: &Browser, name: &str) {
    for look in LOOKS {
        browser.look(look);
        browser.shoot(name, look);
        let is_phone = look.0 == Window::Phone;
        let problems = browser.run_with(MEASURE, vec![json!(is_phone)]);
        assert_eq!(problems, json!([]), "{name} {look:?}");
    }
}
