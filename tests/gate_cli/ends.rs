//! Ends that other programs write: of the whole key, and in the wrong unit.

use super::{Store, columns, objects};

/// 203.0.113.7 until the year 58,700 or so, as a program that writes `Date.now()` stores it.
const MILLIS: &str = "1790000000000";

#[test]
fn a_score_in_milliseconds_is_told() {
    let store = Store::redis();
    store.ask(&format!("ZADD ip-allowed {MILLIS} 203.0.113.7 +inf 203.0.113.8"));
    // People write such dates for ever.
    store.ask("ZADD ip-allowed 9999999999 203.0.113.9 253402300799 203.0.113.10");
    let answer = store.run("list");
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert_eq!(answer.out.lines().count(), 4, "it counts as it stands");
    let parts = ["1 scores", "look like milliseconds", "203.0.113.7:", "unix seconds"];
    assert!(parts.iter().all(|part| answer.err.contains(part)), "{answer:?}");
    let why = store.good("why 203.0.113.7");
    assert!(why.starts_with("203.0.113.7 is allowed: allow-set"), "{why}");
    assert!(why.contains("score of 203.0.113.7 in key ip-allowed looks like milli"), "{why}");
    for other in ["203.0.113.8", "203.0.113.9", "203.0.113.10"] {
        assert!(!store.good(&format!("why {other}")).contains("milliseconds"), "{other}");
    }
    store.ask("ZADD ip-allowed 1790000000 203.0.113.7");
    assert_eq!(store.run("list").err, "");
}

#[test]
fn the_end_of_the_whole_key_is_shown() {
    let store = Store::redis();
    for fill in ["SADD ip-allowed 203.0.113.7", "ZADD ip-allowed +inf 203.0.113.7"] {
        store.ask("DEL ip-allowed");
        store.ask(fill);
        let listed = store.good("list");
        assert_eq!(columns(&listed), [["allowed", "203.0.113.7", "for", "ever"]]);
        assert!(!store.good("why 203.0.113.7").contains("set-ends"));
        store.ask("EXPIRE ip-allowed 7200");
        let listed = store.good("list");
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("allowed  203.0.113.7 "), "{listed}");
        assert!(lines[1].starts_with("key      ip-allowed "), "{listed}");
        let is_two_hours = |line: &str| line.contains(" 2h") || line.contains(" 1h59m");
        assert!(lines.iter().copied().all(is_two_hours), "{listed}");
        let objects = objects(&store.good("list --json"));
        assert_eq!(
            (&objects[1]["kind"], &objects[1]["key"]),
            (&"key".into(), &"ip-allowed".into())
        );
        for one in &objects {
            assert!((7_190..=7_200).contains(&one["ttl_s"].as_u64().unwrap()), "{one}");
        }
        let why = store.good("why 203.0.113.7");
        assert!(is_two_hours(why.lines().next().unwrap()), "{why}");
        assert!(why.contains("set-ends      in ") && why.contains("EXPIRE"), "{why}");
    }
}
