//! Guessing: from one address, and from all of a /64.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::http::{Answer, Ask, answers, exchange};
use super::service::{Service, Settings};
use testkit::netns::Net;
use testkit::proc::rss_kib;
use testkit::wait::poll;
use testkit::{Addr, NEVER};

const RIGHT: &str = "a-token-that-nobody-guesses-0001";
const GUESSES: usize = 10_000;

/// Connections at once: each is of its own, as those of a scanner are.
const AT_ONCE: usize = 8;

/// Growth of the memory that is none: of buffers of the allocator.
const FLAT_KIB: u64 = 8 * 1024;

fn settings() -> Settings {
    Settings::new()
        .with_token("right", RIGHT, &["--max-ttl", "1h"])
        .in_file()
        .args(&["--most-failures", "5/4s"])
}

fn ask(peer: &str, to: SocketAddr, token: &str) -> Answer {
    Ask::new(peer, "POST", "/knock").token(token).send(to)
}

/// Sends guesses from the addresses that `peer` returns, and counts the answers by status.
fn guess(to: SocketAddr, peer: &(dyn Fn(usize) -> IpAddr + Sync)) -> (usize, usize) {
    let all: Vec<u16> = std::thread::scope(|scope| {
        let guessers = (0..AT_ONCE).map(|guesser| {
            scope.spawn(move || {
                let mine = (guesser..GUESSES).step_by(AT_ONCE);
                mine.map(|number| {
                    let request = format!(
                        "POST /knock HTTP/1.1\r\nHost: k\r\nX-Api-Key: guess-{number}\r\n\
                         Connection: close\r\n\r\n"
                    );
                    let bytes = exchange(peer(number), to, request.as_bytes(), false);
                    answers(&bytes, false)[0].status
                })
                .collect::<Vec<_>>()
            })
        });
        let guessers: Vec<_> = guessers.collect();
        guessers.into_iter().flat_map(|guesser| guesser.join().unwrap()).collect()
    });
    let count = |wanted: u16| all.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(401) + count(429), GUESSES, "nothing else is answered");
    (count(401), count(429))
}

/// The token is in no line of the log, in no metric, and nowhere in /proc that others can read.
fn check_secrecy(service: &Service) {
    let log = service.end.program.stderr();
    assert!(!log.contains(RIGHT) && !log.contains("guess-"), "a token in the log:\n{log}");
    let lines = log.lines().filter(|line| line.contains("knock refused")).count();
    assert!(lines < 100, "{lines} lines for a flood");
    let proc = format!("/proc/{}", service.end.pid());
    for file in ["cmdline", "environ", "status", "comm"] {
        let content = std::fs::read(Path::new(&proc).join(file)).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        assert!(!content.contains(RIGHT), "{file}");
    }
}

#[test]
fn guesses_of_one_source_lock_it_out_and_nobody_else() {
    let service = settings().args(&["--metrics", "127.0.0.1:0"]).start();
    let to = service.addr();
    assert_eq!(ask("127.6.0.9", to, RIGHT).status, 200);
    // Of the memory that the first thousand take, the rest is to take no more.
    guess(to, &|number| IpAddr::from([127, 7, (number / 250) as u8, (number % 250) as u8 + 1]));
    let before = rss_kib(service.end.pid());
    let (wrong, locked) = guess(to, &|_| IpAddr::from([127, 6, 0, 1]));
    assert!(locked > wrong && wrong < GUESSES / 10, "{wrong} guesses were looked at");
    let grown = rss_kib(service.end.pid()).saturating_sub(before);
    assert!(grown < FLAT_KIB, "{grown} KiB more");
    // Locked out for certain: whatever the token.
    while ask("127.6.0.1", to, "wrong").status != 429 {}
    let refused = ask("127.6.0.1", to, RIGHT);
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=4).contains(&wait), "{wait}");
    assert_eq!(ask("127.6.0.2", to, RIGHT).status, 200, "another source");
    let works = || (ask("127.6.0.1", to, RIGHT).status == 200).then_some(());
    assert!(poll(NEVER, works).is_some(), "it works afterwards");
    check_secrecy(&service);
    check_metrics(&service);
}

fn check_metrics(service: &Service) {
    let metrics = testkit::admin::metrics_address(&service.end.program);
    let text = testkit::admin::http(&metrics, "GET", "/metrics").body;
    let count = |result: &str| {
        let start =
            format!("knockpipe_http_knocks_total{{tunnel=\"knockd\",result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(start.as_str()));
        line.unwrap_or_else(|| panic!("no {result}:\n{text}")).parse::<u64>().unwrap()
    };
    assert!(count("granted") >= 3 && count("token") >= 5 && count("locked") > 1_000);
    assert!(!text.contains(RIGHT) && !text.contains("127.6.0.1"), "a client in the metrics");
}

#[test]
fn guesses_from_all_of_a_64_lock_out_the_64() {
    let net = Net::make();
    net.own("2001:db8:77::/48");
    let mut settings = settings().args(&["--allow-plain-http"]);
    settings.listen = "[2001:db8:0:2::1]:0".to_owned();
    let service = net.at_gate(|| settings.start());
    let Addr::Tcp(to) = *service.end.addr() else { panic!("over TCP") };
    let host = |network: u16, number: usize| {
        let host = u16::try_from(number).unwrap();
        IpAddr::from([0x2001, 0xdb8, 0x77, network, 0, 0, host, 1])
    };
    let before = rss_kib(service.end.pid());
    let (wrong, locked) = net.at_peers(|| guess(to, &|number| host(1, number)));
    assert!(locked > wrong && wrong < GUESSES / 10, "{wrong} guesses were looked at");
    let grown = rss_kib(service.end.pid()).saturating_sub(before);
    assert!(grown < FLAT_KIB, "{grown} KiB more");
    net.at_peers(|| {
        while ask("2001:db8:77:1::5", to, "wrong").status != 429 {}
        assert_eq!(ask("2001:db8:77:1::6", to, RIGHT).status, 429, "the same /64");
        assert_eq!(ask("2001:db8:77:2::6", to, RIGHT).status, 200, "another /64");
        let works = || (ask("2001:db8:77:1::6", to, RIGHT).status == 200).then_some(());
        assert!(poll(NEVER, works).is_some(), "it works afterwards");
    });
    check_secrecy(&service);
}
