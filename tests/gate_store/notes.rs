//! Notes beside entries in Redis, where other programs write entries, notes and garbage as well.

use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::redis_store::Credentials;
use knockpipe::gate::store::Edit;

use super::conformance::{allow, edit, ends_in, member, members};
use super::follower::Follower;
use super::grants::{grant, grants, list, note, note_of, noted, renew};
use super::single::{open, open_with, options};
use testkit::redis::{Redis, Reply};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);

fn with_prefix(server: &Redis, prefix: &str) -> Arc<AnyStore> {
    let mut options = options(&server.url());
    options.keys.allow_prefix = Some(prefix.to_owned());
    open_with(options)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_is_what_login_pages_know_and_the_note_is_beside_it() {
    let server = Redis::start();
    let store = open(&server.url());
    let knock = note("key:1a2b3c4d", Some("laptop"));
    edit(&store, noted("203.0.113.7", Some(HOUR), &knock)).await;
    assert_eq!(server.ask("ZCARD ip-allowed"), Reply::Number(1));
    let score: f64 = server.ask("ZSCORE ip-allowed 203.0.113.7").text().parse().unwrap();
    let text = server.ask("HGET ip-allowed:grants 203.0.113.7").text();
    let beside: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(beside["who"], "key:1a2b3c4d");
    assert_eq!(beside["label"], "laptop");
    assert_eq!(beside["at_ms"], 1_790_000_000_000_u64);
    assert!((beside["end_ms"].as_f64().unwrap() / 1_000.0 - score).abs() < 0.001, "{text} {score}");
    edit(&store, renew("203.0.113.7", HOUR * 2)).await;
    let later: f64 = server.ask("ZSCORE ip-allowed 203.0.113.7").text().parse().unwrap();
    assert!(later > score + 3_000.0, "{later}");
    edit(&store, Edit::Remove(member("203.0.113.7"))).await;
    assert_eq!(server.ask("EXISTS ip-allowed ip-allowed:grants"), Reply::Number(0));
    // The note of an allow key is its value, and ends with it.
    let keys = with_prefix(&server, "may:");
    server.ask("SADD ip-allowed 203.0.113.1");
    edit(&keys, noted("203.0.113.7", Some(HOUR), &knock)).await;
    let text = server.ask("GET may:203.0.113.7").text();
    assert_eq!(text, r#"{"who":"key:1a2b3c4d","label":"laptop","at_ms":1790000000000}"#);
    let Reply::Number(left) = server.ask("TTL may:203.0.113.7") else { panic!("no end") };
    assert!((3_590..=3_600).contains(&left), "{left}");
    // A claim ends by itself as well.
    assert_eq!(keys.claim("00ff", MINUTE).await, Ok(true));
    let Reply::Number(left) = server.ask("TTL knockpipe:knock:00ff") else { panic!("no end") };
    assert!((50..=60).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_writes_has_no_note_and_is_not_renewed() {
    let server = Redis::start();
    let store = open(&server.url());
    let knock = note("key:1a2b3c4d", None);
    edit(&store, noted("203.0.113.7", Some(MINUTE), &knock)).await;
    let soon = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 120;
    server.ask(&format!("ZADD ip-allowed {soon} 203.0.113.7"));
    assert_eq!(note_of(&store, "203.0.113.7").await, None);
    assert!(!edit(&store, renew("203.0.113.7", HOUR)).await.changed);
    assert_eq!(server.ask("ZSCORE ip-allowed 203.0.113.7").text(), soon.to_string());
    server.ask("ZADD ip-allowed inf 203.0.113.7");
    assert_eq!(note_of(&store, "203.0.113.7").await, None);
    assert!(!edit(&store, renew("203.0.113.7", HOUR)).await.changed);
    assert_eq!(server.ask("ZSCORE ip-allowed 203.0.113.7").text(), "inf");
    // A set that ends as a whole changes no note.
    edit(&store, noted("203.0.113.8", Some(HOUR), &knock)).await;
    server.ask("EXPIRE ip-allowed 600");
    assert_eq!(note_of(&store, "203.0.113.8").await.as_ref(), Some(&knock));

    server.ask("FLUSHALL");
    let keys = with_prefix(&server, "may:");
    server.ask("SADD ip-allowed 203.0.113.1");
    edit(&keys, noted("203.0.113.7", Some(MINUTE), &knock)).await;
    server.ask("SETEX may:203.0.113.7 120 1");
    assert_eq!(note_of(&keys, "203.0.113.7").await, None);
    assert!(!edit(&keys, renew("203.0.113.7", HOUR)).await.changed);
    // Without an end, even with the text of a note.
    edit(&keys, noted("203.0.113.7", Some(MINUTE), &knock)).await;
    server.ask("PERSIST may:203.0.113.7");
    assert!(!edit(&keys, renew("203.0.113.7", HOUR)).await.changed);
    assert_eq!(server.ask("TTL may:203.0.113.7"), Reply::Number(-1));
}

/// Each round another program writes the entry at a moment of its own: whoever was first, its
/// end stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_never_undoes_what_another_program_writes_meanwhile() {
    let server = Redis::start();
    let store = open(&server.url());
    let knock = note("key:1a2b3c4d", None);
    let soon = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 1_800;
    let mut other = server.direct();
    let mut renewed = 0;
    for round in 0..300_u64 {
        edit(&store, noted("203.0.113.7", Some(MINUTE), &knock)).await;
        let renewing = tokio::spawn({
            let store = Arc::clone(&store);
            async move { edit(&store, renew("203.0.113.7", HOUR)).await.changed }
        });
        // Spread over the few steps that a renewal has.
        std::thread::sleep(Duration::from_micros(round * 7 % 900));
        assert_ne!(
            other.ask(&["ZADD", "ip-allowed", &soon.to_string(), "203.0.113.7"]),
            Reply::Nil
        );
        renewed += usize::from(renewing.await.unwrap());
        let score = server.ask("ZSCORE ip-allowed 203.0.113.7").text();
        assert_eq!(score, soon.to_string(), "round {round}");
    }
    println!("{renewed} of 300 were renewed before");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_among_notes_is_no_note_and_stops_nothing() {
    let server = Redis::start();
    let store = with_prefix(&server, "ip-allowed:");
    let knock = note("key:1a2b3c4d", None);
    edit(&store, noted("203.0.113.7", None, &knock)).await;
    let mut other = server.direct();
    let huge = "x".repeat(3 << 20);
    for (field, value) in [
        ("203.0.113.8", "junk"),
        ("203.0.113.9", "{\"who\":\"\",\"at_ms\":1}"),
        ("203.0.113.10", &huge),
        ("no address", "{\"who\":\"a\",\"at_ms\":1}"),
    ] {
        other.ask(&["HSET", "ip-allowed:grants", field, value]);
        other.ask(&["SADD", "ip-allowed", field]);
    }
    for (key, value) in [("203.0.113.20", "junk"), ("203.0.113.21", &*huge)] {
        other.ask(&["SETEX", &format!("ip-allowed:{key}"), "3600", value]);
    }
    server.ask("HSET ip-allowed:203.0.113.22 a b");
    let (all, listed) = list(&store).await;
    assert_eq!((all.len(), listed.garbage, listed.without_notes), (7, 1, None));
    for grant in &all {
        let expected = (grant.member == member("203.0.113.7")).then_some(&knock);
        assert_eq!(grant.note.as_ref(), expected, "{grant:?}");
        let text = grant.member.to_string();
        assert_eq!(note_of_one(&store, &text).await.as_ref(), expected, "{text}");
        assert!(!edit(&store, renew(&text, HOUR)).await.changed, "{text}");
    }
    // The hash is no entry for a follower, though its name begins with the prefix of keys.
    let follower = Follower::start(&store).await;
    assert_eq!((follower.state.allowed.len(), follower.state.garbage), (7, 1));
    follower.stop().await;
    for text in ["203.0.113.10", "203.0.113.8", "203.0.113.22"] {
        assert!(edit(&store, Edit::Remove(member(text))).await.changed, "{text}");
    }
    assert_eq!(server.ask("HEXISTS ip-allowed:grants 203.0.113.10"), Reply::Number(0));
}

async fn note_of_one(store: &AnyStore, text: &str) -> Option<knockpipe::gate::GrantNote> {
    let record = store.address_record(text.parse().unwrap(), None).await.unwrap();
    record.allow_entries.into_iter().find(|entry| entry.member == member(text))?.note
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_notes_of_another_type_is_named_before_anything_is_written() {
    let server = Redis::start();
    let store = open(&server.url());
    edit(&store, allow(member("203.0.113.1"), Some(HOUR))).await;
    server.ask("SET ip-allowed:grants 1");
    let knock = note("key:1a2b3c4d", None);
    let refused = |error: String| {
        assert!(error.contains("key \"ip-allowed:grants\" is a string"), "{error}");
        assert!(error.contains("; ") && !error.contains('\n'), "{error}");
    };
    let one = noted("203.0.113.7", Some(HOUR), &knock);
    refused(store.edit(one.clone()).await.unwrap_err().to_string());
    let both = vec![one, Edit::Ban(member("203.0.113.66"), HOUR)];
    refused(store.edit_all(both, &mut |_| {}).await.unwrap_err().to_string());
    assert_eq!(members(&store).await.0.len(), 1);
    assert_eq!(
        server.ask("EXISTS cache:gitlab:rack::attack:allow2ban:ban:203.0.113.66"),
        Reply::Number(0)
    );
    let (all, listed) = list(&store).await;
    assert_eq!(all.len(), 1);
    let why = listed.without_notes.expect("notes cannot be read");
    assert!(why.contains("WRONGTYPE"), "{why}");
    assert!(edit(&store, allow(member("203.0.113.2"), None)).await.changed);
    assert!(edit(&store, Edit::Remove(member("203.0.113.1"))).await.changed);
    assert!(edit(&store, Edit::Remove(member("203.0.113.2"))).await.changed);
}

/// The rights in docs/operating/gate.md are enough, and without those of notes all else works.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough() {
    let server = Redis::start();
    let document = std::fs::read_to_string("docs/operating/gate.md").unwrap();
    let (_, line) = document.split_once("ACL SETUSER gate ").expect("the document has the rights");
    let (line, _) = line.split_once("\n\n").unwrap();
    let rights = line.replace(" \\\n", " ").replace("'", "").replace("\\|", "|");
    let rights = rights.replace(">PASSWORD", ">word");
    server.ask(&format!("ACL SETUSER gate {rights}"));
    server.ask(&format!("ACL SETUSER old {rights} -eval -hstrlen -hmget -getrange"));
    server.ask(
        "ACL SETUSER old resetkeys ~ip-allowed ~ip-history ~cache:gitlab:rack::attack:* ~may:*",
    );
    let user = |name: &str, prefix: Option<&str>| {
        let mut options = options(&server.url());
        let password = "word".to_owned().into();
        options.credentials = Some(Credentials { user: Some(name.to_owned()), password });
        options.keys.allow_prefix = prefix.map(str::to_owned);
        open_with(options)
    };
    let knock = note("key:1a2b3c4d", None);
    for prefix in [None, Some("may:")] {
        server.ask("FLUSHALL");
        let (gate, old) = (user("gate", prefix), user("old", prefix));
        if prefix.is_some() {
            server.ask("SADD ip-allowed 203.0.113.1");
        }
        let mut follower = Follower::start(&gate).await;
        assert!(edit(&gate, grant("203.0.113.7", MINUTE, &knock)).await.changed);
        follower.until("the grant", |state| state.allows("203.0.113.7")).await;
        assert_eq!(note_of(&gate, "203.0.113.7").await.as_ref(), Some(&knock));
        assert!(edit(&gate, renew("203.0.113.7", HOUR)).await.changed);
        let error = old.edit(grant("203.0.113.11", HOUR, &knock)).await.unwrap_err().to_string();
        assert!(error.contains("NOPERM") && !error.contains('\n'), "{error}");
        assert_eq!(gate.claim("00ff", MINUTE).await, Ok(true));
        let both = vec![noted("203.0.113.8", None, &knock), Edit::Remove(member("203.0.113.7"))];
        gate.edit_all(both, &mut |receipt| assert!(receipt.changed)).await.unwrap();
        assert!(
            edit(&gate, Edit::Forget { ip: [203, 0, 113, 8].into(), before_s: 9 }).await.changed
        );
        follower.stop().await;
        // Rights from before there were notes.
        edit(&gate, noted("203.0.113.9", None, &knock)).await;
        edit(&gate, noted("203.0.113.20", None, &knock)).await;
        assert!(edit(&old, allow(member("203.0.113.10"), None)).await.changed);
        assert!(edit(&old, Edit::Remove(member("203.0.113.9"))).await.changed);
        let deny =
            vec![Edit::Ban(member("203.0.113.10"), HOUR), Edit::Remove(member("203.0.113.10"))];
        old.edit_all(deny, &mut |receipt| assert!(receipt.changed)).await.unwrap();
        let (_, listed) = list(&old).await;
        assert!(listed.without_notes.is_some_and(|why| why.contains("NOPERM")));
        let error = old.edit(noted("203.0.113.11", None, &knock)).await.unwrap_err().to_string();
        assert!(error.contains("NOPERM") && error.contains("ip-allowed:grants"), "{error}");
        let edits = vec![noted("203.0.113.11", None, &knock), noted("203.0.113.12", None, &knock)];
        let error = old.edit_all(edits, &mut |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("~ip-allowed:grants"), "{error}");
        assert!(!members(&gate).await.0.iter().any(|(other, _)| *other == member("203.0.113.11")));
    }
}

/// Knocks of many addresses leave nothing behind, and what others wrote stays.
#[tokio::test(flavor = "multi_thread")]
async fn ended_grants_are_removed_with_their_notes_and_no_others() {
    let server = Redis::start();
    let knock = note("key:1a2b3c4d", None);
    server.ask("ZADD ip-allowed 1 198.51.100.1 5 198.51.100.2");
    // Of a member that another program wrote anew, the note alone is over.
    let store = open(&server.url());
    edit(&store, noted("198.51.100.2", Some(HOUR), &knock)).await;
    server.ask("ZADD ip-allowed 7 198.51.100.2");
    for n in 0..50 {
        let brief = Duration::from_millis(1);
        edit(&store, noted(&format!("203.0.113.{n}"), Some(brief), &knock)).await;
    }
    edit(&store, noted("203.0.113.99", Some(HOUR), &knock)).await;
    let pruned = async {
        while server.ask("HLEN ip-allowed:grants") != Reply::Number(2) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            edit(&open(&server.url()), noted("203.0.113.100", None, &knock)).await;
            edit(&open(&server.url()), noted("203.0.113.99", Some(HOUR), &knock)).await;
        }
    };
    tokio::time::timeout(testkit::wait::NEVER, pruned).await.expect("they are removed");
    assert_eq!(server.ask("ZCARD ip-allowed"), Reply::Number(4));
    for (text, score) in [("198.51.100.1", "1"), ("198.51.100.2", "7")] {
        assert_eq!(server.ask(&format!("ZSCORE ip-allowed {text}")).text(), score);
    }
    let [one, two] = &grants(&store).await[..] else { panic!("not two") };
    ends_in(one.expiry, HOUR);
    assert_eq!((one.note.as_ref(), two.note.as_ref()), (Some(&knock), Some(&knock)));
}

/// Allow keys are from before a network made the set a sorted one: what is written there counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_sooner_end_in_a_sorted_set_takes_the_allow_key_along() {
    let server = Redis::start();
    let knock = note("key:1a2b3c4d", None);
    let operator = note("operator:anna", None);
    for together in [false, true] {
        server.ask("FLUSHALL");
        let store = with_prefix(&server, "may:");
        edit(&store, grant("203.0.113.7", HOUR, &knock)).await;
        assert_eq!(server.ask("EXISTS may:203.0.113.7"), Reply::Number(1));
        edit(&store, noted("198.51.100.0/24", Some(HOUR), &operator)).await;
        let sooner = noted("203.0.113.7", Some(MINUTE), &operator);
        if together {
            store.edit_all(vec![sooner], &mut |made| assert!(made.changed)).await.unwrap();
        } else {
            assert!(edit(&store, sooner).await.changed);
        }
        assert_eq!(server.ask("EXISTS may:203.0.113.7"), Reply::Number(0), "{together}");
        let entries = store.address_record([203, 0, 113, 7].into(), None).await.unwrap();
        let [entry] = &entries.allow_entries[..] else { panic!("not one: {entries:?}") };
        ends_in(entry.expiry, MINUTE);
    }
}
