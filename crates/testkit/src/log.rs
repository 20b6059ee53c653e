//! The log of an end, in the form of `--log-format json`.

use serde_json::{Value, json};

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    json: Value,
}

impl Line {
    /// Parses a line. Returns `None` for one that is neither a JSON object nor one of the two text
    /// lines that report the start of an end.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let json: Value = match serde_json::from_slice(raw) {
            Ok(json) => json,
            Err(_) => Self::start_in_text(&String::from_utf8_lossy(raw))?,
        };
        json.is_object().then_some(Self { json })
    }

    /// Parses `... listening address=ADDRESS` and `... ready mode=MODE ...`.
    fn start_in_text(text: &str) -> Option<Value> {
        if let Some((_, address)) = text.split_once("listening address=") {
            let address = address.split(' ').next()?.trim_matches('"');
            return Some(json!({ "message": "listening", "address": address }));
        }
        text.contains("ready mode=").then(|| json!({ "message": "ready" }))
    }

    /// Returns a field, under `fields` or beside the level.
    fn value(&self, name: &str) -> Option<&Value> {
        self.json.get("fields").and_then(|f| f.get(name)).or_else(|| self.json.get(name))
    }

    /// Returns a field as text; numbers too. An object reads as in a text log: `name=value`.
    pub fn field(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            Value::Object(parts) => {
                let parts = parts.iter().map(|(name, value)| match value {
                    Value::String(text) => format!("{name}={text}"),
                    other => format!("{name}={other}"),
                });
                Some(parts.collect::<Vec<_>>().join(" "))
            }
            other => Some(other.to_string()),
        }
    }

    /// Returns a field as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    pub fn level(&self) -> String {
        self.field("level").unwrap_or_default()
    }

    pub fn message(&self) -> String {
        self.field("message").unwrap_or_default()
    }

    pub fn is(&self, message: &str) -> bool {
        self.value("message").and_then(Value::as_str) == Some(message)
    }

    /// Returns true if field `name` is `value`.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.field(name).as_deref() == Some(value)
    }

    /// Returns the whole line, for searching.
    pub fn text(&self) -> String {
        self.json.to_string()
    }

    /// Returns the number of unauthenticated connections that this line stands for.
    pub fn strangers(&self) -> u64 {
        if self.is("refused") { self.number("count").expect("a summary has a count") } else { 0 }
    }

    /// Returns the number of those that were refused for `reason`.
    pub fn refused(&self, reason: &str) -> u64 {
        let reasons = self.field("reasons").filter(|_| self.is("refused")).unwrap_or_default();
        let counts = reasons.split(' ').filter_map(|one| one.split_once('='));
        counts
            .filter(|(name, _)| *name == reason)
            .map(|(_, n)| n.parse::<u64>().expect("a count"))
            .sum()
    }
}
