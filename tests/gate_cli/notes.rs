//! Who granted an entry, under which label, and when: shown, kept, and never more than text.

use serde_json::Value;

use super::{Store, complaint, objects};
use testkit::redis::Reply;

fn entry(store: &Store, member: &str) -> Value {
    let all = store.json("list");
    all.into_iter().find(|entry| entry["member"] == member).expect("it is listed")
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap()
}

#[test]
fn an_entry_says_who_allowed_it_and_why_it_is_there() {
    for store in Store::each() {
        let before = now_ms();
        store.good("allow 203.0.113.7 --ttl 1h --label laptop");
        store.good("allow 203.0.113.8 2001:db8::/64");
        let one = entry(&store, "203.0.113.7");
        assert!(one["who"].as_str().unwrap().starts_with("operator:"), "{one}");
        assert_eq!(one["label"], "laptop");
        assert!((before..=now_ms()).contains(&one["granted_ms"].as_u64().unwrap()), "{one}");
        assert!(entry(&store, "203.0.113.8")["label"].is_null());
        let who = one["who"].as_str().unwrap();
        let text = store.good("list");
        let line = text.lines().find(|line| line.contains(" 203.0.113.7 ")).unwrap();
        assert!(
            line.contains(&format!(" by {who} at 20")) && line.ends_with("Z (laptop)"),
            "{line}"
        );
        let text = store.good("why 203.0.113.7");
        let line = text.lines().find(|line| line.starts_with("=> allow-set")).unwrap();
        assert!(line.contains(", ends in ") && line.ends_with("Z (laptop)"), "{line}");
        let why = &store.json("why 2001:db8::7")[0]["rules"][3];
        assert_eq!((&why["entry"], &why["who"]), (&"2001:db8::/64".into(), &who.into()));
        assert!(why["granted_ms"].is_u64(), "{why}");
        // It stays as it is, unless another label is given.
        let granted = entry(&store, "203.0.113.8")["granted_ms"].clone();
        store.unchanged("allow 203.0.113.8");
        assert_eq!(entry(&store, "203.0.113.8")["granted_ms"], granted);
        store.good("allow 203.0.113.8 --label phone");
        assert_eq!(entry(&store, "203.0.113.8")["label"], "phone");
        store.unchanged("allow 203.0.113.8 --label phone");
        store.good("remove 203.0.113.8");
        store.good("ban 203.0.113.9");
        assert!(entry(&store, "203.0.113.9").get("who").is_none());
    }
}

#[test]
fn sudo_does_not_hide_who_it_was() {
    let store = Store::file();
    let mut command = std::process::Command::new(testkit::binary());
    command.args(["gate", "allow", "203.0.113.7"]).args(&store.flags).env("SUDO_USER", "anna");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    assert_eq!(super::finish(command, "").status, Some(0));
    let who = entry(&store, "203.0.113.7")["who"].as_str().unwrap().to_owned();
    let expected = if nix::unistd::getuid().is_root() { "operator:anna" } else { &who };
    assert_eq!(who, expected);
}

#[test]
fn a_label_that_is_none_is_refused() {
    let store = Store::file();
    for (label, remedy) in [
        ("".to_owned(), "leave it out"),
        ("x".repeat(65), "use a shorter one"),
        ("one\ntwo".to_owned(), "leave line breaks"),
    ] {
        let mut words = vec!["allow", "203.0.113.7", "--label", &label];
        words.extend(store.flags.iter().map(String::as_str));
        complaint(&super::gate(&words, ""), 2, &["--label", remedy]);
    }
    assert!(!store.path("gate").exists());
}

/// Text in the store is another program's: it makes no line of its own and moves no cursor.
#[test]
fn what_others_write_as_a_note_is_shown_as_text() {
    let store = Store::redis();
    store.ask("SADD ip-allowed 203.0.113.7 203.0.113.8");
    let note =
        r#"{"who":"key:1a2b3c4d\nbanned  203.0.113.8","label":"\u001b[2J\u202e)","at_ms":1}"#;
    let mut redis = store.redis.as_ref().unwrap().direct();
    redis.ask(&["HSET", "ip-allowed:grants", "203.0.113.7", note]);
    redis.ask(&["HSET", "ip-allowed:grants", "203.0.113.8", &"x".repeat(100_000)]);
    for line in ["list", "list --unsorted", "why 203.0.113.7"] {
        let text = store.good(line);
        assert!(text.contains(r"by key:1a2b3c4d\nbanned  203.0.113.8 at 1970-"), "{text}");
        assert!(text.contains(r"(\u{1b}[2J\u{202e}))"), "{text}");
        assert!(!text.contains(['\x1b', '\u{202e}']), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("banned")), "{text}");
    }
    let one = entry(&store, "203.0.113.7");
    assert_eq!(one["who"], "key:1a2b3c4d\nbanned  203.0.113.8");
    assert!(entry(&store, "203.0.113.8").get("who").is_none());
    // An import takes none of what could not be typed.
    let exported = store.good("export");
    let file = Store::file();
    let answer = file.run_with("import -", &exported);
    assert!(answer.out.starts_with("imported 2,"), "{answer:?}");
    let copied = entry(&file, "203.0.113.7");
    assert_eq!(copied["who"], "key:1a2b3c4dbanned  203.0.113.8");
    assert_eq!(copied["label"], "[2J\u{202e})");
}

#[test]
fn notes_go_with_an_export_and_older_exports_are_read() {
    let [redis, file] = Store::each();
    for (from, to) in [(&redis, &file), (&file, &redis)] {
        // The first entry makes a sorted set.
        from.good("allow 2001:db8::/64 --ttl 12h");
        from.good("allow 203.0.113.7 --label laptop");
        let lines = from.good("export");
        from.good("remove 203.0.113.7 2001:db8::/64");
        let answer = to.run_with("import -", &lines);
        assert!(answer.out.starts_with("imported 2, "), "{answer:?}");
        let copied = to.good("export");
        for (one, other) in objects(&lines).iter().zip(objects(&copied)) {
            for field in ["member", "who", "label", "granted_ms"] {
                assert_eq!(one[field], other[field], "{field}: {one}");
            }
        }
        let again = to.run_with("import -", &lines);
        assert_eq!(again.status, Some(3), "{again:?}");
        to.good("remove 203.0.113.7 2001:db8::/64");
    }
    // As versions before notes wrote it, and by hand: this command allowed them.
    let old =
        "{\"kind\":\"allowed\",\"member\":\"203.0.113.7\",\"expires_ms\":null}\n203.0.113.8\n";
    let answer = file.run_with("import - --label office", old);
    assert!(answer.out.starts_with("imported 2, "), "{answer:?}");
    for member in ["203.0.113.7", "203.0.113.8"] {
        let one = entry(&file, member);
        assert!(one["who"].as_str().unwrap().starts_with("operator:"), "{one}");
        assert_eq!(one["label"], "office");
    }
    for bad in [
        r#"{"kind":"allowed","member":"203.0.113.9","who":7,"granted_ms":1}"#,
        r#"{"kind":"allowed","member":"203.0.113.9","who":"key:1a2b3c4d"}"#,
        r#"{"kind":"allowed","member":"203.0.113.9","who":"a","granted_ms":"today"}"#,
        r#"{"kind":"allowed","member":"203.0.113.9","label":"a"}"#,
    ] {
        complaint(&file.run_with("import -", bad), 2, &["line 1", "nothing was imported"]);
    }
}

/// As `knockd` writes it for tokens at one address: the first is shown as ever, the others beside it.
#[test]
fn all_owners_of_an_entry_are_listed() {
    let store = Store::redis();
    let end_s = now_ms() / 1_000 + 3_600;
    let (end_ms, sooner_ms) = (end_s * 1_000, end_s * 1_000 - 60_000);
    let note = format!(
        r#"{{"who":"token:a","at_ms":1,"end_ms":{end_ms},"others":[{{"who":"token:b\u0009","label":"x","at_ms":2,"end_ms":{sooner_ms}}}]}}"#
    );
    store.ask(&format!("ZADD ip-allowed {end_s} 203.0.113.7"));
    assert_eq!(store.ask(&format!("HSET ip-allowed:grants 203.0.113.7 {note}")), Reply::Number(1));
    let one = entry(&store, "203.0.113.7");
    let other = &one["others"][0];
    assert_eq!((&one["who"], &other["label"]), (&"token:a".into(), &"x".into()));
    assert_eq!(other["expires_ms"].as_u64(), Some(sooner_ms));
    let text = store.good("list");
    assert!(text.contains(" by token:a at 1970") && text.contains(", also by token:b"), "{text}");
    assert!(!text.contains('\t'), "{text:?}");
    let why = store.good("why 203.0.113.7");
    assert!(why.contains("by token:a at"), "{why}");
}

/// Or else what one of them takes back would end what the others granted.
#[test]
fn all_owners_of_an_entry_go_with_an_export() {
    let (now, at) = (now_ms(), "203.0.113.7");
    let (end, sooner, past) = (now + 7_200_000, now + 3_600_000, now - 1);
    let other = |who: &str, end: u64| {
        format!(r#"{{"who":"{who}","label":"x","granted_ms":2,"expires_ms":{end}}}"#)
    };
    let line = |others: &str| {
        format!(
            r#"{{"kind":"allowed","member":"{at}","expires_ms":{end},"who":"token:a","label":null,"granted_ms":1,"others":{others}}}"#
        )
    };
    let lines = line(&format!("[{},{}]", other("token:b", sooner), other("token:c", past)));
    let mut from = lines;
    for store in Store::each() {
        let answer = store.run_with("import -", &from);
        assert!(answer.out.starts_with("imported 1, "), "{answer:?}");
        let one = entry(&store, at);
        assert_eq!(one["who"], "token:a", "{one}");
        assert_eq!(one["others"].as_array().map(Vec::len), Some(1), "{one}");
        let other = &one["others"][0];
        let told = (&other["who"], &other["label"], &other["granted_ms"]);
        assert_eq!(told, (&"token:b".into(), &"x".into(), &2.into()));
        let told = other["expires_ms"].as_u64().unwrap();
        assert!(told.abs_diff(sooner) < 3_000, "{one}");
        assert_eq!(store.run_with("import -", &from).status, Some(3));
        from = store.good("export");
    }
    let file = Store::file();
    for bad in ["7", "[7]", r#"[{"who":"b","granted_ms":1}]"#, r#"[{"expires_ms":1}]"#] {
        let answer = file.run_with("import -", &line(bad));
        complaint(&answer, 2, &["line 1", "\"others\"", "nothing was imported"]);
    }
}

/// To let somebody in matters more than to note who did.
#[test]
fn a_user_who_may_not_write_notes_is_told_so_and_lets_in_all_the_same() {
    let store = Store::redis();
    store.ask("ACL SETUSER default resetkeys ~ip-allowed ~ip-history ~cache:* +@all");
    for line in ["allow 203.0.113.7", "allow 203.0.113.8 203.0.113.9 --label office"] {
        let answer = store.run(line);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        assert!(answer.out.starts_with("allowed "), "{answer:?}");
        assert!(answer.err.contains("written without notes"), "{answer:?}");
        assert!(
            answer.err.contains("~ip-allowed:grants") && answer.err.lines().count() == 1,
            "{answer:?}"
        );
    }
    let answer = store.run("list");
    assert_eq!((answer.status, answer.out.lines().count()), (Some(0), 3));
    assert!(answer.err.contains("notes of entries are missing"), "{answer:?}");
    store.good("why 203.0.113.7");
    store.good("remove 203.0.113.7");
    store.good("deny 203.0.113.8");
    assert_eq!(store.ask("SCARD ip-allowed"), Reply::Number(1));
}
