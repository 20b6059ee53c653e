//! Connections to all servers that have keys of the gate, and commands about
//! those keys, each sent to the right one.
//!
//! Reads only, by the SCAN family and by point; KEYS appears nowhere.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::task::JoinSet;

use super::access::Access;
use super::address::Node;
use super::connection::{Connection, Role};
use super::error::{Kind, RedisFailure};
use super::keys::{Keys, pattern};
use super::pushes::Pushes;
use super::reply::{list, number, text};
use super::topology::{Map, Topology};
use crate::net::clock::now;
use crate::unix_time::{Expiry, UnixMillis};

/// Elements that a SCAN step looks at: a millisecond or two of the server's time.
const STEP: usize = 2_000;
/// Commands that are sent at once.
const PIPELINE: usize = 200;
/// Members in one command.
const NAMES: usize = 100;

/// Connections to all servers of a map.
pub(super) struct Connections {
    pub(super) map: Map,
    pub(super) all: Vec<Connection>,
}

/// The type of the allow-set's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetType {
    /// There is no such key.
    Absent,
    /// Members without an end.
    Set,
    /// Members with the unix second of their end as a score.
    Sorted,
}

/// A part of a scan: the next cursor, 0 at the end, and what was found.
pub(super) struct Page<T> {
    pub(super) next: u64,
    pub(super) found: Vec<T>,
}

// === impl Connections ===

impl Connections {
    /// Connects to all servers of the map at once.
    pub(super) async fn open(
        map: Map,
        access: &Access,
        pushes: Option<&Arc<Pushes>>,
    ) -> Result<Self, RedisFailure> {
        let mut opening = JoinSet::new();
        for (index, node) in map.nodes.iter().cloned().enumerate() {
            let (access, pushes) = (access.clone(), pushes.cloned());
            opening.spawn(async move { (index, Connection::open(&node, &access, pushes).await) });
        }
        let mut all = Vec::with_capacity(map.nodes.len());
        while let Some(opened) = opening.join_next().await {
            let (index, connection) = opened.expect("opening a connection does not panic");
            all.push((index, connection?));
        }
        all.sort_unstable_by_key(|(index, _)| *index);
        Ok(Self { map, all: all.into_iter().map(|(_, connection)| connection).collect() })
    }

    /// Finds the servers and connects to them; where masters move, a replica
    /// is a failure.
    pub(super) async fn find(
        topology: &Topology,
        access: &Access,
        pushes: Option<&Arc<Pushes>>,
    ) -> Result<Self, RedisFailure> {
        let connections = Self::open(topology.resolve().await?, access, pushes).await?;
        if topology.moves() {
            for connection in &connections.all {
                if matches!(connection.role().await?, Role::Replica { .. }) {
                    return Err(RedisFailure::new(
                        Kind::Elsewhere,
                        connection.node(),
                        "is no master any more",
                    ));
                }
            }
        }
        Ok(connections)
    }

    /// The connection to the server that has `key`.
    pub(super) fn of(&self, key: &str) -> &Connection {
        &self.all[self.map.index(key)]
    }

    /// All servers, for texts.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> =
            self.all.iter().map(|connection| connection.node().to_string()).collect();
        names.join(",")
    }

    pub(super) fn node_of(&self, key: &str) -> &Node {
        self.of(key).node()
    }

    /// The type of the allow-set's key; another type is a failure of kind `WrongType`.
    pub(super) async fn set_type(&self, keys: &Keys) -> Result<SetType, RedisFailure> {
        let connection = self.of(&keys.allow_set);
        let answer = connection.ask(redis::cmd("TYPE").arg(&keys.allow_set)).await?;
        match text(&answer).as_deref() {
            Some("none") => Ok(SetType::Absent),
            Some("set") => Ok(SetType::Set),
            Some("zset") => Ok(SetType::Sorted),
            other => {
                let other: String = other.unwrap_or("something unknown").chars().take(30).collect();
                let cause =
                    format!("key \"{}\" is a {other} and no set of addresses", keys.allow_set);
                Err(RedisFailure::new(Kind::WrongType, connection.node(), cause))
            }
        }
    }

    /// The end of the allow-set's key, with all its members; `None` for never, or
    /// where there is no such key.
    pub(super) async fn set_end(&self, keys: &Keys) -> Result<Expiry, RedisFailure> {
        let ends = self.ends(std::slice::from_ref(&keys.allow_set), now()).await?;
        Ok(ends.into_iter().flatten().next().unwrap_or(Expiry::Never))
    }

    /// A step through the members of the allow-set and their ends.
    pub(super) async fn scan_set(
        &self,
        keys: &Keys,
        set_type: SetType,
        cursor: u64,
    ) -> Result<Page<(String, Expiry)>, RedisFailure> {
        match set_type {
            SetType::Absent => Ok(Page { next: 0, found: vec![] }),
            SetType::Set => {
                let page = page(self.of(&keys.allow_set), scan("SSCAN", &keys.allow_set, cursor));
                let page = page.await?;
                let found = page.found.iter().filter_map(text).map(|name| (name, Expiry::Never));
                let found = found.collect();
                Ok(Page { next: page.next, found })
            }
            SetType::Sorted => {
                let page = self.scan_pairs("ZSCAN", &keys.allow_set, cursor).await?;
                let ends = page.found.into_iter();
                let found = ends.filter_map(|(name, score)| Some((name, end_of_score(&score)?)));
                Ok(Page { next: page.next, found: found.collect() })
            }
        }
    }

    /// A step through a key that holds pairs.
    pub(super) async fn scan_pairs(
        &self,
        command: &str,
        key: &str,
        cursor: u64,
    ) -> Result<Page<(String, Value)>, RedisFailure> {
        let page = page(self.of(key), scan(command, key, cursor)).await?;
        let pairs = page.found.chunks_exact(2);
        let found = pairs.filter_map(|pair| Some((text(&pair[0])?, pair[1].clone()))).collect();
        Ok(Page { next: page.next, found })
    }

    /// Looks up `names` in the allow-set. Returns the end of each, `None` if it is not there.
    pub(super) async fn lookup(
        &self,
        keys: &Keys,
        set_type: SetType,
        names: &[String],
    ) -> Result<Vec<Option<Expiry>>, RedisFailure> {
        let (command, read): (_, fn(&Value) -> Option<Expiry>) = match set_type {
            // An absent set may exist by now.
            SetType::Absent | SetType::Set => {
                ("SMISMEMBER", |value| (number(value) == Some(1)).then_some(Expiry::Never))
            }
            SetType::Sorted => ("ZMSCORE", end_of_score),
        };
        let connection = self.of(&keys.allow_set);
        let mut found = Vec::with_capacity(names.len());
        for names in names.chunks(NAMES * PIPELINE) {
            let mut asked = redis::pipe();
            for names in names.chunks(NAMES) {
                asked.cmd(command).arg(&keys.allow_set).arg(names);
            }
            for answer in connection.ask_all(&asked).await? {
                found.extend(list(answer).unwrap_or_default().iter().map(read));
            }
        }
        if found.len() != names.len() {
            return Err(connection
                .other_failure(format!("answers {command} with a wrong number of members")));
        }
        Ok(found)
    }

    /// A step through the keys of one server that begin with `prefix`.
    pub(super) async fn scan_keys(
        &self,
        connection: &Connection,
        prefix: &str,
        cursor: u64,
    ) -> Result<Page<String>, RedisFailure> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern(prefix)).arg("COUNT").arg(STEP);
        let page = page(connection, scan).await?;
        Ok(Page { next: page.next, found: page.found.iter().filter_map(text).collect() })
    }

    /// The ends of keys, each from the server that has it; `None` if there is no such key.
    pub(super) async fn ends(
        &self,
        keys: &[String],
        now: UnixMillis,
    ) -> Result<Vec<Option<Expiry>>, RedisFailure> {
        let end = |value: &Value| match number(value) {
            Some(-1) => Some(Expiry::Never),
            Some(left) => {
                let left = Duration::from_millis(u64::try_from(left).ok()?);
                Some(Expiry::after(now, Some(left)))
            }
            None => None,
        };
        let mut ends = vec![None; keys.len()];
        let mut places: Vec<Vec<usize>> = vec![vec![]; self.all.len()];
        for (place, key) in keys.iter().enumerate() {
            places[self.map.index(key)].push(place);
        }
        for (connection, places) in self.all.iter().zip(places) {
            for places in places.chunks(PIPELINE) {
                let mut asked = redis::pipe();
                for place in places {
                    asked.cmd("PTTL").arg(&keys[*place]);
                }
                let answers = connection.ask_all(&asked).await?;
                places.iter().zip(answers).for_each(|(place, answer)| ends[*place] = end(&answer));
            }
        }
        Ok(ends)
    }
}

fn scan(command: &str, key: &str, cursor: u64) -> Cmd {
    let mut scan = redis::cmd(command);
    scan.arg(key).arg(cursor).arg("COUNT").arg(STEP);
    scan
}

async fn page(connection: &Connection, scan: Cmd) -> Result<Page<Value>, RedisFailure> {
    let mut parts = list(connection.ask(&scan).await?).unwrap_or_default().into_iter();
    let next = parts.next().as_ref().and_then(text).and_then(|next| next.parse().ok());
    let next = next.ok_or_else(|| connection.other_failure("answers a scan without a cursor"))?;
    Ok(Page { next, found: parts.next().and_then(list).unwrap_or_default() })
}

/// Reads a score; a member that is past is none.
fn end_of_score(value: &Value) -> Option<Expiry> {
    let end = end_of(score_of(value)?);
    (!end.is_past(now())).then_some(end)
}

/// The score in an answer, if it is one.
pub(super) fn score_of(value: &Value) -> Option<f64> {
    match value {
        Value::Double(score) => Some(*score),
        other => text(other)?.parse().ok(),
    }
}

/// The end that a score stands for, which is unix seconds with fractions. Infinite is for ever.
pub(super) fn end_of(score: f64) -> Expiry {
    // A cast saturates: before 1970 is past at once.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let end = UnixMillis((score * 1000.0) as u64);
    if score == f64::INFINITY { Expiry::Never } else { Expiry::At(end) }
}
