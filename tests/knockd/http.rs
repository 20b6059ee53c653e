//! HTTP by hand: requests as bytes, and answers as they came, so that a test knows every byte.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use testkit::NEVER;

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the value of a header; several lines as one list.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.headers.iter().filter(|(other, _)| other == name);
        let lines: Vec<&str> = lines.map(|(_, value)| value.as_str()).collect();
        (!lines.is_empty()).then(|| lines.join(", "))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {}", self.status, self.text()))
    }
}

/// Sends bytes from `peer` and reads to the end of the connection.
pub(crate) fn exchange(peer: IpAddr, to: SocketAddr, bytes: &[u8], half_close: bool) -> Vec<u8> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(peer, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap_or_else(|error| panic!("cannot reach {to}: {error}"));
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(NEVER)).unwrap();
    // One who refuses what it has not read may end the connection before all is sent.
    let _ = stream.write_all(bytes);
    if half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = vec![];
    let mut part = [0; 16_384];
    loop {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return answer,
            Ok(count) => answer.extend_from_slice(&part[..count]),
        }
    }
}

/// Reads the answers in these bytes; interim ones are passed over. `is_head`: without bodies.
#[track_caller]
pub(crate) fn answers(mut bytes: &[u8], is_head: bool) -> Vec<Answer> {
    let mut all = vec![];
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("half an answer: {:?}", lossy(bytes)));
        let head = lossy(&bytes[..end]);
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status: {head}"));
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let mut answer = Answer { status, headers: headers.collect(), body: vec![] };
        if status == 100 {
            continue;
        }
        if !is_head && status != 204 {
            let length = answer.header("content-length").and_then(|length| length.parse().ok());
            let length: usize = length.unwrap_or(0);
            assert!(bytes.len() >= length, "a body is cut off: {head}");
            answer.body = bytes[..length].to_vec();
            bytes = &bytes[length..];
        }
        all.push(answer);
    }
    all
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A request by its parts.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub peer: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub headers: Vec<(&'a str, String)>,
    pub body: &'a str,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(peer: &'a str, method: &'a str, path: &'a str) -> Self {
        Self { peer, method, path, headers: vec![], body: "" }
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("X-Api-Key", token)
    }

    pub(crate) fn header(mut self, name: &'a str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn json(self, body: &'a str) -> Self {
        Self { body, ..self }.header("Content-Type", "application/json")
    }

    /// Sends it on a connection of its own, and returns the answer.
    #[track_caller]
    pub(crate) fn send(&self, to: SocketAddr) -> Answer {
        let Self { peer, method, path, headers, body } = self;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: knock.test\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let bytes = exchange(peer.parse().unwrap(), to, request.as_bytes(), false);
        let mut all = answers(&bytes, *method == "HEAD");
        assert_eq!(all.len(), 1, "one answer: {:?}", lossy(&bytes));
        all.remove(0)
    }
}
