//! The shape of a table: all that is in it but elements, so that what another program did to chains,
//! rules and sets is found. It only compares.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::layout::{Commands, FAMILIES, MARK};

/// Chains, rules, sets and whatever else a table has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// What is no rule.
    things: BTreeSet<String>,
    /// Rules of each chain, in their order where it matters.
    rules: BTreeMap<String, Vec<String>>,
    marks: Vec<String>,
}

impl Shape {
    /// Reads a listed table.
    pub(super) fn listed(objects: &[Value]) -> Self {
        let mut shape = Self::default();
        objects.iter().for_each(|object| shape.take(object));
        // Which set is asked first is no matter.
        for (family, _) in FAMILIES {
            shape.rules.get_mut(family).into_iter().for_each(|rules| rules.sort());
        }
        shape
    }

    /// Returns the shape that commands make.
    pub(super) fn made_by(commands: &Commands) -> Self {
        let made: Vec<Value> = commands
            .lines()
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|mut command| command.get_mut("add").map(Value::take))
            .filter(|object| object.get("element").is_none())
            .collect();
        Self::listed(&made)
    }

    /// Returns true if there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.things.is_empty() && self.rules.is_empty()
    }

    /// Returns the mark of the program.
    pub(super) fn mark(&self) -> Option<&str> {
        self.marks.first().map(String::as_str)
    }

    fn take(&mut self, object: &Value) {
        let Some((kind, fields)) = object.as_object().and_then(|object| object.iter().next())
        else {
            return;
        };
        let text = |field| fields.get(field).and_then(Value::as_str).unwrap_or_default();
        match kind.as_str() {
            "metainfo" | "table" => {}
            "rule" => {
                let rules = self.rules.entry(text("chain").to_owned()).or_default();
                let statements = fields.get("expr").cloned().unwrap_or_default();
                rules.push(plain(statements).to_string());
            }
            _ => {
                let name = text("name");
                if kind == "chain" && name.starts_with(MARK) {
                    self.marks.push(name.to_owned());
                }
                let mut fields = fields.clone();
                if let Value::Object(fields) = &mut fields {
                    fields.remove("handle");
                    fields.remove("elem");
                }
                self.things.insert(format!("{kind} {}", plain(fields)));
            }
        }
    }
}

/// Returns a value in the one form of those that versions of `nft` write for the same: without
/// counts, with numbers as lists of ranges, and with a list of one word as that word.
fn plain(value: Value) -> Value {
    if let Some(ranges) = ranges(&value) {
        return json!(ranges);
    }
    match value {
        Value::Array(mut all) if all.len() == 1 && all[0].is_string() => all.remove(0),
        Value::Array(all) => all.into_iter().map(plain).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| match name.as_str() {
                "counter" => (name, Value::Null),
                _ => (name, plain(value)),
            });
            // A map of JSON may keep the order in which its fields were written.
            fields.collect::<BTreeMap<_, _>>().into_iter().collect()
        }
        other => other,
    }
}

/// Reads a port, or a set of ports and ranges, as ranges without gaps between them.
fn ranges(value: &Value) -> Option<Vec<(u64, u64)>> {
    if let Some(number) = number(value) {
        return Some(vec![(number, number)]);
    }
    if let Some([first, last]) = value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return Some(vec![(number(first)?, number(last)?)]);
    }
    let members = value.get("set")?.as_array()?;
    let mut all: Vec<_> = members.iter().map(ranges).collect::<Option<Vec<_>>>()?.concat();
    all.sort_unstable();
    let mut merged: Vec<(u64, u64)> = vec![];
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    Some(merged)
}

/// Reads a number, which `nft` 1.0 writes as `"0x16 [invalid type]"` in sets of ports of the
/// original direction.
fn number(value: &Value) -> Option<u64> {
    let hexadecimal = |text: &str| {
        let digits = text.strip_prefix("0x")?.split(' ').next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    value.as_u64().or_else(|| value.as_str().and_then(hexadecimal))
}
