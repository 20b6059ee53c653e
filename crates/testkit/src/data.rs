//! Reproducible bytes, and their digests.

use std::fmt::Write as _;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// An endless reproducible stream of bytes without patterns (xorshift64*).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `bound`; the small bias does not matter here.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).expect("it is below a usize")
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// Returns the SHA-256 of `bytes` in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A digest that is fed piece by piece.
#[derive(Default)]
pub struct Sum {
    state: Sha256,
    pub bytes: u64,
}

impl Sum {
    pub fn add(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub fn hex(self) -> String {
        hex(&self.state.finalize())
    }

    /// Reads `from` to its end and returns the digest and length of the bytes.
    pub fn of(from: &mut dyn Read) -> io::Result<Self> {
        let mut sum = Self::default();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(sum),
                n => sum.add(&buffer[..n]),
            }
        }
    }

    /// Returns the digest of the first `len` bytes of `noise`.
    pub fn of_noise(mut noise: Noise, len: u64) -> String {
        let mut sum = Self::default();
        let mut buffer = vec![0; 64 * 1024];
        while sum.bytes < len {
            noise.fill(&mut buffer);
            let take = buffer.len().min(usize::try_from(len - sum.bytes).unwrap_or(usize::MAX));
            sum.add(&buffer[..take]);
        }
        sum.hex()
    }
}

/// Writes the first `len` bytes of `noise`, in the pieces that [`Sum::of_noise`] sums.
pub fn send_noise(to: &mut dyn io::Write, mut noise: Noise, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut sent = 0;
    while sent < len {
        noise.fill(&mut buffer);
        let take = buffer.len().min(usize::try_from(len - sent).unwrap_or(usize::MAX));
        to.write_all(&buffer[..take])?;
        sent += take as u64;
    }
    Ok(())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}
