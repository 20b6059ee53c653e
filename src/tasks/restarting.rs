//! Tasks that must never end.
//!
//! A panic is a fault in this program, and the log has a line about it (`observe::panics`). It must
//! not end work that no other task does: such a task is restarted, after a pause that grows while
//! it fails.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::error;

/// The pause after the first panic, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Time without a panic after which a task counts as healthy again.
const CALM: Duration = Duration::from_secs(60);

/// A future panicked. The log has a line about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fault in this program, of which the log has a line 'panic'; report it")]
pub struct Panicked;

/// Runs the future of `begin` until it ends by itself. After a panic it is restarted.
///
/// `task` is its name in the log.
pub async fn restarting<F>(task: &'static str, mut begin: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        if caught(async { begin().await }).await.is_ok() {
            return;
        }
        if began.elapsed() >= CALM {
            pause = FIRST_PAUSE;
        }
        let pause_s = pause.as_secs_f64();
        error!(task, pause_s, detail = "it is restarted after the pause", "task failed");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Ends a task of [`restarting`] as a panic does, so that it begins again.
pub fn begin_again() -> ! {
    resume_unwind(Box::new(Panicked))
}

/// Awaits `future`. A panic in it ends nothing else.
///
/// # Errors
/// [`Panicked`]
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(given)) => Poll::Ready(Ok(given)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_again() {
        let begun = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let task = restarting("test", || {
            let begun = Arc::clone(&begun);
            async move {
                let before = begun.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                assert!(before >= 9, "a mistake, made on purpose");
            }
        });
        task.await;
        assert_eq!(begun.load(Ordering::SeqCst), 10);
        // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 5 + 5 + 5
        assert_eq!(start.elapsed().as_millis(), 21_300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_before_the_first_wait_counts_too() {
        let mut begun = 0;
        let task = restarting("test", || {
            begun += 1;
            assert!(begun > 2, "a mistake, made on purpose");
            std::future::ready(())
        });
        task.await;
        assert_eq!(begun, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_is_short_again_after_a_calm_time() {
        let mut begun = 0;
        let start = Instant::now();
        let task = restarting("test", || {
            begun += 1;
            let number = begun;
            async move {
                if number == 8 {
                    sleep(CALM).await;
                }
                assert!(number > 8, "a mistake, made on purpose");
            }
        });
        task.await;
        // Seven pauses up to 5 s, a calm period, and the first pause again.
        assert_eq!(start.elapsed().as_millis(), 11_300 + 60_000 + 100);
    }

    #[tokio::test]
    async fn a_panic_is_caught_and_a_result_is_given() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let panics = async { panic!("a mistake, made on purpose") };
        assert_eq!(caught::<()>(panics).await, Err(Panicked));
    }
}
