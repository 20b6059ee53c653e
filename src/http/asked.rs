//! Host, target and framing of a request, as far as every server reads them in the same way.
//!
//! A proxy in front, or the server behind, may read a request in another way than this program, and
//! then take another host, path or end of the body from the same bytes. What leaves room for that is
//! refused, and the connection ends: where the next request begins is as uncertain. It decides
//! nothing about who may ask, and nothing about a path but that it is one.

use std::net::Ipv6Addr;

use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::{Extensions, HeaderMap};
use hyper::{Method, Request, Uri, Version};

use super::fields::{Group, has_dashes};
use super::raw_heads::RawHeads;

/// Longest name of a host: that of the DNS.
const LONGEST_NAME: usize = 255;

/// Head of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

/// Reason why a head can be read in two ways, or in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// HTTP/1.1 without Host.
    #[error("The request names no host.")]
    NoHost,
    /// Host more than once, or another one in the target.
    #[error("The request names several hosts.")]
    SeveralHosts,
    /// Host or the target's own authority is none.
    #[error("The host of the request is not one.")]
    BadHost,
    /// No path, or the asterisk of another method than OPTIONS.
    #[error("The target of the request is not a path.")]
    Target,
    /// Something behind `#`, which is never sent.
    #[error("The target of the request has a fragment.")]
    Fragment,
    /// A transfer coding other than chunked.
    #[error("The request has a transfer coding other than chunked.")]
    Coding,
    /// A coding and a length, or a length twice.
    #[error("The body of the request has two lengths.")]
    TwoLengths,
    /// A length such as `03`, which some servers read as octal.
    #[error("The length of the request's body has a zero in front.")]
    LengthForm,
    /// A field such as `Content_Length`.
    #[error("The request has a field of its framing in a spelling that servers read differently.")]
    Spelling,
}

impl<'a> Asked<'a> {
    /// Returns the head of a request.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// Returns that of the parts of a request.
    pub fn of_parts(parts: &'a Parts) -> Self {
        let Parts { method, uri, version, headers, extensions, .. } = parts;
        Self { method, uri, version: *version, headers, extensions }
    }

    /// Checks the head, and returns the host that is asked for; `None` for an old client that names
    /// none.
    ///
    /// # Errors
    /// [`BadHead`]
    pub fn check(&self) -> Result<Option<HeaderValue>, BadHead> {
        let raw = self.extensions.get::<RawHeads>();
        if raw.is_some_and(RawHeads::has_two_lengths) {
            return Err(BadHead::TwoLengths);
        }
        if raw.is_some_and(RawHeads::has_fragment) {
            return Err(BadHead::Fragment);
        }
        self.check_target()?;
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        match (codings.next(), codings.next()) {
            (None, None) => {}
            (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
            _ => return Err(BadHead::Coding),
        }
        self.check_length()?;
        let is_other = |name: &str| !has_dashes(name) && Group::of(name) == Some(Group::Framing);
        if self.headers.keys().any(|name| is_other(name.as_str())) {
            return Err(BadHead::Spelling);
        }
        self.host()
    }

    fn check_length(&self) -> Result<(), BadHead> {
        let mut lengths = self.headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
        match (lengths.next(), lengths.next()) {
            (_, Some(_)) => Err(BadHead::TwoLengths),
            (Some([b'0', _, ..]), None) => Err(BadHead::LengthForm),
            _ => Ok(()),
        }
    }

    fn check_target(&self) -> Result<(), BadHead> {
        let path = self.uri.path();
        let is_star = path == "*" && self.method == Method::OPTIONS;
        let is_web = matches!(self.uri.scheme_str(), None | Some("http" | "https"));
        // An authority alone would be a host of the client's choice, for a path that it never named.
        let is_authority = self.uri.authority().is_some() && self.uri.scheme().is_none();
        if is_web && !is_authority && (is_star || path.starts_with('/')) {
            Ok(())
        } else {
            Err(BadHead::Target)
        }
    }

    /// Returns the host of the request: that of its target, or of Host.
    ///
    /// # Errors
    /// [`BadHead`]
    pub fn host(&self) -> Result<Option<HeaderValue>, BadHead> {
        let mut hosts = self.headers.get_all(HOST).iter();
        let named = match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return Err(BadHead::SeveralHosts),
            (named, None) => named.map(checked).transpose()?,
        };
        let Some(authority) = self.uri.authority() else {
            return match named {
                None if self.version != Version::HTTP_10 => Err(BadHead::NoHost),
                named => Ok(named.cloned()),
            };
        };
        let own = HeaderValue::from_str(authority.as_str()).map_err(|_| BadHead::BadHost)?;
        checked(&own)?;
        let is_same = |named: &HeaderValue| named.as_bytes().eq_ignore_ascii_case(own.as_bytes());
        match (self.version, named) {
            (Version::HTTP_11, None) => Err(BadHead::NoHost),
            // Servers differ in which of the two they go by.
            (_, Some(named)) if !is_same(named) => Err(BadHead::SeveralHosts),
            _ => Ok(Some(own)),
        }
    }
}

/// Checks that a host is one name or address, with a port or without.
fn checked(host: &HeaderValue) -> Result<&HeaderValue, BadHead> {
    let is_one = host.to_str().is_ok_and(is_host);
    is_one.then_some(host).ok_or(BadHead::BadHost)
}

fn is_host(text: &str) -> bool {
    let (is_name, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let Some((ip, rest)) = inner.split_once(']') else { return false };
            (ip.parse::<Ipv6Addr>().is_ok(), rest)
        }
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_name(name), rest)
        }
    };
    is_name && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// Returns true for a name of labels with a dot between two of them, and perhaps behind the last.
fn is_name(name: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    name.len() <= LONGEST_NAME
        && labels.all(|label| !label.is_empty() && label.bytes().all(is_sign))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;
