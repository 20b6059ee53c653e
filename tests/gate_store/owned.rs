//! Changes of entries by their note: behaviour of every store whose members can end.

use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::store::{Edit, Grant};
use knockpipe::gate::{Expiry, GrantNote};

use super::conformance::{Backing, allow, edit, ends_in, member};
use super::follower::Follower;
use super::grants::{grant, grants, note, note_of, noted};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn check(backing: &impl Backing) {
    if backing.ends() {
        a_grant_is_replaced_by_one_of_its_kind(backing.open(12)).await;
        only_its_maker_takes_a_grant_back(backing.open(13)).await;
    }
}

fn replace(text: &str, lasting: Duration, note: &GrantNote) -> Edit {
    let who_prefix = "token:".to_owned();
    Edit::Replace { member: member(text), lasting, note: note.clone(), who_prefix }
}

fn take_back(text: &str, who: &str) -> Edit {
    Edit::TakeBack { member: member(text), who: who.to_owned() }
}

/// Lists the entries of these checks: others have left theirs.
async fn own(store: &AnyStore) -> Vec<Grant> {
    let mut all = grants(store).await;
    all.retain(|grant| grant.member.to_string().starts_with("192.0.2."));
    all
}

async fn a_grant_is_replaced_by_one_of_its_kind(store: Arc<AnyStore>) {
    let (guest, admin) = (note("token:guest", None), note("token:admin", Some("away")));
    let (operator, key) = (note("operator:anna", None), note("key:1a2b3c4d", None));
    assert!(!edit(&store, replace("192.0.2.1", HOUR, &guest)).await.changed, "there is none");
    edit(&store, noted("192.0.2.2", Some(HOUR), &operator)).await;
    edit(&store, noted("192.0.2.3", None, &operator)).await;
    edit(&store, grant("192.0.2.4", HOUR, &key)).await;
    edit(&store, allow(member("192.0.2.5"), Some(HOUR))).await;
    for text in ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"] {
        assert!(!edit(&store, replace(text, MINUTE, &guest)).await.changed, "{text}");
    }
    edit(&store, grant("192.0.2.6", HOUR, &guest)).await;
    let receipt = edit(&store, replace("192.0.2.6", MINUTE, &admin)).await;
    assert!(receipt.changed && !receipt.key.is_empty(), "{receipt:?}");
    assert!(edit(&store, replace("192.0.2.6", MINUTE * 2, &admin)).await.changed, "later again");
    let all = own(&store).await;
    assert_eq!(all.len(), 5, "{all:?}");
    let end = |text: &str| all.iter().find(|grant| grant.member == member(text)).unwrap().expiry;
    for text in ["192.0.2.2", "192.0.2.4", "192.0.2.5"] {
        ends_in(end(text), HOUR);
    }
    assert_eq!(end("192.0.2.3"), Expiry::Never);
    ends_in(end("192.0.2.6"), MINUTE * 2);
    assert_eq!(note_of(&store, "192.0.2.6").await, Some(admin));
    for grant in all {
        edit(&store, Edit::Remove(grant.member)).await;
    }
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
