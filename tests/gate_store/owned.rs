//! Changes of entries by their note: behaviour of every store whose members can end.

use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::owners::Terms;
use knockpipe::gate::store::{Edit, Grant};
use knockpipe::gate::{Expiry, GrantNote, UnixMillis};

use super::conformance::{Backing, allow, edit, ends_in, member};
use super::follower::Follower;
use super::grants::{grant, grants, note, note_of, noted, renew};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn check(backing: &impl Backing) {
    if backing.ends() {
        an_owner_sets_its_own_end_anew(backing.open(12)).await;
        the_entry_lasts_as_long_as_any_owner(backing.open(13)).await;
        only_its_maker_takes_a_grant_back(backing.open(13)).await;
        owners_at_once_lose_nothing(backing, 12).await;
    }
}

fn anew(text: &str, lasting: Duration, note: &GrantNote) -> Edit {
    Edit::Grant { member: member(text), lasting, note: note.clone(), terms: Terms::Anew }
}

fn take_back(text: &str, who: &str) -> Edit {
    Edit::TakeBack { member: member(text), who: who.to_owned(), until: None }
}

/// Lists the entries of these checks: others have left theirs.
async fn own(store: &AnyStore) -> Vec<Grant> {
    let mut all = grants(store).await;
    all.retain(|grant| grant.member.to_string().starts_with("192.0.2."));
    all
}

/// The end of an entry, and its owners, the one that ends last first.
async fn owners(store: &AnyStore, text: &str) -> (Expiry, Vec<String>) {
    let all = own(store).await;
    let Some(grant) = all.into_iter().find(|grant| grant.member == member(text)) else {
        return (Expiry::At(UnixMillis(0)), vec![]);
    };
    let others = grant.others.into_iter().map(|other| other.note);
    (grant.expiry, grant.note.into_iter().chain(others).map(|note| note.who).collect())
}

async fn an_owner_sets_its_own_end_anew(store: Arc<AnyStore>) {
    let (guest, admin) = (note("token:guest", None), note("token:admin", Some("away")));
    let (operator, key) = (note("operator:anna", None), note("key:1a2b3c4d", None));
    edit(&store, noted("192.0.2.2", Some(HOUR), &operator)).await;
    edit(&store, noted("192.0.2.3", None, &operator)).await;
    edit(&store, grant("192.0.2.4", HOUR, &key)).await;
    edit(&store, allow(member("192.0.2.5"), Some(HOUR))).await;
    for (text, owner) in [
        ("192.0.2.2", Some("operator:anna")),
        ("192.0.2.4", Some("key:1a2b3c4d")),
        ("192.0.2.5", Some("unknown")),
    ] {
        assert!(edit(&store, anew(text, MINUTE, &guest)).await.changed, "{text}");
        let (end, all) = owners(&store, text).await;
        ends_in(end, HOUR);
        assert_eq!(all, [owner.unwrap(), "token:guest"], "{text}");
    }
    assert!(!edit(&store, anew("192.0.2.3", HOUR, &guest)).await.changed, "it is endless");
    let receipt = edit(&store, anew("192.0.2.6", HOUR, &guest)).await;
    assert!(receipt.changed && !receipt.key.is_empty(), "{receipt:?}");
    assert!(edit(&store, anew("192.0.2.6", MINUTE, &guest)).await.changed, "sooner");
    ends_in(owners(&store, "192.0.2.6").await.0, MINUTE);
    assert!(edit(&store, anew("192.0.2.6", MINUTE * 2, &admin)).await.changed);
    assert_eq!(note_of(&store, "192.0.2.6").await, Some(admin.clone()));
    assert!(edit(&store, anew("192.0.2.6", MINUTE / 2, &admin)).await.changed);
    let (end, all) = owners(&store, "192.0.2.6").await;
    ends_in(end, MINUTE);
    assert_eq!(all, ["token:guest", "token:admin"]);
    assert_eq!(owners(&store, "192.0.2.3").await.0, Expiry::Never);
    for grant in own(&store).await {
        edit(&store, Edit::Remove(grant.member)).await;
    }
}

async fn the_entry_lasts_as_long_as_any_owner(store: Arc<AnyStore>) {
    let (guest, admin) = (note("token:guest", None), note("token:admin", None));
    let key = note("key:1a2b3c4d", None);
    let text = "192.0.2.7";
    let mut follower = Follower::start(&store).await;
    edit(&store, allow(member(text), Some(MINUTE * 2))).await;
    edit(&store, grant(text, MINUTE, &key)).await;
    edit(&store, anew(text, HOUR * 2, &guest)).await;
    edit(&store, anew(text, HOUR, &admin)).await;
    let all = ["token:guest", "token:admin", "unknown", "key:1a2b3c4d"];
    assert_eq!(owners(&store, text).await.1, all);
    // A key's grant is renewed below those of others, too.
    assert!(edit(&store, renew(text, MINUTE * 3)).await.changed);
    assert!(!edit(&store, renew(text, MINUTE)).await.changed, "it lasts longer");
    for (who, end, left) in [
        ("token:guest", HOUR, "token:admin"),
        ("token:admin", MINUTE * 3, "key:1a2b3c4d"),
        ("key:1a2b3c4d", MINUTE * 2, "unknown"),
    ] {
        assert!(edit(&store, take_back(text, who)).await.changed, "{who}");
        assert!(!edit(&store, take_back(text, who)).await.changed, "{who} again");
        let found = owners(&store, text).await;
        ends_in(found.0, end);
        assert_eq!(found.1.first().map_or("unknown", String::as_str), left);
    }
    assert_eq!(note_of(&store, text).await, None, "as another program wrote it");
    let is_short = |end: &Expiry| end.as_millis() < Some(now_ms() + 121_000);
    let is_told =
        |state: &super::follower::State| state.allowed.get(&member(text)).is_some_and(is_short);
    follower.until("the end of the last", is_told).await;
    follower.stop().await;
    // What an operator writes, and takes out, is of all of them.
    edit(&store, anew(text, HOUR, &guest)).await;
    edit(&store, noted(text, Some(MINUTE), &note("operator:anna", None))).await;
    assert_eq!(owners(&store, text).await.1, ["operator:anna"]);
    edit(&store, anew(text, HOUR, &guest)).await;
    assert!(edit(&store, Edit::Remove(member(text))).await.changed);
    assert_eq!(own(&store).await, []);
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap()
}

/// Processes that grant and take back the same address at the same time.
async fn owners_at_once_lose_nothing(backing: &impl Backing, check: usize) {
    // One in memory lasts as long as it is open.
    let store = backing.open(check);
    let mut made = tokio::task::JoinSet::new();
    for n in 0..12 {
        let store = backing.open(check);
        made.spawn(async move {
            let who = format!("token:{n}");
            edit(&store, anew("192.0.2.8", MINUTE * (n + 1), &note(&who, None))).await;
            if n % 2 == 1 {
                assert!(edit(&store, take_back("192.0.2.8", &who)).await.changed, "{who}");
            }
        });
    }
    made.join_all().await;
    let (end, all) = owners(&store, "192.0.2.8").await;
    ends_in(end, MINUTE * 11);
    assert_eq!(all, [10, 8, 6, 4, 2, 0].map(|n| format!("token:{n}")));
    edit(&store, Edit::Remove(member("192.0.2.8"))).await;
}

async fn only_its_maker_takes_a_grant_back(store: Arc<AnyStore>) {
    let (guest, operator) = (note("token:guest", None), note("operator:anna", None));
    let mut follower = Follower::start(&store).await;
    edit(&store, grant("192.0.2.1", HOUR, &guest)).await;
    edit(&store, noted("192.0.2.2", None, &operator)).await;
    edit(&store, allow(member("192.0.2.3"), Some(HOUR))).await;
    follower.until("the grant", |state| state.allows("192.0.2.1")).await;
    for (text, who) in [
        ("192.0.2.1", "token:gues"),
        ("192.0.2.1", "token:guest2"),
        ("192.0.2.2", "token:guest"),
        ("192.0.2.3", "token:guest"),
        ("192.0.2.4", "token:guest"),
    ] {
        assert!(!edit(&store, take_back(text, who)).await.changed, "{who} {text}");
    }
    let receipt = edit(&store, take_back("192.0.2.1", "token:guest")).await;
    assert!(receipt.changed && !receipt.key.is_empty(), "{receipt:?}");
    follower.until("the end", |state| !state.allows("192.0.2.1")).await;
    follower.stop().await;
    assert!(!edit(&store, take_back("192.0.2.1", "token:guest")).await.changed, "it is gone");
    let left: Vec<String> =
        own(&store).await.iter().map(|grant| grant.member.to_string()).collect();
    assert_eq!(left, ["192.0.2.2", "192.0.2.3"]);
    for text in left {
        edit(&store, Edit::Remove(member(&text))).await;
    }
}
