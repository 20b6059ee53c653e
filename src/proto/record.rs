//! placeholder
/// Largest plaintext of a record in bytes: 16 KiB.
pub const MAX_PLAINTEXT: usize = 16_384;
