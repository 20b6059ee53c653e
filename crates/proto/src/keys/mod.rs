//! Keys, the files that hold them, and rings of several accepted keys.
//!
//! Pure: bytes in, keys out. Opening files and checking their permissions is the program's job.

pub mod file;
pub mod ring;

pub use ring::{Key, KeyId, KeyRing, MAX_KEYS};
