//! Masters that are replaced under running gates: each policy until a replica takes over, and then
//! the new master's answers.

use std::time::Instant;

use super::guarded::{BANNED, Guarded, finish};
use super::world::{BAN, OTHER, PEER, READ, SOON, Stage, expect_end};
use testkit::eventually;
use testkit::redis::{Redis, Reply};
use testkit::servers::{Cluster, Sentinels};
use testkit::target::{Target, echo};

/// A store with a replica that can take over, and does when it may.
trait Masters {
    fn url(&self) -> String;

    /// Executes one command at the master of its key.
    fn ask(&self, command: &str) -> Reply;

    /// Kills the master of the allow-set, and lets no replica take over yet.
    fn kill(&mut self);

    fn let_take_over(&mut self);

    /// Returns true if clients that ask are sent to the new master.
    fn have_replaced(&self) -> bool;
}

struct Watched {
    first: Redis,
    second: Redis,
    sentinels: Sentinels,
}

struct Sharded {
    cluster: Cluster,
    owner: usize,
}

#[test]
fn sentinels_replace_the_master() {
    let stage = Stage::new();
    let mut masters = stage.net.at_gate(|| {
        let first = Redis::start();
        let second = first.replica(&[]);
        let sentinels = Sentinels::watching(&first);
        Watched { first, second, sentinels }
    });
    fail_over(&stage, &mut masters, "Sentinels");
}

#[test]
fn a_cluster_replaces_a_master() {
    let stage = Stage::new();
    let mut masters = stage.net.at_gate(|| {
        let cluster = Cluster::start(true);
        let owner = cluster.owner("ip-allowed");
        Sharded { cluster, owner }
    });
    fail_over(&stage, &mut masters, "Cluster");
}

/// "A failover ...: each policy does what it says, recovery within 2 s, no
/// connection admitted that the policy forbids".
fn fail_over(stage: &Stage, masters: &mut impl Masters, what: &str) {
    let target = Target::serve(&stage.target(), echo);
    masters.ask(&format!("SETEX {BAN}:{BANNED} 1000 1"));
    masters.ask(&format!("SADD ip-allowed {PEER} {BANNED}"));
    let mut all: Vec<Guarded> = ["closed", "open", "stale:1h"]
        .map(|policy| Guarded::start(stage, &masters.url(), &target, policy))
        .into();
    let knockers: Vec<_> = all.iter().flat_map(|each| each.knockers(stage)).collect();
    masters.kill();
    all.iter_mut().for_each(|each| each.expect_away(stage, 1));
    assert!(!masters.have_replaced() && all.iter().all(|each| each.count(READ) == 1));

    let began = Instant::now();
    masters.let_take_over();
    eventually("a replica takes over", || masters.have_replaced());
    let replaced = Instant::now();
    eventually("all are fresh", || all.iter().all(|each| each.count(READ) == 2));
    let late = replaced.elapsed();
    println!("{what}: replaced after {:?}, all gates fresh {late:?} later", replaced - began);
    assert!(late < SOON, "fresh after {late:?}");
    finish(what, knockers);
    all.iter_mut().for_each(|each| each.expect_back(stage, 1));
    expect_followed(stage, masters, &mut all, what);
}

/// Commands at the new master take effect, and gates write to it.
fn expect_followed(stage: &Stage, masters: &impl Masters, all: &mut [Guarded], what: &str) {
    let began = Instant::now();
    masters.ask(&format!("SADD ip-allowed {OTHER}"));
    let mut lives: Vec<_> = all.iter_mut().map(|each| each.live_soon(stage, OTHER)).collect();
    let granted = began.elapsed();
    let began = Instant::now();
    masters.ask(&format!("SREM ip-allowed {PEER}"));
    all.iter_mut().for_each(|each| expect_end(&mut each.live));
    let removed = began.elapsed();
    let began = Instant::now();
    masters.ask(&format!("SETEX {BAN}:{OTHER} 1000 1"));
    lives.iter_mut().for_each(expect_end);
    let banned = began.elapsed();
    println!("{what}: afterwards SADD {granted:?}, SREM {removed:?}, a ban {banned:?}");
    for took in [granted, removed, banned] {
        assert!(took < SOON, "{took:?}");
    }
    let seen = format!("HEXISTS ip-history {OTHER}");
    eventually("the history is the new master's", || masters.ask(&seen) == Reply::Number(1));
    all.iter().for_each(|each| each.expect_told(1));
}

// === impl Masters ===

impl Masters for Watched {
    fn url(&self) -> String {
        self.sentinels.url()
    }

    fn ask(&self, command: &str) -> Reply {
        let replaced = self.sentinels.name_master(&self.second);
        if replaced { self.second.ask(command) } else { self.first.ask(command) }
    }

    fn kill(&mut self) {
        self.sentinels.quorum(4);
        self.first.wait_for_replica();
        self.first.kill();
    }

    fn let_take_over(&mut self) {
        self.sentinels.quorum(2);
    }

    fn have_replaced(&self) -> bool {
        self.sentinels.name_master(&self.second)
    }
}

impl Masters for Sharded {
    fn url(&self) -> String {
        self.cluster.url()
    }

    fn ask(&self, command: &str) -> Reply {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.cluster.ask(&words)
    }

    fn kill(&mut self) {
        let Cluster { masters, replicas } = &mut self.cluster;
        replicas[self.owner].ask("CONFIG SET cluster-replica-no-failover yes");
        // However long that takes, its copy is good enough afterwards.
        replicas[self.owner].ask("CONFIG SET cluster-replica-validity-factor 0");
        masters[self.owner].wait_for_replica();
        masters[self.owner].kill();
        std::mem::swap(&mut masters[self.owner], &mut replicas[self.owner]);
    }

    fn let_take_over(&mut self) {
        self.cluster.masters[self.owner].ask("CONFIG SET cluster-replica-no-failover no");
    }

    fn have_replaced(&self) -> bool {
        let new = &self.cluster.masters[self.owner];
        new.info("role").as_deref() == Some("master") && self.cluster.works()
    }
}
