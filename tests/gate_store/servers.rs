//! Redis servers, Sentinels and Clusters on loopback, each in its own directory.
//! None of them knows KEYS.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::common::address::{Addr, free_port};
use crate::common::program::{Program, require};
use crate::common::redis::{Reply, Resp};
use crate::common::wait::{NEVER, eventually, poll};

/// A redis-server that can be stopped, and started again on its port.
pub struct Server {
    port: u16,
    /// Where nodes of a Cluster talk to each other; unused by others.
    bus_port: u16,
    options: Vec<String>,
    dir: TempDir,
    program: Option<Program>,
}

impl Server {
    pub fn start(options: &[&str]) -> Self {
        require("redis-server", "redis-server");
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            let (port, bus_port) = (free_port(), free_port());
            let mut server = Self { port, bus_port, options, dir, program: None };
            if server.try_run() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts it again, with its port, its directory and its options.
    pub fn run(&mut self) {
        assert!(self.try_run(), "redis-server does not start again");
    }

    fn try_run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--cluster-port", &self.bus_port.to_string()])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            .args(["--rename-command", "KEYS", "", "--logfile", "redis.log"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut program = Program::spawn("redis-server", &mut command);
        let up = poll(NEVER, || {
            if !program.is_running() {
                return Some(false);
            }
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok().then_some(true)
        });
        self.program = Some(program);
        up == Some(true)
    }

    pub fn kill(&mut self) {
        self.program = None;
    }

    pub fn signal(&self, signal: Signal) {
        self.program.as_ref().expect("it runs").signal(signal);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.name())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A client of its own, as another program is.
    pub fn client(&self) -> Resp {
        Resp::connect(&Addr::Tcp((Ipv4Addr::LOCALHOST, self.port).into()))
    }

    /// One command; words are split at spaces.
    #[track_caller]
    pub fn ask(&self, command: &str) -> Reply {
        let words: Vec<&str> = command.split(' ').collect();
        let reply = self.client().ask(&words);
        assert!(!matches!(reply, Reply::Error(_)), "{command}: {reply:?}");
        reply
    }

    /// The field of INFO.
    pub fn info(&self, field: &str) -> Option<String> {
        let info = self.ask("INFO").text();
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// A replica of this one that has its copy.
    pub fn replica(&self, options: &[&str]) -> Self {
        let port = self.port.to_string();
        let mut all = vec!["--replicaof", "127.0.0.1", &port];
        all.extend(options);
        let replica = Self::start(&all);
        eventually("the replica has its copy", || {
            replica.info("master_link_status").as_deref() == Some("up")
        });
        replica
    }
}

/// Three Sentinels that watch `master` as `mymaster`.
pub struct Sentinels {
    all: Vec<(u16, Program)>,
    _dir: TempDir,
}

impl Sentinels {
    pub fn watching(master: &Server) -> Self {
        require("redis-sentinel", "redis-sentinel");
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec![];
        for n in 0..3 {
            let port = free_port();
            let config = dir.path().join(format!("{n}.conf"));
            let master = master.port();
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
                let Ok(wire) = crate::common::Wire::connect(&addr) else { return false };
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
    pub masters: Vec<Server>,
    pub replicas: Vec<Server>,
}

impl Cluster {
    pub fn start(replicas: bool) -> Self {
        let node =
            || Server::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1500"]);
        let masters: Vec<Server> = (0..3).map(|_| node()).collect();
        let replicas: Vec<Server> =
            if replicas { (0..3).map(|_| node()).collect() } else { vec![] };
        for (index, (first, last)) in [(0, 5460), (5461, 10922), (10923, 16383)].iter().enumerate()
        {
            masters[index].ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            masters[index].ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        }
        for node in masters[1..].iter().chain(&replicas) {
            masters[0].ask(&format!("CLUSTER MEET 127.0.0.1 {} {}", node.port, node.bus_port));
        }
        let all = masters.len() + replicas.len();
        let cluster = Self { masters, replicas };
        eventually("all nodes know all nodes", || {
            cluster.nodes().all(|node| node.ask("CLUSTER NODES").text().lines().count() == all)
        });
        for (master, replica) in cluster.masters.iter().zip(&cluster.replicas) {
            let id = master.ask("CLUSTER MYID").text();
            eventually("the replica knows its master", || {
                let reply = replica.client().ask(&["CLUSTER", "REPLICATE", &id]);
                reply == Reply::ok()
            });
        }
        eventually("the cluster works", || cluster.nodes().all(works));
        eventually("the replicas have their copies", || {
            cluster.replicas.iter().all(|r| r.info("master_link_status").as_deref() == Some("up"))
        });
        cluster
    }

    fn nodes(&self) -> impl Iterator<Item = &Server> {
        self.masters.iter().chain(&self.replicas)
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes().map(Server::name).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Asks the master of `key`, wherever it is.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> Reply {
        let mut refusals = vec![];
        for node in &self.masters {
            match node.client().ask(command) {
                Reply::Error(text) if text.starts_with("MOVED") => refusals.push(text),
                reply => return reply,
            }
        }
        panic!("{command:?}: nobody has it: {refusals:?}");
    }
}

fn works(node: &Server) -> bool {
    let text = node.ask("CLUSTER INFO").text();
    text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384")
}
