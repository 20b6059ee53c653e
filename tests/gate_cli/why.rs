//! `knockpipe gate why` and the gate itself say the same.

use super::{Store, complaint, gate};

#[test]
fn why_says_what_the_gate_says() {
    for store in Store::each() {
        store.good("allow 203.0.113.7 203.0.113.0/24 10.9.0.0/16");
        store.good("ban 203.0.113.66 --ttl 1h");
        let cases = [
            ("203.0.113.7", "", "allowed", "allow-set", "allow-set"),
            ("::ffff:203.0.113.8", "", "allowed", "allow-set", "allow-set"),
            ("203.0.113.66", "", "denied", "banned", "ban"),
            ("203.0.113.66", "--allow 203.0.113.66", "allowed", "static-allow", "static-allow"),
            ("203.0.113.7", "--deny 203.0.112.0/23", "denied", "static-deny", "static-deny"),
            ("198.51.100.1", "", "denied", "not-allowed", "default"),
            ("10.0.0.1", "", "denied", "not-allowed", "default"),
            ("127.0.0.1", "", "denied", "not-allowed", "default"),
            ("10.0.0.1", "--internal allow", "allowed", "internal", "internal"),
            ("10.0.0.1", "--internal check", "denied", "not-allowed", "default"),
            ("10.0.0.1", "--announced --internal allow", "denied", "not-allowed", "default"),
            ("10.9.0.1", "--announced", "allowed", "allow-set", "allow-set"),
            ("fd00::1", "--internal allow", "allowed", "internal", "internal"),
            ("unknown", "", "denied", "nameless", "default"),
            ("unknown", "--allow 0.0.0.0/0", "denied", "nameless", "default"),
            (
                "unknown",
                "--allow 0.0.0.0/0 --allow ::/0",
                "allowed",
                "static-allow",
                "static-allow",
            ),
            ("unknown", "--deny 203.0.113.7", "denied", "static-deny", "static-deny"),
        ];
        for (ip, flags, verdict, reason, decided) in cases {
            let line = format!("why {ip} {flags}").trim().to_owned();
            let [one] = &store.json(&line)[..] else { panic!("{line}: not one") };
            assert_eq!(one["verdict"], verdict, "{line}: {one}");
            assert_eq!(one["reason"], reason, "{line}: {one}");
            assert_eq!(one["decided"], decided, "{line}: {one}");
            assert_eq!(one["stance"], "fresh");
            let rules = one["rules"].as_array().unwrap();
            let names: Vec<_> = rules.iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
            let order = ["static-deny", "static-allow", "ban", "allow-set", "internal", "default"];
            assert_eq!(names, order);
            let spoke = rules.iter().find(|rule| !rule["says"].is_null()).unwrap();
            assert_eq!(spoke["rule"], decided, "the first that speaks decides");
            let text = store.good(&line);
            let marked = text.lines().find(|line| line.starts_with("=>")).unwrap();
            assert!(marked.starts_with(&format!("=> {decided} ")), "{text}");
            assert_eq!(
                text.lines().next().unwrap().split(": ").nth(1).unwrap().split(',').next(),
                Some(reason)
            );
        }
        let note = "note          static rules as given here, which is none; repeat the tunnel's";
        assert!(store.good("why 203.0.113.7").contains(note));
        for rule in ["--deny 203.0.113.7", "--allow 203.0.113.7", "--internal allow"] {
            assert!(!store.good(&format!("why 203.0.113.7 {rule}")).contains(note), "{rule}");
        }
        let ban = &store.json("why 203.0.113.66 --ban-after 3/60s/1h")[0];
        assert!((3590..=3600).contains(&ban["rules"][2]["ttl_s"].as_u64().unwrap()), "{ban}");
        assert_eq!(ban["strikes"], 0);
        assert!(ban["rules"][2]["key"].is_string() && ban["rules"][3]["key"].is_string());
    }
}

#[test]
fn why_without_a_store_or_with_one_that_is_away() {
    let answer = gate(&["why", "203.0.113.7", "--deny", "203.0.113.0/24"], "");
    assert_eq!(answer.status, Some(0));
    assert!(answer.out.starts_with("203.0.113.7 is denied: static-deny"), "{answer:?}");
    let answer = gate(&["why", "203.0.113.7"], "");
    complaint(&answer, 2, &["there is no store", "--gate"]);
    let (addr, _held) = testkit::address::refusing();
    let away = format!("redis://{addr}");
    for (policy, verdict) in
        [("closed", "denied: store-unavailable"), ("open", "allowed: store-unavailable-open")]
    {
        let words = ["why", "203.0.113.7", "--gate", &away, "--gate-failure", policy];
        let answer = gate(&words, "");
        complaint(&answer, 1, &[&addr.to_string(), "Connection refused"]);
        assert!(answer.out.starts_with(&format!("203.0.113.7 is {verdict}\n")), "{answer:?}");
    }
}
