//! One tunnel for standard input and output, as an ssh ProxyCommand wants it.
//!
//! It ends when the far side ends, even if standard input stays open: later bytes could not be
//! delivered. It also ends at a signal, as ssh sends one, or when standard output has no reader any
//! more; then the far end is told within a second, so that it does not suspect a broken network.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::dial_far_end::{Background, CallError, CallLimits, Called, DialerHandshake};
use super::heartbeat::look_after;
use super::options::PipeOptions;
use super::relay::{Relayed, Sides, Start, relay};
use super::reset_reasons::remote_advice;
use super::stdio::Stdio;
use crate::addr::ClientAddr;
use crate::net::{DialError, ResolveError, has_no_reader};
use crate::observe::liveness::Liveness;
use crate::observe::sessions::{Keyed, LiveSession, SessionInfo};
use crate::observe::{Meters, Sessions};
use crate::proto::message::Open;
use crate::proto::{PeerError, Session};
use crate::reason::CloseReason;
use crate::upstream::Target;

/// Interval at which standard output is checked for a reader.
const LOOK: Duration = Duration::from_millis(500);

/// Reason why a pipe failed.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The far end's name does not resolve.
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
    /// The far end cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The far end does not answer the handshake, or this host lacks something.
    #[error("{0}")]
    NoTunnel(String),
    /// No record could be sealed.
    #[error("cannot open the tunnel: {0}; start it again")]
    Open(#[from] PeerError),
    /// The session ended early.
    #[error("the tunnel ended: {reason}; {advice}")]
    Ended {
        /// The close reason.
        reason: CloseReason,
        /// The remedy.
        advice: &'static str,
    },
}

/// Carries standard input and output through a tunnel until both ended, the far side ended, or
/// `stop` is cancelled.
///
/// # Errors
/// [`PipeError`] when the tunnel could not be opened or broke, or was stopped.
pub async fn run(options: PipeOptions, stop: CancellationToken) -> Result<(), PipeError> {
    let open = Open { service: options.service.clone(), client: ClientAddr::Pipe };
    let idle_timeout = options.idle_timeout;
    let background = Background::default();
    let called = tokio::select! {
        biased;
        called = call(options, &background) => called,
        () = stop.cancelled() => Err(ended(CloseReason::Shutdown)),
    };
    let piped = match called {
        Ok(called) => carry(called, &open, idle_timeout, stop).await,
        Err(error) => Err(error),
    };
    background.finish().await;
    piped
}

/// Carries standard input and output through a session until both or the far side ended.
async fn carry(
    Called { stream: mut sealed, mut session, .. }: Called,
    open: &Open,
    idle_timeout: Option<Duration>,
    stop: CancellationToken,
) -> Result<(), PipeError> {
    let mut first = vec![];
    session.outbound.open(open, &mut first)?;
    let start = Start { first, already_read: vec![] };
    let plain = Stdio::new(stop.clone());
    let far_side_ended = plain.far_side_ended();
    let live = enter(&session, open, idle_timeout);
    let cut = async {
        tokio::select! {
            biased;
            reason = poll_fn(|cx| live.poll_end(cx)) => reason,
            () = stop.cancelled() => CloseReason::Shutdown,
            () = unread() => CloseReason::PlainReset,
        }
    };
    let sides = Sides { plain, sealed: &mut sealed };
    let relayed = Relayed { session: &mut session, traffic: live.traffic() };
    let end = relay(sides, relayed, start, pin!(cut)).await;
    match end.reason {
        CloseReason::Finished => Ok(()),
        // Input was dropped because the far side had ended cleanly.
        CloseReason::PlainReset if far_side_ended.is_cancelled() => Ok(()),
        reason => Err(ended(reason)),
    }
}

fn ended(reason: CloseReason) -> PipeError {
    let advice = remote_advice(reason);
    let advice = advice.unwrap_or(match reason {
        CloseReason::IdleTimeout => "no data for the --idle-timeout of one of the ends",
        CloseReason::PlainReset => {
            "the reader of standard output is gone, or standard input failed; look at what runs pipe"
        }
        CloseReason::Shutdown => "a signal ended it",
        CloseReason::PeerVanished => "no sign of life for three times --heartbeat",
        _ => "the log of the decrypt end tells more",
    });
    PipeError::Ended { reason, advice }
}

/// Waits until standard output has lost its reader: a pipe or socket with a closed other end. For
/// anything else only a write would show it.
async fn unread() {
    loop {
        sleep(LOOK).await;
        if has_no_reader(&io::stdout()) {
            return;
        }
    }
}

/// Registers the only session of this process.
fn enter(session: &Session, open: &Open, idle_timeout: Option<Duration>) -> LiveSession {
    let info = SessionInfo {
        accepted: Instant::now().into_std(),
        peer: ClientAddr::Pipe,
        client: None,
        target: None,
        service: open.service.clone(),
    };
    let keyed = Keyed { key: session.key, suite: session.suite };
    let meters = Meters::new("", Arc::new(Sessions::default()));
    let live = meters.enter(info, keyed, Liveness::new(session.heartbeats, idle_timeout));
    look_after(&live);
    live
}

/// Dials the far end and shakes hands.
async fn call(options: PipeOptions, background: &Background) -> Result<Called, PipeError> {
    let dial_options = options.dial_options();
    let far_end = Target::once(&options.target).await?;
    let dialer = DialerHandshake::new(options.handshake()).knocking(options.knocks());
    let dial = |attempt| dialer.connect(&far_end, &dial_options, attempt);
    match dialer.call(dial, CallLimits::each(options.timeout), background).await {
        Ok(called) => Ok(called),
        Err(CallError::Dial(error)) if dialer.knocker().is_none() => Err(error.into()),
        Err(error) => Err(PipeError::NoTunnel(dialer.failure(error).detail)),
    }
}
