//! Form that the payloads of both handshake messages and of the knock have in common: fixed fields,
//! then extensions, then zeros.
//!
//! ```text
//!   0      suites, u8
//!   1..3   padding block, u16
//!   3..11  clock, u64
//!   11..13 length of the extensions, u16
//!   13..   extensions, then zeros
//! ```
//!
//! Integers are big-endian, clocks are unix milliseconds. An extension is `type u8 | length u8 |
//! bytes`. The walk over them is here, once, so that all readers refuse the same; what a type means
//! is up to the payload: `hello.rs`, `knock.rs`.

use super::{Padding, PeerError};

/// Length of a payload in bytes, before encryption.
pub const PAYLOAD_LEN: usize = 208;

/// Length of the fields before the extensions.
const FIXED_LEN: usize = 13;

/// Fields that every payload has. The first byte is a set of suites in Hello, a suite in Welcome.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    pub(super) suites: u8,
    pub(super) padding: Padding,
    pub(super) clock_ms: u64,
}

/// Payload that is being written.
pub(super) struct Writer {
    payload: [u8; PAYLOAD_LEN],
    /// End of the extensions.
    end: usize,
}

impl Writer {
    /// Begins with the fields, without extensions.
    pub(super) fn new(fields: Fields) -> Self {
        let mut payload = [0; PAYLOAD_LEN];
        payload[0] = fields.suites;
        payload[1..3].copy_from_slice(&fields.padding.bytes().to_be_bytes());
        payload[3..11].copy_from_slice(&fields.clock_ms.to_be_bytes());
        Self { payload, end: FIXED_LEN }
    }

    /// Appends an extension. All that a payload can have fit, which the tests show.
    pub(super) fn extend(&mut self, kind: u8, bytes: &[u8]) {
        let len = u8::try_from(bytes.len()).expect("an extension is shorter than its payload");
        for part in [&[kind, len], bytes] {
            self.payload[self.end..self.end + part.len()].copy_from_slice(part);
            self.end += part.len();
        }
    }

    /// Returns the payload.
    pub(super) fn finish(mut self) -> [u8; PAYLOAD_LEN] {
        let len = u16::try_from(self.end - FIXED_LEN).expect("a payload is short");
        self.payload[11..13].copy_from_slice(&len.to_be_bytes());
        self.payload
    }
}

/// Reads the fields, and passes type and bytes of each extension to `extension`, which ignores the
/// types that it does not know. All extensions must be well formed, and nothing but zeros may
/// follow them.
pub(super) fn read<'a>(
    payload: &'a [u8; PAYLOAD_LEN],
    mut extension: impl FnMut(u8, &'a [u8]) -> Result<(), PeerError>,
) -> Result<Fields, PeerError> {
    let padding = u16::from_be_bytes([payload[1], payload[2]]);
    let padding = Padding::block(padding).ok_or(PeerError::Misbehaved)?;
    let mut clock = [0; 8];
    clock.copy_from_slice(&payload[3..11]);
    let len = usize::from(u16::from_be_bytes([payload[11], payload[12]]));
    let room = &payload[FIXED_LEN..];
    let (mut left, zeros) = room.split_at_checked(len).ok_or(PeerError::Misbehaved)?;
    while let [kind, len, rest @ ..] = left {
        let split = rest.split_at_checked(usize::from(*len));
        let (bytes, behind) = split.ok_or(PeerError::Misbehaved)?;
        extension(*kind, bytes)?;
        left = behind;
    }
    if !left.is_empty() || zeros.iter().any(|byte| *byte != 0) {
        return Err(PeerError::Misbehaved);
    }
    Ok(Fields { suites: payload[0], padding, clock_ms: u64::from_be_bytes(clock) })
}
