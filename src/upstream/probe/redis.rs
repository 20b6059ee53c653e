//! Redis: PING, and what its first line of answer means.
//!
//! An answer that refuses the command for lack of rights is as good as PONG: it
//! takes a Redis that works to say so. So a check needs no password.

use super::{Step, Verdict, words};

/// The command. Not inline: a server may refuse what looks like another protocol.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The longest line that is waited for.
const LONGEST_LINE: usize = 1024;

/// Errors that only a Redis that serves clients gives.
const ALIVE: [&[u8]; 3] = [b"-NOAUTH", b"-NOPERM", b"-WRONGPASS"];

/// A PING that was said.
#[derive(Debug, Default)]
pub struct Ping {
    line: Vec<u8>,
}

impl Ping {
    /// What follows from these bytes.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Step {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend(&bytes[..bytes.len().min(room)]);
        match self.line.iter().position(|byte| *byte == b'\n') {
            Some(end) => Step::Over(vec![], verdict(self.line[..end].trim_ascii_end())),
            None if self.line.len() < LONGEST_LINE => Step::Listen,
            None => Step::Over(vec![], unready(&self.line)),
        }
    }
}

/// What a line of answer means.
fn verdict(line: &[u8]) -> Verdict {
    let first = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    if line == b"+PONG" || ALIVE.contains(&first) { Verdict::Ready } else { unready(line) }
}

fn unready(line: &[u8]) -> Verdict {
    Verdict::Unready(match line.strip_prefix(b"-") {
        Some(error) => format!("Redis says \"{}\"", words(error)),
        None => format!("it does not answer as Redis does: \"{}\"", words(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step after all of `bytes` came in pieces of `size`.
    fn hear(bytes: &[u8], size: usize) -> Step {
        let mut ping = Ping::default();
        let steps = bytes.chunks(size).map(|piece| ping.hear(piece));
        steps.into_iter().find(|step| *step != Step::Listen).unwrap_or(Step::Listen)
    }

    #[test]
    fn an_answer_means_the_same_in_pieces_of_any_size() {
        let ready = [
            "+PONG\r\n",
            "-NOAUTH Authentication required.\r\n",
            "-NOPERM this user has no permissions to run the 'ping' command\r\n",
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ];
        let unready = [
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
                assert_eq!(hear(text.as_bytes(), size), Step::Over(vec![], Verdict::Ready));
            }
            for text in unready {
                let step = hear(text.as_bytes(), size);
                assert!(matches!(step, Step::Over(_, Verdict::Unready(_))), "{text}: {step:?}");
            }
        }
        let Step::Over(_, Verdict::Unready(said)) = hear(unready[0].as_bytes(), 3) else {
            panic!("it is not ready")
        };
        assert_eq!(said, "Redis says \"LOADING Redis is loading the dataset in memory\"");
    }

    #[test]
    fn a_part_of_an_answer_is_waited_for_and_an_endless_one_is_not() {
        for part in ["", "+", "+PONG", "+PONG\r"] {
            assert_eq!(hear(part.as_bytes(), 1), Step::Listen, "{part:?}");
        }
        for size in [1, 1000, 100_000] {
            let step = hear(&[b'x'; 100_000], size);
            assert!(matches!(step, Step::Over(_, Verdict::Unready(_))), "{step:?}");
        }
    }
}
