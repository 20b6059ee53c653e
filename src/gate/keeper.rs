//! What keeps a store's state in memory, and ends live connections that would not
//! be let in any more.
//!
//! One keeper follows one store, for every tunnel whose gate has these options.
//! It knows the live connections of each and waits for none of them. What is
//! written to the store (history, strikes) is written in the background
//! (`diary.rs`).

mod attend;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::any_store::AnyStore;
use super::decision::{Decision, Grant, Peer, Verdict, decide, recheck};
use super::diary::Diary;
use super::inquiry::{Inquiry, Task, Waiting};
use super::live::{Live, Revocation, lock};
use super::member::Member;
use super::options::GateOptions;
use super::proven::Proven;
use super::recent::Denied;
use super::rules::Stance;
use super::snapshot::{Changed, Freshness, Snapshot};
use super::status::{GateStatus, Tally};
use super::store::{Event, StoreError};
use super::unmeant::Unmeant;
use crate::net::clock::Clock;
use crate::tasks::lasting;

/// How often addresses that stay connected are noted.
const NOTE_LIVE_EVERY_MS: u64 = 3_600_000;

/// The most causes of one absence that the log is told.
const MOST_CAUSES: usize = 4;

/// Follows one store for every tunnel that has this gate.
pub(super) struct Keeper {
    pub(super) options: Arc<GateOptions>,
    store: Arc<AnyStore>,
    pub(super) clock: Clock,
    snapshot: RwLock<Snapshot>,
    /// The allow-set changed, and the snapshot does not know how.
    unsure: AtomicBool,
    /// It changed while it was read, so that the end of this read is not the truth.
    changed_in_read: AtomicBool,
    /// The live connections of each tunnel that has this gate.
    wards: Mutex<Vec<Arc<Mutex<Live>>>>,
    denied: Mutex<Denied>,
    proven: Mutex<Proven>,
    /// The way to the follower of the store.
    asks: Mutex<mpsc::Sender<Vec<IpAddr>>>,
    unmeant: Unmeant,
    inquiry: Arc<Inquiry>,
    /// Told of everything that the store says.
    pub(super) answered: Notify,
    diary: Diary,
    live_noted_ms: AtomicU64,
    internal_was_told: AtomicBool,
    /// The reason why the store is away, as the log knows.
    away_told: Mutex<Vec<String>>,
    /// The log knows whether the store was read or could not be, for the first time.
    settled: AtomicBool,
    /// Cancelled when no tunnel has this gate any more.
    end: CancellationToken,
    tally: Arc<Tally>,
}

/// The address that the history names for one that was let in `by` an entry. An IPv6
/// address that a network lets in stands for its /64, by its first address: nobody
/// writes as many entries as that has addresses.
fn noted(ip: IpAddr, by: Option<Member>) -> IpAddr {
    match (Member::source_of(ip), by) {
        (Member::Network(source), Some(Member::Network(_))) => source.addr(),
        _ => ip,
    }
}

/// Whether a peer that waits for the store's word may have it now. Not with every
/// event: one answer is many of them.
fn concerns_waiters(event: &Event) -> bool {
    !matches!(event, Event::Allowed(_, None) | Event::Banned(..))
}

impl Keeper {
    /// Follows the store from now on, in tasks of its own, for nobody yet.
    ///
    /// # Errors
    /// [`StoreError`] when the store's file cannot be used.
    pub(super) fn start(options: Arc<GateOptions>) -> Result<Arc<Self>, StoreError> {
        let store = Arc::new(options.store.clone().open()?);
        let clock = Clock::start();
        let tally = Arc::<Tally>::default();
        let keeper = Arc::new(Self {
            diary: Diary::start(&options, Arc::clone(&store), Arc::clone(&tally)),
            options,
            store: Arc::clone(&store),
            live_noted_ms: AtomicU64::new(clock.now_ms()),
            clock,
            snapshot: RwLock::default(),
            unsure: AtomicBool::new(false),
            changed_in_read: AtomicBool::new(false),
            wards: Mutex::default(),
            denied: Mutex::new(Denied::new(Instant::now())),
            proven: Mutex::new(Proven::new(Instant::now())),
            asks: Mutex::new(mpsc::channel(1).0),
            unmeant: Unmeant::default(),
            inquiry: Arc::default(),
            answered: Notify::new(),
            internal_was_told: AtomicBool::new(false),
            away_told: Mutex::default(),
            settled: AtomicBool::new(false),
            end: CancellationToken::new(),
            tally,
        });
        let attending = Arc::clone(&keeper);
        let follow = move |events, asks| {
            let store = Arc::clone(&store);
            async move { store.follow(events, asks).await }
        };
        let attend = move || Arc::clone(&attending).attend(follow.clone());
        tokio::spawn(lasting("following the gate's store", attend));
        Ok(keeper)
    }

    /// Judges these live connections too, from the next change on.
    pub(super) fn watch(&self, live: &Arc<Mutex<Live>>) {
        self.wards().push(Arc::clone(live));
    }

    /// Judges these no more; whose were the last ends the keeper.
    pub(super) fn dismiss(&self, live: &Arc<Mutex<Live>>) {
        let mut wards = self.wards();
        wards.retain(|ward| !Arc::ptr_eq(ward, live));
        if wards.is_empty() {
            self.end.cancel();
        }
    }

    /// Resolves when the store was read, or could not be.
    pub(super) async fn is_settled(&self) {
        loop {
            let answered = self.answered.notified();
            if self.settled.load(Ordering::Acquire) {
                return;
            }
            answered.await;
        }
    }

    /// What can be said of it now.
    pub(super) fn status(&self) -> GateStatus {
        let (stance, counts) = (self.stance(), self.read().counts());
        self.tally.status(stance, counts)
    }

    /// Whether `peer` may come in now, from memory.
    pub(super) fn decide(&self, peer: Peer) -> Decision {
        decide(&self.options.rules, &self.read(), peer, self.clock.now_ms())
    }

    /// Whether the store would have to be asked about who is not in the allow-set.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure.load(Ordering::Acquire)
    }

    /// Whether a peer that is not in the allow-set should wait for the store's word
    /// about it: it is not certain, and there is room for one more question.
    pub(super) fn may_ask(&self, ip: IpAddr) -> bool {
        self.is_unsure() && self.inquiry.has_room(ip)
    }

    /// Asks the store about an address as long as this is held; [`Self::answered`]
    /// tells of the answer. `None` when nobody should wait for one.
    pub(super) fn ask(&self, ip: IpAddr) -> Option<Waiting> {
        if self.is_unsure() { self.inquiry.wait(ip) } else { None }
    }

    /// Whether what is in memory about an address that is not in the allow-set is
    /// certain. To be asked before the decision that it is about.
    pub(super) fn is_certain(&self, ip: IpAddr) -> bool {
        !self.is_unsure() || self.inquiry.is_answered(ip)
    }

    /// A handshake failed. What is older than a success of the same source is forgiven.
    pub(super) fn note_strike(&self, ip: IpAddr, since: Instant) {
        if self.proven().since(Member::source_of(ip), since) {
            return;
        }
        self.tally.strikes.inc();
        self.diary.strike(ip, self.clock.now_ms());
    }

    /// Tells of every ban that was made and not told yet.
    pub(super) fn flush_bans(&self) {
        self.diary.flush_bans();
    }

    /// A handshake succeeded.
    pub(super) fn forgive(&self, ip: IpAddr) {
        self.proven().note(Member::source_of(ip), Instant::now());
        self.diary.forgive(ip);
    }

    fn note_settled(&self) {
        let is_settled = self.read().freshness() != Freshness::Unread;
        if is_settled && !self.settled.swap(true, Ordering::Release) {
            self.answered.notify_waiters();
        }
    }

    pub(super) fn apply(&self, event: Event) {
        let now_ms = self.clock.now_ms();
        let wakes = concerns_waiters(&event);
        self.unmeant.hear(&event);
        let mut snapshot = self.write();
        let changed = match event {
            Event::Begin => {
                self.changed_in_read.store(false, Ordering::Relaxed);
                snapshot.begin();
                return;
            }
            Event::Items(items) => snapshot.items(&items),
            Event::End { garbage } => {
                let is_unsure = self.changed_in_read.load(Ordering::Relaxed);
                self.unsure.store(is_unsure, Ordering::Release);
                if !is_unsure {
                    self.inquiry.forget();
                }
                self.away_told().clear();
                self.tally.read();
                if garbage > 0 {
                    tracing::debug!(garbage, "entries of the store that are no address");
                }
                snapshot.end(now_ms)
            }
            Event::Allowed(member, truth) => snapshot.set_allowed(member, truth),
            Event::Banned(member, truth) => snapshot.set_banned(member, truth),
            Event::Unsure => {
                self.changed_in_read.store(true, Ordering::Relaxed);
                self.unsure.store(true, Ordering::Release);
                return self.inquiry.set_changed();
            }
            Event::Answered(ips) => {
                self.inquiry.answered(&ips);
                Changed::default()
            }
            Event::Away(why) => {
                self.tell_away(&why);
                // Nobody answers now; what comes back is read from the start.
                self.unsure.store(false, Ordering::Release);
                self.inquiry.forget();
                snapshot.away(now_ms)
            }
        };
        drop(snapshot);
        self.reconsider(&changed);
        if wakes {
            self.answered.notify_waiters();
        }
    }

    /// Repeated while it lasts; the log is told of the first, also of a store that was
    /// never there, and of some other causes: what mends one may show the next.
    fn tell_away(&self, why: &str) {
        self.tally.away(why);
        let mut told = self.away_told();
        if told.len() >= MOST_CAUSES || told.iter().any(|known| known == why) {
            return;
        }
        if told.is_empty() {
            warn!(why, away = %self.options.rules.away, "the gate's store is away");
        } else {
            warn!(why, "the gate's store is still away, for another cause");
        }
        told.push(why.to_owned());
    }

    /// Stores tell ends in wall time, so decisions go by it too, also when the
    /// clock is set. What measures a stretch of time goes along: how long the
    /// store was away does not change by that.
    fn follow_clock(&self) {
        let moved = self.clock.reread();
        let moved_ms = moved.0;
        self.write().clock_moved(moved_ms);
        self.diary.clock_moved(moved_ms);
        let noted_ms = self.live_noted_ms.load(Ordering::Relaxed);
        self.live_noted_ms.store(noted_ms.saturating_add_signed(moved_ms), Ordering::Relaxed);
        if moved.is_set() {
            info!(moved_ms, "this host's clock was set; looking at the gate's entries again");
            self.expire(self.clock.now_ms());
            self.reconsider(&Changed::Everything);
        }
    }

    fn tick(&self, now_ms: u64) {
        self.follow_cause();
        self.expire(now_ms);
        self.note_who_is_live(now_ms);
        self.diary.turn_page(now_ms);
        self.denied().age(Instant::now());
    }

    fn expire(&self, now_ms: u64) {
        while self.read().next_expiry().is_some_and(|next| next <= now_ms) {
            let changed = self.write().expire(now_ms);
            self.reconsider(&changed);
        }
    }

    /// Who came in long ago and is still here is in use: a reaper must not take a
    /// long connection for an idle address, and end it.
    fn note_who_is_live(&self, now_ms: u64) {
        if now_ms < self.live_noted_ms.load(Ordering::Relaxed) + NOTE_LIVE_EVERY_MS {
            return;
        }
        self.live_noted_ms.store(now_ms, Ordering::Relaxed);
        let live = self.concerned(&Changed::Everything);
        for (peer, _) in live {
            let decision = recheck(&self.options.rules, &self.read(), peer, now_ms);
            if decision.verdict == Verdict::Allowed(Grant::AllowSet) {
                self.note_seen(peer, decision.member, now_ms);
            }
        }
    }

    /// The live connections that `changed` may concern.
    fn concerned(&self, changed: &Changed) -> Vec<(Peer, Arc<Revocation>)> {
        self.wards().iter().flat_map(|ward| lock(ward).concerned(changed)).collect()
    }

    /// Ends live connections that would not be let in any more.
    pub(super) fn reconsider(&self, changed: &Changed) {
        if changed.is_empty() {
            return;
        }
        let now_ms = self.clock.now_ms();
        let concerned = self.concerned(changed);
        for (peer, revocation) in concerned {
            let decision = recheck(&self.options.rules, &self.read(), peer, now_ms);
            if !decision.is_allowed() && revocation.revoke(decision.reason()) {
                self.tally.revoked.inc();
            }
        }
    }

    fn inquire(&self, task: Task) {
        match task {
            // A full queue is a store that does not answer; the question is lost, and
            // the full read that is scheduled answers it.
            Task::Ask(ips) => {
                let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
                drop(asks.try_send(ips));
            }
            Task::NameOthers => self.inquiry.others_are(self.others()),
        }
    }

    /// Who is asked about when the set changed: live connections may have to end,
    /// and who was denied may try again soon.
    fn others(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.denied().addresses().collect();
        // Last, since these are asked about first.
        for ward in self.wards().iter() {
            addresses.extend(lock(ward).addresses());
        }
        addresses
    }

    /// Counts a peer that was denied, and remembers its address, if it has one.
    pub(super) fn note_denied(&self, ip: Option<IpAddr>) {
        self.tally.denied.inc();
        if let Some(ip) = ip {
            self.denied().note(ip, Instant::now());
        }
    }

    pub(super) fn note_grant(&self, peer: Peer, grant: Grant, by: Option<Member>) {
        match grant {
            Grant::Internal => {
                if !self.internal_was_told.swap(true, Ordering::Relaxed) {
                    warn!(
                        address = peer.ip().map(tracing::field::display),
                        "let in as an internal address, which behind a NAT or a proxy is everybody; \
                         leave --internal allow out to check it"
                    );
                }
            }
            Grant::AllowSet => self.note_seen(peer, by, self.clock.now_ms()),
            Grant::StaticAllow | Grant::StoreAway => {}
        }
    }

    fn note_seen(&self, peer: Peer, by: Option<Member>, now_ms: u64) {
        if let Some(ip) = peer.ip() {
            self.diary.touch(noted(ip, by), now_ms);
        }
    }

    fn stance(&self) -> Stance {
        self.options.rules.away.stance(self.read().freshness(), self.clock.now_ms())
    }

    fn tell_stance(&self, stance: Stance) {
        let counts = self.read().counts();
        match stance {
            Stance::Fresh => info!(
                addresses = counts.addresses,
                networks = counts.networks,
                bans = counts.bans,
                "the gate's store is read"
            ),
            Stance::Stale(_) => warn!("the gate goes by the last known state"),
            Stance::Open => warn!("the gate is open to everybody who is not denied or banned"),
            Stance::Closed => warn!("the gate admits nobody on the store's word"),
        }
    }

    /// What keeps the store away may be another cause by now.
    fn follow_cause(&self) {
        if self.tally.is_away()
            && let Some(why) = self.store.away()
        {
            self.tell_away(&why);
        }
    }

    fn away_told(&self) -> MutexGuard<'_, Vec<String>> {
        self.away_told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proven(&self) -> MutexGuard<'_, Proven> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self) -> MutexGuard<'_, Denied> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wards(&self) -> MutexGuard<'_, Vec<Arc<Mutex<Live>>>> {
        self.wards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Snapshot> {
        self.snapshot.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
