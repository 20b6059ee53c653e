//! What a key is, how a key file becomes one, and how several are accepted.
//!
//! Pure: bytes in, keys out. Opening files and checking who may read them is
//! `sys::keyfile`'s job.

pub mod file;
pub mod ring;

pub use ring::{Key, KeyId, KeyRing, MAX_KEYS};
