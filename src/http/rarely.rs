//! Future that is polled only when it was woken itself.
//!
//! The end of a connection is waited for beside its requests, in one task: each event of a request
//! would ask every cause of an end again, which costs more than it takes to answer a small request.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;

/// A future that is polled at the beginning, and when it is woken.
#[derive(Debug)]
pub struct Rarely<F>(FuturesUnordered<F>);

impl<F: Future> Rarely<F> {
    /// Wraps a future.
    pub fn new(future: F) -> Self {
        Self([future].into_iter().collect())
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match Pin::new(&mut self.0).poll_next(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_is_woken_and_not_when_its_task_is() {
        let polls = AtomicUsize::new(0);
        let (end, mut ended) = oneshot::channel();
        let counted = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut ended).poll(cx)
        });
        let mut rarely = pin!(Rarely::new(counted));
        for _ in 0..100 {
            let polled = poll_fn(|cx| Poll::Ready(rarely.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        end.send(7).unwrap();
        assert_eq!(rarely.await, Ok(7));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
