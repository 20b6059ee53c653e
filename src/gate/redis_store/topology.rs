//! Which servers have the keys right now: the one that was named, the master
//! that Sentinels agree on last, or the masters of a Cluster.
//!
//! Asks, never caches: a stale answer is how a ban ends up on a replica.

use std::sync::Mutex;
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::address::{Credentials, Node, RedisAddress, Servers};
use super::keys::{SLOTS, slot};
use super::link::{Access, Link, list, number, text};
use super::trouble::{Kind, Trouble};

/// How often Sentinels and Clusters are asked whether a master moved.
const WATCH: Duration = Duration::from_millis(700);
/// How long each of those who know may take.
const OPINION: Duration = Duration::from_millis(500);
/// How many nodes of a Cluster are remembered and asked.
const MOST_ASKED: usize = 16;

/// Finds the servers of a store.
pub(super) struct Topology {
    servers: Servers,
    access: Access,
    sentinel_access: Access,
    /// Nodes of a Cluster seen lately: the seeds may all be gone one day.
    seen: Mutex<Vec<Node>>,
}

/// Which server has which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) nodes: Vec<Node>,
    /// First slot, last slot, and the index of their node; empty when the one
    /// node has everything.
    slots: Vec<(u16, u16, usize)>,
}

/// An answer about who has the keys, and how recent it is: the one who knows
/// the highest epoch is right.
struct Opinion {
    epoch: i64,
    map: Map,
}

// === impl Map ===

impl Map {
    pub(super) fn one(node: Node) -> Self {
        Self { nodes: vec![node], slots: vec![] }
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
        Self { servers: address.servers.clone(), access, sentinel_access, seen: Mutex::default() }
    }

    /// Whether masters are found by asking, so that a replica means "not there yet".
    pub(super) fn moves(&self) -> bool {
        !matches!(self.servers, Servers::One(_))
    }

    pub(super) async fn resolve(&self) -> Result<Map, Trouble> {
        match &self.servers {
            Servers::One(node) => Ok(Map::one(node.clone())),
            Servers::Sentinel { sentinels, master } => {
                let master = master.clone();
                let access = self.sentinel_access.clone();
                best(sentinels, move |node| by_sentinel(node, access.clone(), master.clone())).await
            }
            Servers::Cluster(seeds) => {
                let mut nodes = seeds.clone();
                nodes.extend(self.seen().iter().filter(|node| !seeds.contains(node)).cloned());
                nodes.truncate(MOST_ASKED);
                let access = self.access.clone();
                let map = best(&nodes, move |node| by_cluster(node, access.clone())).await?;
                self.seen().clone_from(&map.nodes);
                Ok(map)
            }
        }
    }

    /// Ends when the keys are somewhere else than `map` says. Servers that do
    /// not answer are no news: whoever uses the map notices.
    pub(super) async fn moved_from(&self, map: &Map) {
        if !self.moves() {
            std::future::pending::<()>().await;
        }
        loop {
            sleep(WATCH).await;
            if self.resolve().await.is_ok_and(|now| now != *map) {
                return;
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Node>> {
        self.seen.lock().expect("nothing panics while it holds the lock")
    }
}

/// Asks all `nodes` at once and takes the most recent opinion.
async fn best<F>(nodes: &[Node], ask: impl Fn(Node) -> F) -> Result<Map, Trouble>
where
    F: Future<Output = Result<Opinion, Trouble>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for node in nodes {
        let answer = ask(node.clone());
        let node = node.clone();
        asked.spawn(async move {
            timeout(OPINION, answer).await.unwrap_or_else(|_| Err(Trouble::silent(&node)))
        });
    }
    let mut best: Option<Opinion> = None;
    let mut trouble = None;
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(opinion)) if best.as_ref().is_none_or(|best| best.epoch < opinion.epoch) => {
                best = Some(opinion);
            }
            Ok(Err(other)) => trouble = Some(other),
            _ => {}
        }
    }
    let nobody = || Trouble::new(Kind::Lost, "nobody", "no server was asked");
    best.map(|best| best.map).ok_or_else(|| trouble.unwrap_or_else(nobody))
}

async fn by_sentinel(node: Node, access: Access, master: String) -> Result<Opinion, Trouble> {
    let link = Link::open(&node, &access, None).await?;
    let answer = link.ask(redis::cmd("SENTINEL").arg("MASTER").arg(&master)).await?;
    let fields = list(answer).unwrap_or_default();
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find(|pair| text(&pair[0]).as_deref() == Some(name)).and_then(|pair| text(&pair[1]))
    };
    let read = || {
        let port = field("port")?.parse().ok()?;
        let epoch = field("config-epoch")?.parse().ok()?;
        Some(Opinion { epoch, map: Map::one(Node::tcp(&field("ip")?, port)) })
    };
    read().ok_or_else(|| link.trouble("gives no address of the master"))
}

async fn by_cluster(node: Node, access: Access) -> Result<Opinion, Trouble> {
    let link = Link::open(&node, &access, None).await?;
    let mut both = redis::pipe();
    both.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let mut answers = link.ask_all(&both).await?.into_iter();
    let info = answers.next().as_ref().and_then(text).unwrap_or_default();
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    if field("cluster_state:") != Some("ok") {
        return Err(Trouble::new(Kind::Elsewhere, &node, "is in a cluster that is down"));
    }
    let epoch = field("cluster_current_epoch:").and_then(|epoch| epoch.parse().ok());
    let ranges = answers.next().and_then(list).unwrap_or_default();
    let map = map_of(ranges, &node).ok_or_else(|| link.trouble("gives no map of its slots"))?;
    Ok(Opinion { epoch: epoch.unwrap_or(0), map })
}

/// Reads CLUSTER SLOTS as `asked` tells it.
fn map_of(ranges: Vec<Value>, asked: &Node) -> Option<Map> {
    let mut owned =
        ranges.into_iter().map(|range| range_of(range, asked)).collect::<Option<Vec<_>>>()?;
    // Sorted, so that two nodes that agree give equal maps.
    owned.sort_unstable_by_key(|(first, ..)| *first);
    let covered: u32 = owned.iter().map(|(first, last, _)| u32::from(last - first) + 1).sum();
    let mut map = Map { nodes: vec![], slots: vec![] };
    for (first, last, node) in owned {
        let index = map.nodes.iter().position(|known| *known == node).unwrap_or_else(|| {
            map.nodes.push(node);
            map.nodes.len() - 1
        });
        map.slots.push((first, last, index));
    }
    (covered == u32::from(SLOTS)).then_some(map)
}

/// First slot, last slot, and their master.
fn range_of(range: Value, asked: &Node) -> Option<(u16, u16, Node)> {
    let parts = list(range)?;
    let first: u16 = number(parts.first()?)?.try_into().ok()?;
    let last = number(parts.get(1)?)?.try_into().ok().filter(|last| first <= *last)?;
    let Value::Array(master) = parts.get(2)? else { return None };
    let port = number(master.get(1)?)?.try_into().ok()?;
    // A node that does not know its own address is where it was asked.
    let host = text(master.first()?).filter(|host| !host.is_empty() && host != "?");
    let host = host.or_else(|| match asked {
        Node::Tcp { host, .. } => Some(host.clone()),
        Node::Unix(_) => None,
    })?;
    Some((first, last, Node::tcp(&host, port)))
}
