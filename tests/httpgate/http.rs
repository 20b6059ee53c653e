//! HTTP/1.1 by hand, byte by byte: the clients and servers of these tests send and see what no
//! library would.

use std::io::{ErrorKind, Read, Write};

use testkit::{NEVER, Wire};

/// A message as it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Request line or status line.
    pub first: String,
    /// Names in lower case, and values.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// Returns the status of an answer.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        let code = self.first.split(' ').nth(1).unwrap_or_default();
        code.parse().unwrap_or_else(|_| panic!("no status line: {}", self.first))
    }

    /// Returns the only field of this name.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {self:?}", all.len());
        all.first().copied()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(it, _)| it == name).map(|(_, value)| &**value).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection with the bytes that were read from it and not used yet.
pub(crate) struct Peer {
    pub wire: Wire,
    ahead: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(wire: Wire) -> Self {
        wire.read_limit(NEVER);
        Self { wire, ahead: vec![] }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, text: impl AsRef<[u8]>) {
        self.wire.write_all(text.as_ref()).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends a request, and reads its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        self.answer(request.starts_with("HEAD "))
    }

    /// Reads an answer.
    #[track_caller]
    pub(crate) fn answer(&mut self, is_to_head: bool) -> Message {
        let mut message = self.head().expect("an answer comes");
        let status = message.status();
        if is_to_head || status < 200 || status == 204 || status == 304 {
            return message;
        }
        let to_end = !self.body(&mut message).expect("the body comes");
        if to_end {
            while self.more() {}
            message.body.append(&mut self.ahead);
        }
        message
    }

    /// Reads a request; `None` when the connection ends before it is complete.
    pub(crate) fn request(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        self.body(&mut message)?;
        Some(message)
    }

    /// Reads the head of a message.
    pub(crate) fn head(&mut self) -> Option<Message> {
        let mut message = Message { first: self.line()?, ..Message::default() };
        message.fields = self.field_lines()?;
        Some(message)
    }

    /// Reads a body by its coding or length. `Some(false)` is one that has neither.
    fn body(&mut self, message: &mut Message) -> Option<bool> {
        if message.all("transfer-encoding").iter().any(|coding| coding.contains("chunked")) {
            loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).expect("a chunk has a size");
                if size == 0 {
                    break;
                }
                message.body.extend(self.take(size)?);
                assert_eq!(self.take(2)?, b"\r\n", "a chunk ends with a line");
            }
            message.trailers = self.field_lines()?;
            return Some(true);
        }
        match message.field("content-length") {
            Some(length) => {
                let length = length.parse().expect("a length is a number");
                message.body = self.take(length)?;
                Some(true)
            }
            None => Some(false),
        }
    }

    fn field_lines(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = vec![];
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                assert_eq!(line, "", "a field has a colon");
                return Some(fields);
            };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads a line; panics at the end.
    #[track_caller]
    pub(crate) fn text_line(&mut self) -> String {
        self.line().expect("a line comes")
    }

    /// Reads at most as much as fits.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.ahead.is_empty() {
            return self.wire.read(into);
        }
        let bytes = self.ahead.len().min(into.len());
        into[..bytes].copy_from_slice(&self.ahead[..bytes]);
        self.ahead.drain(..bytes);
        Ok(bytes)
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line = self.ahead.drain(..end + 2).take(end).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < bytes {
            if !self.more() {
                return None;
            }
        }
        Some(self.ahead.drain(..bytes).collect())
    }

    /// Reads what there is; false at the end.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.wire.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    self.ahead.extend(&buffer[..n]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }

    /// Returns true when the connection ends without another byte.
    #[track_caller]
    pub(crate) fn is_ended(&mut self) -> bool {
        self.ahead.is_empty() && !self.more()
    }
}
