//! Determines the client of a request behind proxies, and refuses to guess.
//!
//! What a header says counts only if the peer of the socket is a trusted proxy, and only as far as
//! trusted proxies wrote it: the lines of the header are one list, each proxy adds the address that
//! it saw on the right, and the first address from the right that is no trusted proxy is the
//! client. Everything left of it may be the client's own invention. A list that is missing, too
//! long, or in which one item is no address has no client at all, wherever the item stands: the
//! next best address would be the proxy's, or one that a stranger chose.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::addr::ClientAddr;
use crate::gate::{Member, MemberError, Nets, Peer};

/// Name of the header that proxies extend.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Most addresses of a list.
const MOST_HOPS: usize = 20;

/// Shortest prefixes of networks that a site may have: 10.0.0.0/8, fc00::/7.
const SHORTEST: (u8, u8) = (8, 7);

/// The word for all peers of unix sockets.
const UNIX: &str = "unix";

/// Rules by which the client of a request is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientRules {
    /// Proxies of which the headers count.
    pub proxies: TrustedProxies,
    /// Headers that name the client; the first that a request has decides.
    pub headers: Vec<HeaderName>,
}

/// Peers of which the headers count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustedProxies {
    networks: Nets<()>,
    /// Peers of unix sockets: the mode of the file says who these are.
    unix: bool,
    /// Every peer, so that the left-most address counts, also if a client wrote it.
    any: bool,
}

/// An item of the list of trusted proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// An address or a network.
    Network(Member),
    /// The peers of unix sockets.
    Unix,
}

/// The reason why a text is no [`TrustedProxy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; the proxies on a unix socket are called unix")]
pub struct TrustedProxyError(#[from] MemberError);

// === impl ClientRules ===

impl ClientRules {
    /// Returns the rules for X-Forwarded-For of `proxies`.
    pub fn forwarded(proxies: TrustedProxies) -> Self {
        Self { proxies, headers: vec![X_FORWARDED_FOR] }
    }

    /// Returns the client of a request that came through `socket`; `None` if that is not known, and
    /// then no address may be let in for it.
    pub fn client(&self, socket: ClientAddr, headers: &HeaderMap) -> Option<Peer> {
        let own = own_address(socket);
        if !self.proxies.trusts(socket) {
            return own;
        }
        let Some(name) = self.headers.iter().find(|name| headers.contains_key(*name)) else {
            return own.filter(|_| self.proxies.any);
        };
        self.proxies.client_of(headers.get_all(name).iter()).map(Peer::Announced)
    }
}

// === impl TrustedProxies ===

impl TrustedProxies {
    /// Trusts every peer. The left-most address counts then, which anybody can choose.
    pub fn any() -> Self {
        Self { any: true, ..Self::default() }
    }

    /// Returns true if it trusts no peer.
    pub fn is_empty(&self) -> bool {
        !self.any && !self.unix && self.networks.is_empty()
    }

    /// Returns a network that has more in it than any site; trusting all in so many words is none.
    pub fn widest(&self) -> Option<IpNet> {
        let is_wide = |network: &IpNet| match network {
            IpNet::V4(network) => network.prefix_len() < SHORTEST.0,
            IpNet::V6(network) => network.prefix_len() < SHORTEST.1,
        };
        self.networks.iter().map(|(network, ())| network).find(is_wide)
    }

    /// Returns true if the headers of requests through `socket` count.
    pub fn trusts(&self, socket: ClientAddr) -> bool {
        match socket {
            ClientAddr::Ip(address) => self.any || self.has(address.ip()),
            ClientAddr::Unix => self.any || self.unix,
            ClientAddr::Pipe | ClientAddr::Nameless => false,
        }
    }

    /// Returns the client in a list of hops.
    fn client_of<'a>(&self, lines: impl Iterator<Item = &'a HeaderValue>) -> Option<IpAddr> {
        let mut client = None;
        let mut hops = 0;
        for line in lines {
            for item in line.to_str().ok()?.split(',') {
                hops += 1;
                let ip = item.trim_matches([' ', '\t']).parse::<IpAddr>().ok()?.to_canonical();
                if hops > MOST_HOPS {
                    return None;
                }
                let is_further = if self.any { client.is_none() } else { !self.has(ip) };
                if is_further {
                    client = Some(ip);
                }
            }
        }
        client
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.networks.lookup(ip).is_some()
    }
}

impl FromIterator<TrustedProxy> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = TrustedProxy>>(items: I) -> Self {
        let mut all = Self::default();
        for item in items {
            match item {
                TrustedProxy::Network(member) => {
                    all.networks.insert(member.into(), ());
                }
                TrustedProxy::Unix => all.unix = true,
            }
        }
        all
    }
}

// === impl TrustedProxy ===

impl FromStr for TrustedProxy {
    type Err = TrustedProxyError;

    fn from_str(text: &str) -> Result<Self, TrustedProxyError> {
        if text == UNIX { Ok(Self::Unix) } else { Ok(Self::Network(text.parse()?)) }
    }
}

/// Returns the peer of a socket as its own client; `None` where it has no address.
fn own_address(socket: ClientAddr) -> Option<Peer> {
    match socket {
        ClientAddr::Ip(address) => Some(Peer::Socket(address.ip().to_canonical())),
        ClientAddr::Unix | ClientAddr::Pipe | ClientAddr::Nameless => None,
    }
}

#[cfg(test)]
#[path = "client_address_tests.rs"]
mod tests;
