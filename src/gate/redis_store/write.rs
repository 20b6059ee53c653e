//! Edits, at the master, wherever it is now.
//!
//! An edit that a replica, a former master or a server that is loading refuses
//! is tried once more after asking again who the master is. What was changed is
//! also said on a channel, so that followers need not read a million members.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::time::sleep;

use super::super::member::Member;
use super::super::store::{Edit, Receipt, StoreError};
use super::batch;
use super::keys::{Window, spellings};
use super::link::{Role, number};
use super::links::{Form, Links};
use super::list::{ban_keys, find_in_set, with_prefix};
use super::topology::Map;
use super::trouble::{Kind, Trouble};
use super::{RedisStore, now_ms};

/// How long a server that is about to be a master, or to have loaded, is given.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long an answer about who is master is good for.
const TRUST: Duration = Duration::from_secs(1);
/// A replica of a replica of a replica: nobody means that.
const MOST_HOPS: usize = 3;
/// Pairs of one HSET.
const PAIRS: usize = 1_000;

/// Why an edit was not made.
pub(super) enum Failed {
    /// The server's trouble with a key.
    At(String, Trouble),
    /// Something that no retry helps.
    For(StoreError),
}

impl Failed {
    fn told(self, store: &RedisStore) -> StoreError {
        match self {
            Self::At(key, trouble) if key == store.keys.history => trouble.about_history(&key),
            Self::At(key, trouble) => trouble.about(&key),
            Self::For(error) => error,
        }
    }
}

/// What one attempt changed, without the server.
pub(super) struct Done {
    pub(super) key: String,
    pub(super) changed: bool,
    pub(super) count: Option<u64>,
}

/// Connections to the masters, and when it was last asked who they are.
pub(super) struct Writer {
    links: Arc<Links>,
    asked: Instant,
}

pub(super) async fn edit(store: &RedisStore, edit: &Edit) -> Result<Receipt, StoreError> {
    let made = make(store, std::slice::from_ref(edit), false).await?;
    Ok(made.into_iter().next().expect("an edit has a receipt"))
}

/// Makes edits, `together` as one transaction, or the one that there is. Once more where
/// the trouble may be over by then.
pub(super) async fn make(
    store: &RedisStore,
    edits: &[Edit],
    together: bool,
) -> Result<Vec<Receipt>, StoreError> {
    let trouble = match attempt(store, edits, together).await {
        Err(Failed::At(_, trouble)) if may_retry(edits, &trouble) => trouble,
        done => return done.map_err(|failed| failed.told(store)),
    };
    // Who knows a new master already needs no time; a new master does.
    let known = matches!(trouble.kind, Kind::Lost | Kind::ReadOnly) && !store.topology.moves();
    if !known {
        sleep(PATIENCE).await;
    }
    attempt(store, edits, together).await.map_err(|failed| failed.told(store))
}

fn may_retry(edits: &[Edit], trouble: &Trouble) -> bool {
    use Kind::{Elsewhere, Loading, Lost, ReadOnly, Silent};
    // What may have been done is not done again when it counts.
    let counts = edits.iter().any(|edit| matches!(edit, Edit::Strike { .. }));
    match trouble.kind {
        Silent => !counts,
        Lost | Elsewhere | ReadOnly | Loading => true,
        _ => false,
    }
}

async fn attempt(
    store: &RedisStore,
    edits: &[Edit],
    together: bool,
) -> Result<Vec<Receipt>, Failed> {
    let links = links(store).await;
    let links = links.map_err(|trouble| Failed::At(main_key(store, &edits[0]), trouble))?;
    let done = match together {
        true => batch::make(store, &links, edits).await,
        false => Attempt { store, links: &links }.make(&edits[0]).await.map(|done| vec![done]),
    };
    if matches!(done, Err(Failed::At(..))) {
        *store.writer.lock().await = None;
    }
    let receipt = |Done { key, changed, count }: Done| Receipt {
        server: links.node_of(&key).to_string(),
        key,
        changed,
        count,
    };
    Ok(done?.into_iter().map(receipt).collect())
}

/// The connections of the last edit, or new ones to whoever is master now.
async fn links(store: &RedisStore) -> Result<Arc<Links>, Trouble> {
    let mut writer = store.writer.lock().await;
    if let Some(writer) = &mut *writer
        && is_current(store, writer).await
    {
        return Ok(Arc::clone(&writer.links));
    }
    // Never two connections to each master at once.
    *writer = None;
    let mut links = Links::find(&store.topology, &store.access, None).await?;
    if !store.topology.moves() {
        // A replica refuses edits, but answers what it does not have like a master
        // that does not have it.
        links = master_of(store, links).await?;
    }
    let links = Arc::new(links);
    *writer = Some(Writer { links: Arc::clone(&links), asked: Instant::now() });
    Ok(links)
}

/// Whether the masters are still those: one that was cut off from the others
/// goes on taking edits that nobody will ever see.
async fn is_current(store: &RedisStore, writer: &mut Writer) -> bool {
    if writer.asked.elapsed() < TRUST {
        return true;
    }
    writer.asked = Instant::now();
    if !store.topology.moves() {
        return !matches!(writer.links.all[0].role().await, Ok(Role::Replica { .. }));
    }
    // When nobody can be asked, the edit itself shows what the master thinks.
    store.topology.resolve().await.map_or(true, |map| !writer.links.map.is_outdone_by(&map))
}

/// Follows a replica to its master.
async fn master_of(store: &RedisStore, mut links: Links) -> Result<Links, Trouble> {
    for _ in 0..MOST_HOPS {
        match links.all[0].role().await? {
            Role::Replica { master, .. } => {
                links = Links::open(Map::one(master), &store.access, None).await?;
            }
            Role::Master | Role::Unknown => break,
        }
    }
    Ok(links)
}

/// The key to name when no server could be reached at all.
fn main_key(store: &RedisStore, edit: &Edit) -> String {
    match edit {
        Edit::Allow(..) | Edit::Remove(_) => store.keys.allow_set.clone(),
        Edit::Touch(_) | Edit::Forget { .. } => store.keys.history.clone(),
        Edit::Ban(member, _) | Edit::Unban(member) => store.keys.ban_key(*member),
        Edit::Strike { ip, findtime, .. } | Edit::ClearStrikes { ip, findtime } => {
            store.keys.strike_key(Member::source_of(*ip), Window::at(now_ms(), *findtime))
        }
    }
}

/// One try to make an edit.
struct Attempt<'a> {
    store: &'a RedisStore,
    links: &'a Links,
}

impl Attempt<'_> {
    async fn make(&self, edit: &Edit) -> Result<Done, Failed> {
        match edit {
            Edit::Allow(member, ttl) => self.allow(*member, *ttl).await,
            Edit::Remove(member) => self.remove(*member).await,
            Edit::Ban(member, time) => self.ban(*member, *time).await,
            Edit::Unban(member) => self.unban(*member).await,
            Edit::Touch(seen) => self.touch(seen).await,
            Edit::Forget { ip, before_s } => self.forget(ip.to_canonical(), *before_s).await,
            Edit::Strike { ip, findtime, bantime, maxretry } => {
                self.strike(ip.to_canonical(), (*findtime, *bantime), *maxretry).await
            }
            Edit::ClearStrikes { ip, findtime } => {
                let window = Window::at(now_ms(), *findtime);
                let key = self.store.keys.strike_key(Member::source_of(*ip), window);
                let removed = self.delete(std::slice::from_ref(&key)).await?;
                Ok(Done { key, changed: removed > 0, count: None })
            }
        }
    }

    async fn allow(&self, member: Member, ttl: Option<Duration>) -> Result<Done, Failed> {
        let set = &self.store.keys.allow_set;
        let form = self.form().await?;
        let own_key = match member {
            Member::Address(ip) => self.store.keys.allow_key(ip),
            Member::Network(_) => None,
        };
        let mut add = match (form, ttl, own_key) {
            (Form::Absent | Form::Set, None, _) => {
                let mut add = redis::cmd("SADD");
                add.arg(set);
                add
            }
            (Form::Absent | Form::Set, Some(ttl), Some(key)) => {
                self.set_for(&key, ttl).await?;
                return Ok(Done { key, changed: true, count: None });
            }
            (Form::Set, Some(_), None) => {
                let server = self.links.node_of(set).to_string();
                return Err(Failed::For(StoreError::NoExpiry { server, key: set.clone() }));
            }
            (Form::Sorted | Form::Absent, ttl, _) => {
                let mut add = redis::cmd("ZADD");
                add.arg(set).arg("CH").arg(score(ttl));
                add
            }
        };
        let added = self.count(set, add.arg(member.to_string())).await?;
        self.announce(member, added > 0).await;
        Ok(Done { key: set.clone(), changed: added > 0, count: None })
    }

    async fn remove(&self, member: Member) -> Result<Done, Failed> {
        let mut key = self.store.keys.allow_set.clone();
        let form = self.form().await?;
        let mut removed = self.take_out(form, &spellings(member)).await?;
        if let (Member::Address(ip), Some(prefix)) = (member, &self.store.keys.allow_prefix) {
            let names = with_prefix(prefix, ip);
            let deleted = self.delete(&names).await?;
            if removed == 0 && deleted > 0 {
                key.clone_from(&names[0]);
            }
            removed += deleted;
        }
        if removed == 0 {
            // Written in a way that nobody thinks of, and still in force.
            let found = find_in_set(self.store, self.links, form, |other| *other == member).await;
            let found = found.map_err(|trouble| Failed::At(key.clone(), trouble))?;
            let names: Vec<String> = found.into_iter().map(|(_, name, _)| name).collect();
            removed = self.take_out(form, &names).await?;
        }
        self.announce(member, removed > 0).await;
        Ok(Done { key, changed: removed > 0, count: None })
    }

    async fn ban(&self, member: Member, time: Duration) -> Result<Done, Failed> {
        let key = self.store.keys.ban_key(member);
        self.set_for(&key, time).await?;
        Ok(Done { key, changed: true, count: None })
    }

    /// Tells a key that was there.
    async fn unban(&self, member: Member) -> Result<Done, Failed> {
        let mut removed = None;
        for (_, key) in ban_keys(&self.store.keys.ban_prefix, member) {
            let deleted = self.delete(std::slice::from_ref(&key)).await?;
            if deleted > 0 {
                removed.get_or_insert(key);
            }
        }
        let changed = removed.is_some();
        let key = removed.unwrap_or_else(|| self.store.keys.ban_key(member));
        Ok(Done { key, changed, count: None })
    }

    async fn touch(&self, seen: &[(IpAddr, u64)]) -> Result<Done, Failed> {
        let key = self.store.keys.history.clone();
        for seen in seen.chunks(PAIRS) {
            let mut set = redis::cmd("HSET");
            set.arg(&key);
            for (ip, at) in seen {
                set.arg(ip.to_canonical().to_string()).arg(at);
            }
            self.count(&key, &set).await?;
        }
        Ok(Done { key, changed: !seen.is_empty(), count: Some(seen.len() as u64) })
    }

    async fn forget(&self, ip: IpAddr, before_s: u64) -> Result<Done, Failed> {
        let key = self.store.keys.history.clone();
        if self.seen(ip).await?.is_some_and(|seen_s| seen_s >= before_s) {
            return Ok(Done { key, changed: false, count: None });
        }
        let form = self.form().await?;
        let mut removed = self.take_out(form, &spellings(ip.into())).await?;
        self.announce(ip.into(), removed > 0).await;
        if let Some(prefix) = &self.store.keys.allow_prefix {
            removed += self.delete(&with_prefix(prefix, ip)).await?;
        }
        let mut delete = redis::cmd("HDEL");
        delete.arg(&key).arg(with_prefix("", ip));
        removed += self.count(&key, &delete).await?;
        Ok(Done { key, changed: removed > 0, count: None })
    }

    /// When `ip` was last let in, in any of its spellings.
    async fn seen(&self, ip: IpAddr) -> Result<Option<u64>, Failed> {
        let key = &self.store.keys.history;
        let mut all = redis::pipe();
        for name in with_prefix("", ip) {
            all.cmd("HGET").arg(key).arg(name);
        }
        let answers = self.links.of(key).ask_all(&all).await;
        let answers = answers.map_err(|trouble| Failed::At(key.clone(), trouble))?;
        Ok(answers.iter().filter_map(count).max())
    }

    /// allow2ban: while banned nothing counts, and the failure that reaches the
    /// limit writes the ban.
    async fn strike(
        &self,
        ip: IpAddr,
        (findtime, bantime): (Duration, Duration),
        maxretry: u64,
    ) -> Result<Done, Failed> {
        for member in Member::bans_of(ip) {
            let ban = self.store.keys.ban_key(member);
            if self.count(&ban, redis::cmd("EXISTS").arg(&ban)).await? > 0 {
                return Ok(Done { key: ban, changed: false, count: None });
            }
        }
        let source = Member::source_of(ip);
        let ban = self.store.keys.ban_key(source);
        let window = Window::at(now_ms(), findtime);
        let key = self.store.keys.strike_key(source, window);
        let mut both = redis::pipe();
        both.atomic().cmd("INCR").arg(&key).cmd("EXPIRE").arg(&key).arg(window.ttl_s);
        let answers = self.links.of(&key).ask_all(&both).await;
        let answers = answers.map_err(|trouble| Failed::At(key.clone(), trouble))?;
        let count = answers.first().and_then(count).unwrap_or(0);
        if count < maxretry {
            return Ok(Done { key, changed: true, count: Some(count) });
        }
        self.set_for(&ban, bantime).await?;
        Ok(Done { key: ban, changed: true, count: Some(count) })
    }

    async fn form(&self) -> Result<Form, Failed> {
        let set = &self.store.keys.allow_set;
        let form = self.links.form(&self.store.keys).await;
        form.map_err(|trouble| Failed::At(set.clone(), trouble))
    }

    /// Removes members from the allow-set by name; gives how many there were.
    async fn take_out(&self, form: Form, names: &[String]) -> Result<u64, Failed> {
        let command = match form {
            _ if names.is_empty() => return Ok(0),
            Form::Absent => return Ok(0),
            Form::Set => "SREM",
            Form::Sorted => "ZREM",
        };
        let set = &self.store.keys.allow_set;
        self.count(set, redis::cmd(command).arg(set).arg(names)).await
    }

    /// Sets a key that ends by itself, as rack-attack does.
    async fn set_for(&self, key: &str, time: Duration) -> Result<(), Failed> {
        let done = self.links.of(key).ask(&set_for(key, time)).await;
        done.map(drop).map_err(|trouble| Failed::At(key.to_owned(), trouble))
    }

    /// Deletes keys one by one, since a Cluster has them on several servers.
    async fn delete(&self, keys: &[String]) -> Result<u64, Failed> {
        let mut removed = 0;
        for key in keys {
            removed += self.count(key, redis::cmd("DEL").arg(key)).await?;
        }
        Ok(removed)
    }

    async fn count(&self, key: &str, command: &Cmd) -> Result<u64, Failed> {
        let answer = self.links.of(key).ask(command).await;
        let answer = answer.map_err(|trouble| Failed::At(key.to_owned(), trouble))?;
        Ok(count(&answer).unwrap_or(0))
    }

    /// Names a member that changed. That the set changed is announced by Redis
    /// anyway, so that a failure here costs only speed.
    async fn announce(&self, member: Member, changed: bool) {
        if changed {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(self.store.keys.channel()).arg(member.to_string());
            let _ = self.links.of(&self.store.keys.allow_set).ask(&publish).await;
        }
    }
}

/// Sets a key that ends by itself.
pub(super) fn set_for(key: &str, time: Duration) -> Cmd {
    let left = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_MS);
    let mut set = redis::cmd("SET");
    set.arg(key).arg("1").arg("PX").arg(left);
    set
}

/// A hundred years: Redis refuses ends beyond what its clock can count.
const LONGEST_MS: u64 = 100 * 365 * 86_400_000;

pub(super) fn count(value: &Value) -> Option<u64> {
    number(value).and_then(|number| u64::try_from(number).ok())
}

/// The score of a member that ends after `ttl`, in unix seconds.
pub(super) fn score(ttl: Option<Duration>) -> String {
    let Some(ttl) = ttl else { return "+inf".to_owned() };
    let left = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(LONGEST_MS);
    let end = now_ms().saturating_add(left);
    format!("{}.{:03}", end / 1000, end % 1000)
}
