//! Changes of this host's addresses and routes, as the kernel reports them.
//!
//! The socket only listens: nothing is asked of the kernel, and no right is needed. An address that
//! is announced again (routers do that every few seconds) is no change. Routes are not compared
//! here: whether one matters is for those to say who know where they send to.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use tokio::net::UdpSocket;
use tracing::warn;

/// Groups of messages about addresses and routes of both families (`RTMGRP_*`).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// Room for one datagram of the kernel.
const DATAGRAM: usize = 32 * 1024;

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// An address can be used, or cannot any more.
    Address,
    /// Routes are others; no address is.
    Route,
}

/// Watches the addresses and routes of this host.
#[derive(Debug)]
pub struct HostChanges {
    /// A socket of netlink, which receives datagrams as one of UDP does: tokio knows no other kind.
    /// `None` where the kernel does not tell.
    socket: Option<UdpSocket>,
    known: Known,
}

/// Addresses that can be used, by the number of their interface.
#[derive(Debug, Default)]
struct Known(HashSet<(u32, IpAddr)>);

impl HostChanges {
    /// Begins to watch. To be called inside the runtime.
    ///
    /// # Errors
    /// When the system gives no such socket; [`Self::unwatched`] takes its place then.
    pub fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let route = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        // Read behind the bind, so that no change is between the two.
        Ok(Self {
            socket: Some(UdpSocket::from_std(std::net::UdpSocket::from(socket))?),
            known: Known::now(),
        })
    }

    /// Watches nothing.
    pub fn unwatched() -> Self {
        Self { socket: None, known: Known::default() }
    }

    /// Waits for the next change. What came together is one. Cancel safe.
    pub async fn next(&mut self) -> HostChange {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let Some(socket) = &self.socket else { return pending().await };
            let mut received = socket.recv(&mut buffer).await;
            let mut change = None;
            let lasting = loop {
                let lasting = lasting(&received);
                let more = self.known.learn_received(received.map(|len| &buffer[..len]));
                change = stronger(change, more);
                if lasting.is_some() {
                    break lasting;
                }
                // What came together is one change.
                received = socket.try_recv(&mut buffer);
                if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                    break None;
                }
            };
            if let Some(error) = lasting {
                let detail = "a change of addresses is noticed with the next knock";
                warn!(error, detail, "cannot watch the addresses of this host");
                self.socket = None;
            }
            if let Some(change) = change {
                return change;
            }
        }
    }
}

impl Known {
    /// Returns the addresses that there are.
    fn now() -> Self {
        let all = getifaddrs().into_iter().flatten().filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some((if_nametoindex(&*interface.interface_name).ok()?, ip))
        });
        Self(all.filter(|(_, ip)| matters(*ip)).collect())
    }

    /// Learns from what was received. After an error (the kernel had no room for messages) what was
    /// said is not known.
    fn learn_received(&mut self, received: io::Result<&[u8]>) -> Option<HostChange> {
        match received {
            Ok(datagram) => self.learn(datagram),
            Err(_) => {
                *self = Self::now();
                Some(HostChange::Address)
            }
        }
    }

    /// Learns from a datagram of the kernel, and returns the change that it means.
    fn learn(&mut self, mut datagram: &[u8]) -> Option<HostChange> {
        let mut change = None;
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
            if let NetlinkPayload::InnerMessage(message) = &message.payload {
                change = stronger(change, self.learn_message(message));
            }
            // The length counts from the header, and messages begin at multiples of four.
            let len = (message.header.length as usize).next_multiple_of(4);
            match datagram.get(len..) {
                Some(rest) if len > 0 && !rest.is_empty() => datagram = rest,
                _ => break,
            }
        }
        change
    }

    fn learn_message(&mut self, message: &RouteNetlinkMessage) -> Option<HostChange> {
        let is_other = match message {
            RouteNetlinkMessage::NewAddress(message) => {
                let (key, is_usable) = usable(message)?;
                if is_usable { self.0.insert(key) } else { self.0.remove(&key) }
            }
            RouteNetlinkMessage::DelAddress(message) => self.0.remove(&usable(message)?.0),
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                return Some(HostChange::Route);
            }
            _ => false,
        };
        is_other.then_some(HostChange::Address)
    }
}

/// Returns the address of a message, and true if connections can be made from it. `None` if it is
/// of no importance.
fn usable(message: &AddressMessage) -> Option<((u32, IpAddr), bool)> {
    let mut address = None;
    let mut is_usable = !message.header.flags.contains(AddressHeaderFlags::Tentative);
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link the other is that of the peer.
            AddressAttribute::Local(ip) => address = Some(*ip),
            AddressAttribute::Address(ip) => address = address.or(Some(*ip)),
            AddressAttribute::Flags(flags) => {
                is_usable &= !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
            }
            _ => {}
        }
    }
    let ip = address.filter(|ip| matters(*ip))?;
    Some(((message.header.index, ip), is_usable))
}

/// Returns whether other hosts than neighbours may see this address.
fn matters(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !is_link_local
}

/// Returns an error that may come at each read: any but that the kernel had no room for messages.
fn lasting(received: &io::Result<usize>) -> Option<String> {
    let error = received.as_ref().err()?;
    let is_lasting = error.raw_os_error() != Some(Errno::ENOBUFS as i32);
    is_lasting.then(|| error.to_string())
}

fn stronger(one: Option<HostChange>, other: Option<HostChange>) -> Option<HostChange> {
    match (one, other) {
        (Some(HostChange::Address), _) | (_, Some(HostChange::Address)) => {
            Some(HostChange::Address)
        }
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let payload = NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn address(ip: &str, flags: AddressFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = 2;
        message.attributes =
            vec![AddressAttribute::Address(ip.parse().unwrap()), AddressAttribute::Flags(flags)];
        message
    }

    fn new(ip: &str) -> Vec<u8> {
        bytes(RouteNetlinkMessage::NewAddress(address(ip, AddressFlags::empty())))
    }

    fn gone(ip: &str) -> Vec<u8> {
        bytes(RouteNetlinkMessage::DelAddress(address(ip, AddressFlags::empty())))
    }

    #[test]
    fn an_address_that_comes_or_goes_is_a_change_and_one_that_is_announced_again_is_none() {
        let mut known = Known::default();
        for ip in ["203.0.113.7", "2001:db8::7"] {
            assert_eq!(known.learn(&new(ip)), Some(HostChange::Address), "{ip}");
            assert_eq!(known.learn(&new(ip)), None, "{ip} again");
            assert_eq!(known.learn(&gone(ip)), Some(HostChange::Address), "{ip} gone");
            assert_eq!(known.learn(&gone(ip)), None, "{ip} gone again");
        }
        // The same address in another network.
        known.learn(&new("192.168.1.23"));
        let both = [gone("192.168.1.23"), new("192.168.1.23")].concat();
        assert_eq!(known.learn(&both), Some(HostChange::Address));
    }

    #[test]
    fn an_address_counts_from_when_it_can_be_used() {
        let mut known = Known::default();
        let tentative = address("2001:db8::7", AddressFlags::Tentative);
        let tentative = bytes(RouteNetlinkMessage::NewAddress(tentative));
        assert_eq!(known.learn(&tentative), None);
        assert_eq!(known.learn(&new("2001:db8::7")), Some(HostChange::Address));
        assert_eq!(known.learn(&tentative), Some(HostChange::Address), "and until it cannot");
    }

    #[test]
    fn neighbours_and_loopback_do_not_matter() {
        let mut known = Known::default();
        for ip in ["fe80::1", "::1", "127.0.0.2", "169.254.1.1"] {
            assert_eq!(known.learn(&new(ip)), None, "{ip}");
        }
    }

    #[test]
    fn a_route_is_a_change_of_its_own_and_an_address_the_stronger_one() {
        let mut known = Known::default();
        let route = bytes(RouteNetlinkMessage::NewRoute(RouteMessage::default()));
        assert_eq!(known.learn(&route), Some(HostChange::Route));
        let both = [route.clone(), new("203.0.113.7"), route].concat();
        assert_eq!(known.learn(&both), Some(HostChange::Address));
    }

    #[tokio::test]
    async fn a_socket_that_fails_is_read_once() {
        // It is not connected, so each read fails at once.
        let (kind, flags) = (SockType::Stream, SockFlag::SOCK_NONBLOCK);
        let failing = socket(AddressFamily::Inet, kind, flags, None).unwrap();
        let failing = UdpSocket::from_std(std::net::UdpSocket::from(failing)).unwrap();
        let mut changes = HostChanges { socket: Some(failing), known: Known::default() };
        assert_eq!(changes.next().await, HostChange::Address, "what was missed is not known");
        assert!(changes.socket.is_none());
        let full = Err(io::Error::from_raw_os_error(Errno::ENOBUFS as i32));
        assert_eq!(lasting(&full), None, "a full queue is read again");
    }

    #[test]
    fn what_no_kernel_sends_changes_nothing() {
        let mut known = Known::default();
        let whole = new("203.0.113.7");
        for cut in 0..whole.len() {
            assert_eq!(known.learn(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(known.learn(&[0xff; 64]), None);
        assert_eq!(known.learn(&[0; 64]), None);
    }
}
