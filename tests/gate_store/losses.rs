//! Redis that is slow, stopped, restarted, replaced, full or filled with foreign data: reported
//! once, and over within 2 seconds.

use std::time::{Duration, Instant};

use knockpipe::gate::store::Edit;
use nix::sys::signal::Signal;

use super::conformance::{allow, edit, ip, member};
use super::follower::Follower;
use super::single::{BAN, open};
use testkit::redis::Redis;
use testkit::redis::Reply;

const HOUR: Duration = Duration::from_secs(3_600);
/// The promise is 2 s; the rest is for a machine with other work.
const PROMISED: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_repaired_with_what_was_missed() {
    let server = Redis::start();
    let store = open(&server.url());
    let mut follower = Follower::start(&store).await;
    for round in 1..=5 {
        let host = format!("203.0.113.{round}");
        let mut other = server.direct();
        other.send(&["MULTI"]);
        other.send(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        other.send(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        other.send(&["SADD", "ip-allowed", &host]);
        other.send(&["SETEX", &format!("{BAN}{host}"), "3600", "1"]);
        other.send(&["EXEC"]);
        let took = follower.until("away", |state| state.away.len() == round).await
            + follower.until("back", |s| s.fresh && s.allows(&host) && s.bans(&host)).await;
        assert!(took < PROMISED, "{took:?}");
        edit(&store, Edit::Unban(ip(&host).into())).await;
        follower.until("tracked again", |state| !state.bans(&host)).await;
    }
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_noticed_and_taken_back() {
    let server = Redis::start();
    let store = open(&server.url());
    let mut follower = Follower::start(&store).await;
    server.signal(Signal::SIGSTOP);
    let noticed = follower.until("away", |state| state.away.len() == 1).await;
    let began = Instant::now();
    let error =
        store.edit(Edit::Ban(ip("203.0.113.7").into(), HOUR)).await.unwrap_err().to_string();
    assert!(began.elapsed() < 2 * PROMISED, "{:?}", began.elapsed());
    assert!(error.contains(&server.name()) && error.contains("within a second"), "{error}");
    follower.ask(&["203.0.113.7"]).await;
    follower.listen(Duration::from_secs(3)).await;
    assert_eq!(follower.state.away.len(), 1, "{:?}", follower.state.away);
    server.signal(Signal::SIGCONT);
    let back = follower.until("back", |state| state.fresh).await;
    println!("a stopped server: noticed after {noticed:?}, back after {back:?}");
    assert!(noticed < PROMISED && back < PROMISED, "{noticed:?} {back:?}");
    server.direct().send(&["DEBUG", "SLEEP", "2.5"]);
    follower.until("away", |state| state.away.len() == 2).await;
    follower.until("back", |state| state.fresh).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_restarted_is_read_anew() {
    let mut server = Redis::start();
    let store = open(&server.url());
    edit(&store, allow(member("203.0.113.7"), None)).await;
    let mut follower = Follower::start(&store).await;
    server.kill();
    let noticed = follower.until("away", |state| state.away.len() == 1).await;
    assert!(noticed < PROMISED, "{noticed:?}");
    let error = store.edit(Edit::Unban(ip("203.0.113.7").into())).await.unwrap_err().to_string();
    assert!(error.contains(&server.name()) && error.contains("refused"), "{error}");
    // Longer than the longest wait between tries: it goes on trying.
    follower.listen(Duration::from_secs(2)).await;
    server.revive();
    let back = follower.until("back", |state| state.fresh).await;
    println!("a restarted server: back after {back:?}");
    assert!(back < PROMISED, "{back:?}");
    assert!(follower.state.allowed.is_empty(), "it has lost all");
    edit(&store, allow(member("203.0.113.8"), None)).await;
    follower.until("the grant", |state| state.allows("203.0.113.8")).await;
    assert_eq!(follower.state.away.len(), 1, "{:?}", follower.state.away);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_loading_is_waited_for() {
    let mut server = Redis::start_with(&[
        "--key-load-delay",
        "300",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let store = open(&server.url());
    server.ask("DEBUG POPULATE 10000 x 100");
    server.ask("SADD ip-allowed 203.0.113.7");
    server.ask("SAVE");
    let mut follower = Follower::start(&store).await;
    server.kill();
    follower.until("away", |state| state.away.len() == 1).await;
    server.revive();
    let reply = server.direct().ask(&["PING"]);
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with("LOADING")), "{reply:?}");
    let error = store.edit(Edit::Unban(ip("203.0.113.7").into())).await.unwrap_err().to_string();
    assert!(error.contains("LOADING") && error.contains("try again"), "{error}");
    follower.until("back", |state| state.fresh && state.allows("203.0.113.7")).await;
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_another_type_is_reported_and_recovers() {
    let server = Redis::start();
    let store = open(&server.url());
    edit(&store, allow(member("203.0.113.7"), None)).await;
    let mut follower = Follower::start(&store).await;
    server.ask("SET ip-allowed x");
    follower.until("away", |state| state.away.len() == 1).await;
    let why = &follower.state.away[0];
    assert!(why.contains("\"ip-allowed\" is a string") && why.contains(&server.name()), "{why}");
    for edit in [allow(member("203.0.113.7"), None), Edit::Remove(member("203.0.113.7"))] {
        let error = store.edit(edit).await.unwrap_err().to_string();
        assert!(error.contains("is a string") && error.contains(&server.name()), "{error}");
    }
    // Commands that do not touch the set still work.
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    follower.listen(Duration::from_millis(1500)).await;
    server.ask("DEL ip-allowed");
    let back = follower.until("back", |state| state.fresh).await;
    assert!(back < PROMISED, "{back:?}");
    assert!(follower.state.bans("203.0.113.7") && follower.state.away.len() == 1);
    // From a set to a sorted set between two questions.
    server.ask("SADD ip-allowed 203.0.113.7");
    follower.until("a set", |state| !state.reading && state.allows("203.0.113.7")).await;
    server.ask("DEL ip-allowed");
    server.ask("ZADD ip-allowed 99999999999 203.0.113.8");
    follower.ask(&["203.0.113.8"]).await;
    follower.until("a sorted set", |s| !s.reading && s.allows("203.0.113.8")).await;
    assert_eq!(follower.state.away.len(), 1, "{:?}", follower.state.away);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_so() {
    let server = Redis::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let store = open(&server.url());
    let mut follower = Follower::start(&store).await;
    for edit in [
        allow(member("203.0.113.7"), None),
        Edit::Ban(ip("203.0.113.7").into(), HOUR),
        Edit::RecordSeen(vec![(ip("203.0.113.7"), 1)]),
        Edit::Strike { ip: ip("203.0.113.7"), findtime: HOUR, bantime: HOUR, maxretry: 3 },
    ] {
        let error = store.edit(edit).await.unwrap_err().to_string();
        let told = error.contains("OOM") && error.contains(&server.name());
        assert!(told && error.contains("maxmemory"), "{error}");
    }
    // Commands that free memory still work.
    assert!(!edit(&store, Edit::Unban(ip("203.0.113.7").into())).await.changed);
    server.ask("CONFIG SET maxmemory 0");
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    follower.until("the ban", |state| state.bans("203.0.113.7")).await;
    assert!(follower.state.away.is_empty(), "{:?}", follower.state.away);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_and_its_master_is_written() {
    let master = Redis::start();
    let replica = master.replica(&[]);
    let second = replica.replica(&[]);
    for server in [&replica, &second] {
        let store = open(&server.url());
        let mut follower = Follower::start(&store).await;
        let receipt = edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
        assert_eq!(receipt.server, master.name());
        follower.until("the ban", |state| state.bans("203.0.113.7")).await;
        let receipt = edit(&store, Edit::Unban(ip("203.0.113.7").into())).await;
        assert_eq!(receipt.server, master.name());
        follower.until("no ban", |state| !state.bans("203.0.113.7")).await;
        follower.stop().await;
    }
    // A server that becomes a replica in the middle.
    let store = open(&replica.url());
    replica.ask("REPLICAOF NO ONE");
    assert_eq!(edit(&store, Edit::Ban(ip("::1").into(), HOUR)).await.server, replica.name());
    let mut follower = Follower::start(&store).await;
    assert!(follower.state.bans("::1"));
    replica.follow(&master);
    let took = follower.until("its data are the master's", |s| s.fresh && !s.bans("::1")).await;
    println!("a server that became a replica: read anew after {took:?}");
    assert_eq!(edit(&store, Edit::Ban(ip("::2").into(), HOUR)).await.server, master.name());
    follower.until("the ban", |state| state.bans("::2")).await;
    // A replica without its master is not a valid store.
    let before = follower.state.away.len();
    drop(master);
    follower.until("away", |state| state.away.len() > before).await;
    let why = follower.state.away.last().unwrap();
    assert!(why.contains("a replica without its master"), "{why}");
    replica.ask("REPLICAOF NO ONE");
    follower.until("back", |state| state.fresh).await;
    follower.stop().await;
}
