//! Fields of a log line in text: the message, then `name=value`.
//!
//! A value may be the text of others. It is made printable before the line gets its
//! colours, so that no sequence in a line is another's.

use std::error::Error;
use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::printable::printable;

/// Formats fields for people, with values that move no terminal.
#[derive(Debug)]
pub(super) struct PrintableFields;

/// One line's fields on their way.
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
        let value = printable(value);
        let name = field.name();
        // One that is a word of the language too.
        let name = name.strip_prefix("r#").unwrap_or(name);
        match name {
            "message" => self.writer.write_str(&value),
            // The name in italics, and what follows it dimmed.
            _ if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}")
            }
            _ => write!(self.writer, "{name}={value}"),
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
        if field.name() == "message" {
            self.record(field, value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        self.record(field, &text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, &format!("{value:?}"));
    }
}
