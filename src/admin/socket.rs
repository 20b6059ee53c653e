//! The admin socket: a client of this process's user, or of root, sends one line and gets one.
//!
//! A silent or slow client occupies only one of a few slots: it has a deadline, and where there are
//! too many the oldest is dropped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::answers::{Response, answer};
use super::protocol::{MAX_REQUEST, Reply, RequestError};
use super::registry::Registry;
use super::{Command, Done, ReplySender};
use crate::net::Stream;
use crate::sys::peer::is_trusted;

/// Clients at once.
pub(super) const CLIENTS: usize = 16;

/// Longest time for reading a request, and separately for writing its reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time of a command.
const COMMAND: Duration = Duration::from_secs(120);

const BUSY: &str = "the process does not answer requests now; try again";

const STILL: &str =
    "this takes long and is still being done; 'knockpipe status' and the log tell what comes of it";

/// Answers the clients of the admin socket.
pub(super) struct SocketHandler {
    registry: Arc<Registry>,
    commands: mpsc::Sender<Command>,
    /// Answers that the process waits for before it ends.
    answering: TaskTracker,
}

impl SocketHandler {
    pub(super) fn new(
        registry: Arc<Registry>,
        commands: mpsc::Sender<Command>,
        answering: TaskTracker,
    ) -> Self {
        Self { registry, commands, answering }
    }

    /// Answers one client.
    pub(super) async fn serve(self: Arc<Self>, mut stream: Stream) {
        if !may_ask(&stream) {
            let refusal = "only root and the user of this process may ask; use sudo".to_owned();
            return reply(&mut stream, &Reply::Error(refusal)).await;
        }
        let line = match timeout(PATIENCE, request(&mut stream)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return refuse_rest(&mut stream).await,
            Ok(Err(_)) | Err(_) => return,
        };
        let answered = async {
            let said = self.answer(&line).await;
            reply(&mut stream, &said).await;
        };
        self.answering.track_future(answered).await;
    }

    async fn answer(&self, line: &[u8]) -> Reply {
        let request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                return Reply::Error(RequestError::from(error).to_string());
            }
        };
        match answer(&self.registry, &request) {
            Ok(Response::Now(reply)) => reply,
            Ok(Response::Commanded(command)) => self.carry_out(command).await,
            Err(error) => Reply::Error(error.to_string()),
        }
    }

    /// Sends a command to the supervisor, and waits for its outcome.
    async fn carry_out(&self, command: impl FnOnce(ReplySender) -> Command) -> Reply {
        let (done, outcome) = oneshot::channel();
        if self.commands.try_send(command(done)).is_err() {
            return Reply::Error(BUSY.to_owned());
        }
        match timeout(COMMAND, outcome).await {
            Ok(Ok(Ok(Done::Reloaded(changes)))) => Reply::Reloaded(changes),
            Ok(Ok(Ok(Done::Said(done)))) => Reply::Done(done.to_owned()),
            Ok(Ok(Err(why))) => Reply::Error(why),
            Ok(Err(_)) => Reply::Error(BUSY.to_owned()),
            Err(_) => Reply::Error(STILL.to_owned()),
        }
    }
}

/// Returns true if the other end may send requests. The mode of the file has the same effect; this
/// check works even if the mode was changed.
fn may_ask(stream: &Stream) -> bool {
    matches!(stream, Stream::Unix(socket) if is_trusted(socket, None))
}

/// Reads the first line; `None` where it is too long.
async fn request(stream: &mut Stream) -> io::Result<Option<Vec<u8>>> {
    let mut line = vec![];
    let limited = stream.take(MAX_REQUEST as u64);
    BufReader::with_capacity(512, limited).read_until(b'\n', &mut line).await?;
    Ok((line.len() < MAX_REQUEST || line.ends_with(b"\n")).then_some(line))
}

/// Answers that a request is too long, and reads the rest of it for a moment: a close with unread
/// bytes would send a reset after the answer.
async fn refuse_rest(stream: &mut Stream) {
    reply(stream, &Reply::Error(RequestError::TooLong.to_string())).await;
    // A client that sends for longer has got its answer.
    let _ = timeout(PATIENCE, tokio::io::copy(stream, &mut tokio::io::sink())).await;
}

async fn reply(stream: &mut Stream, reply: &Reply) {
    let mut line = serde_json::to_vec(reply).expect("a reply is plain data");
    line.push(b'\n');
    let written = async {
        stream.write_all(&line).await?;
        stream.shutdown().await
    };
    // A client that does not read the answer does not get it.
    let _ = timeout(PATIENCE, written).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_that_takes_long_is_not_called_undone() {
        let (commands, mut taken) = mpsc::channel(1);
        let handler = SocketHandler::new(Registry::new(1), commands, TaskTracker::new());
        let asked = async { handler.carry_out(Command::Reload).await };
        let (answer, command) = tokio::join!(asked, taken.recv());
        let Reply::Error(answer) = answer else { panic!("{answer:?}") };
        assert!(answer.contains("still being done;") && !answer.contains("again"), "{answer}");
        drop(command);
        drop(taken);
        let answer = handler.carry_out(Command::Reload).await;
        assert_eq!(answer, Reply::Error(BUSY.to_owned()), "it is not taken");
    }
}
