//! Notes, renewal and claims: behaviour of every store, of any kind.

use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::owners::Terms;
use knockpipe::gate::store::{Edit, Grant, Listed};
use knockpipe::gate::{Expiry, GrantNote, Member, UnixMillis};
use tokio::sync::mpsc;

use super::conformance::{Backing, allow, edit, ends_in, forget, ip, member};
use super::follower::Follower;
use testkit::wait::NEVER;

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn check(backing: &impl Backing) {
    notes_come_and_go(backing.open(10)).await;
    if !backing.ends() {
        a_grant_needs_an_end(backing.open(11)).await;
    }
    if backing.ends() {
        notes_of_entries_with_an_end(backing.open(11)).await;
        renewal_makes_an_end_later(backing.open(12)).await;
        renewal_makes_nothing_else(backing.open(13)).await;
        grants_make_no_entry_shorter(backing.open(12)).await;
        grants_leave_endless_entries_of_any_moment(backing.open(13)).await;
        a_later_knock_without_a_label_keeps_that_of_the_same_key(backing.open(11)).await;
    }
    several_changes_with_notes(backing, backing.open(14)).await;
    a_name_is_claimed_once(&|| backing.open(15)).await;
}

pub(crate) fn note(who: &str, label: Option<&str>) -> GrantNote {
    GrantNote::new(who, label, UnixMillis(1_790_000_000_000))
}

pub(crate) fn noted(text: &str, lasting: Option<Duration>, note: &GrantNote) -> Edit {
    Edit::Allow { member: member(text), lasting, note: Some(note.clone()) }
}

pub(crate) fn renew(text: &str, lasting: Duration) -> Edit {
    Edit::Renew { member: member(text), lasting, who_prefix: "key:".to_owned() }
}

pub(crate) fn grant(text: &str, lasting: Duration, note: &GrantNote) -> Edit {
    Edit::Grant { member: member(text), lasting, note: note.clone(), terms: Terms::Later }
}

/// Lists all entries with their notes, and the end of the listing.
pub(crate) async fn list(store: &AnyStore) -> (Vec<Grant>, Listed) {
    let (to, mut batches) = mpsc::channel::<Vec<Grant>>(2);
    let collect = async {
        let mut all = vec![];
        while let Some(batch) = batches.recv().await {
            all.extend(batch);
        }
        all
    };
    let (listed, all) = tokio::join!(store.list_grants(to), collect);
    (all, listed.unwrap())
}

pub(crate) async fn grants(store: &AnyStore) -> Vec<Grant> {
    let (mut all, listed) = list(store).await;
    assert_eq!((listed.garbage, listed.without_notes), (0, None));
    all.sort_unstable_by_key(|grant| grant.member);
    all
}

/// The note of an entry, which the listing and the look-up of its address agree on.
#[track_caller]
pub(crate) fn note_of<'a>(
    store: &'a AnyStore,
    text: &'a str,
) -> impl Future<Output = Option<GrantNote>> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let member: Member = member(text);
        let listed = grants(store).await.into_iter().find(|grant| grant.member == member);
        let listed = listed.and_then(|grant| grant.note);
        let host = ipnet::IpNet::from(member).addr();
        let entries = store.address_record(host, None).await.unwrap().allow_entries;
        let looked_up = entries.into_iter().find(|entry| entry.member == member);
        assert_eq!(looked_up.and_then(|entry| entry.note), listed, "{caller}: {text}");
        listed
    }
}

fn now() -> UnixMillis {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    UnixMillis(now.try_into().unwrap())
}

async fn notes_come_and_go(store: Arc<AnyStore>) {
    let (plain, one) = (note("operator:anna", None), note("operator:bert", Some("the office")));
    edit(&store, allow(member("203.0.113.1"), None)).await;
    assert!(edit(&store, noted("203.0.113.7", None, &plain)).await.changed);
    assert!(edit(&store, noted("2001:db8::/64", None, &one)).await.changed);
    assert_eq!(note_of(&store, "203.0.113.1").await, None);
    assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&plain));
    assert_eq!(note_of(&store, "2001:db8::/64").await.as_ref(), Some(&one));
    // An entry that stays keeps its note, unless another label is given.
    let other = note("operator:carl", None);
    assert!(!edit(&store, noted("2001:db8::/64", None, &other)).await.changed);
    assert!(!edit(&store, allow(member("2001:db8::/64"), None)).await.changed);
    let same = note("operator:carl", Some("the office"));
    assert!(!edit(&store, noted("2001:db8::/64", None, &same)).await.changed);
    assert_eq!(note_of(&store, "2001:db8::/64").await.as_ref(), Some(&one));
    let two = note("operator:carl", Some("two \"words\" \\ 世界"));
    for text in ["2001:db8::/64", "203.0.113.7", "203.0.113.1"] {
        assert!(edit(&store, noted(text, None, &two)).await.changed, "{text}");
        assert_eq!(note_of(&store, text).await.as_ref(), Some(&two), "{text}");
    }
    // A note goes with its entry, and does not come back with it.
    for text in ["2001:db8::/64", "203.0.113.7"] {
        assert!(edit(&store, Edit::Remove(member(text))).await.changed);
        assert!(edit(&store, allow(member(text), None)).await.changed);
        assert_eq!(note_of(&store, text).await, None, "{text}");
    }
    assert!(edit(&store, forget("203.0.113.1")).await.changed);
    assert!(edit(&store, allow(member("203.0.113.1"), None)).await.changed);
    assert_eq!(note_of(&store, "203.0.113.1").await, None);
}

async fn notes_of_entries_with_an_end(store: Arc<AnyStore>) {
    let (one, two) = (note("key:1a2b3c4d", Some("laptop")), note("key:5e6f7081", None));
    assert!(edit(&store, noted("203.0.113.7", Some(HOUR), &one)).await.changed);
    assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&one));
    // A new grant has a note of its own, also where it ends at another time.
    assert!(edit(&store, noted("203.0.113.7", Some(MINUTE), &two)).await.changed);
    assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&two));
    assert!(edit(&store, allow(member("203.0.113.7"), Some(HOUR))).await.changed);
    assert_eq!(note_of(&store, "203.0.113.7").await, None);
    // It ends with its entry.
    let brief = Duration::from_millis(300);
    edit(&store, noted("203.0.113.7", Some(brief), &one)).await;
    let over = async {
        while !grants(&store).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, over).await.expect("it ends");
    edit(&store, allow(member("203.0.113.7"), Some(HOUR))).await;
    assert_eq!(note_of(&store, "203.0.113.7").await, None);
}

async fn renewal_makes_an_end_later(store: Arc<AnyStore>) {
    let knock = note("key:1a2b3c4d", Some("laptop"));
    let mut follower = Follower::start(&store).await;
    edit(&store, noted("203.0.113.7", Some(MINUTE), &knock)).await;
    follower.until("the grant", |state| state.allows("203.0.113.7")).await;
    let receipt = edit(&store, renew("203.0.113.7", HOUR)).await;
    assert!(receipt.changed && !receipt.key.is_empty(), "{receipt:?}");
    let [grant] = &grants(&store).await[..] else { panic!("not one") };
    ends_in(grant.expiry, HOUR);
    assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&knock));
    let far = |end: &Expiry| end.left(now()) > Some(MINUTE * 10);
    let is_later =
        |state: &super::follower::State| state.allowed.get(&member("203.0.113.7")).is_some_and(far);
    follower.until("the later end", is_later).await;
    // Once more, as for every session that lives on.
    assert!(edit(&store, renew("203.0.113.7", HOUR * 2)).await.changed);
    ends_in(grants(&store).await[0].expiry, HOUR * 2);
    follower.stop().await;
}

async fn renewal_makes_nothing_else(store: Arc<AnyStore>) {
    let (knock, operator) = (note("key:1a2b3c4d", None), note("operator:anna", None));
    assert!(!edit(&store, renew("203.0.113.1", HOUR)).await.changed, "there is none");
    assert_eq!(grants(&store).await, []);
    edit(&store, noted("203.0.113.2", Some(HOUR), &knock)).await;
    assert!(!edit(&store, renew("203.0.113.2", MINUTE)).await.changed, "it lasts longer");
    edit(&store, noted("203.0.113.3", Some(MINUTE), &operator)).await;
    assert!(!edit(&store, renew("203.0.113.3", HOUR)).await.changed, "an operator's");
    edit(&store, allow(member("203.0.113.4"), Some(MINUTE))).await;
    assert!(!edit(&store, renew("203.0.113.4", HOUR)).await.changed, "nobody's");
    edit(&store, noted("203.0.113.5", None, &knock)).await;
    assert!(!edit(&store, renew("203.0.113.5", HOUR)).await.changed, "an endless one");
    let brief = Duration::from_millis(100);
    edit(&store, noted("203.0.113.6", Some(brief), &knock)).await;
    let of = |grants: Vec<Grant>, text: &str| {
        grants.into_iter().find(|grant| grant.member == member(text)).map(|grant| grant.expiry)
    };
    let over = async {
        while of(grants(&store).await, "203.0.113.6").is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, over).await.expect("it ends");
    assert!(!edit(&store, renew("203.0.113.6", HOUR)).await.changed, "one that is over");
    for (text, end) in [
        ("203.0.113.2", Some(HOUR)),
        ("203.0.113.3", Some(MINUTE)),
        ("203.0.113.4", Some(MINUTE)),
        ("203.0.113.5", None),
    ] {
        match (of(grants(&store).await, text), end) {
            (Some(expiry), Some(end)) => ends_in(expiry, end),
            (expiry, None) => assert_eq!(expiry, Some(Expiry::Never), "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(of(grants(&store).await, "203.0.113.6"), None);
}

/// Where members cannot end, a grant is refused, except of what is there for ever.
async fn a_grant_needs_an_end(store: Arc<AnyStore>) {
    edit(&store, allow(member("198.51.100.1"), None)).await;
    let knock = note("key:1a2b3c4d", None);
    assert!(!edit(&store, grant("198.51.100.1", HOUR, &knock)).await.changed);
    let error = store.edit(grant("198.51.100.2", HOUR, &knock)).await.unwrap_err().to_string();
    assert!(error.contains("--allow-prefix") && error.contains("sorted set"), "{error}");
    assert!(!error.contains("--ttl"), "a knock has no such flag here: {error}");
    let error = store.edit(allow(member("198.51.100.2"), Some(HOUR))).await.unwrap_err();
    assert!(error.to_string().contains("leave --ttl out"), "{error}");
    assert_eq!(grants(&store).await.len(), 1);
    edit(&store, Edit::Remove(member("198.51.100.1"))).await;
}

async fn grants_make_no_entry_shorter(store: Arc<AnyStore>) {
    let (knock, other) = (note("key:1a2b3c4d", None), note("key:5e6f7081", Some("laptop")));
    let operator = note("operator:anna", Some("the office"));
    let mut follower = Follower::start(&store).await;
    let receipt = edit(&store, grant("198.51.100.1", MINUTE, &knock)).await;
    assert!(receipt.changed && !receipt.key.is_empty(), "{receipt:?}");
    follower.until("the grant", |state| state.allows("198.51.100.1")).await;
    follower.stop().await;
    // The note is that of the later end; a sooner one of the same key changes nothing, and one of
    // another stands beside it.
    assert!(edit(&store, grant("198.51.100.1", HOUR, &other)).await.changed);
    assert!(!edit(&store, grant("198.51.100.1", MINUTE, &other)).await.changed);
    assert!(!edit(&store, grant("198.51.100.1", MINUTE / 2, &knock)).await.changed);
    // An operator's, with an end and without one.
    edit(&store, noted("198.51.100.2", Some(HOUR), &operator)).await;
    edit(&store, grant("198.51.100.2", MINUTE, &knock)).await;
    edit(&store, noted("198.51.100.3", None, &operator)).await;
    edit(&store, noted("2001:db8:1::/64", None, &operator)).await;
    for text in ["198.51.100.3", "2001:db8:1::/64"] {
        assert!(!edit(&store, grant(text, HOUR, &knock)).await.changed, "{text}");
    }
    // Grants at once: the longest holds.
    let mut made = tokio::task::JoinSet::new();
    for minutes in (1..=16).rev() {
        let (store, knock) = (Arc::clone(&store), knock.clone());
        made.spawn(
            async move { edit(&store, grant("198.51.100.4", MINUTE * minutes, &knock)).await },
        );
    }
    made.join_all().await;
    let all = grants(&store).await;
    let of = |text: &str| all.iter().find(|grant| grant.member == member(text)).unwrap();
    for (text, end, note) in [
        ("198.51.100.1", Some(HOUR), &other),
        ("198.51.100.2", Some(HOUR), &operator),
        ("198.51.100.3", None, &operator),
        ("198.51.100.4", Some(MINUTE * 16), &knock),
        ("2001:db8:1::/64", None, &operator),
    ] {
        assert_eq!(of(text).note.as_ref(), Some(note), "{text}");
        match end {
            Some(end) => ends_in(of(text).expiry, end),
            None => assert_eq!(of(text).expiry, Expiry::Never, "{text}"),
        }
    }
}

/// A key's knocks are one entry, whichever of its programs sends them, and not each has a label.
async fn a_later_knock_without_a_label_keeps_that_of_the_same_key(store: Arc<AnyStore>) {
    let (plain, other) = (note("key:1a2b3c4d", None), note("key:5e6f7081", None));
    let labels = [Some("laptop"), Some("two \"words\" \\ 世界 a/b"), Some("another")];
    let [laptop, words, another] = labels.map(|label| note("key:1a2b3c4d", label));
    for (minutes, given, kept) in [
        (1, &plain, &plain),
        (2, &laptop, &laptop),
        (3, &plain, &laptop),
        (4, &words, &words),
        (5, &plain, &words),
        (6, &another, &another),
        (7, &other, &other),
        (8, &plain, &another),
    ] {
        assert!(edit(&store, grant("198.51.100.9", MINUTE * minutes, given)).await.changed);
        let found = note_of(&store, "198.51.100.9").await;
        assert_eq!(found.as_ref(), Some(kept), "after {minutes} grants");
    }
    // A label goes with its entry.
    edit(&store, grant("198.51.100.9", MINUTE * 9, &laptop)).await;
    edit(&store, Edit::Remove(member("198.51.100.9"))).await;
    edit(&store, grant("198.51.100.9", MINUTE, &plain)).await;
    assert_eq!(note_of(&store, "198.51.100.9").await.as_ref(), Some(&plain));
    let brief = Duration::from_millis(300);
    edit(&store, grant("198.51.100.10", brief, &laptop)).await;
    let is_it = |grant: &Grant| grant.member == member("198.51.100.10");
    let over = async {
        while grants(&store).await.iter().any(is_it) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, over).await.expect("it ends");
    edit(&store, grant("198.51.100.10", MINUTE, &plain)).await;
    assert_eq!(note_of(&store, "198.51.100.10").await.as_ref(), Some(&plain));
}

/// An operator lets an address in for ever while it knocks.
async fn grants_leave_endless_entries_of_any_moment(store: Arc<AnyStore>) {
    let knock = note("key:1a2b3c4d", None);
    for n in 0..20 {
        let text = format!("198.51.100.{n}");
        let (_, _) = tokio::join!(
            edit(&store, allow(member(&text), None)),
            edit(&store, grant(&text, MINUTE, &knock)),
        );
        let entries = store.address_record(ip(&text), None).await.unwrap().allow_entries;
        assert!(entries.iter().any(|entry| entry.expiry == Expiry::Never), "{entries:?}");
    }
}

async fn several_changes_with_notes(backing: &impl Backing, store: Arc<AnyStore>) {
    let (one, two) = (note("operator:anna", Some("one")), note("operator:anna", Some("two")));
    let lasting = backing.ends().then_some(HOUR);
    let mut edits = vec![
        noted("203.0.113.0/24", lasting, &one),
        noted("203.0.113.7", lasting, &one),
        noted("203.0.113.8", None, &one),
        allow(member("203.0.113.9"), None),
        noted("203.0.113.9", None, &two),
        Edit::Ban(member("203.0.113.66"), HOUR),
    ];
    // With allow keys a network that ends has no place.
    let has_place = !matches!(&*store, AnyStore::Redis(_)) || {
        let probe = store.edit(noted("198.51.100.0/24", lasting, &one)).await.is_ok();
        edit(&store, Edit::Remove(member("198.51.100.0/24"))).await;
        probe
    };
    if !has_place {
        edits.remove(0);
    }
    let mut made = vec![];
    store.edit_all(edits, &mut |receipt| made.push(receipt.changed)).await.unwrap();
    assert!(made.iter().all(|changed| *changed), "{made:?}");
    assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&one));
    assert_eq!(note_of(&store, "203.0.113.8").await.as_ref(), Some(&one));
    assert_eq!(note_of(&store, "203.0.113.9").await.as_ref(), Some(&two));
    let other = note("operator:bert", None);
    let edits = vec![
        noted("203.0.113.8", None, &other),
        noted("203.0.113.9", None, &one),
        Edit::Remove(member("203.0.113.7")),
        Edit::Remove(member("203.0.113.77")),
    ];
    let mut made = vec![];
    store.edit_all(edits, &mut |receipt| made.push(receipt.changed)).await.unwrap();
    assert_eq!(made, [false, true, true, false]);
    assert_eq!(note_of(&store, "203.0.113.8").await.as_ref(), Some(&one), "it stayed");
    assert_eq!(note_of(&store, "203.0.113.9").await.as_ref(), Some(&one));
    // Taken out and let in again by one command: a new entry.
    let edits = vec![Edit::Remove(member("203.0.113.8")), noted("203.0.113.8", None, &other)];
    let mut made = vec![];
    store.edit_all(edits, &mut |receipt| made.push(receipt.changed)).await.unwrap();
    assert_eq!(made, [true, true]);
    assert_eq!(note_of(&store, "203.0.113.8").await.as_ref(), Some(&other));
}

async fn a_name_is_claimed_once(open: &dyn Fn() -> Arc<AnyStore>) {
    let (one, two) = (open(), open());
    let mut follower = Follower::start(&one).await;
    let name = "00112233445566778899aabbccddeeff";
    assert_eq!(one.claim(name, HOUR).await, Ok(true));
    for store in [&one, &two, &open()] {
        assert_eq!(store.claim(name, HOUR).await, Ok(false));
    }
    // Of many at once one succeeds.
    for round in 0..5 {
        let mut claims = tokio::task::JoinSet::new();
        for n in 0..8 {
            let store = Arc::clone(if n % 2 == 0 { &one } else { &two });
            claims.spawn(async move { store.claim(&format!("round-{round}"), HOUR).await });
        }
        let claims = claims.join_all().await;
        assert_eq!(claims.iter().filter(|claim| **claim == Ok(true)).count(), 1, "{claims:?}");
    }
    // It ends, and then the name is free.
    assert_eq!(two.claim("brief", Duration::from_millis(200)).await, Ok(true));
    let over = async {
        while one.claim("brief", HOUR).await == Ok(false) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, over).await.expect("it ends");
    assert_eq!(two.claim("brief", HOUR).await, Ok(false));
    // It is no entry, and changes none.
    edit(&one, Edit::Ban(ip("203.0.113.66").into(), HOUR)).await;
    follower.until("the ban", |state| state.bans("203.0.113.66")).await;
    assert_eq!((follower.state.allowed.len(), follower.state.garbage), (0, 0));
    assert_eq!(grants(&one).await, []);
    follower.stop().await;
}
