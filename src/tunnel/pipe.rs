//! One tunnel for standard input and output, as an ssh ProxyCommand wants it.
//!
//! It ends when the far side ends, also while standard input stays open: what
//! is typed after that could go nowhere.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, Stdin, Stdout, stdin, stdout};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::caller::{Background, CallError, Called, Caller, Patience};
use super::dialling::{Dialling, look_up_once};
use super::looker::look_after;
use super::options::PipeOptions;
use super::relay::{Start, relay};
use super::report::told_by_the_far_end;
use super::secure::Terms;
use super::unmade::Unmade;
use crate::addr::ClientAddr;
use crate::net::{DialError, Duplex, ResolveError, Sink, Source, Stream};
use crate::observe::pulse::Pulse;
use crate::observe::sessions::{Facts, Live};
use crate::observe::{Meters, Sessions};
use crate::proto::message::Open;
use crate::proto::{PeerError, Session};
use crate::reason::CloseReason;

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
        /// What to do about it.
        advice: &'static str,
    },
}

/// Carries standard input and output through a tunnel until both ended, or the far side did.
///
/// # Errors
/// [`PipeError`] when the tunnel could not be opened or broke.
pub async fn run(options: PipeOptions) -> Result<(), PipeError> {
    let open = Open { service: options.service.clone(), client: ClientAddr::Unix };
    let idle_timeout = options.idle_timeout;
    let background = Background::default();
    let connected = connect(options, &background).await;
    let piped = match connected {
        Ok(connected) => carry(connected, &open, idle_timeout).await,
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
) -> Result<(), PipeError> {
    let mut first = vec![];
    session.outbound.open(open, &mut first)?;
    let start = Start { first, already_read: vec![] };
    let plain = Stdio::new();
    let far_side_ended = plain.output.far_side_ended.clone();
    let live = enter(&session, open, idle_timeout);
    let cut = poll_fn(|cx| live.poll_end(cx));
    let session = (&mut session, live.traffic());
    let end = relay((plain, &mut sealed), session, start, pin!(cut)).await;
    match end.reason {
        CloseReason::Finished => Ok(()),
        // We gave input up because the far side had ended well.
        CloseReason::PlainReset if far_side_ended.is_cancelled() => Ok(()),
        reason => {
            let advice = told_by_the_far_end(reason).copied();
            let advice = advice.unwrap_or(match reason {
                CloseReason::IdleTimeout => "no data for the --idle-timeout of one of the ends",
                CloseReason::PeerVanished => "no sign of life for three times --heartbeat",
                _ => "the log of the decrypt end tells more",
            });
            Err(PipeError::Ended { reason, advice })
        }
    }
}

/// The one session of this process.
fn enter(session: &Session, open: &Open, idle_timeout: Option<Duration>) -> Live {
    let facts = Facts {
        tunnel: None,
        accepted: Instant::now().into_std(),
        peer: ClientAddr::Unix,
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

/// Standard input and output as the plain side. Once output was told that the
/// far side's stream is complete, input is given up: as an abort, since nobody
/// knows whether it was complete.
struct Stdio {
    input: Input,
    output: Output,
}

struct Input {
    stdin: Stdin,
    far_side_ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

struct Output {
    stdout: Stdout,
    far_side_ended: CancellationToken,
}

impl Stdio {
    fn new() -> Self {
        let ended = CancellationToken::new();
        let far_side_ended = Box::pin(ended.clone().cancelled_owned());
        Self {
            input: Input { stdin: stdin(), far_side_ended },
            output: Output { stdout: stdout(), far_side_ended: ended },
        }
    }
}

impl Duplex for Stdio {
    type Read<'a> = &'a mut Input;
    type Write<'a> = &'a mut Output;

    fn split(&mut self) -> (&mut Input, &mut Output) {
        (&mut self.input, &mut self.output)
    }

    /// The end of output was flushed already.
    async fn finish(self) {}

    async fn abort(mut self) {
        // Whoever reads may be gone too.
        let _ = self.output.flush().await;
    }
}

/// A read happens on a thread of its own; nothing tells of it before.
impl Source for &mut Input {}

impl Sink for &mut Output {}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // First, so that an end that is there counts as one.
        if let Poll::Ready(read) = Pin::new(&mut self.stdin).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        ready!(self.far_side_ended.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdout).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stdout).poll_flush(cx))?;
        self.far_side_ended.cancel();
        Poll::Ready(Ok(()))
    }
}
