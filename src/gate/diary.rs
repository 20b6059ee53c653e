//! What a gate writes to its store: who was let in and when, strikes, and the
//! removal of addresses that nobody uses. All of it in the background and
//! bounded: a store that is away loses notes, never a connection.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::any_store::AnyStore;
use super::bans::{Ban, Bans, Told};
use super::member::Member;
use super::options::GateOptions;
use super::status::Tally;
use super::store::{Edit, Receipt};
use super::strikes::BanAfter;
use crate::duration;
use crate::net::clock::Clock;
use crate::tasks::lasting;

/// An address is noted at most once in this time.
const NOTE_EVERY_MS: u64 = 10_000;

/// Addresses that are noted in one such time; more are not.
const MOST_NOTES: usize = 100_000;

/// Edits that may wait for the store.
const QUEUE: usize = 1_024;

/// How long one edit may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often idle addresses are looked for.
const REAP_EVERY: Duration = Duration::from_secs(3_600);

/// Notes on their way to the store.
pub(super) struct Diary {
    page: Mutex<Page>,
    edits: mpsc::Sender<Edit>,
    ban_after: Option<BanAfter>,
    bans: Arc<Mutex<Bans>>,
}

/// What was noted lately. Two generations make it last at least
/// [`NOTE_EVERY_MS`], and no more than twice that.
#[derive(Default)]
struct Page {
    turned_ms: u64,
    young: HashSet<IpAddr>,
    old: HashSet<IpAddr>,
    unwritten: Vec<(IpAddr, u64)>,
}

impl Diary {
    pub(super) fn start(options: &GateOptions, store: Arc<AnyStore>, tally: Arc<Tally>) -> Self {
        let (edits, queue) = mpsc::channel(QUEUE);
        let bans = Arc::<Mutex<Bans>>::default();
        let (queue, counts) = (Arc::new(AsyncMutex::new(queue)), (tally, Arc::clone(&bans)));
        let writer = Arc::clone(&store);
        tokio::spawn(lasting("notes for the gate's store", move || {
            write(Arc::clone(&writer), Arc::clone(&queue), counts.clone())
        }));
        if let Some(idle) = options.reap_idle {
            let weak = edits.downgrade();
            tokio::spawn(lasting("removing idle addresses", move || {
                reap(Arc::clone(&store), idle, weak.clone())
            }));
        }
        Self { page: Mutex::default(), edits, ban_after: options.ban_after, bans }
    }

    /// `ip` was let in.
    pub(super) fn touch(&self, ip: IpAddr, now_ms: u64) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = !page.old.contains(&ip) && page.young.len() < MOST_NOTES;
        if is_news && page.young.insert(ip) {
            page.unwritten.push((ip, now_ms / 1_000));
        }
    }

    /// A handshake of `ip` failed.
    pub(super) fn strike(&self, ip: IpAddr, now_ms: u64) {
        if let Some(ban) = self.ban_after
            && lock(&self.bans).may_strike(Member::source_of(ip), ban, now_ms)
        {
            self.queue(Edit::Strike {
                ip,
                findtime: ban.findtime(),
                bantime: ban.bantime(),
                maxretry: ban.maxretry().into(),
            });
        }
    }

    /// A handshake of `ip` succeeded.
    pub(super) fn forgive(&self, ip: IpAddr) {
        if let Some(ban) = self.ban_after {
            self.queue(Edit::ClearStrikes { ip, findtime: ban.findtime() });
        }
    }

    /// Hands over what was noted since the last call.
    pub(super) fn turn_page(&self, now_ms: u64) {
        tell(lock(&self.bans).tick(Instant::now()));
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms >= page.turned_ms + NOTE_EVERY_MS {
            page.old = std::mem::take(&mut page.young);
            page.turned_ms = now_ms;
        }
        let unwritten = std::mem::take(&mut page.unwritten);
        drop(page);
        if !unwritten.is_empty() {
            self.queue(Edit::Touch(unwritten));
        }
    }

    /// Tells of every ban that was not told yet.
    pub(super) fn flush_bans(&self) {
        tell(lock(&self.bans).flush());
    }

    /// The clock of `now_ms` moved by so much; the page is as old as before.
    pub(super) fn clock_moved(&self, moved_ms: i64) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        page.turned_ms = page.turned_ms.saturating_add_signed(moved_ms);
    }

    fn queue(&self, edit: Edit) {
        // A full queue is a store that does not keep up; notes are not worth waiting for.
        let _ = self.edits.try_send(edit);
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        self.flush_bans();
    }
}

/// Never while the bans are locked, so that the log cannot hold who counts.
fn tell(told: Option<Told>) {
    if let Some(told) = told {
        told.log();
    }
}

fn lock(bans: &Mutex<Bans>) -> MutexGuard<'_, Bans> {
    bans.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes one edit after the other, and tells when that begins and ceases to
/// fail. Each kind for itself: a server whose memory is full still deletes, and
/// what succeeds there says nothing about the rest.
async fn write(
    store: Arc<AnyStore>,
    edits: Arc<AsyncMutex<mpsc::Receiver<Edit>>>,
    bans: (Arc<Tally>, Arc<Mutex<Bans>>),
) {
    let (mut edits, mut failing) = (edits.lock().await, HashSet::new());
    while let Some(edit) = edits.recv().await {
        let what = name(&edit);
        match make(&store, edit, &bans).await {
            Ok(()) if failing.remove(what) => info!(what, "the gate's store takes notes again"),
            Ok(()) => {}
            Err(cause) if failing.insert(what) => {
                warn!(what, cause, "the gate's store takes no notes");
            }
            Err(_) => {}
        }
    }
}

/// What the log calls an edit.
fn name(edit: &Edit) -> &'static str {
    match edit {
        Edit::Touch(_) => "history",
        Edit::Strike { .. } => "strikes",
        Edit::ClearStrikes { .. } => "forgiven strikes",
        _ => "idle addresses",
    }
}

async fn make(
    store: &AnyStore,
    edit: Edit,
    (tally, bans): &(Arc<Tally>, Arc<Mutex<Bans>>),
) -> Result<(), String> {
    let struck = match &edit {
        Edit::Strike { ip, bantime, maxretry, .. } => Some((*ip, *bantime, *maxretry)),
        _ => None,
    };
    match timeout(PATIENCE, store.edit(edit)).await {
        Ok(Ok(receipt)) => {
            let Receipt { server, key, changed, .. } = &receipt;
            debug!(server, key, changed, "noted");
            if let Some(ban) = struck.and_then(|struck| ban_of(struck, receipt)) {
                tally.bans_made.inc();
                let told = lock(bans).made(ban, Clock::start().now_ms(), Instant::now());
                tell(told);
            }
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

/// What the strike that wrote a ban made. Those after it change nothing.
fn ban_of((ip, time, maxretry): (IpAddr, Duration, u64), receipt: Receipt) -> Option<Ban> {
    let failures = receipt.count.filter(|count| receipt.changed && *count >= maxretry)?;
    let Receipt { server, key, .. } = receipt;
    Some(Ban { source: Member::source_of(ip), failures, time, server, key })
}

/// Removes addresses that were not let in for `idle`, for as long as the gate lives.
async fn reap(store: Arc<AnyStore>, idle: Duration, edits: mpsc::WeakSender<Edit>) {
    let clock = Clock::start();
    loop {
        // Others note in wall time, however it was set.
        clock.reread();
        let before_s = (clock.now_ms() / 1_000).saturating_sub(idle.as_secs());
        let (found, mut batches) = mpsc::channel(4);
        let listing = store.history(found);
        let removing = async {
            let mut count = 0_u64;
            while let Some(batch) = batches.recv().await {
                for (ip, _) in batch.into_iter().filter(|(_, seen_s)| *seen_s < before_s) {
                    let Some(edits) = edits.upgrade() else { return count };
                    debug!(%ip, "removing an address that was not seen for long");
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
                info!(count, idle, "removing addresses that were not seen for long");
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
