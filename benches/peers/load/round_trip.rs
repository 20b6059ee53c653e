//! One client that asks again as soon as it has its answer.

use std::time::Instant;

use super::{Bench, WARM_UP, dial_echo, micros, ping};
use crate::competitors::Competitor;
use crate::results::{Figures, quantile};
use crate::target::ECHO_ALONE;

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    let pair = bench.pair(of)?;
    let mut stream = dial_echo(pair.entrance(), ECHO_ALONE)?;
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        ping(&mut stream)?;
    }
    let mut times = Vec::with_capacity(1 << 18);
    let (cpu, end) = (pair.cpu()?, Instant::now() + bench.time);
    loop {
        let start = Instant::now();
        if start > end {
            break;
        }
        ping(&mut stream)?;
        times.push(micros(start.elapsed()));
    }
    let cpu = micros(pair.cpu()? - cpu) / times.len() as f64;
    let mut figures =
        vec![("p50 us", quantile(&mut times, 0.5)), ("p99 us", quantile(&mut times, 0.99))];
    if of != Competitor::Direct {
        figures.push(("CPU us", cpu));
    }
    Ok(figures)
}
