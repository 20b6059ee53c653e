//! Cost of connections that were used once and wait.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::{Bench, dial_echo};
use crate::competitors::Competitor;
use crate::results::Figures;
use crate::target::ECHO;

const CONNECTIONS: usize = 4000;

/// Clients that open connections at the same time; fewer than spiped's backlog of 10.
const CLIENTS: usize = 8;

/// Time until all that is returned when idle has been returned.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(bench: &Bench, of: Competitor) -> anyhow::Result<Figures> {
    let pair = bench.pair(of)?;
    let before = pair.memory_kib()?;
    let held = open(pair.entrance())?;
    thread::sleep(SETTLE);
    let more = pair.memory_kib()? - before;
    Ok(vec![("KiB", more / held.len() as f64)])
}

/// Opens all connections; each had one byte echoed.
fn open(to: SocketAddr) -> anyhow::Result<Vec<TcpStream>> {
    let client = || (0..CONNECTIONS / CLIENTS).map(|_| dial_echo(to, ECHO)).collect();
    let each: Vec<anyhow::Result<Vec<_>>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("clients do not panic")).collect()
    });
    let held: anyhow::Result<Vec<Vec<_>>> = each.into_iter().collect();
    Ok(held?.into_iter().flatten().collect())
}
