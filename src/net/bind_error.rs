//! Reasons why an address cannot be listened on, each with a remedy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::addr::Address;
use crate::files::place::is_link;

/// Reason why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The name has no address.
    #[error(
        "cannot resolve {address} to listen on it: {cause}; correct the name or use an IP address"
    )]
    Unresolvable {
        /// As it was written.
        address: Address,
        /// The error of the system's resolver.
        cause: io::Error,
    },
    /// Another program listens there already.
    #[error("{address} is in use; stop the program that listens there, or choose another address")]
    InUse {
        /// The address.
        address: String,
    },
    /// The user may not listen there.
    #[error(
        "no permission to listen on {address}; start as root (see --user) or choose a port above 1023 or a directory of your own"
    )]
    NoPermission {
        /// The address.
        address: String,
    },
    /// The path of a unix socket holds something else, which is left alone.
    #[error("{path} exists and is not a socket; remove it or choose another path", path = .0.display())]
    NotASocket(PathBuf),
    /// The path leads through a link that is not followed.
    #[error("cannot listen on {address}: {cause}; give the path that it leads to")]
    Link {
        /// The address.
        address: String,
        /// The link.
        cause: io::Error,
    },
    /// A socket cannot be made for the user that the process becomes.
    #[error(
        "cannot hand {path} to the user of -u: {cause}; put it into a directory of that user",
        path = .path.display()
    )]
    Heir {
        /// Its file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// Every host with this address family has this address, so this host lacks the family.
    #[error(
        "cannot listen on {address}: this host has no {family} there ({cause}); enable it, or leave the address out",
        family = family(.ip)
    )]
    NoFamily {
        /// The address.
        address: String,
        /// The address itself.
        ip: IpAddr,
        /// The system's error.
        cause: io::Error,
    },
    /// Anything else.
    #[error(
        "cannot listen on {address}: {cause}; check that the address belongs to this machine, or that its directory exists"
    )]
    Other {
        /// The address.
        address: String,
        /// The system's error.
        cause: io::Error,
    },
}

/// Turns an error of the system about the IP address `addr`, which is shown as `address`, into its
/// reason.
pub(super) fn blame_ip(addr: SocketAddr, address: String, cause: io::Error) -> BindError {
    let ip = addr.ip();
    if is_of_no_family(ip, &cause) {
        return BindError::NoFamily { address, ip, cause };
    }
    blame(address, cause)
}

/// Returns whether an error says that this host lacks the address family of `ip`. With an address
/// that is not one of these the cause may as well be a mistake.
pub(super) fn is_of_no_family(ip: IpAddr, cause: &io::Error) -> bool {
    let is_everywhere = ip.is_unspecified() || ip.is_loopback();
    is_everywhere
        && match cause.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAFNOSUPPORT) => true,
            // Switched off by sysctl. IPv4 has no such switch.
            Some(Errno::EADDRNOTAVAIL) => ip.is_ipv6(),
            _ => false,
        }
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Turns an error of the system into its reason.
pub(super) fn blame(address: String, cause: io::Error) -> BindError {
    match cause.kind() {
        _ if is_link(&cause) => BindError::Link { address, cause },
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::NoPermission { address },
        _ => BindError::Other { address, cause },
    }
}
