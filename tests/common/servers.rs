//! Sentinels and Clusters of real redis-servers on loopback, in whatever
//! network namespace the caller is.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::address::{Addr, free_port};
use super::program::{Program, require};
use super::redis::{Redis, Reply, Resp};
use super::wait::eventually;
use super::wire::Wire;

/// Three Sentinels that watch `master` as `mymaster`.
pub struct Sentinels {
    all: Vec<(u16, Program)>,
    _dir: TempDir,
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
                "port {port}\nbind 127.0.0.1\ndir {}\nlogfile {n}.log\n\
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
        let sentinels = Self { all, _dir: dir };
        eventually("the Sentinels know each other and the replica", || {
            sentinels.all.iter().all(|(port, _)| {
                let addr = Addr::Tcp((Ipv4Addr::LOCALHOST, *port).into());
                let Ok(wire) = Wire::connect(&addr) else { return false };
                let Reply::Array(parts) = Resp::over(wire).ask(&["SENTINEL", "MASTER", "mymaster"])
                else {
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

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.all.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/mymaster", hosts.join(","))
    }

    pub fn kill_one(&mut self) {
        self.all.remove(0);
    }
}

/// Masters that share the slots, and for each as many replicas as asked for.
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

    /// Asks the master of `key`, wherever it is.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> Reply {
        let mut refusals = vec![];
        for node in &self.masters {
            match node.direct().ask(command) {
                Reply::Error(text) if text.starts_with("MOVED") => refusals.push(text),
                reply => return reply,
            }
        }
        panic!("{command:?}: nobody has it: {refusals:?}");
    }
}

/// A node of a Cluster, and the port where it talks to the others.
fn node() -> (Redis, u16) {
    let bus = free_port();
    let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port"];
    (Redis::start_with(&[&own[..], &[&bus.to_string()]].concat()), bus)
}

fn works(node: &Redis) -> bool {
    let text = node.ask("CLUSTER INFO").text();
    text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384")
}
