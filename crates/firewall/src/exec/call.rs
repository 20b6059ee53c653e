//! One call of a program: with nothing of this process but its arguments, and with a deadline.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The variable with the ports.
const PORTS: &str = "KNOCKPIPE_PORTS";

/// Search path for a program.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is read of a program's errors, in bytes; the rest is dropped.
const MOST_SAID: usize = 4096;

/// Time for the last words of a program that has ended, which one of its own may hold back.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [String],
    pub(super) ports: &'a str,
}

/// Failure of a call.
#[derive(Debug)]
pub(super) enum CallError {
    /// It did not begin.
    Start(io::Error),
    /// It did not end in this time.
    Hung(Duration),
    /// It ended with another status than 0.
    Failed {
        status: ExitStatus,
        /// The end of its standard error.
        said: String,
    },
}

/// The processes of a call, which are killed on drop unless the first has ended by itself.
struct Group(Option<Pid>);

impl Call<'_> {
    /// Runs the program to its end.
    pub(super) async fn run(self, deadline: Duration) -> Result<(), CallError> {
        let mut child = self.command().spawn().map_err(CallError::Start)?;
        let mut group = Group::of(&child);
        let ended = timeout(deadline, end(&mut child)).await;
        let (status, said) = match ended {
            Err(_) => return Err(CallError::Hung(deadline)),
            Ok(Err(error)) => return Err(CallError::Start(error)),
            Ok(Ok(ended)) => ended,
        };
        group.0 = None;
        if status.success() { Ok(()) } else { Err(CallError::Failed { status, said }) }
    }

    fn command(self) -> Command {
        let mut command = Command::new(self.program);
        command.args(self.arguments).env_clear().env("PATH", PATH).env(PORTS, self.ports);
        command.current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// Waits for the end of a program, and reads its errors.
async fn end(child: &mut Child) -> io::Result<(ExitStatus, String)> {
    let mut stderr = child.stderr.take();
    let mut said = vec![];
    let status = {
        let reading = read(&mut stderr, &mut said);
        tokio::pin!(reading);
        tokio::select! {
            status = child.wait() => {
                let _ = timeout(LAST_WORDS, reading).await;
                status
            }
            () = &mut reading => child.wait().await,
        }
    };
    Ok((status?, String::from_utf8_lossy(&said).into_owned()))
}

/// Reads to the end, and keeps the last bytes.
async fn read(from: &mut Option<impl AsyncRead + Unpin>, said: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut part = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        said.extend_from_slice(&part[..length]);
        said.drain(..said.len().saturating_sub(MOST_SAID));
    }
}

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // A group that is gone has no process left to kill.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
