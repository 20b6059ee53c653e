//! The store in memory: conformance, and its bounds of place and time.

use std::sync::Arc;

use knockpipe::gate::StoreOptions;
use knockpipe::gate::any_store::AnyStore;

use super::conformance::{self, Backing, allow, edit, member, members};
use super::follower::Follower;

struct InMemory(&'static str);

impl Backing for InMemory {
    fn open(&self, check: usize) -> Arc<AnyStore> {
        open(&format!("{}-{check}", self.0))
    }

    fn ends(&self) -> bool {
        true
    }

    fn server(&self) -> String {
        format!("memory {}", self.0)
    }
}

fn open(name: &str) -> Arc<AnyStore> {
    Arc::new(StoreOptions::Memory(name.to_owned()).open().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance::check(&InMemory("conforms")).await;
}

/// A reload makes a new gate before the one before ends, and what was granted goes on.
#[tokio::test(flavor = "multi_thread")]
async fn stores_of_one_name_are_one_while_it_is_in_use() {
    let (one, other) = (open("reloaded"), open("another"));
    edit(&one, allow(member("203.0.113.7"), None)).await;
    let next = open("reloaded");
    let mut follower = Follower::start(&next).await;
    assert!(follower.state.allows("203.0.113.7"));
    drop(one);
    edit(&next, allow(member("203.0.113.8"), None)).await;
    follower.until("the grant", |state| state.allows("203.0.113.8")).await;
    assert_eq!(members(&other).await, (vec![], 0));
    follower.stop().await;
    drop(next);
    assert_eq!(members(&open("reloaded")).await, (vec![], 0), "a restart forgets");
}

/// Each of several followers sees every change, also one that fell behind.
#[tokio::test(flavor = "multi_thread")]
async fn several_followers_share_no_changes() {
    let store = open("followed");
    let (mut one, mut two) = (Follower::start(&store).await, Follower::start(&store).await);
    let hosts: Vec<String> =
        (0..9_000_u32).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    for host in &hosts {
        edit(&store, allow(member(host), None)).await;
    }
    for follower in [&mut one, &mut two] {
        let all = |state: &super::follower::State| !state.reading && state.allowed.len() == 9_000;
        follower.until("all", all).await;
    }
    one.stop().await;
    two.stop().await;
}
