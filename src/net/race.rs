//! Several attempts at the same thing, each with a head start over the next.
//!
//! Addresses of one name race here ([`super::dial`]), and the targets of a service: the next
//! attempt begins when one failed or when the newest has had its head start, the others continue,
//! and the first that succeeds ends all. Attempts end by themselves; there is no deadline here.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Result of a race.
#[derive(Debug)]
pub struct Raced<T, E> {
    /// The winner, and its result.
    pub won: Option<(usize, T)>,
    /// Attempts that failed, in the order of failing.
    pub failed: Vec<(usize, E)>,
    /// Attempts that had a full head start over the winner and had not finished.
    pub overtaken: Vec<usize>,
}

/// Unfinished attempts with their start times, in the order of their start.
type Running<F> = Vec<(usize, Instant, Pin<Box<F>>)>;

/// Attempts `order` one after the other, each `head_start` ahead of the next.
///
/// Cancel safe: dropping the future ends every attempt.
pub async fn race<T, E, F>(
    order: impl IntoIterator<Item = usize>,
    head_start: Duration,
    attempt: impl Fn(usize) -> F,
) -> Raced<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = order.into_iter().peekable();
    let (mut running, mut failed): (Running<F>, _) = (vec![], vec![]);
    loop {
        if let Some(next) = waiting.next() {
            running.push((next, Instant::now(), Box::pin(attempt(next))));
        }
        if running.is_empty() {
            return Raced { won: None, failed, overtaken: vec![] };
        }
        let (who, result) = tokio::select! {
            biased;
            ended = poll_fn(|cx| poll_any(&mut running, cx)) => ended,
            () = sleep(head_start), if waiting.peek().is_some() => continue,
        };
        let at = running.iter().position(|(other, ..)| *other == who).unwrap_or_default();
        match result {
            Ok(won) => {
                // An attempt that began because another failed may have had a shorter lead.
                let began = running[at].1;
                let behind = |since: &Instant| began.duration_since(*since) >= head_start;
                let overtaken = running.iter().filter(|(_, since, _)| behind(since));
                let overtaken = overtaken.map(|(other, ..)| *other).collect();
                return Raced { won: Some((who, won)), failed, overtaken };
            }
            Err(error) => {
                drop(running.remove(at));
                failed.push((who, error));
            }
        }
    }
}

fn poll_any<F: Future>(running: &mut Running<F>, cx: &mut Context<'_>) -> Poll<(usize, F::Output)> {
    for (who, _, attempt) in running {
        if let Poll::Ready(output) = attempt.as_mut().poll(cx) {
            return Poll::Ready((*who, output));
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_START: Duration = Duration::from_millis(100);

    /// Each runner takes so many milliseconds, and then wins or fails.
    async fn run(runners: &[(u64, bool)]) -> (Raced<(), usize>, u128) {
        let begin = Instant::now();
        let raced = race(0..runners.len(), HEAD_START, async |who| {
            let (millis, wins) = runners[who];
            sleep(Duration::from_millis(millis)).await;
            if wins { Ok(()) } else { Err(who) }
        });
        (raced.await, begin.elapsed().as_millis())
    }

    const NEVER: u64 = 3_600_000;

    #[tokio::test(start_paused = true)]
    async fn races_end_as_they_should() {
        // Runners, winner, failed, overtaken, time.
        type Case<'a> =
            (&'a [(u64, bool)], Option<usize>, &'a [usize], &'a [usize], std::ops::Range<u128>);
        let cases: [Case<'_>; 10] = [
            (&[], None, &[], &[], 0..1),
            (&[(50, true)], Some(0), &[], &[], 50..55),
            (&[(50, false)], None, &[0], &[], 50..55),
            (&[(99, true), (0, true)], Some(0), &[], &[], 99..100),
            (&[(NEVER, true), (5, true)], Some(1), &[], &[0], 105..110),
            (&[(NEVER, true), (NEVER, true), (5, true)], Some(2), &[], &[0, 1], 205..210),
            (&[(0, false), (0, false), (5, true)], Some(2), &[0, 1], &[], 5..10),
            // The first is slow, and still first.
            (&[(150, true), (NEVER, true)], Some(0), &[], &[], 150..155),
            // A failure begins the next at once, also while another goes on.
            (&[(NEVER, true), (10, false), (5, true)], Some(2), &[1], &[0], 115..120),
            // The second was half a head start ahead of the third: that says nothing.
            (&[(150, false), (NEVER, true), (5, true)], Some(2), &[0], &[], 155..160),
        ];
        for (runners, won, failed, overtaken, time) in cases {
            let (raced, took) = run(runners).await;
            assert_eq!(raced.won.map(|(who, ())| who), won, "{runners:?}");
            assert_eq!(raced.failed.iter().map(|(who, _)| *who).collect::<Vec<_>>(), failed);
            assert_eq!(raced.overtaken, overtaken, "{runners:?}");
            assert!(time.contains(&took), "{runners:?} took {took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_fail_are_waited_for() {
        let (raced, took) = run(&[(500, false), (0, false)]).await;
        assert_eq!(raced.failed, [(1, 1), (0, 0)]);
        assert!(raced.won.is_none() && took >= 500);
    }
}
