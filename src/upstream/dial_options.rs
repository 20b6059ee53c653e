//! Options that all dials of this end share, and the PROXY header that tells a target the client's
//! address.

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::error::ConnectFailure;
use crate::addr::{BindAddress, ClientAddr};
use crate::net::{SocketOptions, Stream};
use crate::proxy_protocol::Version;
use crate::proxy_protocol::outgoing::encode;
use crate::reason::CloseReason;

/// Options of every outgoing connection of this end.
#[derive(Clone, Copy, Debug)]
pub struct DialOptions {
    /// Local address to dial from.
    pub bind: Option<BindAddress>,
    /// Options of the socket.
    pub socket: SocketOptions,
    /// Version of the PROXY header for a target; `None` sends none.
    pub proxy: Option<Version>,
}

impl DialOptions {
    /// Sends a PROXY header with the client's address to a connected target, if so configured.
    ///
    /// # Errors
    /// [`ConnectFailure`] when the target hangs up, or does not accept the header in time.
    pub async fn send_proxy_header(
        &self,
        client: ClientAddr,
        target: &mut Stream,
        deadline: Instant,
    ) -> Result<(), ConnectFailure> {
        let Some(version) = self.proxy else { return Ok(()) };
        let header = encode(version, client, target.remote());
        match timeout_at(deadline, target.write_all(&header)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ConnectFailure::new(
                CloseReason::TargetRefused,
                format!("it hung up on the PROXY header: {error}; see its log"),
            )),
            Err(_) => Err(ConnectFailure::new(
                CloseReason::TargetTimeout,
                "it accepts, but takes no PROXY header; check that it expects one",
            )),
        }
    }
}
