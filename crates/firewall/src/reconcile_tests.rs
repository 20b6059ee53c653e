//! Steps between random sets of entries.

use std::sync::Arc;

use knockpipe_base::unix_time::UnixMillis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const CASES: u64 = 2_000;

fn random_entries(random: &mut StdRng) -> Entries {
    let one = |random: &mut StdRng| {
        let network =
            format!("10.0.{}.0/{}", random.random_range(0..4), random.random_range(22..27));
        let network: IpNet = network.parse().unwrap();
        let end = match random.random_range(0..4) {
            0 => Expiry::Never,
            seconds => Expiry::At(UnixMillis::from_secs(seconds)),
        };
        let label = random.random_bool(0.3).then(|| Arc::from("office"));
        Entry { network: network.trunc(), lasting: Lasting { end, label } }
    };
    (0..random.random_range(0..12)).map(|_| one(random)).collect()
}

fn random_keeps(random: &mut StdRng) -> Keeps {
    let ends = random.random_bool(0.7).then(|| Duration::from_millis(random.random_range(0..1500)));
    Keeps { ends, labels: random.random_bool(0.5) }
}

#[test]
fn steps_lead_from_anything_to_what_is_wanted_and_then_there_are_none() {
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let (wanted, mut present) = (random_entries(&mut random), random_entries(&mut random));
        let keeps = random_keeps(&mut random);
        let steps = reconcile(&wanted, &present, keeps);
        present.take(&steps);
        assert!(present.iter().map(|(network, _)| network).eq(wanted.iter().map(|(n, _)| n)));
        assert_eq!(reconcile(&wanted, &present, keeps), [], "case {seed}");
        let exact = Keeps { ends: Some(Duration::ZERO), labels: true };
        present.take(&reconcile(&wanted, &present, exact));
        assert_eq!(present, wanted, "case {seed}");
    }
}

#[test]
fn no_step_is_superfluous_and_none_closes_before_all_that_open() {
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let (wanted, present) = (random_entries(&mut random), random_entries(&mut random));
        let steps = reconcile(&wanted, &present, random_keeps(&mut random));
        let first_removal = steps.iter().position(|step| matches!(step, Step::Remove(_)));
        for (place, step) in steps.iter().enumerate() {
            let network = step.network();
            let (wish, there) = (wanted.get(network), present.get(network));
            match step {
                Step::Add(entry) => assert!(there.is_none() && wish == Some(&entry.lasting)),
                Step::Change(entry) => assert!(there != wish && wish == Some(&entry.lasting)),
                Step::Remove(_) => assert!(there.is_some() && wish.is_none()),
            }
            let is_removal = matches!(step, Step::Remove(_));
            assert_eq!(is_removal, first_removal.is_some_and(|first| place >= first));
        }
    }
}

#[test]
fn an_end_that_is_a_little_late_is_left_alone_and_an_early_one_is_not() {
    let at = |ms| Expiry::At(UnixMillis(ms));
    let late = Duration::from_secs(1);
    for (wanted, present, is_same) in [
        (at(5_000), at(5_000), true),
        (at(5_000), at(6_000), true),
        (at(5_000), at(6_001), false),
        (at(5_000), at(4_999), false),
        (at(5_000), Expiry::Never, false),
        (Expiry::Never, at(5_000), false),
        (Expiry::Never, Expiry::Never, true),
    ] {
        assert_eq!(ends_in_time(wanted, present, late), is_same, "{wanted:?} {present:?}");
    }
}
