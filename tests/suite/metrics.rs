//! The metrics of real processes: the documented ones are there, the present ones are documented,
//! the numbers are exact, and Prometheus itself understands them, the alert rules and the
//! dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use knockpipe::reason::CloseReason;
use serde_json::Value;
use tempfile::TempDir;
use testkit::address::{free_port, refusing};
use testkit::admin::{Answer, Metrics, http, http_with, metrics_address};
use testkit::end::key_id;
use testkit::program::require;
use testkit::redis::Redis;
use testkit::tree::read;
use testkit::wait::poll;
use testkit::{
    Addr, End, Kind, Launch, NEVER, Pair, PairOptions, Program, Target, Wire, eventually, keygen,
};

/// Header that asks for OpenMetrics.
pub(super) const OPENMETRICS: &str = "Accept: application/openmetrics-text; version=1.0.0\r\n";

/// Attempts to start a server on a port that another process may take meanwhile.
const STARTS: usize = 5;

/// Starts a pair that serves metrics at both ends.
pub(super) fn measured(target: &Addr, encrypt: &[&str], decrypt: &[&str]) -> Pair {
    let options = PairOptions::both(&["--metrics", ":0"]).encrypt(encrypt).decrypt(decrypt);
    Pair::start(options, target)
}

/// Returns the names of the samples that an exposition has, or could have.
pub(super) fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        (format!("{name}{end}"), kind.to_owned())
    });
    named.collect()
}

/// Returns the metrics that docs/operating/metrics.md explains, with their kinds.
pub(super) fn documented() -> BTreeMap<String, String> {
    let text = read("docs/operating/metrics.md");
    let (_, section) = text.split_once("\n## Metrics\n").unwrap();
    let section = section.split("\n##").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `knockpipe_"));
    let cells = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    });
    let found: Vec<_> = cells.collect();
    let all: BTreeMap<_, _> = found.iter().cloned().collect();
    assert_eq!(all.len(), found.len(), "a metric stands there twice");
    assert!(all.len() > 30, "only {all:?}");
    all
}

/// Returns every `knockpipe_...` in `text`, histograms by their family.
fn named_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c)).filter(|word| word.starts_with("knockpipe_"));
    let family = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    words.map(family).collect()
}

#[test]
fn every_documented_metric_exists_and_every_metric_is_documented() {
    let pair = measured(Target::echo().addr(), &[], &[]);
    for (name, end) in pair.ends() {
        let metrics = metrics_address(&end.program);
        let answer = http_with(&metrics, "GET", "/metrics", OPENMETRICS);
        assert_eq!(families(&answer.body), documented(), "{name}: metrics.md says otherwise");
    }
}

#[test]
fn alerts_and_dashboard_use_only_metrics_that_exist() {
    let known: BTreeSet<String> = documented().into_keys().collect();
    for file in ["docs/alerts.yaml", "docs/grafana-dashboard.json"] {
        let used = named_in(&read(file));
        let invented: Vec<_> = used.difference(&known).collect();
        assert!(used.len() > 8, "{file}: only {used:?}");
        assert!(invented.is_empty(), "{file} invents {invented:?}");
    }
}

/// Returns the values with which `text` compares `label`, the alternatives of an expression one by
/// one.
fn compared(text: &str, label: &str) -> BTreeSet<String> {
    let text = text.replace("\\\"", "\"");
    let behind = text.match_indices(label).filter_map(|(at, _)| {
        let is_whole = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        is_whole.then(|| &text[at + label.len()..])
    });
    let operators = ["=\"", "!=\"", "=~\"", "!~\""];
    let values = behind.filter_map(|rest| {
        operators.iter().find_map(|operator| rest.strip_prefix(operator))?.split('"').next()
    });
    values.flat_map(|value| value.split('|')).map(str::to_owned).collect()
}

/// An alert on a label that was renamed is silent for ever.
#[test]
fn alerts_and_dashboard_compare_labels_with_values_that_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (nowhere, _held) = refusing();
    let end = gated(&dir, &format!("redis://{nowhere}"), &[]);
    let stances: BTreeSet<String> =
        Metrics::of(&end).0.keys().flat_map(|sample| compared(sample, "stance")).collect();
    let reasons = CloseReason::ALL.map(|reason| reason.as_str().to_owned()).into();
    for (label, known, least) in [("reason", &reasons, 10), ("stance", &stances, 1)] {
        assert!(compared(&read("docs/alerts.yaml"), label).len() >= least, "{label}");
        for file in ["docs/alerts.yaml", "docs/grafana-dashboard.json", "tests/alerts_test.yaml"] {
            let used = compared(&read(file), label);
            let invented: Vec<_> = used.difference(known).collect();
            assert!(invented.is_empty(), "{file} invents {label} {invented:?}");
        }
    }
}

#[test]
fn counts_are_exact_after_known_traffic() {
    const CLIENTS: u64 = 20;
    const BYTES: u64 = 1_000;
    let target = Target::echo();
    let pair = measured(target.addr(), &[], &["-o", "1s", "-n", "7"]);
    for _ in 0..CLIENTS {
        let mut client = pair.connect();
        client.expect_echo(&[3; BYTES as usize]);
        client.finish();
        client.expect_ending();
    }
    let mut stays = pair.connect();
    stays.expect_echo(&[4; BYTES as usize]);
    for _ in 0..3 {
        Wire::connect(pair.decrypt.addr()).unwrap().write_all(&[5; 300]).unwrap();
    }
    for (name, end) in pair.ends() {
        let strangers = if name == "decrypt" { 3.0 } else { 0.0 };
        eventually("all have ended", || {
            let now = Metrics::of(end);
            now.get("connections_closed_total", ",reason=\"finished\"") >= CLIENTS as f64
                && now.sum("connections_refused_total") >= strangers
        });
        let now = Metrics::of(end);
        let clients = (CLIENTS + 1) as f64;
        assert_eq!(now.get("connections_accepted_total", ""), clients + strangers, "{name}");
        assert_eq!(now.sum("connections_closed_total"), CLIENTS as f64, "{name}");
        assert_eq!(now.sum("connections_refused_total"), strangers, "{name}");
        let refused = now.get("connections_refused_total", ",reason=\"handshake-failed\"");
        assert_eq!(refused, strangers, "{name}");
        for direction in ["sent", "received"] {
            let bytes = now.get("bytes_total", &format!(",direction=\"{direction}\""));
            assert_eq!(bytes, clients * BYTES as f64, "{name}: those of the live one included");
        }
        for timer in ["handshake_seconds_count", "dial_seconds_count"] {
            assert_eq!(now.get(timer, ""), clients, "{name}: {timer}");
        }
        assert_eq!(now.get("sessions", ""), 1.0, "{name}");
        assert!(now.get("sessions_most", "") >= 1.0, "{name}");
        assert_eq!(now.get("listeners", ""), 1.0, "{name}");
        assert_eq!(now.get("key_ratchets_total", ""), 0.0, "{name}");
    }
    let decrypt = Metrics::of(&pair.decrypt);
    assert_eq!(decrypt.get("sessions_limit", ""), 7.0);
    assert!((1.0..=4.0).contains(&decrypt.get("handshakes_most", "")));
    assert_eq!(decrypt.0["knockpipe_ready"], 1.0);
    assert!(decrypt.0["knockpipe_descriptors_open"] > 5.0);
    assert!(decrypt.0["knockpipe_descriptors_limit"] >= decrypt.0["knockpipe_descriptors_open"]);
}

#[test]
fn what_cannot_be_reached_is_counted_by_its_reason_once() {
    let (nowhere, _held) = refusing();
    let pair = measured(&nowhere, &[], &[]);
    for _ in 0..4 {
        pair.connect().read_to_ending(NEVER);
    }
    for (_, end) in pair.ends() {
        eventually("all four are counted", || {
            let now = Metrics::of(end);
            now.get("connections_closed_total", ",reason=\"target-refused\"") == 4.0
        });
        let now = Metrics::of(end);
        assert_eq!(now.sum("connections_closed_total"), 4.0);
        assert_eq!(now.sum("connections_refused_total"), 0.0);
        assert_eq!(now.get("connections_accepted_total", ""), 4.0);
    }
    let mut pair = pair;
    pair.decrypt.stop();
    for _ in 0..3 {
        pair.connect().read_to_ending(NEVER);
    }
    let now = Metrics::of(&pair.encrypt);
    // The first is logged in full, and lines `refused` count the others.
    assert_eq!(now.get("connections_closed_total", ",reason=\"peer-unreachable\""), 1.0);
    assert_eq!(now.get("connections_refused_total", ",reason=\"peer-unreachable\""), 2.0);
    assert_eq!(now.sum("connections_refused_total"), 2.0, "not counted a second time");
}

#[test]
fn a_pool_counts_its_tunnels_and_the_clients_that_found_none() {
    let target = Target::echo();
    let pair = measured(target.addr(), &["--pool", "2"], &[]);
    let pool = |name: &str| Metrics::of(&pair.encrypt).get(&format!("pool_{name}"), "");
    eventually("the pool is full", || pool("warm") == 2.0);
    assert_eq!(pool("size"), 2.0);
    eventually("the far end has them", || Metrics::of(&pair.decrypt).get("unopened", "") == 2.0);
    let mut client = pair.connect();
    client.expect_echo(b"warm");
    assert_eq!((pool("taken_total"), pool("missed_total")), (1.0, 0.0));
    let mut pair = pair;
    pair.decrypt.program.signal(nix::sys::signal::Signal::SIGKILL);
    pair.decrypt.program.wait();
    eventually("it is empty, and that was noticed", || {
        let now = Metrics::of(&pair.encrypt);
        now.get("pool_warm", "") == 0.0 && now.get("pool_failed_total", "") >= 2.0
    });
    pair.connect().read_to_ending(NEVER);
    assert_eq!(Metrics::of(&pair.encrypt).get("pool_missed_total", ""), 1.0);
}

/// Starts a decrypt end with a gate.
fn gated(dir: &TempDir, gate: &str, args: &[&str]) -> End {
    let at = tempfile::tempdir_in(dir.path()).unwrap().keep();
    let key = keygen(&at, "key");
    Launch::decrypt(&key)
        .source(&Kind::Tcp4.fresh(dir.path(), ""))
        .target(&Addr::parse("127.0.0.1:1").unwrap())
        .args(["--metrics", ":0", "--gate", gate, "--internal", "check"])
        .args(args)
        .start()
}

#[test]
fn readiness_goes_by_what_the_gate_admits_and_metrics_show_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let (nowhere, _held) = refusing();
    let away = format!("redis://{nowhere}");
    let closed = gated(&dir, &away, &[]);
    let ready = |end: &End| http(&metrics_address(&end.program), "GET", "/readyz");
    let Answer { status, body, .. } = ready(&closed);
    assert_eq!((status, body.contains("store is unavailable")), (503, true), "{body}");
    assert_eq!(Metrics::of(&closed).get("gate_stance", ",stance=\"closed\""), 1.0);
    let open = gated(&dir, &away, &["--gate-failure", "open"]);
    assert_eq!(ready(&open).status, 200);
    assert_eq!(Metrics::of(&open).get("gate_stance", ",stance=\"open\""), 1.0);
    let redis = Redis::start();
    redis.ask("SADD ip-allowed 192.0.2.1 192.0.2.2 198.51.100.0/24");
    let followed = gated(&dir, &redis.url(), &["-o", "1s"]);
    eventually("its store is read", || ready(&followed).status == 200);
    Wire::connect(followed.addr()).unwrap().read_to_ending(NEVER);
    eventually("who was denied is counted", || {
        Metrics::of(&followed).get("gate_denied_total", "") == 1.0
    });
    let now = Metrics::of(&followed);
    assert_eq!(now.get("gate_stance", ",stance=\"fresh\""), 1.0);
    assert_eq!((now.get("gate_addresses", ""), now.get("gate_networks", "")), (2.0, 1.0));
    assert!(now.get("gate_read_age_seconds", "") >= 0.0);
    assert_eq!(now.get("connections_refused_total", ",reason=\"gate-denied\""), 1.0);
}

#[test]
fn it_is_alive_but_not_ready_until_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let waiting = Launch::decrypt(&key)
        .args(["-s", "nowhere.invalid:1", "-t", "127.0.0.1:1", "-D", "--metrics", ":0"])
        .spawn();
    let metrics = metrics_address(&waiting);
    assert_eq!(http(&metrics, "GET", "/healthz").status, 200);
    let Answer { status, body, .. } = http(&metrics, "GET", "/readyz");
    assert_eq!((status, body.contains("starting")), (503, true), "{body}");
    assert_eq!(Metrics::at(&metrics).0["knockpipe_ready"], 0.0);
}

#[test]
fn http_is_answered_as_it_should_be_and_no_further() {
    let pair = measured(Target::echo().addr(), &[], &[]);
    let metrics = metrics_address(&pair.encrypt.program);
    assert_eq!(metrics.tcp().ip().to_string(), "127.0.0.1", "a port alone is loopback");
    let head = http(&metrics, "HEAD", "/metrics");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(http(&metrics, "GET", "/other").status, 404);
    let post = http(&metrics, "POST", "/metrics");
    assert_eq!((post.status, post.head.contains("allow: GET, HEAD")), (405, true), "{post:?}");
    // Four times the limit of a header, and not at its end yet.
    let endless = format!("GET /healthz HTTP/1.0\r\nX: {}", "x".repeat(64 * 1024));
    let mut wire = Wire::connect(&metrics).unwrap();
    // It may be refused before all of it is sent.
    let _ = wire.write_all(endless.as_bytes());
    let (refusal, _) = wire.read_to_ending(NEVER);
    let refusal = String::from_utf8(refusal).unwrap();
    assert!(
        refusal.starts_with("HTTP/1.0 431 ") || refusal.starts_with("HTTP/1.1 431 "),
        "{refusal}"
    );
    assert_eq!(http(&metrics, "GET", "/healthz").body, "alive\n");
}

#[test]
fn no_label_is_an_address_a_client_or_a_key() {
    let target = Target::echo();
    let pair = measured(target.addr(), &[], &["--check", "tcp"]);
    let mut client = pair.connect();
    client.expect_echo(b"somebody");
    let id = key_id(pair.key());
    let labels = [
        "aead",
        "direction",
        "le",
        "mode",
        "reason",
        "service",
        "stance",
        "target",
        "tunnel",
        "version",
    ];
    for (_, end) in pair.ends() {
        let text = http(&metrics_address(&end.program), "GET", "/metrics").body;
        assert!(!text.contains("127.0.0.1") && !text.contains(&id), "{text}");
        for word in text.split(['{', ',']).filter_map(|part| part.split_once("=\"")) {
            assert!(labels.contains(&word.0), "another label: {}", word.0);
        }
    }
}

// === Prometheus ===

/// A Prometheus that scrapes both ends of a pair and follows the alert rules.
pub(super) struct Prometheus {
    addr: Addr,
    _program: Program,
    _dir: TempDir,
}

impl Prometheus {
    pub(super) fn start(targets: &[String]) -> Self {
        require("prometheus", "prometheus");
        let dir = tempfile::tempdir().unwrap();
        let rules = fs::canonicalize("docs/alerts.yaml").unwrap();
        let config = serde_json::json!({
            "global": { "scrape_interval": "200ms", "evaluation_interval": "200ms" },
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "knockpipe",
                "scrape_timeout": "200ms",
                "static_configs": [{ "targets": targets }],
            }],
        });
        // JSON is YAML.
        fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        for _ in 0..STARTS {
            let addr = Addr::Tcp(([127, 0, 0, 1], free_port()).into());
            let mut command = Command::new("prometheus");
            command.arg("--config.file").arg(dir.path().join("prometheus.yml"));
            command.arg("--storage.tsdb.path").arg(dir.path().join("data"));
            command.arg(format!("--web.listen-address={addr}"));
            let command = command.stdin(Stdio::null()).stdout(Stdio::null());
            let mut program = Program::spawn("prometheus", command);
            let up = poll(NEVER, || {
                let answers = Wire::connect(&addr).is_ok();
                let ready = answers && http(&addr, "GET", "/-/ready").status == 200;
                (ready || !program.is_running()).then_some(ready)
            });
            if up == Some(true) {
                return Self { addr, _program: program, _dir: dir };
            }
        }
        panic!("prometheus does not start");
    }

    /// Returns the answer of its API at `path`.
    #[track_caller]
    pub(super) fn api(&self, path: &str) -> Value {
        let body = http(&self.addr, "GET", &format!("/api/v1/{path}")).body;
        let answer: Value = serde_json::from_str(&body).expect("it answers JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// Returns the answer to a query; panics when Prometheus does not understand it.
    #[track_caller]
    pub(super) fn query(&self, query: &str) -> Vec<Value> {
        let encoded = query.bytes().fold(String::new(), |all, byte| all + &format!("%{byte:02x}"));
        self.api(&format!("query?query={encoded}"))["result"].as_array().unwrap().clone()
    }
}

/// Returns every query of the dashboard, its variables replaced.
fn dashboard_queries(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("expr", Value::String(query)) => {
                    let query = query.replace("$__rate_interval", "1m");
                    vec![query.replace("$tunnel", ".*").replace("$instance", ".*")]
                }
                _ => dashboard_queries(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(dashboard_queries).collect(),
        _ => vec![],
    }
}

#[test]
fn prometheus_reads_the_metrics_the_alerts_and_the_dashboard() {
    require("promtool", "prometheus");
    let checked = Command::new("promtool").args(["check", "rules", "docs/alerts.yaml"]).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let tested =
        Command::new("promtool").args(["test", "rules", "tests/alerts_test.yaml"]).output();
    let tested = tested.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
    let target = Target::echo();
    let pair = measured(target.addr(), &["--pool", "1"], &[]);
    let mut client = pair.connect();
    client.expect_echo(b"hello");
    let targets: Vec<String> =
        pair.ends().iter().map(|(_, end)| metrics_address(&end.program).to_string()).collect();
    let prometheus = Prometheus::start(&targets);
    eventually("both are scraped", || prometheus.query("up == 1").len() == 2);
    for target in prometheus.api("targets")["activeTargets"].as_array().unwrap() {
        assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()));
    }
    let sent = "sum by (tunnel) (knockpipe_bytes_total{direction=\"sent\"})";
    eventually("what was counted arrives", || {
        let found = prometheus.query(sent);
        found.len() == 2 && found.iter().all(|one| one["value"][1] == "5")
    });
    let dashboard = serde_json::from_str(&read("docs/grafana-dashboard.json")).unwrap();
    let queries = dashboard_queries(&dashboard);
    assert!(queries.len() > 10, "only {queries:?}");
    assert!(queries.iter().any(|query| query.starts_with("knockpipe_target_up{")), "{queries:?}");
    for query in queries {
        prometheus.query(&query);
    }
    eventually("every rule was evaluated", || {
        let groups = prometheus.api("rules")["groups"].clone();
        let rules = groups.as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
        let health: Vec<&Value> = rules.map(|rule| &rule["health"]).collect();
        assert!(health.len() > 5 && !health.contains(&&"err".into()), "{groups}");
        health.iter().all(|health| **health == "ok")
    });
}
