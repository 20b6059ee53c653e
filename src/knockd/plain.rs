//! Peers that plain HTTP is served to: this host, and proxies that have the TLS.
//!
//! A token, or the secret of a disguise, that crosses a network without TLS can be read and used by
//! every host on the path. So a peer of another host that speaks plain HTTP gets no answer, unless
//! the operator wants it in so many words.

use tracing::debug;

use crate::addr::ClientAddr;
use crate::http::TrustedProxies;
use crate::web::Visitor;

/// Peers that plain HTTP is served to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// This host, trusted proxies, and what load balancers of the PROXY protocol pass on.
    #[default]
    Near,
    /// All.
    Anybody,
}

impl PlainHttp {
    /// Returns true if a connection may carry secrets: with TLS, or from one of these peers.
    pub(super) fn may_serve(self, visitor: &Visitor, proxies: &TrustedProxies) -> bool {
        let (address, is_balanced) = (visitor.address(), visitor.is_balanced());
        let may = visitor.is_encrypted() || self.serves(address, is_balanced, proxies);
        if !may {
            debug!(client = %address, "plain HTTP from another host is not served");
        }
        may
    }

    /// Returns true if a plain connection is served, by its other end; one that `is_balanced` comes
    /// through a load balancer.
    fn serves(self, socket: ClientAddr, is_balanced: bool, proxies: &TrustedProxies) -> bool {
        let is_near = match socket {
            ClientAddr::Ip(address) => address.ip().to_canonical().is_loopback(),
            ClientAddr::Unix | ClientAddr::Pipe => true,
            ClientAddr::Nameless => false,
        };
        self == Self::Anybody || is_near || is_balanced || proxies.trusts(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn others_are_served_only_if_anybody_is() {
        let proxies: TrustedProxies = ["10.9.0.0/16".parse().unwrap()].into_iter().collect();
        for (ip, is_near) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.9.1.1", true),
            ("10.8.1.1", false),
            ("192.168.0.1", false),
            ("203.0.113.7", false),
            ("2001:db8::7", false),
        ] {
            let ip: std::net::IpAddr = ip.parse().unwrap();
            let socket = ClientAddr::from(SocketAddr::new(ip, 1));
            assert_eq!(PlainHttp::Near.serves(socket, false, &proxies), is_near, "{ip}");
            assert!(PlainHttp::Anybody.serves(socket, false, &proxies), "{ip}");
            assert!(PlainHttp::Near.serves(socket, true, &proxies), "{ip}");
        }
        assert!(PlainHttp::Near.serves(ClientAddr::Unix, false, &proxies));
    }
}
