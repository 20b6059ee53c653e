//! Behaviour of every store, of any kind.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::store::{BATCH, Edit, EditResult, StoreError};
use knockpipe::gate::{Expiry, Item, Member};
use tokio::sync::mpsc;

use super::follower::Follower;
use super::grants;
use super::owned;
use testkit::wait::NEVER;

/// Makes a fresh store for each check, and opens it once more.
pub(crate) trait Backing {
    fn open(&self, check: usize) -> Arc<AnyStore>;
    /// Returns true if members can have an end.
    fn ends(&self) -> bool;
    /// Returns a word in the server that a receipt names.
    fn server(&self) -> String;
}

/// A day, so that no check runs from one window into the next.
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
/// Far beyond the 250 ms that are promised: a loaded machine is no defect.
const SOON: Duration = Duration::from_secs(5);

pub(crate) async fn check(backing: &impl Backing) {
    receipts_tell_what_changed(backing, backing.open(0)).await;
    members_end(backing, backing.open(1)).await;
    bans_come_and_go(backing.open(2)).await;
    strikes_make_a_ban(backing.open(3)).await;
    history_is_what_was_told(backing.open(4)).await;
    standing_tells_everything(backing.open(5)).await;
    a_follower_sees_every_change(backing, &|| backing.open(6)).await;
    // Only Redis may be unsure, so that it is asked.
    let store = backing.open(7);
    if matches!(*store, AnyStore::Redis(_)) {
        asks_are_answered(store).await;
    }
    lists_come_in_batches(backing.open(8)).await;
    a_64_is_one_source(backing.open(9)).await;
    grants::check(backing).await;
    owned::check(backing).await;
}

pub(crate) fn member(text: &str) -> Member {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) async fn edit(store: &AnyStore, edit: Edit) -> EditResult {
    let shown = format!("{edit:?}");
    store.edit(edit).await.unwrap_or_else(|error| panic!("{shown}: {error}"))
}

/// Allows a member without a note.
pub(crate) fn allow(member: Member, lasting: Option<Duration>) -> Edit {
    Edit::Allow { member, lasting, note: None }
}

/// Forgets an address, seen at any time.
pub(crate) fn forget(text: &str) -> Edit {
    Edit::Forget { ip: ip(text), before_s: u64::MAX }
}

async fn listed<T: Send + 'static, F>(list: impl FnOnce(mpsc::Sender<Vec<T>>) -> F) -> (Vec<T>, u64)
where
    F: Future<Output = Result<u64, StoreError>>,
{
    let (to, mut batches) = mpsc::channel::<Vec<T>>(2);
    let collect = async {
        let mut all = vec![];
        while let Some(batch) = batches.recv().await {
            assert!((1..=BATCH).contains(&batch.len()), "{} at once", batch.len());
            all.extend(batch);
        }
        all
    };
    let (garbage, all) = tokio::join!(list(to), collect);
    (all, garbage.unwrap())
}

pub(crate) async fn members(store: &AnyStore) -> (Vec<(Member, Expiry)>, u64) {
    let (items, garbage) = listed(|to| store.list_allowed(to)).await;
    let mut members: Vec<_> = items
        .into_iter()
        .map(|item| match item {
            Item::Allowed(member, end) => (member, end),
            Item::Banned(..) => panic!("a ban in the allow-set"),
        })
        .collect();
    members.sort_unstable();
    (members, garbage)
}

pub(crate) async fn bans(store: &AnyStore) -> (Vec<(Member, Expiry)>, u64) {
    let (items, garbage) = listed(|to| store.list_bans(to)).await;
    let bans = items.into_iter().map(|item| match item {
        Item::Banned(member, end) => (member, end),
        Item::Allowed(..) => panic!("a member among the bans"),
    });
    (bans.collect(), garbage)
}

pub(crate) async fn history(store: &AnyStore) -> (Vec<(IpAddr, u64)>, u64) {
    let (mut seen, garbage) = listed(|to| store.history(to)).await;
    seen.sort_unstable();
    (seen, garbage)
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

#[track_caller]
pub(crate) fn ends_in(end: Expiry, time: Duration) {
    let left = end.as_millis().expect("it ends") - now_ms();
    let time = u64::try_from(time.as_millis()).unwrap();
    assert!(left <= time && left + 5_000 > time, "{left} ms of {time} ms are left");
}

async fn receipts_tell_what_changed(backing: &impl Backing, store: Arc<AnyStore>) {
    let all = ["10.0.0.0/8", "203.0.113.7", "2001:db8::/64", "2001:db8::7"];
    for text in all {
        let receipt = edit(&store, allow(member(text), None)).await;
        assert!(receipt.changed, "{text}");
        assert!(receipt.server.contains(&backing.server()), "{receipt:?}");
        assert!(!receipt.key.is_empty());
        let again = edit(&store, allow(member(text), None)).await;
        assert_eq!((again.changed, again.key), (false, receipt.key), "{text}");
    }
    let mut expected: Vec<_> = all.iter().map(|text| (member(text), Expiry::Never)).collect();
    expected.sort_unstable();
    assert_eq!(members(&store).await, (expected, 0));
    for text in all {
        assert!(edit(&store, Edit::Remove(member(text))).await.changed, "{text}");
        assert!(!edit(&store, Edit::Remove(member(text))).await.changed, "{text}");
    }
    assert_eq!(members(&store).await, (vec![], 0));
}

async fn members_end(backing: &impl Backing, store: Arc<AnyStore>) {
    let brief = Duration::from_millis(400);
    edit(&store, allow(member("203.0.113.1"), None)).await;
    if !backing.ends() {
        let error = store.edit(allow(member("203.0.113.7"), Some(HOUR))).await.unwrap_err();
        assert!(error.to_string().contains("add --allow-prefix PREFIX here"), "{error}");
        return;
    }
    assert!(edit(&store, allow(member("203.0.113.7"), Some(HOUR))).await.changed);
    let (all, _) = members(&store).await;
    assert_eq!((all.len(), all[0]), (2, (member("203.0.113.1"), Expiry::Never)));
    ends_in(all[1].1, HOUR);
    let mut follower = Follower::start(&store).await;
    assert!(edit(&store, allow(member("203.0.113.7"), Some(brief))).await.changed);
    let ends = |state: &super::follower::State| {
        state
            .allowed
            .get(&member("203.0.113.7"))
            .is_some_and(|end| end.as_millis().is_none_or(|end| end < now_ms() + 500))
    };
    follower
        .until("the end comes sooner", |state| ends(state) || !state.allows("203.0.113.7"))
        .await;
    let gone = async {
        while !store.address_record(ip("203.0.113.7"), None).await.unwrap().allow_entries.is_empty()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, gone).await.expect("it ends");
    follower.stop().await;
}

async fn bans_come_and_go(store: Arc<AnyStore>) {
    let mut follower = Follower::start(&store).await;
    for text in ["203.0.113.7", "2001:db8::7", "::ffff:203.0.113.8"] {
        let receipt = edit(&store, Edit::Ban(ip(text).into(), HOUR)).await;
        assert!(receipt.changed && !receipt.key.is_empty());
        let canonical = ip(text).to_canonical().to_string();
        follower.until("the ban", |state| state.bans(&canonical)).await;
        ends_in(follower.state.bans[&ip(&canonical).into()], HOUR);
    }
    let (all, garbage) = bans(&store).await;
    assert_eq!((all.len(), garbage), (3, 0));
    all.iter().for_each(|(_, end)| ends_in(*end, HOUR));
    assert!(edit(&store, Edit::Unban(ip("203.0.113.8").into())).await.changed);
    assert!(!edit(&store, Edit::Unban(ip("203.0.113.8").into())).await.changed);
    follower.until("no ban", |state| !state.bans("203.0.113.8")).await;
    let brief = Duration::from_millis(300);
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), brief)).await;
    let began = Instant::now();
    let over = async {
        while store.address_record(ip("203.0.113.7"), None).await.unwrap().ban.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, over).await.expect("it ends");
    assert!(began.elapsed() + Duration::from_millis(50) >= brief, "{:?}", began.elapsed());
    follower.stop().await;
}

async fn strikes_make_a_ban(store: Arc<AnyStore>) {
    let strike =
        || Edit::Strike { ip: ip("203.0.113.7"), findtime: DAY, bantime: HOUR, maxretry: 3 };
    let clear = || Edit::ClearStrikes { ip: ip("203.0.113.7"), findtime: DAY };
    let count = async || edit(&store, strike()).await.count;
    assert!(!edit(&store, clear()).await.changed);
    assert_eq!((count().await, count().await), (Some(1), Some(2)));
    let standing = store.address_record(ip("203.0.113.7"), Some(DAY)).await.unwrap();
    assert_eq!((standing.strikes, standing.ban), (Some(2), None));
    assert!(edit(&store, clear()).await.changed);
    assert_eq!(store.address_record(ip("203.0.113.7"), Some(DAY)).await.unwrap().strikes, Some(0));
    let struck = edit(&store, strike()).await;
    assert_eq!((struck.changed, struck.count), (true, Some(1)));
    count().await;
    let banned = edit(&store, strike()).await;
    assert_eq!((banned.changed, banned.count), (true, Some(3)));
    assert_ne!(banned.key, struck.key, "the third writes a ban");
    let (all, _) = bans(&store).await;
    assert_eq!((all.len(), all[0].0), (1, ip("203.0.113.7").into()));
    ends_in(all[0].1, HOUR);
    // While banned nothing counts, and the ban is not made longer.
    let more = edit(&store, strike()).await;
    assert_eq!((more.changed, more.count, &more.key), (false, None, &banned.key));
    assert_eq!(store.address_record(ip("203.0.113.7"), Some(DAY)).await.unwrap().strikes, Some(3));
    edit(&store, clear()).await;
    assert_eq!(bans(&store).await.0.len(), 1, "a ban stays");
    assert_eq!(store.address_record(ip("203.0.113.8"), Some(DAY)).await.unwrap().strikes, Some(0));
}

/// "An IPv6 /64 is one source": its failures are counted together, the ban is of all of it, and
/// lifted by any of its addresses.
async fn a_64_is_one_source(store: Arc<AnyStore>) {
    let network = member("2001:db8:0:1::/64");
    let strike =
        |text: &str| Edit::Strike { ip: ip(text), findtime: DAY, bantime: HOUR, maxretry: 3 };
    let mut follower = Follower::start(&store).await;
    assert_eq!(edit(&store, strike("2001:db8:0:1::1")).await.count, Some(1));
    let clear = Edit::ClearStrikes { ip: ip("2001:db8:0:1::2"), findtime: DAY };
    assert!(edit(&store, clear).await.changed, "one of them succeeded");
    for (n, host) in ["::1", "::2:3", "::ffff:4"].iter().enumerate() {
        let struck = edit(&store, strike(&format!("2001:db8:0:1{host}"))).await;
        assert_eq!((struck.changed, struck.count), (true, Some(n as u64 + 1)));
    }
    follower.until("the ban", |state| state.bans.contains_key(&network)).await;
    assert!(!edit(&store, strike("2001:db8:0:1::9")).await.changed, "it is banned");
    assert_eq!(edit(&store, strike("2001:db8:0:2::9")).await.count, Some(1), "another is not");
    let (all, garbage) = bans(&store).await;
    assert_eq!((all.len(), all[0].0, garbage), (1, network, 0));
    ends_in(all[0].1, HOUR);
    let standing = store.address_record(ip("2001:db8:0:1::abcd"), Some(DAY)).await.unwrap();
    assert_eq!(standing.ban.as_ref().map(|ban| ban.member), Some(network));
    assert_eq!(standing.strikes, Some(3));
    assert!(store.address_record(ip("2001:db8:0:2::1"), None).await.unwrap().ban.is_none());
    if matches!(*store, AnyStore::Redis(_)) {
        follower.state.exact.clear();
        follower.ask(&["2001:db8:0:1::77"]).await;
        let is_told = |event: &knockpipe::gate::store::Event| matches!(event, knockpipe::gate::store::Event::Banned(who, Some(_)) if *who == network);
        follower.until("the answer", |state| state.exact.iter().any(is_told)).await;
    }
    // A ban of an address beside that of its network: both are lifted.
    edit(&store, Edit::Ban(member("2001:db8:0:1::7"), HOUR)).await;
    assert!(edit(&store, Edit::Unban(member("2001:db8:0:1::7"))).await.changed);
    follower.until("no ban", |state| state.bans.is_empty()).await;
    assert_eq!(bans(&store).await, (vec![], 0));
    edit(&store, Edit::Ban(network, HOUR)).await;
    follower.until("the ban", |state| state.bans.contains_key(&network)).await;
    assert!(edit(&store, Edit::Unban(network)).await.changed);
    assert!(!edit(&store, Edit::Unban(network)).await.changed);
    follower.until("no ban", |state| state.bans.is_empty()).await;
    follower.stop().await;
}

async fn history_is_what_was_told(store: Arc<AnyStore>) {
    let one = vec![(ip("203.0.113.7"), 1_700_000_000), (ip("2001:db8::7"), 1_700_000_001)];
    let receipt = edit(&store, Edit::RecordSeen(one.clone())).await;
    assert_eq!((receipt.changed, receipt.count), (true, Some(2)));
    edit(&store, Edit::RecordSeen(vec![(ip("203.0.113.7"), 1_700_000_009)])).await;
    assert!(!edit(&store, Edit::RecordSeen(vec![])).await.changed);
    let expected = vec![(ip("203.0.113.7"), 1_700_000_009), (ip("2001:db8::7"), 1_700_000_001)];
    assert_eq!(history(&store).await, (expected, 0));
    edit(&store, allow(member("203.0.113.7"), None)).await;
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    // Listed when it was idle, and in use again since.
    let seen_since = Edit::Forget { ip: ip("203.0.113.7"), before_s: 1_700_000_009 };
    assert!(!edit(&store, seen_since).await.changed);
    assert_eq!((history(&store).await.0.len(), members(&store).await.0.len()), (2, 1));
    let idle = Edit::Forget { ip: ip("203.0.113.7"), before_s: 1_700_000_010 };
    assert!(edit(&store, idle).await.changed);
    assert!(!edit(&store, forget("203.0.113.7")).await.changed);
    assert_eq!(history(&store).await, (vec![(ip("2001:db8::7"), 1_700_000_001)], 0));
    assert_eq!(members(&store).await, (vec![], 0));
    assert_eq!(bans(&store).await.0.len(), 1);
}

async fn standing_tells_everything(store: Arc<AnyStore>) {
    let nothing = store.address_record(ip("203.0.113.7"), None).await.unwrap();
    assert_eq!(
        (nothing.allow_entries, nothing.ban, nothing.seen, nothing.strikes),
        (vec![], None, None, None)
    );
    for text in ["203.0.113.7", "203.0.113.0/24", "203.0.0.0/16", "198.51.100.0/24", "::/0"] {
        edit(&store, allow(member(text), None)).await;
    }
    edit(&store, Edit::Ban(ip("203.0.113.7").into(), HOUR)).await;
    edit(&store, Edit::RecordSeen(vec![(ip("203.0.113.7"), 1_700_000_000)])).await;
    let standing = store.address_record(ip("::ffff:203.0.113.7"), Some(DAY)).await.unwrap();
    let grants: Vec<_> =
        standing.allow_entries.iter().map(|grant| grant.member.to_string()).collect();
    assert_eq!(grants, ["203.0.113.7", "203.0.113.0/24", "203.0.0.0/16"]);
    assert!(standing.allow_entries.iter().all(|grant| !grant.key.is_empty()));
    ends_in(standing.ban.expect("there is a ban").expiry, HOUR);
    assert_eq!((standing.seen, standing.strikes), (Some(1_700_000_000), Some(0)));
    assert!(!standing.server.is_empty());
    let six = store.address_record(ip("2001:db8::7"), None).await.unwrap();
    assert_eq!(six.allow_entries.len(), 1);
}

async fn a_follower_sees_every_change(backing: &impl Backing, open: &dyn Fn() -> Arc<AnyStore>) {
    let writer = open();
    edit(&writer, allow(member("203.0.113.1"), None)).await;
    edit(&writer, allow(member("203.0.114.0/24"), None)).await;
    edit(&writer, Edit::Ban(ip("203.0.113.2").into(), HOUR)).await;
    let reader = open();
    let mut follower = Follower::start(&reader).await;
    assert!(follower.state.allows("203.0.113.1") && follower.state.allows("203.0.114.0/24"));
    assert_eq!((follower.state.allowed.len(), follower.state.bans.len()), (2, 1));
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let host = format!("198.51.100.{n}");
        edit(&writer, allow(member(&host), None)).await;
        let took = follower.until("the grant", |state| state.allows(&host)).await;
        slowest = slowest.max(took);
        edit(&writer, Edit::Remove(member(&host))).await;
        let took = follower.until("the removal", |state| !state.allows(&host)).await;
        slowest = slowest.max(took);
    }
    let network = "2001:db8:5::/48";
    edit(&writer, allow(member(network), None)).await;
    follower.until("the network", |state| state.allows(network)).await;
    edit(&writer, Edit::Remove(member(network))).await;
    follower.until("no network", |state| !state.allows(network)).await;
    if backing.ends() {
        edit(&writer, allow(member("203.0.113.9"), Some(HOUR))).await;
        follower.until("the grant for a while", |state| state.allows("203.0.113.9")).await;
        ends_in(follower.state.allowed[&member("203.0.113.9")], HOUR);
        edit(&writer, forget("203.0.113.9")).await;
        follower.until("forgotten", |state| !state.allows("203.0.113.9")).await;
    }
    edit(&writer, Edit::Unban(ip("203.0.113.2").into())).await;
    follower.until("no ban", |state| !state.bans("203.0.113.2")).await;
    follower.until("a full read", |state| state.fresh && !state.reading).await;
    assert!(follower.state.allows("203.0.113.1") && follower.state.away.is_empty());
    assert!(slowest < SOON, "{slowest:?}");
    println!("{}: the slowest of 40 changes showed after {slowest:?}", backing.server());
    follower.stop().await;
}

async fn asks_are_answered(store: Arc<AnyStore>) {
    for text in ["203.0.113.1", "203.0.113.0/24", "2001:db8::/33"] {
        edit(&store, allow(member(text), None)).await;
    }
    edit(&store, Edit::Ban(ip("203.0.113.2").into(), HOUR)).await;
    let mut follower = Follower::start(&store).await;
    follower.state.exact.clear();
    follower.ask(&["::ffff:203.0.113.1", "203.0.113.2", "2001:db8::1"]).await;
    let told = |state: &super::follower::State, text: &str, truth: bool| {
        state.exact.iter().any(|event| match event {
            knockpipe::gate::store::Event::Allowed(other, end) => {
                *other == member(text) && end.is_some() == truth
            }
            _ => false,
        })
    };
    follower
        .until("all answers", |state| {
            told(state, "203.0.113.1", true)
                && told(state, "203.0.113.0/24", true)
                && told(state, "203.0.113.2", false)
                && told(state, "2001:db8::/33", true)
                && told(state, "2001:db8::1", false)
                && state.bans("203.0.113.2")
        })
        .await;
    follower.stop().await;
}

async fn lists_come_in_batches(store: Arc<AnyStore>) {
    let seen: Vec<_> = (0..25_000_u32)
        .map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 1_700_000_000 + u64::from(n)))
        .collect();
    assert_eq!(edit(&store, Edit::RecordSeen(seen.clone())).await.count, Some(25_000));
    assert_eq!(history(&store).await, (seen, 0));
}

/// Waits until a replica has a key.
pub(crate) fn wait_for_replica(replica: &testkit::redis::Redis, key: &str) {
    testkit::wait::eventually("the replica has it", || {
        replica.direct().ask(&["EXISTS", key]) == testkit::redis::Reply::Number(1)
    });
}
