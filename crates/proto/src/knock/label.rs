//! Label of a knock: a few words of its sender for people who read the list of grants.
//!
//! Holds no control characters; but it is text from outside and can have marks that reverse the
//! direction of text, so it is escaped where it is shown.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest label in bytes.
pub const MOST_LABEL: usize = 64;

/// Text of 1 to [`MOST_LABEL`] bytes without control characters. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(Arc<str>);

/// Error of a text that is no [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No text at all.
    #[error("the label is empty; write a few words, or leave it out")]
    Empty,
    /// More bytes than fit.
    #[error("the label has {0} bytes, and may have {MOST_LABEL}; use a shorter one")]
    Long(usize),
    /// A line break, a tab, an escape or the like.
    #[error("the label has control characters; leave line breaks, tabs and the like out")]
    Control,
}

impl Label {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the label with these bytes; `None` if they are none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        str::from_utf8(bytes).ok()?.parse().ok()
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if text.len() > MOST_LABEL {
            return Err(LabelError::Long(text.len()));
        }
        if text.contains(char::is_control) {
            return Err(LabelError::Control);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_texts_without_control_characters() {
        let longest = "é".repeat(MOST_LABEL / 2);
        for good in ["a", "Ann's laptop, 2nd", "日本", &longest] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        assert_eq!("".parse::<Label>(), Err(LabelError::Empty));
        assert_eq!(format!("{longest}a").parse::<Label>(), Err(LabelError::Long(65)));
        for control in ["a\nb", "\t", "\u{1b}[2J", "\u{7f}", "\u{85}", "\0"] {
            assert_eq!(control.parse::<Label>(), Err(LabelError::Control), "{control:?}");
        }
    }
}
