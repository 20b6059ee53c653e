//! A connection to a server that may send anything: what it sends is counted
//! before the parser sees it, and the connection fails when it is too much.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Excess, HEAVIEST, Meter};

/// What the answers of all servers of a store may weigh together.
const HEAVIEST_TOGETHER: u64 = 2 * HEAVIEST;

/// What all connections of a store hold at this moment.
pub(super) type Together = Arc<AtomicU64>;

/// What a connection and whoever asks over it know of each other.
#[derive(Debug)]
pub(super) struct Account {
    state: Mutex<State>,
    excess: OnceLock<Excess>,
    together: Together,
}

#[derive(Debug, Default)]
struct State {
    /// Questions without an answer.
    asked: usize,
    /// How many times there was none.
    rests: u64,
    /// What this connection holds of what all hold together.
    held: u64,
}

/// A question, until its answer is there or nobody waits for it.
#[derive(Debug)]
pub(super) struct Asked<'a>(&'a Account);

/// The stream with its meter.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    meter: Meter,
    account: Arc<Account>,
    /// The rest after which the meter began.
    rests: u64,
}

impl Account {
    pub(super) fn new(together: Together) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), excess: OnceLock::new(), together })
    }

    /// A question begins, over the same connection as those that wait.
    pub(super) fn ask(&self) -> Asked<'_> {
        self.lock().asked += 1;
        Asked(self)
    }

    /// What was too much, if the connection failed for that.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess.get().copied()
    }

    fn hold(&self, weight: u64) -> Result<(), Excess> {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.held, weight);
        drop(state);
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
        let _ = self.hold(0);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.asked -= 1;
        if state.asked == 0 {
            state.rests += 1;
            drop(state);
            // What came is in the hands of who asked.
            let _ = self.0.hold(0);
        }
    }
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, account: Arc<Account>) -> Self {
        Self { stream, meter: Meter::default(), account, rests: 0 }
    }

    /// Counts what came.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Excess> {
        let state = self.account.lock();
        let (is_idle, rests) = (state.asked == 0, state.rests);
        drop(state);
        if is_idle || self.rests != rests {
            self.rests = rests;
            self.meter.forget();
        }
        self.meter.set_idle(is_idle);
        self.meter.take(bytes)?;
        self.account.hold(self.meter.weight())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(excess) = self.account.excess() {
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Err(excess) = self.take(&buf.filled()[before..]) {
            buf.set_filled(before);
            // It is the first one: after it nothing is read.
            let _ = self.account.excess.set(excess);
            let _ = self.account.hold(0);
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
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

    /// Sends `count` texts of a megabyte and reads them; what came of that.
    async fn texts(account: &Arc<Account>, count: usize) -> io::Result<()> {
        let (mut server, client) = duplex(64 << 10);
        let mut guarded = Guarded::new(client, Arc::clone(account));
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
    async fn an_answer_has_an_end_and_the_next_begins_anew() {
        let account = Account::new(Together::default());
        for _ in 0..3 {
            let _asked = account.ask();
            texts(&account, 10).await.unwrap();
        }
        let _asked = account.ask();
        let error = texts(&account, 20).await.unwrap_err();
        assert_eq!(error.to_string(), Excess::Answer.to_string());
        assert_eq!(account.excess(), Some(Excess::Answer));
        // Nothing more is heard from a server that sent too much.
        assert!(texts(&account, 1).await.is_err());
    }

    #[tokio::test]
    async fn what_nobody_asked_for_is_not_kept() {
        let account = Account::new(Together::default());
        texts(&account, 40).await.unwrap();
        assert_eq!(account.together.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn all_servers_of_a_store_have_a_bound_together() {
        let together = Together::default();
        let accounts: Vec<_> = (0..5).map(|_| Account::new(Arc::clone(&together))).collect();
        let mut asked = vec![];
        for (place, account) in accounts.iter().enumerate() {
            asked.push(account.ask());
            assert_eq!(texts(account, 10).await.is_ok(), place < 3, "{place}");
        }
        assert_eq!(accounts[4].excess(), Some(Excess::Together));
        drop(asked);
        assert_eq!(together.load(Ordering::Relaxed), 0);
    }
}
