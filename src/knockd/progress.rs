//! The part of a service that goes on in the one that replaces it at a reload.
//!
//! Locks, grants under way and revoked tokens must not be forgotten with the settings that were read
//! anew. Nothing here outlasts the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as Turn;

use super::limits::Limits;
use super::tokens::{Revoked, Tokens};
use crate::gate::{Member, UnixMillis};

/// State that goes on in the service that replaces this one.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) limits: Mutex<Limits>,
    /// Grants that are being made, and how many at once of each member.
    pub(super) making: Mutex<HashMap<Member, usize>>,
    /// Tokens of the service that is the newest.
    pub(super) tokens: Mutex<Arc<Tokens>>,
    /// Names of tokens that are gone, of which grants may be left, with the moment from which on
    /// none of them granted anything: a later grant is one of another token by this name.
    pub(super) gone: Mutex<BTreeMap<String, UnixMillis>>,
    /// For each token of one address, where a new grant takes the previous one back: one at a time.
    pub(super) turns: Mutex<HashMap<String, Arc<Turn<()>>>>,
}

/// A grant that is being made, until this is dropped.
pub(super) struct Making<'a> {
    pub(super) progress: &'a Progress,
    pub(super) member: Member,
}

impl Progress {
    /// Takes over the tokens of the service that is the newest from now on, and the names of those
    /// that it lacks, or that were revoked since the file was read before.
    pub(super) fn take_tokens(&self, tokens: &Arc<Tokens>, now: impl Fn() -> UnixMillis) {
        let before = std::mem::replace(&mut *lock(&self.tokens), Arc::clone(tokens));
        // After the change: a grant under way with a token of before sees it, and is taken back.
        let now = now();
        let lacking = before.iter().filter(|it| !tokens.has(it)).map(|it| (&it.name, now));
        let is_new = |it: &&Revoked| !before.revoked().contains(it);
        let revoked = tokens.revoked().iter().filter(is_new).map(|Revoked { name, at }| {
            let is_there_again = tokens.named(name).is_some();
            (name, at.filter(|_| is_there_again).unwrap_or(now))
        });
        let mut gone = lock(&self.gone);
        for (name, at) in revoked.chain(lacking) {
            let known = gone.entry(name.clone()).or_insert(at);
            *known = at.max(*known);
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut making = lock(&self.progress.making);
        if let Some(count) = making.get_mut(&self.member) {
            *count -= 1;
            if *count == 0 {
                making.remove(&self.member);
            }
        }
    }
}

/// Locks what the threads of a service share.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
