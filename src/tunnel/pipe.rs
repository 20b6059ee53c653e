//! One tunnel for standard input and output, as an ssh ProxyCommand wants it.
//!
//! It ends when the far side ends, also while standard input stays open: what
//! is typed after that could go nowhere. It ends too when a signal says so, as ssh
//! sends it, or nobody reads standard output any more; then the far end is told, within
//! a second, and does not take it for a broken network.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::caller::{Background, CallError, Called, Caller, Patience};
use super::dialling::{Dialling, look_up_once};
use super::looker::look_after;
use super::options::PipeOptions;
use super::relay::{Start, relay};
use super::report::told_by_the_far_end;
use super::secure::Terms;
use super::stdio::Stdio;
use super::unmade::Unmade;
use crate::addr::ClientAddr;
use crate::net::{DialError, ResolveError, Stream, has_no_reader};
use crate::observe::pulse::Pulse;
use crate::observe::sessions::{Facts, Live};
use crate::observe::{Meters, Sessions};
use crate::proto::message::Open;
use crate::proto::{PeerError, Session};
use crate::reason::CloseReason;

/// The interval at which standard output is looked at for a reader.
const LOOK: Duration = Duration::from_millis(500);

/// Why a pipe did not do its work.
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
        /// Why.
        reason: CloseReason,
        /// The remedy.
        advice: &'static str,
    },
}

/// Carries standard input and output through a tunnel until both ended, or the far side did,
/// or it is to `stop`.
///
/// # Errors
/// [`PipeError`] when the tunnel could not be opened or broke, or was stopped.
pub async fn run(options: PipeOptions, stop: CancellationToken) -> Result<(), PipeError> {
    let open = Open { service: options.service.clone(), client: ClientAddr::Pipe };
    let idle_timeout = options.idle_timeout;
    let background = Background::default();
    let connected = tokio::select! {
        biased;
        connected = connect(options, &background) => connected,
        () = stop.cancelled() => Err(ended(CloseReason::Shutdown)),
    };
    let piped = match connected {
        Ok(connected) => carry(connected, &open, idle_timeout, stop).await,
        Err(error) => Err(error),
    };
    background.finish().await;
    piped
}

/// Carries standard input and output through a session until both ended, or the far side did.
async fn carry(
    (mut sealed, mut session): (Stream, Session),
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
    let session = (&mut session, live.traffic());
    let end = relay((plain, &mut sealed), session, start, pin!(cut)).await;
    match end.reason {
        CloseReason::Finished => Ok(()),
        // We gave input up because the far side had ended well.
        CloseReason::PlainReset if far_side_ended.is_cancelled() => Ok(()),
        reason => Err(ended(reason)),
    }
}

fn ended(reason: CloseReason) -> PipeError {
    let advice = told_by_the_far_end(reason).copied();
    let advice = advice.unwrap_or(match reason {
        CloseReason::IdleTimeout => "no data for the --idle-timeout of one of the ends",
        CloseReason::PlainReset => {
            "nobody reads standard output any more, or standard input failed; look at what runs pipe"
        }
        CloseReason::Shutdown => "a signal ended it",
        CloseReason::PeerVanished => "no sign of life for three times --heartbeat",
        _ => "the log of the decrypt end tells more",
    });
    PipeError::Ended { reason, advice }
}

/// Resolves when nobody can read standard output any more: a pipe or socket whose other end
/// is closed. Of other things nothing tells that but a write.
async fn unread() {
    loop {
        sleep(LOOK).await;
        if has_no_reader(&io::stdout()) {
            return;
        }
    }
}

/// The one session of this process.
fn enter(session: &Session, open: &Open, idle_timeout: Option<Duration>) -> Live {
    let facts = Facts {
        tunnel: None,
        accepted: Instant::now().into_std(),
        peer: ClientAddr::Pipe,
        client: None,
        target: Arc::from(""),
        service: open.service.clone(),
        key: session.key,
        suite: session.suite,
    };
    let meters = Meters::new("", Arc::new(Sessions::default()));
    let live = meters.enter(facts, Pulse::new(session.heartbeats, idle_timeout));
    look_after(&live);
    live
}

async fn connect(
    options: PipeOptions,
    background: &Background,
) -> Result<(Stream, Session), PipeError> {
    let dialling = Dialling::from(&options);
    let far_end = look_up_once(options.target).await?;
    let caller =
        Caller::new(Terms::of(options.keys, options.suites, options.padding, options.heartbeat));
    let patience = Patience { deadline: Instant::now() + options.timeout, answer: options.timeout };
    let dial = |deadline| dialling.dial(&far_end, deadline);
    let called = caller.call(dial, patience, background).await;
    match called {
        Ok(Called { stream, session, .. }) => Ok((stream, session)),
        Err(CallError::Dial(error)) => Err(error.into()),
        Err(error) => Err(PipeError::NoTunnel(Unmade::from(error).detail)),
    }
}
