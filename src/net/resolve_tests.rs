//! Look-ups with every answer that the system can give.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::*;

fn name() -> Address {
    "db.example:6379".parse().unwrap()
}

fn ips(last: u8) -> Target {
    Target::Ips(Arc::new([SocketAddr::from(([192, 0, 2, last], 6379)).into()]))
}

/// Answers `script[n]` to lookup number `n`, and the last one from then on.
fn scripted(script: &'static [Option<u8>]) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let lookup = move |_: Address| -> Answer {
        let n = count.fetch_add(1, Ordering::SeqCst).min(script.len() - 1);
        let answer = script[n].map(ips).ok_or_else(|| io::Error::other("no such host"));
        Box::pin(std::future::ready(answer))
    };
    (Arc::new(lookup), asked)
}

fn every(seconds: u64, wait: bool) -> ResolveOptions {
    ResolveOptions { every: Some(Duration::from_secs(seconds)), wait }
}

async fn until(resolver: &Resolver, want: &Target) -> Duration {
    let start = Instant::now();
    while resolver.current().ok().as_ref() != Some(want) {
        assert!(start.elapsed() < Duration::from_secs(3600), "never became {want:?}");
        sleep(Duration::from_millis(100)).await;
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_last_good_answer_is_kept() {
    let (lookup, asked) = scripted(&[Some(1), None, None, Some(2)]);
    let resolver = Resolver::start_with(name(), every(60, false), lookup).await.unwrap();
    while asked.load(Ordering::SeqCst) < 3 {
        assert_eq!(resolver.current().unwrap(), ips(1));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(resolver.current().unwrap(), ips(1), "two failures later");
    until(&resolver, &ips(2)).await;
}

/// The addresses of a target are needed as long as the process runs.
#[tokio::test(start_paused = true)]
async fn a_name_is_followed_also_after_a_panic() {
    let asked = Arc::new(AtomicUsize::new(0));
    let lookup: Lookup = Arc::new(move |_| -> Answer {
        let n = asked.fetch_add(1, Ordering::SeqCst);
        assert!(n == 0 || n > 3, "a mistake, made on purpose");
        Box::pin(std::future::ready(Ok(ips(if n == 0 { 1 } else { 2 }))))
    });
    let resolver = Resolver::start_with(name(), every(60, false), lookup).await.unwrap();
    assert_eq!(resolver.current().unwrap(), ips(1));
    until(&resolver, &ips(2)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unresolvable_name_is_an_error_unless_waited_for() {
    let (lookup, _) = scripted(&[None]);
    let error = Resolver::start_with(name(), every(60, false), lookup).await.unwrap_err();
    assert!(error.to_string().contains("db.example:6379: no such host; "), "{error}");

    let (lookup, _) = scripted(&[None, None, None, Some(7)]);
    let options = ResolveOptions { every: None, wait: true };
    let resolver = Resolver::start_with(name(), options, lookup).await.unwrap();
    assert!(matches!(resolver.current(), Err(ResolveError::NotYet(_))));
    let took = until(&resolver, &ips(7)).await;
    assert!((2900..3300).contains(&took.as_millis()), "third retry, took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_twice_without_need() {
    let cases = [
        ("1.2.3.4:1", every(1, true)),
        ("db.example:1", ResolveOptions { every: None, wait: true }),
    ];
    for (text, options) in cases {
        let (lookup, asked) = scripted(&[Some(1)]);
        let address = text.parse().unwrap();
        let resolver = Resolver::start_with(address, options, lookup).await.unwrap();
        sleep(Duration::from_secs(1000)).await;
        assert_eq!((asked.load(Ordering::SeqCst), resolver.task.is_none()), (1, true), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_resolver() {
    let (lookup, _) = scripted(&[Some(1)]);
    let resolver = Resolver::start_with(name(), every(1, false), lookup).await.unwrap();
    let current = Arc::downgrade(&resolver.current);
    drop(resolver);
    while current.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_real_resolver_knows_localhost_and_paths() {
    let start = |text: &str| Resolver::start(text.parse().unwrap(), every(60, false));
    let Target::Ips(addrs) = start("localhost:7").await.unwrap().current().unwrap() else {
        panic!("not IP addresses");
    };
    let addrs = addrs.iter().map(|addr| addr.now().unwrap());
    assert!(addrs.clone().all(|addr| addr.ip().is_loopback() && addr.port() == 7));
    assert!(addrs.len() > 0);
    let unix = start("/tmp/x").await.unwrap().current().unwrap();
    assert_eq!(unix, Target::Unix(Path::new("/tmp/x").into()));
    assert!(start("localhost:no-such-port").await.is_err());
    assert!(start("127.0.0.1:0").await.is_err(), "port 0 cannot be dialled");
}

#[test]
fn an_address_comes_once() {
    let addrs = look_up("localhost", "80").unwrap();
    let mut unique = addrs.clone();
    unique.dedup();
    assert_eq!(addrs, unique);
}

#[test]
fn zones_are_understood() {
    let addrs = look_up("fe80::1%lo", "80").unwrap();
    assert!(matches!(addrs[..], [SocketAddr::V6(v6)] if v6.scope_id() > 0), "{addrs:?}");
    let kept = Endpoint::from(addrs[0]);
    assert_eq!((kept.to_string().as_str(), kept.now().unwrap()), ("[fe80::1%lo]:80", addrs[0]));
    let error = look_up("fe80::1%no-such-zone", "80").unwrap_err().to_string();
    assert!(error.contains("no-such-zone"), "{error}");
}

#[test]
fn port_names_come_from_services() {
    let text = "# comment\nwww 80/udp\nhttp\t80/tcp\twww web # World Wide Web\nredis 6379/tcp\n";
    assert_eq!(port_named("http", text), Some(80));
    assert_eq!(port_named("web", text), Some(80));
    assert_eq!(port_named("redis", text), Some(6379));
    assert_eq!(port_named("World", text), None);
    assert_eq!(port_named("#", text), None);
}
