//! A Cluster of three masters, without and with replicas.

use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::store::Edit;

use super::conformance::{self, Backing, allow, edit, ip, member};
use super::follower::Follower;
use super::grants::{grant, note, note_of, renew};
use super::single::{BAN, open, open_with, options};
use testkit::redis::Reply;
use testkit::servers::Cluster;
use testkit::wait::eventually;

const HOUR: Duration = Duration::from_secs(3_600);

impl Backing for Cluster {
    fn open(&self, check: usize) -> Arc<AnyStore> {
        let mut options = options(&self.url());
        options.keys.allow_set = format!("set-{check}");
        options.keys.allow_prefix = Some(format!("allow-{check}:"));
        options.keys.history = format!("history-{check}");
        options.keys.ban_prefix = format!("check-{check}:allow2ban:ban:");
        open_with(options)
    }

    fn ends(&self) -> bool {
        true
    }

    fn server(&self) -> String {
        "127.0.0.1:".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_conforms() {
    conformance::check(&Cluster::start(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_all_servers_are_followed_and_moved_ones_found() {
    let cluster = Cluster::start(false);
    let store = open(&cluster.url());
    for n in 0..30 {
        let key = format!("{BAN}203.0.113.{n}");
        cluster.ask(&["SETEX", &key, "3600", "1"]);
    }
    let mut follower = Follower::start(&store).await;
    assert_eq!(follower.state.bans.len(), 30);
    let mut servers = std::collections::HashSet::new();
    for n in 0..30 {
        let host = format!("203.0.113.{n}");
        servers.insert(edit(&store, Edit::Unban(ip(&host).into())).await.server);
        follower.until("no ban", |state| !state.bans(&host)).await;
    }
    assert_eq!(servers.len(), 3, "{servers:?}");
    // The slot of the set moves to another master, and back while empty.
    let Reply::Number(slot) = cluster.masters[0].ask("CLUSTER KEYSLOT ip-allowed") else {
        panic!("no number")
    };
    let owner = |n: usize| cluster.masters[n].direct().ask(&["EXISTS", "ip-allowed"]);
    let from = (0..3).find(|n| !matches!(owner(*n), Reply::Error(_))).unwrap();
    let to = (from + 1) % 3;
    assert_eq!(edit(&store, allow(member("::1"), None)).await.server, cluster.masters[from].name());
    edit(&store, Edit::Remove(member("::1"))).await;
    let id = cluster.masters[to].ask("CLUSTER MYID").text();
    cluster.masters[to].ask("CLUSTER BUMPEPOCH");
    for n in [to, from, 3 - to - from] {
        cluster.masters[n].ask(&format!("CLUSTER SETSLOT {slot} NODE {id}"));
    }
    // The writer still has the old map, and is told that it moved.
    let receipt = edit(&store, allow(member("203.0.113.7"), None)).await;
    assert_eq!(receipt.server, cluster.masters[to].name());
    let took = follower.until("the grant", |s| s.fresh && s.allows("203.0.113.7")).await;
    println!("a moved slot is followed after {took:?}");
    edit(&store, Edit::Remove(member("203.0.113.7"))).await;
    follower.until("removed", |state| !state.allows("203.0.113.7")).await;
    follower.stop().await;
}

/// In a Cluster only keys of one slot can change together.
#[tokio::test(flavor = "multi_thread")]
async fn notes_are_where_their_set_is() {
    let cluster = Cluster::start(false);
    let knock = note("key:1a2b3c4d", None);
    let named = |set: &str| {
        let mut options = options(&cluster.url());
        options.keys.allow_set = set.to_owned();
        open_with(options)
    };
    for (set, notes) in
        [("ip-allowed", "{ip-allowed}:grants"), ("{office}:allowed", "{office}:allowed:grants")]
    {
        let store = named(set);
        assert!(edit(&store, grant("203.0.113.7", HOUR, &knock)).await.changed);
        assert!(!edit(&store, grant("203.0.113.7", HOUR / 2, &knock)).await.changed);
        assert_eq!(cluster.ask(&["HLEN", notes]), Reply::Number(1), "{set}");
        assert!(edit(&store, renew("203.0.113.7", HOUR * 2)).await.changed);
        assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&knock));
        edit(&store, Edit::Remove(member("203.0.113.7"))).await;
        assert_eq!(cluster.ask(&["EXISTS", notes]), Reply::Number(0), "{set}");
    }
    // A name whose notes can have no slot with it: notes work, and a renewal says that it cannot.
    let store = named("a}b");
    assert!(edit(&store, grant("203.0.113.7", HOUR, &knock)).await.changed);
    assert!(!edit(&store, grant("203.0.113.7", HOUR / 2, &knock)).await.changed);
    assert_eq!(note_of(&store, "203.0.113.7").await.as_ref(), Some(&knock));
    let error = store.edit(renew("203.0.113.7", HOUR * 2)).await.unwrap_err().to_string();
    assert!(error.contains("another slot") && !error.contains('\n'), "{error}");
    assert!(edit(&store, Edit::Remove(member("203.0.113.7"))).await.changed);
    assert_eq!(cluster.ask(&["EXISTS", "{a}b}:grants"]), Reply::Number(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_a_cluster_is_followed() {
    let mut cluster = Cluster::start(true);
    let store = open(&cluster.url());
    let mut follower = Follower::start(&store).await;
    let receipt = edit(&store, allow(member("203.0.113.7"), None)).await;
    follower.until("the grant", |state| state.allows("203.0.113.7")).await;
    let owner = cluster.masters.iter().position(|node| node.name() == receipt.server).unwrap();
    eventually("its replica has it", || {
        let mut client = cluster.replicas[owner].direct();
        client.ask(&["READONLY"]);
        client.ask(&["EXISTS", "ip-allowed"]) == Reply::Number(1)
    });
    cluster.masters[owner].kill();
    follower.until("away", |state| !state.away.is_empty()).await;
    let took = follower.until("back", |state| state.fresh).await;
    println!("after a failover in the Cluster the gate is back after {took:?}, its part included");
    assert!(follower.state.allows("203.0.113.7"));
    let receipt = edit(&store, allow(member("203.0.113.8"), None)).await;
    assert_eq!(receipt.server, cluster.replicas[owner].name());
    follower.until("the grant", |state| state.allows("203.0.113.8")).await;
    edit(&store, Edit::Ban(ip("203.0.113.9").into(), HOUR)).await;
    follower.until("the ban", |state| state.bans("203.0.113.9")).await;
    follower.stop().await;
}
