//! Grants at a running gate: made in its store, and renewed while they are used.
//!
//! Each change has a time limit, because a store that does not answer must not hold up those that
//! wait. Whether a grant should be made is decided elsewhere.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::GrantNote;
use super::admission::Gate;
use super::any_store::AnyStore;
use super::decision::{AllowReason, DenyReason, Peer, Verdict};
use super::grant;
use super::knocks::Knocks;
use super::live::lock;
use super::member::{Item, Member};
use super::memory_store::MemoryStore;
use super::owners::Terms;
use super::snapshot::Counts;
use super::store::{AllowEntry, Edit, EditResult, Grant, StoreError};
use crate::keys::KeyId;
use crate::unix_time::{Expiry, UnixMillis};

/// Longest time of one change, and of a listing that somebody waits for.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Interval at which the end of an entry is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// A grant to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    /// The address or network.
    pub member: Member,
    /// Its duration.
    pub lasting: Duration,
    /// Name of the asker, label and moment.
    pub note: GrantNote,
}

/// Failure of a change in the store.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The store refused it, or cannot be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No answer.
    #[error("the gate's store does not answer; check that it works and can be reached")]
    Silent,
    /// Entries were listed, and it is not known who granted them.
    #[error(
        "the notes beside entries cannot be read: {0}; give the ACL user the rights that the documents name"
    )]
    NoNotes(String),
}

/// Entries of a listing.
struct Kept {
    grants: Vec<Grant>,
    /// The reason why notes are missing.
    without_notes: Option<String>,
}

/// An entry of the allow-set that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The address.
    pub ip: IpAddr,
    /// Its end.
    pub until: UnixMillis,
}

impl Gate {
    /// Returns the knocks at this gate.
    pub fn knocks(&self) -> &Arc<Knocks> {
        &self.knocks
    }

    /// Claims a name in the store for a while; returns false if it is taken.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn claim(&self, name: &str, lasting: Duration) -> Result<bool, ChangeError> {
        let shared = self.shared();
        in_time(shared.store.claim(name, lasting)).await
    }

    /// The store, where that is the memory of this process.
    pub fn memory(&self) -> Option<MemoryStore> {
        match &*self.shared().store {
            AnyStore::Memory(store) => Some(store.clone()),
            AnyStore::Redis(_) | AnyStore::Embedded(_) | AnyStore::None => None,
        }
    }

    /// Makes a grant on these terms.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn grant(&self, grant: NewGrant, terms: Terms) -> Result<EditResult, ChangeError> {
        let NewGrant { member, lasting, note } = grant;
        let edit = Edit::Grant { member, lasting, note, terms };
        in_time(self.shared().store.edit(edit)).await
    }

    /// Takes back what this `who` granted, at `until` at the latest if that is given; what others
    /// granted stays.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn take_back(
        &self,
        member: Member,
        who: &str,
        until: Option<UnixMillis>,
    ) -> Result<EditResult, ChangeError> {
        let edit = Edit::TakeBack { member, who: who.to_owned(), until };
        in_time(self.shared().store.edit(edit)).await
    }

    /// Lists those entries of the store that `keep` chooses, `most` of them at most, within
    /// `patience`.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn grants(
        &self,
        most: usize,
        patience: Duration,
        keep: impl Fn(&Grant) -> bool,
    ) -> Result<Vec<Grant>, ChangeError> {
        Ok(self.listed(most, patience, keep).await?.grants)
    }

    /// The same where `keep` chooses by notes: without these none would be found, and nobody would
    /// know.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn grants_by_note(
        &self,
        most: usize,
        patience: Duration,
        keep: impl Fn(&Grant) -> bool,
    ) -> Result<Vec<Grant>, ChangeError> {
        let Kept { grants, without_notes } = self.listed(most, patience, keep).await?;
        without_notes.map_or(Ok(grants), |why| Err(ChangeError::NoNotes(why)))
    }

    async fn listed(
        &self,
        most: usize,
        patience: Duration,
        keep: impl Fn(&Grant) -> bool,
    ) -> Result<Kept, ChangeError> {
        let shared = self.shared();
        let (to, mut from) = mpsc::channel::<Vec<Grant>>(1);
        let mut grants = vec![];
        let taking = async {
            while let Some(batch) = from.recv().await {
                grants.extend(batch.into_iter().filter(&keep).take(most - grants.len()));
                if grants.len() == most {
                    // Who lists is told by the channel that it is enough.
                    return drop(from);
                }
            }
        };
        let listing = async { tokio::join!(shared.store.list_grants(to), taking).0 };
        match within(patience, listing).await {
            Ok(listed) => Ok(Kept { grants, without_notes: listed.without_notes }),
            Err(ChangeError::Store(StoreError::CutOff)) => Ok(Kept { grants, without_notes: None }),
            Err(error) => Err(error),
        }
    }

    /// Returns the note of what `who` granted, of an entry in the store.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn note_of(
        &self,
        member: Member,
        who: &str,
    ) -> Result<Option<GrantNote>, ChangeError> {
        let ip = IpNet::from(member).addr();
        let record = in_time(self.shared().store.address_record(ip, None)).await?;
        let entries = record.allow_entries.into_iter().filter(|entry| entry.member == member);
        let mut notes = entries.flat_map(|AllowEntry { note, others, .. }| {
            note.into_iter().chain(others.into_iter().map(|other| other.note))
        });
        Ok(notes.find(|note| note.who == who))
    }

    /// Returns true if the allow-set has `most` entries with an end or more, as far as the gate's
    /// memory knows.
    pub fn has_grants(&self, most: usize) -> bool {
        let shared = self.shared();
        let now = shared.mirror.clock.now();
        let snapshot = shared.mirror.read();
        let Counts { addresses, networks, .. } = snapshot.counts();
        let ends = |item: &Item| matches!(item, Item::Allowed(_, Expiry::At(_)));
        addresses + networks >= most
            && snapshot.entries(now).filter(ends).take(most).count() == most
    }

    /// Renews the grant of an address, if a knock made it, from now on for `lasting`.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub async fn renew(&self, ip: IpAddr, lasting: Duration) -> Result<EditResult, ChangeError> {
        let edit = Edit::Renew { member: ip.into(), lasting, who_prefix: grant::KEY.to_owned() };
        in_time(self.shared().store.edit(edit)).await
    }

    /// Returns true if the allow-set has `member`, as far as the gate's memory knows.
    pub fn has(&self, member: Member) -> bool {
        self.end_of(member).is_some()
    }

    /// Returns true if the allow-set has `member` for ever, as far as the gate's memory knows: then no
    /// grant changes it, and the store need not be asked.
    pub fn has_for_ever(&self, member: Member) -> bool {
        self.end_of(member) == Some(Expiry::Never)
    }

    fn end_of(&self, member: Member) -> Option<Expiry> {
        let shared = self.shared();
        let now = shared.mirror.clock.now();
        shared.mirror.read().member(member, now)
    }

    /// Waits until the gate admits `member` by its store, until `deadline` at most; not for one
    /// that is banned or denied, which no grant admits.
    pub async fn admits(&self, member: Member, deadline: Instant) {
        let ip = IpNet::from(member).addr();
        loop {
            let shared = self.shared();
            let answered = shared.mirror.answered();
            let is_final = match shared.decide(Peer::Announced(ip)).verdict {
                Verdict::Allowed(_) => true,
                Verdict::Denied(why) => {
                    matches!(why, DenyReason::Banned | DenyReason::StaticDeny)
                }
            };
            if is_final || timeout_at(deadline, answered).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the gate's memory does not have `member` any more, until `deadline` at most.
    pub async fn lacks(&self, member: Member, deadline: Instant) {
        loop {
            if !self.has(member) || Instant::now() >= deadline {
                return;
            }
            // No event of its own tells of a removal, and few wait for one.
            sleep(LOOK).await;
        }
    }

    /// Lists the entries with an end that admit connections of this tunnel with peers that have
    /// proven possession of a key of these; networks are not listed.
    pub fn in_use(&self, is_of: impl Fn(KeyId) -> bool) -> (Vec<InUse>, UnixMillis) {
        let shared = self.shared();
        let now = shared.mirror.clock.now();
        let in_use = |peer: Peer| {
            let decision = shared.decide(peer);
            let is_by_store = decision.verdict == Verdict::Allowed(AllowReason::AllowSet);
            let until = decision.until.as_millis().filter(|_| is_by_store)?;
            match decision.member {
                Some(Member::Address(ip)) => Some(InUse { ip, until: UnixMillis(until) }),
                _ => None,
            }
        };
        let proven = lock(&self.live).proven(is_of);
        (proven.into_iter().filter_map(in_use).collect(), now)
    }
}

async fn in_time<T>(change: impl Future<Output = Result<T, StoreError>>) -> Result<T, ChangeError> {
    within(PATIENCE, change).await
}

async fn within<T>(
    patience: Duration,
    change: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, ChangeError> {
    match timeout(patience, change).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(ChangeError::Silent),
    }
}
