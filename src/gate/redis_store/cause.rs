//! Finds the cause in an error that others are wrapped around.
//!
//! A library says first that something failed; the reason is at the inner end
//! of the chain. For TLS there also is a remedy, since the words of the protocol
//! do not help an operator.

use std::error::Error;
use std::io;

/// A cause in one line, and the remedy where there is a certain one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) text: String,
    pub(super) remedy: Option<&'static str>,
}

/// Finds the cause in the chain that begins with `error`.
pub(super) fn cause_of(error: &(dyn Error + 'static)) -> Cause {
    let mut innermost = error;
    loop {
        #[cfg(feature = "aws-lc")]
        if let Some(cause) = super::tls_cause::tls_cause_of(innermost) {
            return cause;
        }
        match inner(innermost) {
            Some(next) => innermost = next,
            None => return Cause { text: innermost.to_string(), remedy: None },
        }
    }
}

/// Returns true if the cause is one of TLS.
pub(super) fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    cause_of(error).remedy.is_some()
}

/// The error inside of one. Of an `io::Error` that is what it was made of, which its
/// own `source` skips.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_innermost_error_is_reported() {
        let inner = io::Error::other(Outer(io::Error::other("the true cause")));
        let outer = Outer(io::Error::other(inner));
        assert_eq!(cause_of(&outer).text, "the true cause");
        let system = io::Error::from_raw_os_error(113);
        assert_eq!(cause_of(&system).text, system.to_string());
    }
}
