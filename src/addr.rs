//! Addresses as people write them.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen or what to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP literal (with an optional zone), and a port or service name.
    Tcp {
        /// Host name or IP literal without brackets.
        host: String,
        /// Port number or name out of /etc/services.
        port: String,
    },
    /// A unix stream socket.
    Unix(PathBuf),
}

/// Local address for outgoing connections; port 0 is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress {
    /// Local IP address.
    pub ip: IpAddr,
    /// Local port, 0 for any.
    pub port: u16,
}

/// The name of a service in Open; empty is the default target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ServiceName(String);
impl ServiceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for ServiceName {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        if !s.is_empty()
            && s.len() <= 64
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            Ok(Self(s.into()))
        } else {
            Err(())
        }
    }
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddr {
    Ip(SocketAddr),
    Unix,
}
impl From<SocketAddr> for ClientAddr {
    fn from(a: SocketAddr) -> Self {
        Self::Ip(a)
    }
}
