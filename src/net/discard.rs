//! Reads bytes and drops them: from a peer that is kept waiting, or that still writes while a
//! connection ends.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::duplex::ReadSide;

/// Most bytes of one read.
const AT_ONCE: usize = 16 << 10;

/// Reads some bytes, drops them and returns their number; 0 is the end. Holds no memory while there
/// are none.
pub fn poll_discard(cx: &mut Context<'_>, source: &mut impl ReadSide) -> Poll<io::Result<usize>> {
    ready!(source.poll_readable(cx))?;
    let mut buffer = [MaybeUninit::uninit(); AT_ONCE];
    let mut read = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(source).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}
