//! Gives every connection one answer of one form, whatever it sends, HTTP or not.
//!
//! A library that answers requests has answers of its own for what it does not understand, says in
//! them which version it speaks, and keeps some connections alive: by that, an observer tells one
//! program from another. Here the head of a request is read, parsed if it can be, and answered; each
//! answer has the same line and the same headers, and ends its connection. A body is not read.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};

use super::connection::ConnectionLimits;

/// Most header lines of a request.
const MOST_LINES: usize = 100;

/// Bytes of a body that are dropped, so that a client that still writes can read its answer.
const MOST_DROPPED: usize = 1 << 20;

/// Longest time for the client to read its answer and to end the connection.
const GOODBYE: Duration = Duration::from_secs(2);

/// Head of a request.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The method.
    pub method: String,
    /// The target, as it came.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
}

/// An answer of the one form.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// Its status.
    pub status: StatusCode,
    /// The type of its body.
    pub content_type: HeaderValue,
    /// Its body.
    pub body: Bytes,
}

/// Bytes that a connection brought.
enum Came {
    /// Nothing, so that there is nothing to answer.
    Nothing,
    /// Bytes that are no request, or not all of one in time.
    NoRequest,
    /// A request.
    Request(Head),
}

impl ConnectionLimits {
    /// Reads one request from `io` and writes what `answer` returns, `None` being a connection that
    /// ends without a byte; it gets `None` for what is no request. Returns when the connection has
    /// ended.
    pub async fn answer_once<I, F>(&self, io: I, answer: impl FnOnce(Option<Head>) -> F)
    where
        I: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = Option<Form>>,
    {
        // Errors are the client's: it left.
        let _ = self.try_answer(io, answer).await;
    }

    async fn try_answer<I, F>(
        &self,
        mut io: I,
        answer: impl FnOnce(Option<Head>) -> F,
    ) -> io::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = Option<Form>>,
    {
        let head = match self.read_head(&mut io).await {
            Came::Nothing => return Ok(()),
            Came::NoRequest => None,
            Came::Request(head) => Some(head),
        };
        let has_body = head.as_ref().is_none_or(|head| head.method != "HEAD");
        let Some(form) = answer(head).await else { return Ok(()) };
        let bytes = form.bytes(has_body, SystemTime::now());
        timeout(self.header_timeout, async {
            io.write_all(&bytes).await?;
            io.shutdown().await
        })
        .await??;
        // Or the system resets the connection, and the answer may be lost.
        let _ = timeout(GOODBYE, discard(&mut io)).await;
        Ok(())
    }

    async fn read_head(&self, io: &mut (impl AsyncRead + Unpin)) -> Came {
        let deadline = tokio::time::Instant::now() + self.header_timeout;
        let mut bytes = BytesMut::new();
        loop {
            let seen = bytes.len().saturating_sub(3);
            let read = timeout_at(deadline, io.read_buf(&mut bytes)).await;
            let is_over = !matches!(read, Ok(Ok(1..))) || bytes.len() >= self.max_header;
            if bytes.is_empty() {
                return Came::Nothing;
            }
            // Not parsed before: what cannot be a request waits as long as half of one.
            if is_over || ends_head(&bytes[seen..]) {
                return parse(&bytes).map_or(Came::NoRequest, Came::Request);
            }
        }
    }
}

impl Form {
    /// Returns the whole answer; without its body for a request that must not get one.
    fn bytes(&self, has_body: bool, now: SystemTime) -> Vec<u8> {
        let Self { status, content_type, body } = self;
        let reason = status.canonical_reason().unwrap_or("Unknown");
        let date = httpdate::fmt_http_date(now);
        let line =
            format!("HTTP/1.1 {} {reason}\r\nDate: {date}\r\nContent-Type: ", status.as_u16());
        let length = format!("\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let body = if has_body { &body[..] } else { &[] };
        [line.as_bytes(), content_type.as_bytes(), length.as_bytes(), body].concat()
    }
}

/// Returns true if there is an empty line in it.
fn ends_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// Parses the head of a request; `None` if it is none, or not complete.
fn parse(bytes: &[u8]) -> Option<Head> {
    let mut lines = [httparse::EMPTY_HEADER; MOST_LINES];
    let mut request = httparse::Request::new(&mut lines);
    request.parse(bytes).ok().filter(httparse::Status::is_complete)?;
    let mut headers = HeaderMap::new();
    for line in request.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Some(Head { method: text(request.method), target: text(request.path), headers })
}

async fn discard(io: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 4_096];
    let mut dropped = 0;
    while dropped < MOST_DROPPED {
        match io.read(&mut buffer).await? {
            0 => break,
            some => dropped += some,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const LIMITS: ConnectionLimits =
        ConnectionLimits { header_timeout: Duration::from_secs(10), max_header: 4_096 };

    fn form(body: &'static str) -> Option<Form> {
        let content_type = HeaderValue::from_static("text/html; charset=UTF-8");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Some(Form { status, content_type, body: Bytes::from_static(body.as_bytes()) })
    }

    /// Sends `pieces`, ends that direction, and returns the answer without its date.
    async fn exchange(pieces: &[&[u8]]) -> String {
        let (mut client, server) = duplex(64);
        let answer = |head: Option<Head>| async move {
            match head {
                Some(head) if head.headers.contains_key("x-knock") => form("in"),
                _ => form("out"),
            }
        };
        let serve = tokio::spawn(async move { LIMITS.answer_once(server, answer).await });
        let mut got = vec![];
        let (mut read, mut write) = tokio::io::split(&mut client);
        let send = async {
            for piece in pieces {
                let _ = write.write_all(piece).await;
            }
            let _ = write.shutdown().await;
        };
        let (_, read) = tokio::join!(send, read.read_to_end(&mut got));
        read.unwrap();
        drop(client);
        serve.await.unwrap();
        let got = String::from_utf8(got).unwrap();
        let is_date = |line: &&str| line.starts_with("Date: ") && line.ends_with(" GMT");
        assert!(got.is_empty() || got.split("\r\n").filter(is_date).count() == 1, "{got}");
        got.split("\r\n").filter(|line| !is_date(line)).collect::<Vec<_>>().join("\r\n")
    }

    fn expected(body: &str) -> String {
        format!(
            "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html; charset=UTF-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_gets_the_same_answer() {
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 5_000], b"\r\n\r\n"].concat();
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(101), b"\r\n"].concat();
        for sent in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
            b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
            b"OPTIONS * HTTP/1.1\r\n\r\n",
            b"BREW / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\nX y: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzz",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
            b"HELO x\r\n\r\n",
            b"x",
            b"\0",
            b"GET / HT",
            &long,
            &many,
        ] {
            let shown = String::from_utf8_lossy(sent);
            assert_eq!(exchange(&[sent]).await, expected("out"), "{shown}");
            let bytes: Vec<&[u8]> = sent.chunks(1).collect();
            assert_eq!(exchange(&bytes).await, expected("out"), "{shown}, byte by byte");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_request_gets_no_body_and_the_same_headers() {
        let got = exchange(&[b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"]).await;
        assert_eq!(got, expected("out").strip_suffix("out").unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_passed_on_and_nothing_behind_it_is_answered() {
        let knock = b"GET / HTTP/1.1\r\nX-Knock: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(exchange(&[knock]).await, expected("in"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_answered_and_half_a_request_is_at_the_deadline() {
        assert_eq!(exchange(&[]).await, "");
        let (mut client, server) = duplex(64);
        let answer = |head: Option<Head>| async move {
            assert!(head.is_none());
            form("out")
        };
        let serve = tokio::spawn(async move { LIMITS.answer_once(server, answer).await });
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut got = vec![];
        client.read_to_end(&mut got).await.unwrap();
        assert!(got.ends_with(b"\r\n\r\nout"));
        drop(client);
        serve.await.unwrap();
    }
}
