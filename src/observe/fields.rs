//! Fields of a log line in text: the message, then `name=value`.
//!
//! One rule for every value: a word or a number is written as it is, anything else in quotes, so
//! that a program can parse a line. A value may be foreign text. It is made printable before the
//! line gets its colours, so that no escape sequence in a line is foreign.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::printable::printable;

/// Formats fields for people, with values that cannot control a terminal.
#[derive(Debug)]
pub(super) struct PrintableFields;

/// Writer of the fields of one line.
struct Fields<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl<'w> FormatFields<'w> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut all = Fields { writer, is_first: true, result: Ok(()) };
        fields.record(&mut all);
        all.result
    }
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        let name = name_of(field);
        match name {
            "message" => self.writer.write_str(&printable(value)),
            // The name in italics, and the equals sign dimmed.
            _ if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{}", quoted(value))
            }
            _ => write!(self.writer, "{name}={}", quoted(value)),
        }
    }

    fn record(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.record(field, &causes(error));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, &format!("{value:?}"));
    }
}

/// Returns the name of a field, without the prefix of a Rust keyword.
pub(super) fn name_of(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or_else(|| field.name())
}

/// Joins an error with its causes.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Formats a value for a line: in quotes where it is empty or has a blank, a quote, an equals sign,
/// a backslash or an invisible character. Within quotes, quotes, backslashes and invisible
/// characters are escaped.
fn quoted(value: &str) -> Cow<'_, str> {
    let is_odd = |c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\');
    let shown = printable(value);
    let is_plain = !value.is_empty() && !value.contains(is_odd) && shown == value;
    if is_plain {
        return shown;
    }
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c => text += &printable(c.encode_utf8(&mut [0; 4])),
        }
    }
    text.push('"');
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_word_is_quoted() {
        let cases = [
            ("decrypt", "decrypt"),
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            ("[::1]:6379", "[::1]:6379"),
            ("-12.5", "-12.5"),
            ("/run/a,b", "/run/a,b"),
            ("Größe", "Größe"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("redis=db:1", "\"redis=db:1\""),
            ("say \"no\"", "\"say \\\"no\\\"\""),
            ("C:\\n", "\"C:\\\\n\""),
            ("a\nb\x1b", "\"a\\nb\\u{1b}\""),
        ];
        for (value, expected) in cases {
            assert_eq!(quoted(value), expected);
            assert_eq!(printable(expected), expected, "the line is printable already");
        }
    }
}
