//! A gate in a Redis that fails over by Sentinel: clients that knock reach the redis-server behind
//! the pair before it and after it.

use std::io::Write;

use testkit::redis::{Redis, Reply, Resp, receive, send_command};
use testkit::servers::Sentinels;
use testkit::{Addr, End, Launch, eventually};

use crate::site::{CLIENT4, CLIENT6, OTHER4, OTHER6, Site, entrance};

/// The gate's store: two servers and their Sentinels, on the server's host.
struct Store {
    first: Redis,
    second: Redis,
    sentinels: Sentinels,
}

impl Store {
    fn at(site: &Site) -> Self {
        site.server.enter(|| {
            let first = Redis::start();
            let second = first.replica(&[]);
            let sentinels = Sentinels::watching(&first);
            Self { first, second, sentinels }
        })
    }

    /// Kills the master, and lets no replica take over yet.
    fn kill_master(&mut self) {
        self.sentinels.quorum(4);
        self.first.wait_for_replica();
        self.first.kill();
    }
}

/// Starts a decrypt end in front of a redis-server.
fn decrypt(site: &Site, target: &Redis, store: &Store) -> End {
    let source = Addr::Tcp("[::]:0".parse().unwrap());
    let launch = Launch::decrypt(&site.key).source(&source).target(target.tcp());
    let launch = launch.args(["--knock", "--gate", &store.sentinels.url()]);
    site.server.enter(|| launch.start())
}

/// Asks the redis-server for a value through the pair; `None` where the connection ends.
fn get(client: &End) -> Option<Reply> {
    let mut session = Resp::over(client.connect());
    let (to, from) = session.raw();
    send_command(to, &["GET", "behind"]).and_then(|()| to.flush()).ok()?;
    receive(from).ok()
}

#[test]
fn redis_is_reached_by_a_knock_after_the_gates_redis_failed_over() {
    let site = Site::new();
    let mut store = Store::at(&site);
    let target = site.server.enter(Redis::start);
    target.ask("SET behind the-pair");
    let through = || Some(Reply::bulk("the-pair"));
    let decrypt = decrypt(&site, &target, &store);
    let clients = [CLIENT4, CLIENT6].map(|address| {
        let to = entrance(&decrypt, address);
        let launch = Launch::encrypt(&site.key).target(&to).args(["-o", "3s"]);
        let named =
            |name: &str| Addr::Unix(site.dir.path().join(format!("{name}{}", to.tcp().is_ipv4())));
        let without = site.start(&launch.clone().source(&named("without")));
        assert_eq!(get(&without), None, "{address} did not knock");
        let client = site.start(&launch.source(&named("knocks")).args(["--knock"]));
        assert_eq!(get(&client), through(), "{address}; its log:\n{}", client.program.tail());
        client
    });
    store.kill_master();
    decrypt.program.wait_line("the store is away", |line| line.is("gate store unavailable"));
    for client in &clients {
        assert_eq!(get(client), None, "the gate can ask no store");
    }
    store.sentinels.quorum(2);
    // Other addresses than before: their grants cannot be copies of those that the first had.
    site.move_client([CLIENT4, CLIENT6], [OTHER4, OTHER6]);
    for (client, address) in clients.iter().zip([OTHER4, OTHER6]) {
        eventually(&format!("{address} gets through"), || get(client) == through());
        let entry = store.second.ask(&format!("ZSCORE ip-allowed {address}"));
        assert!(matches!(entry, Reply::Bulk(_)), "{address} at the new master: {entry:?}");
    }
    assert!(store.sentinels.name_master(&store.second));
}
