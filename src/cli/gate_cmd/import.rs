//! `import`: entries from a file, all of them good or none of them used.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::Done;
use super::super::output::notice;
use super::list::{ALLOWED, BANNED, read_entries};
use super::note::{self, Operator};
use super::opened_store::{Absent, OpenedStore};
use super::{CommonArgs, GateCommandError, SafetyArgs};
use crate::duration;
use crate::files::read::{Kind, ReadError, open};
use crate::files::text::{NotText, text};
use crate::gate::grant::{LONGEST_NOTE, NoteUntil};
use crate::gate::owners::{Notes, Terms};
use crate::gate::store::{Edit, EditResult};
use crate::gate::{Expiry, GrantNote, Member, UnixMillis};
use crate::net::clock;
use crate::proto::knock::Label;
use crate::run::Failure;

/// Longest line in bytes, with its end: that of an entry with all the owners that one has.
const LONGEST_LINE: usize = 2 * LONGEST_NOTE;

/// Highest number of entries, which is that of a store.
const MOST_ENTRIES: usize = 2_000_000;

/// Stands for a ban without an end, which only other programs write.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// `gate import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// File to read, or - for standard input
    #[arg(value_name = "INPUT")]
    input: PathBuf,

    /// Lifetime of entries without an end of their own [default: for ever]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true
    )]
    ttl: Option<Duration>,

    /// Label of entries without a note of their own
    #[arg(long, value_name = "TEXT")]
    label: Option<Label>,

    #[command(flatten)]
    spare: SafetyArgs,

    #[command(flatten)]
    common: CommonArgs,
}

/// One line: an entry, its end and its notes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    kind: &'static str,
    member: Member,
    expiry: Expiry,
    notes: Option<Box<Notes>>,
}

/// Results of the lines.
#[derive(Default)]
struct Counts {
    changed: usize,
    unchanged: usize,
    expired: usize,
    last: Option<EditResult>,
}

impl Wanted {
    /// Returns its place in the order of writing. Where there is no set yet, the first entry makes
    /// one: a sorted set if that entry has an end, which then also takes entries without one. A
    /// plain set could not take entries with an end. Networks come first, since the end of an
    /// address may be in a separate key.
    fn place(&self) -> u8 {
        match (self.kind, self.member, self.expiry) {
            (BANNED, ..) => 3,
            (_, Member::Network(_), Expiry::At(_)) => 0,
            (_, Member::Address(_), Expiry::At(_)) => 1,
            (_, _, Expiry::Never) => 2,
        }
    }
}

/// Reason why a line is refused.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of {name}: {cause}; correct it, nothing was imported")]
struct BadLine {
    number: usize,
    name: String,
    cause: String,
}

/// Adds the entries of a file.
///
/// # Errors
/// [`Failure`]
pub(super) async fn import(args: ImportArgs) -> Result<Done, Failure> {
    let now = clock::now();
    let note = Operator::of_process().note(args.label.as_ref());
    // Opened before the gate is found, because that may drop the right to read it.
    let input = Input::open(&args.input)?;
    let source = args.common.store.find()?;
    let mut wanted = Reader { args: &args, spared: &source.spared, now }.read(input)?;
    let place = OpenedStore::of(source, Absent::Make)?;
    let all = wanted.len();
    wanted.retain(|entry| !entry.expiry.is_past(now));
    wanted.sort_by_key(Wanted::place);
    let mut counts = Counts { expired: all - wanted.len(), ..Counts::default() };
    let present = present(&place, &wanted).await?;
    let new = new_ones(&wanted, &present, now);
    counts.unchanged += wanted.len() - new.len();
    let edits = new.iter().map(|entry| edit(entry, &note, now)).collect();
    place.edit_all(edits, |receipt| counts.take(receipt)).await?;
    let others = new.iter().flat_map(|entry| others(entry, now)).collect();
    place.edit_owners(others).await?;
    report(&args.common, &place, &counts)
}

/// The source of the lines.
struct Input {
    name: String,
    /// `None` is standard input.
    file: Option<File>,
}

/// A reader of lines.
struct Reader<'a> {
    args: &'a ImportArgs,
    /// Networks that are not banned without `--force`, besides those of the flags.
    spared: &'a [(&'static str, Member)],
    now: UnixMillis,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self { name: "standard input".to_owned(), file: None });
        }
        let name = path.display().to_string();
        let (file, _) = open(path).map_err(|error| {
            let advice = match error {
                ReadError::Kind(Kind::Pipe) => "give - and let it come from standard input",
                _ => "check its path, and that it is text of addresses",
            };
            Failure::Usage(anyhow::anyhow!("cannot read {name}: {error}; {advice}"))
        })?;
        Ok(Self { name, file: Some(file) })
    }
}

impl Reader<'_> {
    fn read(&self, input: Input) -> Result<Vec<Wanted>, Failure> {
        match input.file {
            Some(file) => self.read_lines(&input.name, BufReader::new(file)),
            None => self.read_lines(&input.name, io::stdin().lock()),
        }
    }

    /// Reads line by line, so that only entries are held in memory.
    fn read_lines(&self, name: &str, mut input: impl BufRead) -> Result<Vec<Wanted>, Failure> {
        let mut wanted = vec![];
        let mut line = vec![];
        for number in 1.. {
            line.clear();
            let read = (&mut input).take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line);
            let read = read.map_err(|error| {
                let advice = "check its path, and that it is text of addresses";
                Failure::Usage(anyhow::anyhow!("cannot read {name}: {error}; {advice}"))
            })?;
            if read == 0 {
                break;
            }
            let entry = self.wanted_of(&line, wanted.len());
            let bad = |cause| BadLine { number, name: name.to_owned(), cause };
            wanted.extend(entry.map_err(|cause| Failure::Usage(bad(cause).into()))?);
        }
        if wanted.is_empty() {
            notice(&format!("there are no entries in {name}; write one address in each line"));
        }
        Ok(wanted)
    }

    /// Parses a line, unless it is empty or a comment; `before` is the number of entries before it.
    fn wanted_of(&self, line: &[u8], before: usize) -> Result<Option<Wanted>, String> {
        if line.len() > LONGEST_LINE {
            return Err(format!("it is longer than {LONGEST_LINE} bytes"));
        }
        let line = text(line).map_err(|not| match not {
            NotText::Utf16 => "the file is UTF-16 text, save it as UTF-8",
            NotText::Other => "it is not UTF-8 text",
        })?;
        let line = without_comment(line);
        if line.is_empty() {
            return Ok(None);
        }
        if before >= MOST_ENTRIES {
            return Err(format!("it is one entry more than {MOST_ENTRIES}, the most of a gate"));
        }
        let entry = parse(line, self.args.ttl, self.now)?;
        self.check(&entry).map_err(|error| error.to_string())?;
        Ok(Some(entry))
    }

    /// Checks an entry by the rules of `allow` and `ban`.
    fn check(&self, entry: &Wanted) -> Result<(), GateCommandError> {
        let spare = &self.args.spare;
        match (entry.kind, entry.member) {
            (BANNED, member) => spare.check_ban(member, self.spared),
            (_, member) => spare.check_width(member),
        }
    }
}

/// Removes a comment: JSON may have a `#` in a text, an address never has one.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    let end = if line.starts_with('{') { None } else { line.find('#') };
    line[..end.unwrap_or(line.len())].trim_end()
}

/// Error for a line that is not an address. The line is not shown: the wrong file may hold a
/// key or a password, which no rule can tell from a word.
const NO_MEMBER: &str = "this is not an address or network, such as 203.0.113.7";

fn parse(line: &str, ttl: Option<Duration>, now: UnixMillis) -> Result<Wanted, String> {
    let until = |ttl| Expiry::after(now, ttl);
    if !line.starts_with('{') {
        let member = line.parse::<Member>().map_err(|_| NO_MEMBER)?;
        return Ok(Wanted { kind: ALLOWED, member, expiry: until(ttl), notes: None });
    }
    let value: Value = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
    let kind = match value["kind"].as_str() {
        Some(ALLOWED) => ALLOWED,
        Some(BANNED) => BANNED,
        _ => return Err("\"kind\" is neither \"allowed\" nor \"banned\"".to_owned()),
    };
    let member = value["member"].as_str().ok_or("\"member\" is not text")?;
    let member = member.parse::<Member>().map_err(|_| NO_MEMBER)?;
    let expiry = match &value["expires_ms"] {
        Value::Null if kind == ALLOWED => until(ttl),
        Value::Null => Expiry::Never,
        end => {
            let end = end.as_u64().ok_or("\"expires_ms\" is not a unix time in milliseconds")?;
            Expiry::At(UnixMillis(end))
        }
    };
    let notes = note::read_all(&value)?.map(Box::new);
    Ok(Wanted { kind, member, expiry, notes })
}

/// Entries of the store, with their end. Read only where that is needed: the result of adding a
/// plain member shows whether it was new.
type Present = HashMap<(&'static str, Member), Expiry>;

async fn present(place: &OpenedStore, wanted: &[Wanted]) -> Result<Present, Failure> {
    let mut present = Present::new();
    if wanted.iter().any(|entry| entry.kind == BANNED || entry.expiry != Expiry::Never) {
        let note = |kind, member, end| {
            let known = present.entry((kind, member)).or_insert(end);
            *known = end.max(*known);
        };
        read_entries(place, note).await?;
    }
    Ok(present)
}

/// Returns the entries that do not last as long yet.
fn new_ones<'a>(wanted: &'a [Wanted], present: &Present, now: UnixMillis) -> Vec<&'a Wanted> {
    let is_new = |entry: &&Wanted| {
        let known = present.get(&(entry.kind, entry.member));
        !known.is_some_and(|end| lasts(*end, entry, now))
    };
    wanted.iter().filter(is_new).collect()
}

/// Returns the grants of the other owners of an entry, which end before it does.
fn others(entry: &Wanted, now: UnixMillis) -> Vec<Edit> {
    let others = entry.notes.iter().flat_map(|notes| &notes.others);
    let running = others.filter(|other| !other.end.is_past(now) && other.end <= entry.expiry);
    let grant = |NoteUntil { note, end }: &NoteUntil| {
        let (note, lasting) = (note.clone(), end.left(now)?);
        Some(Edit::Grant { member: entry.member, lasting, note, terms: Terms::Later })
    };
    running.filter_map(grant).collect()
}

/// Returns whether the present entry lasts as long as the wanted one.
fn lasts(present: Expiry, entry: &Wanted, now: UnixMillis) -> bool {
    /// Ends are sent as remaining time, which gets rounded.
    const ROUNDING: Duration = Duration::from_secs(2);
    match (present, entry.expiry) {
        (Expiry::Never, _) => true,
        (Expiry::At(end), Expiry::At(wanted)) => end.saturating_add(ROUNDING) >= wanted,
        // Imported before, with the longest end that can be written.
        (Expiry::At(end), Expiry::Never) => {
            entry.kind == BANNED && end > now.saturating_add(LONGEST / 2)
        }
    }
}

fn edit(entry: &Wanted, note: &GrantNote, now: UnixMillis) -> Edit {
    let left = entry.expiry.left(now).map(|left| left.max(Duration::from_millis(1)));
    match (entry.kind, entry.member) {
        (BANNED, member) => Edit::Ban(member, left.unwrap_or(LONGEST)),
        (_, member) => {
            let note = entry.notes.as_ref().map_or(note, |notes| &notes.note).clone();
            Edit::Allow { member, lasting: left, note: Some(note) }
        }
    }
}

impl Counts {
    fn take(&mut self, receipt: EditResult) {
        if receipt.changed {
            self.changed += 1;
        } else {
            self.unchanged += 1;
        }
        self.last = Some(receipt);
    }
}

fn report(common: &CommonArgs, place: &OpenedStore, counts: &Counts) -> Result<Done, Failure> {
    let Counts { changed, unchanged, expired, last } = counts;
    let mut output = common.output();
    let server = last.as_ref().map_or_else(|| place.name(), |receipt| &receipt.server);
    output.say(
        || format!("imported {changed}, unchanged {unchanged}, expired {expired}, on {server}"),
        || json!({ "changed": changed, "unchanged": unchanged, "expired": expired, "server": server }),
    )?;
    output.finish()?;
    Ok(if *changed > 0 { Done::Clean } else { Done::Unchanged })
}
