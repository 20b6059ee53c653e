//! Threads for blocking work: names, files, the answers of a successor.
//!
//! Two start with the process and stay. More are started while all are busy, since a name server
//! that does not answer occupies a thread for tens of seconds. When the system gives no thread
//! (`ulimit -u`, a limit of a container), work waits for the existing ones: that is one line in the
//! log, and it is retried until it works. tokio would panic.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Panicked;

/// Threads that never end.
const RESIDENT: usize = 2;

/// Highest number of threads; further work waits.
const MOST: usize = 128;

/// Time that a thread beyond the residents waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// Time that work waits until another thread is attempted.
const AGAIN: Duration = Duration::from_millis(500);

/// Time after a failure from which on a started thread ends the trouble.
const CALM: Duration = Duration::from_secs(1);

static POOL: Pool = Pool::new();

type Work = Box<dyn FnOnce() + Send>;

/// Reason why work was not completed.
#[derive(Debug, thiserror::Error)]
pub enum Undone {
    /// There is no thread at all.
    #[error(
        "cannot start a thread: {0}; raise the limit of threads (ulimit -u, TasksMax=, a container's limit of pids)"
    )]
    NoThread(io::Error),
    /// The work panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl From<Undone> for io::Error {
    fn from(undone: Undone) -> Self {
        Self::other(undone)
    }
}

struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<Work>,
    threads: usize,
    /// Number of threads that wait for work.
    idle: usize,
    /// Moment of the last failure to start a thread, unless that is over.
    trouble: Option<Instant>,
}

/// Event to log once the lock is released.
enum News {
    None,
    Trouble(io::Error),
    Over,
}

/// Starts the resident threads.
///
/// # Errors
/// [`Undone::NoThread`]
pub fn start() -> Result<(), Undone> {
    let mut state = POOL.lock();
    while state.threads < RESIDENT {
        POOL.start_one(&mut state).map_err(Undone::NoThread)?;
    }
    Ok(())
}

/// Does `work`, which may block. It is completed even if the result is no longer awaited.
///
/// # Errors
/// [`Undone`]
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Undone> {
    let (result, mut done) = oneshot::channel();
    let work = move || {
        // The task that wanted it may be gone.
        let _ = result.send(work());
    };
    POOL.give(Box::new(work))?;
    loop {
        match timeout(AGAIN, &mut done).await {
            Ok(given) => return given.map_err(|_| Panicked.into()),
            Err(_) => POOL.help(),
        }
    }
}

impl Pool {
    const fn new() -> Self {
        let state = State { waiting: VecDeque::new(), threads: 0, idle: 0, trouble: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Hands work to the next free thread.
    fn give(&'static self, work: Work) -> Result<(), Undone> {
        let mut state = self.lock();
        state.waiting.push_back(work);
        let news = self.grow(&mut state);
        if state.threads == 0 {
            let error = match news {
                News::Trouble(error) => error,
                _ => io::ErrorKind::WouldBlock.into(),
            };
            state.waiting.clear();
            return Err(Undone::NoThread(error));
        }
        drop(state);
        self.changed.notify_one();
        news.tell();
        Ok(())
    }

    /// Tries to start another thread, if work waits.
    fn help(&'static self) {
        let news = self.grow(&mut self.lock());
        news.tell();
    }

    /// Starts a thread if one is missing, also to find out whether that works again.
    fn grow(&'static self, state: &mut State) -> News {
        let is_missing = state.waiting.len() > state.idle;
        let is_doubtful = state.trouble.is_some_and(|last| last.elapsed() >= CALM);
        if !(is_missing || is_doubtful) || state.threads >= MOST {
            return News::None;
        }
        match self.start_one(state) {
            Ok(()) if is_doubtful => {
                state.trouble = None;
                News::Over
            }
            Ok(()) => News::None,
            Err(error) => match state.trouble.replace(Instant::now()) {
                None => News::Trouble(error),
                Some(_) => News::None,
            },
        }
    }

    fn start_one(&'static self, state: &mut State) -> io::Result<()> {
        thread::Builder::new().name("blocking".to_owned()).spawn(|| self.work())?;
        state.threads += 1;
        Ok(())
    }

    /// Main loop of a thread, as long as it is needed.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                // A task that waits for the result gets an error.
                let _ = catch_unwind(AssertUnwindSafe(work));
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let is_bored = |state: &mut State| state.waiting.is_empty();
            let woken = self.changed.wait_timeout_while(state, IDLE, is_bored);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.waiting.is_empty() && state.threads > RESIDENT {
                state.threads -= 1;
                return;
            }
        }
    }

    /// Locks the state. Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    fn tell(self) {
        match self {
            Self::None => {}
            Self::Trouble(error) => {
                let detail = "names and files wait for the threads that there are; it is tried again until it works; \
                              raise ulimit -u, TasksMax= or the container's limit of pids";
                warn!(%error, detail, "cannot start a thread");
            }
            Self::Over => info!("threads can be started again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_is_done_and_a_panic_in_it_is_an_error() {
        assert_eq!(blocking(|| 7).await.unwrap(), 7);
        for _ in 0..RESIDENT * 2 {
            let failed = blocking(|| panic!("a mistake, made on purpose")).await;
            assert!(matches!(failed, Err::<(), _>(Undone::Panicked(_))));
        }
        assert_eq!(blocking(|| 8).await.unwrap(), 8, "no thread ended by it");
    }

    /// A name server that does not answer occupies a thread, but delays no other caller.
    #[tokio::test]
    async fn work_that_takes_long_holds_up_no_other() {
        let mut release = vec![];
        let mut held = vec![];
        for _ in 0..RESIDENT * 4 {
            let (sender, receiver) = mpsc::channel::<()>();
            release.push(sender);
            held.push(tokio::spawn(blocking(move || receiver.recv().is_err())));
        }
        for number in 0..100 {
            assert_eq!(blocking(move || number).await.unwrap(), number);
        }
        drop(release);
        for held in held {
            assert!(held.await.unwrap().unwrap());
        }
    }

    #[test]
    fn trouble_is_logged_once_and_its_end_too() {
        static OTHER: Pool = Pool::new();
        let mut state = OTHER.lock();
        state.trouble = Some(Instant::now());
        assert!(matches!(OTHER.grow(&mut state), News::None), "nothing waits");
        state.trouble = Instant::now().checked_sub(CALM);
        assert!(matches!(OTHER.grow(&mut state), News::Over));
        assert!(matches!(OTHER.grow(&mut state), News::None));
        assert_eq!(state.threads, 1);
    }
}
