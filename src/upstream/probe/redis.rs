//! Redis: PING, and the meaning of the first line of the answer.
//!
//! An answer that refuses the command for lack of rights counts as PONG: only a working Redis gives
//! it. So a check needs no password.

use super::{Step, Verdict, words};

/// The command. Not an inline command: a server may refuse bytes that look like another protocol.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Longest line that is accepted.
const LONGEST_LINE: usize = 1024;

/// Errors that only a Redis that serves clients gives.
const ALIVE: [&[u8]; 3] = [b"-NOAUTH", b"-NOPERM", b"-WRONGPASS"];

/// A PING that was sent.
#[derive(Debug, Default)]
pub struct Ping {
    line: Vec<u8>,
}

impl Ping {
    /// Takes bytes of the service and returns the next step.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Step {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend(&bytes[..bytes.len().min(room)]);
        match self.line.iter().position(|byte| *byte == b'\n') {
            Some(end) => Step::Done(vec![], verdict(self.line[..end].trim_ascii_end())),
            None if self.line.len() < LONGEST_LINE => Step::Read,
            None => Step::Done(vec![], unhealthy(&self.line)),
        }
    }
}

/// Interprets a line of the answer.
fn verdict(line: &[u8]) -> Verdict {
    let first = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    if line == b"+PONG" || ALIVE.contains(&first) { Verdict::Healthy } else { unhealthy(line) }
}

fn unhealthy(line: &[u8]) -> Verdict {
    Verdict::Unhealthy(match line.strip_prefix(b"-") {
        Some(error) => format!("Redis says \"{}\"", words(error)),
        None => format!("it does not answer as Redis does: \"{}\"", words(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the step after all of `bytes` came in pieces of `size`.
    fn on_bytes(bytes: &[u8], size: usize) -> Step {
        let mut ping = Ping::default();
        let steps = bytes.chunks(size).map(|piece| ping.on_bytes(piece));
        steps.into_iter().find(|step| *step != Step::Read).unwrap_or(Step::Read)
    }

    #[test]
    fn an_answer_means_the_same_in_pieces_of_any_size() {
        let ready = [
            "+PONG\r\n",
            "-NOAUTH Authentication required.\r\n",
            "-NOPERM this user has no permissions to run the 'ping' command\r\n",
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ];
        let unhealthy = [
            "-LOADING Redis is loading the dataset in memory\r\n",
            "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
            "-ERR max number of clients reached\r\n",
            "-DENIED Redis is running in protected mode\r\n",
            "-BUSY Redis is busy running a script.\r\n",
            "-NOAUTHORITY\r\n",
            "+OK\r\n",
            "+PONGO\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
        ];
        for size in [1, 2, 7, 4096] {
            for text in ready {
                assert_eq!(on_bytes(text.as_bytes(), size), Step::Done(vec![], Verdict::Healthy));
            }
            for text in unhealthy {
                let step = on_bytes(text.as_bytes(), size);
                assert!(matches!(step, Step::Done(_, Verdict::Unhealthy(_))), "{text}: {step:?}");
            }
        }
        let Step::Done(_, Verdict::Unhealthy(said)) = on_bytes(unhealthy[0].as_bytes(), 3) else {
            panic!("it is not ready")
        };
        assert_eq!(said, "Redis says \"LOADING Redis is loading the dataset in memory\"");
    }

    #[test]
    fn a_part_of_an_answer_is_waited_for_and_an_endless_one_is_not() {
        for part in ["", "+", "+PONG", "+PONG\r"] {
            assert_eq!(on_bytes(part.as_bytes(), 1), Step::Read, "{part:?}");
        }
        for size in [1, 1000, 100_000] {
            let step = on_bytes(&[b'x'; 100_000], size);
            assert!(matches!(step, Step::Done(_, Verdict::Unhealthy(_))), "{step:?}");
        }
    }
}
