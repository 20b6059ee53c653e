//! 32 clients with small requests, without and with a bulk connection beside
//! them. Once each of them asks as soon as it has its answer, so that the
//! machine is busy either way; once each asks a hundred times a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::bulk::Bulk;
use super::{Bench, WARM_UP, dial_echo, micros, ping};
use crate::competitors::Competitor;
use crate::results::{Figures, quantile};
use crate::target::ECHO;

const CLIENTS: u32 = 32;

/// Pause between two requests of a client that is not in a hurry.
const PACE: Duration = Duration::from_millis(10);

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    let pair = bench.pair(of)?;
    let to = pair.entrance();
    let (busy, paced) = (p99(to, bench.time, None)?, p99(to, bench.time, Some(PACE))?);
    let _bulk = Bulk::start(to, true, &Arc::default())?;
    thread::sleep(WARM_UP);
    let (busy_beside, paced_beside) =
        (p99(to, bench.time, None)?, p99(to, bench.time, Some(PACE))?);
    Ok(vec![
        ("busy p99 us", busy),
        ("busy p99 us, with bulk", busy_beside),
        ("busy, times", busy_beside / busy),
        ("paced p99 us", paced),
        ("paced p99 us, with bulk", paced_beside),
        ("paced, times", paced_beside / paced),
    ])
}

fn p99(to: SocketAddr, time: Duration, pace: Option<Duration>) -> anyhow::Result<f64> {
    let end = Instant::now() + time;
    let client = |number: u32| move || requests(to, end, pace, number);
    let each: Vec<anyhow::Result<Vec<f64>>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        clients.into_iter().map(|client| client.join().expect("clients do not panic")).collect()
    });
    let times: anyhow::Result<Vec<Vec<f64>>> = each.into_iter().collect();
    Ok(quantile(&mut times?.concat(), 0.99))
}

/// Measures the time of each request of one client.
fn requests(
    to: SocketAddr,
    end: Instant,
    pace: Option<Duration>,
    number: u32,
) -> anyhow::Result<Vec<f64>> {
    let mut stream = dial_echo(to, ECHO)?;
    let mut times = vec![];
    // Not all at the same moment.
    thread::sleep(pace.unwrap_or_default() * number / CLIENTS);
    let mut next = Instant::now();
    while next < end {
        let start = Instant::now();
        ping(&mut stream)?;
        times.push(micros(start.elapsed()));
        let Some(pace) = pace else {
            next = Instant::now();
            continue;
        };
        next += pace;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(times)
}
