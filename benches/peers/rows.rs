//! The rows of the table: each load, and the competitors measured under it.

use crate::competitors::Competitor;
use crate::load::Load;

/// One load and its competitors.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) load: Load,
    pub(crate) competitors: &'static [Competitor],
    pub(crate) most_rounds: usize,
}

const ANY: usize = usize::MAX;

/// All competitors without a pool.
const ALL: &[Competitor] = &[
    Competitor::Direct,
    Competitor::Haproxy,
    Competitor::HaproxyTls,
    Competitor::Spiped,
    Competitor::StunnelAes,
    Competitor::StunnelChacha,
    Competitor::Knockpipe,
    Competitor::KnockpipeChacha,
];

/// Competitors where the cipher makes no difference worth a row.
const USUAL: &[Competitor] = &[
    Competitor::Direct,
    Competitor::Haproxy,
    Competitor::HaproxyTls,
    Competitor::Spiped,
    Competitor::StunnelAes,
    Competitor::Knockpipe,
];

/// Competitors that are processes.
const PAIRS: &[Competitor] = &[
    Competitor::Haproxy,
    Competitor::HaproxyTls,
    Competitor::Spiped,
    Competitor::StunnelAes,
    Competitor::Knockpipe,
];

/// For loads without a comparison.
const OURS: &[Competitor] = &[Competitor::Knockpipe];

/// Competitors where a pool makes a difference.
const LINK: &[Competitor] = &[
    Competitor::Direct,
    Competitor::Haproxy,
    Competitor::HaproxyTls,
    Competitor::Spiped,
    Competitor::StunnelAes,
    Competitor::Knockpipe,
    Competitor::KnockpipePool,
];

pub(crate) fn all() -> Vec<Row> {
    let up = |connections| Load::Bulk { up: true, connections };
    let down = |connections| Load::Bulk { up: false, connections };
    let redis = |pipeline, size, requests| Load::Redis { pipeline, size, requests };
    vec![
        row("bulk-up-1", "one connection, up", up(1), ALL),
        row("bulk-down-1", "one connection, down", down(1), ALL),
        row("bulk-up-4", "four connections, up", up(4), ALL),
        row("bulk-down-4", "four connections, down", down(4), ALL),
        row("rtt", "64-byte round trip", Load::RoundTrip, USUAL),
        row("redis-p1", "redis-benchmark GET, 50 clients, P=1", redis(1, 3, 60_000), USUAL),
        row("redis-p16", "redis-benchmark GET, 50 clients, P=16", redis(16, 3, 500_000), USUAL),
        row("redis-16k", "redis-benchmark GET of 16 KiB", redis(1, 16 << 10, 40_000), USUAL),
        row("connects", "new connections", Load::Connects, USUAL),
        row("idle", "idle connection", Load::Idle, PAIRS),
        row("first-byte", "first byte over a 40 ms link", Load::FirstByte, LINK),
        row("beside-bulk", "small requests beside a bulk connection", Load::BesideBulk, USUAL),
        Row { most_rounds: 1, ..row("many", "8,000 connections", Load::Many, OURS) },
        row("start", "start of the process", Load::Start, PAIRS),
    ]
}

fn row(
    name: &'static str,
    title: &'static str,
    load: Load,
    competitors: &'static [Competitor],
) -> Row {
    Row { name, title, load, competitors, most_rounds: ANY }
}
