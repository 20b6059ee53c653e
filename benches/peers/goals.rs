//! The targets, as ratios against a peer in the same run, or as plain numbers.

use crate::competitors::Competitor;
use crate::results::Results;

/// A bound of one figure.
pub(crate) struct Goal {
    pub(crate) row: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) ours: Competitor,
    /// The competitor in the ratio; without it, the bound is of the figure itself.
    pub(crate) against: Option<Competitor>,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn allows(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// The result of a goal.
pub(crate) struct Outcome {
    pub(crate) ours: f64,
    pub(crate) theirs: Option<f64>,
    /// The ratio, or the figure itself.
    pub(crate) value: f64,
    pub(crate) met: bool,
}

impl Goal {
    /// Returns nothing when one of the two was not measured.
    pub(crate) fn outcome(&self, results: &Results) -> Option<Outcome> {
        let ours = results.get(self.row, self.figure, self.ours)?;
        let theirs = match self.against {
            Some(peer) => Some(results.get(self.row, self.figure, peer)?),
            None => None,
        };
        let value = ours / theirs.unwrap_or(1.0);
        Some(Outcome { ours, theirs, value, met: self.bound.allows(value) })
    }
}

pub(crate) fn all() -> Vec<Goal> {
    [bulk(), small(), connections(), latency()].into_iter().flatten().collect()
}

const BULK: [&str; 4] = ["bulk-up-1", "bulk-down-1", "bulk-up-4", "bulk-down-4"];

fn bulk() -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Competitor::{Haproxy, Knockpipe, KnockpipeChacha, Spiped, StunnelChacha};
    let of = |row| {
        [
            versus(row, "GB/s", [Knockpipe, Haproxy], AtLeast(1.2)),
            versus(row, "GB/s", [Knockpipe, Spiped], AtLeast(6.5)),
            versus(row, "CPU s per GB", [Knockpipe, Haproxy], AtMost(0.80)),
            versus(row, "GB/s", [KnockpipeChacha, StunnelChacha], AtLeast(1.15)),
            versus(row, "CPU s per GB", [KnockpipeChacha, StunnelChacha], AtMost(0.85)),
        ]
    };
    BULK.into_iter().flat_map(of).collect()
}

fn small() -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Competitor::{Haproxy, Knockpipe};
    let redis = |row| versus(row, "ops/s", [Knockpipe, Haproxy], AtLeast(0.95));
    vec![
        versus("rtt", "CPU us", [Knockpipe, Haproxy], AtMost(1.0)),
        versus("rtt", "p50 us", [Knockpipe, Haproxy], AtMost(1.0)),
        versus("rtt", "p99 us", [Knockpipe, Haproxy], AtMost(1.1)),
        redis("redis-p1"),
        redis("redis-p16"),
        redis("redis-16k"),
    ]
}

fn connections() -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Competitor::{HaproxyTls, Knockpipe, Spiped, StunnelAes};
    vec![
        plain("connects", "CPU us", Knockpipe, AtMost(300.0)),
        versus("connects", "CPU us", [Knockpipe, Spiped], AtMost(0.19)),
        versus("connects", "CPU us", [Knockpipe, HaproxyTls], AtMost(0.25)),
        versus("connects", "CPU us", [Knockpipe, StunnelAes], AtMost(0.25)),
        versus("connects", "per second", [Knockpipe, Spiped], AtLeast(4.0)),
        plain("idle", "KiB", Knockpipe, AtMost(8.0)),
    ]
}

fn latency() -> Vec<Goal> {
    use Bound::AtMost;
    use Competitor::{Direct, Knockpipe, KnockpipePool};
    vec![
        // 0.05 of a round trip, 2 ms, is for the work at both ends.
        plain("first-byte", "round trips", Knockpipe, AtMost(3.05)),
        plain("first-byte", "round trips", KnockpipePool, AtMost(1.05)),
        versus("first-byte", "round trips", [KnockpipePool, Direct], AtMost(1.0)),
        plain("beside-bulk", "busy, times", Knockpipe, AtMost(2.0)),
        plain("beside-bulk", "paced, times", Knockpipe, AtMost(2.0)),
        plain("many", "errors", Knockpipe, AtMost(0.0)),
        plain("many", "p99 ms", Knockpipe, AtMost(50.0)),
        plain("many", "memory, times", Knockpipe, AtMost(1.05)),
        plain("start", "ms", Knockpipe, AtMost(20.0)),
    ]
}

fn versus(
    row: &'static str,
    figure: &'static str,
    [ours, peer]: [Competitor; 2],
    bound: Bound,
) -> Goal {
    Goal { row, figure, ours, against: Some(peer), bound }
}

fn plain(row: &'static str, figure: &'static str, ours: Competitor, bound: Bound) -> Goal {
    Goal { row, figure, ours, against: None, bound }
}
