//! Settings of a process that knocks and carries no tunnel.
//!
//! By themselves, since the sandbox is prepared by them before anything runs.

use std::time::Duration;

use crate::addr::{Address, BindAddress};
use crate::keys::KeyRing;
use crate::knocker::KnockWish;

/// Settings of `knock`.
#[derive(Debug)]
pub struct KnockingOptions {
    /// The gate's host and port.
    pub target: Address,
    /// Keys: the first seals.
    pub keys: KeyRing,
    /// Text of the knocks.
    pub wish: KnockWish,
    /// Local address.
    pub bind: Option<BindAddress>,
    /// Port that is to open.
    pub wait_for: Option<Address>,
    /// Time for a look-up, and for that port.
    pub timeout: Duration,
    /// Stays, and knocks again before the grant ends.
    pub keeps: bool,
}
