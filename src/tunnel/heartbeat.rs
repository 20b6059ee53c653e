//! Heartbeats: checks the live sessions of a process at intervals, as long as any of them use
//! heartbeats, and wakes the tasks of those for which something is due.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::net::Stream;
use crate::observe::Sessions;
use crate::observe::liveness::patience;
use crate::observe::sessions::LiveSession;
use crate::proto::Session;
use crate::proto::heartbeat::{Heartbeat, Heartbeats};
use crate::tasks::restarting;

/// Interval at which a peer that is being probed is checked for an answer.
const LOOK: Duration = Duration::from_millis(100);

/// Delay of the first heartbeat of an acceptor that waits for its target: a dialer that kept the
/// tunnel warm does not know whether Open has arrived.
pub(super) const AT_WORK: Duration = Duration::from_millis(200);

/// Makes sure that a session is checked. One task does that for all sessions.
pub(super) fn look_after(live: &LiveSession) {
    if let Some(sessions) = live.needs_a_looker() {
        tokio::spawn(restarting("signs of life", move || look(Arc::clone(&sessions))));
    }
}

async fn look(sessions: Arc<Sessions>) {
    let mut last = Instant::now();
    while let Some(pause) = sessions.pause() {
        tokio::select! {
            () = sleep(pause) => {}
            () = poll_fn(|cx| sessions.poll_hurried(cx)) => {}
        }
        let now = Instant::now();
        sessions.look(now - last);
        last = now;
    }
}

/// Sends heartbeats on a session that waits for its target, until dropped. Bytes that the system
/// does not take at once are in `unsent`, and must be sent before anything else.
pub(super) async fn keep_beating(
    sealed: &Stream,
    session: &mut Session,
    unsent: &mut Vec<u8>,
) -> std::convert::Infallible {
    let Heartbeats { own: Some(heartbeat), agreed: true } = session.heartbeats else {
        return std::future::pending().await;
    };
    let mut is_first = true;
    loop {
        if std::mem::take(&mut is_first) {
            sleep(AT_WORK.min(heartbeat.time() / 2)).await;
        } else {
            is_due(heartbeat, || sealed.is_in_doubt()).await;
        }
        if unsent.is_empty() && session.outbound.beat(unsent).is_err() {
            return std::future::pending().await;
        }
        // The relay will meet the error again and handle it.
        if let Ok(written) = sealed.try_write(unsent) {
            unsent.drain(..written);
        }
    }
}

/// Resolves when a heartbeat is due. None is sent while the peer is being probed: data in flight
/// would delay the detection of a vanished peer.
async fn is_due(heartbeat: Heartbeat, is_in_doubt: impl Fn() -> bool) {
    sleep(patience(heartbeat.time())).await;
    while is_in_doubt() {
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const H: Duration = Duration::from_secs(60);

    /// `docs/PROTOCOL.md`, 3.4: "after a shorter time, which it draws anew each time", also
    /// while an acceptor waits for its target.
    #[tokio::test(start_paused = true)]
    async fn the_time_to_a_sign_of_life_is_drawn_anew() {
        let mut times = BTreeSet::new();
        for _ in 0..100 {
            let begin = Instant::now();
            is_due(Heartbeat::every(H).unwrap(), || false).await;
            times.insert(begin.elapsed());
        }
        assert!(times.iter().all(|time| (H.mul_f64(0.6)..H.mul_f64(0.95)).contains(time)));
        assert!(times.len() > 10, "{times:?}");
    }

    /// "Nor while TCP's keepalive asks the other host in vain."
    #[tokio::test(start_paused = true)]
    async fn none_is_given_while_keepalive_asks_in_vain() {
        let begin = Instant::now();
        let doubt = 2 * H;
        is_due(Heartbeat::every(H).unwrap(), || begin.elapsed() < doubt).await;
        assert!((doubt..doubt + H / 2).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }
}
