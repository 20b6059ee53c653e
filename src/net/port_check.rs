//! Checks whether a port has a listener, without the listener noticing.
//!
//! The kernel of the target answers a SYN; this end then sends a reset in place of the third packet
//! of the handshake, so the program there never gets a connection, counts no failure, and needs no
//! protocol. The check does not show whether that program is responsive. A unix socket has no
//! half-open state: there it is a connection that ends at once.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::time::{Instant, timeout_at};

use super::dial::{self, DialError};
use super::resolve::Target;
use crate::addr::BindAddress;

/// Waits until an address of `target` answers, at most until `deadline`.
///
/// # Errors
/// [`DialError`], as [`super::dial()`] has it.
pub async fn probe_port(
    target: &Target,
    bind: Option<BindAddress>,
    deadline: Instant,
) -> Result<(), DialError> {
    let probed = async {
        match target {
            Target::Unix(path) => dial::unix(path).await.map(drop),
            Target::Ips(addrs) => dial::first_of(addrs, bind, |addr| tcp(addr, bind)).await,
        }
    };
    timeout_at(deadline, probed).await.unwrap_or(Err(DialError::Timeout))
}

async fn tcp(addr: SocketAddr, bind: Option<BindAddress>) -> Result<(), DialError> {
    let socket = dial::open(addr, bind).map_err(DialError::Local)?;
    socket.set_zero_linger().map_err(DialError::Local)?;
    // Delays the acknowledgement, so that the reset overtakes it.
    SockRef::from(&socket).set_tcp_quickack(false).map_err(DialError::Local)?;
    let stream = socket.connect(addr).await.map_err(|e| dial::blame(addr.to_string(), e))?;
    match dial::is_to_itself(&stream, addr) {
        true => Err(dial::blame(addr.to_string(), std::io::ErrorKind::ConnectionRefused.into())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// A connection that is made afterwards is the first that the listener sees.
    #[tokio::test]
    async fn a_listener_answers_and_sees_no_connection() {
        let (listener, addr) = listener();
        listener.set_nonblocking(true).unwrap();
        for _ in 0..20 {
            probe_port(&Target::Ips([addr.into()].into()), None, soon()).await.unwrap();
        }
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let seen = std::net::TcpStream::connect(addr).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, seen.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_missing_listener_is_found() {
        let (gone, addr) = listener();
        drop(gone);
        let error = probe_port(&Target::Ips([addr.into()].into()), None, soon()).await.unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
        // A refusal says more than a missing route, whichever came first.
        let reserved: SocketAddr = "255.255.255.255:1".parse().unwrap();
        let error = probe_port(&Target::Ips([reserved.into(), addr.into()].into()), None, soon())
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
        let (_other, live) = listener();
        probe_port(&Target::Ips([addr.into(), live.into()].into()), None, soon()).await.unwrap();
        let missing = Target::Unix(std::path::Path::new("/nowhere/at/all").into());
        let error = probe_port(&missing, None, soon()).await.unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
    }
}
