//! Comes round to the live sessions of a process, as long as there are any whose
//! signs of life count, and lets their tasks know what is due.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::{Instant, sleep};

use crate::net::Stream;
use crate::observe::Sessions;
use crate::observe::sessions::Live;
use crate::proto::Session;
use crate::proto::heartbeat::Heartbeats;

/// Sees to it that a session is looked at. There is one looker for all.
pub(super) fn look_after(live: &Live) {
    if let Some(sessions) = live.needs_a_looker() {
        tokio::spawn(look(sessions));
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

/// Gives signs of life on a session that waits for its target, for ever. What the
/// system does not take at once is in `unsent`, and goes before anything else.
pub(super) async fn keep_beating(
    sealed: &Stream,
    session: &mut Session,
    unsent: &mut Vec<u8>,
) -> std::convert::Infallible {
    let Heartbeats { own: Some(heartbeat), agreed: true } = session.heartbeats else {
        return std::future::pending().await;
    };
    loop {
        sleep(heartbeat.time().mul_f64(0.75)).await;
        if unsent.is_empty() && session.outbound.beat(unsent).is_err() {
            return std::future::pending().await;
        }
        // An error is one for the relay, which meets it again.
        if let Ok(written) = sealed.try_write(unsent) {
            unsent.drain(..written);
        }
    }
}
