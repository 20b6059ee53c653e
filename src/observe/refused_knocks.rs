//! Few log lines about refused knocks, of either kind: summaries like those of refused connections.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::failures::{FailureTally, Line};
use super::json::Pairs;

/// The remedy of a refusal by the store.
pub(super) const SEE_ERROR: &str = "see the error";

/// A reason for which knocks are refused.
pub trait RefusalReason: Copy + Ord + fmt::Display {
    /// Returns what to do about refusals for this reason.
    fn remedy(self) -> &'static str;
}

/// The log of refused knocks of one service.
#[derive(Debug)]
pub struct RefusedKnocks<R> {
    tally: Mutex<FailureTally<R>>,
    /// The last error of the store, for each line that is about it.
    error: Mutex<Option<String>>,
    /// The service's name, where there are several.
    tunnel: Option<Arc<str>>,
}

impl<R: RefusalReason> RefusedKnocks<R> {
    /// Creates an empty log; lines name `tunnel`.
    pub fn of(tunnel: Option<Arc<str>>) -> Self {
        Self { tally: Mutex::default(), error: Mutex::default(), tunnel }
    }

    /// Counts a knock that was refused, and logs if a line is due. `sender` names its key or token
    /// and its source; `error` is that of the store.
    pub fn refused(&self, result: R, sender: &dyn fmt::Display, error: Option<&str>) {
        if let Some(error) = error {
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
        }
        let line = self.tally().record(result, sender, Instant::now());
        self.log(line);
    }

    /// Logs a summary that is due. Call it about once a second.
    pub fn tick(&self) {
        let line = self.tally().tick(Instant::now());
        self.log(line);
    }

    /// Logs everything that was not yet logged. Call it before the process ends.
    pub fn flush(&self) {
        let line = self.tally().flush();
        self.log(line);
    }

    fn log(&self, line: Option<Line<R>>) {
        if let Some(line) = line {
            let is_of_store = |result: &R| result.remedy() == SEE_ERROR;
            let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let error =
                error.filter(|_| line.reasons.iter().any(|(result, _)| is_of_store(result)));
            let remedies: Vec<&str> =
                line.reasons.iter().map(|(result, _)| result.remedy()).collect();
            tracing::warn!(
                tunnel = self.tunnel.as_deref(),
                count = line.count,
                reasons = Pairs::new(line.reasons.iter().copied()).field(),
                senders = line.sources(),
                example = line.example,
                error = error.as_deref(),
                detail = remedies.join("; "),
                "knock refused"
            );
        }
    }

    /// Locks the counts. Never held while a line is logged.
    fn tally(&self) -> MutexGuard<'_, FailureTally<R>> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
