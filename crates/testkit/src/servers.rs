//! Sentinels and Clusters of real redis-servers on loopback, in the network namespace of the
//! caller.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::address::{Addr, free_port};
use crate::program::{Program, require};
use crate::redis::{Redis, Reply, Resp};
use crate::wait::eventually;
use crate::wire::Wire;

/// Three Sentinels that watch `master` as `mymaster`.
pub struct Sentinels {
    all: Vec<(u16, Program)>,
    dir: TempDir,
}

impl Sentinels {
    pub fn watching(master: &Redis) -> Self {
        require("redis-sentinel", "redis-sentinel");
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec![];
        for n in 0..3 {
            let port = free_port();
            let config = dir.path().join(format!("{n}.conf"));
            let master = master.tcp().tcp().port();
            let text = format!(
                "port {port}\nbind 127.0.0.1\nunixsocket {port}.sock\ndir {0}\nlogfile {n}.log\n\
                 sentinel monitor mymaster 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds mymaster 1500\n\
                 sentinel failover-timeout mymaster 3000\n",
                dir.path().display()
            );
            fs::write(&config, text).unwrap();
            let mut command = Command::new("redis-sentinel");
            command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
            all.push((port, Program::spawn("redis-sentinel", &mut command)));
        }
        let sentinels = Self { all, dir };
        eventually("the Sentinels know each other and the replica", || {
            sentinels.ports().into_iter().all(|port| {
                let Ok(mut sentinel) = sentinels.connect(port) else { return false };
                let Reply::Array(parts) = sentinel.ask(&["SENTINEL", "MASTER", "mymaster"]) else {
                    return false;
                };
                let field = |name: &str| {
                    let at = parts.iter().position(|part| *part == Reply::bulk(name));
                    at.map(|at| parts[at + 1].text()).unwrap_or_default()
                };
                field("num-other-sentinels") == "2" && field("num-slaves") == "1"
            })
        });
        sentinels
    }

    pub fn ports(&self) -> Vec<u16> {
        self.all.iter().map(|(port, _)| *port).collect()
    }

    fn connect(&self, port: u16) -> io::Result<Resp> {
        let socket = Addr::Unix(self.dir.path().join(format!("{port}.sock")));
        Wire::connect(&socket).map(Resp::over)
    }

    /// Sets the number of them that must miss the master before they replace it.
    pub fn quorum(&self, quorum: usize) {
        for port in self.ports() {
            let set = ["SENTINEL", "SET", "mymaster", "quorum", &quorum.to_string()];
            assert_eq!(self.connect(port).unwrap().ask(&set), Reply::ok());
        }
    }

    /// Returns true if one of them sends clients to `server`.
    pub fn name_master(&self, server: &Redis) -> bool {
        let address = Reply::bulk(server.tcp().tcp().port().to_string());
        self.ports().into_iter().any(|port| {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
            let Reply::Array(parts) = self.connect(port).unwrap().ask(&ask) else { return false };
            parts.get(1) == Some(&address)
        })
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.all.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/mymaster", hosts.join(","))
    }

    pub fn kill_one(&mut self) {
        self.all.remove(0);
    }
}

/// Masters that share the slots, and the requested number of replicas for each.
pub struct Cluster {
    pub masters: Vec<Redis>,
    pub replicas: Vec<Redis>,
}

impl Cluster {
    pub fn start(replicas: bool) -> Self {
        let (masters, buses): (Vec<Redis>, Vec<u16>) = (0..3).map(|_| node()).unzip();
        let (replicas, replicas_buses): (Vec<Redis>, Vec<u16>) =
            (0..if replicas { 3 } else { 0 }).map(|_| node()).unzip();
        for (index, (first, last)) in [(0, 5460), (5461, 10922), (10923, 16383)].iter().enumerate()
        {
            masters[index].ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            masters[index].ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        }
        let others = masters.iter().chain(&replicas).zip(buses.iter().chain(&replicas_buses));
        for (node, bus) in others.skip(1) {
            let port = node.tcp().tcp().port();
            masters[0].ask(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
        }
        let all = masters.len() + replicas.len();
        let cluster = Self { masters, replicas };
        eventually("all nodes know all nodes", || {
            cluster.nodes().all(|node| node.ask("CLUSTER NODES").text().lines().count() == all)
        });
        for (master, replica) in cluster.masters.iter().zip(&cluster.replicas) {
            let id = master.ask("CLUSTER MYID").text();
            eventually("the replica knows its master", || {
                let reply = replica.direct().ask(&["CLUSTER", "REPLICATE", &id]);
                reply == Reply::ok()
            });
        }
        eventually("the cluster works", || cluster.nodes().all(works));
        cluster.replicas.iter().for_each(Redis::wait_copied);
        cluster
    }

    fn nodes(&self) -> impl Iterator<Item = &Redis> {
        self.masters.iter().chain(&self.replicas)
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes().map(Redis::name).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Returns the index of the master that has `key`.
    #[track_caller]
    pub fn owner(&self, key: &str) -> usize {
        let has = |node: &Redis| !matches!(node.direct().ask(&["EXISTS", key]), Reply::Error(_));
        self.masters.iter().position(has).expect("one of them has it")
    }

    /// Returns true if all masters agree that all slots are served.
    pub fn works(&self) -> bool {
        self.masters.iter().all(works)
    }

    /// Asks the master that has the command's key.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> Reply {
        let mut refusals = vec![];
        for node in &self.masters {
            match node.direct().ask(command) {
                Reply::Error(text) if text.starts_with("MOVED") => refusals.push(text),
                reply => return reply,
            }
        }
        panic!("{command:?}: no master has it: {refusals:?}");
    }
}

/// Starts a node of a Cluster, and returns it with the port where it talks to the others.
fn node() -> (Redis, u16) {
    let bus = free_port();
    let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port"];
    (Redis::start_with(&[&own[..], &[&bus.to_string()]].concat()), bus)
}

fn works(node: &Redis) -> bool {
    let text = node.ask("CLUSTER INFO").text();
    text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384")
}
