//! One direction of a relay: records in, plain bytes out.
//!
//! Records are opened in the buffer that they were read into, and their data is sent from there in
//! one vectored write. A buffer is held only while it contains bytes.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::take;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, AsyncWriteExt, ReadBuf};

use super::buffers::{Buffer, LARGE_RECORDS, Size};
use super::reset_reasons::{from_peer_error, from_remote};
use crate::net::ReadSide;
use crate::observe::sessions::Traffic;
use crate::proto::PeerError;
use crate::proto::inbound::{Event, Inbound};
use crate::reason::CloseReason;

/// Data pieces that go into one vectored write.
const MAX_PIECES: usize = LARGE_RECORDS;

/// The receiving direction of a relay.
pub(super) struct OpenPump<'t> {
    /// Bytes that were read, as long as some are not written yet. Allocated separately, because
    /// most connections idle most of the time.
    reading: Option<Box<Reading>>,
    size: Size,
    /// A write had to wait since the last read.
    waited: bool,
    /// Records were opened, and their data is being written.
    opened: bool,
    /// Step after the pieces are written.
    next: Next,
    /// Stream bytes opened so far, and heartbeats.
    traffic: &'t Traffic,
}

/// Bytes between the read and the write.
struct Reading {
    buffer: Buffer,
    /// Bytes in `buffer` that were read and not opened yet.
    unopened: Range<usize>,
    /// Data in `buffer` that was opened and not written yet, in order.
    pieces: Pieces,
}

/// Step that follows once the opened data is written.
#[derive(Clone, Copy)]
enum Next {
    Read,
    Finish,
    Fail(CloseReason),
}

/// Up to [`MAX_PIECES`] ranges of a buffer: a queue without an allocation.
struct Pieces {
    ranges: [(u32, u32); MAX_PIECES],
    first: usize,
    end: usize,
}

impl<'t> OpenPump<'t> {
    /// Creates a pump that begins with bytes that were read during the handshake, after a record,
    /// with a small buffer.
    pub(super) fn new(already_read: &[u8], traffic: &'t Traffic) -> Self {
        let reading = (!already_read.is_empty()).then(|| {
            let mut reading = Reading::empty(Size::Small);
            reading.buffer[..already_read.len()].copy_from_slice(already_read);
            reading.unopened = 0..already_read.len();
            Box::new(reading)
        });
        Self { reading, size: Size::Small, waited: false, opened: false, next: Next::Read, traffic }
    }

    /// Moves bytes from `sealed` to `plain` until Fin, which closes `plain` for writing.
    ///
    /// # Errors
    /// The reason that ends the connection.
    pub(super) async fn run(
        &mut self,
        sealed: &mut impl ReadSide,
        plain: &mut (impl AsyncWrite + Unpin),
        inbound: &mut Inbound,
    ) -> Result<(), CloseReason> {
        loop {
            self.open(inbound);
            if self.opened {
                self.traffic.pulse.reads_no_more();
            }
            poll_fn(|cx| self.poll_write(cx, plain)).await.map_err(|_| CloseReason::PlainReset)?;
            // Does nothing for a socket; standard output buffers an incomplete line.
            plain.flush().await.map_err(|_| CloseReason::PlainReset)?;
            if self.opened {
                self.traffic.pulse.reads_again();
            }
            match self.next {
                // There may be more complete records than there are pieces.
                Next::Read if self.is_full() => {}
                Next::Read => {
                    self.size.yield_after_bulk().await;
                    self.fill(sealed, inbound).await?;
                }
                Next::Fail(reason) => return Err(reason),
                Next::Finish => {
                    return plain.shutdown().await.map_err(|_| CloseReason::PlainReset);
                }
            }
        }
    }

    /// After Fin: waits for a Reset or the end of the stream. No heartbeat is due any more, so
    /// silence means nothing.
    pub(super) async fn after_fin(
        &mut self,
        sealed: &mut impl ReadSide,
        inbound: &mut Inbound,
    ) -> CloseReason {
        self.traffic.pulse.reads_no_more();
        loop {
            self.open(inbound);
            if let Next::Fail(reason) = self.next {
                return reason;
            }
            if let Err(reason) = self.fill(sealed, inbound).await {
                return reason;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.pieces.is_full())
    }

    /// Opens complete records, until the pieces are full or a record other than data comes.
    fn open(&mut self, inbound: &mut Inbound) {
        self.next = Next::Read;
        self.opened = false;
        let Some(reading) = &mut self.reading else { return };
        reading.pieces.clear();
        let mut opened = 0;
        let begun = reading.unopened.start;
        while !reading.pieces.is_full() && matches!(self.next, Next::Read) {
            match reading.open_one(inbound) {
                Ok(None) => break,
                Ok(Some(Event::Data(range))) => {
                    opened += range.len() as u64;
                    reading.pieces.push(range);
                }
                Ok(Some(Event::Opened)) => {}
                Ok(Some(Event::Fin)) => self.next = Next::Finish,
                Ok(Some(Event::Reset(reason))) => self.next = Next::Fail(from_remote(reason)),
                Ok(Some(Event::Confirmed | Event::Open(_))) => {
                    self.next = Next::Fail(CloseReason::ProtocolError);
                }
                Err(error) => self.next = Next::Fail(from_peer_error(error)),
            }
        }
        self.traffic.received.add(opened);
        self.opened = reading.unopened.start > begun;
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        plain: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let Some(Reading { buffer, pieces, .. }) = self.reading.as_deref_mut() else {
            return Poll::Ready(Ok(()));
        };
        while !pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = pieces.slices(buffer, &mut slices);
            let polled = Pin::new(&mut *plain).poll_write_vectored(cx, &slices[..count]);
            self.waited |= polled.is_pending();
            let written = ready!(polled)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.traffic.pulse.used();
            pieces.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    async fn fill(
        &mut self,
        sealed: &mut impl ReadSide,
        inbound: &Inbound,
    ) -> Result<(), CloseReason> {
        match poll_fn(|cx| self.poll_fill(cx, sealed)).await {
            Ok(0) if inbound.is_finished() => Err(CloseReason::PeerLost),
            Ok(0) => Err(CloseReason::Truncated),
            Ok(_) => Ok(()),
            Err(_) => Err(CloseReason::PeerLost),
        }
    }

    /// Reads behind the unopened bytes; first gives the buffer back if it is empty.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        sealed: &mut impl ReadSide,
    ) -> Poll<io::Result<usize>> {
        self.reading.take_if(|reading| reading.unopened.is_empty());
        ready!(sealed.poll_readable(cx))?;
        let size = self.size;
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => Box::new(Reading::empty(size)),
        };
        reading.make_room(size);
        let (polled, room) = reading.poll_read(cx, sealed);
        if let Poll::Ready(Ok(got)) = polled {
            self.size = size.after(got, room, take(&mut self.waited));
            if got == room && size == Size::Small {
                // The rest of an answer of a few records is sent together with its first.
                reading.make_room(self.size);
                if let (Poll::Ready(Err(error)), _) = reading.poll_read(cx, sealed) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        // A buffer that holds part of a record must stay; an empty one must not.
        self.reading = Some(reading).filter(|reading| !reading.unopened.is_empty());
        polled
    }
}

// === impl Reading ===

impl Reading {
    fn empty(size: Size) -> Self {
        Self { buffer: Buffer::take(size), unopened: 0..0, pieces: Pieces::NONE }
    }

    /// Opens the record at the front; returns its event, with the range of its data in the buffer.
    fn open_one(&mut self, inbound: &mut Inbound) -> Result<Option<Event>, PeerError> {
        let start = self.unopened.start;
        let Some((event, len)) = inbound.next(&mut self.buffer[self.unopened.clone()])? else {
            return Ok(None);
        };
        self.unopened.start += len;
        Ok(Some(match event {
            Event::Data(range) => Event::Data(start + range.start..start + range.end),
            event => event,
        }))
    }

    /// Makes the buffer at least that large, with the unopened bytes at its front, so that the rest
    /// of their record fits.
    fn make_room(&mut self, size: Size) {
        let len = self.unopened.len();
        let larger = (self.buffer.size() < size).then(|| Buffer::take(size));
        if let Some(mut larger) = larger.filter(|larger| larger.size() > self.buffer.size()) {
            larger[..len].copy_from_slice(&self.buffer[self.unopened.clone()]);
            self.buffer = larger;
        } else if self.unopened.start > 0 {
            self.buffer.copy_within(self.unopened.clone(), 0);
        }
        self.unopened = 0..len;
    }

    /// Reads behind the unopened bytes; returns the number of bytes, and the room that there was.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        sealed: &mut impl ReadSide,
    ) -> (Poll<io::Result<usize>>, usize) {
        let room = &mut self.buffer[self.unopened.end..];
        let len = room.len();
        let mut read = ReadBuf::new(room);
        let polled = Pin::new(sealed).poll_read(cx, &mut read);
        let got = read.filled().len();
        self.unopened.end += got;
        (polled.map_ok(|()| got), len)
    }
}

// === impl Pieces ===

impl Pieces {
    const NONE: Self = Self { ranges: [(0, 0); MAX_PIECES], first: 0, end: 0 };

    fn clear(&mut self) {
        self.first = 0;
        self.end = 0;
    }

    fn is_empty(&self) -> bool {
        self.first == self.end
    }

    fn is_full(&self) -> bool {
        self.end == MAX_PIECES
    }

    fn push(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            let index = |at: usize| u32::try_from(at).expect("a buffer is far below 4 GiB");
            self.ranges[self.end] = (index(range.start), index(range.end));
            self.end += 1;
        }
    }

    /// Fills `slices` with the unwritten pieces, and returns their number.
    fn slices<'a>(&self, buffer: &'a [u8], slices: &mut [IoSlice<'a>; MAX_PIECES]) -> usize {
        let left = &self.ranges[self.first..self.end];
        for (slice, (start, end)) in slices.iter_mut().zip(left) {
            *slice = IoSlice::new(&buffer[*start as usize..*end as usize]);
        }
        left.len()
    }

    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let (start, end) = &mut self.ranges[self.first];
            let len = (*end - *start) as usize;
            if written < len {
                *start += u32::try_from(written).expect("less than a piece");
                return;
            }
            written -= len;
            self.first += 1;
        }
    }
}
