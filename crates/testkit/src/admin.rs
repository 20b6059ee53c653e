//! An operator's view of a process: its admin socket and its metrics.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::address::Addr;
use crate::end::{End, binary};
use crate::program::Program;
use crate::wire::Wire;

/// Returns the flags for metrics, on a free port, and for the admin socket at `path`.
pub fn doors(path: &Path) -> [String; 4] {
    ["--metrics".into(), ":0".into(), "--admin".into(), path.display().to_string()]
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Returns the address at which `program` serves metrics, by its log.
#[track_caller]
pub fn metrics_address(program: &Program) -> Addr {
    let line = program.wait_line("serving metrics", |line| line.is("serving metrics"));
    Addr::parse(&line.field("address").expect("it has an address")).expect("it is one")
}

/// Asks `method path` over HTTP; version 1.0, so that the answer ends with the connection.
#[track_caller]
pub fn http(addr: &Addr, method: &str, path: &str) -> Answer {
    http_with(addr, method, path, "")
}

/// Sends a request with further header lines, each with its line end.
#[track_caller]
pub fn http_with(addr: &Addr, method: &str, path: &str, headers: &str) -> Answer {
    let mut wire = Wire::connect(addr).unwrap_or_else(|e| panic!("cannot reach {addr}: {e}"));
    let request = format!("{method} {path} HTTP/1.0\r\nHost: test\r\n{headers}\r\n");
    wire.write_all(request.as_bytes()).expect("a request can be sent");
    let mut text = String::new();
    wire.read_to_string(&mut text).expect("an answer can be read to its end");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head:?}"));
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// The samples of an exposition by name with labels, as they are written.
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    #[track_caller]
    pub fn of(end: &End) -> Self {
        Self::at(&metrics_address(&end.program))
    }

    #[track_caller]
    pub fn at(addr: &Addr) -> Self {
        let answer = http(addr, "GET", "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
        Self(samples.map(sample).collect())
    }

    /// Returns a sample of the only tunnel, with `labels` such as `,reason="x"`.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &str) -> f64 {
        let whole = |mode| format!("knockpipe_{name}{{tunnel=\"{mode}\"{labels}}}");
        let encrypt = self.0.get(&whole("encrypt"));
        let decrypt = self.0.get(&whole("decrypt"));
        *encrypt.or(decrypt).unwrap_or_else(|| panic!("no {name} {labels}: {:?}", self.0.keys()))
    }

    /// Returns the sum of all samples of a family.
    pub fn sum(&self, name: &str) -> f64 {
        let begin = format!("knockpipe_{name}{{");
        self.0.iter().filter(|(key, _)| key.starts_with(&begin)).map(|(_, value)| value).sum()
    }
}

#[track_caller]
fn sample(line: &str) -> (String, f64) {
    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
    (name.to_owned(), value.parse().unwrap_or_else(|e| panic!("no number: {line:?}: {e}")))
}

/// The admin socket of a process, as the command line reaches it.
pub struct Admin(pub PathBuf);

impl Admin {
    /// Runs `knockpipe ARGS --admin PATH`.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(binary()).args(args).arg("--admin").arg(&self.0).output().expect("it starts")
    }

    /// Returns the output of `knockpipe ARGS`; panics unless the exit status is `status`.
    #[track_caller]
    pub fn says(&self, status: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).expect("it prints text")
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.says(0, &["status", "--json"])).expect("it prints JSON")
    }

    /// Returns the first tunnel of `status`.
    #[track_caller]
    pub fn tunnel(&self) -> Value {
        self.status()["tunnels"][0].clone()
    }

    #[track_caller]
    pub fn who(&self, args: &[&str]) -> Vec<Value> {
        let all: Vec<&str> = ["who", "--json"].iter().chain(args).copied().collect();
        let lines = self.says(0, &all);
        lines.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect()
    }

    /// Sends `line` unchanged and returns the answer.
    #[track_caller]
    pub fn raw(&self, line: &[u8]) -> String {
        let mut wire = Wire::connect(&Addr::Unix(self.0.clone())).expect("it listens");
        wire.write_all(line).expect("a line can be sent");
        wire.finish();
        let mut answer = String::new();
        wire.read_to_string(&mut answer).expect("an answer can be read to its end");
        answer
    }
}
