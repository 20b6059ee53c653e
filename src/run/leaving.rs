//! Tunnels that accept no more, until the last of their sessions has ended.
//!
//! One that was replaced waits for as long as its sessions take. One that is gone
//! has a deadline, for its own sessions and for those of the tunnels that it
//! replaced: they hold its slots, and its gate judges them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::admin::Roster;
use crate::tunnel::Tunnel;

/// How long sessions that were cut may take to say goodbye.
const GOODBYES: Duration = Duration::from_secs(2);

/// All of them.
pub(super) struct Leaving {
    roster: Arc<Roster>,
    all: Vec<One>,
    /// Gives how many sessions were cut.
    seen_off: JoinSet<usize>,
    sessions_cut: usize,
}

struct One {
    tunnel: Weak<Tunnel>,
    /// Has no successor, with which its sessions are counted.
    is_last: bool,
}

impl Leaving {
    pub(super) fn new(roster: Arc<Roster>) -> Self {
        Self { roster, all: vec![], seen_off: JoinSet::new(), sessions_cut: 0 }
    }

    /// Another tunnel stands in its place. Its sessions go on.
    pub(super) fn replaced(&mut self, tunnel: Arc<Tunnel>) {
        tunnel.stop();
        self.add(&tunnel, false);
        let roster = Arc::clone(&self.roster);
        self.seen_off.spawn(async move {
            tunnel.finished().await;
            drop(tunnel);
            roster.prune();
            0
        });
    }

    /// No other stands in its place. What it and its `predecessors` have may finish
    /// within `drain`.
    pub(super) fn removed(
        &mut self,
        tunnel: Arc<Tunnel>,
        predecessors: &[Weak<Tunnel>],
        (name, drain): (Option<Arc<str>>, Duration),
    ) {
        tunnel.stop();
        let mut family: Vec<_> = predecessors.iter().filter_map(Weak::upgrade).collect();
        self.add(&tunnel, true);
        family.push(tunnel);
        let roster = Arc::clone(&self.roster);
        self.seen_off.spawn(async move {
            let cut = see_off(&family, name.as_deref(), drain).await;
            drop(family);
            roster.prune();
            cut
        });
    }

    fn add(&mut self, tunnel: &Arc<Tunnel>, is_last: bool) {
        self.all.retain(|one| one.tunnel.strong_count() > 0);
        self.all.push(One { tunnel: Arc::downgrade(tunnel), is_last });
    }

    /// What was cut so far does not count.
    pub(super) fn forget_cuts(&mut self) {
        while self.seen_off.try_join_next().is_some() {}
    }

    /// Resolves when all have ended. Cancel safe.
    pub(super) async fn finished(&mut self) {
        while let Some(cut) = self.seen_off.join_next().await {
            self.sessions_cut += cut.unwrap_or(0);
        }
    }

    /// Ends what goes on, now.
    pub(super) async fn cut(&mut self) {
        for One { tunnel, is_last, .. } in &self.all {
            let Some(tunnel) = tunnel.upgrade() else { continue };
            self.sessions_cut += if *is_last { tunnel.sessions() } else { 0 };
            tunnel.cut();
        }
        self.finished().await;
    }

    /// Sessions that could not finish.
    pub(super) fn sessions_cut(&self) -> usize {
        self.sessions_cut
    }
}

/// Waits until a tunnel, the last of its family, and those before it have ended;
/// how many sessions the deadline cut.
async fn see_off(family: &[Arc<Tunnel>], name: Option<&str>, drain: Duration) -> usize {
    let Some(last) = family.last() else { return 0 };
    let finished = async {
        for tunnel in family {
            tunnel.finished().await;
        }
    };
    let too_late = async {
        sleep(drain).await;
        warn!(tunnel = name, drain_s = drain.as_secs_f64(), "drain deadline reached: ending now");
        // Slots are shared, so these are the sessions of all of them.
        let sessions = last.sessions();
        family.iter().for_each(|tunnel| tunnel.cut());
        sessions
    };
    let mut finished = std::pin::pin!(finished);
    let sessions_cut = tokio::select! {
        biased;
        () = &mut finished => return ended(last, 0),
        () = last.is_cut() => 0,
        sessions_cut = too_late => sessions_cut,
    };
    // Best effort: the far ends should hear why.
    let _ = timeout(GOODBYES, finished).await;
    ended(last, sessions_cut)
}

fn ended(last: &Tunnel, sessions_cut: usize) -> usize {
    last.flush_failures();
    if let Some(gate) = last.gate() {
        gate.dismiss();
    }
    sessions_cut
}
