//! redis-benchmark, in its usual form.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, ensure};

use super::{Bench, micros};
use crate::competitors::{Competitor, Pair};
use crate::results::Figures;

/// Parameters of the requests to Redis.
pub(super) struct Requests {
    pub(super) pipeline: u32,
    /// Bytes of the value.
    pub(super) size: u32,
    pub(super) number: u32,
}

pub(super) fn measure(
    bench: &Bench,
    of: Competitor,
    requests: Requests,
) -> anyhow::Result<Figures> {
    let redis = bench.redis().tcp().tcp();
    let few = Requests { pipeline: 1, number: 1, size: requests.size };
    run(redis, "set", 1, &few)?;
    let pair = Pair::start(of, &bench.files, redis)?;
    run(pair.entrance(), "get", 50, &Requests { number: requests.number / 10, ..requests })?;
    let cpu = pair.cpu()?;
    let rate = run(pair.entrance(), "get", 50, &requests)?;
    let cpu = micros(pair.cpu()? - cpu) / f64::from(requests.number);
    let mut figures = vec![("ops/s", rate)];
    if of != Competitor::Direct {
        figures.push(("CPU us", cpu));
    }
    Ok(figures)
}

/// Requests per second.
fn run(to: SocketAddr, test: &str, clients: u32, requests: &Requests) -> anyhow::Result<f64> {
    let mut command = Command::new("timeout");
    command
        .args(["60", "redis-benchmark", "--csv", "-t", test])
        .args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()])
        .args(["-c", &clients.to_string(), "-n", &requests.number.to_string()])
        .args(["-P", &requests.pipeline.to_string(), "-d", &requests.size.to_string()]);
    let output = command.output().context("cannot start redis-benchmark")?;
    ensure!(output.status.success(), "redis-benchmark: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    // "GET","44000.12","1.1",...
    let line = text.lines().find(|line| line.starts_with(&format!("\"{}\"", test.to_uppercase())));
    let rate = line.and_then(|line| line.split(',').nth(1)).context("no line of results")?;
    Ok(rate.trim_matches('"').parse()?)
}
