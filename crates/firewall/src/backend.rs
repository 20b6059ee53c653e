//! The interface of a firewall: what it has, and steps that it carries out.

use std::time::Duration;

use crate::entries::{Entries, Step};
pub(crate) use crate::reconcile::Keeps;

/// A firewall.
///
/// It touches only what carries its own mark. Its futures may be dropped at any moment; what is
/// there is then read anew.
pub trait Backend: Send {
    /// Returns its name, as in `--backend`.
    fn name(&self) -> &'static str;

    /// Returns what it keeps of an entry.
    fn keeps(&self) -> Keeps;

    /// Makes what entries are put into (a table, a zone), and repairs it, or finds that
    /// [`Backend::apply`] has to. Entries that are there stay.
    fn prepare(&mut self) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Reads the entries that are there.
    fn present(&mut self) -> impl Future<Output = Result<Entries, BackendError>> + Send;

    /// Carries steps out. Networks that are wanted stay open throughout, and no others become so.
    fn apply(&mut self, steps: &[Step]) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Returns what is wrong with what entries are put into, as it was last read, where only
    /// [`Backend::apply`] can make it anew: it is then called with all that is wanted as additions,
    /// even if that is nothing.
    fn damage(&self) -> Option<String> {
        None
    }

    /// Returns the failure of a part, where the rest was read or carried out all the same. It is
    /// asked after each [`Backend::present`] and [`Backend::apply`] that succeeded.
    fn trouble(&self) -> Option<BackendError> {
        None
    }

    /// Returns the time between two readings, where nothing else asks for one.
    fn reread(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Waits until others may have changed what is there, as far as the firewall can tell.
    fn altered(&mut self) -> impl Future<Output = ()> + Send;

    /// Leaves the firewall as the operator wants it when the program ends.
    fn at_exit(&mut self, wish: AtExit) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Returns the lines that `--dry-run` shows: what `apply` would do, not what reading costs.
    fn describe(&self, steps: &[Step]) -> Vec<String>;

    /// Finds what else on the machine stands in the way, each in one line, cause and remedy.
    fn obstacles(&mut self) -> impl Future<Output = Result<Vec<String>, BackendError>> + Send;
}

/// State of the firewall after the program's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtExit {
    /// Everything stays: strangers are kept out, and entries end when the firewall ends them.
    #[default]
    Keep,
    /// Everything with the program's mark is removed, so that the ports are as open as before.
    Remove,
}

/// Failure of a firewall.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; {remedy}")]
pub struct BackendError {
    /// The cause, without secrets; foreign text in it is escaped.
    pub cause: String,
    /// Steps for an operator.
    pub remedy: String,
    /// The time after which it may have passed.
    pub retry: Retry,
}

/// The time after which another attempt may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// As soon as anything is wanted of it again, with growing pauses.
    Soon,
    /// Not before this time.
    After(Duration),
    /// Not before an operator has done something.
    Never,
}

impl BackendError {
    /// Creates the error of an attempt that may succeed later.
    pub fn passing(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into(), retry: Retry::Soon }
    }

    /// Creates the error of an attempt that fails until an operator acts.
    pub fn lasting(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into(), retry: Retry::Never }
    }
}
