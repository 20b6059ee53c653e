//! Finds the servers that have the keys right now: the one that was named, the master
//! that Sentinels agree on last, or the masters of a Cluster.
//!
//! Asks each time and keeps no answers: a stale one is how a ban ends up on a
//! replica. It keeps connections to the servers that know the masters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::access::Access;
use super::address::{Credentials, Node, RedisAddress, Servers};
use super::connection::Connection;
use super::error::{Kind, RedisFailure};
use super::keys::{SLOTS, slot};
use super::known_servers::MOST_NODES;
use super::reply::{list, number, text};

/// The interval at which Sentinels and Clusters are asked for a master that moved.
const WATCH: Duration = Duration::from_millis(700);
/// The time that the others may take as soon as one of them has answered.
const OTHERS: Duration = Duration::from_millis(500);
/// The most nodes of a Cluster that are remembered and asked.
pub(super) const MOST_ASKED: usize = 16;

/// Finds the servers of a store.
pub(super) struct Topology {
    servers: Servers,
    access: Access,
    sentinel_access: Access,
    /// Nodes of a Cluster seen lately: the seeds may all be gone one day.
    seen: Mutex<Vec<Node>>,
    known: Known,
}

/// Connections to Sentinels or nodes of a Cluster that answered the last time.
type Known = Arc<Mutex<HashMap<Node, Arc<Connection>>>>;

/// A question to Sentinels or nodes of a Cluster.
#[derive(Clone)]
struct Question {
    access: Access,
    /// The name of the master for Sentinels; `None` for nodes of a Cluster.
    master: Option<String>,
    known: Known,
}

/// The servers, and the keys of each.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) nodes: Vec<Node>,
    /// First slot, last slot, and the index of their node; empty when the one
    /// node has everything.
    slots: Vec<(u16, u16, usize)>,
    /// The age of the map: the one with the highest epoch is right.
    epoch: i64,
}

// === impl Map ===

impl Map {
    pub(super) fn one(node: Node) -> Self {
        Self { nodes: vec![node], slots: vec![], epoch: 0 }
    }

    /// Returns true if two keys may be in one transaction: all may, but not in a Cluster,
    /// unless they have one slot.
    pub(super) fn joins(&self, one: &str, other: &str) -> bool {
        self.slots.is_empty() || slot(one) == slot(other)
    }

    /// Returns true if `other` is as recent and says something else. A Sentinel that
    /// was left behind does not count.
    pub(super) fn is_outdone_by(&self, other: &Self) -> bool {
        let same = self.nodes == other.nodes && self.slots == other.slots;
        other.epoch >= self.epoch && !same
    }

    /// The index of the node that has `key`.
    pub(super) fn index(&self, key: &str) -> usize {
        if self.slots.is_empty() {
            return 0;
        }
        let slot = slot(key);
        let owner = self.slots.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        owner.map_or(0, |(_, _, index)| *index)
    }
}

// === impl Topology ===

impl Topology {
    pub(super) fn new(
        address: &RedisAddress,
        access: Access,
        sentinel_credentials: Option<Credentials>,
    ) -> Self {
        let sentinel_access = Access { credentials: sentinel_credentials, db: 0, ..access.clone() };
        Self {
            servers: address.servers.clone(),
            access,
            sentinel_access,
            seen: Mutex::default(),
            known: Known::default(),
        }
    }

    /// Returns true if masters are found by asking, so that a replica means "not there yet".
    pub(super) fn moves(&self) -> bool {
        !matches!(self.servers, Servers::One(_))
    }

    pub(super) async fn resolve(&self) -> Result<Map, RedisFailure> {
        match &self.servers {
            Servers::One(node) => Ok(Map::one(node.clone())),
            Servers::Sentinel { sentinels, master } => {
                let master = Some(master.clone());
                self.best(sentinels, &self.sentinel_access, master).await
            }
            Servers::Cluster(seeds) => {
                let mut nodes = seeds.clone();
                nodes.extend(self.seen().iter().filter(|node| !seeds.contains(node)).cloned());
                nodes.truncate(MOST_ASKED);
                let map = self.best(&nodes, &self.access, None).await?;
                self.seen().clone_from(&map.nodes);
                Ok(map)
            }
        }
    }

    /// Asks all `nodes` at once and takes the most recent map of those that answer in
    /// time; if none does, the first answer.
    async fn best(
        &self,
        nodes: &[Node],
        access: &Access,
        master: Option<String>,
    ) -> Result<Map, RedisFailure> {
        let known = Arc::clone(&self.known);
        let question = Question { access: access.clone(), master, known };
        // Connections to nodes that another map does not name any more are dropped.
        question.known().retain(|node, _| nodes.contains(node));
        let mut asked = JoinSet::new();
        for node in nodes {
            let (question, node) = (question.clone(), node.clone());
            asked.spawn(async move {
                let answer = question.ask(&node).await;
                (node, answer)
            });
        }
        let mut best: Option<Map> = None;
        let mut failure = RedisFailure::new(Kind::Lost, "none", "no server was asked");
        let patience = Instant::now() + OTHERS;
        let mut answered = vec![];
        loop {
            let next = match &best {
                Some(_) => timeout_at(patience, asked.join_next()).await.unwrap_or(None),
                None => asked.join_next().await,
            };
            let Some(next) = next else { break };
            let (node, answer) = next.expect("asking does not panic");
            match answer {
                Ok(map) => {
                    answered.push(node);
                    if best.as_ref().is_none_or(|best| best.epoch < map.epoch) {
                        best = Some(map);
                    }
                }
                Err(other) => failure = other,
            }
        }
        // A connection over which no answer came is worth nothing.
        question.known().retain(|node, _| answered.contains(node));
        best.ok_or(failure)
    }

    /// Ends when the keys are somewhere else than `map` says. Servers that do
    /// not answer do not count: a user of the map notices.
    pub(super) async fn moved_from(&self, map: &Map) {
        if !self.moves() {
            std::future::pending::<()>().await;
        }
        loop {
            sleep(WATCH).await;
            if self.resolve().await.is_ok_and(|now| map.is_outdone_by(&now)) {
                return;
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Node>> {
        self.seen.lock().expect("nothing panics while it holds the lock")
    }
}

// === impl Question ===

impl Question {
    /// Asks over the connection that is there; when that is dead, over a new one.
    async fn ask(&self, node: &Node) -> Result<Map, RedisFailure> {
        let known = self.known().get(node).cloned();
        if let Some(connection) = known {
            match self.map_by(&connection).await {
                Err(failure) if failure.kind == Kind::Lost => {}
                answer => return answer,
            }
        }
        let connection = Arc::new(Connection::open(node, &self.access, None).await?);
        let map = self.map_by(&connection).await?;
        self.known().insert(node.clone(), connection);
        Ok(map)
    }

    async fn map_by(&self, connection: &Connection) -> Result<Map, RedisFailure> {
        match &self.master {
            Some(master) => by_sentinel(connection, master).await,
            None => by_cluster(connection).await,
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Node, Arc<Connection>>> {
        self.known.lock().expect("nothing panics while it holds the lock")
    }
}

/// The address that a Sentinel gives to clients, which is the new one from the
/// moment on that has the new epoch; SENTINEL MASTER tells that later.
async fn by_sentinel(connection: &Connection, master: &str) -> Result<Map, RedisFailure> {
    let mut both = redis::pipe();
    both.cmd("SENTINEL").arg("MASTER").arg(master);
    both.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let mut answers = connection.ask_all(&both).await?.into_iter().map(list);
    let fields = answers.next().flatten().unwrap_or_default();
    let address = answers.next().flatten().unwrap_or_default();
    let epoch = fields
        .chunks_exact(2)
        .find(|pair| text(&pair[0]).as_deref() == Some("config-epoch"))
        .and_then(|pair| number(&pair[1]));
    let read = || {
        let master = Node::named(&text(address.first()?)?, number(address.get(1)?)?)?;
        Some(Map { epoch: epoch?, ..Map::one(master) })
    };
    read().ok_or_else(|| connection.other_failure("gives no address of the master"))
}

async fn by_cluster(connection: &Connection) -> Result<Map, RedisFailure> {
    let mut both = redis::pipe();
    both.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let mut answers = connection.ask_all(&both).await?.into_iter();
    let info = answers.next().as_ref().and_then(text).unwrap_or_default();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    if field("cluster_state:") != Some("ok") {
        return Err(RedisFailure::new(
            Kind::Elsewhere,
            connection.node(),
            "is in a cluster that is down",
        ));
    }
    let epoch = field("cluster_current_epoch:").and_then(|epoch| epoch.parse().ok());
    let ranges = answers.next().and_then(list).unwrap_or_default();
    let map = map_of(ranges, connection.node(), epoch.unwrap_or(0));
    let map = map.ok_or_else(|| connection.other_failure("gives no map of its slots"))?;
    if map.nodes.len() > MOST_NODES {
        let cause = format!("names more than {MOST_NODES} masters, which are the most");
        return Err(connection.too_much(cause));
    }
    Ok(map)
}

/// Reads CLUSTER SLOTS as `asked` tells it. Of more masters than there may be it
/// names one too many.
fn map_of(ranges: Vec<Value>, asked: &Node, epoch: i64) -> Option<Map> {
    let mut owned =
        ranges.into_iter().map(|range| range_of(range, asked)).collect::<Option<Vec<_>>>()?;
    // Sorted, so that two nodes that agree give equal maps.
    owned.sort_unstable_by_key(|(first, ..)| *first);
    let covered: u64 = owned.iter().map(|(first, last, _)| u64::from(last - first) + 1).sum();
    let mut map = Map { nodes: vec![], slots: vec![], epoch };
    for (first, last, node) in owned {
        let index = map.nodes.iter().position(|known| *known == node).unwrap_or_else(|| {
            map.nodes.push(node);
            map.nodes.len() - 1
        });
        if map.nodes.len() > MOST_NODES {
            return Some(map);
        }
        map.slots.push((first, last, index));
    }
    (covered == u64::from(SLOTS)).then_some(map)
}

/// First slot, last slot, and their master.
fn range_of(range: Value, asked: &Node) -> Option<(u16, u16, Node)> {
    let parts = list(range)?;
    let first: u16 = number(parts.first()?)?.try_into().ok()?;
    let last = number(parts.get(1)?)?.try_into().ok().filter(|last| first <= *last)?;
    let Value::Array(master) = parts.get(2)? else { return None };
    let port = number(master.get(1)?)?;
    // A node that does not know its own address is where it was asked.
    let host = text(master.first()?).filter(|host| !host.is_empty() && host != "?");
    let host = host.or_else(|| match asked {
        Node::Tcp { host, .. } => Some(host.clone()),
        Node::Unix(_) => None,
    })?;
    Some((first, last, Node::named(&host, port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_value(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let master = Value::Array(vec![text_value(host), Value::Int(port), text_value("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn slots_are_mapped_in_any_order_and_holes_are_noticed() {
        let asked = Node::tcp("seed", 1);
        let read = |ranges: &[Value]| map_of(ranges.to_vec(), &asked, 1);
        let ranges = [range(8192, 16383, "b", 2), range(0, 5, "", 3), range(6, 8191, "b", 2)];
        let map = read(&ranges).unwrap();
        assert_eq!(map.nodes, [Node::tcp("seed", 3), Node::tcp("b", 2)]);
        assert_eq!(map.nodes[map.index("foo")], Node::tcp("b", 2));
        let reversed: Vec<_> = ranges.iter().rev().cloned().collect();
        assert!(!map.is_outdone_by(&read(&reversed).unwrap()));
        assert!(read(&ranges[..2]).is_none(), "slots without a master");
        assert!(read(&[Value::Nil]).is_none() && read(&[range(9, 3, "b", 2)]).is_none());
    }

    #[test]
    fn the_masters_of_a_map_are_limited() {
        let map = |masters: i64| {
            let width = 16_384 / masters;
            let last = |n: i64| if n + 1 == masters { 16_383 } else { (n + 1) * width - 1 };
            let ranges = (0..masters).map(|n| range(n * width, last(n), &format!("10.0.0.{n}"), 1));
            map_of(ranges.collect(), &Node::tcp("seed", 1), 1).unwrap().nodes.len()
        };
        assert_eq!(map(64), MOST_NODES);
        assert_eq!((map(65), map(4_077)), (MOST_NODES + 1, MOST_NODES + 1));
        let odd = |host: &str, port| {
            map_of(vec![range(0, 16_383, host, port)], &Node::tcp("seed", 1), 1).is_none()
        };
        assert!(odd("a b", 1) && odd("a\n", 1) && odd(&"a".repeat(300), 1) && odd("a", 0));
        assert!(!odd("2001:db8::1", 1) && !odd("redis-0.redis.example.org", 65_535));
    }

    #[test]
    fn a_map_with_an_older_epoch_is_ignored() {
        let at = |port, epoch| Map { epoch, ..Map::one(Node::tcp("h", port)) };
        assert!(at(1, 5).is_outdone_by(&at(2, 6)));
        assert!(at(1, 5).is_outdone_by(&at(2, 5)));
        assert!(!at(1, 5).is_outdone_by(&at(2, 4)));
        assert!(!at(1, 5).is_outdone_by(&at(1, 6)));
    }
}
