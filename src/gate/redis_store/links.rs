//! Connections to all servers that have keys of the gate, and questions about
//! those keys that go to the right one.
//!
//! Reads only, by the SCAN family and by point; KEYS appears nowhere.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::task::JoinSet;

use super::address::Node;
use super::keys::{Keys, pattern};
use super::link::{Access, Link, Role, list, number, text};
use super::now_ms;
use super::pushes::Pushes;
use super::topology::{Map, Topology};
use super::trouble::{Kind, Trouble};

/// How many elements a SCAN step looks at: a millisecond or two of the server's time.
const STEP: usize = 2_000;
/// How many commands are sent at once.
const PIPELINE: usize = 200;
/// How many members one command asks about.
const NAMES: usize = 100;

/// An end in unix milliseconds, as stores tell it: not there, for ever, or until.
pub(super) type Truth = Option<Option<u64>>;

/// Connections to all servers of a map.
pub(super) struct Links {
    pub(super) map: Map,
    pub(super) all: Vec<Link>,
}

/// What the key of the allow-set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// There is no such key.
    Absent,
    /// Members without an end.
    Set,
    /// Members whose score is the unix second of their end.
    Sorted,
}

/// A part of a scan: the next cursor, 0 at the end, and what was found.
pub(super) struct Page<T> {
    pub(super) next: u64,
    pub(super) found: Vec<T>,
}

// === impl Links ===

impl Links {
    /// Connects to all servers of the map at once.
    pub(super) async fn open(
        map: Map,
        access: &Access,
        pushes: Option<&Arc<Pushes>>,
    ) -> Result<Self, Trouble> {
        let mut opening = JoinSet::new();
        for (index, node) in map.nodes.iter().cloned().enumerate() {
            let (access, pushes) = (access.clone(), pushes.cloned());
            opening.spawn(async move { (index, Link::open(&node, &access, pushes).await) });
        }
        let mut all = Vec::with_capacity(map.nodes.len());
        while let Some(opened) = opening.join_next().await {
            let (index, link) = opened.expect("opening a link does not panic");
            all.push((index, link?));
        }
        all.sort_unstable_by_key(|(index, _)| *index);
        Ok(Self { map, all: all.into_iter().map(|(_, link)| link).collect() })
    }

    /// Finds the servers and connects to them; where masters move, a replica
    /// is not the server that was looked for.
    pub(super) async fn find(
        topology: &Topology,
        access: &Access,
        pushes: Option<&Arc<Pushes>>,
    ) -> Result<Self, Trouble> {
        let links = Self::open(topology.resolve().await?, access, pushes).await?;
        if topology.moves() {
            for link in &links.all {
                if matches!(link.role().await?, Role::Replica { .. }) {
                    return Err(Trouble::new(
                        Kind::Elsewhere,
                        link.node(),
                        "is no master any more",
                    ));
                }
            }
        }
        Ok(links)
    }

    /// The connection to the server that has `key`.
    pub(super) fn of(&self, key: &str) -> &Link {
        &self.all[self.map.index(key)]
    }

    /// All servers, for texts.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.all.iter().map(|link| link.node().to_string()).collect();
        names.join(",")
    }

    pub(super) fn node_of(&self, key: &str) -> &Node {
        self.of(key).node()
    }

    /// What the allow-set is; another type is trouble of kind `WrongType`.
    pub(super) async fn form(&self, keys: &Keys) -> Result<Form, Trouble> {
        let link = self.of(&keys.allow_set);
        let answer = link.ask(redis::cmd("TYPE").arg(&keys.allow_set)).await?;
        match text(&answer).as_deref() {
            Some("none") => Ok(Form::Absent),
            Some("set") => Ok(Form::Set),
            Some("zset") => Ok(Form::Sorted),
            other => {
                let other: String = other.unwrap_or("something unknown").chars().take(30).collect();
                let cause =
                    format!("key \"{}\" is a {other} and no set of addresses", keys.allow_set);
                Err(Trouble::new(Kind::WrongType, link.node(), cause))
            }
        }
    }

    /// The end of the allow-set's key, with all its members; `None` for never, or
    /// where there is no such key.
    pub(super) async fn set_end(&self, keys: &Keys) -> Result<Option<u64>, Trouble> {
        let ends = self.ends(std::slice::from_ref(&keys.allow_set), now_ms()).await?;
        Ok(ends.into_iter().flatten().flatten().next())
    }

    /// A step through the members of the allow-set and their ends.
    pub(super) async fn scan_set(
        &self,
        keys: &Keys,
        form: Form,
        cursor: u64,
    ) -> Result<Page<(String, Option<u64>)>, Trouble> {
        match form {
            Form::Absent => Ok(Page { next: 0, found: vec![] }),
            Form::Set => {
                let page = page(self.of(&keys.allow_set), scan("SSCAN", &keys.allow_set, cursor));
                let page = page.await?;
                let found = page.found.iter().filter_map(text).map(|name| (name, None)).collect();
                Ok(Page { next: page.next, found })
            }
            Form::Sorted => {
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
    ) -> Result<Page<(String, Value)>, Trouble> {
        let page = page(self.of(key), scan(command, key, cursor)).await?;
        let pairs = page.found.chunks_exact(2);
        let found = pairs.filter_map(|pair| Some((text(&pair[0])?, pair[1].clone()))).collect();
        Ok(Page { next: page.next, found })
    }

    /// The allow-set's word on each of `names`.
    pub(super) async fn lookup(
        &self,
        keys: &Keys,
        form: Form,
        names: &[String],
    ) -> Result<Vec<Truth>, Trouble> {
        let (command, read): (_, fn(&Value) -> Truth) = match form {
            // What was absent a moment ago may be there by now.
            Form::Absent | Form::Set => {
                ("SMISMEMBER", |value| (number(value) == Some(1)).then_some(None))
            }
            Form::Sorted => ("ZMSCORE", end_of_score),
        };
        let link = self.of(&keys.allow_set);
        let mut truths = Vec::with_capacity(names.len());
        for names in names.chunks(NAMES * PIPELINE) {
            let mut asked = redis::pipe();
            for names in names.chunks(NAMES) {
                asked.cmd(command).arg(&keys.allow_set).arg(names);
            }
            for answer in link.ask_all(&asked).await? {
                truths.extend(list(answer).unwrap_or_default().iter().map(read));
            }
        }
        if truths.len() != names.len() {
            return Err(link.trouble(format!("answers {command} with a wrong number of members")));
        }
        Ok(truths)
    }

    /// A step through the keys of one server that begin with `prefix`.
    pub(super) async fn scan_keys(
        &self,
        link: &Link,
        prefix: &str,
        cursor: u64,
    ) -> Result<Page<String>, Trouble> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern(prefix)).arg("COUNT").arg(STEP);
        let page = page(link, scan).await?;
        Ok(Page { next: page.next, found: page.found.iter().filter_map(text).collect() })
    }

    /// When keys end, each asked where it is.
    pub(super) async fn ends(&self, keys: &[String], now_ms: u64) -> Result<Vec<Truth>, Trouble> {
        let end = |value: &Value| match number(value) {
            Some(-1) => Some(None),
            Some(left) => u64::try_from(left).ok().map(|left| Some(now_ms.saturating_add(left))),
            None => None,
        };
        let mut ends = vec![None; keys.len()];
        let mut places: Vec<Vec<usize>> = vec![vec![]; self.all.len()];
        for (place, key) in keys.iter().enumerate() {
            places[self.map.index(key)].push(place);
        }
        for (link, places) in self.all.iter().zip(places) {
            for places in places.chunks(PIPELINE) {
                let mut asked = redis::pipe();
                for place in places {
                    asked.cmd("PTTL").arg(&keys[*place]);
                }
                let answers = link.ask_all(&asked).await?;
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

async fn page(link: &Link, scan: Cmd) -> Result<Page<Value>, Trouble> {
    let mut parts = list(link.ask(&scan).await?).unwrap_or_default().into_iter();
    let next = parts.next().as_ref().and_then(text).and_then(|next| next.parse().ok());
    let next = next.ok_or_else(|| link.trouble("answers a scan without a cursor"))?;
    Ok(Page { next, found: parts.next().and_then(list).unwrap_or_default() })
}

/// A score is unix seconds with fractions; infinite is for ever, and a member
/// that is over is none.
fn end_of_score(value: &Value) -> Truth {
    let score = match value {
        Value::Double(score) => *score,
        Value::Nil => return None,
        other => text(other)?.parse().ok()?,
    };
    // A cast saturates: before 1970 is over at once.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let end = (score * 1000.0) as u64;
    let end = (score != f64::INFINITY).then_some(end);
    end.is_none_or(|end| end > now_ms()).then_some(end)
}
