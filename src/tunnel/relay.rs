//! Both directions of a session, until the first reason to end it.
//!
//! ```text
//!            plain side                          sealed side
//!   read  ----- SealPump: seal in place ------->  write      Fin when plain ends
//!   write <---- OpenPump: open in place --------  read       plain ends with Fin
//! ```
//!
//! Each direction is its own object; half-close passes through. The session is finished when both
//! Fins have passed. Anything else is an abort: the other end gets a Reset, and the plain side a
//! TCP reset, never a clean end.
//!
//! All of this occupies memory for every session, which idles most of the time. So large futures
//! that are seldom awaited are boxed.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::open::OpenPump;
use super::seal::SealPump;
use crate::net::{Duplex, ReadSide, poll_discard};
use crate::observe::sessions::Traffic;
use crate::proto::Session;
use crate::proto::message::ResetReason;
use crate::reason::CloseReason;

/// Time for the far end to receive a Reset, and for its own last records to arrive, before the
/// connection is simply dropped.
const GOODBYE: Duration = Duration::from_secs(1);

/// Input of a relay from the handshake.
#[derive(Default)]
pub(super) struct Start {
    /// Records to send first: Open or Opened.
    pub(super) first: Vec<u8>,
    /// Bytes that were read after the handshake.
    pub(super) already_read: Vec<u8>,
}

/// Both sides of a session. The relay closes the plain one, and its caller the sealed one.
pub(super) struct Sides<'a, P, S> {
    pub(super) plain: P,
    pub(super) sealed: &'a mut S,
}

/// A session that is relayed, and the counters of what passes.
pub(super) struct Relayed<'a> {
    pub(super) session: &'a mut Session,
    pub(super) traffic: &'a Traffic,
}

/// Both sides, borrowed while bytes pass.
struct Ends<'a, P, S> {
    plain: &'a mut P,
    sealed: &'a mut S,
}

/// Both directions.
struct Pumps<'a, 't> {
    seal: &'a mut SealPump<'t>,
    open: &'a mut OpenPump<'t>,
}

/// End of a relay.
#[derive(Debug)]
pub(super) struct End {
    /// The close reason.
    pub(super) reason: CloseReason,
    /// Stream bytes from the plain side to the sealed side.
    pub(super) sent: u64,
    /// Stream bytes from the sealed side to the plain side.
    pub(super) received: u64,
    /// Number of record keys that were replaced by their successors.
    pub(super) ratchets: u64,
}

/// Relays until both directions are finished, one fails, or `cut` is ready, and counts the bytes in
/// `traffic`. Then it closes the plain side, cleanly or with a reset; the caller closes the sealed
/// one.
///
/// Not an `async fn`: its arguments would be stored twice for as long as it runs. `'static`,
/// because Rust 1.88 cannot prove otherwise that the future is `Send`.
pub(super) fn relay<P: Duplex + 'static, S: Duplex + 'static>(
    Sides { mut plain, sealed }: Sides<'_, P, S>,
    Relayed { session, traffic }: Relayed<'_>,
    start: Start,
    cut: Pin<&mut (impl Future<Output = CloseReason> + Send + ?Sized)>,
) -> impl Future<Output = End> + Send {
    let mut seal = SealPump::new(start.first, traffic);
    let mut open = OpenPump::new(&start.already_read, traffic);
    async move {
        let reason = pump(
            Ends { plain: &mut plain, sealed: &mut *sealed },
            session,
            Pumps { seal: &mut seal, open: &mut open },
            cut,
        )
        .await;
        match reason {
            CloseReason::Finished => plain.finish().await,
            _ => plain.abort().await,
        }
        say_goodbye(&mut seal, sealed, session, reason).await;
        End {
            reason,
            sent: traffic.sent.get(),
            received: traffic.received.get(),
            ratchets: session.ratchets(),
        }
    }
}

async fn pump<P: Duplex, S: Duplex>(
    Ends { plain, sealed }: Ends<'_, P, S>,
    session: &mut Session,
    Pumps { seal, open }: Pumps<'_, '_>,
    cut: Pin<&mut (impl Future<Output = CloseReason> + ?Sized)>,
) -> CloseReason {
    let (mut plain_read, mut plain_write) = plain.split();
    let (mut sealed_read, mut sealed_write) = sealed.split();
    let Session { inbound, outbound, .. } = session;
    // The direction that finishes first watches for the other side to break;
    // the one that finishes second ends the session.
    let one_finished = AtomicBool::new(false);
    let sealing = async {
        seal.run(&mut plain_read, &mut sealed_write, outbound).await?;
        if !one_finished.swap(true, Ordering::Relaxed) {
            Box::pin(plain_read.broken()).await;
            return Err(CloseReason::PlainReset);
        }
        Ok(())
    };
    let opening = async {
        open.run(&mut sealed_read, &mut plain_write, inbound).await?;
        if !one_finished.swap(true, Ordering::Relaxed) {
            return Err(open.after_fin(&mut sealed_read, inbound).await);
        }
        Ok(())
    };
    let mut sealing = pin!(sealing);
    let mut opening = pin!(opening);
    // Not biased: both share one work budget per turn, and the one that is always polled first
    // would use it up.
    let ended = tokio::select! {
        ended = &mut opening => ended,
        ended = &mut sealing => match ended {
            // The far end is gone, but its last records may have arrived already.
            Err(CloseReason::PeerLost) => match Box::pin(timeout(GOODBYE, opening)).await {
                // The write consumed the error of a reset; a read then sees a bare end.
                Ok(Err(CloseReason::Truncated)) | Err(_) => Err(CloseReason::PeerLost),
                Ok(last_words) => last_words,
            },
            ended => ended,
        },
        reason = cut => Err(reason),
    };
    ended.err().unwrap_or(CloseReason::Finished)
}

/// Returns the reason to send to the other end; `None` when the session is finished, or the other
/// end is gone or sent a Reset itself.
fn to_tell(reason: CloseReason) -> Option<ResetReason> {
    match reason {
        CloseReason::PlainReset => Some(ResetReason::PlainReset),
        CloseReason::BadRecord | CloseReason::ProtocolError => Some(ResetReason::ProtocolError),
        // The far end could not act on the fact that it was an operator.
        CloseReason::Shutdown | CloseReason::Kicked => Some(ResetReason::Shutdown),
        CloseReason::Unopened => Some(ResetReason::Unopened),
        CloseReason::Revoked => Some(ResetReason::Revoked),
        CloseReason::IdleTimeout => Some(ResetReason::Idle),
        CloseReason::PeerVanished => Some(ResetReason::Unheard),
        // For a dialer all of these are a target that cannot be used.
        CloseReason::TargetRefused | CloseReason::TargetDown | CloseReason::Loop => {
            Some(ResetReason::TargetRefused)
        }
        CloseReason::TargetTimeout => Some(ResetReason::TargetTimeout),
        CloseReason::TargetUnresolved => Some(ResetReason::TargetUnresolved),
        CloseReason::NoSuchService => Some(ResetReason::NoSuchService),
        CloseReason::LimitReached | CloseReason::SourceLimit => Some(ResetReason::LimitReached),
        CloseReason::LocalError => Some(ResetReason::Failed),
        _ => None,
    }
}

/// Sends the far end the reason why a session ends that was never relayed.
pub(super) async fn send_reset<S: Duplex>(
    sealed: &mut S,
    session: &mut Session,
    reason: CloseReason,
) {
    send_reset_behind(vec![], sealed, session, reason).await;
}

/// Does the same after records, or the rest of one, that were not sent yet.
pub(super) async fn send_reset_behind<S: Duplex>(
    unsent: Vec<u8>,
    sealed: &mut S,
    session: &mut Session,
    reason: CloseReason,
) {
    let nothing = Traffic::default();
    say_goodbye(&mut SealPump::new(unsent, &nothing), sealed, session, reason).await;
}

/// Completes the record that is being sent, sends Reset, and waits until the other end hangs up:
/// closing with unread bytes would destroy data that it has not read yet.
async fn say_goodbye<S: Duplex>(
    seal: &mut SealPump<'_>,
    sealed: &mut S,
    session: &mut Session,
    reason: CloseReason,
) {
    // A Reset is not answered.
    let Some(reset) = to_tell(reason).filter(|_| !session.inbound.is_aborted()) else { return };
    let (mut read, mut write) = sealed.split();
    let goodbye = async {
        seal.reset(reset, &mut write, &mut session.outbound).await?;
        write.shutdown().await?;
        while poll_fn(|cx| poll_discard(cx, &mut read)).await? > 0 {}
        io::Result::Ok(())
    };
    // The session is over, whether or not the other end received it.
    let _ = timeout(GOODBYE, goodbye).await;
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
