//! Clients that connect, have one byte echoed, and close; each at once again.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, WARM_UP, dial_echo, micros};
use crate::competitors::{Competitor, Pair};
use crate::results::Figures;
use crate::target::{ECHO, Target};

/// Fewer than spiped's backlog of 10: beyond it, the kernel drops connects, and
/// clients try again a second later.
const CLIENTS: usize = 8;

/// Time until both ends have finished with the last connection.
const SETTLE: Duration = Duration::from_millis(100);

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    // A target of its own: the one before has left thousands of ports in TIME_WAIT.
    let target = Target::start(Ipv4Addr::LOCALHOST)?;
    let pair = Pair::start(of, &bench.files, target.address())?;
    connect_for(WARM_UP, pair.entrance())?;
    thread::sleep(SETTLE);
    let (cpu, clock) = (pair.cpu()?, Instant::now());
    let connections = connect_for(bench.time, pair.entrance())?;
    let time = clock.elapsed();
    thread::sleep(SETTLE);
    let cpu = micros(pair.cpu()? - cpu) / connections as f64;
    let mut figures = vec![("per second", connections as f64 / time.as_secs_f64())];
    if of != Competitor::Direct {
        figures.push(("CPU us", cpu));
    }
    Ok(figures)
}

fn connect_for(time: Duration, to: SocketAddr) -> anyhow::Result<usize> {
    let end = Instant::now() + time;
    let client = || {
        let mut connections = 0;
        while Instant::now() < end {
            dial_echo(to, ECHO)?;
            connections += 1;
        }
        anyhow::Ok(connections)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("clients do not panic")).sum()
    })
}
