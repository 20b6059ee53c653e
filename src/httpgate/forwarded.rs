//! Header fields that tell the server the client's address, the scheme and the host that it
//! asked for: X-Forwarded-For, -Proto and -Host, and Forwarded (RFC 7239).
//!
//! What a client says of itself in them is dropped, in every spelling that a server might take for
//! the same, so that the server can believe them; and so are other fields that name a client or a
//! user. Only a trusted proxy is believed, and added to; fields about the client that such a proxy
//! may pass on unseen, Forwarded among them, are made anew or dropped. The user is the proxy's
//! word: one that checks users replaces what came.

use std::fmt::Write as _;
use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue};

use crate::http::fields::{Group, has_dashes, is_same};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Length of the longest text of an address, in bytes.
const LONGEST_ADDRESS: usize = 45;

/// One hop, as this end sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop<'a> {
    /// Address of the socket's other end; `None` over a unix socket.
    pub(super) peer: Option<IpAddr>,
    /// The other end is a trusted proxy.
    pub(super) is_trusted: bool,
    /// Address of the client, as far as it was found out.
    pub(super) client: Option<IpAddr>,
    /// The connection is encrypted.
    pub(super) is_encrypted: bool,
    /// Host that the client asked for, if it named one.
    pub(super) host: Option<&'a HeaderValue>,
}

/// Removes what no client may be believed for, and adds this hop. `client_header` is the operator's
/// own field with the client's address.
pub(super) fn set(headers: &mut HeaderMap, hop: Hop<'_>, client_header: Option<&HeaderName>) {
    remove(headers, client_header, hop.is_trusted);
    let scheme = HeaderValue::from_static(if hop.is_encrypted { "https" } else { "http" });
    if let Ok(forwarded) = HeaderValue::try_from(hop.forwarded()) {
        headers.insert(FORWARDED, forwarded);
    }
    if let Some(peer) = hop.peer {
        add(headers, peer);
    }
    headers.entry(PROTO).or_insert(scheme);
    if let Some(host) = hop.host {
        headers.entry(HOST).or_insert_with(|| host.clone());
    }
}

/// Returns the scheme of the client's request: what a trusted proxy says, or that of the socket.
pub(super) fn scheme(headers: &HeaderMap, is_trusted: bool, is_encrypted: bool) -> &'static str {
    let told = headers.get(PROTO).filter(|_| is_trusted).map(HeaderValue::as_bytes);
    match told {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if is_encrypted => "https",
        _ => "http",
    }
}

/// Returns the host of the client's request: what a trusted proxy says, or `own`.
pub(super) fn host<'a>(
    headers: &'a HeaderMap,
    is_trusted: bool,
    own: Option<&'a HeaderValue>,
) -> Option<&'a HeaderValue> {
    headers.get(HOST).filter(|_| is_trusted).or(own)
}

/// Removes every field that a server might take for one of a proxy, apart from those that a trusted
/// proxy vouches for; and what is spelled to be taken for another field. Most clients send none.
fn remove(headers: &mut HeaderMap, client_header: Option<&HeaderName>, is_trusted: bool) {
    let is_one = |name: &&HeaderName| {
        let text = name.as_str();
        let is_vouched_for = is_trusted && has_dashes(text);
        if client_header.is_some_and(|header| is_same(text, header.as_str())) {
            return !(is_trusted && client_header == Some(name));
        }
        match Group::of(text) {
            Some(Group::Client) => !(is_vouched_for && [FOR, PROTO, HOST].contains(name)),
            Some(Group::User) => !is_vouched_for,
            Some(Group::Framing | Group::Message) => !has_dashes(text),
            None => false,
        }
    };
    let found: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Adds an address to the list that a trusted proxy began, all of its lines made one.
fn add(headers: &mut HeaderMap, last: IpAddr) {
    let mut list = String::with_capacity(LONGEST_ADDRESS);
    for line in headers.get_all(FOR).iter().filter_map(|line| line.to_str().ok()) {
        list.push_str(line);
        list.push_str(", ");
    }
    let _ = write!(list, "{last}");
    // Addresses, and text that was a field before, are valid values.
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(FOR, value);
    }
}

/// Adds an address to `text` as Forwarded writes it.
fn add_node(text: &mut String, ip: Option<IpAddr>) {
    // A string takes all that is written.
    let _ = match ip {
        Some(IpAddr::V4(ip)) => write!(text, "for={ip}"),
        Some(IpAddr::V6(ip)) => write!(text, "for=\"[{ip}]\""),
        None => write!(text, "for=unknown"),
    };
}

impl Hop<'_> {
    /// Returns the value of Forwarded: the client, and the proxy that it came through.
    fn forwarded(&self) -> String {
        let host = self.host.and_then(|host| host.to_str().ok());
        let rest = 2 * LONGEST_ADDRESS + 32;
        let mut element = String::with_capacity(rest + host.map_or(0, str::len));
        if let Some(client) = self.client.filter(|_| self.is_trusted)
            && self.peer != Some(client)
        {
            add_node(&mut element, Some(client));
            element.push_str(", ");
        }
        add_node(&mut element, self.peer);
        if let Some(host) = host {
            // An authority has neither quotes nor backslashes.
            element.push_str(";host=\"");
            element.push_str(host);
            element.push('"');
        }
        element.push_str(if self.is_encrypted { ";proto=https" } else { ";proto=http" });
        element
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn told(headers: &HeaderMap) -> Vec<String> {
        let mut told: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        told.sort();
        told
    }

    #[test]
    fn the_words_of_a_stranger_are_dropped_in_every_spelling() {
        let mut found = headers(&[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "127.0.0.1"),
            ("x-forwarded_host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-forwarded", "for=x"),
            ("forwarded", "for=127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x_real_ip", "127.0.0.1"),
            ("cf_connecting_ip", "127.0.0.1"),
            ("fastly-client-ip", "127.0.0.1"),
            ("x-remote-addr", "127.0.0.1"),
            ("x_original_host", "evil"),
            ("x.forwarded.for", "127.0.0.1"),
            ("cf.connecting.ip", "127.0.0.1"),
            ("remote-user", "root"),
            ("x_remote_user", "root"),
            ("proxy", "http://evil"),
            ("x-rewrite-url", "/admin"),
            ("content_type", "text/html"),
            ("x-mine", "stays"),
        ]);
        let host = HeaderValue::from_static("a.example:8080");
        let own = HeaderName::from_static("cf-connecting-ip");
        let peer = Some("2001:db8::7".parse().unwrap());
        let hop =
            Hop { peer, is_trusted: false, client: peer, is_encrypted: true, host: Some(&host) };
        set(&mut found, hop, Some(&own));
        assert_eq!(
            told(&found),
            [
                "forwarded: for=\"[2001:db8::7]\";host=\"a.example:8080\";proto=https",
                "x-forwarded-for: 2001:db8::7",
                "x-forwarded-host: a.example:8080",
                "x-forwarded-proto: https",
                "x-mine: stays",
            ]
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let mut found = headers(&[
            ("x-forwarded-for", "198.51.100.9"),
            ("x-forwarded-for", "192.0.2.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
            ("forwarded", "for=127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x-forwarded-port", "1"),
            ("remote-user", "alice"),
            ("remote_user", "root"),
            ("x_forwarded_for", "127.0.0.1"),
        ]);
        let host = HeaderValue::from_static("inner");
        let peer = Some("10.0.0.2".parse().unwrap());
        let client = Some("192.0.2.3".parse().unwrap());
        let hop = Hop { peer, is_trusted: true, client, is_encrypted: false, host: Some(&host) };
        set(&mut found, hop, None);
        assert_eq!(
            told(&found),
            [
                "forwarded: for=192.0.2.3, for=10.0.0.2;host=\"inner\";proto=http",
                "remote-user: alice",
                "x-forwarded-for: 198.51.100.9, 192.0.2.3, 10.0.0.2",
                "x-forwarded-host: public.example",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn a_client_of_a_unix_socket_has_no_address() {
        let mut found = headers(&[]);
        let hop =
            Hop { peer: None, is_trusted: false, client: None, is_encrypted: false, host: None };
        set(&mut found, hop, None);
        assert_eq!(told(&found), ["forwarded: for=unknown;proto=http", "x-forwarded-proto: http"]);
    }

    #[test]
    fn scheme_and_host_are_the_clients() {
        let own = HeaderValue::from_static("inner");
        let found = headers(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "public")]);
        assert_eq!(scheme(&found, true, false), "https");
        assert_eq!(scheme(&found, false, false), "http");
        assert_eq!(host(&found, true, Some(&own)).unwrap(), "public");
        assert_eq!(host(&found, false, Some(&own)).unwrap(), "inner");
    }
}
