//! A port that opens: for those who knock and want to see it.
//!
//! A gate without a firewall in front accepts every connection, and closes those that it does not
//! let in. So a port is open when a connection is made and lasts.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::addr::BindAddress;
use crate::net::{DialError, SocketOptions, Target, dial};

/// Time that a connection has to last: longer than a decrypt end waits for a grant.
const LASTS: Duration = Duration::from_millis(500);

/// Reason why a port is not open.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// No connection is made.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It is ended at once.
    #[error("it hangs up on connections at once; the knock was not granted, or did not arrive")]
    HangsUp,
}

/// Tests whether a port is open, until `deadline`. Nothing is sent on the connection.
///
/// # Errors
/// [`Closed`]
pub async fn is_open(
    target: &Target,
    bind: Option<BindAddress>,
    deadline: Instant,
) -> Result<(), Closed> {
    let stream = dial(target, bind, &SocketOptions { keepalive: false }, deadline).await?;
    let lasts_until = Instant::now() + LASTS;
    match timeout_at(lasts_until, stream.readable()).await {
        Ok(Ok(true)) | Err(_) => Ok(()),
        Ok(Ok(false) | Err(_)) => Err(Closed::HangsUp),
    }
}
