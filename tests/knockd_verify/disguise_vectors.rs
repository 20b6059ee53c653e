//! The recorded answers of Knockdoor, or the better ones, case by case.
//!
//! A rule of its firewall is an entry of the store here, with the label of its description.

use std::collections::BTreeMap;

use serde_json::Value;
use tempfile::TempDir;
use testkit::Addr;
use testkit::redis::Redis;
use testkit::tree::read;

use super::disguise::{Door, grants, write_secret};
use super::http::{Answer, exchange, request};

/// The entries that there should be: addresses with the labels of their notes.
type Entries = BTreeMap<String, Option<String>>;

/// Address for which Knockdoor makes no rule, as every host may call itself. An entry in a store
/// does no harm.
const ITSELF: &str = "127.0.0.1";

/// Longest label of a rule: its description has 64 characters at most. An entry may have more.
const MOST_LABEL: usize = 64 - "Knockd-".len() - "@@20200101".len();

/// Label of rules that were asked for without one.
const NO_LABEL: &str = "DEFAULT";

#[test]
fn every_case_of_knockdoor_is_answered_as_recorded_or_better() {
    let vectors: Value = serde_json::from_str(&read("tests/vectors/knockdoor-http.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let mut run = 0;
    for (name, config) in vectors["configs"].as_object().unwrap() {
        let redis = Redis::start();
        let dir = TempDir::new().unwrap();
        let door = start(&redis, &dir, config);
        for case in cases.iter().filter(|case| case["config"] == *name.as_str()) {
            check_case(&redis, door.addr(), case);
            run += 1;
        }
    }
    assert_eq!(run, 29, "each case belongs to a config");
}

fn start(redis: &Redis, dir: &TempDir, config: &Value) -> Door {
    let text = |name: &str| config[name].as_str().unwrap();
    let secret = dir.path().join("secret");
    write_secret(&secret, text("referer"));
    let mut args = vec!["--disguise", text("path")];
    args.extend(["--disguise-body", text("text_failure")]);
    args.extend(["--disguise-success", text("text_success")]);
    let proxies = config["trusted_proxies"][0].as_str().unwrap();
    match text("client_ip") {
        "peer" => {}
        "forwarded" => {
            args.extend(["--trusted-proxies", proxies, "--disguise-address-header", "X-Real-IP"]);
        }
        "claimed" => args.extend(["--disguise-claim-header", "ip"]),
        other => panic!("{other}"),
    }
    Door::start(redis, &secret, &args)
}

fn check_case(redis: &Redis, door: &Addr, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let mut present = Entries::new();
    for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        if let Some(rules) = step.get("clear") {
            redis.ask("FLUSHALL");
            present = entries(rules);
            continue;
        }
        let place = format!("{name}, step {number}: {step}");
        let answer =
            Answer::parse(&exchange(step["peer"].as_str().unwrap(), door, &request_of(step)));
        let alternatives = match &step["better"] {
            Value::Null => vec![step],
            better => better["either"]
                .as_array()
                .map_or_else(|| vec![better], |either| either.iter().collect()),
        };
        let made = made(redis);
        let is_as = |wanted: &&Value| {
            let rules = wanted.get("rules").or_else(|| step.get("rules"));
            answers(&answer, &wanted["expect"]) && has(&made, &present, rules)
        };
        assert!(alternatives.iter().any(is_as), "{place}\n{answer:?}\n{made:?}");
        assert!(answer.header("server").is_empty(), "{place}");
    }
}

/// Returns the entries of the store as rules would have them.
fn made(redis: &Redis) -> Entries {
    let cut = |label: String| label.chars().take(MOST_LABEL).collect();
    let label = |label: Option<String>| label.filter(|label| label != NO_LABEL).map(cut);
    let all = grants(redis).into_iter().filter(|(ip, _)| ip != ITSELF);
    all.map(|(ip, of)| (ip, label(of))).collect()
}

fn request_of(step: &Value) -> Vec<u8> {
    let headers = step["headers"].as_array().unwrap().iter();
    let line = |header: &Value| {
        format!("{}: {}", header[0].as_str().unwrap(), header[1].as_str().unwrap())
    };
    let lines: Vec<String> =
        std::iter::once("Host: knock.test".to_owned()).chain(headers.map(line)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    request(step["method"].as_str().unwrap(), step["path"].as_str().unwrap(), &lines)
}

fn answers(answer: &Answer, expect: &Value) -> bool {
    let text = if expect["empty"] == true { "" } else { expect["text"].as_str().unwrap() };
    let headers = expect["headers"].as_object();
    let has_headers = headers.into_iter().flatten().all(|(name, value)| match value.as_str() {
        Some(value) => answer.header(name) == [value],
        None => answer.header(name).is_empty(),
    });
    expect["status"] == answer.status && answer.body == text && has_headers
}

/// Returns whether the entries that were made are the rules that are new; all are where `rules` say
/// nothing.
fn has(made: &Entries, before: &Entries, rules: Option<&Value>) -> bool {
    let Some(rules) = rules.filter(|rules| !rules.is_null()) else { return true };
    let wanted = entries(rules)
        .into_iter()
        .filter(|(ip, _)| !before.contains_key(ip) || made.contains_key(ip));
    *made == wanted.collect()
}

/// Returns the entries that stand for rules.
fn entries(rules: &Value) -> Entries {
    let entry = |rule: &Value| {
        let description = rule[1].as_str().unwrap();
        let (label, _) = description.rsplit_once("@@").unwrap_or((description, ""));
        let label = label.split_once('-').map_or(label, |(_, label)| label);
        let label = (!matches!(label, "" | NO_LABEL)).then(|| label.to_owned());
        (rule[0].as_str().unwrap().to_owned(), label)
    };
    rules.as_array().unwrap().iter().map(entry).collect()
}
