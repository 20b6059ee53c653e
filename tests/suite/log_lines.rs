//! The form of log lines: one rule for the values of a text line, which the documents keep to as
//! well, and objects in JSON for values with parts.

use super::docs::operating;

use std::io::Write;

use serde_json::{Value, json};
use testkit::{Launch, Target, Wire, any, eventually, keygen};

/// Returns the fields of a text line: the text behind the first blank before a `name=`.
fn fields(line: &str) -> Vec<(String, String)> {
    let mut found = vec![];
    let mut rest = line;
    while let Some(at) = rest.find('=') {
        let name = rest[..at].rsplit(' ').next().unwrap().to_owned();
        let value = &rest[at + 1..];
        let end = match value.strip_prefix('"') {
            None => value.find(' ').unwrap_or(value.len()),
            Some(quoted) => {
                let mut escaped = false;
                let is_end = |c: char| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                };
                quoted.find(is_end).unwrap_or_else(|| panic!("no end of {value}")) + 2
            }
        };
        found.push((name, value[..end].to_owned()));
        rest = &value[end..];
        assert!(rest.is_empty() || rest.starts_with(' '), "{line}");
    }
    found
}

/// A value is in quotes if it has to be, and otherwise not.
#[track_caller]
fn keeps_the_rule(line: &str) {
    for (name, value) in fields(line) {
        let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let is_odd = |c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\');
        match bare {
            Some(bare) => assert!(bare.is_empty() || bare.contains(is_odd), "{name}={value}"),
            None => assert!(!value.is_empty() && !value.contains(is_odd), "{name}={value}"),
        }
    }
}

/// Returns the log lines that a document shows, without time and level.
fn samples() -> Vec<String> {
    let text = operating();
    let levels = ["  INFO ", "  WARN ", "    INFO ", "    WARN "];
    let lines = text.lines().filter(|line| line.starts_with("    "));
    let behind = lines.filter_map(|line| {
        levels.iter().find_map(|level| line.split_once(level)).map(|(_, rest)| rest.to_owned())
    });
    let found: Vec<String> = behind.collect();
    assert!(found.len() > 5, "only {found:?}");
    found
}

fn sample(message: &str) -> String {
    let start = format!("{message} ");
    samples().into_iter().find(|line| line.starts_with(&start)).unwrap_or_else(|| {
        panic!("no sample of {message}");
    })
}

#[test]
fn values_of_text_lines_and_of_samples_in_documents_keep_one_rule() {
    samples().iter().for_each(|line| keeps_the_rule(line));
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let echo = Target::echo();
    let launch = Launch::decrypt(&key).source(&any()).target(echo.addr()).args(["-o", "1s"]);
    let named = ["-t", "two=/no/where", "-t", "three=/no/where"];
    let far = launch.args(named).text_log().start();
    let near = Launch::encrypt(&key).source(&any()).target(far.addr()).text_log().start();
    let mut client = near.connect();
    client.expect_echo(b"hello");
    drop(client);
    Wire::connect(far.addr()).unwrap().write_all(&[7; 300]).unwrap();
    eventually("all is told", || {
        let log = far.program.stderr();
        log.contains(" closed ") && log.contains(" refused ")
    });
    let log = far.program.stderr();
    for line in log.lines() {
        keeps_the_rule(line);
    }
    let line = |message: &str| {
        let word = format!(" {message} ");
        log.lines().find(|line| line.contains(&word)).unwrap_or_else(|| panic!("{message}: {log}"))
    };
    assert!(line("ready").contains(" mode=decrypt "), "{log}");
    assert!(line("refused").contains(" reasons=\"handshake-failed=1\" sources=1 "), "{log}");
    for message in ["sandbox", "ready", "closed", "refused"] {
        let names = |line: &str| fields(line).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(line(message)), names(&sample(message)), "the sample of {message}");
    }
}

#[test]
fn json_lines_have_objects_where_values_have_parts() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let echo = Target::echo();
    let launch = Launch::decrypt(&key).source(&any()).target(echo.addr()).args(["-o", "1s"]);
    let far = launch.args(["-t", "two=/no/1", "-t", "two=/no/2"]).start();
    Wire::connect(far.addr()).unwrap().write_all(&[7; 300]).unwrap();
    far.wait_refused("handshake-failed");
    let raw = |message: &str| -> Value {
        let log = far.program.stderr();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["message"] == message).unwrap()
    };
    assert_eq!(raw("refused")["reasons"], json!({"handshake-failed": 1}));
    assert_eq!(raw("refused")["count"], 1);
    let targets = json!({"": [echo.addr().to_string()], "two": ["/no/1", "/no/2"]});
    assert_eq!(raw("ready")["targets"], targets);
    let line = raw("ready");
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert!(keys.iter().any(|key| *key == "timestamp") && line["level"] == "INFO", "{line}");
}
