//! Secret bytes: keys, ephemerals, chaining keys.
//!
//! [`Secret`] cannot be copied, cloned, compared with `==` or printed, and is wiped when it is
//! dropped. Code that needs the bytes asks for them by name with [`Secret::expose`], so a reviewer
//! can find every such place.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes: wiped on drop, never printed, never cloned.
///
/// The bytes live on the heap, so that moving the value does not leave copies
/// on the stack.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes over `bytes` and wipes the caller's copy.
    pub fn take(bytes: &mut [u8; N]) -> Self {
        let secret = Self(Box::new(*bytes));
        bytes.zeroize();
        secret
    }

    /// Creates a secret that `fill` fills in place, so that no other copy ever exists.
    pub fn filled_by(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Box::new([0; N]));
        fill(&mut secret.0);
        secret
    }

    /// Returns the bytes themselves. They must not be logged, stored or compared.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Compares both in constant time; true if they hold the same bytes.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_bytes() {
        let secret = Secret::take(&mut [0x41; 8]);
        assert_eq!(format!("{secret:?}"), "[redacted]");
    }

    #[test]
    fn take_wipes_the_source() {
        let mut bytes = [7; 4];
        let secret = Secret::take(&mut bytes);
        assert_eq!((bytes, secret.expose()), ([0; 4], &[7; 4]));
    }

    #[test]
    fn comparison_sees_every_byte() {
        let one = Secret::take(&mut [1, 2, 3]);
        assert!(one.same_as(&Secret::take(&mut [1, 2, 3])));
        for i in 0..3 {
            let mut other = [1, 2, 3];
            other[i] ^= 0x80;
            assert!(!one.same_as(&Secret::take(&mut other)), "byte {i}");
        }
    }
}
