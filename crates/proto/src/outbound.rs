//! Records to the other end after the handshake: data sealed in place in slots, and control
//! records.

use super::PeerError;
use super::message::{Kind, Open, ResetReason};
use super::record::{DATA_OFFSET, Sealer};

/// Seals the records of the sending direction.
pub struct Outbound(Sealer);

impl Outbound {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self(sealer)
    }

    pub(super) fn ratchets(&self) -> u64 {
        self.0.ratchets()
    }

    /// Seals a Data record in place: `slot` has room for a whole record
    /// ([`MAX_RECORD`](super::record::MAX_RECORD)), and `len` bytes of data are at [`DATA_OFFSET`].
    /// Returns the length of the record on the wire.
    ///
    /// # Errors
    /// [`PeerError::Exhausted`] once the record counter is used up.
    pub fn seal_data(&mut self, slot: &mut [u8], len: usize) -> Result<usize, PeerError> {
        self.0.seal(Kind::Data.id(), slot, len)
    }

    /// Appends a Data record without data to `out`: a heartbeat.
    ///
    /// # Errors
    /// As [`Self::seal_data`].
    pub fn beat(&mut self, out: &mut Vec<u8>) -> Result<(), PeerError> {
        self.control(Kind::Data, &[], out)
    }

    /// Appends a Confirm record to `out`.
    ///
    /// # Errors
    /// As [`Self::seal_data`].
    pub fn confirm(&mut self, out: &mut Vec<u8>) -> Result<(), PeerError> {
        self.control(Kind::Confirm, &[], out)
    }

    /// Appends an Open record to `out`.
    ///
    /// # Errors
    /// As [`Self::seal_data`].
    pub fn open(&mut self, open: &Open, out: &mut Vec<u8>) -> Result<(), PeerError> {
        self.control(Kind::Open, &open.encode(), out)
    }

    /// Appends an Opened record to `out`.
    ///
    /// # Errors
    /// As [`Self::seal_data`].
    pub fn opened(&mut self, out: &mut Vec<u8>) -> Result<(), PeerError> {
        self.control(Kind::Opened, &[], out)
    }

    /// Appends a Fin record to `out`.
    ///
    /// # Errors
    /// As [`Self::seal_data`].
    pub fn fin(&mut self, out: &mut Vec<u8>) -> Result<(), PeerError> {
        self.control(Kind::Fin, &[], out)
    }

    /// Appends a Reset record to `out`.
    ///
    /// # Errors
    /// As [`Self::seal_data`].
    pub fn reset(&mut self, reason: ResetReason, out: &mut Vec<u8>) -> Result<(), PeerError> {
        self.control(Kind::Reset, &[reason.id()], out)
    }

    fn control(&mut self, kind: Kind, body: &[u8], out: &mut Vec<u8>) -> Result<(), PeerError> {
        let start = out.len();
        out.resize(start + self.0.wire_len(body.len()), 0);
        let slot = &mut out[start..];
        slot[DATA_OFFSET..DATA_OFFSET + body.len()].copy_from_slice(body);
        self.0.seal(kind.id(), slot, body.len())?;
        Ok(())
    }
}
