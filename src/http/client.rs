//! One request to a web server, over a connection of its own.
//!
//! For requests that are rare: nothing is kept between two of them, so that each goes to the
//! addresses that the name has then, from the address that this host has then. Follows no
//! redirect: what is sent may be a secret of that server.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::client_tls::{ClientTls, told};
use crate::addr::{Address, BindAddress};
use crate::net::{Names, SocketOptions, Stream, Target, dial};

/// Longest body of an answer, in bytes.
const LONGEST: usize = 64 * 1024;

/// Address of a web service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    is_encrypted: bool,
    host: String,
    address: Address,
    /// Host, and port where it is not the usual one.
    authority: String,
    /// Path without a slash at its end.
    path: String,
}

/// Text that is no address of a web service. It is not repeated: it may have a secret in it.
#[derive(Debug, thiserror::Error)]
pub enum BadUrl {
    /// No URL.
    #[error("it is no web address; write https://HOST/")]
    NoUrl,
    /// Another protocol.
    #[error("it is not for the web; write https://HOST/")]
    Scheme,
    /// The token would be readable on the way.
    #[error(
        "http:// would carry the token in plain text; write https://, or http:// for an address of 127.0.0.0/8 or ::1 only"
    )]
    Plain,
    /// A user, a password or a query.
    #[error(
        "it has more than host, port and path; leave the rest out: a token belongs in --token-file"
    )]
    Extra,
}

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The name has no address.
    #[error("cannot resolve {0}: {1}; correct the name, or check name service")]
    Name(Address, String),
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Dial(Address, String),
    /// No TLS.
    #[error("no TLS with {0}: {1}")]
    Tls(Address, String),
    /// No HTTP.
    #[error("{0} did not answer as a web server does: {1}")]
    Http(Address, String),
    /// The time is over.
    #[error("{0} did not answer within {1} s")]
    Silent(Address, f64),
}

/// An answer, with the address of this host that the request left from.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub response: Response<Bytes>,
    /// Local address; `None` where the system does not tell.
    pub from: Option<IpAddr>,
}

/// Sends requests.
#[derive(Debug)]
pub struct HttpClient {
    /// Certificates to check a server with.
    pub tls: ClientTls,
    /// Local address.
    pub bind: Option<BindAddress>,
    /// Longest time of a request with its answer.
    pub timeout: Duration,
    names: Names,
}

impl FromStr for WebUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let url: Uri = text.parse().map_err(|_| BadUrl::NoUrl)?;
        let is_encrypted = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(BadUrl::Scheme),
            None => return Err(BadUrl::NoUrl),
        };
        let authority = url.authority().ok_or(BadUrl::NoUrl)?;
        if authority.as_str().contains('@') || url.query().is_some() || text.contains('#') {
            return Err(BadUrl::Extra);
        }
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if !is_encrypted && !is_loopback(&bare) {
            return Err(BadUrl::Plain);
        }
        let port = authority.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let address = format!("{host}:{port}").parse().map_err(|_| BadUrl::NoUrl)?;
        let path = url.path().trim_end_matches('/').to_owned();
        let authority = authority.as_str().to_owned();
        Ok(Self { is_encrypted, host: bare, address, authority, path })
    }
}

impl WebUrl {
    /// Returns the address of the server.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns true if it is for TLS.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Returns the value of the Host header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the path of `name` below this one; itself if it ends with that.
    pub fn path_of(&self, name: &str) -> String {
        match self.path.rsplit('/').next() {
            Some(last) if last == name => self.path.clone(),
            _ => format!("{}/{name}", self.path),
        }
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl HttpClient {
    /// Creates a client that has asked nothing yet.
    pub fn new(tls: ClientTls, bind: Option<BindAddress>, timeout: Duration) -> Self {
        Self { tls, bind, timeout, names: Names::default() }
    }

    /// Looks up the server of `url`.
    ///
    /// # Errors
    /// [`RequestError::Name`]
    pub async fn find(&self, url: &WebUrl) -> Result<Target, RequestError> {
        let found = self.names.find(&url.address, self.timeout).await;
        found.map_err(|error| RequestError::Name(url.address.clone(), error.to_string()))
    }

    /// Sends a request to the server of `url`, and returns its answer.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn send(
        &self,
        url: &WebUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<Answered, RequestError> {
        let to = &url.address;
        let deadline = Instant::now() + self.timeout;
        let answered = timeout_at(deadline, self.send_until(url, request, deadline)).await;
        answered
            .unwrap_or_else(|_| Err(RequestError::Silent(to.clone(), self.timeout.as_secs_f64())))
    }

    async fn send_until(
        &self,
        url: &WebUrl,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Answered, RequestError> {
        let to = &url.address;
        let found = self.find(url).await?;
        let dialled = dial(&found, self.bind, &SocketOptions::default(), deadline).await;
        let stream = dialled.map_err(|error| RequestError::Dial(to.clone(), error.to_string()))?;
        let from = local_ip(&stream);
        let response = match url.is_encrypted {
            true => {
                let secured = self.tls.wrap(stream, &url.host).await;
                let tls = |error: io::Error| RequestError::Tls(to.clone(), told(&error));
                exchange(secured.map_err(tls)?, request).await
            }
            false => exchange(stream, request).await,
        };
        let response = response.map_err(|error| RequestError::Http(to.clone(), error))?;
        Ok(Answered { response, from })
    }
}

/// Sends the request over a connection, and reads the answer.
async fn exchange<I>(io: I, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answered = &mut answered => answered,
        ended = &mut connection => {
            ended.map_err(|error| error.to_string())?;
            answered.await
        }
    }
}

fn local_ip(stream: &Stream) -> Option<IpAddr> {
    match stream {
        Stream::Tcp(socket) => socket.local_addr().ok().map(|own| own.ip().to_canonical()),
        Stream::Unix(_) => None,
    }
}

/// Returns true for an address of this host. A name may mean another one.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_a_path_below_which_the_api_is() {
        for (text, address, path) in [
            ("https://knock.example.org", "knock.example.org:443", "/knock"),
            ("https://knock.example.org/", "knock.example.org:443", "/knock"),
            ("https://knock.example.org:8443/knock", "knock.example.org:8443", "/knock"),
            ("https://[2001:db8::1]/a/b/", "[2001:db8::1]:443", "/a/b/knock"),
            ("http://127.0.0.1:8000/", "127.0.0.1:8000", "/knock"),
        ] {
            let url: WebUrl = text.parse().unwrap();
            assert_eq!(
                (url.address().to_string(), url.path_of("knock")),
                (address.to_owned(), path.to_owned())
            );
        }
    }

    #[test]
    fn a_url_that_would_show_the_token_is_refused() {
        for (text, said) in [
            ("http://knock.example.org/", "plain text"),
            ("http://192.0.2.1/", "plain text"),
            ("http://localhost/", "plain text"),
            ("https://user:pw@knock.example.org/", "--token-file"),
            ("https://knock.example.org/?token=x", "--token-file"),
            ("ftp://knock.example.org/", "https://HOST/"),
            ("knock.example.org", "https://HOST/"),
        ] {
            let error = text.parse::<WebUrl>().unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("; "), "{error}");
            assert!(!error.contains("pw") && !error.contains("token=x"), "{error}");
        }
    }
}
