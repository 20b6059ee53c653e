//! Knocks made by hand, with the protocol's own crate.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use knockpipe_proto::knock::{Knock, KnockMessage};

use crate::address::Addr;
use crate::hand::{ephemeral, read_key, unix_ms};

/// A knock, with what it asks for.
#[derive(Clone, Debug)]
pub struct Knocking {
    key: PathBuf,
    knock: Knock,
}

impl Knocking {
    /// A knock that asks for nothing but its source, as an honest sender makes it.
    pub fn new(key: &Path) -> Self {
        let knock = Knock { clock_ms: 0, gate: None, ttl_s: None, label: None, address: None };
        Self { key: key.to_owned(), knock }
    }

    #[track_caller]
    pub fn gate(mut self, name: &str) -> Self {
        self.knock.gate = Some(name.parse().expect("it is a name"));
        self
    }

    pub fn ttl(mut self, seconds: u32) -> Self {
        self.knock.ttl_s = NonZeroU32::new(seconds);
        self
    }

    #[track_caller]
    pub fn label(mut self, text: &str) -> Self {
        self.knock.label = Some(text.parse().expect("it is a label"));
        self
    }

    /// Names a network, written with its prefix length.
    #[track_caller]
    pub fn address(mut self, network: &str) -> Self {
        self.knock.address = Some(network.parse().expect("it is a network"));
        self
    }

    /// Makes the datagram, by the clock of this host.
    pub fn message(&self) -> KnockMessage {
        self.message_ahead(0)
    }

    /// Makes the datagram of a sender whose clock is `seconds` ahead.
    pub fn message_ahead(&self, seconds: i64) -> KnockMessage {
        let clock_ms = unix_ms().checked_add_signed(seconds * 1000).expect("a time after 1970");
        let knock = Knock { clock_ms, ..self.knock.clone() };
        knock.seal(&read_key(&self.key), ephemeral())
    }

    /// Sends it from `source`, in the namespace of the caller.
    #[track_caller]
    pub fn send(&self, source: &str, to: &Addr) {
        send_from(source, to, &self.message()).expect("a datagram can be sent");
    }
}

/// Sends a datagram from `source` to the port of `to`, in the namespace of the caller.
///
/// # Errors
/// The system's.
pub fn send_from(source: &str, to: &Addr, bytes: &[u8]) -> io::Result<()> {
    let source: IpAddr = source.parse().expect("it is an address");
    let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
    socket.send_to(bytes, to.tcp()).map(drop)
}
