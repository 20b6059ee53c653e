//! A connection to a server that may send anything: its bytes are counted
//! before the parser sees them, and the connection fails when they are too many.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::resp_meter::{Excess, HEAVIEST, Meter};
use super::cause::{Cause, cause_of, is_of_tls};

/// The most that the answers of all servers of a store may weigh together.
const HEAVIEST_TOGETHER: u64 = 2 * HEAVIEST;

/// The weight that all connections of a store hold at this moment.
pub(super) type Together = Arc<AtomicU64>;

/// The state that a connection shares with the senders of commands.
#[derive(Debug)]
pub(super) struct Account {
    state: Mutex<State>,
    excess: OnceLock<Excess>,
    /// The reason why the connection failed, which is lost on the way through its driver.
    failure: OnceLock<Cause>,
    together: Together,
}

#[derive(Debug, Default)]
struct State {
    meter: Meter,
    /// Questions without an answer.
    asked: usize,
    /// The part of this connection in the weight that all hold together.
    held: u64,
}

/// A question, until its answers came or are not waited for any more.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    account: &'a Account,
    answers: usize,
}

/// The stream with counted bytes.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    account: Arc<Account>,
}

impl Account {
    pub(super) fn new(together: Together) -> Arc<Self> {
        let mut state = State::default();
        state.meter.set_idle(true);
        let (excess, failure) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { state: Mutex::new(state), excess, failure, together })
    }

    /// Begins a question with this many answers, over the same connection as those that
    /// wait; where the number is not known, 0 and no other question.
    pub(super) fn ask(&self, answers: usize) -> Asked<'_> {
        let mut state = self.lock();
        state.asked += 1;
        state.meter.set_idle(false);
        Asked { account: self, answers }
    }

    /// The excess for which the connection failed, if it did.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess.get().copied()
    }

    /// The reason why the connection failed, if it did.
    pub(super) fn failure(&self) -> Option<Cause> {
        self.failure.get().cloned()
    }

    /// Keeps the first failure.
    fn note(&self, error: &io::Error) {
        let _ = self.failure.set(cause_of(error));
    }

    /// Counts bytes that came.
    fn take(&self, bytes: &[u8]) -> Result<(), Excess> {
        let mut state = self.lock();
        let taken = state.meter.take(bytes).and_then(|()| self.hold(&mut state));
        if let Err(excess) = taken {
            // It is the first one: after it nothing is read.
            let _ = self.excess.set(excess);
            let _ = self.hold(&mut state);
        }
        taken
    }

    /// Accounts for the weight that the connection holds now: none, if it failed.
    fn hold(&self, state: &mut State) -> Result<(), Excess> {
        let weight = if self.excess.get().is_some() { 0 } else { state.meter.weight() };
        let before = std::mem::replace(&mut state.held, weight);
        self.together.fetch_sub(before, Ordering::Relaxed);
        let together = self.together.fetch_add(weight, Ordering::Relaxed) + weight;
        if together > HEAVIEST_TOGETHER { Err(Excess::Together) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.together.fetch_sub(self.lock().held, Ordering::Relaxed);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.account.lock();
        state.asked -= 1;
        state.meter.taken(self.answers);
        let is_idle = state.asked == 0;
        state.meter.set_idle(is_idle);
        // It can only be less.
        let _ = self.account.hold(&mut state);
    }
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, account: Arc<Account>) -> Self {
        Self { stream, account }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(excess) = self.account.excess() {
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            self.account.note(&error);
            return Poll::Ready(Err(error));
        }
        if let Err(excess) = self.account.take(&buf.filled()[before..]) {
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Metered<S> {
    /// Notes the cause of a failed write. A server that ends TLS sends the reason before it
    /// closes, and that is found by reading.
    fn failed(&mut self, error: io::Error, cx: &mut Context<'_>) -> io::Error {
        let mut room = [0; 1];
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut room));
        match read {
            Poll::Ready(Err(said)) if is_of_tls(&said) => self.account.note(&said),
            _ => self.account.note(&error),
        }
        error
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| self.failed(error, cx)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.failed(error, cx)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const TEXT: &[u8] = b"$1000000\r\n";

    /// Sends `count` texts of a megabyte and reads them. Returns the result of the reading.
    async fn texts(account: &Arc<Account>, count: usize) -> io::Result<()> {
        let (mut server, client) = duplex(64 << 10);
        let mut guarded = Metered::new(client, Arc::clone(account));
        let mut text = TEXT.to_vec();
        text.resize(TEXT.len() + 1_000_000, b'x');
        text.extend(b"\r\n");
        let sending = async {
            for _ in 0..count {
                // The other side may have had enough.
                let _ = server.write_all(&text).await;
            }
            drop(server);
        };
        let receiving = async {
            let mut buffer = [0; 8_192];
            loop {
                match guarded.read(&mut buffer).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => {
                        drop(guarded);
                        break Err(error);
                    }
                }
            }
        };
        tokio::join!(sending, receiving).1
    }

    #[tokio::test]
    async fn each_answer_has_a_limit_of_its_own() {
        let account = Account::new(Together::default());
        for _ in 0..3 {
            let _asked = account.ask(10);
            texts(&account, 10).await.unwrap();
        }
        let _asked = account.ask(20);
        let error = texts(&account, 20).await.unwrap_err();
        assert_eq!(error.to_string(), Excess::Answer.to_string());
        assert_eq!(account.excess(), Some(Excess::Answer));
        // Nothing more is heard from a server that sent too much.
        assert!(texts(&account, 1).await.is_err());
    }

    #[tokio::test]
    async fn questions_may_overlap_without_end() {
        let account = Account::new(Together::default());
        let mut asked = account.ask(1);
        for _ in 0..40 {
            // There is always one without an answer.
            let next = account.ask(1);
            texts(&account, 1).await.unwrap();
            asked = next;
        }
        assert!(account.together.load(Ordering::Relaxed) < 2_000_000);
        drop(asked);
        assert_eq!(account.together.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn unrequested_answers_are_not_kept() {
        let account = Account::new(Together::default());
        texts(&account, 40).await.unwrap();
        assert_eq!(account.together.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn all_servers_of_a_store_share_a_bound() {
        let together = Together::default();
        let accounts: Vec<_> = (0..5).map(|_| Account::new(Arc::clone(&together))).collect();
        let mut asked = vec![];
        for (place, account) in accounts.iter().enumerate() {
            asked.push(account.ask(10));
            assert_eq!(texts(account, 10).await.is_ok(), place < 3, "{place}");
        }
        assert_eq!(accounts[4].excess(), Some(Excess::Together));
        drop(asked);
        assert_eq!(together.load(Ordering::Relaxed), 0);
    }
}
