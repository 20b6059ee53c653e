//! Zones of link-local addresses: names for people, numbers for the kernel.
//!
//! A number is valid only as long as its interface exists, so nothing here stores one.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::{if_indextoname, if_nametoindex};

/// Returns the number that an interface has now.
///
/// # Errors
/// When there is none of that name.
pub(super) fn number(zone: &str) -> io::Result<u32> {
    match (if_nametoindex(zone), zone.parse()) {
        (Ok(number), _) => Ok(number),
        // No interface has a name of digits only.
        (Err(_), Ok(number)) => Ok(number),
        (Err(errno), Err(_)) => {
            let kind = io::Error::from(errno).kind();
            Err(io::Error::new(kind, format!("there is no interface {zone}")))
        }
    }
}

/// Returns the name of the interface that has this number now.
pub(super) fn name(number: u32) -> Option<String> {
    if_indextoname(number).ok()?.into_string().ok()
}

/// Returns the address that an IPv6 literal with a zone means now; `None` for another text.
pub(super) fn literal(host: &str, port: u16) -> Option<io::Result<SocketAddr>> {
    let (ip, zone) = host.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    Some(number(zone).map(|number| SocketAddrV6::new(ip, port, 0, number).into()))
}
