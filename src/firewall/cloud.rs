//! The way to the API of a cloud: the HTTP client of this program.
//!
//! Each request has a connection of its own: there are few of them, and each goes to the addresses
//! that the name has then.

use std::time::Duration;

use http_body_util::Full;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request};
use knockpipe_firewall::lighthouse::{Header, Lighthouse, Reply, Transport};

use super::options::LighthouseOptions;
use crate::http::{HttpClient, WebUrl};

/// Longest time of a request with its answer.
const LONGEST: Duration = Duration::from_secs(10);

/// An HTTP client for one server.
pub struct WebWay {
    url: WebUrl,
    host: String,
    client: HttpClient,
}

/// Creates the firewall of a cloud. Nothing is asked yet.
pub fn lighthouse(options: LighthouseOptions) -> Lighthouse<WebWay> {
    let LighthouseOptions { rules, endpoint, tls } = options;
    let client = HttpClient::new(tls, None, LONGEST);
    let host = endpoint.authority().to_owned();
    Lighthouse::new(rules, WebWay { url: endpoint, host, client })
}

impl Transport for WebWay {
    fn host(&self) -> &str {
        &self.host
    }

    async fn post(&self, headers: Vec<Header>, body: Vec<u8>) -> Result<Reply, String> {
        let mut request = Request::builder().method(Method::POST).uri("/").header(HOST, &self.host);
        for Header { name, value } in headers {
            let mut value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
        let answered = self.client.send(&self.url, request).await;
        let response = answered.map_err(|error| error.to_string())?.response;
        let status = response.status().as_u16();
        Ok(Reply { status, body: response.into_body().to_vec() })
    }
}
