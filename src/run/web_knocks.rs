//! Knocks over HTTP: a request with a token, and an answer that tells what was granted.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::KnockingOptions;
use crate::gate::Member;
use crate::http::{Answered, HttpClient, WebUrl};
use crate::knockd::api::{ErrorReply, KnockBody, KnockReply, TOKEN_HEADER};
use crate::knocker::KnockWish;
use crate::net::{Outgoing, Target};
use crate::printable::printable;

/// Name of the resource below the service's address.
const KNOCK: &str = "knock";

/// Sends knocks to one service.
pub(super) struct WebKnocks<'a> {
    url: &'a WebUrl,
    token: HeaderValue,
    wish: &'a KnockWish,
    client: HttpClient,
    /// Address of this host that the last knock left from.
    from: Mutex<Option<IpAddr>>,
}

/// A grant, as the service tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// The address or network.
    pub(super) entry: String,
    /// Its duration.
    pub(super) lasting: Duration,
    /// Its end in unix seconds.
    pub(super) expires_at: u64,
}

impl<'a> WebKnocks<'a> {
    pub(super) fn new(
        url: &'a WebUrl,
        token: HeaderValue,
        client: HttpClient,
        options: &'a KnockingOptions,
    ) -> Self {
        Self { url, token, wish: &options.wish, client, from: Mutex::default() }
    }

    /// Returns the address of the service.
    pub(super) fn url(&self) -> &WebUrl {
        self.url
    }

    /// Knocks once.
    ///
    /// # Errors
    /// The service cannot be reached, or refuses.
    pub(super) async fn knock(&self) -> anyhow::Result<Granted> {
        let Answered { response, from } = self.client.send(self.url, self.request()?).await?;
        *self.from.lock().unwrap_or_else(PoisonError::into_inner) = from;
        granted(&response).map_err(|why| anyhow!("{} {why}", self.url))
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let KnockWish { ttl_s, gate, label, address } = self.wish;
        let body = KnockBody {
            ttl: ttl_s.map(|ttl_s| u64::from(ttl_s.get())),
            ip_address: address.map(|network| Member::from(network).to_string()),
            label: label.as_ref().map(|label| label.as_str().to_owned()),
            gate: gate.as_ref().map(|gate| gate.as_str().to_owned()),
        };
        let body = serde_json::to_vec(&body)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.path_of(KNOCK))
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(TOKEN_HEADER, self.token.clone());
        Ok(request.body(Full::new(body.into()))?)
    }

    /// Returns true if the next knock would leave from another address than the last one.
    pub(super) async fn has_moved(&self) -> bool {
        let before = *self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(Target::Ips(endpoints)) = self.client.find(self.url).await else { return false };
        let now = endpoints.iter().filter_map(|endpoint| endpoint.now().ok());
        let ways = now.filter_map(|to| Outgoing::towards(to, self.client.bind).ok());
        let mut ways = ways.map(|way| way.from().to_canonical()).peekable();
        ways.peek().is_some() && !ways.any(|from| Some(from) == before)
    }
}

/// Reads the answer.
///
/// # Errors
/// Words of the service, and the remedy.
fn granted(response: &Response<Bytes>) -> Result<Granted, String> {
    let status = response.status();
    if status == StatusCode::OK {
        let reply: Result<KnockReply, _> = serde_json::from_slice(response.body());
        return match reply {
            Ok(reply) => Ok(Granted {
                entry: reply.whitelisted_entry,
                lasting: Duration::from_secs(reply.expires_in_seconds),
                expires_at: reply.expires_at,
            }),
            Err(_) => Err("answers no knock as a knock service does; check the address".to_owned()),
        };
    }
    let said: Result<ErrorReply, _> = serde_json::from_slice(response.body());
    let said = match said {
        Ok(ErrorReply { error }) => format!("{} ({status})", printable(&error)),
        Err(_) => status.to_string(),
    };
    let remedy = match status {
        StatusCode::UNAUTHORIZED => "check --token-file",
        StatusCode::FORBIDDEN => "ask for less, or have the token's rights changed there",
        StatusCode::TOO_MANY_REQUESTS => "try again later",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "check the address",
        status if status.is_redirection() => {
            "write the URL of the knockd itself: this one redirects, or wants a login first"
        }
        status if status.is_server_error() => "try again, or look at the log there",
        _ => "correct what is asked for",
    };
    Err(format!("refuses the knock: {said}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap()
    }

    #[test]
    fn an_answer_is_a_grant_or_says_what_to_do() {
        let body =
            r#"{"whitelisted_entry":"192.0.2.7","expires_at":1700000060,"expires_in_seconds":60}"#;
        let grant = granted(&answer(200, body)).unwrap();
        assert_eq!((&*grant.entry, grant.lasting.as_secs()), ("192.0.2.7", 60));
        for (status, body, said) in [
            (200, "<html>", "check the address"),
            (401, r#"{"error":"Invalid or missing API key."}"#, "check --token-file"),
            (403, "{}", "rights"),
            (404, "", "check the address"),
            (302, "", "wants a login first"),
            (308, "<html>", "the URL of the knockd itself"),
            (429, r#"{"error":"Too many knock attempts."}"#, "try again later"),
            (500, r#"{"error":"a\u001b[2Jb"}"#, "look at the log there"),
        ] {
            let error = granted(&answer(status, body)).unwrap_err();
            assert!(error.contains(said) && error.contains("; "), "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
