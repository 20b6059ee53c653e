//! Counts the memory that the answers of a server take, while they arrive and
//! before they are parsed.
//!
//! Follows RESP just as far as that needs: the kind of a value, and its length.
//! No matter what a server announces, or sends without an end, the most that is kept of it is
//! a text of [`LONGEST_TEXT`] and an answer that weighs [`HEAVIEST`]. Without input and output:
//! bytes in, one error at most out. An answer counts until its receiver has taken it, each by
//! itself, since questions may overlap without end.

use std::collections::VecDeque;

/// The longest text in an answer. Names and members have some dozens of bytes, the
/// longest that is asked for, INFO of a Cluster, a thousand.
pub const LONGEST_TEXT: u64 = 1 << 20;

/// The longest line: a number, a status, or an error that repeats what it is about.
const LONGEST_LINE: u64 = 64 << 10;

/// The memory of one value beside its bytes.
const VALUE: u64 = 64;

/// The most that answers may weigh together that came over a connection and were not taken yet: the
/// answer to one question, of one command or of many that were sent at once, and those
/// to others that were asked meanwhile. A full page of a scan weighs a fortieth of this.
pub const HEAVIEST: u64 = 16 << 20;

/// Lists in lists; the map of a Cluster has four.
const DEEPEST: usize = 16;

/// Digits of a length, with its sign.
const DIGITS: usize = 12;

/// The way in which an answer is more than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// A text that is too long, by its announcement.
    #[error("announces a text of {0} bytes, of {LONGEST_TEXT} at most")]
    Text(u64),
    /// A list that is too long, by its announcement.
    #[error("announces a list of {0} values, too many for an answer")]
    List(u64),
    /// A line that does not end.
    #[error("sends a line without an end")]
    Line,
    /// Lists in lists in lists.
    #[error("sends lists in lists, deeper than any answer is")]
    Depth,
    /// An answer that does not end.
    #[error("sends an answer of more than {} MiB", HEAVIEST >> 20)]
    Answer,
    /// Answers that are too much together.
    #[error("sends too much together with the other servers of this store")]
    Together,
    /// Bytes that are not RESP.
    #[error("does not speak Redis' protocol")]
    Foreign,
}

/// The answers that have arrived, also in part, and were not taken yet.
#[derive(Debug)]
pub struct Meter {
    at: At,
    /// Values that are still due of each list that was begun, the innermost last.
    due: Vec<u64>,
    /// The weight of the value that was begun and is no complete answer yet.
    begun: u64,
    purpose: Purpose,
    /// The weight of each complete answer that was not taken yet, the oldest first.
    complete: VecDeque<u64>,
    /// The sum of these.
    untaken: u64,
    /// Answers that are still to come and are not waited for any more.
    abandoned: usize,
    /// No answer is waited for.
    is_idle: bool,
}

/// The purpose of the value that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It answers a question.
    Answer,
    /// It is a push, and its name is not known yet: the part of it that came, and its
    /// length. A push may answer a question too, and the parser keeps it for that.
    Push { name: [u8; NAME], length: usize },
    /// It is a push that is taken in at once.
    Notice,
}

/// Names of pushes that answer nothing, with the end of a text.
const NOTICES: [&[u8]; 2] = [b"invalidate\r\n", b"message\r\n"];
/// The longest of them, and one byte more.
const NAME: usize = 13;

#[derive(Clone, Copy, Debug)]
enum At {
    Kind,
    /// In the first line of a value of this kind.
    Line {
        kind: u8,
        length: u64,
        digits: [u8; DIGITS],
        ends: bool,
    },
    /// In a text, of which so many bytes are due, with its end.
    Text(u64),
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            at: At::Kind,
            due: vec![],
            begun: 0,
            purpose: Purpose::Answer,
            complete: VecDeque::new(),
            untaken: 0,
            abandoned: 0,
            is_idle: false,
        }
    }
}

impl Meter {
    /// The weight of the answers that were not taken yet, also of parts.
    pub fn weight(&self) -> u64 {
        self.untaken + self.begun
    }

    /// Notes that this many answers were taken, or are not waited for any more. Answers come
    /// in the order of the questions, so that these are the oldest.
    pub fn taken(&mut self, answers: usize) {
        for _ in 0..answers {
            match self.complete.pop_front() {
                Some(weight) => self.untaken -= weight,
                None => self.abandoned += 1,
            }
        }
    }

    /// Sets if no answer is waited for: then complete ones count for nothing.
    /// Incomplete ones go on counting.
    pub fn set_idle(&mut self, is_idle: bool) {
        self.is_idle = is_idle;
        if is_idle {
            self.complete.clear();
            self.untaken = 0;
        }
    }

    /// Counts bytes that came.
    ///
    /// # Errors
    /// [`Excess`]; nothing of these bytes must be used then.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), Excess> {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Kind => {
                    self.begin(*first)?;
                    bytes = rest;
                }
                At::Line { kind, length, digits, ends } => {
                    if *ends && *first == b'\n' {
                        let (kind, length, digits) = (*kind, *length - 1, *digits);
                        self.line(kind, length, &digits)?;
                    } else {
                        let place = usize::try_from(*length).unwrap_or(usize::MAX);
                        if let Some(digit) = digits.get_mut(place) {
                            *digit = *first;
                        }
                        (*length, *ends) = (*length + 1, *first == b'\r');
                        if *length > LONGEST_LINE {
                            return Err(Excess::Line);
                        }
                        self.add(1)?;
                    }
                    bytes = rest;
                }
                At::Text(left) => {
                    let here = (bytes.len() as u64).min(*left);
                    *left -= here;
                    let is_over = *left == 0;
                    let (text, rest) = bytes.split_at(usize::try_from(here).unwrap_or(bytes.len()));
                    bytes = rest;
                    self.purpose.read(text);
                    if is_over {
                        self.end_value();
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: u8) -> Result<(), Excess> {
        if !b"+-:_,#($!=*~>%|".contains(&kind) {
            return Err(Excess::Foreign);
        }
        match self.purpose {
            _ if self.due.is_empty() => self.purpose = Purpose::begin(kind),
            // The name of a push is its first value.
            Purpose::Push { length: 0, .. } if kind != b'$' => self.purpose = Purpose::Answer,
            _ => {}
        }
        self.add(VALUE)?;
        self.at = At::Line { kind, length: 0, digits: [0; DIGITS], ends: false };
        Ok(())
    }

    /// Handles the first line of a value, of `length` bytes.
    fn line(&mut self, kind: u8, length: u64, digits: &[u8]) -> Result<(), Excess> {
        let number = || {
            let length = usize::try_from(length).ok().filter(|length| *length < DIGITS);
            number(&digits[..length.ok_or(Excess::Foreign)?]).ok_or(Excess::Foreign)
        };
        match kind {
            b'$' | b'!' | b'=' => match number()? {
                Some(bytes) if bytes > LONGEST_TEXT => Err(Excess::Text(bytes)),
                Some(bytes) => {
                    self.add(bytes)?;
                    self.at = At::Text(bytes + 2);
                    Ok(())
                }
                None if kind == b'$' => self.end_of(0),
                None => Err(Excess::Foreign),
            },
            b'*' | b'~' | b'>' => {
                let count = number()?.unwrap_or(0);
                self.end_of(count)
            }
            // Names and values, and for an attribute what it is about.
            b'%' | b'|' => match number()? {
                Some(pairs) => self.end_of(pairs * 2 + u64::from(kind == b'|')),
                None => Err(Excess::Foreign),
            },
            _ => self.end_of(0),
        }
    }

    /// Handles the end of a value, or of the beginning of one with `count` values in it.
    fn end_of(&mut self, count: u64) -> Result<(), Excess> {
        self.at = At::Kind;
        if count == 0 {
            self.end_value();
            return Ok(());
        }
        if count > HEAVIEST / VALUE {
            return Err(Excess::List(count));
        }
        if self.due.len() >= DEEPEST {
            return Err(Excess::Depth);
        }
        self.due.push(count);
        Ok(())
    }

    fn end_value(&mut self) {
        self.at = At::Kind;
        self.purpose.end_of_value();
        while let Some(due) = self.due.last_mut() {
            *due -= 1;
            if *due > 0 {
                return;
            }
            self.due.pop();
        }
        let weight = std::mem::take(&mut self.begun);
        if self.purpose == Purpose::Notice {
            return;
        }
        if self.abandoned > 0 {
            self.abandoned -= 1;
        } else if !self.is_idle {
            self.complete.push_back(weight);
            self.untaken += weight;
        }
    }

    fn add(&mut self, weight: u64) -> Result<(), Excess> {
        self.begun += weight;
        if self.weight() > HEAVIEST { Err(Excess::Answer) } else { Ok(()) }
    }
}

impl Purpose {
    fn begin(kind: u8) -> Self {
        if kind == b'>' { Self::Push { name: [0; NAME], length: 0 } } else { Self::Answer }
    }

    /// Reads a part of a text, which is the name if that is not known yet.
    fn read(&mut self, text: &[u8]) {
        if let Self::Push { name, length } = self {
            for (place, byte) in name[*length..].iter_mut().zip(text) {
                *place = *byte;
                *length += 1;
            }
        }
    }

    /// Handles the end of a value: of a push the first is its name.
    fn end_of_value(&mut self) {
        if let Self::Push { name, length } = self {
            *self = if NOTICES.contains(&&name[..*length]) { Self::Notice } else { Self::Answer };
        }
    }
}

/// A length; `Some(None)` for a negative one, which stands for no value. Stricter than
/// the parser behind, which must not see another length than this.
fn number(text: &[u8]) -> Option<Option<u64>> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if is_negative { None } else { Some(number) })
}

#[cfg(test)]
#[path = "resp_meter_tests.rs"]
mod tests;
