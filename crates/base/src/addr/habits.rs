//! Spellings of addresses that other programs accept, each with what to write instead.
//!
//! Only recognises them: each is refused. Repeats nothing that may be a password.

use super::{AddrError, Address, check_host};

/// Schemes of such addresses, in lower case.
const KINDS: [&str; 8] = ["tcp", "tcp4", "tcp6", "tls", "ssl", "openssl", "unix", "unix-connect"];

/// Refuses texts that are addresses elsewhere and not here. A path may hold anything.
///
/// # Errors
/// [`AddrError`] with the spelling that is meant.
pub(super) fn refuse(text: &str) -> Result<(), AddrError> {
    if text.starts_with('/') {
        return Ok(());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(with_scheme(scheme, "://", rest));
    }
    if let Some((kind, rest)) = text.split_once(':') {
        let is_kind = KINDS.contains(&&*kind.to_ascii_lowercase());
        if is_kind && (rest.starts_with('/') || rest.contains(':')) {
            return Err(with_scheme(kind, ":", rest));
        }
        if kind == "*" {
            return Err(AddrError::Star(rest.to_owned()));
        }
    }
    if text == ":" {
        return Err(AddrError::Empty);
    }
    if text.contains(',') {
        return Err(AddrError::Several(text.to_owned()));
    }
    Ok(())
}

fn with_scheme(scheme: &str, mark: &str, rest: &str) -> AddrError {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let scheme: String = scheme.chars().filter(|c| is_plain(*c)).take(20).collect();
    AddrError::Scheme { scheme: format!("{scheme}{mark}"), meant: meant(rest) }
}

/// Returns the address after a scheme, without the user, the password and the path.
fn meant(rest: &str) -> String {
    if rest.starts_with('/') {
        return rest.split(['?', '#']).next().unwrap_or_default().to_owned();
    }
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    if place.parse::<Address>().is_ok() {
        return place.to_owned();
    }
    match check_host(place) {
        Ok(()) => format!("{place}:PORT"),
        Err(_) => "HOST:PORT".to_owned(),
    }
}
