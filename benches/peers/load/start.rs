//! From the start of the near end to the first byte echoed through it, the far
//! end being up: a little later than the first accept, which cannot be seen
//! from outside.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::{Bench, PATIENCE, dial_echo};
use crate::competitors::{Competitor, NearEnds};
use crate::results::{Figures, median};
use crate::target::ECHO;
use testkit::address::free_port;

const STARTS: usize = 5;

/// Interval between tries of a port that refuses.
const RETRY: Duration = Duration::from_micros(100);

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    let ends = NearEnds::before(of, &bench.files, bench.target.address())?;
    let times: Vec<f64> = (0..STARTS).map(|_| start(&ends)).collect::<anyhow::Result<_>>()?;
    Ok(vec![("ms", median(&times))])
}

fn start(ends: &NearEnds<'_>) -> anyhow::Result<f64> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let clock = Instant::now();
    let mut process = ends.start(listen)?;
    while dial_echo(listen, ECHO).is_err() {
        if let Some(log) = process.died() {
            bail!("it ends at once:\n{log}");
        }
        if clock.elapsed() > PATIENCE {
            bail!("it does not listen");
        }
        thread::sleep(RETRY);
    }
    Ok(clock.elapsed().as_secs_f64() * 1e3)
}
