//! How this end dials: from which address, with which options, and how it says for
//! whom.

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::options::{Options, PipeOptions};
use super::unmade::Unmade;
use crate::addr::{Address, BindAddress, ClientAddr};
use crate::net::{
    DialError, ResolveError, ResolveOptions, Resolver, SocketOptions, Stream, Target, dial, touch,
};
use crate::proxy_protocol::Version;
use crate::proxy_protocol::outgoing::encode;
use crate::reason::CloseReason;

/// What every connection of this end to another place has in common.
#[derive(Clone, Copy)]
pub(super) struct Dialling {
    bind: Option<BindAddress>,
    socket: SocketOptions,
    /// How a target is told the client's address.
    proxy: Option<Version>,
}

impl From<&Options> for Dialling {
    fn from(options: &Options) -> Self {
        let socket = SocketOptions { keepalive: options.keepalive };
        Self { bind: options.bind, socket, proxy: options.proxy_to_target }
    }
}

impl From<&PipeOptions> for Dialling {
    fn from(options: &PipeOptions) -> Self {
        let socket = SocketOptions { keepalive: options.keepalive };
        Self { bind: options.bind, socket, proxy: None }
    }
}

impl Dialling {
    /// A connection.
    ///
    /// # Errors
    /// [`DialError`].
    pub(super) async fn dial(&self, to: &Target, deadline: Instant) -> Result<Stream, DialError> {
        dial(to, self.bind, &self.socket, deadline).await
    }

    /// Whether somebody listens, who hears nothing of it.
    ///
    /// # Errors
    /// [`DialError`].
    pub(super) async fn touch(&self, to: &Target, deadline: Instant) -> Result<(), DialError> {
        touch(to, self.bind, deadline).await
    }

    /// Announces the client to a target that was dialled, where that is wanted.
    ///
    /// # Errors
    /// What became of the target instead.
    pub(super) async fn announce(
        &self,
        client: ClientAddr,
        to: &mut Stream,
        deadline: Instant,
    ) -> Result<(), Unmade> {
        let Some(version) = self.proxy else { return Ok(()) };
        let header = encode(version, client, to.remote());
        match timeout_at(deadline, to.write_all(&header)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Unmade::new(
                CloseReason::TargetRefused,
                format!("it hung up on the PROXY header: {error}; see its log"),
            )),
            Err(_) => Err(Unmade::new(
                CloseReason::TargetTimeout,
                "it accepts, but takes no PROXY header; see that it expects one",
            )),
        }
    }
}

/// What a name means now.
///
/// # Errors
/// [`ResolveError`].
pub(super) async fn look_up_once(address: Address) -> Result<Target, ResolveError> {
    let once = ResolveOptions { every: None, wait: false };
    Resolver::start(address, once).await?.current()
}
