//! `--knock` of the commands that dial a decrypt end, and the words that a knock may carry.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;

use super::errors::UsageError;
use super::times;
use crate::addr::{Address, ServiceName};
use crate::knocker::{DEFAULT_LASTING, KnockWish};
use crate::proto::knock::Label;

/// Heading of these flags.
const KNOCK: &str = "Knock";

/// Knocks of an end that dials.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct KnockWishArgs {
    /// Ask the gate of the decrypt end (its --knock) to let this host in: a datagram under the key
    /// to the port of -t, before connections and whenever the addresses of this host change
    #[arg(long, help_heading = KNOCK)]
    pub(super) knock: bool,

    /// Time that --knock asks for; sessions prolong it, and the decrypt end may allow less
    /// [default: 60s]
    #[arg(
        long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = KNOCK
    )]
    pub(super) knock_ttl: Option<Duration>,

    /// Gate that --knock asks for [default: the one of the decrypt end without a name]
    #[arg(long, value_name = "NAME", help_heading = KNOCK)]
    pub(super) knock_gate: Option<ServiceName>,

    /// Words that the decrypt end shows beside what it grants, such as the name of this host
    #[arg(long, value_name = "TEXT", help_heading = KNOCK)]
    pub(super) knock_label: Option<Label>,
}

impl KnockWishArgs {
    /// Returns the text of the knocks at these far ends, if there is to be any.
    ///
    /// # Errors
    /// [`UsageError`] of flags that make no sense together.
    pub(super) fn wish(&self, targets: &[Address]) -> Result<Option<KnockWish>, UsageError> {
        if !self.knock {
            return self.given().map_or(Ok(None), |flag| Err(UsageError::NoKnock(flag)));
        }
        if let Some(Address::Unix(path)) = targets.iter().find(|it| matches!(it, Address::Unix(_)))
        {
            return Err(UsageError::KnockAtSocket(path.clone()));
        }
        let ttl_s = Some(whole_seconds("--knock-ttl", self.knock_ttl.unwrap_or(DEFAULT_LASTING))?);
        let (gate, label) = (self.knock_gate.clone(), self.knock_label.clone());
        Ok(Some(KnockWish { ttl_s, gate, label, address: None }))
    }

    /// Returns the first flag beside `--knock` that is given, if there is any.
    fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--knock-ttl", self.knock_ttl.is_some()),
            ("--knock-gate", self.knock_gate.is_some()),
            ("--knock-label", self.knock_label.is_some()),
        ];
        flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }
}

/// Returns the seconds of the time of a grant, as a knock carries it.
///
/// # Errors
/// [`UsageError`] for zero and for a fraction.
pub(super) fn whole_seconds(flag: &'static str, time: Duration) -> Result<NonZeroU32, UsageError> {
    if time.is_zero() {
        let remedy = "give a time such as 60s, or leave it out";
        return Err(UsageError::ZeroSeconds { flag, remedy });
    }
    let seconds = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    seconds.and_then(NonZeroU32::new).ok_or(UsageError::PartOfSecond(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> KnockWishArgs {
        KnockWishArgs { knock: true, ..KnockWishArgs::default() }
    }

    fn targets(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_knock_asks_for_a_minute_unless_told_otherwise() {
        let far_ends = targets(&["db.example:6380"]);
        assert_eq!(KnockWishArgs::default().wish(&far_ends).unwrap(), None);
        let wish = args().wish(&far_ends).unwrap().unwrap();
        assert_eq!(wish.ttl_s, NonZeroU32::new(60));
        let longer = KnockWishArgs { knock_ttl: Some(Duration::from_secs(7_200)), ..args() };
        assert_eq!(longer.wish(&far_ends).unwrap().unwrap().ttl_s, NonZeroU32::new(7_200));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_remedy() {
        let far_ends = targets(&["db.example:6380"]);
        let ttl = |ms| KnockWishArgs { knock_ttl: Some(Duration::from_millis(ms)), ..args() };
        for (args, far_ends, said) in [
            (
                KnockWishArgs { knock: false, ..ttl(5_000) },
                &far_ends,
                "--knock-ttl is about knocks",
            ),
            (ttl(0), &far_ends, "0 seconds is not allowed"),
            (ttl(1_500), &far_ends, "a whole number of seconds"),
            (args(), &targets(&["db.example:6380", "/run/a.sock"]), "/run/a.sock"),
        ] {
            let error = args.wish(far_ends).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("; "), "{error}");
        }
    }
}
