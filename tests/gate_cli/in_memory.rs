//! A gate in the memory of a running process: `knockpipe gate ... --admin` lists and changes it
//! there.

use testkit::eventually;

use super::named::{config, decrypt, gate, good};
use super::{complaint, objects};

#[test]
fn a_gate_in_memory_is_listed_and_changed_in_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let (_end, admin) = decrypt(dir.path(), &["--knock", "--allow", "198.51.100.1"]);
    assert_eq!(good(&format!("list {admin}")), "");
    let text = good(&format!("allow 203.0.113.7 --ttl 1h --label laptop {admin}"));
    assert!(text.starts_with("allowed    203.0.113.7") && text.contains("on memory "), "{text}");
    good(&format!("allow 203.0.113.0/24 2001:db8::/64 {admin}"));
    good(&format!("ban 203.0.113.8 --ttl 1h {admin}"));
    complaint(&gate(&format!("ban 198.51.100.1 {admin}"), &[]), 2, &["--allow", "--force"]);
    let listed = objects(&good(&format!("list --json {admin}")));
    let members: Vec<&str> = listed.iter().map(|one| one["member"].as_str().unwrap()).collect();
    assert_eq!(members, ["203.0.113.7", "203.0.113.0/24", "2001:db8::/64", "203.0.113.8"]);
    assert_eq!(listed[0]["label"], "laptop");
    assert!(listed[0]["who"].as_str().unwrap().starts_with("operator:"), "{}", listed[0]);
    // The tunnel decides by it, and says who granted it.
    eventually("the tunnel knows all", || {
        good(&format!("why 203.0.113.8 {admin}")).contains("is denied: banned, for ")
            && good(&format!("why 203.0.113.9 {admin}")).contains("is allowed: allow-set")
    });
    let why = good(&format!("why 203.0.113.7 {admin}"));
    assert!(why.contains(" by operator:") && why.contains("Z (laptop)"), "{why}");
    let answer = gate(&format!("allow 203.0.113.0/24 {admin}"), &[]);
    assert_eq!(answer.status, Some(3), "{answer:?}");
    // A copy in a file, and back.
    let file = dir.path().join("copy");
    std::fs::write(&file, good(&format!("export {admin}"))).unwrap();
    good(&format!("remove 203.0.113.7 203.0.113.0/24 2001:db8::/64 {admin}"));
    good(&format!("unban 203.0.113.8 {admin}"));
    assert_eq!(good(&format!("list {admin}")), "");
    let answer = gate(&format!("remove 203.0.113.7 {admin}"), &[]);
    assert_eq!(answer.status, Some(3), "{answer:?}");
    good(&format!("import {} {admin}", file.display()));
    assert_eq!(good(&format!("list {admin}")).lines().count(), 4);
    good(&format!("deny 203.0.113.7 {admin}"));
    eventually("it is out", || {
        good(&format!("why 203.0.113.7 {admin}")).contains("is denied: banned")
    });
    assert_eq!(good(&format!("history {admin}")), "");
}

/// Without the process there is nothing to look at.
#[test]
fn a_gate_in_memory_is_found_in_its_process_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(&dir, "", "knock = true");
    for words in ["list", "allow 203.0.113.7", "why 203.0.113.7"] {
        let answer = gate(&format!("{words} -c {}", file.display()), &[]);
        complaint(&answer, 2, &["memory of the running process", "--admin PATH"]);
    }
}
