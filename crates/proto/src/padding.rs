//! Padding of records, so that their lengths tell an observer less.

use std::fmt;
use std::str::FromStr;

use super::record::MAX_PLAINTEXT;

/// Block that the plaintext of a record (type, length, data, zeros) is padded to.
///
/// | block | 1 byte of data | 100 bytes | 16,381 bytes (a full record) |
/// |---|---|---|---|
/// | none | 22 on the wire | 121 | 16,402 |
/// | 1024 (default) | 1,042 | 1,042 | 16,402 |
/// | 16384 | 16,402 | 16,402 | 16,402 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Padding(u16);

/// Error of a padding that is not `none` or a number from 1 to 16384.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a padding; use none, or a block of 1 to {MAX_PLAINTEXT} bytes")]
pub struct BadPadding(String);

impl Padding {
    /// No padding: the length of the data shows on the wire.
    pub const NONE: Self = Self(1);

    /// Returns a block of `bytes`, from 1 (no padding) to [`MAX_PLAINTEXT`]; `None` otherwise.
    pub fn block(bytes: u16) -> Option<Self> {
        (1..=MAX_PLAINTEXT).contains(&usize::from(bytes)).then_some(Self(bytes))
    }

    /// Returns the block in bytes; 1 is no padding.
    pub fn bytes(self) -> u16 {
        self.0
    }

    /// Returns the padded length of a plaintext of `len` bytes: the next multiple of the block, but
    /// never more than a full record.
    pub(super) fn padded(self, len: usize) -> usize {
        debug_assert!(len <= MAX_PLAINTEXT);
        len.next_multiple_of(usize::from(self.0)).min(MAX_PLAINTEXT)
    }
}

impl Default for Padding {
    /// Returns 1024, so that an observer learns no more than from spiped.
    fn default() -> Self {
        Self(1024)
    }
}

impl FromStr for Padding {
    type Err = BadPadding;

    fn from_str(text: &str) -> Result<Self, BadPadding> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        text.parse().ok().and_then(Self::block).ok_or_else(|| BadPadding(text.to_owned()))
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            Self(block) => write!(f, "{block}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_padded_to_the_block_and_capped() {
        let padding = Padding::default();
        assert_eq!(padding.padded(3), 1024);
        assert_eq!(padding.padded(1024), 1024);
        assert_eq!(padding.padded(1025), 2048);
        assert_eq!(Padding::NONE.padded(3), 3);
        assert_eq!(Padding::block(10_000).unwrap().padded(10_001), MAX_PLAINTEXT);
    }

    #[test]
    fn text_form() {
        for good in ["none", "2", "1024", "16384"] {
            assert_eq!(good.parse::<Padding>().unwrap().to_string(), good);
        }
        for bad in ["", "0", "16385", "-1", "1k", "NONE"] {
            assert!(bad.parse::<Padding>().is_err(), "{bad}");
        }
    }
}
