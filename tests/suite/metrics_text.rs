//! The two forms of the metrics: each is served on request, both say the same, and Prometheus reads
//! either.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use testkit::address::refusing;
use testkit::admin::{Answer, http_with, metrics_address};
use testkit::program::require;
use testkit::{Addr, Target, eventually};

use super::metrics::{OPENMETRICS, Prometheus, documented, families, measured};

const TEXT: &str = "text/plain; version=0.0.4";
const OPEN: &str = "application/openmetrics-text; version=1.0.0";

/// The Accept header of a Prometheus that asks for the older format.
const OLDER: &str = "Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";

#[test]
fn the_form_of_metrics_is_what_accept_asks_for() {
    let pair = measured(Target::echo().addr(), &[], &[]);
    let metrics = metrics_address(&pair.decrypt.program);
    let cases = [
        ("", TEXT),
        ("Accept: */*\r\n", TEXT),
        ("Accept: text/plain\r\n", TEXT),
        (OLDER, TEXT),
        ("Accept: application/openmetrics-text;q=0.1,text/plain;q=0.9\r\n", TEXT),
        ("Accept: application/openmetrics-text;q=0\r\n", TEXT),
        (OPENMETRICS, OPEN),
        ("Accept: application/openmetrics-text;q=0.9\r\nAccept: text/plain;q=0.8\r\n", OPEN),
        ("accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n", OPEN),
    ];
    for (headers, expected) in cases {
        let answer = http_with(&metrics, "GET", "/metrics", headers);
        assert_eq!(answer.status, 200);
        let kind = answer.head.lines().find_map(|line| line.strip_prefix("content-type: "));
        assert_eq!(kind, Some(&*format!("{expected}; charset=utf-8")), "{headers}: {answer:?}");
        assert!(answer.head.contains("\r\nvary: accept"), "{answer:?}");
        assert_eq!(answer.body.ends_with("# EOF\n"), expected == OPEN, "{headers}");
    }
}

/// The samples are the same; the older format names families by their samples, and has neither info
/// nor an end.
#[test]
fn both_forms_say_the_same_and_promtool_finds_nothing_in_the_text() {
    require("promtool", "prometheus");
    let echo = Target::echo();
    let pair = measured(echo.addr(), &["--pool", "1"], &["--check", "tcp"]);
    pair.connect().expect_echo(b"hello");
    for (name, end) in pair.ends() {
        let metrics = metrics_address(&end.program);
        let of = |headers| http_with(&metrics, "GET", "/metrics", headers).body;
        let (text, open) = (of(""), of(OPENMETRICS));
        let samples = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let names = lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(samples(&text), samples(&open), "{name}");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let types: BTreeMap<_, _> =
            types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let mut expected = documented();
        expected
            .values_mut()
            .filter(|kind| *kind == "info")
            .for_each(|kind| *kind = "gauge".into());
        assert_eq!(types, expected, "{name}");
        assert_eq!(families(&open), documented(), "{name}");
        for line in text.lines().filter(|line| line.starts_with('#')) {
            assert!(line.starts_with("# HELP ") || line.starts_with("# TYPE "), "{line}");
        }
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut check = check.stdout(Stdio::piped()).spawn().unwrap();
        check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let checked = check.wait_with_output().unwrap();
        let found = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() && found.is_empty(), "{name}: {found}");
    }
}

/// Starts a server at which a scraper gets what `metrics` answers to one that asks for the older
/// format, regardless of its own request: Prometheus cannot be told before version 2.49.
fn older(metrics: Addr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let Answer { head, body, .. } = http_with(&metrics, "GET", "/metrics", OLDER);
            let _ = stream.get_mut().write_all(format!("{head}\r\n\r\n{body}").as_bytes());
        }
    });
    address
}

#[test]
fn prometheus_reads_either_form() {
    let echo = Target::echo();
    let pair = measured(echo.addr(), &[], &[]);
    pair.connect().expect_echo(b"hello");
    let metrics = metrics_address(&pair.encrypt.program);
    // OpenMetrics names a family without the end of its samples.
    for (target, family) in [
        (metrics.to_string(), "knockpipe_bytes"),
        (older(metrics.clone()), "knockpipe_bytes_total"),
    ] {
        let prometheus = Prometheus::start(&[target]);
        let sent = "knockpipe_bytes_total{direction=\"sent\"}";
        eventually("what was counted arrives", || {
            let found = prometheus.query(sent);
            found.len() == 1 && found[0]["value"][1] == "5"
        });
        let targets = prometheus.api("targets")["activeTargets"].clone();
        assert_eq!(targets[0]["lastError"], "", "{family}: {targets}");
        let told = prometheus.api(&format!("metadata?metric={family}"));
        assert_eq!(told[family][0]["type"], "counter", "{told}");
    }
}

/// With the real numbers: of one service all targets are down, of the other one of two,
/// and a process ends.
#[test]
fn alerts_tell_a_service_that_is_down_and_a_process_that_ended() {
    let ((nowhere, _held), (gone, _kept)) = (refusing(), refusing());
    let echo = Target::echo();
    let targets = [
        format!("one={nowhere}"),
        format!("one={gone}"),
        format!("two={nowhere}"),
        format!("two={}", echo.addr()),
    ];
    let mut args = vec!["--check", "tcp/1s"];
    targets.iter().for_each(|target| args.extend(["-t", target]));
    let pair = measured(echo.addr(), &[], &args);
    let addresses: Vec<String> =
        pair.ends().iter().map(|(_, end)| metrics_address(&end.program).to_string()).collect();
    let prometheus = Prometheus::start(&addresses);
    let alerts = || {
        let told = prometheus.query("ALERTS{alertname=~\"Knockpipe(Service|Target)?Down\"}");
        let named = told.iter().map(|alert| {
            let label = |name: &str| alert["metric"][name].as_str().unwrap_or("-").to_owned();
            [label("alertname"), label("severity"), label("service"), label("target")].join(" ")
        });
        let mut all: Vec<String> = named.collect();
        all.sort_unstable();
        all
    };
    let expected = ["KnockpipeServiceDown critical one -", "KnockpipeTargetDown warning two 0"];
    eventually("both are told, and nothing else", || alerts() == expected);
    pair.encrypt.program.signal(Signal::SIGKILL);
    let expected = [&["KnockpipeDown critical - -"][..], &expected].concat();
    eventually("so is the process", || alerts() == expected);
}
