//! Text that people write into files by hand: passwords, lists of addresses, a
//! configuration.
//!
//! Editors and other systems add invisible characters: a byte order mark, carriage returns, blanks
//! at the end of a line, empty lines. This module removes all of that, and reports a file that is
//! not text at all. It does not know the meaning of lines.

/// Reason why bytes are no readable text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// UTF-16, which some editors write by default.
    #[error("is not UTF-8 text but UTF-16")]
    Utf16,
    /// Anything else.
    #[error("is not UTF-8 text")]
    Other,
}

/// The mark that UTF-8 text may begin with.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the text in the bytes of a file, without a byte order mark.
///
/// # Errors
/// [`NotText`]
pub fn text(bytes: &[u8]) -> Result<&str, NotText> {
    let is_marked = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    // Without a mark every second byte of ASCII is zero there.
    let is_zero = |place: usize| bytes.get(place).is_none_or(|byte| *byte == 0);
    let is_wide = match bytes {
        [] | [_] | [0, 0, ..] => false,
        [0, ..] => is_zero(2),
        [_, 0, ..] => is_zero(3),
        _ => false,
    };
    if is_marked || is_wide {
        return Err(NotText::Utf16);
    }
    str::from_utf8(bytes.strip_prefix(MARK).unwrap_or(bytes)).map_err(|_| NotText::Other)
}

/// Returns the lines of a text without surrounding blanks, empty lines, and comments, which begin
/// with `#`.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_removed() {
        for bytes in [
            &b"one\ntwo"[..],
            b"\xef\xbb\xbfone\r\n\r\ntwo \t\r\n\n",
            b"# a comment\n  one\n\n\n   # another\ntwo\n   ",
        ] {
            let found: Vec<&str> = lines(text(bytes).unwrap()).collect();
            assert_eq!(found, ["one", "two"], "{bytes:?}");
        }
        for bytes in [&b""[..], b"\xef\xbb\xbf", b" \r\n\t\n", b"#one\n"] {
            assert_eq!(lines(text(bytes).unwrap()).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        for bytes in [&b"\xff\xfea\0b\0"[..], b"\xfe\xff\0a", b"a\0b\0", b"\0a\0b"] {
            assert_eq!(text(bytes), Err(NotText::Utf16), "{bytes:?}");
        }
        for bytes in [&b"caf\xe9"[..], b"\0\0\0\xff", b"ab\0\xff"] {
            assert_eq!(text(bytes), Err(NotText::Other), "{bytes:?}");
        }
    }
}
