//! A host between the two ends changes what passes: applications see a strict prefix of the bytes
//! that were sent, and a clean end only where the far end said so.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use testkit::data::Noise;
use testkit::middleman::{Act, Cut, Edit, HANDSHAKE, Middleman, Recording, Toward};
use testkit::wait::eventually_within;
use testkit::{Ending, NEVER, Pair, PairOptions, Target, Wire};

/// Connections at a time; most cases wait for a deadline, not for a processor.
const AT_ONCE: usize = 96;

/// Attempts for edits of frames that did not come (the handshake's deadline is short).
const ROUNDS: usize = 10;

/// Time for which a client waits for more before it gives up and resets. A case that ends this way
/// has not passed as an untouched exchange, and only that matters.
const PATIENCE: Duration = Duration::from_secs(1);

/// One side's view of an exchange.
#[derive(Debug)]
struct Seen {
    bytes: Vec<u8>,
    ending: Ending,
}

/// A pair with a middleman, and an exchange that always goes the same way:
/// the client sends its request, the target answers when it has all of it, the
/// client finishes when it has all of the answer, then the target finishes.
struct Stage {
    pair: Pair,
    middle: Middleman,
    target: Target,
    request: Arc<Vec<u8>>,
    answer: Arc<Vec<u8>>,
    target_saw: Arc<Mutex<Vec<Seen>>>,
}

impl Stage {
    /// `len` bytes go each way. Without padding, so that every byte counts.
    fn new(len: usize) -> Self {
        let request = Arc::new(Noise::new(1).bytes(len));
        let answer = Arc::new(Noise::new(2).bytes(len));
        let target_saw = Arc::new(Mutex::new(Vec::new()));
        let (theirs, reply) = (Arc::clone(&target_saw), Arc::clone(&answer));
        let target = Target::local(move |wire, _| {
            let seen = exchange(wire, len, &reply);
            theirs.lock().unwrap().push(seen);
        });
        let options = PairOptions::both(&["-o", "300ms", "--padding", "none"]);
        let middle = Mutex::new(None);
        let pair = Pair::start_via(options, target.addr(), |sealed| {
            let started = Middleman::start(sealed);
            let addr = started.addr().clone();
            *middle.lock().unwrap() = Some(started);
            addr
        });
        let middle = middle.into_inner().unwrap().unwrap();
        Self { pair, middle, target, request, answer, target_saw }
    }

    /// Returns the frames of one untouched exchange. The handshake's deadline is short, so a loaded
    /// machine may need more than one try.
    fn sample(&self) -> Recording {
        for _ in 0..20 {
            self.middle.record(true);
            let seen = self.client();
            self.middle.record(false);
            self.settle();
            let saw = std::mem::take(&mut *self.target_saw.lock().unwrap());
            let recording = self.middle.take_recordings().remove(0);
            if (&seen.bytes, seen.ending) == (&*self.answer, Ending::Clean) {
                assert_eq!(saw.len(), 1);
                assert_eq!((&saw[0].bytes, saw[0].ending), (&*self.request, Ending::Clean));
                return recording;
            }
        }
        panic!("an untouched exchange does not get through");
    }

    fn client(&self) -> Seen {
        let mut wire = self.pair.connect();
        let mut bytes = Vec::new();
        if let Err(ending) = wire.send(&self.request) {
            return Seen { bytes, ending };
        }
        wire.read_limit(PATIENCE);
        let mut buffer = vec![0; 64 * 1024];
        while bytes.len() < self.answer.len() {
            match wire.read(&mut buffer) {
                Ok(0) => return Seen { bytes, ending: Ending::Clean },
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(_) => {
                    wire.reset();
                    return Seen { bytes, ending: Ending::Reset };
                }
            }
        }
        wire.finish();
        let (rest, ending) = wire.read_to_ending(PATIENCE);
        bytes.extend(rest);
        wire.reset();
        Seen { bytes, ending }
    }

    /// Waits until no connection of an earlier case is left.
    fn settle(&self) {
        eventually_within(NEVER, "the middleman is idle", || self.middle.live() == 0);
        self.target.wait_idle();
    }

    /// Runs one exchange per edit, all edits toward the same side, until each
    /// took effect once, and checks that none of them got through unnoticed.
    fn run(&self, name: &str, toward: Toward, acts: Vec<(usize, Act)>) -> usize {
        let cases = acts.len();
        let applied = self.middle.applied();
        let mut edits: Vec<Edit> =
            acts.into_iter().map(|(frame, act)| Edit { toward, frame, act }).collect();
        for _ in 0..ROUNDS {
            if edits.is_empty() {
                break;
            }
            self.round(name, toward, edits);
            edits = self.middle.take_missed();
        }
        assert!(edits.is_empty(), "{name}: never took effect: {edits:?}");
        assert_eq!(self.middle.applied() - applied, cases as u64, "{name}: every edit once");
        cases
    }

    fn round(&self, name: &str, toward: Toward, edits: Vec<Edit>) {
        let cases = edits.len();
        let (untouched, connections) = (self.untouched(), self.middle.connections());
        self.middle.edit_next(edits);
        let next = AtomicUsize::new(0);
        let clients: Mutex<Vec<Seen>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(cases) {
                scope.spawn(|| {
                    while next.fetch_add(1, Ordering::SeqCst) < cases {
                        let seen = self.client();
                        clients.lock().unwrap().push(seen);
                    }
                });
            }
        });
        self.settle();
        // A dialer that gets nothing for a while makes a second one.
        let made = self.middle.connections() - connections;
        assert!(made >= cases as u64, "{name}: a sealed connection for each client");
        let targets = std::mem::take(&mut *self.target_saw.lock().unwrap());
        let whole = |seen: &[Seen], sent: &[u8], who: &str| {
            seen.iter().filter(|one| is_whole(one, sent, &format!("{name}: the {who}"))).count()
        };
        let clients = whole(&clients.into_inner().unwrap(), &self.answer, "client");
        let targets = whole(&targets, &self.request, "target");
        let whole = if toward == Toward::Dialer { clients } else { targets };
        let untouched = self.untouched() - untouched;
        assert!(whole as u64 <= untouched, "{name}: {whole} noticed nothing of {untouched}");
    }

    /// Counts the sealed connections so far in which nothing was edited.
    fn untouched(&self) -> u64 {
        self.middle.connections() - self.middle.applied()
    }

    /// Checks that both ends live and that an untouched exchange passes.
    fn finish(self) {
        self.sample();
        self.pair.stop();
    }
}

/// Serves the target's half of the exchange.
fn exchange(mut wire: Wire, len: usize, answer: &[u8]) -> Seen {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match wire.read(&mut bytes[have..]) {
            Ok(n @ 1..) => have += n,
            end => {
                bytes.truncate(have);
                let ending = if end.is_ok() { Ending::Clean } else { Ending::Reset };
                return Seen { bytes, ending };
            }
        }
    }
    if let Err(ending) = wire.send(answer) {
        return Seen { bytes, ending };
    }
    let (rest, ending) = wire.read_to_ending(NEVER);
    bytes.extend(rest);
    Seen { bytes, ending }
}

/// Checks that nothing but authentic bytes came, in order, and a clean end only after all of them.
/// Returns true if that came.
#[track_caller]
fn is_whole(seen: &Seen, sent: &[u8], who: &str) -> bool {
    assert!(sent.starts_with(&seen.bytes), "{who} got bytes that were never sent");
    let (is_all, is_clean) = (seen.bytes.len() == sent.len(), seen.ending == Ending::Clean);
    assert!(is_all || !is_clean, "{who}: clean after {} of {}", seen.bytes.len(), sent.len());
    is_clean
}

fn flips(frame: usize, bytes: std::ops::Range<usize>) -> Vec<(usize, Act)> {
    bytes.flat_map(|byte| (0..8).map(move |bit| (frame, Act::Flip { byte, bit }))).collect()
}

/// "every bit of a short exchange flipped": both handshake
/// messages. Not one of these cases may reach the target.
#[test]
fn no_flipped_bit_in_the_handshake_reaches_the_target() {
    let stage = Stage::new(24);
    stage.sample();
    let (before, untouched) = (stage.target.counts().accepts(), stage.untouched());
    for toward in Toward::BOTH {
        let cases = stage.run("handshake bit", toward, flips(0, 0..HANDSHAKE));
        println!("{cases} flipped handshake bits toward the {toward:?}");
    }
    let (touches, untouched) =
        (stage.target.counts().accepts() - before, stage.untouched() - untouched);
    assert!(touches <= untouched, "the target was touched: {touches}, {untouched}");
    stage.finish();
}

/// "every bit of a short exchange flipped": all records, with
/// their length bytes, both ways.
#[test]
fn every_flipped_bit_in_a_record_is_noticed() {
    let stage = Stage::new(24);
    let sample = stage.sample();
    for toward in Toward::BOTH {
        for (index, frame) in sample.frames(toward).iter().enumerate().skip(1) {
            let name = format!("bit of record {index} toward the {toward:?}");
            let cases = stage.run(&name, toward, flips(index, 0..frame.len()));
            println!("{cases} cases: {name}");
        }
    }
    stage.finish();
}

/// "the stream cut at every byte offset with FIN and with RST:
/// a strict prefix, and a clean end only after Fin", both directions.
#[test]
fn a_stream_cut_at_any_byte_never_ends_cleanly() {
    let stage = Stage::new(24);
    let sample = stage.sample();
    for toward in Toward::BOTH {
        for how in [Cut::Fin, Cut::Rst] {
            let mut acts = Vec::new();
            for (index, frame) in sample.frames(toward).iter().enumerate() {
                acts.extend((0..frame.len()).map(|byte| (index, Act::Cut { byte, how })));
            }
            let cases = stage.run(&format!("cut by {how:?} toward the {toward:?}"), toward, acts);
            println!("{cases} cuts by {how:?} toward the {toward:?}");
        }
    }
    stage.finish();
}

/// "records dropped, doubled, swapped", in an exchange of several records.
#[test]
fn records_dropped_doubled_or_swapped_are_noticed() {
    const EACH: usize = 10;
    let stage = Stage::new(100_000);
    let sample = stage.sample();
    for toward in Toward::BOTH {
        // The number of records for the bytes may differ a little between exchanges, but there is
        // never one less than full records demand.
        let records = 1 + 100_000_usize.div_ceil(16 * 1024);
        assert!(sample.frames(toward).len() > records, "{}", sample.frames(toward).len());
        for act in [Act::Drop, Act::Double, Act::Swap] {
            let acts: Vec<_> = (1..records).flat_map(|i| vec![(i, act.clone()); EACH]).collect();
            stage.run(&format!("{act:?} toward the {toward:?}"), toward, acts);
        }
    }
    stage.finish();
}

/// "records spliced across connections and directions".
#[test]
fn records_of_another_connection_or_direction_are_noticed() {
    let stage = Stage::new(24);
    let other = stage.sample();
    for toward in Toward::BOTH {
        let frames = other.frames(toward);
        let mut spliced = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            // The same place of another connection, and in front of this one's own.
            spliced.push((index, Act::Replace(frame.clone())));
            spliced.push((index, Act::Insert(frame.clone())));
            // Every other place of the other connection.
            spliced.extend(frames.iter().skip(1).map(|f| (index, Act::Replace(f.clone()))));
        }
        stage.run(&format!("splice toward the {toward:?}"), toward, spliced);
    }
    stage.run("message 2 as record", Toward::Acceptor, vec![(1, Act::Reflect(0))]);
    stage.run("message 1 as message 2", Toward::Dialer, vec![(0, Act::Reflect(0))]);
    stage.run("Opened as Data", Toward::Acceptor, vec![(2, Act::Reflect(1))]);
    stage.run("Open as Opened", Toward::Dialer, vec![(1, Act::Reflect(1))]);
    stage.run("the request as answer", Toward::Dialer, vec![(2, Act::Reflect(2))]);
    stage.finish();
}

/// Inserted bytes between two records, and records of impossible length.
#[test]
fn foreign_bytes_between_records_are_noticed() {
    let stage = Stage::new(24);
    stage.sample();
    let mut noise = Noise::new(5);
    for toward in Toward::BOTH {
        let mut acts = Vec::new();
        for index in 1..=3 {
            for length in [0_u16, 1, 15, 16, 19, 20, 40, 1024, 16_402, 16_403, 65_535] {
                let mut record = length.to_be_bytes().to_vec();
                record.extend(noise.bytes(usize::from(length)));
                acts.push((index, Act::Insert(record)));
            }
        }
        stage.run(&format!("forged record toward the {toward:?}"), toward, acts);
    }
    stage.finish();
}

/// The far end says why: a flipped bit in a record is a `bad-record` in the log, and a stream
/// without Fin is `truncated`.
#[test]
fn the_log_names_tampering_and_truncation() {
    let stage = Stage::new(24);
    stage.sample();
    stage.run("flip", Toward::Acceptor, vec![(2, Act::Flip { byte: 5, bit: 0 })]);
    stage.pair.decrypt.wait_closed("bad-record");
    stage.run("flip", Toward::Dialer, vec![(2, Act::Flip { byte: 5, bit: 0 })]);
    stage.pair.encrypt.wait_closed("bad-record");
    let cut = Act::Cut { byte: 5, how: Cut::Fin };
    stage.run("cut", Toward::Acceptor, vec![(2, cut.clone())]);
    stage.pair.decrypt.wait_closed("truncated");
    stage.run("cut", Toward::Dialer, vec![(2, cut)]);
    stage.pair.encrypt.wait_closed("truncated");
    stage.finish();
}
