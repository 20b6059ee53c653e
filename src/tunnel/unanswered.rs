//! Behaviour of a far end that does not answer the handshake, as far as it can be observed: for one
//! log line with cause and remedy.
//!
//! A decrypt end never says why it does not answer. So the line has the observation (an end, a
//! reset, silence, the bytes of another program) and the causes that fit it. Bytes of the other
//! side are never repeated.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::foreign_protocol::ForeignProtocol;
use crate::reason::CloseReason;
use crate::upstream::ConnectFailure;

/// Delay from which on an end of the connection is deliberate: the far end has held it before.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Observation in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Nothing until the deadline.
    Silence,
    /// A clean end without a byte, this long after the first message.
    Ended(Duration),
    /// A reset without a byte, this long after the first message.
    Reset(Duration),
    /// Bytes of another program.
    Spoke(ForeignProtocol),
    /// Bytes that are neither an answer nor a known protocol.
    Babbled,
}

/// Causes for which a far end stays silent.
const KEPT_SILENT: &str = "check that it is a knockpipe decrypt, that it has this key, that both clocks agree within \
     two minutes, that its gate lets this address in (knockpipe gate why ADDRESS there), and that \
     neither its limits nor --suite keep this end out";

impl Unanswered {
    /// Classifies the bytes that were `heard` and the kind and time of the end, if there was one.
    pub(super) fn of(heard: &[u8], end: Option<&io::Error>, after: Duration) -> Self {
        match (heard, end) {
            ([_, ..], _) => ForeignProtocol::of_server(heard).map_or(Self::Babbled, Self::Spoke),
            ([], None) => Self::Silence,
            ([], Some(end)) if end.kind() == ErrorKind::UnexpectedEof => Self::Ended(after),
            ([], Some(_)) => Self::Reset(after),
        }
    }

    /// Returns true when the other says more about the far end than this.
    pub(super) fn tells_less_than(self, other: Self) -> bool {
        self == Self::Silence && other != Self::Silence
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => {
                write!(f, "the far end can be reached but does not answer; {KEPT_SILENT}")
            }
            Self::Ended(after) if *after < AT_ONCE => f.write_str(
                "the far end closed the connection at once, without a byte; check that its gate lets \
                 this address in (knockpipe gate why ADDRESS there), or, if it is not a knockpipe \
                 decrypt, point -t at one",
            ),
            Self::Reset(after) if *after < AT_ONCE => f.write_str(
                "the far end reset the connection at once, without a byte; look in its log for \
                 source-limit, evicted or gate-denied, or, if it is not a knockpipe decrypt, point \
                 -t at one",
            ),
            Self::Ended(after) | Self::Reset(after) => {
                let seconds = after.as_secs_f64();
                write!(
                    f,
                    "the far end hung up after {seconds:.1} s without an answer, as it does with \
                     strangers; {KEPT_SILENT}"
                )
            }
            Self::Spoke(speech) => write!(
                f,
                "something else than a knockpipe decrypt answers there: it looks like {speech}; \
                 point -t at the decrypt end's port"
            ),
            Self::Babbled => f.write_str(
                "something else than a knockpipe decrypt answers there, or something on the path \
                 changes what it says; point -t at the decrypt end's port",
            ),
        }
    }
}

impl From<Unanswered> for ConnectFailure {
    fn from(unanswered: Unanswered) -> Self {
        Self::new(CloseReason::NoAnswer, unanswered.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is one line of cause and remedy, and all differ.
    #[test]
    fn each_has_a_remedy_of_its_own() {
        let soon = Duration::from_millis(3);
        let late = Duration::from_secs(3);
        let all = [
            Unanswered::Silence,
            Unanswered::Ended(soon),
            Unanswered::Reset(soon),
            Unanswered::Reset(late),
            Unanswered::Spoke(ForeignProtocol::Mysql),
            Unanswered::Babbled,
        ];
        let mut told: Vec<String> = all.iter().map(ToString::to_string).collect();
        for text in &told {
            assert!(text.contains("; ") && !text.contains('\n') && !text.contains("  "), "{text}");
        }
        told.sort();
        told.dedup();
        assert_eq!(told.len(), all.len());
    }

    #[test]
    fn received_bytes_say_more_than_the_end() {
        let eof = io::Error::from(ErrorKind::UnexpectedEof);
        let reset = io::Error::from(ErrorKind::ConnectionReset);
        let after = Duration::from_millis(7);
        let of = |heard: &[u8], end| Unanswered::of(heard, end, after);
        assert_eq!(of(b"", None), Unanswered::Silence);
        assert_eq!(of(b"", Some(&eof)), Unanswered::Ended(after));
        assert_eq!(of(b"", Some(&reset)), Unanswered::Reset(after));
        assert_eq!(of(b"-ERR no\r\n", Some(&reset)), Unanswered::Spoke(ForeignProtocol::Redis));
        assert_eq!(of(b"SSH-2.0-x\r\n", None), Unanswered::Spoke(ForeignProtocol::Ssh));
        assert_eq!(of(&[0x80; 256], None), Unanswered::Babbled);
    }
}
