//! Standard input and output as the plain side of a session.
//!
//! Both may block, so each read and each write runs on a separate thread. tokio's own types are not
//! used: they panic when the system gives no thread.

use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::net::{Duplex, ReadSide, WriteSide};
use crate::tasks::{Undone, blocking};

/// Most bytes of one read and one write.
const AT_ONCE: usize = 64 << 10;

/// Time for the reader of standard output to take the bytes from before a stop.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Work that runs on another thread.
type Done<T> = Pin<Box<dyn Future<Output = Result<io::Result<T>, Undone>> + Send>>;

/// Standard input and output. Once the far side's stream is complete, input is dropped: as an
/// abort, since it is unknown whether it was complete.
pub(super) struct Stdio {
    input: Input,
    output: Output,
}

pub(super) struct Input {
    reading: Option<Done<Vec<u8>>>,
    /// Bytes that were read, and the number of them that was consumed.
    read: Vec<u8>,
    taken: usize,
    far_side_ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

pub(super) struct Output {
    writing: Option<Done<()>>,
    far_side_ended: CancellationToken,
    stop: CancellationToken,
}

impl Stdio {
    /// Creates both, until `stop` is cancelled.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let ended = CancellationToken::new();
        let far_side_ended = Box::pin(ended.clone().cancelled_owned());
        Self {
            input: Input { reading: None, read: vec![], taken: 0, far_side_ended },
            output: Output { writing: None, far_side_ended: ended, stop },
        }
    }

    /// Returns a token that is cancelled when the far side's stream is complete and written.
    pub(super) fn far_side_ended(&self) -> CancellationToken {
        self.output.far_side_ended.clone()
    }
}

impl Duplex for Stdio {
    type Read<'a> = &'a mut Input;
    type Write<'a> = &'a mut Output;

    fn split(&mut self) -> (&mut Input, &mut Output) {
        (&mut self.input, &mut self.output)
    }

    /// Does nothing: the end of output was flushed already.
    async fn finish(self) {}

    async fn abort(mut self) {
        let stop = self.output.stop.clone();
        let stopped = async {
            stop.cancelled().await;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            // The reader may be gone as well.
            _ = self.output.flush() => {}
            () = stopped => {}
        }
    }
}

/// Uses the defaults: a read runs on a separate thread, and readiness is not known before.
impl ReadSide for &mut Input {}

impl WriteSide for &mut Output {}

fn read_some(mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    buffer.resize(AT_ONCE, 0);
    loop {
        match io::stdin().lock().read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_all(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

impl Input {
    /// Reads the available bytes; empty at the end.
    fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.taken == self.read.len() {
            let buffer = &mut self.read;
            self.taken = 0;
            let reading = self.reading.get_or_insert_with(|| {
                let buffer = std::mem::take(buffer);
                Box::pin(blocking(|| read_some(buffer)))
            });
            let done = ready!(reading.as_mut().poll(cx));
            self.reading = None;
            self.read = done??;
        }
        Poll::Ready(Ok(&self.read[self.taken..]))
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Polled first, so that an end that has been read counts as one.
        if let Poll::Ready(some) = self.poll_some(cx) {
            let some = some?;
            let length = some.len().min(buf.remaining());
            buf.put_slice(&some[..length]);
            self.taken += length;
            return Poll::Ready(Ok(()));
        }
        ready!(self.far_side_ended.as_mut().poll(cx));
        Poll::Ready(Err(ErrorKind::NotConnected.into()))
    }
}

impl Output {
    /// Waits until the last write is complete.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(())) };
        let done = ready!(writing.as_mut().poll(cx));
        self.writing = None;
        Poll::Ready(done?)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        let bytes = buf[..buf.len().min(AT_ONCE)].to_vec();
        let length = bytes.len();
        self.writing = Some(Box::pin(blocking(move || write_all(&bytes))));
        // It begins at the first poll.
        match self.poll_written(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(length)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        self.far_side_ended.cancel();
        Poll::Ready(Ok(()))
    }
}
