//! Single datagrams, each from the local address that a connection to the same host would have.
//!
//! A socket is made for one datagram and closed behind it. It is connected, so that the kernel
//! picks the route at that moment, and tells from which address the datagram leaves. Nothing is
//! ever read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::addr::BindAddress;

/// A socket for a datagram to one address.
#[derive(Debug)]
pub struct Outgoing {
    socket: UdpSocket,
    from: IpAddr,
}

impl Outgoing {
    /// Finds the way to `to`. Of `bind` only the address counts: its port is that of a connection.
    ///
    /// # Errors
    /// When there is no route, or no such local address.
    pub fn towards(to: SocketAddr, bind: Option<BindAddress>) -> io::Result<Self> {
        let any = match to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((bind.map_or(any, |bind| bind.ip), 0))?;
        // A full queue loses the datagram, as the network may.
        socket.set_nonblocking(true)?;
        socket.connect(to)?;
        let from = socket.local_addr()?.ip();
        Ok(Self { socket, from })
    }

    /// Returns the address that it leaves from.
    pub fn from(&self) -> IpAddr {
        self.from
    }

    /// Returns the same where a connection can be bound to it: a link-local address alone does not
    /// say of which interface it is.
    pub fn bindable(&self) -> Option<IpAddr> {
        let is_link_local = matches!(self.from, IpAddr::V6(ip) if ip.is_unicast_link_local());
        (!is_link_local).then_some(self.from)
    }

    /// Sends the datagram.
    ///
    /// # Errors
    /// When it does not leave this host.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).map(drop)
    }

    /// Returns the error that a host on the way has reported since, if any.
    pub fn reported(&self) -> Option<io::Error> {
        self.socket.take_error().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_leaves_from_the_address_of_a_connection_or_the_one_that_is_bound() {
        for (host, bind, expected) in [
            ("127.0.0.1", None, "127.0.0.1"),
            ("127.0.0.1", Some("127.0.0.2"), "127.0.0.2"),
            ("::1", None, "::1"),
        ] {
            let there = UdpSocket::bind((host, 0)).unwrap();
            let bind = bind.map(|ip: &str| BindAddress { ip: ip.parse().unwrap(), port: 9 });
            let outgoing = Outgoing::towards(there.local_addr().unwrap(), bind).unwrap();
            outgoing.send(b"one").unwrap();
            let mut buffer = [0; 8];
            let (len, from) = there.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"one");
            assert_eq!((from.ip().to_string(), outgoing.from()), (expected.to_owned(), from.ip()));
        }
    }

    #[test]
    fn what_does_not_leave_is_an_error() {
        let reserved = "255.255.255.255:1".parse().unwrap();
        let sent = Outgoing::towards(reserved, None).and_then(|out| out.send(b"x"));
        assert!(sent.is_err());
        let loopback = "127.0.0.1:1".parse().unwrap();
        let bind = Some(BindAddress { ip: "192.0.2.1".parse().unwrap(), port: 0 });
        assert!(Outgoing::towards(loopback, bind).is_err());
    }

    #[test]
    fn a_closed_port_is_reported() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outgoing = Outgoing::towards(closed, None).unwrap();
        outgoing.send(b"x").unwrap();
        // On loopback the report is there before the call returns.
        let error = outgoing.reported().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
