//! The secret of an account of Tencent Cloud.
//!
//! It is in two to three lines of text, which the program reads from a file or a variable. It is
//! wiped when it is dropped, and no form of it is shown.

use std::fmt;

use zeroize::Zeroizing;

/// Longest line, in bytes.
const LONGEST: usize = 2048;

/// Id, key and, where they are temporary, token of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    id: String,
    key: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
}

/// Text that is no credentials. It repeats nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    /// A line is missing.
    #[error(
        "there is no SecretKey; write the SecretId into the first line and the SecretKey into the second"
    )]
    Missing,
    /// There are too many.
    #[error(
        "there are more than three lines; write SecretId, SecretKey and, if they are temporary, the token"
    )]
    More,
    /// They cannot stand in a header.
    #[error("a line has characters that no such secret has, or is too long; copy it again")]
    Characters,
}

impl Credentials {
    /// Reads the lines SECRET-ID, SECRET-KEY and, of temporary ones, TOKEN. Lines that are empty or
    /// begin with `#` do not count.
    ///
    /// # Errors
    /// [`BadCredentials`]
    pub fn parse(text: &str) -> Result<Self, BadCredentials> {
        let lines = text.lines().map(str::trim);
        let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let id = lines.next().ok_or(BadCredentials::Missing)?;
        let key = lines.next().ok_or(BadCredentials::Missing)?;
        let token = lines.next();
        if lines.next().is_some() {
            return Err(BadCredentials::More);
        }
        let is_word =
            |word: &str| word.len() <= LONGEST && word.bytes().all(|byte| byte.is_ascii_graphic());
        // Commas and slashes end an id in the header.
        if !is_word(id)
            || id.contains([',', '/'])
            || ![Some(key), token].into_iter().flatten().all(is_word)
        {
            return Err(BadCredentials::Characters);
        }
        let secret = |text: &str| Zeroizing::new(text.to_owned());
        Ok(Self { id: id.to_owned(), key: secret(key), token: token.map(secret) })
    }

    /// Returns the id, which requests carry as it is.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the key itself. It is for signatures only.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Returns the token itself, which requests carry.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }

    /// Returns all texts that must not be shown.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        [self.id(), self.key()].into_iter().chain(self.token())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_id_key_and_token() {
        let text = "# account of the office\nAKIDone\r\n\n  key-two \ntoken/three==\n";
        let read = Credentials::parse(text).unwrap();
        assert_eq!(
            (read.id(), read.key(), read.token()),
            ("AKIDone", "key-two", Some("token/three=="))
        );
        assert_eq!(Credentials::parse("AKIDone\nkey").unwrap().token(), None);
        for (text, error) in [
            ("", BadCredentials::Missing),
            ("AKIDone\n#key\n", BadCredentials::Missing),
            ("a\nb\nc\nd", BadCredentials::More),
            ("AKID/x\nkey", BadCredentials::Characters),
            ("AKID,x\nkey", BadCredentials::Characters),
            ("AKIDx\nkey key", BadCredentials::Characters),
            ("AKIDx\nkéy", BadCredentials::Characters),
        ] {
            assert_eq!(Credentials::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn no_form_of_them_is_shown() {
        let read = Credentials::parse("AKIDshown\nkey-hidden\ntoken-hidden").unwrap();
        assert_eq!(format!("{read:?}"), "[redacted]");
        let error = Credentials::parse("AKIDx\nhidden hidden").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hidden"));
    }
}
