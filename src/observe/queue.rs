//! Queue of lines from the threads that log to the one thread that writes them.
//!
//! A reader that stops reading must never stop the tunnel: a full pipe blocks any thread that
//! writes to it, and all that wait for that thread. So only the writer thread waits for the reader.
//! The queue is bounded; lines that do not fit are counted and dropped.
//!
//! Lines with a failed write count as lost too. The count is logged with the first write that works
//! again.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait, a few MiB. Enough for the `closed` lines when a large end cuts its
/// sessions, because those matter.
const MOST_LINES: usize = 16_384;

/// Time that the writer waits for more after the first line, because waking it costs more than
/// writing a line, and busy tunnels log thousands a second.
const GATHERING: Duration = Duration::from_millis(1);

/// The same where it was woken a moment before, as busy tunnels do.
const GATHERING_MANY: Duration = Duration::from_millis(5);

/// Time between two wakes below which there are many lines.
const BUSY: Duration = Duration::from_millis(20);

/// Longest time that the end of the process may wait for a reader.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// One formatted line and its level.
pub(super) type Line = (Level, Vec<u8>);

/// The end of the queue that `tracing` writes to.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Queue>);

/// Keeps the log running. Dropping it writes the queued lines, for at most a second, and ends the
/// log.
#[must_use = "the log ends when this is dropped"]
pub struct Guard(Lines);

/// Writer of one line: the formatter writes each with a single call.
pub(super) struct Slot<'a> {
    lines: &'a Lines,
    level: Level,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Line>,
    lost: u64,
    /// The writer thread waits to be woken.
    idle: bool,
    /// Moment when it was woken last.
    woken: Option<Instant>,
    /// No more lines are accepted.
    closed: bool,
    /// The writer thread has written everything.
    written: bool,
}

impl Lines {
    /// Starts the thread that passes each line to `sink`, and after losses the line that `notice`
    /// makes from their number.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(super) fn start(
        &self,
        sink: impl FnMut(&Line) -> io::Result<()> + Send + 'static,
        notice: impl Fn(u64) -> Option<Line> + Send + 'static,
    ) -> io::Result<Guard> {
        let lines = self.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || lines.write_all(sink, notice))?;
        Ok(Guard(self.clone()))
    }

    /// Runs the writer thread, until the queue is closed and empty. A line that causes a panic is
    /// lost.
    fn write_all(
        &self,
        mut sink: impl FnMut(&Line) -> io::Result<()>,
        notice: impl Fn(u64) -> Option<Line>,
    ) {
        while catch_unwind(AssertUnwindSafe(|| self.write(&mut sink, &notice))).is_err() {
            self.state().lost += 1;
        }
        self.state().written = true;
        self.0.changed.notify_all();
    }

    fn write(
        &self,
        sink: &mut impl FnMut(&Line) -> io::Result<()>,
        notice: &impl Fn(u64) -> Option<Line>,
    ) {
        while let Some(line) = self.next() {
            if sink(&line).is_err() {
                self.state().lost += 1;
                continue;
            }
            let lost = std::mem::take(&mut self.state().lost);
            if lost > 0 && notice(lost).is_some_and(|line| sink(&line).is_err()) {
                self.state().lost += lost;
            }
        }
    }

    /// Takes the oldest line; waits for one, and then for those that follow at once. `None` is the
    /// end.
    fn next(&self) -> Option<Line> {
        let nothing_to_do = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let mut state = self.state();
        if nothing_to_do(&mut state) {
            state.idle = true;
            let woken = self.0.changed.wait_while(state, nothing_to_do);
            let gathering = woken.unwrap_or_else(PoisonError::into_inner).gathering(Instant::now());
            thread::sleep(gathering);
            state = self.state();
        }
        state.waiting.pop_front()
    }

    /// Takes the oldest line, if there is one.
    pub(super) fn pop(&self) -> Option<Line> {
        self.state().waiting.pop_front()
    }

    fn push(&self, line: Line) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        if state.waiting.len() < MOST_LINES {
            state.waiting.push_back(line);
        } else {
            // The writer sees it after its current line: a full queue means that there is one.
            state.lost += 1;
        }
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        // A writer that is not idle checks by itself; waking costs a system call.
        if idle {
            self.0.changed.notify_all();
        }
    }

    /// Locks the state. A poisoned lock still guards whole lines: nothing in there can panic half
    /// way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes that the writer thread is woken, and returns the time that it waits for more lines.
    fn gathering(&mut self, now: Instant) -> Duration {
        let last = self.woken.replace(now);
        let is_busy = last.is_some_and(|last| now.duration_since(last) < BUSY);
        if is_busy { GATHERING_MANY } else { GATHERING }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        super::log::ended();
        let Self(lines) = self;
        let mut state = lines.state();
        state.closed = true;
        lines.0.changed.notify_all();
        // With a stuck reader the rest is lost: the process has to end.
        let _ = lines.0.changed.wait_timeout_while(state, LAST_WRITES, |state| !state.written);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Slot<'a>;

    fn make_writer(&'a self) -> Slot<'a> {
        Slot { lines: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Slot<'a> {
        Slot { lines: self, level: *event.level() }
    }
}

impl io::Write for Slot<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.push((self.level, line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A reader that takes one line for each permit, with its result, and reports each line.
    struct Reader {
        permits: Sender<io::Result<()>>,
        lines: Receiver<String>,
    }

    impl Reader {
        fn start(lines: &Lines) -> (Self, Guard) {
            let (permits, permitted) = channel();
            let (told, read) = channel();
            let sink = move |(_, line): &Line| {
                told.send(String::from_utf8(line.clone()).unwrap()).unwrap();
                // No more permits are given by a reader that is gone.
                permitted.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
            };
            let notice = |lost| Some((Level::WARN, format!("lost {lost}").into_bytes()));
            let guard = lines.start(sink, notice).unwrap();
            (Self { permits, lines: read }, guard)
        }

        fn line(&self) -> String {
            self.lines.recv_timeout(Duration::from_secs(20)).expect("a line comes")
        }
    }

    fn push(lines: &Lines, text: &str) {
        lines.push((Level::INFO, text.into()));
    }

    #[test]
    fn a_single_line_waits_shorter_than_one_of_many() {
        let mut state = State::default();
        let start = Instant::now();
        let gathering = [0, 19, 39].map(|ms| state.gathering(start + Duration::from_millis(ms)));
        assert_eq!(gathering, [GATHERING, GATHERING_MANY, GATHERING]);
    }

    #[test]
    fn lost_lines_are_counted_and_logged_with_the_next_write() {
        let lines = Lines::default();
        let (reader, guard) = Reader::start(&lines);
        push(&lines, "held");
        assert_eq!(reader.line(), "held");
        for i in 0..MOST_LINES + 3 {
            push(&lines, &i.to_string());
        }
        for _ in 0..MOST_LINES + 2 {
            reader.permits.send(Ok(())).unwrap();
        }
        assert_eq!(reader.line(), "lost 3");
        for i in 0..MOST_LINES {
            assert_eq!(reader.line(), i.to_string());
        }
        drop(guard);
        assert!(reader.lines.recv().is_err(), "the loss is told once");
    }

    #[test]
    fn lines_that_could_not_be_written_are_lost_lines() {
        let lines = Lines::default();
        let (reader, _guard) = Reader::start(&lines);
        let broken = || Err(io::ErrorKind::BrokenPipe.into());
        // The third line is written, but not the notice after it.
        for result in [broken(), broken(), Ok(()), broken(), Ok(()), Ok(())] {
            reader.permits.send(result).unwrap();
        }
        for text in ["a", "b", "c", "d"] {
            push(&lines, text);
        }
        let read: Vec<_> = (0..6).map(|_| reader.line()).collect();
        assert_eq!(read, ["a", "b", "c", "lost 2", "d", "lost 2"]);
    }

    /// The log must run as long as the process.
    #[test]
    fn a_panic_at_a_line_loses_that_line_alone() {
        let lines = Lines::default();
        let (told, read) = channel();
        let sink = move |(_, line): &Line| {
            assert_ne!(line, b"bad", "a mistake, made on purpose");
            told.send(String::from_utf8(line.clone()).unwrap()).unwrap();
            Ok(())
        };
        let notice = |lost| Some((Level::WARN, format!("lost {lost}").into_bytes()));
        let guard = lines.start(sink, notice).unwrap();
        for text in ["a", "bad", "b"] {
            push(&lines, text);
        }
        drop(guard);
        assert_eq!(read.iter().collect::<Vec<_>>(), ["a", "b", "lost 1"]);
    }

    #[test]
    fn the_end_writes_what_is_queued_but_does_not_wait_for_ever() {
        let lines = Lines::default();
        let (reader, guard) = Reader::start(&lines);
        push(&lines, "a");
        push(&lines, "b");
        let start = Instant::now();
        drop(guard);
        assert!(start.elapsed() >= LAST_WRITES, "it gave the reader a chance");
        assert!(start.elapsed() < LAST_WRITES * 10);
        reader.permits.send(Ok(())).unwrap();
        reader.permits.send(Ok(())).unwrap();
        assert_eq!([reader.line(), reader.line()], ["a", "b"]);

        let lines = Lines::default();
        let (reader, guard) = Reader::start(&lines);
        reader.permits.send(Ok(())).unwrap();
        push(&lines, "stopped");
        drop(guard);
        assert_eq!(reader.lines.try_recv().unwrap(), "stopped");
        push(&lines, "too late");
        assert_eq!(lines.pop(), None);
    }
}
