//! The gate's store in one file on a local disk, for a machine without Redis.
//!
//! Several processes use it at once: `knockpipe gate` writes while a decrypt end
//! reads. It refuses files that others may write, and it is no database: all of
//! it is held in memory, and a listing tells what was there when it was asked.

mod file;
mod lock;
mod record;
mod rights;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::select;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::time::{Instant, sleep_until, timeout};

use super::member::{Item, Member};
use super::store::{BATCH, Edit, Event, Grant, Hold, Receipt, Standing, StoreError};
use crate::net::clock::Clock;
use crate::tasks::blocking;
use file::Tail;
use lock::{Locked, cause_at};
use record::{Image, Record, Subject};

/// How often a follower looks at the file from outside.
const LOOK: Duration = Duration::from_millis(40);

/// A look that takes longer is a store that is away: its thread is stuck, or there is none.
const LATE: Duration = Duration::from_secs(10);
const NOT_IN_TIME: &str = "it is not read in time; see its disk, and the limit of threads";

const KEY: &str = "allowed";
const BANS: &str = "bans";
const HISTORY: &str = "history";
const STRIKES: &str = "strikes";

/// A gate's store in a file.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    path: Arc<Path>,
    tail: Arc<Mutex<Tail>>,
    server: Arc<str>,
}

/// What a follower is told next.
enum News {
    Everything(Vec<Item>),
    Changes(Vec<Event>),
}

impl EmbeddedStore {
    /// Opens the file at `path`, or makes it (mode 0600), and reads it.
    ///
    /// # Errors
    /// When it cannot be opened, others may use it, this process may not put a new
    /// one in its place, or it is none of ours.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        let server = format!("file {}", path.display()).into();
        let mut tail = Tail::new(path.clone());
        let locked = Locked::make(&path)?;
        tail.edit(&locked, |_| vec![], now_ms())?;
        rights::check_directory(locked.place()).map_err(|cause| cause_at(&path, cause))?;
        Ok(Self { path: path.into(), tail: Arc::new(Mutex::new(tail)), server })
    }

    /// Makes a change that survives whatever happens after this returned.
    ///
    /// # Errors
    /// When the file cannot be written, or is held by another process.
    pub async fn edit(&self, edit: Edit) -> Result<Receipt, StoreError> {
        self.apart(move |own| own.edit_now(&edit, now_ms())).await
    }

    fn edit_now(&self, edit: &Edit, now_ms: u64) -> Result<Receipt, StoreError> {
        // Waited for before the tail is held, which a follower wants as well.
        let locked = Locked::take(&self.path)?;
        let decide = |image: &Image| image.records_for(edit, now_ms);
        let records = self.lock().edit(&locked, decide, now_ms)?;
        Ok(self.receipt(edit, &records))
    }

    /// Makes all changes or none, whatever happens meanwhile: under one lock, in one
    /// write. Then `told` hears of each.
    ///
    /// # Errors
    /// When the file cannot be written, or is held by another process.
    pub async fn edit_all(
        &self,
        edits: Vec<Edit>,
        told: &mut dyn FnMut(Receipt),
    ) -> Result<(), StoreError> {
        let made = self.apart(move |own| {
            let locked = Locked::take(&own.path)?;
            let made = own.lock().edit_all(&locked, &edits, now_ms())?;
            Ok(edits.into_iter().zip(made).collect::<Vec<_>>())
        });
        made.await?.iter().for_each(|(edit, records)| told(self.receipt(edit, records)));
        Ok(())
    }

    fn receipt(&self, edit: &Edit, records: &[Record]) -> Receipt {
        let strikes = records.iter().find_map(|record| match record {
            Record::Strikes(_, strikes) => Some(strikes.count),
            _ => None,
        });
        let banned = records.iter().any(|record| matches!(record, Record::Ban(..)));
        let key = match edit {
            Edit::Allow(..) | Edit::Remove(_) => KEY,
            Edit::Ban(..) | Edit::Unban(_) => BANS,
            Edit::Touch(_) | Edit::Forget { .. } => HISTORY,
            Edit::Strike { .. } if banned || strikes.is_none() => BANS,
            Edit::Strike { .. } | Edit::ClearStrikes { .. } => STRIKES,
        };
        let touched = matches!(edit, Edit::Touch(_)).then_some(records.len() as u64);
        Receipt {
            server: self.server.to_string(),
            key: key.to_owned(),
            changed: !records.is_empty(),
            count: strikes.or(touched),
        }
    }

    /// Sends all entries of the allow-set in batches; none is ever garbage.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn list_allowed(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        self.list(to, |item| matches!(item, Item::Allowed(..))).await
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
        let found = self.read(move |tail| tail.image().items(now_ms()).filter(wanted).collect());
        send(found.await?, &to).await
    }

    /// Sends who was last let in when (unix seconds) in batches.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn history(&self, to: mpsc::Sender<Vec<(IpAddr, u64)>>) -> Result<u64, StoreError> {
        let seen = self.read(|tail| tail.image().seen.iter().map(|(ip, at)| (*ip, *at)).collect());
        send(seen.await?, &to).await
    }

    /// Everything about one address, with the failures of the current window of `findtime`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn standing(
        &self,
        ip: IpAddr,
        findtime: Option<Duration>,
    ) -> Result<Standing, StoreError> {
        let ip = ip.to_canonical();
        let server = self.server.to_string();
        self.read(move |tail| {
            let (image, now_ms) = (tail.image(), now_ms());
            let grant = |(member, expires_ms)| Grant { key: KEY.to_owned(), member, expires_ms };
            let hold = |(member, expires_ms)| Hold { member, key: BANS.to_owned(), expires_ms };
            let source = Member::source_of(ip);
            let count = |time: Duration| image.strikes(&source, time.as_secs().max(1), now_ms);
            Standing {
                server,
                grants: image.around(ip, now_ms).into_iter().map(grant).collect(),
                ban: image.ban_on(ip, now_ms).map(hold),
                seen: image.seen.get(&ip).copied(),
                strikes: findtime.map(count),
                set_ends_ms: None,
            }
        })
        .await
    }

    /// Reports everything and then every change to `events`, within 100 ms. Ends only
    /// when nobody receives events any more. One at a time: two would share the changes
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
            // What was over by a clock that was wrong may not be over.
            away |= clock.was_set();
            let mut look = pin!(self.apart(move |own| own.look(away)));
            let looked = match timeout(LATE, &mut look).await {
                Ok(looked) => looked,
                Err(_) if told_away => look.await,
                Err(_) => Err(cause_at(&self.path, NOT_IN_TIME)),
            };
            match looked {
                Err(_) if told_away => {}
                Err(error) => {
                    (away, told_away) = (true, true);
                    if events.send(Event::Away(error.to_string())).await.is_err() {
                        return;
                    }
                }
                Ok(news) => {
                    (away, told_away) = (false, false);
                    if tell(&events, news).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Looks whether the file changed, and what is new.
    fn look(&self, was_away: bool) -> Result<News, StoreError> {
        let mut tail = self.lock();
        if tail.is_behind()? {
            tail.catch_up()?;
        }
        let news = tail.take_news();
        let (image, now_ms) = (tail.image(), now_ms());
        if news.everything || was_away {
            return Ok(News::Everything(image.items(now_ms).collect()));
        }
        let events = news.subjects.into_iter().map(|subject| event(image, subject, now_ms));
        Ok(News::Changes(events.collect()))
    }

    /// Reads the file to its end, and then what is asked for.
    async fn read<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Tail) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.apart(move |own| {
            let mut tail = own.lock();
            tail.catch_up()?;
            Ok(what(&tail))
        })
        .await
    }

    /// Does `work` on a thread that may block.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let own = self.clone();
        let done = blocking(move || work(&own)).await;
        done.unwrap_or_else(|undone| Err(cause_at(&self.path, undone.to_string())))
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(|poisoned| {
            // A panic may have left it half changed; the file says what is true.
            let mut tail = poisoned.into_inner();
            *tail = Tail::new(self.path.to_path_buf());
            self.tail.clear_poison();
            tail
        })
    }
}

/// The truth about a subject.
fn event(image: &Image, subject: Subject, now_ms: u64) -> Event {
    match subject {
        Subject::Member(member) => Event::Allowed(member, image.member(&member, now_ms)),
        Subject::Ban(member) => Event::Banned(member, image.ban(&member, now_ms)),
    }
}

async fn tell(events: &mpsc::Sender<Event>, news: News) -> Result<(), SendError<Event>> {
    match news {
        News::Changes(changes) => {
            for change in changes {
                events.send(change).await?;
            }
            Ok(())
        }
        News::Everything(items) => {
            events.send(Event::Begin).await?;
            for items in items.chunks(BATCH) {
                events.send(Event::Items(items.to_vec())).await?;
            }
            events.send(Event::End { garbage: 0 }).await
        }
    }
}

async fn send<T: Clone>(found: Vec<T>, to: &mpsc::Sender<Vec<T>>) -> Result<u64, StoreError> {
    for batch in found.chunks(BATCH) {
        to.send(batch.to_vec()).await.map_err(|_| StoreError::CutOff)?;
    }
    Ok(0)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
