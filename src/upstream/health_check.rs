//! Finding out whether targets work, while no client waits for it.
//!
//! With `--check` a target is asked in its own words, again and again. Without,
//! only one that is down is looked at, with a longer and longer pause: a service
//! by a handshake of TCP that it never hears of, a far end by a tunnel that
//! nobody opens. What becomes of the answer is decided in `net::standing`; a
//! check never touches a live connection.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout, timeout_at};
use tracing::warn;

use super::encrypt::Entrance;
use super::serve::{Tunnel, Way};
use super::shared::Shared;
use super::targets::{Target, TargetHealth, Targets};
use super::unmade::Unmade;
use crate::addr::ClientAddr;
use crate::net::Stream;
use crate::probe::{Step, Talk, Verdict};
use crate::reason::CloseReason;
use crate::tasks::lasting;

/// After a check was refused its login, the service is only looked at for so
/// long: a refused login counts there as an aborted connection.
const UNWELCOME: Duration = Duration::from_secs(60);

/// How long a service may take to hang up after the last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// Who watches one target.
#[derive(Clone)]
struct Watch {
    shared: Arc<Shared>,
    targets: Arc<Targets>,
    place: usize,
    /// At the encrypt end, whose far end it is.
    entrance: Option<Arc<Entrance>>,
    /// Until when no login is tried.
    unwelcome_until: Option<Instant>,
}

/// How long checks that are under way may take when the tunnel is stopped.
const LAST_CHECKS: Duration = Duration::from_millis(500);

impl Tunnel {
    /// How every target is doing, by service and in the order of the configuration.
    pub(super) fn health(&self) -> Vec<TargetHealth> {
        self.targets().iter().flat_map(|targets| targets.health()).collect()
    }

    fn targets(&self) -> Vec<&Arc<Targets>> {
        match &self.way {
            Way::In(entrance) => vec![&entrance.far_ends],
            Way::Out(exit) => exit.targets.values().collect(),
        }
    }

    /// Looks once whether somebody is at each target, who hears nothing of it. Where a check
    /// or a pool finds that out, that tells it.
    pub(super) async fn look_at_start(self: Arc<Self>) {
        if let Way::In(entrance) = &self.way
            && entrance.pool.warm().1 > 0
        {
            return;
        }
        let look = async {
            for targets in self.targets().into_iter().filter(|targets| targets.check.is_none()) {
                for place in 0..targets.count() {
                    let deadline = Instant::now() + self.shared.timeout;
                    targets.warn_if_away(place, &self.shared.dialling, deadline).await;
                }
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = look => {}
        }
    }

    /// Watches every target until the tunnel is stopped.
    pub(super) async fn watch_targets(self: Arc<Self>) {
        let entrance = match &self.way {
            Way::In(entrance) => Some(Arc::clone(entrance)),
            Way::Out(_) => None,
        };
        // Dropped, it ends all of them.
        let mut watches = JoinSet::new();
        for targets in self.targets().into_iter().filter(|targets| targets.is_watched()) {
            for place in 0..targets.count() {
                let watch = Watch {
                    shared: Arc::clone(&self.shared),
                    targets: Arc::clone(targets),
                    place,
                    entrance: entrance.clone(),
                    unwelcome_until: None,
                };
                watches.spawn(lasting("the watch on a target", move || watch.clone().run()));
            }
        }
        self.shared.stop.cancelled().await;
        // A server counts a check that breaks off against this host.
        let last = async { while watches.join_next().await.is_some() {} };
        let _ = timeout(LAST_CHECKS, last).await;
    }
}

impl Watch {
    /// Checks begin at once and go by the clock; a look comes after its pause.
    async fn run(mut self) {
        let stop = self.shared.stop.clone();
        let mut last = Instant::now();
        let mut at_once = self.targets.check.is_some();
        loop {
            let due = async {
                if !std::mem::take(&mut at_once) {
                    let pause = self.targets.pause(self.place).await;
                    let from = if self.targets.check.is_some() { last } else { Instant::now() };
                    sleep_until(from + pause).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = due => {}
            }
            last = Instant::now();
            let found = self.look().await;
            self.targets.checked(self.place, found.as_ref().copied());
        }
    }

    /// Whether the target works.
    async fn look(&mut self) -> Result<(), Unmade> {
        if let Some(entrance) = &self.entrance {
            let looked = timeout_at(self.within(None), entrance.look_at(self.place, &self.shared));
            let late = || Err(Unmade::new(CloseReason::NoAnswer, "no answer in time"));
            return looked.await.unwrap_or_else(|_| late());
        }
        let Some(check) = &self.targets.check else { return self.touch(self.within(None)).await };
        let deadline = self.within(Some(check.every));
        let is_unwelcome = self.unwelcome_until.is_some_and(|until| Instant::now() < until);
        let Some(talk) = check.question.talk().filter(|_| !is_unwelcome) else {
            return self.touch(deadline).await;
        };
        match self.converse(talk, deadline).await? {
            Verdict::Ready => {
                self.unwelcome_until = None;
                Ok(())
            }
            Verdict::Unwelcome { error, remedy } => {
                self.unwelcome(&error, &remedy);
                Ok(())
            }
            Verdict::Unready(error) => Err(Unmade::new(CloseReason::TargetRefused, error)),
        }
    }

    /// When a look that begins now has taken too long: as a client would find,
    /// and before the next one.
    fn within(&self, every: Option<Duration>) -> Instant {
        let is_one_of_several = self.targets.count() > 1;
        let limit = if is_one_of_several { self.targets.head_start } else { self.shared.timeout };
        Instant::now() + every.map_or(limit, |every| limit.min(every))
    }

    async fn touch(&self, deadline: Instant) -> Result<(), Unmade> {
        let looked = self.target().touch(&self.shared.dialling, deadline).await;
        looked.map_err(|error| Unmade::target(&error))
    }

    /// Says what the check says and hears the answer, behind a PROXY header that
    /// announces nobody where the target wants one.
    async fn converse(&self, talk: Talk, deadline: Instant) -> Result<Verdict, Unmade> {
        let dialling = &self.shared.dialling;
        let dialled = self.target().dial(dialling, deadline).await;
        let mut stream = dialled.map_err(|error| Unmade::target(&error))?;
        dialling.announce(ClientAddr::Unix, &mut stream, deadline).await?;
        let (last_words, verdict) = converse(&mut stream, talk, deadline).await?;
        self.shared.tasks.spawn(take_leave(stream, last_words));
        Ok(verdict)
    }

    fn target(&self) -> &Target {
        self.targets.at(self.place)
    }

    /// Tells once that the check has to do without a login.
    fn unwelcome(&mut self, error: &str, remedy: &str) {
        if self.unwelcome_until.is_none() {
            let (tunnel, target) = (self.targets.tunnel.as_deref(), &*self.target().name);
            let detail = format!("it is up, and only its port is looked at now; {remedy}");
            warn!(tunnel, target, error, detail, "a check may not log in");
        }
        self.unwelcome_until = Some(Instant::now() + UNWELCOME);
    }
}

/// Asks a target that was dialled: the last words to say to it, and the verdict.
///
/// # Errors
/// What became of the target instead.
pub(super) async fn converse(
    stream: &mut Stream,
    mut talk: Talk,
    deadline: Instant,
) -> Result<(Vec<u8>, Verdict), Unmade> {
    match timeout_at(deadline, hear_out(stream, &mut talk)).await {
        Ok(Ok(heard)) => Ok(heard),
        Ok(Err(error)) => {
            let detail = format!("it hung up on the check: {error}");
            Err(Unmade::new(CloseReason::TargetRefused, detail))
        }
        Err(_) => {
            let detail = "it accepts, but did not answer the check in time";
            Err(Unmade::new(CloseReason::TargetTimeout, detail))
        }
    }
}

async fn hear_out(stream: &mut Stream, talk: &mut Talk) -> io::Result<(Vec<u8>, Verdict)> {
    stream.write_all(talk.begin()).await?;
    let mut buffer = [0; 1024];
    loop {
        let step = match stream.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => talk.hear(&buffer[..length]),
        };
        match step {
            Step::Listen => {}
            Step::Say(words) => stream.write_all(&words).await?,
            Step::Over(words, verdict) => return Ok((words, verdict)),
        }
    }
}

/// Ends the connection so that the service finds nothing wrong with it: after
/// its last word, and not before it has read ours.
pub(super) async fn take_leave(mut stream: Stream, last_words: Vec<u8>) {
    let leave = async {
        stream.write_all(&last_words).await?;
        stream.shutdown().await?;
        let mut buffer = [0; 256];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // The verdict stands, whatever becomes of the connection.
    let _ = timeout_at(Instant::now() + GOODBYE, leave).await;
    stream.close();
}
