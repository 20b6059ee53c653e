//! From connecting to the first byte echoed, over a link of 40 ms, in round
//! trips of that link.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, dial_echo};
use crate::competitors::{Competitor, Pair};
use crate::results::{Figures, median};
use crate::target::ECHO;

const CONNECTIONS: usize = 5;

/// Pause between two connections: a pool is full again.
const PAUSE: Duration = Duration::from_millis(300);

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    let link = bench.link();
    let pair = Pair::start_at(of, &bench.files, link.target(), link.sides())?;
    let times: Vec<f64> = link.sides()[0].run(|| {
        (0..CONNECTIONS).map(|_| first_byte(pair.entrance())).collect::<anyhow::Result<_>>()
    })?;
    Ok(vec![("round trips", median(&times) / link.round_trip().as_secs_f64())])
}

fn first_byte(to: SocketAddr) -> anyhow::Result<f64> {
    thread::sleep(PAUSE);
    let clock = Instant::now();
    dial_echo(to, ECHO)?;
    Ok(clock.elapsed().as_secs_f64())
}
