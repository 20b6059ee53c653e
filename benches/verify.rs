//! The question of proxies whether a client may pass, answered by `knockd` with a million addresses
//! in its set, beside the Knocker, in one run.
//!
//! `cargo bench --bench verify -- --knocker-dir DIR --uvicorn PROGRAM`; needs wrk, redis-server, the
//! source of the Knocker and a uvicorn with its packages. Without them ours is measured alone. The
//! two take turns within a round; the median of the rounds counts.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "what it measured is for a person to read")]

#[path = "common/wrk.rs"]
mod wrk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use tempfile::TempDir;
use testkit::Launch;
use testkit::address::free_port;
use testkit::program::require;
use testkit::redis::{MILLION, Redis, Reply};

use wrk::{Competitor, Load, Turns, start, stop};

/// Options of the command line.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    turns: Turns,

    /// Directory with the source of the Knocker
    #[arg(long, requires = "uvicorn")]
    knocker_dir: Option<PathBuf>,

    /// Program that runs it
    #[arg(long)]
    uvicorn: Option<PathBuf>,
}

/// The client that proxies ask about, and their header.
const CLIENT: &str = "198.51.100.7";
const HEADER: &str = "X-Forwarded-For: 198.51.100.7";

/// Entries in the list of the Knocker, which are the most by its defaults.
const ENTRIES: usize = 10_000;

fn main() {
    let arguments = Arguments::parse();
    require("wrk", "wrk");
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let redis = Redis::start();
    assert_eq!(redis.direct().ask(&["EVAL", MILLION, "0"]), Reply::Number(1_010_000));
    redis.ask(&format!("SADD ip-allowed {CLIENT}"));
    let mut all = vec![ours(&dir, &redis)];
    if let (Some(source), Some(uvicorn)) = (&arguments.knocker_dir, &arguments.uvicorn) {
        all.push(knocker(&dir, source, uvicorn));
    }
    wrk::print_head(&all);
    for (name, connections) in [("64 connections", 64), ("1 connection", 1)] {
        let load = Load { name, path: "/verify", connections, header: Some(HEADER) };
        wrk::compare(&load, &all, &arguments.turns);
    }
    all.into_iter().filter_map(|it| it.program).for_each(stop);
}

fn ours(dir: &TempDir, redis: &Redis) -> Competitor {
    let tokens = dir.path().join("tokens");
    let mut token = Command::new(testkit::binary());
    token.args(["knockd", "token", "new", "one", "--tokens"]).arg(&tokens);
    assert!(token.output().unwrap().status.success());
    let launch = Launch::new("knockd")
        .args(["-s", "127.0.0.1:0", "--trusted-proxies", "127.0.0.1", "--tokens"])
        .args([&tokens])
        .args(["--gate", &redis.url()]);
    let service = launch.start();
    let synced = service.program.wait_line("it", |line| line.is("gate store synced"));
    assert!(synced.number("addresses").unwrap() > 1_000_000);
    let port = service.addr().tcp().port();
    Competitor { name: "knockpipe", port, program: Some(service.program) }
}

/// Starts the Knocker as its image does, but without a log of each request.
fn knocker(dir: &TempDir, source: &Path, uvicorn: &Path) -> Competitor {
    let port = free_port();
    let list = dir.path().join("whitelist.json");
    let end = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 86_400;
    let others = (1..ENTRIES).map(|n| format!("\"10.0.{}.{}\": {end}", n / 256, n % 256));
    let client = std::iter::once(format!("\"{CLIENT}\": {end}"));
    let entries: Vec<String> = client.chain(others).collect();
    fs::write(&list, format!("{{{}}}", entries.join(","))).unwrap();
    let config = dir.path().join("knocker.yaml");
    let text = format!(
        "server:\n  trusted_proxies: [127.0.0.1]\nwhitelist:\n  storage_path: {}\n\
         logging:\n  level: WARNING\napi_keys:\n  - name: one\n    key: \"{}\"\n    \
         max_ttl: 3600\n    allow_remote_whitelist: false\n",
        list.display(),
        "5c0d4b1d77e09c8e".repeat(4),
    );
    fs::write(&config, text).unwrap();
    // It runs in another directory than this one; a name is looked up as ever.
    let uvicorn = fs::canonicalize(uvicorn).unwrap_or_else(|_| uvicorn.to_owned());
    let mut command = Command::new(uvicorn);
    command.args(["src.main:create_app", "--factory", "--host", "127.0.0.1", "--no-proxy-headers"]);
    command.args(["--no-access-log", "--port", &port.to_string()]);
    command.current_dir(source).env("KNOCKER_CONFIG_PATH", config);
    Competitor { name: "Knocker", port, program: Some(start("Knocker", &mut command, port)) }
}
