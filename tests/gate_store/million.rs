//! A set of a million members and 10,000 networks.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::store::{Edit, Event};
use tokio::sync::mpsc;

use super::conformance::{allow, edit, ip, member};
use super::single::open;
use testkit::redis::Redis;
use testkit::redis::{Reply, receive};

const MEMBERS: u32 = 1_000_000;
const NETWORKS: u32 = 10_000;

/// Returns the resident memory of this process in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn fill(server: &Redis) {
    let mut client = server.direct();
    let members = (0..MEMBERS).map(|n| std::net::Ipv4Addr::from(0x2000_0000 + n).to_string());
    let networks =
        (0..NETWORKS).map(|n| format!("{}/28", std::net::Ipv4Addr::from(0x5000_0000 + n * 16)));
    let all: Vec<String> = members.chain(networks).collect();
    let (to, from) = client.raw();
    for chunk in all.chunks(1000) {
        let mut command = format!("*{}\r\n$4\r\nSADD\r\n$10\r\nip-allowed\r\n", chunk.len() + 2);
        for member in chunk {
            write!(command, "${}\r\n{member}\r\n", member.len()).unwrap();
        }
        to.write_all(command.as_bytes()).unwrap();
        to.flush().unwrap();
        assert_eq!(receive(from).unwrap(), Reply::Number(chunk.len().try_into().unwrap()));
    }
}

/// Follows without keeping anything, so that the memory is the follower's own.
fn follow(store: &Arc<AnyStore>) -> (mpsc::Receiver<Event>, mpsc::Sender<Vec<std::net::IpAddr>>) {
    let (to, events) = mpsc::channel(16);
    let (asks, asked) = mpsc::channel(16);
    let store = Arc::clone(store);
    tokio::spawn(async move { store.follow(to, asked).await });
    (events, asks)
}

/// Waits for an event; returns the time that it took.
async fn until(events: &mut mpsc::Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Duration {
    let began = Instant::now();
    loop {
        let event = tokio::time::timeout(testkit::wait::NEVER, events.recv()).await;
        if wanted(&event.expect("the event comes").expect("the follower runs")) {
            return began.elapsed();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_members_are_read_in_passing() {
    let server = Redis::start();
    fill(&server);
    let store = open(&server.url());
    let before = memory();
    let (mut events, asks) = follow(&store);
    let mut most = before;
    let mut count = 0;
    let began = Instant::now();
    loop {
        match events.recv().await.unwrap() {
            Event::Items(items) => count += items.len(),
            Event::End { garbage } => break assert_eq!(garbage, 0),
            _ => {}
        }
        most = most.max(memory());
    }
    let took = began.elapsed();
    println!("a million: read in {took:?}, {} KiB more memory at most", most - before);
    assert_eq!(count, 1_010_000);
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(most - before < 64 * 1024, "{} KiB", most - before);

    // One change in a million: our own are reported exactly, others are asked for.
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let host = member(&format!("203.0.113.{n}"));
        edit(&store, allow(host, None)).await;
        slowest = slowest.max(
            until(&mut events, |e| {
                *e == Event::Allowed(host, Some(knockpipe::gate::Expiry::Never))
            })
            .await,
        );
        edit(&store, Edit::Remove(host)).await;
        slowest = slowest.max(until(&mut events, |e| *e == Event::Allowed(host, None)).await);
    }
    println!("a million: the slowest of 40 own changes showed after {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let host = member("203.0.113.100");
    server.ask("SADD ip-allowed 203.0.113.100");
    let unsure = until(&mut events, |event| *event == Event::Invalidated).await;
    asks.send(vec![ip("203.0.113.100")]).await.unwrap();
    let told = until(&mut events, |event| {
        *event == Event::Allowed(host, Some(knockpipe::gate::Expiry::Never))
    })
    .await;
    println!(
        "a million: a foreign change is known after {unsure:?}, an ask answered after {told:?}"
    );
    // A known network is reported when it is gone.
    server.ask("SREM ip-allowed 80.0.0.0/28");
    until(&mut events, |event| *event == Event::Invalidated).await;
    let live: Vec<_> =
        (0..8_000).map(|n| std::net::Ipv4Addr::from(0x5000_0000 + n).into()).collect();
    asks.send(live).await.unwrap();
    until(&mut events, |event| *event == Event::Allowed(member("80.0.0.0/28"), None)).await;
    let last = member("80.0.31.63");
    let all =
        until(&mut events, |event| matches!(event, Event::Allowed(m, None) if *m == last)).await;
    println!("a million: 8,000 asks are answered after another {all:?}");
}
