//! Lines of the log as JSON objects: fields beside `timestamp`, `level` and `message`.
//!
//! Own code, because the formatter of `tracing` lacks one thing: values with parts. A program that
//! reads the log needs an object where the text has `name=count` pairs ([`Pairs`]), and not a text
//! to parse.

use std::error::Error;
use std::fmt::{self, Debug, Display};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::fields::{causes, name_of};

/// A value of a log line with named parts: `a=1 b=2` in text, an object in JSON. It is logged as an
/// error, the only kind of value that keeps its type: `reasons = pairs.field()`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs(Vec<(String, Value)>);

/// Writes JSON lines.
#[derive(Debug)]
pub(super) struct JsonLines {
    /// Syslog has its own time.
    pub(super) has_time: bool,
}

/// The members of one line's object, each after a comma.
struct Members(String);

impl Pairs {
    /// Makes pairs in this order.
    pub fn new<N: Display, V: Into<Value>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_string(), value.into())).collect())
    }

    /// Returns it as a field of a log line.
    pub fn field(&self) -> &(dyn Error + 'static) {
        self
    }

    fn json(&self) -> Value {
        Value::Object(Map::from_iter(self.0.iter().cloned()))
    }
}

/// Writes `name=value`, separated by blanks; every item of a list with the name, and without one
/// where it is empty.
impl Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().flat_map(|(name, value)| {
            let values =
                value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            values.iter().map(move |value| (name, value))
        });
        for (place, (name, value)) in parts.enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            if !name.is_empty() {
                write!(f, "{name}=")?;
            }
            match value {
                Value::String(text) => f.write_str(text)?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

impl Error for Pairs {}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut members = Members(String::new());
        if self.has_time {
            let mut time = String::new();
            SystemTime.format_time(&mut Writer::new(&mut time))?;
            members.add("timestamp", time);
        }
        members.add("level", event.metadata().level().as_str());
        event.record(&mut members);
        writeln!(writer, "{{{}}}", members.0)
    }
}

impl Members {
    fn add(&mut self, name: &str, value: impl Into<Value>) {
        let comma = if self.0.is_empty() { "" } else { "," };
        self.0 += &format!("{comma}{}:{}", Value::from(name), value.into());
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(name_of(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(name_of(field), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(name_of(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(name_of(field), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(name_of(field), value);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        match error.downcast_ref::<Pairs>() {
            Some(pairs) => self.add(name_of(field), pairs.json()),
            None => self.add(name_of(field), causes(error)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(name_of(field), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_words_in_text_and_an_object_in_json() {
        let pairs = Pairs::new([("replayed", 1), ("handshake-failed", 2)]);
        assert_eq!(pairs.to_string(), "replayed=1 handshake-failed=2");
        assert_eq!(pairs.json(), serde_json::json!({"replayed": 1, "handshake-failed": 2}));
        let lists = Pairs::new([("", vec!["a:1"]), ("redis", vec!["b:1", "c:1"])]);
        assert_eq!(lists.to_string(), "a:1 redis=b:1 redis=c:1");
        assert_eq!(lists.json(), serde_json::json!({"": ["a:1"], "redis": ["b:1", "c:1"]}));
        assert_eq!(Pairs::default().to_string(), "");
    }
}
