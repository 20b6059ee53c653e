//! Redis clients that servers send to other servers, through one sealed port: every server is a
//! service, and on the clients' host there is a listener at the very address that the servers
//! announce.

use testkit::file::Service;
use testkit::netns::{GATE4, Net};
use testkit::redis::{Redis, redis_cli, try_redis_cli};
use testkit::servers::{Cluster, Sentinels};
use testkit::{Addr, eventually, keygen};

/// A pair between two hosts, in front of servers on 127.0.0.1 of the first.
struct Site {
    near: Service,
    far: Service,
    net: Net,
    _dir: tempfile::TempDir,
}

impl Site {
    fn new(net: Net, ports: &[u16]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        keygen(dir.path(), "key");
        let services = ports.iter().map(|port| format!("at-{port} = \"127.0.0.1:{port}\""));
        let services = services.collect::<Vec<_>>().join(", ");
        let text = format!(
            "[tunnels.far]\nmode = \"decrypt\"\nsource = \"{GATE4}:0\"\nkey = \"key\"\n\
             target = {{ {services} }}\n"
        );
        let far = net.at_gate(|| Service::start(dir.path(), "far.toml", &text));
        let mut text = format!("[defaults]\nkey = \"key\"\ntarget = \"{}\"\n", far.addr("far"));
        for port in ports {
            text += &format!(
                "[tunnels.at-{port}]\nmode = \"encrypt\"\nsource = \"127.0.0.1:{port}\"\n\
                 service = \"at-{port}\"\n"
            );
        }
        let near = net.at_peers(|| Service::start(dir.path(), "near.toml", &text));
        Self { near, far, net, _dir: dir }
    }

    /// Returns the output of redis-cli on the clients' host; nothing when it fails.
    fn cli(&self, port: u16, args: &[&str]) -> Option<String> {
        let entrance = Addr::Tcp(([127, 0, 0, 1], port).into());
        self.net.at_peers(|| try_redis_cli(&entrance, args)).ok()
    }

    fn stop(mut self) {
        self.near.stop();
        self.far.stop();
    }
}

fn port(server: &Redis) -> u16 {
    server.tcp().tcp().port()
}

#[test]
fn a_cluster_client_is_sent_from_entrance_to_entrance_also_after_a_failover() {
    const KEYS: usize = 30;
    let net = Net::make();
    let mut cluster = net.at_gate(|| Cluster::start(true));
    let ports: Vec<u16> = cluster.masters.iter().chain(&cluster.replicas).map(port).collect();
    let site = Site::new(net, &ports);
    for key in 0..KEYS {
        let set = ["-c", "SET", &format!("key{key}"), &format!("value{key}")];
        assert_eq!(site.cli(ports[0], &set).as_deref(), Some("OK"));
    }
    let used = (0..3).filter(|n| !site.near.closed(&format!("at-{}", ports[*n])).is_empty());
    assert_eq!(used.count(), 3, "the keys are on all masters");

    site.net.at_gate(|| {
        for (master, replica) in cluster.masters.iter().zip(&cluster.replicas) {
            let keys = |server: &Redis| server.ask("DBSIZE");
            eventually("the replica has every key", || keys(replica) == keys(master));
        }
        cluster.masters[0].kill();
        cluster.replicas[0].ask("CLUSTER FAILOVER TAKEOVER");
    });
    for key in 0..KEYS {
        eventually("every key is found again", || {
            let got = site.cli(ports[1], &["-c", "GET", &format!("key{key}")]);
            got == Some(format!("value{key}"))
        });
    }
    site.stop();
}

#[test]
fn a_sentinel_client_finds_the_master_also_after_a_failover() {
    let net = Net::make();
    let (mut first, second, sentinels) = net.at_gate(|| {
        let first = Redis::start();
        let second = first.replica(&[]);
        let sentinels = Sentinels::watching(&first);
        (first, second, sentinels)
    });
    let sentinel_ports = sentinels.ports();
    let ports: Vec<u16> =
        sentinel_ports.iter().copied().chain([port(&first), port(&second)]).collect();
    let site = Site::new(net, &ports);
    let master = || {
        let asked = site.cli(ports[0], &["SENTINEL", "get-master-addr-by-name", "mymaster"])?;
        let (host, port) = asked.split_once('\n')?;
        assert_eq!(host, "127.0.0.1");
        port.parse::<u16>().ok()
    };
    assert_eq!(master(), Some(port(&first)));
    assert_eq!(site.cli(port(&first), &["SET", "key", "1"]).as_deref(), Some("OK"));
    site.net.at_gate(|| first.kill());
    eventually("the Sentinels name another master", || master() == Some(port(&second)));
    eventually("it takes what is written", || {
        site.cli(port(&second), &["SET", "key", "2"]).as_deref() == Some("OK")
    });
    let direct = site.net.at_gate(|| redis_cli(&Addr::Tcp(second.tcp().tcp()), &["GET", "key"]));
    assert_eq!(direct, "2");
    site.stop();
}
