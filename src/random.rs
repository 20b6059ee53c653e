//! Randomness of the operating system, for keys and names that cannot be guessed.

use std::io;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::secret::Secret;

/// Returns a private key for one handshake, from the operating system.
pub fn ephemeral() -> io::Result<Secret<32>> {
    Ok(Secret::take(&mut random::<32>()?))
}

/// Returns bytes that cannot be guessed, from the operating system.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
