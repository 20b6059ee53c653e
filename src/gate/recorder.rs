//! Writes to a gate's store: the moments of admissions, strikes, and the removal of idle
//! addresses. All of it in the background and bounded: a store that is unavailable loses
//! records, never a connection.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::any_store::AnyStore;
use super::bans::{BanReport, Bans, NewBan};
use super::member::Member;
use super::options::GateOptions;
use super::status::GateCounters;
use super::store::{Edit, EditResult};
use super::strikes::BanAfter;
use crate::duration;
use crate::net::clock::{self, Clock};
use crate::tasks::restarting;
use crate::unix_time::UnixMillis;

/// An address is recorded at most once in this time.
const RECORD_EVERY: Duration = Duration::from_secs(10);

/// Addresses that stay connected are recorded once in this time.
const RECORD_LIVE_EVERY: Duration = Duration::from_secs(3_600);

/// Addresses that are recorded in one [`RECORD_EVERY`]; more are not.
const MOST_NOTES: usize = 100_000;

/// Edits that may wait for the store.
const QUEUE: usize = 1_024;

/// The time that one edit may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The interval at which idle addresses are looked for.
const REAP_EVERY: Duration = Duration::from_secs(3_600);

/// The records of a gate on their way to its store.
pub(super) struct Recorder {
    recent: Mutex<RecentSet>,
    edits: mpsc::Sender<Edit>,
    ban_after: Option<BanAfter>,
    bans: Arc<Mutex<Bans>>,
    /// The last time at which addresses that stay connected were recorded, in unix milliseconds.
    live_recorded: AtomicU64,
}

/// Addresses that were recorded lately. Two generations make an entry last at least
/// [`RECORD_EVERY`], and no more than twice that.
#[derive(Default)]
struct RecentSet {
    turned: UnixMillis,
    young: HashSet<IpAddr>,
    old: HashSet<IpAddr>,
    unwritten: Vec<(IpAddr, u64)>,
}

/// The destination of bans that were made.
#[derive(Clone)]
struct BanLog {
    counters: Arc<GateCounters>,
    bans: Arc<Mutex<Bans>>,
}

/// The part of a strike that its ban is made of.
struct Strike {
    ip: IpAddr,
    bantime: Duration,
    maxretry: u64,
}

impl Recorder {
    pub(super) fn start(
        options: &GateOptions,
        store: Arc<AnyStore>,
        counters: Arc<GateCounters>,
        now: UnixMillis,
    ) -> Self {
        let (edits, queue) = mpsc::channel(QUEUE);
        let bans = Arc::<Mutex<Bans>>::default();
        let queue = Arc::new(AsyncMutex::new(queue));
        let log = BanLog { counters, bans: Arc::clone(&bans) };
        let writer = Arc::clone(&store);
        tokio::spawn(restarting("notes for the gate's store", move || {
            write(Arc::clone(&writer), Arc::clone(&queue), log.clone())
        }));
        if let Some(idle) = options.reap_idle {
            let weak = edits.downgrade();
            tokio::spawn(restarting("removing idle addresses", move || {
                reap(Arc::clone(&store), idle, weak.clone())
            }));
        }
        let (recent, live_recorded) = (Mutex::default(), AtomicU64::new(now.0));
        Self { recent, edits, ban_after: options.ban_after, bans, live_recorded }
    }

    /// Records that `ip` was admitted, or still is connected.
    pub(super) fn seen(&self, ip: IpAddr, now: UnixMillis) {
        let mut recent = self.recent();
        let is_new = !recent.old.contains(&ip) && recent.young.len() < MOST_NOTES;
        if is_new && recent.young.insert(ip) {
            recent.unwritten.push((ip, now.as_secs()));
        }
    }

    /// Returns true once in [`RECORD_LIVE_EVERY`]: addresses that stay connected are to be
    /// recorded now.
    pub(super) fn is_live_due(&self, now: UnixMillis) -> bool {
        let recorded = UnixMillis(self.live_recorded.load(Ordering::Relaxed));
        let is_due = now >= recorded.saturating_add(RECORD_LIVE_EVERY);
        if is_due {
            self.live_recorded.store(now.0, Ordering::Relaxed);
        }
        is_due
    }

    /// Counts a failed handshake of `ip`.
    pub(super) fn strike(&self, ip: IpAddr, now: UnixMillis) {
        if let Some(ban) = self.ban_after
            && lock(&self.bans).may_strike(Member::source_of(ip), ban, now)
        {
            self.queue(Edit::Strike {
                ip,
                findtime: ban.findtime(),
                bantime: ban.bantime(),
                maxretry: ban.maxretry().into(),
            });
        }
    }

    /// Forgets the failed handshakes of `ip`, since one succeeded.
    pub(super) fn forgive(&self, ip: IpAddr) {
        if let Some(ban) = self.ban_after {
            self.queue(Edit::ClearStrikes { ip, findtime: ban.findtime() });
        }
    }

    /// Sends what was recorded since the last call to the store.
    pub(super) fn flush(&self, now: UnixMillis) {
        log(lock(&self.bans).tick(Instant::now()));
        let mut recent = self.recent();
        if now >= recent.turned.saturating_add(RECORD_EVERY) {
            recent.old = std::mem::take(&mut recent.young);
            recent.turned = now;
        }
        let unwritten = std::mem::take(&mut recent.unwritten);
        drop(recent);
        if !unwritten.is_empty() {
            self.queue(Edit::RecordSeen(unwritten));
        }
    }

    /// Logs every ban that was not logged yet.
    pub(super) fn flush_bans(&self) {
        log(lock(&self.bans).flush());
    }

    /// Follows a correction of the clock: all that was recorded is as old as before.
    pub(super) fn clock_moved(&self, moved_ms: i64) {
        let mut recent = self.recent();
        recent.turned = recent.turned.moved_by(moved_ms);
        let recorded = UnixMillis(self.live_recorded.load(Ordering::Relaxed));
        self.live_recorded.store(recorded.moved_by(moved_ms).0, Ordering::Relaxed);
    }

    fn queue(&self, edit: Edit) {
        // The queue is full when the store does not keep up; records are not worth waiting for.
        let _ = self.edits.try_send(edit);
    }

    fn recent(&self) -> MutexGuard<'_, RecentSet> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or reads the last time at which addresses that stay connected were recorded.
    #[cfg(test)]
    pub(super) fn live_recorded(&self) -> &AtomicU64 {
        &self.live_recorded
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush_bans();
    }
}

/// Logs a report. Never while the bans are locked, so that a slow log does not delay
/// the counting.
fn log(report: Option<BanReport>) {
    if let Some(report) = report {
        report.log();
    }
}

fn lock(bans: &Mutex<Bans>) -> MutexGuard<'_, Bans> {
    bans.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes one edit after the other, and logs when that begins and ceases to
/// fail. Each kind for itself: a server with a full memory still deletes, and
/// a success there says nothing about the rest.
async fn write(store: Arc<AnyStore>, edits: Arc<AsyncMutex<mpsc::Receiver<Edit>>>, bans: BanLog) {
    let (mut edits, mut failing) = (edits.lock().await, HashSet::new());
    while let Some(edit) = edits.recv().await {
        let what = name(&edit);
        match apply(&store, edit, &bans).await {
            Ok(()) if failing.remove(what) => info!(what, "gate store writes recovered"),
            Ok(()) => {}
            Err(cause) if failing.insert(what) => {
                warn!(what, cause, "gate store writes failing");
            }
            Err(_) => {}
        }
    }
}

/// The name of an edit in the log.
fn name(edit: &Edit) -> &'static str {
    match edit {
        Edit::RecordSeen(_) => "history",
        Edit::Strike { .. } => "strikes",
        Edit::ClearStrikes { .. } => "forgiven strikes",
        _ => "idle addresses",
    }
}

async fn apply(store: &AnyStore, edit: Edit, bans: &BanLog) -> Result<(), String> {
    let strike = match &edit {
        Edit::Strike { ip, bantime, maxretry, .. } => {
            Some(Strike { ip: *ip, bantime: *bantime, maxretry: *maxretry })
        }
        _ => None,
    };
    match timeout(PATIENCE, store.edit(edit)).await {
        Ok(Ok(receipt)) => {
            let EditResult { server, key, changed, .. } = &receipt;
            debug!(server, key, changed, "gate store written");
            if let Some(ban) = strike.and_then(|strike| strike.ban(receipt)) {
                bans.counters.bans_made.inc();
                let report = lock(&bans.bans).made(ban, clock::now(), Instant::now());
                log(report);
            }
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

impl Strike {
    /// The ban that the strike made, if it is the one that did. Those after it change nothing.
    fn ban(self, receipt: EditResult) -> Option<NewBan> {
        let is_last = |count: &u64| receipt.changed && *count >= self.maxretry;
        let failures = receipt.count.filter(is_last)?;
        let EditResult { server, key, .. } = receipt;
        let source = Member::source_of(self.ip);
        Some(NewBan { source, failures, time: self.bantime, server, key })
    }
}

/// Removes addresses that were not admitted for `idle`, for as long as the gate lives.
async fn reap(store: Arc<AnyStore>, idle: Duration, edits: mpsc::WeakSender<Edit>) {
    let clock = Clock::start();
    loop {
        // Others record in wall time, however it was set.
        clock.reread();
        let before_s = clock.now().as_secs().saturating_sub(idle.as_secs());
        let (found, mut batches) = mpsc::channel(4);
        let listing = store.history(found);
        let removing = async {
            let mut count = 0_u64;
            while let Some(batch) = batches.recv().await {
                for (ip, _) in batch.into_iter().filter(|(_, seen_s)| *seen_s < before_s) {
                    let Some(edits) = edits.upgrade() else { return count };
                    debug!(%ip, "removing idle address");
                    if edits.send(Edit::Forget { ip, before_s }).await.is_err() {
                        return count;
                    }
                    count += 1;
                }
            }
            count
        };
        let (listed, count) = tokio::join!(listing, removing);
        match listed {
            Ok(_) if count > 0 => {
                let idle = duration::format(idle);
                info!(count, idle, "removing idle addresses");
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "cannot look for idle addresses"),
        }
        sleep(REAP_EVERY).await;
        if edits.upgrade().is_none() {
            return;
        }
    }
}
