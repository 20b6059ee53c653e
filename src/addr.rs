//! Addresses as people write them.
use std::net::IpAddr;
use std::path::PathBuf;

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
