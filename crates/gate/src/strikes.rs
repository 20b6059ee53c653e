//! The rule by which failed handshakes become a ban, as Rack::Attack's allow2ban has it.
//!
//! Windows are fixed and aligned to the epoch, so that up to twice the limit, less one, can
//! fall on both sides of a boundary without a ban. The
//! stores do the counting; this module only reads the operator's rule.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use knockpipe_base::duration::{self, DurationError};

/// `--ban-after N/FINDTIME/BANTIME`: the strikes that become a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanAfter {
    maxretry: u32,
    findtime: Duration,
    bantime: Duration,
}

/// The reason why a text is no [`BanAfter`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanAfterError {
    /// Not three parts.
    #[error("\"{0}\" is not N/FINDTIME/BANTIME; write one such as 10/60s/1h")]
    Shape(String),
    /// The first part is no count.
    #[error("\"{0}\" is not a number of strikes; write a whole number from 1 to 1000000")]
    Strikes(String),
    /// The second or third part is not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
}

// === impl BanAfter ===

impl BanAfter {
    /// The largest possible number of strikes.
    const MOST: u32 = 1_000_000;

    /// Strikes within one window that make a ban.
    pub fn maxretry(&self) -> u32 {
        self.maxretry
    }

    /// The length of a window, at least a second.
    pub fn findtime(&self) -> Duration {
        self.findtime
    }

    /// The duration of a ban.
    pub fn bantime(&self) -> Duration {
        self.bantime
    }
}

impl FromStr for BanAfter {
    type Err = BanAfterError;

    fn from_str(text: &str) -> Result<Self, BanAfterError> {
        let mut parts = text.split('/');
        let (Some(strikes), Some(findtime), Some(bantime), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BanAfterError::Shape(text.to_owned()));
        };
        // `u32` would also read a plus sign.
        let digits = strikes.bytes().all(|byte| byte.is_ascii_digit());
        let maxretry = digits.then(|| strikes.parse().ok()).flatten();
        Ok(Self {
            maxretry: maxretry
                .filter(|count| (1..=Self::MOST).contains(count))
                .ok_or_else(|| BanAfterError::Strikes(strikes.to_owned()))?,
            findtime: duration::parse(findtime)?,
            bantime: duration::parse(bantime)?,
        })
    }
}

impl fmt::Display for BanAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (findtime, bantime) = (duration::format(self.findtime), duration::format(self.bantime));
        write!(f, "{}/{findtime}/{bantime}", self.maxretry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ban_after_is_three_parts() {
        let rule: BanAfter = "10/60s/1h".parse().unwrap();
        assert_eq!((rule.maxretry(), rule.findtime().as_secs()), (10, 60));
        assert_eq!(rule.bantime().as_secs(), 3600);
        assert_eq!(rule.to_string(), "10/1m/1h");
        assert_eq!("1/1s/1s".parse::<BanAfter>().unwrap().to_string(), "1/1s/1s");
        let bad = [
            "",
            "10",
            "10/60",
            "10/60s/1h/",
            "/60s/1h",
            "0/60s/1h",
            "-1/60s/1h",
            "+1/60s/1h",
            "1000001/60s/1h",
            "10/0/1h",
            "10/60s/0",
            "10/60/1h",
            "10/60s/1",
            "10/x/1h",
            "10/60s/1y",
            "10//1h",
        ];
        for text in bad {
            let error = text.parse::<BanAfter>().unwrap_err().to_string();
            assert!(error.contains("; write") && !error.contains('\n'), "{text}: {error}");
        }
    }
}
