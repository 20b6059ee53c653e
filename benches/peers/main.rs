//! A pair of ours beside pairs of haproxy, spiped and stunnel, and beside no
//! relay at all, in one run on one machine.
//!
//! `make bench-peers` measures everything and writes it down. For a part:
//! `cargo bench --bench peers -- --rows bulk,rtt --rounds 1`. The rounds of a
//! row take turns between the competitors, so that what else happens on the
//! machine hits all of them; what counts is the median, and the ratio.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark tells how far it is, and may print its results"
)]

mod chart;
mod competitors;
mod goals;
mod link;
mod load;
mod machine;
mod process;
mod report;
mod results;
mod rows;
mod target;
mod usage;

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;

use competitors::Competitor;
use load::Bench;
use results::Results;
use rows::Row;

/// Options of the command line.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows to measure, by the begin of their names; all of them unless given
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,

    /// Competitors to measure, by the begin of their names; all of them unless given
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Number of measurements of each competitor in each row
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Duration of one measurement of a steady load, in seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,

    /// Time for which 8,000 connections are held, in seconds
    #[arg(long, default_value_t = 60.0)]
    many_seconds: f64,

    /// No further row begins after so many minutes
    #[arg(long, default_value_t = 20.0)]
    limit_minutes: f64,

    /// Write docs/BENCHMARKS.md and its chart, instead of the same below target/
    #[arg(long)]
    write: bool,

    /// List the rows and measure nothing
    #[arg(long)]
    list: bool,

    /// Passed by `cargo bench` to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let rows: Vec<Row> = rows::all().into_iter().filter(|row| arguments.wants(row)).collect();
    if arguments.list {
        rows.iter().for_each(|row| println!("{}", row.name));
        return Ok(());
    }
    // Clients and target of 8,000 connections are this one process.
    testkit::proc::need_descriptors(16_500);
    let seconds = Duration::from_secs_f64(arguments.seconds);
    let many = Duration::from_secs_f64(arguments.many_seconds);
    let bench = Bench::new(seconds, many)?;
    let mut results = Results::default();
    let end = Instant::now() + Duration::from_secs_f64(arguments.limit_minutes * 60.0);
    for row in &rows {
        if Instant::now() > end {
            eprintln!("no time is left for {}", row.name);
            continue;
        }
        measure(row, &arguments, &bench, &mut results);
    }
    let page = report::page(&results, &rows);
    println!("{page}");
    let (chart, document) = if arguments.write {
        ("docs/bench-peers.svg", "docs/BENCHMARKS.md")
    } else {
        ("target/bench-peers.svg", "target/bench-peers.md")
    };
    chart::draw(&results, Path::new(chart))?;
    report::write(&page, Path::new(document))?;
    println!("written: {document}, {chart}");
    Ok(())
}

/// Measures all rounds of one row.
fn measure(row: &Row, arguments: &Arguments, bench: &Bench, results: &mut Results) {
    for round in 1..=arguments.rounds.min(row.most_rounds) {
        for &competitor in row.competitors.iter().filter(|c| arguments.allows(**c)) {
            match row.load.measure(bench, competitor) {
                Ok(figures) => {
                    eprintln!("{} {round} {}: {figures:.2?}", row.name, competitor.name());
                    results.add(row.name, competitor, figures);
                }
                // The others can still be compared; the table shows the gap.
                Err(error) => {
                    eprintln!("{} {round} {}: FAILED {error:#}", row.name, competitor.name());
                }
            }
        }
    }
}

impl Arguments {
    fn wants(&self, row: &Row) -> bool {
        chosen(&self.rows, row.name)
    }

    fn allows(&self, competitor: Competitor) -> bool {
        chosen(&self.only, competitor.name())
    }
}

fn chosen(starts: &[String], name: &str) -> bool {
    starts.is_empty() || starts.iter().any(|start| name.starts_with(start.as_str()))
}
