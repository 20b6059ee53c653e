//! Accepts connections and survives every failed accept: pauses after a failure, and warns once for
//! each period of trouble.
//!
//! Every listener of the process is served in this way, so that a lack of descriptors neither ends
//! one nor makes it spin. The caller decides what happens to a connection; nothing here waits for a
//! peer.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::sleep_until;
use tracing::{info, warn};

use super::backoff::{AcceptBackoff, AcceptStep};
use super::listen::AsyncListener;
use super::stream::Stream;
use crate::addr::ClientAddr;

/// A listener, with the back-off after its failures.
#[derive(Debug)]
pub struct AcceptLoop {
    listener: Arc<AsyncListener>,
    /// Name of the tunnel that listens, for the log; `None` where the process has one.
    tunnel: Option<Arc<str>>,
    backoff: AcceptBackoff,
    /// The end of the pause after a failed accept.
    resume_at: Option<tokio::time::Instant>,
}

impl AcceptLoop {
    /// Accepts from `listener`. The log names `tunnel`, where there is one.
    pub fn new(listener: Arc<AsyncListener>, tunnel: Option<Arc<str>>) -> Self {
        Self { listener, tunnel, backoff: AcceptBackoff::default(), resume_at: None }
    }

    /// Waits for the next connection, through any number of failures. Cancel safe: the next call
    /// continues a pause that was cancelled.
    pub async fn next(&mut self) -> (Stream, ClientAddr) {
        self.next_by(|listener, cx| listener.poll_accept(cx)).await
    }

    /// Does the same with another way to `accept`: one that enters the runtime in which the
    /// connection is to be served, so that it need not be moved there.
    pub async fn next_by(
        &mut self,
        mut accept: impl FnMut(
            &AsyncListener,
            &mut Context<'_>,
        ) -> Poll<io::Result<(Stream, ClientAddr)>>,
    ) -> (Stream, ClientAddr) {
        loop {
            if let Some(resume_at) = self.resume_at {
                sleep_until(resume_at).await;
                self.resume_at = None;
            }
            match poll_fn(|cx| accept(&self.listener, cx)).await {
                Ok(accepted) => {
                    self.log_recovery();
                    return accepted;
                }
                Err(error) => self.pause_after(&error),
            }
        }
    }

    fn log_recovery(&mut self) {
        if self.backoff.succeeded(Instant::now()) {
            let tunnel = self.tunnel.as_deref();
            info!(tunnel, address = self.listener.local(), "accepting again");
        }
    }

    fn pause_after(&mut self, error: &io::Error) {
        let step = self.backoff.failed(error, Instant::now());
        let AcceptStep::Wait { delay, news } = step else { return };
        self.resume_at = Some(tokio::time::Instant::now() + delay);
        if news {
            warn!(
                tunnel = self.tunnel.as_deref(),
                address = self.listener.local(),
                %error,
                detail = "retrying until it works; raise ulimit -n",
                "cannot accept"
            );
        }
    }
}
