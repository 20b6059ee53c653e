//! Edits, made at the master, wherever it is now.
//!
//! An edit that a replica, a former master or a server that is loading refuses
//! is tried once more after asking again for the master. Changes are
//! also published on a channel, so that followers need not read a million members.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::member::Member;
use super::super::store::{Edit, EditResult, StoreError};
use super::RedisStore;
use super::attempt::{Attempt, Done, Failed, Mode, count};
use super::batch;
use super::connection::Role;
use super::connections::Connections;
use super::error::{Kind, RedisFailure};
use super::granted::NewGrant;
use super::keys::Window;
use super::list::ban_keys;
use super::members::Wanted;
use super::topology::Map;
use crate::net::clock::now;

/// The time for a server that is about to be a master, or to have loaded.
const PATIENCE: Duration = Duration::from_millis(300);
/// The time for which an answer about the master is good.
const TRUST: Duration = Duration::from_secs(1);
/// The most steps from a replica to its master; a longer chain is a mistake.
const MOST_HOPS: usize = 3;
/// Pairs of one HSET.
const PAIRS: usize = 1_000;

/// The rule by which a strike becomes a ban.
struct StrikeRule {
    findtime: Duration,
    bantime: Duration,
    maxretry: u64,
}

/// Connections to the masters, and the last time at which the topology was asked for them.
pub(super) struct Writer {
    connections: Arc<Connections>,
    asked: Instant,
}

impl RedisStore {
    /// Makes a change at the master, wherever it is now.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached, after one retry.
    pub async fn edit(&self, edit: &Edit) -> Result<EditResult, StoreError> {
        let made = self.make(std::slice::from_ref(edit), Mode::Single).await?;
        Ok(made.into_iter().next().expect("an edit has a receipt"))
    }

    /// Makes edits. Once more where the failure may be over by then.
    pub(super) async fn make(
        &self,
        edits: &[Edit],
        mode: Mode,
    ) -> Result<Vec<EditResult>, StoreError> {
        let failure = match self.attempt(edits, mode).await {
            Err(Failed::At(_, failure)) if may_retry(edits, &failure) => failure,
            done => return done.map_err(|failed| failed.into_error(self)),
        };
        self.before_retry(&failure).await;
        self.attempt(edits, mode).await.map_err(|failed| failed.into_error(self))
    }

    /// Gives a server time after a failure that may be over then.
    pub(super) async fn before_retry(&self, failure: &RedisFailure) {
        // A topology that already names a new master needs no time; a new master does.
        let known = matches!(failure.kind, Kind::Lost | Kind::ReadOnly) && !self.topology.moves();
        if !known {
            sleep(PATIENCE).await;
        }
    }

    async fn attempt(&self, edits: &[Edit], mode: Mode) -> Result<Vec<EditResult>, Failed> {
        let connections = self.writer_connections().await;
        let connections =
            connections.map_err(|failure| Failed::At(self.main_key(&edits[0]), failure))?;
        let done = match mode {
            Mode::Together => batch::make(self, &connections, edits).await,
            Mode::Single => {
                let attempt = Attempt { store: self, connections: &connections };
                attempt.make(&edits[0]).await.map(|done| vec![done])
            }
        };
        if matches!(done, Err(Failed::At(..))) {
            self.forget_writer().await;
        }
        let receipt = |Done { key, changed, count }: Done| EditResult {
            server: connections.node_of(&key).to_string(),
            key,
            changed,
            count,
        };
        Ok(done?.into_iter().map(receipt).collect())
    }

    /// The connections of the last edit, or new ones to the present masters.
    pub(super) async fn writer_connections(&self) -> Result<Arc<Connections>, RedisFailure> {
        let mut writer = self.writer.lock().await;
        if let Some(writer) = &mut *writer
            && self.is_current(writer).await
        {
            return Ok(Arc::clone(&writer.connections));
        }
        // Never two connections to each master at once.
        *writer = None;
        let mut connections = Connections::find(&self.topology, &self.access, None).await?;
        if !self.topology.moves() {
            // A replica refuses edits, but answers what it does not have like a master
            // that does not have it.
            connections = self.master_of(connections).await?;
        }
        let connections = Arc::new(connections);
        *writer = Some(Writer { connections: Arc::clone(&connections), asked: Instant::now() });
        Ok(connections)
    }

    /// Drops the connections for edits after one that failed.
    pub(super) async fn forget_writer(&self) {
        *self.writer.lock().await = None;
    }

    /// Returns true if the masters are still those: one that was cut off from the others
    /// goes on taking edits that will be lost.
    async fn is_current(&self, writer: &mut Writer) -> bool {
        if writer.asked.elapsed() < TRUST {
            return true;
        }
        writer.asked = Instant::now();
        if !self.topology.moves() {
            return !matches!(writer.connections.all[0].role().await, Ok(Role::Replica { .. }));
        }
        // When no server can be asked, the edit itself shows what the master thinks.
        let map = self.topology.resolve().await;
        map.map_or(true, |map| !writer.connections.map.is_outdone_by(&map))
    }

    /// Follows a replica to its master.
    async fn master_of(&self, mut connections: Connections) -> Result<Connections, RedisFailure> {
        for _ in 0..MOST_HOPS {
            match connections.all[0].role().await? {
                Role::Replica { master, .. } => {
                    connections = Connections::open(Map::one(master), &self.access, None).await?;
                }
                Role::Master | Role::Unknown => break,
            }
        }
        Ok(connections)
    }

    /// The key to name when no server could be reached at all.
    fn main_key(&self, edit: &Edit) -> String {
        match edit {
            Edit::Allow { .. }
            | Edit::Grant { .. }
            | Edit::Renew { .. }
            | Edit::Remove(_)
            | Edit::TakeBack { .. } => self.keys.allow_set.clone(),
            Edit::RecordSeen(_) | Edit::Forget { .. } => self.keys.history.clone(),
            Edit::Ban(member, _) | Edit::Unban(member) => self.keys.ban_key(*member),
            Edit::Strike { ip, findtime, .. } | Edit::ClearStrikes { ip, findtime } => {
                self.keys.strike_key(Member::source_of(*ip), Window::at(now(), *findtime))
            }
        }
    }
}

pub(super) fn may_retry(edits: &[Edit], failure: &RedisFailure) -> bool {
    use Kind::{Elsewhere, Loading, Lost, ReadOnly, Silent};
    // An edit that counts is not repeated if it may have been done.
    let counts = edits.iter().any(|edit| matches!(edit, Edit::Strike { .. }));
    match failure.kind {
        Silent => !counts,
        Lost | Elsewhere | ReadOnly | Loading => true,
        _ => false,
    }
}

impl Attempt<'_> {
    async fn make(&self, edit: &Edit) -> Result<Done, Failed> {
        match edit {
            Edit::Allow { member, lasting, note } => {
                let wanted = Wanted { member: *member, lasting: *lasting, note: note.as_ref() };
                self.allow(wanted).await
            }
            Edit::Grant { member, lasting, note, terms } => {
                let (member, lasting, terms) = (*member, *lasting, *terms);
                self.grant(NewGrant { member, lasting, note, terms }).await
            }
            Edit::Renew { member, lasting, who_prefix } => {
                self.renew(*member, *lasting, who_prefix).await
            }
            Edit::Remove(member) => self.remove(*member).await,
            Edit::TakeBack { member, who, until } => self.take_back(*member, who, *until).await,
            Edit::Ban(member, time) => self.ban(*member, *time).await,
            Edit::Unban(member) => self.unban(*member).await,
            Edit::RecordSeen(seen) => self.touch(seen).await,
            Edit::Forget { ip, before_s } => self.forget(ip.to_canonical(), *before_s).await,
            Edit::Strike { ip, findtime, bantime, maxretry } => {
                let rule =
                    StrikeRule { findtime: *findtime, bantime: *bantime, maxretry: *maxretry };
                self.strike(ip.to_canonical(), rule).await
            }
            Edit::ClearStrikes { ip, findtime } => {
                let window = Window::at(now(), *findtime);
                let key = self.store.keys.strike_key(Member::source_of(*ip), window);
                let removed = self.delete(std::slice::from_ref(&key)).await?;
                Ok(Done { key, changed: removed > 0, count: None })
            }
        }
    }

    async fn ban(&self, member: Member, time: Duration) -> Result<Done, Failed> {
        let key = self.store.keys.ban_key(member);
        self.set_for(&key, time).await?;
        Ok(Done { key, changed: true, count: None })
    }

    /// Lifts a ban. The result names a key that was there.
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

    /// allow2ban: while banned nothing counts, and the failure that reaches the
    /// limit writes the ban.
    async fn strike(&self, ip: IpAddr, rule: StrikeRule) -> Result<Done, Failed> {
        for member in Member::bans_of(ip) {
            let ban = self.store.keys.ban_key(member);
            if self.count(&ban, redis::cmd("EXISTS").arg(&ban)).await? > 0 {
                return Ok(Done { key: ban, changed: false, count: None });
            }
        }
        let source = Member::source_of(ip);
        let ban = self.store.keys.ban_key(source);
        let window = Window::at(now(), rule.findtime);
        let key = self.store.keys.strike_key(source, window);
        let mut both = redis::pipe();
        both.atomic().cmd("INCR").arg(&key).cmd("EXPIRE").arg(&key).arg(window.ttl_s);
        let answers = self.connections.of(&key).ask_all(&both).await;
        let answers = answers.map_err(|failure| Failed::At(key.clone(), failure))?;
        let count = answers.first().and_then(count).unwrap_or(0);
        if count < rule.maxretry {
            return Ok(Done { key, changed: true, count: Some(count) });
        }
        self.set_for(&ban, rule.bantime).await?;
        Ok(Done { key: ban, changed: true, count: Some(count) })
    }
}
