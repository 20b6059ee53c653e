//! The loop that keeps a firewall in step: determines what is wanted, compares it with what is
//! there, and carries out the steps between, after each change of the store or of the firewall.
//!
//! What was carried out is remembered, so that a change of the store costs no reading of the
//! firewall. The memory counts until the firewall was changed by others, the clock was set, or an
//! attempt failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use knockpipe_firewall::{
    AtExit, Backend, BackendError, Entries, Retry, Step, Wanted, reconcile, wanted,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::labels::Labels;
use crate::gate::{ContentWatch, Gate};
use crate::observe::firewall::FirewallMeters;
use crate::unix_time::UnixMillis;

/// The first pause after a failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Pause after a failure that only an operator can end.
const OPERATOR_PAUSE: Duration = Duration::from_secs(30);

/// Least time between two lines about repairs.
const QUIET: Duration = Duration::from_secs(60);

/// Time that the firewall may take at the end.
const LAST_WISH: Duration = Duration::from_secs(35);

/// The surroundings of a firewall.
#[derive(Clone)]
pub(super) struct Place {
    /// Its name in the log.
    pub(super) tunnel: Option<Arc<str>>,
    /// The gate, for the notes in its store.
    pub(super) gate: Gate,
    /// What the gate goes by.
    pub(super) content: Arc<ContentWatch>,
    /// Its state, for operators.
    pub(super) state: Arc<FirewallMeters>,
    pub(super) stop: CancellationToken,
    pub(super) is_taken_over: Arc<AtomicBool>,
    pub(super) at_exit: AtExit,
}

/// A firewall with what is known of it.
struct Keeper<B> {
    place: Place,
    backend: B,
    /// Entries that should be there.
    memory: Option<Entries>,
    /// No other program changed the firewall since.
    is_sure: bool,
    /// The last reading.
    read_at: Instant,
    pause: Duration,
    /// A line said that it is in step.
    said_in_step: bool,
    /// Failure of a part in this round.
    trouble: Option<BackendError>,
    /// The last failure in the log.
    said_failure: Option<String>,
    said_repair: Option<Instant>,
    left_out: Vec<IpNet>,
    labels: Labels,
}

/// Keeps a firewall in step until the place says to stop.
pub(super) async fn keep<B: Backend>(place: Place, backend: B) {
    let mut keeper = Keeper {
        backend,
        memory: None,
        is_sure: false,
        read_at: Instant::now(),
        pause: FIRST_PAUSE,
        said_in_step: false,
        trouble: None,
        said_failure: None,
        said_repair: None,
        left_out: vec![],
        labels: Labels::default(),
        place,
    };
    let stop = keeper.place.stop.clone();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keeper.work() => {}
    }
    keeper.end().await;
}

impl<B: Backend> Keeper<B> {
    async fn work(&mut self) {
        // Until then it is not known what is wanted, and what is there stays.
        self.place.content.settled().await;
        loop {
            match self.round().await {
                Ok(()) => match self.trouble.clone() {
                    None => self.succeeded(),
                    // The rest of it is as it should be, and there is nothing to try sooner.
                    Some(error) => self.note_failure(&error),
                },
                Err(error) => {
                    // A change of the store is worth an attempt, but not one at once.
                    let least = self.pause;
                    let pause = self.failed(&error);
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.next_change(least) => {}
                    }
                    continue;
                }
            }
            let reread = self.read_at + self.backend.reread();
            tokio::select! {
                () = self.place.content.changed() => {
                    // Ends in the firewall count by another clock than those of the store.
                    self.is_sure &= !self.place.content.take_all_new();
                }
                () = self.backend.altered() => self.is_sure = false,
                () = sleep_until(reread) => self.is_sure = false,
            }
        }
    }

    /// Waits for a change of the store, and at least this time.
    async fn next_change(&self, least: Duration) {
        tokio::join!(self.place.content.changed(), sleep(least));
    }

    /// Compares once, and carries out the steps.
    async fn round(&mut self) -> Result<(), BackendError> {
        if !self.is_sure {
            self.backend.prepare().await?;
            let present = self.backend.present().await?;
            self.read_at = Instant::now();
            self.trouble = self.backend.trouble();
            let is_damaged = self.backend.damage().is_some();
            self.note_repairs(&present, is_damaged);
            // What is made anew is made with all that is wanted.
            self.memory = Some(if is_damaged { Entries::default() } else { present });
            self.is_sure = true;
        }
        let Wanted { mut entries, left_out } = self.wanted();
        self.note_left_out(left_out);
        if self.backend.keeps().labels {
            self.labels.read(&self.place.gate).await;
            self.labels.give(&mut entries);
        }
        let present = self.memory.get_or_insert_default();
        let steps = reconcile(&entries, present, self.backend.keeps());
        if !steps.is_empty() || self.backend.damage().is_some() {
            if let Err(error) = self.backend.apply(&steps).await {
                // A part of it may be done: what differs then was not changed by others.
                self.memory = None;
                return Err(error);
            }
            present.take(&steps);
            self.trouble = self.backend.trouble();
            self.place.state.lock().steps += steps.len() as u64;
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        self.place
            .content
            .read(|content| wanted(content.rules, content.store, content.policy, content.now))
    }

    /// Counts the entries that others have removed or added since the last look, and at least one
    /// if what these are put into was changed.
    fn note_repairs(&mut self, present: &Entries, is_damaged: bool) {
        let Some(memory) = &self.memory else { return };
        let keeps = self.backend.keeps();
        // What has just ended may be gone or not.
        let later = self.now().saturating_add(keeps.ends.unwrap_or_default());
        let (mut memory, mut present) = (memory.clone(), present.clone());
        for entries in [&mut memory, &mut present] {
            entries.expire(later);
        }
        let differing = reconcile(&memory, &present, keeps);
        let repairs = differing.iter().filter(|step| !matches!(step, Step::Change(_))).count();
        let repairs = repairs.max(usize::from(is_damaged));
        if repairs == 0 {
            return;
        }
        self.place.state.lock().repairs += repairs as u64;
        if self.said_repair.is_none_or(|at| at.elapsed() >= QUIET) {
            self.said_repair = Some(Instant::now());
            warn!(
                tunnel = self.place.tunnel.as_deref(),
                backend = self.backend.name(),
                entries = repairs,
                detail = "see 'knockpipe firewall check' for what is on this host",
                "firewall was changed by another program; putting it right"
            );
        }
    }

    fn now(&self) -> UnixMillis {
        self.place.content.read(|content| content.now)
    }

    fn note_left_out(&mut self, left_out: Vec<IpNet>) {
        for network in left_out.iter().filter(|network| !self.left_out.contains(network)) {
            warn!(
                tunnel = self.place.tunnel.as_deref(), %network,
                detail = "remove bans in it, or allow smaller networks",
                "network left out of the firewall: too many parts of it are banned"
            );
        }
        self.left_out = left_out;
    }

    fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
        self.said_failure = None;
        let entries = self.memory.as_ref().map_or(0, Entries::len);
        {
            let mut state = self.place.state.lock();
            state.entries = entries;
            state.last_success = Some(SystemTime::now());
            state.trouble = None;
        }
        if !self.said_in_step {
            self.said_in_step = true;
            let (tunnel, backend) = (self.place.tunnel.as_deref(), self.backend.name());
            info!(tunnel, backend, entries, "firewall in step");
        }
    }

    /// Notes a failure. Returns the pause before another attempt.
    fn failed(&mut self, error: &BackendError) -> Duration {
        self.is_sure = false;
        self.note_failure(error);
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        match error.retry {
            Retry::Soon => pause,
            Retry::After(time) => time.max(pause),
            Retry::Never => OPERATOR_PAUSE,
        }
    }

    /// Shows a failure in status and metrics, and once in the log.
    fn note_failure(&mut self, error: &BackendError) {
        let text = error.to_string();
        {
            let mut state = self.place.state.lock();
            state.errors += 1;
            state.trouble = Some(text.clone());
        }
        if self.said_failure.as_ref() != Some(&text) {
            let (tunnel, backend) = (self.place.tunnel.as_deref(), self.backend.name());
            warn!(tunnel, backend, error = text, "firewall not in step");
            self.said_failure = Some(text);
            self.said_in_step = false;
        }
    }

    /// Leaves the firewall as the operator wants it.
    async fn end(&mut self) {
        if self.place.is_taken_over.load(Ordering::Relaxed) {
            return;
        }
        let tunnel = self.place.tunnel.clone();
        let left = timeout(LAST_WISH, self.backend.at_exit(self.place.at_exit)).await;
        let backend = self.backend.name();
        match (left, self.place.at_exit) {
            (Ok(Ok(())), AtExit::Keep) => {
                info!(tunnel = tunnel.as_deref(), backend, "firewall stays as it is");
            }
            (Ok(Ok(())), AtExit::Remove) => {
                info!(tunnel = tunnel.as_deref(), backend, "firewall removed");
            }
            (Ok(Err(error)), _) => {
                let error = error.to_string();
                warn!(tunnel = tunnel.as_deref(), backend, error, "firewall not removed");
            }
            (Err(_), _) => {
                let error = "it took too long; remove it by hand";
                warn!(tunnel = tunnel.as_deref(), backend, error, "firewall not removed");
            }
        }
    }
}
