//! Settings of a process that knocks and carries no tunnel.
//!
//! By themselves, since the sandbox is prepared by them before anything runs.

use std::time::Duration;

use hyper::header::HeaderValue;

use crate::addr::{Address, BindAddress};
use crate::http::{ClientTls, WebUrl};
use crate::keys::KeyRing;
use crate::knocker::KnockWish;

/// Settings of `knock`.
#[derive(Debug)]
pub struct KnockingOptions {
    /// Receiver of the knocks.
    pub at: KnockAt,
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

/// Receiver of knocks.
#[derive(Debug)]
pub enum KnockAt {
    /// A gate that datagrams open.
    Gate {
        /// Its host and port.
        target: Address,
        /// Keys: the first seals.
        keys: KeyRing,
    },
    /// A service that takes knocks over HTTP.
    Web {
        /// Its address.
        url: WebUrl,
        /// The token, marked as sensitive.
        token: HeaderValue,
        /// Certificates to check it with.
        tls: ClientTls,
    },
}

impl KnockingOptions {
    /// Returns the keys that have to stay in memory.
    pub fn keys(&self) -> Option<&KeyRing> {
        match &self.at {
            KnockAt::Gate { keys, .. } => Some(keys),
            KnockAt::Web { .. } => None,
        }
    }
}
