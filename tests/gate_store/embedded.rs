//! The embedded store: conformance, other processes, and writers that die.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use knockpipe::gate::Member;
use knockpipe::gate::any_store::AnyStore;
use knockpipe::gate::embedded_store::EmbeddedStore;
use knockpipe::gate::store::Edit;
use rand::RngExt;
use tempfile::TempDir;

use super::conformance::{self, Backing, allow, edit, member, members};
use super::follower::Follower;
use super::grants::{note, note_of, noted};

const HOUR: Duration = Duration::from_secs(3_600);

struct InFile(TempDir);

impl Backing for InFile {
    fn open(&self, check: usize) -> Arc<AnyStore> {
        open(&self.0.path().join(check.to_string()))
    }

    fn ends(&self) -> bool {
        true
    }

    fn server(&self) -> String {
        self.0.path().display().to_string()
    }
}

fn open(path: &std::path::Path) -> Arc<AnyStore> {
    let store = EmbeddedStore::open(path).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(AnyStore::Embedded(store))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    conformance::check(&InFile(tempfile::tempdir().unwrap())).await;
}

/// Returns the member that a writer adds as its `n`th.
fn nth(n: u32) -> Member {
    std::net::IpAddr::from((0x0a00_0000 + n).to_be_bytes()).into()
}

/// Not a test: the killed process runs this. It adds members, bans and removes one address over and
/// over, so that the file is rewritten from time to time, and prints each number after its edit was
/// acknowledged.
#[tokio::test]
async fn writer_that_is_killed() {
    let Ok(path) = std::env::var("KNOCKPIPE_TEST_GATE_FILE") else { return };
    let first: u32 = std::env::var("KNOCKPIPE_TEST_FIRST").unwrap().parse().unwrap();
    let store = open(path.as_ref());
    let mut out = std::io::stdout();
    for n in first.. {
        edit(&store, allow(nth(n), None)).await;
        writeln!(out, "added {n}").unwrap();
        let churn = std::iter::repeat_n((nth(0xffff).to_string().parse().unwrap(), 7), 100);
        edit(&store, Edit::RecordSeen(churn.collect())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_in_200_kills() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate");
    let mut acknowledged: HashSet<u32> = HashSet::new();
    let mut next = 0;
    let mut reader = Follower::start(&open(&path)).await;
    for kill in 0..200 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::writer_that_is_killed", "--nocapture"])
            .env("KNOCKPIPE_TEST_GATE_FILE", &path)
            .env("KNOCKPIPE_TEST_FIRST", next.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = std::thread::spawn(move || {
            let number = |line: String| line.split("added ").nth(1)?.parse::<u32>().ok();
            lines.map_while(Result::ok).filter_map(number).collect::<Vec<_>>()
        });
        // At a random time of its life: before it opened the file, or in any edit.
        std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = reading.join().unwrap();
        next = said.last().map_or(next, |last| last + 1);
        acknowledged.extend(said);
        // An edit that was written but not acknowledged may be there or not.
        next += 1;
        let store = open(&path);
        let found: HashSet<Member> =
            members(&store).await.0.into_iter().map(|(member, _)| member).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|n| !found.contains(&nth(**n))).collect();
        assert!(lost.is_empty(), "kill {kill}: {lost:?} are lost");
        assert!(found.len() <= acknowledged.len() + kill + 1, "kill {kill}");
    }
    let all = acknowledged.len();
    println!("{all} acknowledged edits in 200 lives, {} bytes", path.metadata().unwrap().len());
    assert!(all >= 200, "{all}");
    reader
        .until("the reader kept up", |state| {
            state.fresh && acknowledged.iter().all(|n| state.allowed.contains_key(&nth(*n)))
        })
        .await;
    assert!(reader.state.away.is_empty(), "{:?}", reader.state.away);
    reader.stop().await;
}

/// The file is written anew when most of it is past: with notes, and without claims that ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_anew_keeps_notes_and_forgets_old_claims() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate");
    let store = open(&path);
    let knock = note("key:1a2b3c4d", Some("the \"laptop\""));
    edit(&store, noted("203.0.113.7", Some(HOUR), &knock)).await;
    assert_eq!(store.claim("past", Duration::from_millis(1)).await, Ok(true));
    assert_eq!(store.claim("00ff", HOUR).await, Ok(true));
    let (mut length, mut written_anew) = (0, false);
    for n in 0..10_000 {
        edit(&store, noted("203.0.113.8", Some(HOUR + Duration::from_secs(n)), &knock)).await;
        let now = path.metadata().unwrap().len();
        written_anew = now < length;
        if written_anew {
            break;
        }
        length = now;
    }
    assert!(written_anew, "{length} bytes");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(" claim 00ff ") && !text.contains(" claim past "), "{text}");
    let other = open(&path);
    for text in ["203.0.113.7", "203.0.113.8"] {
        assert_eq!(note_of(&other, text).await.as_ref(), Some(&knock), "{text}");
    }
    assert_eq!(other.claim("00ff", HOUR).await, Ok(false));
    assert_eq!(other.claim("past", HOUR).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_away_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate");
    let store = open(&path);
    edit(&store, allow(member("203.0.113.7"), None)).await;
    let mut follower = Follower::start(&store).await;
    let aside = dir.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    follower.until("gone", |state| state.away.len() == 1).await;
    std::fs::rename(&aside, &path).unwrap();
    follower.until("back", |state| state.fresh && state.allows("203.0.113.7")).await;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let other = open_error(&path);
    assert!(other.contains("chmod 600"), "{other}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Replaces the file by another one.
    let other = dir.path().join("other");
    edit(&open(&other), allow(member("203.0.113.8"), None)).await;
    std::fs::rename(&other, &path).unwrap();
    follower.until("the other", |s| !s.reading && s.allows("203.0.113.8")).await;
    assert!(!follower.state.allows("203.0.113.7"));
    assert_eq!(follower.state.away.len(), 1);
    follower.stop().await;
}

fn open_error(path: &std::path::Path) -> String {
    EmbeddedStore::open(path).unwrap_err().to_string()
}
