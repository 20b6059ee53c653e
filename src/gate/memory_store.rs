//! The gate's store in the memory of this process, for knocks without Redis or a file.
//!
//! There is one for each name, which the gates of that name share, so that a reload that changes a
//! gate's settings does not end what was granted. Nothing is written anywhere: another process has
//! nothing of it, and a restart forgets all of it, so that clients have to knock again. Entries
//! and claims are bounded as those of a gate file are.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::select;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::file_record::{Record, Subject};
use super::file_state::State;
use super::grant::GrantNote;
use super::member::{Item, Member};
use super::state_answers::{Report, address_record, receipt, send, tell};
use super::store::{AddressRecord, Edit, EditResult, Event, Grant, Listed, StoreError};
use crate::net::clock::{Clock, now};
use crate::unix_time::UnixMillis;

/// Changes that are kept for a follower; more become a full read.
const CHANGES: usize = 4_096;

/// The interval at which a follower looks whether the wall clock was set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);

/// The stores of this process that are in use, by name.
static STORES: Mutex<Vec<Weak<Shared>>> = Mutex::new(vec![]);

/// A gate's store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// The part that all gates of one name share.
struct Shared {
    name: String,
    server: String,
    state: Mutex<State>,
    changes: broadcast::Sender<Subject>,
}

impl Shared {
    fn new(name: &str) -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        let server = format!("memory {name}");
        Self { name: name.to_owned(), server, state: Mutex::default(), changes }
    }
}

impl MemoryStore {
    /// The store of this name; a new one if none is in use.
    pub fn named(name: &str) -> Self {
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        let known = stores.iter().filter_map(Weak::upgrade).find(|store| store.name == name);
        let shared = known.unwrap_or_else(|| {
            let shared = Arc::new(Shared::new(name));
            stores.push(Arc::downgrade(&shared));
            shared
        });
        Self { shared }
    }

    /// A store of its own with the content that [`Self::lines`] described; of what is no such
    /// line nothing.
    pub fn of_lines(name: &str, lines: &[String]) -> Self {
        let shared = Shared::new(name);
        let mut state = State::default();
        lines.iter().filter_map(|line| Record::of_words(line)).for_each(|it| state.apply(&it));
        *shared.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Self { shared: Arc::new(shared) }
    }

    /// The content without claims, as the lines of a gate file have it: members and bans first.
    pub fn lines(&self) -> Vec<String> {
        let state = self.state();
        let of_knocks = |record: &Record| !matches!(record, Record::Claim(..));
        state.records(now()).filter(of_knocks).map(|record| record.to_string()).collect()
    }

    /// Makes a change.
    ///
    /// # Errors
    /// When there would be too many entries.
    pub fn edit(&self, edit: &Edit) -> Result<EditResult, StoreError> {
        let now = now();
        let records = self.write(|state| state.records_for(edit, now), now)?;
        Ok(receipt(&self.shared.server, edit, &records))
    }

    /// Makes all changes or, when there would be too many entries, those before.
    ///
    /// # Errors
    /// When there would be too many entries.
    pub fn edit_all(
        &self,
        edits: &[Edit],
        report: &mut dyn FnMut(EditResult),
    ) -> Result<(), StoreError> {
        edits.iter().try_for_each(|edit| self.edit(edit).map(&mut *report))
    }

    /// Claims `name` for a while. Returns false if it is claimed already.
    ///
    /// # Errors
    /// When there would be too many claims.
    pub fn claim(&self, name: &str, lasting: Duration) -> Result<bool, StoreError> {
        let now = now();
        let claimed =
            self.write(|state| state.claim(name, lasting, now).into_iter().collect(), now);
        Ok(!claimed?.is_empty())
    }

    /// Sends all entries of the allow-set in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the reader stops before the end.
    pub async fn list_allowed(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        let is_allowed = |item: &Item| matches!(item, Item::Allowed(..));
        let found = self.state().items(now()).filter(is_allowed).collect();
        send(found, &to).await
    }

    /// Sends all entries of the allow-set with their notes in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the reader stops before the end.
    pub async fn list_grants(&self, to: mpsc::Sender<Vec<Grant>>) -> Result<Listed, StoreError> {
        let found = self.state().grants(now()).collect();
        send(found, &to).await?;
        Ok(Listed::default())
    }

    /// Sends all bans in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the reader stops before the end.
    pub async fn list_bans(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        let is_ban = |item: &Item| matches!(item, Item::Banned(..));
        let found = self.state().items(now()).filter(is_ban).collect();
        send(found, &to).await
    }

    /// Sends the history in batches: addresses, and the unix second at which each was last
    /// admitted.
    ///
    /// # Errors
    /// When the reader stops before the end.
    pub async fn history(&self, to: mpsc::Sender<Vec<(IpAddr, u64)>>) -> Result<u64, StoreError> {
        let seen = self.state().seen.iter().map(|(ip, at)| (*ip, *at)).collect();
        send(seen, &to).await
    }

    /// Everything about one address, with the failures of the current window of `findtime`.
    pub fn address_record(&self, ip: IpAddr, findtime: Option<Duration>) -> AddressRecord {
        address_record(&self.shared.server, &self.state(), ip, findtime, now())
    }

    /// The note of an entry of the allow-set.
    pub fn note(&self, member: &Member) -> Option<GrantNote> {
        self.state().grant(member, now())?.note
    }

    /// Reports everything and then every change to `events`. Ends only when events are not
    /// received any more.
    pub async fn follow(&self, events: mpsc::Sender<Event>) {
        let mut changes = self.shared.changes.subscribe();
        let mut report = self.everything();
        let (clock, mut look) = (Clock::start(), looks());
        loop {
            if tell(&events, report).await.is_err() {
                return;
            }
            report = loop {
                select! {
                    () = events.closed() => return,
                    changed = changes.recv() => match changed {
                        Ok(subject) => break self.changed(subject),
                        Err(RecvError::Lagged(_)) => break self.everything(),
                        Err(RecvError::Closed) => return,
                    },
                    // An entry that had ended by a wrong clock may still hold.
                    _ = look.tick() => if clock.was_set() { break self.everything() },
                }
            };
        }
    }

    fn everything(&self) -> Report {
        Report::Everything(self.state().items(now()).collect())
    }

    fn changed(&self, subject: Subject) -> Report {
        Report::changes(&self.state(), vec![subject], now())
    }

    /// Applies the records that `decide` returns for the present content, and returns them.
    fn write(
        &self,
        decide: impl FnOnce(&State) -> Vec<Record>,
        now: UnixMillis,
    ) -> Result<Vec<Record>, StoreError> {
        let mut state = self.state();
        let records = decide(&state);
        if let Some(excess) = records.iter().find_map(|record| state.excess(record, || now)) {
            let name = self.shared.name.clone();
            return Err(StoreError::Memory { name, cause: excess.to_string() });
        }
        records.iter().for_each(|record| state.apply(record));
        drop(state);
        for subject in records.iter().filter_map(Record::subject) {
            // There may be no follower yet.
            let _ = self.shared.changes.send(subject);
        }
        Ok(records)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn looks() -> Interval {
    let mut looks = interval(LOOK_AT_CLOCK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}
