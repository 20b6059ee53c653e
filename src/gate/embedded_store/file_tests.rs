//! The file as writers and readers meet it, killed writers and damage included.

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};

use super::super::super::file_state::MOST_ENTRIES;
use super::*;
use crate::unix_time::Expiry;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("gate")
    }

    fn tail(&self) -> LogReader {
        LogReader::new(self.path())
    }

    fn write(&self, bytes: &[u8]) {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        options.open(self.path()).unwrap().write_all(bytes).unwrap();
    }

    fn error(&self) -> String {
        let error = edit(&mut self.tail(), vec![], 0).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.contains("; "), "{error}");
        error
    }
}

/// Locks and edits.
fn edit(reader: &mut LogReader, records: Vec<Record>, now: u64) -> Result<(), StoreError> {
    let locked = Locked::make(&reader.path)?;
    reader.edit(&locked, |_| records, UnixMillis(now)).map(drop)
}

fn allow(n: u8) -> Record {
    Record::Allow(IpAddr::from([203, 0, 113, n]).into(), Expiry::Never, None)
}

fn count(reader: &LogReader) -> usize {
    reader.state().records(UnixMillis(0)).count()
}

#[test]
fn an_edit_is_seen_by_another_reader() {
    let place = Place::new();
    let (mut one, mut other) = (place.tail(), place.tail());
    edit(&mut one, vec![allow(1)], 0).unwrap();
    assert!(other.is_behind().unwrap());
    other.catch_up().unwrap();
    assert_eq!(count(&other), 1);
    assert!(other.take_changes().everything && !other.is_behind().unwrap());
    edit(&mut other, vec![allow(2)], 0).unwrap();
    edit(&mut one, vec![allow(3)], 0).unwrap();
    other.catch_up().unwrap();
    assert_eq!((count(&one), count(&other)), (3, 3));
    let changes = other.take_changes();
    assert_eq!((changes.everything, changes.subjects.len()), (false, 2));
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn every_torn_end_is_skipped_and_cut() {
    let whole = allow(1).line(17);
    for cut in 0..whole.len() {
        let place = Place::new();
        let mut writer = place.tail();
        edit(&mut writer, vec![allow(1)], 0).unwrap();
        let mut reader = place.tail();
        let end = allow(2).line(writer.offset) + &allow(3).line(writer.offset);
        place.write(&end.as_bytes()[..cut]);
        reader.catch_up().unwrap();
        assert_eq!(count(&reader), 1, "cut at {cut}");
        edit(&mut place.tail(), vec![allow(4)], 0).unwrap();
        reader.catch_up().unwrap();
        assert_eq!(count(&reader), 2, "cut at {cut}");
        assert!(!reader.is_behind().unwrap());
    }
}

#[test]
fn an_append_whose_pages_came_out_of_order_is_torn_too() {
    let place = Place::new();
    let mut writer = place.tail();
    edit(&mut writer, vec![allow(1)], 0).unwrap();
    let zeros = [0; 300];
    place.write(&[&zeros[..], b"\n", allow(3).line(writer.offset).as_bytes()].concat());
    let mut reader = place.tail();
    reader.catch_up().unwrap();
    assert_eq!(count(&reader), 1);
    edit(&mut place.tail(), vec![allow(2)], 0).unwrap();
    reader.catch_up().unwrap();
    assert_eq!(count(&reader), 2);
}

#[test]
fn every_torn_header_is_repaired() {
    for cut in 0..HEADER.len() {
        let place = Place::new();
        place.write(&HEADER[..cut]);
        let mut reader = place.tail();
        reader.catch_up().unwrap();
        edit(&mut place.tail(), vec![allow(1)], 0).unwrap();
        reader.catch_up().unwrap();
        assert_eq!(count(&reader), 1);
    }
}

#[test]
fn damage_is_reported_and_nothing_is_cut() {
    let place = Place::new();
    for n in 0..3 {
        edit(&mut place.tail(), vec![allow(n)], 0).unwrap();
    }
    let mut bytes = fs::read(place.path()).unwrap();
    bytes[HEADER.len() + 20] ^= 1;
    fs::write(place.path(), &bytes).unwrap();
    assert!(place.error().contains("is damaged at byte 17"), "{}", place.error());
    assert!(place.tail().catch_up().is_err());
    assert_eq!(fs::read(place.path()).unwrap(), bytes);
}

#[test]
fn an_end_longer_than_an_append_is_damage_and_long_lines_hide_none() {
    let place = Place::new();
    edit(&mut place.tail(), vec![allow(1)], 0).unwrap();
    let good = fs::metadata(place.path()).unwrap().len();
    place.write(&vec![b'x'; 300_000]);
    let mut reader = place.tail();
    reader.catch_up().unwrap();
    assert_eq!((count(&reader), reader.offset), (1, good), "torn");
    place.write(&[b"\n", allow(2).line(good + 300_001).as_bytes()].concat());
    assert!(place.error().contains("before good lines"), "{}", place.error());
    let file = OpenOptions::new().write(true).open(place.path()).unwrap();
    for (more, is_torn) in [(LONGEST_APPEND, true), (LONGEST_APPEND + 1, false)] {
        file.set_len(good).unwrap();
        file.set_len(good + more).unwrap();
        assert_eq!(place.tail().catch_up().is_ok(), is_torn, "{more}");
    }
    assert!(place.error().contains("with more after it than one change writes"));
    assert_eq!(file.metadata().unwrap().len(), good + LONGEST_APPEND + 1, "nothing is cut");
}

#[test]
fn the_entries_of_a_file_are_limited() {
    let place = Place::new();
    let mut reader = place.tail();
    edit(&mut reader, vec![allow(1)], 0).unwrap();
    // As if they had been read: lines of so many take long.
    let most = u32::try_from(MOST_ENTRIES).unwrap();
    let end = clock::now().moved_by(600_000);
    let fill = |reader: &mut LogReader, end| {
        let ips = (1..most).map(|n| IpAddr::from(n.to_be_bytes()).into());
        reader.state.bans.extend(ips.map(|member| (member, end)));
    };
    fill(&mut reader, end);
    let error = edit(&mut reader, vec![allow(2)], 0).unwrap_err().to_string();
    assert!(error.contains("holds 2,000,000 members and bans, which are the most; "), "{error}");
    edit(&mut reader, vec![allow(1)], 0).expect("it is there already");
    assert_eq!(reader.catch_up(), Ok(()), "nothing of it was written");
    // Another program wrote it.
    edit(&mut place.tail(), vec![allow(2)], 0).unwrap();
    for _ in 0..2 {
        let error = reader.catch_up().unwrap_err().to_string();
        assert!(error.contains("which are the most"), "{error}");
    }
    // What is past makes room.
    reader.state.bans.clear();
    fill(&mut reader, UnixMillis(1));
    reader.catch_up().unwrap();
    assert_eq!((reader.state.allowed.len(), reader.state.bans.len()), (2, 0));
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    for (bytes, said) in [
        (&b"ip,comment\n1.2.3.4,x\n"[..], "is no gate file"),
        (b"knockpipe-gate-2\nx\n", "a newer knockpipe"),
    ] {
        let place = Place::new();
        place.write(bytes);
        assert!(place.error().contains(said), "{}", place.error());
        assert_eq!(fs::read(place.path()).unwrap(), bytes);
    }
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    place.error();
    let place = Place::new();
    symlink("/dev/null", place.path()).unwrap();
    assert!(place.error().contains("is a symbolic link"), "{}", place.error());
    let device = edit(&mut LogReader::new("/dev/null".into()), vec![], 0).unwrap_err().to_string();
    assert!(device.contains("no regular file"), "{device}");
    let place = Place::new();
    place.write(HEADER);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(place.error().contains("chmod 600"), "{}", place.error());
    let missing = edit(&mut LogReader::new(place.path().join("there/gate")), vec![], 0);
    assert!(missing.unwrap_err().to_string().contains("; "));
}

#[test]
fn a_file_of_mostly_past_entries_is_rewritten_and_readers_follow() {
    let place = Place::new();
    let (mut writer, mut reader) = (place.tail(), place.tail());
    let mut longest = 0;
    for n in 0..300_u32 {
        let ban = |m: u32| {
            let [.., a, b] = (n * 10 + m).to_be_bytes();
            Record::Ban(IpAddr::from([198, 51, a, b]).into(), UnixMillis(u64::from(n) + 10))
        };
        let records: Vec<_> = (0..10).map(ban).chain([allow(n.to_be_bytes()[3])]).collect();
        edit(&mut writer, records.clone(), n.into()).unwrap();
        reader.catch_up().unwrap();
        assert!(
            records
                .iter()
                .all(|record| reader.state().records(UnixMillis(0)).any(|r| r == *record))
        );
        longest = longest.max(writer.offset);
    }
    assert!(longest < 140_000, "{longest} bytes");
    assert_eq!(reader.state().records(UnixMillis(u64::MAX)).count(), 256);
    assert!(!place.0.path().join("gate.new").exists());
}

#[test]
fn a_writer_waits_for_another() {
    let place = Place::new();
    let writers: Vec<_> = (0..4)
        .map(|thread| {
            let path = place.path();
            std::thread::spawn(move || {
                for n in 0..25 {
                    edit(&mut LogReader::new(path.clone()), vec![allow(thread * 25 + n)], 0)
                        .unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let mut reader = place.tail();
    reader.catch_up().unwrap();
    assert_eq!(count(&reader), 100);
}

#[test]
fn a_file_with_the_inode_of_a_former_one_is_another() {
    let place = Place::new();
    let mut reader = place.tail();
    let mut seen = 0;
    for n in 0..40 {
        // Each is in the place of the one before, which is then free again.
        let new = place.0.path().join("new");
        let mut former = LogReader::new(new.clone());
        edit(&mut former, vec![allow(n), Record::Unban(IpAddr::from([10, 0, 0, n]).into())], 0)
            .unwrap();
        drop(former);
        fs::rename(&new, place.path()).unwrap();
        if n % 2 == 0 {
            reader.catch_up().unwrap();
            assert_eq!((count(&reader), reader.take_changes().everything), (1, true));
            seen += 1;
        }
    }
    assert_eq!(seen, 20);
}

#[test]
fn a_reader_never_takes_a_write_under_way_for_damage() {
    let place = Place::new();
    edit(&mut place.tail(), vec![allow(0)], 0).unwrap();
    let path = place.path();
    let writing = std::thread::spawn(move || {
        let mut reader = LogReader::new(path.clone());
        for n in 0..300_u64 {
            let seen = |m: u8| Record::Seen(IpAddr::from([10, 0, 0, m]), n);
            edit(&mut reader, (0..100).map(seen).collect(), 0).unwrap();
            edit(&mut reader, vec![allow(1)], 0).unwrap();
            // The rest of a killed writer; the next one cuts it off.
            let torn = (0..100).map(|m| seen(m).line(reader.offset)).collect::<String>();
            let file = OpenOptions::new().append(true).open(&path).unwrap();
            (&file).write_all(&torn.as_bytes()[..torn.len() - 30]).unwrap();
        }
    });
    let mut reader = place.tail();
    while !writing.is_finished() {
        reader.catch_up().unwrap();
    }
    writing.join().unwrap();
}
