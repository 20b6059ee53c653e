//! One direction of a relay: plain bytes in, records out.
//!
//! Holds a buffer only from the moment bytes can be read until they are written. All state that
//! must survive an interruption is in [`SealPump`], so its future can be dropped at any time and
//! [`SealPump::reset`] still completes the last record.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::mem::take;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffers::{Buffer, LARGE_RECORDS, RECORD, Size};
use crate::net::{ReadSide, WriteSide};
use crate::observe::sessions::Traffic;
use crate::proto::PeerError;
use crate::proto::message::ResetReason;
use crate::proto::outbound::Outbound;
use crate::reason::CloseReason;

/// The sending direction of a relay.
pub(super) struct SealPump<'t> {
    buffer: Option<Buffer>,
    size: Size,
    /// A write had to wait since the last read.
    waited: bool,
    /// Sealed bytes in `buffer` that are not written yet.
    unsent: Range<usize>,
    /// Control records to write after `unsent`.
    control: Vec<u8>,
    /// Stream bytes sealed so far, and heartbeats.
    traffic: &'t Traffic,
}

/// Content that is sealed next.
enum Next {
    /// This number of bytes of the stream.
    Data(usize),
    /// A heartbeat.
    Beat,
    /// The stream is complete.
    End,
}

impl<'t> SealPump<'t> {
    /// Creates a pump that sends the `first` records before the bytes that it reads.
    pub(super) fn new(first: Vec<u8>, traffic: &'t Traffic) -> Self {
        Self {
            buffer: None,
            size: Size::Small,
            waited: false,
            unsent: 0..0,
            control: first,
            traffic,
        }
    }

    /// Moves bytes from `plain` to `sealed` until `plain` ends, then Fin. While there are none, it
    /// sends the heartbeats that are due.
    ///
    /// # Errors
    /// The reason that ends the connection.
    pub(super) async fn run(
        &mut self,
        plain: &mut impl ReadSide,
        sealed: &mut impl WriteSide,
        outbound: &mut Outbound,
    ) -> Result<(), CloseReason> {
        if !self.control.is_empty() {
            poll_fn(|cx| Poll::Ready(self.join_first(cx, plain, outbound))).await?;
        }
        loop {
            self.flush(sealed).await?;
            self.size.yield_after_bulk().await;
            let next = poll_fn(|cx| self.poll_next(cx, plain, sealed)).await;
            let sealed = match next.map_err(|_| CloseReason::PlainReset)? {
                Next::End => break,
                Next::Data(got) => self.seal(outbound, got),
                Next::Beat => outbound.beat(&mut self.control),
            };
            sealed.map_err(|_| CloseReason::LocalError)?;
        }
        outbound.fin(&mut self.control).map_err(|_| CloseReason::LocalError)?;
        self.flush(sealed).await?;
        self.traffic.pulse.cannot_send();
        Ok(())
    }

    /// Appends bytes that are available already to the first records, so that a request travels
    /// with its Open.
    fn join_first(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut impl ReadSide,
        outbound: &mut Outbound,
    ) -> Result<(), CloseReason> {
        match self.poll_fill(cx, plain) {
            Poll::Ready(Ok(got @ 1..)) => {
                self.seal(outbound, got).map_err(|_| CloseReason::LocalError)?;
            }
            Poll::Ready(Err(_)) => return Err(CloseReason::PlainReset),
            // An end will be read again, and sent, later.
            Poll::Ready(Ok(0)) | Poll::Pending => {}
        }
        if let Some(buffer) = self.buffer.take() {
            self.control.extend_from_slice(&buffer[take(&mut self.unsent)]);
        }
        Ok(())
    }

    /// Finds the content to seal next.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut impl ReadSide,
        sealed: &mut impl WriteSide,
    ) -> Poll<io::Result<Next>> {
        match self.poll_fill(cx, plain) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(Next::End)),
            Poll::Ready(got) => Poll::Ready(got.map(Next::Data)),
            // While the peer is being probed, data in flight would delay its detection as vanished.
            Poll::Pending if self.traffic.pulse.is_due() && !sealed.is_in_doubt() => {
                Poll::Ready(Ok(Next::Beat))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    async fn flush(&mut self, sealed: &mut (impl AsyncWrite + Unpin)) -> Result<(), CloseReason> {
        poll_fn(|cx| self.poll_flush(cx, sealed)).await.map_err(|_| CloseReason::PeerLost)
    }

    /// Writes the sealed bytes and gives the buffer back.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        sealed: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let polled = self.poll_write(cx, sealed);
        match polled {
            Poll::Pending => self.traffic.pulse.cannot_send(),
            Poll::Ready(_) => self.traffic.pulse.sent(),
        }
        polled
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sealed: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if let Some(buffer) = &self.buffer {
            while !self.unsent.is_empty() {
                let polled = poll_write_some(cx, sealed, &buffer[self.unsent.clone()]);
                self.waited |= polled.is_pending();
                self.unsent.start += ready!(polled)?;
                self.traffic.pulse.used();
            }
        }
        self.buffer = None;
        while !self.control.is_empty() {
            let written = ready!(poll_write_some(cx, sealed, &self.control))?;
            self.control.drain(..written);
        }
        self.control = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Flushes, then sends a Reset, the last record to the other end.
    pub(super) async fn reset(
        &mut self,
        reason: ResetReason,
        sealed: &mut (impl AsyncWrite + Unpin),
        outbound: &mut Outbound,
    ) -> io::Result<()> {
        outbound.reset(reason, &mut self.control).map_err(io::Error::other)?;
        poll_fn(|cx| self.poll_flush(cx, sealed)).await
    }

    /// Reads the available bytes into a buffer, up to a sensible size.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut impl ReadSide,
    ) -> Poll<io::Result<usize>> {
        ready!(plain.poll_readable(cx))?;
        let mut buffer = Buffer::take(self.size);
        let mut got = ready!(poll_read_records(cx, plain, &mut buffer))?;
        let filled = got == room(&buffer);
        self.size = self.size.after(got, room(&buffer), take(&mut self.waited));
        if filled && buffer.size() == Size::Small {
            // The rest of an answer of a few records is sent together with its first.
            let begun = buffer.len();
            buffer = buffer.grown(self.size);
            if let Poll::Ready(more) = poll_read_records(cx, plain, &mut buffer[begun..]) {
                got += more?;
            }
        }
        self.buffer = Some(buffer);
        Poll::Ready(Ok(got))
    }

    /// Seals `got` bytes in place. The records before the last are full, so the
    /// wire image has no gaps.
    fn seal(&mut self, outbound: &mut Outbound, got: usize) -> Result<(), PeerError> {
        let buffer = self.buffer.as_deref_mut().expect("poll_fill left the buffer it filled");
        let mut left = got;
        let mut end = 0;
        for slot in buffer.chunks_exact_mut(RECORD.max_record) {
            let len = left.min(RECORD.max_data);
            end += outbound.seal_data(slot, len)?;
            left -= len;
            if left == 0 {
                break;
            }
        }
        self.unsent = 0..end;
        self.traffic.sent.add(got as u64);
        Ok(())
    }
}

/// Reads into the data places of as many records as `buffer` holds.
fn poll_read_records(
    cx: &mut Context<'_>,
    plain: &mut impl ReadSide,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let data = RECORD.data_offset..RECORD.data_offset + RECORD.max_data;
    let records = buffer.len() / RECORD.max_record;
    let mut slots = buffer.chunks_exact_mut(RECORD.max_record);
    let mut places: [IoSliceMut<'_>; LARGE_RECORDS] = std::array::from_fn(|_| {
        let slot = slots.next().unwrap_or_default();
        IoSliceMut::new(slot.get_mut(data.clone()).unwrap_or_default())
    });
    plain.poll_read_slots(cx, &mut places[..records])
}

/// Returns the number of data bytes that fit.
fn room(buffer: &[u8]) -> usize {
    buffer.len() / RECORD.max_record * RECORD.max_data
}

/// Writes at least one byte.
fn poll_write_some(
    cx: &mut Context<'_>,
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}
