//! `-t` of `http`: the address of a web server.

use std::str::FromStr;

use hyper::header::HeaderValue;

use crate::addr::{AddrError, Address};

/// A web server behind the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpTarget {
    /// Address to dial.
    pub(super) address: Address,
    /// Host of its URL, as a browser would send it.
    pub(super) host: HeaderValue,
    /// Name or address that its certificate has to have; `None` is plain HTTP.
    pub(super) tls_name: Option<String>,
}

/// Reason why a text is no [`HttpTarget`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpTargetError {
    /// No URL.
    #[error(
        "'{0}' is no URL of a server; write http://HOST:PORT, https://HOST:PORT or http+unix:///PATH"
    )]
    Scheme(String),
    /// Something behind the host.
    #[error("'{0}' has '{1}' behind its host, and paths are passed on as they are; leave it out")]
    Path(String, String),
    /// A user before the host.
    #[error("'{0}' has a user in it; leave that out, the client sends its own")]
    User(String),
    /// The address is invalid.
    #[error("{0}")]
    Address(#[from] AddrError),
}

impl FromStr for HttpTarget {
    type Err = HttpTargetError;

    fn from_str(text: &str) -> Result<Self, HttpTargetError> {
        if let Some(path) = text.strip_prefix("http+unix://") {
            let address = path.parse()?;
            let is_path = matches!(address, Address::Unix(_));
            let host = HeaderValue::from_static("localhost");
            let wrong = || HttpTargetError::Scheme(text.to_owned());
            return is_path.then_some(Self { address, host, tls_name: None }).ok_or_else(wrong);
        }
        let secured = text.strip_prefix("https://");
        let rest = secured.or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or_else(|| HttpTargetError::Scheme(text.to_owned()))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !matches!(path, "" | "/") {
            return Err(HttpTargetError::Path(text.to_owned(), path.to_owned()));
        }
        if authority.contains('@') {
            return Err(HttpTargetError::User(text.to_owned()));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address = match has_port {
            true => authority.parse()?,
            false => {
                let port = if secured.is_some() { 443 } else { 80 };
                format!("{authority}:{port}").parse()?
            }
        };
        let tls_name = match &address {
            Address::Tcp { host, .. } if secured.is_some() => Some(host.to_string()),
            _ => None,
        };
        let host = HeaderValue::from_str(authority);
        let host = host.map_err(|_| HttpTargetError::Scheme(text.to_owned()))?;
        Ok(Self { address, host, tls_name })
    }
}

impl HttpTarget {
    /// Reads a URL as redis-knocking does, which ignores everything behind the host.
    ///
    /// # Errors
    /// [`HttpTargetError`]
    pub(super) fn without_path(text: &str) -> Result<Self, HttpTargetError> {
        let scheme = text.find("://").map_or(0, |at| at + 3);
        let end = text[scheme..].find(['/', '?', '#']).map_or(text.len(), |at| scheme + at);
        text[..end].parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> (String, String) {
        let target: HttpTarget = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (target.address.to_string(), target.host.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_server_has_an_address_and_a_host() {
        let cases = [
            ("http://localhost:5173", "localhost:5173", "localhost:5173"),
            ("http://localhost:5173/", "localhost:5173", "localhost:5173"),
            ("http://app.example", "app.example:80", "app.example"),
            ("http://[::1]:8080", "[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]:80", "[::1]"),
            ("http+unix:///run/app.sock", "/run/app.sock", "localhost"),
        ];
        for (text, address, host) in cases {
            assert_eq!(target(text), (address.to_owned(), host.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_server_with_tls_has_a_name_to_prove() {
        for (text, address, name) in [
            ("https://app.example", "app.example:443", Some("app.example")),
            ("https://app.example:8443/", "app.example:8443", Some("app.example")),
            ("https://[::1]:8443", "[::1]:8443", Some("::1")),
            ("http://app.example", "app.example:80", None),
        ] {
            let target: HttpTarget = text.parse().unwrap();
            let name = name.map(str::to_owned);
            assert_eq!((target.address.to_string(), target.tls_name), (address.to_owned(), name));
        }
    }

    #[test]
    fn what_is_no_server_is_refused_with_a_remedy() {
        for text in [
            "",
            "localhost:5173",
            "ftp://a",
            "http://",
            "https://",
            "https://u@a",
            "http://a/app",
            "http://a?x",
            "http://u:p@a",
            "http://a:x y",
            "http+unix://a",
        ] {
            let error = text.parse::<HttpTarget>().unwrap_err().to_string();
            assert!(error.contains(';'), "{text}: {error}");
        }
    }

    #[test]
    fn redis_knocking_ignores_what_is_behind_the_host() {
        let target = HttpTarget::without_path("http://localhost:8080/app?x#y").unwrap();
        assert_eq!(target, "http://localhost:8080".parse().unwrap());
    }
}
