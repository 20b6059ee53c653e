//! Three Sentinels, a master and a replica.

use std::time::Duration;

use knockpipe::gate::store::Edit;
use nix::sys::signal::Signal;

use super::conformance::{self, allow, edit, ip, member};
use super::follower::Follower;
use super::grants::{note, note_of, noted};
use super::single::open;
use testkit::redis::Redis;
use testkit::servers::Sentinels;

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed_and_written_through() {
    let mut first = Redis::start();
    let second = first.replica(&[]);
    let mut sentinels = Sentinels::watching(&first);
    let store = open(&sentinels.url());
    let mut follower = Follower::start(&store).await;
    let receipt = edit(&store, allow(member("203.0.113.7"), None)).await;
    assert_eq!(receipt.server, first.name());
    follower.until("the grant", |state| state.allows("203.0.113.7")).await;
    let knock = note("key:1a2b3c4d", Some("laptop"));
    edit(&store, noted("203.0.113.9", None, &knock)).await;
    assert_eq!(store.claim("00ff", HOUR).await, Ok(true));
    conformance::wait_for_replica(&second, "knockpipe:knock:00ff");
    // One Sentinel may be gone as well.
    sentinels.kill_one();
    first.kill();
    follower.until("away", |state| !state.away.is_empty()).await;
    let took = follower.until("back", |state| state.fresh).await;
    println!("after a failover the gate is back after {took:?}, Sentinels' part included");
    assert!(follower.state.allows("203.0.113.7"));
    // The first change after the master is gone, over the connection that was lost.
    assert_eq!(store.claim("00ff", HOUR).await, Ok(false), "a recorded knock");
    assert_eq!(store.claim("11ee", HOUR).await, Ok(true));
    assert_eq!(note_of(&store, "203.0.113.9").await.as_ref(), Some(&knock));
    let receipt = edit(&store, Edit::Ban(ip("203.0.113.8").into(), HOUR)).await;
    assert_eq!(receipt.server, second.name());
    follower.until("the ban", |state| state.bans("203.0.113.8")).await;
    // The former master comes back as a replica; it has no followers.
    first.revive();
    let aways = follower.state.away.len();
    follower.listen(Duration::from_secs(2)).await;
    assert_eq!(follower.state.away.len(), aways, "{:?}", follower.state.away);
    assert_eq!(edit(&store, Edit::Unban(ip("203.0.113.8").into())).await.server, second.name());
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hangs_is_replaced() {
    let first = Redis::start();
    let second = first.replica(&[]);
    let sentinels = Sentinels::watching(&first);
    let store = open(&sentinels.url());
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    conformance::wait_for_replica(&second, &format!("{}203.0.113.7", super::single::BAN));
    let mut follower = Follower::start(&store).await;
    first.signal(Signal::SIGSTOP);
    follower.until("away", |state| !state.away.is_empty()).await;
    follower.until("back", |state| state.fresh).await;
    assert!(follower.state.bans("203.0.113.7"));
    assert_eq!(edit(&store, Edit::Unban(ip("203.0.113.7").into())).await.server, second.name());
    follower.until("no ban", |state| !state.bans("203.0.113.7")).await;
    // The old one wakes up and takes itself for the master for a moment.
    first.signal(Signal::SIGCONT);
    follower.listen(Duration::from_secs(2)).await;
    assert!(follower.state.fresh && !follower.state.bans("203.0.113.7"));
    assert_eq!(edit(&store, Edit::Ban(ip("::1").into(), HOUR)).await.server, second.name());
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_do_not_answer_are_one_line() {
    let store = open("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster");
    let error = store.edit(Edit::Unban(ip("::1").into())).await.unwrap_err().to_string();
    assert!(error.contains("refused") && !error.contains('\n'), "{error}");
    let mut follower = Follower::begin(&store);
    follower.until("away", |state| state.away.len() == 1).await;
    follower.listen(Duration::from_secs(2)).await;
    assert_eq!(follower.state.away.len(), 1, "{:?}", follower.state.away);
    follower.stop().await;
}
