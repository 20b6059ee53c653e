//! Connects to a server: looks up its name, dials it, and begins TLS. Each step has a time
//! limit of its own, and a failure names the step.
//!
//! Connections are made by [`crate::net::dial()`], as those to targets are: one
//! address of a name that swallows packets costs a quarter of a second.

use std::fmt;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::access::{ANSWER, Access};
use super::address::Node;
use super::cause::cause_of;
use super::error::{Kind, RedisFailure};
use crate::addr::Address;
use crate::net::{DialError, SocketOptions, Stream as Socket, Target, dial};
use crate::printable::printable;

/// The time that name service may take.
const LOOK_UP: Duration = Duration::from_secs(2);
/// The time that a connection may take, over all addresses of a name: a SYN that is lost is
/// sent again after a second.
const CONNECT: Duration = Duration::from_secs(2);
/// The time that TLS may take.
const TLS: Duration = Duration::from_secs(2);
/// The longest that it takes to connect and log in, or to fail.
pub const LONGEST: Duration =
    LOOK_UP.saturating_add(CONNECT).saturating_add(TLS).saturating_add(ANSWER);

/// Before the first probe of an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A connection of whatever kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, and the name of its other end in messages.
pub(super) struct Connected {
    pub(super) stream: Box<dyn Stream>,
    /// The server, with the address that answered where that is not its name.
    pub(super) with: String,
}

/// Connects to a server, with TLS if that is asked for.
///
/// # Errors
/// The step that failed.
pub(super) async fn connect(node: &Node, access: &Access) -> Result<Connected, RedisFailure> {
    let target = look_up(node, access).await?;
    let options = SocketOptions { keepalive: true };
    let dialled = dial(&target, None, &options, Instant::now() + CONNECT).await;
    let tcp = match dialled.map_err(|error| unreachable(node, &target, &error))? {
        Socket::Unix(unix) => {
            return Ok(Connected { stream: Box::new(unix), with: node.to_string() });
        }
        Socket::Tcp(tcp) => tcp,
    };
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    // Best effort: a connection that refuses is broken, and the next step says so.
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
    let with = match tcp.peer_addr() {
        Ok(peer) => place(node, &peer),
        Err(_) => node.to_string(),
    };
    let stream: Box<dyn Stream> = match &access.tls {
        Some(_) => secure(tcp, node, access, &with).await?,
        None => Box::new(tcp),
    };
    Ok(Connected { stream, with })
}

async fn look_up(node: &Node, access: &Access) -> Result<Target, RedisFailure> {
    let (host, port) = match node {
        Node::Unix(path) => return Ok(Target::Unix(path.as_path().into())),
        Node::Tcp { host, port } => (host.clone(), port.to_string()),
    };
    let name = printable(&host).into_owned();
    let found = access.names.find(&Address::Tcp { host, port }, LOOK_UP).await;
    found.map_err(|error| {
        RedisFailure::new(Kind::Lost, node, format!("looking up {name}: {error}"))
            .with(Some("correct the name, or check name service"))
    })
}

fn unreachable(node: &Node, target: &Target, error: &DialError) -> RedisFailure {
    let all = || match target {
        Target::Ips(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Target::Unix(path) => path.display().to_string(),
    };
    let (address, cause) = match error {
        DialError::Refused { address, cause } => {
            (address.clone(), format!("nothing listens there ({cause})"))
        }
        DialError::Unreachable { address, cause } => (address.clone(), cause.to_string()),
        DialError::Timeout => (all(), format!("no answer within {} s", CONNECT.as_secs())),
        other => (all(), other.to_string()),
    };
    let to = place(node, &address);
    RedisFailure::new(Kind::Lost, node, format!("connecting to {to}: {cause}"))
}

async fn secure(
    tcp: TcpStream,
    node: &Node,
    access: &Access,
    with: &str,
) -> Result<Box<dyn Stream>, RedisFailure> {
    let (Some(tls), Node::Tcp { host, .. }) = (&access.tls, node) else {
        return Ok(Box::new(tcp));
    };
    let failed = |text: String, remedy| {
        RedisFailure::new(Kind::Lost, node, format!("TLS with {with}: {text}")).with(remedy)
    };
    match timeout(TLS, tls.wrap(tcp, host)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => {
            let cause = cause_of(&error);
            Err(failed(cause.text, cause.remedy))
        }
        Err(_) => Err(failed(format!("no answer within {} s", TLS.as_secs()), None)),
    }
}

/// A server, with the address that it has now.
fn place(node: &Node, address: &dyn fmt::Display) -> String {
    let (name, address) = (node.to_string(), address.to_string());
    match node {
        Node::Tcp { host, .. } if name != address => format!("{} ({address})", printable(host)),
        _ => name,
    }
}
