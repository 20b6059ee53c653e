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
use super::serve::{Shared, Tunnel, Way};
use super::targets::{TargetHealth, Targets};
use crate::addr::ClientAddr;
use crate::net::{Stream, touch};
use crate::probe::{Question, Step, Talk, Verdict};

/// After a check was refused its login, the service is only looked at for so
/// long: a refused login counts there as an aborted connection.
const UNWELCOME: Duration = Duration::from_secs(60);

/// How long a service may take to hang up after the last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// Who watches one target.
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
                watches.spawn(watch.run());
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
            self.targets
                .checked(self.place, found.as_ref().map_or_else(|e| Err(&**e), |()| Ok(())));
        }
    }

    /// Whether the target works; the text says why not.
    async fn look(&mut self) -> Result<(), String> {
        if let Some(entrance) = &self.entrance {
            let looked = timeout_at(self.within(None), entrance.look_at(self.place, &self.shared));
            return match looked.await {
                Ok(found) => found.map_err(|(_, detail)| detail),
                Err(_) => Err("no answer in time".to_owned()),
            };
        }
        let Some(check) = &self.targets.check else { return self.touch(self.within(None)).await };
        let deadline = self.within(Some(check.every));
        let is_unwelcome = self.unwelcome_until.is_some_and(|until| Instant::now() < until);
        match check.question.talk().filter(|_| !is_unwelcome) {
            None => self.touch(deadline).await,
            Some(talk) => match timeout_at(deadline, self.converse(talk, deadline)).await {
                Ok(Ok(Verdict::Ready)) => {
                    self.unwelcome_until = None;
                    Ok(())
                }
                Ok(Ok(Verdict::Unwelcome(error))) => {
                    self.unwelcome(&error);
                    Ok(())
                }
                Ok(Ok(Verdict::Unready(error)) | Err(error)) => Err(error),
                Err(_) => Err("it accepts, but did not answer the check in time".to_owned()),
            },
        }
    }

    /// When a look that begins now has taken too long: as a client would find,
    /// and before the next one.
    fn within(&self, every: Option<Duration>) -> Instant {
        let is_one_of_several = self.targets.count() > 1;
        let limit = if is_one_of_several { self.targets.head_start } else { self.shared.timeout };
        Instant::now() + every.map_or(limit, |every| limit.min(every))
    }

    async fn touch(&self, deadline: Instant) -> Result<(), String> {
        let looked = async {
            let target = self.targets.at(self.place).resolver.current()?;
            touch(&target, self.shared.bind, deadline).await
        };
        looked.await.map_err(|error| error.to_string())
    }

    /// Says what the check says and hears the answer, behind a PROXY header that
    /// announces nobody where the target wants one.
    async fn converse(&self, mut talk: Talk, deadline: Instant) -> Result<Verdict, String> {
        let target = self.targets.at(self.place);
        let dialled = target.dial(&self.shared, ClientAddr::Unix, deadline).await;
        let mut stream = dialled.map_err(|(_, detail)| detail)?;
        let heard = hear_out(&mut stream, &mut talk).await;
        let (last_words, verdict) =
            heard.map_err(|error| format!("it hung up on the check: {error}"))?;
        tokio::spawn(take_leave(stream, last_words));
        Ok(verdict)
    }

    /// Tells once that the check has to do without a login.
    fn unwelcome(&mut self, error: &str) {
        if self.unwelcome_until.is_none() {
            let tunnel = self.targets.tunnel.as_deref();
            let target = &*self.targets.at(self.place).name;
            let detail = match &self.targets.check.as_ref().map(|check| &check.question) {
                Some(Question::Mysql { user }) => format!(
                    "it is up, and only its port is looked at now; CREATE USER '{user}'@'HOST OF THIS END', without password and rights"
                ),
                _ => String::new(),
            };
            warn!(tunnel, target, error, detail, "a check may not log in");
        }
        self.unwelcome_until = Some(Instant::now() + UNWELCOME);
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
async fn take_leave(mut stream: Stream, last_words: Vec<u8>) {
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
