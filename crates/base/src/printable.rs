//! Makes text that comes from outside fit to be shown.
//!
//! Text of a peer, a server or a file can hold anything: escapes that move a terminal's cursor or
//! set its title, line breaks that make two log lines of one, marks that reverse the direction of
//! the text after them. Characters of that kind are shown as an escape, `\n` or `\u{1b}`; printable
//! ones stay as they are. Text that was made printable once is not changed by a second time.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `text` as one line without invisible characters other than spaces.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c, shown| shown.extend(c.escape_debug()))
}

/// Does the same as [`printable`] for each line of a text of this program; any of them may hold
/// text from outside.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c, shown| match c {
        '\n' => shown.push(c),
        c => shown.extend(c.escape_debug()),
    })
}

/// Returns JSON of the same meaning without invisible characters.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    escaped(json, |c, shown| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

/// Does the same as [`printable_json`] for the text of a TOML string.
pub fn printable_toml(toml: &str) -> Cow<'_, str> {
    escaped(toml, |c, shown| {
        let _ = write!(shown, "\\U{:08x}", u32::from(c));
    })
}

/// Replaces every character of `text` that is not printable with what `escape` appends.
fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_printable(c) { shown.push(c) } else { escape(c, &mut shown) }
    }
    Cow::Owned(shown)
}

/// Returns true if a character shows as itself. The standard library escapes unassigned and
/// invisible characters and those that change how others show; and quotes, which do neither.
fn is_printable(c: char) -> bool {
    matches!(c, '\\' | '\'' | '"') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_terminal_or_a_reader_is_escaped() {
        let cases = [
            ("plain 'text' \"quoted\" C:\\", "plain 'text' \"quoted\" C:\\"),
            ("Grüße 世界 😀", "Grüße 世界 😀"),
            ("\x1b]0;title\x07\x1b[2J", "\\u{1b}]0;title\\u{7}\\u{1b}[2J"),
            ("two\r\nlines\t\0", "two\\r\\nlines\\t\\0"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\\u{202e}b\\u{2066}c\\u{200f}"),
            ("a\u{200b}\u{feff}\u{2028}\u{a0}", "a\\u{200b}\\u{feff}\\u{2028}\\u{a0}"),
            ("tag\u{e0041} private\u{e000}", "tag\\u{e0041} private\\u{e000}"),
            ("zalgo\u{301}", "zalgo\\u{301}"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected);
            assert_eq!(printable(expected), expected, "a second time");
        }
        assert_eq!(printable_lines("one\x1b\ntwo\n"), "one\\u{1b}\ntwo\n");
    }

    #[test]
    fn json_means_the_same() {
        let text = "\x1b\u{7f}\u{9b}\u{202e}\u{e0041}é\"\\";
        let json = serde_json::Value::from(text).to_string();
        let shown = printable_json(&json);
        assert!(shown.chars().all(is_printable), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        let toml = format!("a = {}", printable_toml(&json));
        assert!(toml.chars().all(is_printable), "{toml}");
        let read = toml::de::DeTable::parse(&toml).unwrap();
        assert_eq!(read.get_ref()["a"].get_ref().as_str(), Some(text));
    }
}
