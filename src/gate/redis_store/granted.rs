//! Grants of knocks, in the form that entries with an end have at this store.
//!
//! The script that writes an entry decides whether the present one lasts longer: the entry may
//! have been changed by an operator since it was read, and a gate's memory may be behind.

use std::time::Duration;

use super::super::grant::GrantNote;
use super::super::member::Member;
use super::super::owners::Terms;
use super::super::store::StoreError;
use super::attempt::{Attempt, Done, Failed};
use super::connections::SetType;
use super::keys::spellings;
use super::members::denied_note;
use super::owned::Owned;
use crate::unix_time::UnixMillis;

/// A grant that is to be made.
#[derive(Clone, Copy)]
pub(super) struct NewGrant<'a> {
    pub(super) member: Member,
    pub(super) lasting: Duration,
    pub(super) note: &'a GrantNote,
    pub(super) terms: Terms,
}

impl Attempt<'_> {
    pub(super) async fn grant(&self, grant: NewGrant<'_>) -> Result<Done, Failed> {
        let NewGrant { member, lasting, note, terms } = grant;
        let (keys, set) = (&self.store.keys, &self.store.keys.allow_set);
        let set_type = self.set_type().await?;
        if set_type == SetType::Set && self.is_endless(member).await? {
            return Ok(Done { key: set.clone(), changed: false, count: None });
        }
        let change = Owned::Grant { note, lasting, terms };
        match (set_type, keys.own_key(member)) {
            (SetType::Absent | SetType::Set, Some(key)) => {
                let changed = self.key_changed(&key, change).await?;
                Ok(Done { key, changed, count: None })
            }
            (SetType::Set, None) => {
                let server = self.connections.node_of(set).to_string();
                Err(Failed::For(StoreError::NoGrant { server, key: set.clone() }))
            }
            (SetType::Absent | SetType::Sorted, own_key) => {
                self.notes_to_write().await?;
                let granted = self.change_in_set(member, change).await;
                let mut changed = granted.map_err(|failure| denied_note(set, failure))?;
                if changed {
                    self.prune(SetType::Sorted).await;
                }
                self.announce(member, changed).await;
                // From before the set was a sorted one. In a Cluster no step is about both, so the
                // new entry is written first, and the address is in at each moment.
                if let Some(key) = own_key.filter(|_| terms != Terms::Later) {
                    let change = Owned::TakeBack { who: &note.who, until: None };
                    changed |= self.key_changed(&key, change).await?;
                }
                Ok(Done { key: set.clone(), changed, count: None })
            }
        }
    }

    pub(super) async fn renew(
        &self,
        member: Member,
        lasting: Duration,
        who_prefix: &str,
    ) -> Result<Done, Failed> {
        self.change(member, Owned::Renew { who_prefix, lasting }).await
    }

    pub(super) async fn take_back(
        &self,
        member: Member,
        who: &str,
        until: Option<UnixMillis>,
    ) -> Result<Done, Failed> {
        self.change(member, Owned::TakeBack { who, until }).await
    }

    /// Changes an entry in each form that it may have.
    async fn change(&self, member: Member, change: Owned<'_>) -> Result<Done, Failed> {
        let set = &self.store.keys.allow_set;
        let mut done = Done { key: set.clone(), changed: false, count: None };
        if self.set_type().await? == SetType::Sorted {
            let changed = self.change_in_set(member, change).await;
            done.changed = changed.map_err(|failure| Failed::At(set.clone(), failure))?;
            self.announce(member, done.changed).await;
        }
        if let Some(key) = self.store.keys.own_key(member)
            && self.key_changed(&key, change).await?
        {
            done = Done { key, changed: true, count: None };
        }
        Ok(done)
    }

    async fn key_changed(&self, key: &str, change: Owned<'_>) -> Result<bool, Failed> {
        let changed = self.change_key(key, change).await;
        changed.map_err(|failure| Failed::At(key.to_owned(), failure))
    }

    /// Returns true if a plain set has the member, which never ends there.
    async fn is_endless(&self, member: Member) -> Result<bool, Failed> {
        let keys = &self.store.keys;
        let found = self.connections.lookup(keys, SetType::Set, &spellings(member)).await;
        let found = found.map_err(|failure| Failed::At(keys.allow_set.clone(), failure))?;
        Ok(found.iter().any(Option::is_some))
    }
}
