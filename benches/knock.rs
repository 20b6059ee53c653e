//! What a flood of datagrams at the port for knocks costs: the latency of a session beside it, the
//! processor time of each datagram that is refused, memory, and the time until a right knock among
//! them is granted. Two namespaces on this machine; needs root.
//!
//! `cargo bench --bench knock`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::time::{Duration, Instant};

use testkit::admin::Admin;
use testkit::flood::{Flood, Size};
use testkit::knock::Knocking;
use testkit::netns::{GATE4, Net, dial_from};
use testkit::proc::{cpu_of_threads, rss_kib};
use testkit::wait::poll;
use testkit::{Addr, End, Ending, Launch, NEVER, Target, Wire, keygen};

/// The address of the session.
const PEER: &str = "203.0.113.7";

/// Time of each measurement.
const TIME: Duration = Duration::from_secs(10);

/// Round trips in a second: few enough that the session itself is no load.
const PACE: Duration = Duration::from_millis(1);

/// Knocks among the flood.
const KNOCKS: u32 = 20;

struct Stage {
    net: Net,
    key: std::path::PathBuf,
    end: End,
    admin: Admin,
    client: End,
    _target: Target,
    _dir: tempfile::TempDir,
}

/// One measurement.
struct Measured {
    trips: Vec<Duration>,
    refused: u64,
    cpu: Duration,
    sent: u64,
    time: Duration,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = Net::make();
        let key = keygen(dir.path(), "key");
        let socket = dir.path().join("admin.sock");
        let target =
            Target::serve(&Addr::Unix(dir.path().join("target.sock")), testkit::target::echo);
        let any = Addr::Tcp("[::]:0".parse().unwrap());
        let end = Launch::decrypt(&key).source(&any).target(target.addr());
        let end = end.args(["--knock".as_ref(), "--admin".as_ref(), socket.as_os_str()]);
        let end = net.at_gate(|| end.start());
        let client = Launch::encrypt(&key).source(&Addr::Unix(dir.path().join("plain.sock")));
        let client = client.target(&entrance(&end)).args(["-b", PEER]);
        let client = net.at_peers(|| client.start());
        Self { net, key, end, admin: Admin(socket), client, _target: target, _dir: dir }
    }

    fn refused(&self) -> u64 {
        let results = self.admin.tunnel()["knocks"]["results"].clone();
        let count = |result: &str| results[result].as_u64().unwrap_or(0);
        count("stranger") + count("unread")
    }

    /// Knocks until a connection from `source` is not denied.
    fn knock_in(&self, source: &str) -> u32 {
        let to = entrance(&self.end);
        let mut attempts = 0;
        let opened = poll(NEVER, || {
            attempts += 1;
            let message = Knocking::new(&self.key).message();
            let mut wire = self.net.at_peers(|| {
                testkit::knock::send_from(source, &to, &message).unwrap();
                dial_from(source, &to).unwrap()
            });
            let (_, ending) = wire.read_to_ending(Duration::from_millis(300));
            (ending == Ending::Silent).then_some(())
        });
        opened.expect("the port opens");
        attempts
    }

    /// Measures round trips of a session, beside a flood of so many datagrams in a second.
    fn measure(&self, session: &mut Wire, size: Option<Size>) -> Measured {
        let flood = size.map(|size| Flood::start(&self.net, entrance(&self.end).tcp(), size));
        std::thread::sleep(Duration::from_millis(500));
        let (refused, cpu) = (self.refused(), cpu_of_threads(self.end.pid(), "knocks"));
        let sent = flood.as_ref().map_or(0, Flood::sent);
        let begun = Instant::now();
        let mut trips = vec![];
        while begun.elapsed() < TIME {
            let asked = Instant::now();
            session.expect_echo(&[7; 64]);
            trips.push(asked.elapsed());
            std::thread::sleep(PACE.saturating_sub(asked.elapsed()));
        }
        trips.sort();
        Measured {
            trips,
            cpu: cpu_of_threads(self.end.pid(), "knocks") - cpu,
            refused: self.refused() - refused,
            sent: flood.as_ref().map_or(0, Flood::sent) - sent,
            time: begun.elapsed(),
        }
    }
}

fn entrance(end: &End) -> Addr {
    Addr::Tcp((GATE4.parse::<std::net::IpAddr>().unwrap(), end.addr().tcp().port()).into())
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn main() {
    let stage = Stage::new();
    stage.knock_in(PEER);
    let mut session = stage.client.connect();
    session.expect_echo(b"live");
    println!(
        "| datagrams/s sent | sources | refused/s | us CPU each | p50 us | p99 us | RSS KiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    let floods = [
        None,
        Some(Size { sources: 60_000, per_second: 20_000 }),
        Some(Size { sources: 60_000, per_second: 200_000 }),
        Some(Size { sources: 100, per_second: 200_000 }),
        None,
    ];
    for size in floods {
        let measured = stage.measure(&mut session, size);
        let per_second = |count: u64| (count as f64 / measured.time.as_secs_f64()) as u64;
        let each = measured.cpu.as_secs_f64() * 1e6 / measured.refused.max(1) as f64;
        println!(
            "| {} | {} | {} | {each:.2} | {} | {} | {} |",
            per_second(measured.sent),
            size.map_or(0, |size| size.sources),
            per_second(measured.refused),
            percentile(&measured.trips, 50).as_micros(),
            percentile(&measured.trips, 99).as_micros(),
            rss_kib(stage.end.pid()),
        );
    }
    let size = Size { sources: 60_000, per_second: 200_000 };
    let _flood = Flood::start(&stage.net, entrance(&stage.end).tcp(), size);
    let attempts: u32 =
        (0..KNOCKS).map(|host| stage.knock_in(&format!("203.0.113.{}", 100 + host))).sum();
    println!("{KNOCKS} addresses were admitted in the flood with {attempts} knocks");
}
