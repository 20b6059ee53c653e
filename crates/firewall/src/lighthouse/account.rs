//! Requests under one account: signed, in turns, and tried again where a refusal passes by itself.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::api::{Answer, ApiError, Kind, Request, VERSION};
use super::credentials::Credentials;
use super::sign::{CONTENT_TYPE, Signed};
use super::turns::Turns;
use crate::clock::now;

/// Attempts at one request.
const ATTEMPTS: u32 = 4;

/// Pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// Pause after too many requests in a second.
const OFTEN: Duration = Duration::from_millis(1_100);

/// The way to the API: the program has the sockets.
pub trait Transport: Send {
    /// Returns the value of the Host header of requests, which is signed.
    fn host(&self) -> &str;

    /// Sends a POST to `/` with these headers, which hold secrets, and returns the answer; or a line
    /// that says why there is none.
    fn post(
        &self,
        headers: Vec<Header>,
        body: Vec<u8>,
    ) -> impl Future<Output = Result<Reply, String>> + Send;
}

/// A header of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status of HTTP.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// An account in a region.
pub(super) struct Account<T> {
    pub(super) transport: T,
    pub(super) region: String,
    pub(super) credentials: Credentials,
    pub(super) turns: Turns,
}

impl<T: Transport> Account<T> {
    /// Sends a request, again where that may help, and returns the answer.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Answer, ApiError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.once(request).await {
                Err(ApiError::Away(why)) => return Err(ApiError::Away(why)),
                Err(error) if error.kind() == Kind::Passing => sleep(pause).await,
                Err(error) if error.kind() == Kind::Often => sleep(pause.max(OFTEN)).await,
                decided => return decided,
            }
            pause *= 2;
        }
        self.once(request).await
    }

    async fn once(&mut self, request: &Request) -> Result<Answer, ApiError> {
        sleep_until(self.turns.take(request.action, Instant::now())).await;
        let headers = self.headers(request);
        let mut answered = match self.transport.post(headers, request.body.clone()).await {
            Ok(Reply { status, body }) => Answer::read(status, &body),
            Err(why) => Err(ApiError::Away(why)),
        };
        if let Err(error) = &mut answered {
            self.credentials.texts().for_each(|secret| error.hide(secret));
        }
        answered
    }

    fn headers(&self, request: &Request) -> Vec<Header> {
        let Self { region, credentials, .. } = self;
        let timestamp = now().as_secs();
        let signed = Signed { host: self.transport.host(), timestamp, body: &request.body };
        let header = |name, value: &str| Header { name, value: value.to_owned() };
        let token = credentials.token().map(|token| header("x-tc-token", token));
        [
            header("content-type", CONTENT_TYPE),
            header("authorization", &signed.authorization(credentials)),
            header("x-tc-action", request.action),
            header("x-tc-version", VERSION),
            header("x-tc-timestamp", &timestamp.to_string()),
            header("x-tc-region", region),
        ]
        .into_iter()
        .chain(token)
        .collect()
    }
}
