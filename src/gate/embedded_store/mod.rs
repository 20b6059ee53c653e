//! The gate's store in one file on a local disk, for a machine without Redis.
//!
//! Several processes use it at once: `knockpipe gate` writes while a decrypt end
//! reads. It refuses files that others may write, and it is no database: all of
//! it is held in memory, and a listing has the entries of the moment of its request.

mod file;
mod lock;
mod permissions;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::file_record::Record;
use super::file_state::State;
use super::member::Item;
use super::state_answers::{self, Report, send, tell};
use super::store::{AddressRecord, Edit, EditResult, Event, Grant, Listed, StoreError};
use crate::net::clock::{Clock, now};
use crate::tasks::blocking;
use crate::unix_time::UnixMillis;
use file::LogReader;
use lock::{Locked, cause_at};

/// The interval at which a follower looks at the file from outside.
const LOOK: Duration = Duration::from_millis(40);

/// A look that takes longer is a store that is unavailable: its thread is stuck, or there is none.
const LATE: Duration = Duration::from_secs(10);
const NOT_IN_TIME: &str = "it is not read in time; see its disk, and the limit of threads";

/// A gate's store in a file.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    path: Arc<Path>,
    reader: Arc<Mutex<LogReader>>,
    server: Arc<str>,
}

impl EmbeddedStore {
    /// Opens the file at `path`, or makes it (mode 0600), and reads it.
    ///
    /// # Errors
    /// When it cannot be opened, others may use it, this process may not put a new
    /// one in its place, or it is not a gate's file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        let server = format!("file {}", path.display()).into();
        let mut reader = LogReader::new(path.clone());
        let locked = Locked::make(&path)?;
        reader.edit(&locked, |_| vec![], now())?;
        permissions::check_directory(locked.place()).map_err(|cause| cause_at(&path, cause))?;
        Ok(Self { path: path.into(), reader: Arc::new(Mutex::new(reader)), server })
    }

    /// Makes a change that is on disk when this returns.
    ///
    /// # Errors
    /// When the file cannot be written, or is held by another process.
    pub async fn edit(&self, edit: Edit) -> Result<EditResult, StoreError> {
        self.on_thread(move |own| own.edit_now(&edit, now())).await
    }

    fn edit_now(&self, edit: &Edit, now: UnixMillis) -> Result<EditResult, StoreError> {
        // Awaited before the reader is locked, which a follower needs as well.
        let locked = Locked::take(&self.path)?;
        let decide = |state: &State| state.records_for(edit, now);
        let records = self.lock().edit(&locked, decide, now)?;
        Ok(self.receipt(edit, &records))
    }

    /// Makes all changes or none, also if the process is killed meanwhile: under one lock, in
    /// one write. Then each result is passed to `report`.
    ///
    /// # Errors
    /// When the file cannot be written, or is held by another process.
    pub async fn edit_all(
        &self,
        edits: Vec<Edit>,
        report: &mut dyn FnMut(EditResult),
    ) -> Result<(), StoreError> {
        let made = self.on_thread(move |own| {
            let locked = Locked::take(&own.path)?;
            let made = own.lock().edit_all(&locked, &edits, now())?;
            Ok(edits.into_iter().zip(made).collect::<Vec<_>>())
        });
        made.await?.iter().for_each(|(edit, records)| report(self.receipt(edit, records)));
        Ok(())
    }

    fn receipt(&self, edit: &Edit, records: &[Record]) -> EditResult {
        state_answers::receipt(&self.server, edit, records)
    }

    /// Claims `name` for a while, which is on disk when this returns. Returns false if it is
    /// claimed already.
    ///
    /// # Errors
    /// When the file cannot be written, or is held by another process.
    pub async fn claim(&self, name: &str, lasting: Duration) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.on_thread(move |own| {
            let locked = Locked::take(&own.path)?;
            let now = now();
            let claim = |state: &State| state.claim(&name, lasting, now).into_iter().collect();
            Ok(!own.lock().edit(&locked, claim, now)?.is_empty())
        })
        .await
    }

    /// Sends all entries of the allow-set in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn list_allowed(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        self.list(to, |item| matches!(item, Item::Allowed(..))).await
    }

    /// Sends all entries of the allow-set with their notes in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn list_grants(&self, to: mpsc::Sender<Vec<Grant>>) -> Result<Listed, StoreError> {
        let found = self.read(|reader| reader.state().grants(now()).collect());
        send(found.await?, &to).await?;
        Ok(Listed::default())
    }

    /// Sends all bans in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn list_bans(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        self.list(to, |item| matches!(item, Item::Banned(..))).await
    }

    async fn list(
        &self,
        to: mpsc::Sender<Vec<Item>>,
        wanted: fn(&Item) -> bool,
    ) -> Result<u64, StoreError> {
        let found = self.read(move |reader| reader.state().items(now()).filter(wanted).collect());
        send(found.await?, &to).await
    }

    /// Sends the history in batches: addresses, and the unix second at which each was last
    /// admitted.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn history(&self, to: mpsc::Sender<Vec<(IpAddr, u64)>>) -> Result<u64, StoreError> {
        let seen =
            self.read(|reader| reader.state().seen.iter().map(|(ip, at)| (*ip, *at)).collect());
        send(seen.await?, &to).await
    }

    /// Everything about one address, with the failures of the current window of `findtime`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn address_record(
        &self,
        ip: IpAddr,
        findtime: Option<Duration>,
    ) -> Result<AddressRecord, StoreError> {
        let server = Arc::clone(&self.server);
        self.read(move |reader| {
            state_answers::address_record(&server, reader.state(), ip, findtime, now())
        })
        .await
    }

    /// Reports everything and then every change to `events`, within 100 ms. Ends only
    /// when events are not received any more. One at a time: two would share the changes
    /// between them.
    pub async fn follow(&self, events: mpsc::Sender<Event>) {
        let mut away = true;
        let mut told_away = false;
        let mut look_at = Instant::now();
        let clock = Clock::start();
        loop {
            select! {
                () = events.closed() => return,
                () = sleep_until(look_at) => {}
            }
            look_at = Instant::now() + LOOK;
            // An entry that had ended by a wrong clock may still hold.
            away |= clock.was_set();
            let mut look = pin!(self.on_thread(move |own| own.look(away)));
            let looked = match timeout(LATE, &mut look).await {
                Ok(looked) => looked,
                Err(_) if told_away => look.await,
                Err(_) => Err(cause_at(&self.path, NOT_IN_TIME)),
            };
            match looked {
                Err(_) if told_away => {}
                Err(error) => {
                    (away, told_away) = (true, true);
                    if events.send(Event::Unavailable(error.to_string())).await.is_err() {
                        return;
                    }
                }
                Ok(changes) => {
                    (away, told_away) = (false, false);
                    if tell(&events, changes).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Looks at the file, and returns the changes.
    fn look(&self, was_away: bool) -> Result<Report, StoreError> {
        let mut reader = self.lock();
        if reader.is_behind()? {
            reader.catch_up()?;
        }
        let changes = reader.take_changes();
        let (state, now) = (reader.state(), now());
        if changes.everything || was_away {
            return Ok(Report::Everything(state.items(now).collect()));
        }
        Ok(Report::changes(state, changes.subjects, now))
    }

    /// Reads the file to its end, and returns the result of `what` on its content.
    async fn read<T: Send + 'static>(
        &self,
        what: impl FnOnce(&LogReader) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.on_thread(move |own| {
            let mut reader = own.lock();
            reader.catch_up()?;
            Ok(what(&reader))
        })
        .await
    }

    /// Does `work` on a thread that may block.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let own = self.clone();
        let done = blocking(move || work(&own)).await;
        done.unwrap_or_else(|undone| Err(cause_at(&self.path, undone.to_string())))
    }

    fn lock(&self) -> MutexGuard<'_, LogReader> {
        self.reader.lock().unwrap_or_else(|poisoned| {
            // A panic may have left it half changed; the file has the truth.
            let mut reader = poisoned.into_inner();
            *reader = LogReader::new(self.path.to_path_buf());
            self.reader.clear_poison();
            reader
        })
    }
}
