//! The state machine of the knock page, in the browser that runs it: the cases of machine.js.

use serde_json::json;

use super::service::Knocking;

#[test]
fn the_state_machine_does_what_its_cases_say() {
    let knocking = Knocking::start(&[], &[]);
    let result = knocking.browser.run(include_str!("machine.js"));
    assert_eq!(result["failures"], json!([]));
    assert!(result["cases"].as_u64().unwrap() >= 15, "{result}");
}
