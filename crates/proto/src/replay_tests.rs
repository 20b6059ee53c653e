use super::*;

const START: u64 = 1_800_000_000_000;

/// Time since boot at [`START`].
const UP: i64 = 1_000_000;

fn filter() -> ReplayFilter {
    ReplayFilter::new(UP)
}

/// Returns the moment of `unix_ms` on a host with a clock that was never set.
fn at(unix_ms: u64) -> Moment {
    Moment { unix_ms, boot_ms: UP + (unix_ms as i64 - START as i64) }
}

fn message(fingerprint: u64) -> Answered {
    Answered::handshake(KeyId::from_bytes([1; 4]), fingerprint)
}

fn check(filter: &mut ReplayFilter, number: u64, sent_ms: u64, now: Moment) -> Result<(), Stale> {
    filter.check_time(sent_ms, now)?;
    if filter.remember(message(number), now.boot_ms) { Ok(()) } else { Err(Stale::Seen) }
}

#[test]
fn a_message_is_answered_once() {
    let mut filter = filter();
    assert_eq!(check(&mut filter, 1, START + 5, at(START + 10)), Ok(()));
    assert_eq!(check(&mut filter, 2, START + 5, at(START + 10)), Ok(()));
    assert_eq!(check(&mut filter, 1, START + 5, at(START + 11)), Err(Stale::Seen));
    assert!(filter.has_seen(message(1)) && !filter.has_seen(message(3)));
}

#[test]
fn a_message_is_remembered_until_it_is_too_old() {
    let mut filter = filter();
    let sent = START + WINDOW_MS;
    assert_eq!(check(&mut filter, 1, sent, at(START)), Ok(()), "from a clock that is ahead");
    for now in (START..=sent + WINDOW_MS).step_by(1_000) {
        assert_eq!(check(&mut filter, 1, sent, at(now)), Err(Stale::Seen));
        assert_eq!(check(&mut filter, now, now, at(now)), Ok(()));
    }
    let late = sent + WINDOW_MS + 1;
    assert_eq!(check(&mut filter, 1, sent, at(late)), Err(Stale::Old(WINDOW_MS + 1)));
}

#[test]
fn after_a_restart_older_messages_get_no_answer() {
    let mut filter = filter();
    assert_eq!(check(&mut filter, 1, START - 1, at(START + 5)), Err(Stale::BeforeStart));
    assert_eq!(check(&mut filter, 1, START, at(START + 5)), Ok(()));
}

#[test]
fn wrong_clocks_are_told_with_their_distance() {
    let filter = filter();
    let ahead = START + WINDOW_MS + 1;
    assert_eq!(filter.check_time(ahead, at(START)), Err(Stale::New(WINDOW_MS + 1)));
    assert_eq!(filter.check_time(START, at(ahead)), Err(Stale::Old(WINDOW_MS + 1)));
    assert_eq!(filter.check_time(u64::MAX, at(START)), Err(Stale::New(u64::MAX - START)));
    let late = Moment { unix_ms: u64::MAX, boot_ms: i64::MAX };
    assert_eq!(filter.check_time(0, late), Err(Stale::Old(u64::MAX)));
}

/// "Setting a wrong clock right helps at once", and lets no recording in.
#[test]
fn the_start_moves_with_the_clock() {
    const HOURS: u64 = 2 * 3_600_000;
    let mut filter = filter();
    // It was ahead at the start, and is corrected ten seconds later.
    let now = Moment { unix_ms: START - HOURS, boot_ms: UP + 10_000 };
    assert_eq!(check(&mut filter, 1, START - HOURS - 5_000, now), Ok(()));
    // The start is ten seconds ago: older messages are from before it.
    assert_eq!(check(&mut filter, 2, START - HOURS - 10_001, now), Err(Stale::BeforeStart));
    // It was a minute behind at the start.
    let now = Moment { unix_ms: START + 70_000, boot_ms: UP + 10_000 };
    assert_eq!(check(&mut filter, 3, START + 59_000, now), Err(Stale::BeforeStart));
    assert_eq!(check(&mut filter, 3, START + 60_000, now), Ok(()));
}

#[test]
fn memory_is_bounded() {
    let mut filter = filter();
    for number in 0..3 * MAX_GENERATION as u64 {
        assert_eq!(check(&mut filter, number, START, at(START)), Ok(()));
    }
    let seen = &filter.seen[&message(0).memory];
    assert!(seen.young.len() <= MAX_GENERATION && seen.old.len() <= MAX_GENERATION);
}

#[test]
fn holders_of_one_key_cannot_make_it_forget_another() {
    let mut filter = filter();
    let other = Answered::handshake(KeyId::from_bytes([2; 4]), 5);
    assert!(filter.remember(other, UP));
    for number in 0..3 * MAX_GENERATION as u64 {
        filter.remember(message(number), UP);
    }
    assert!(filter.has_seen(other));
}

#[test]
fn a_key_without_messages_takes_no_room() {
    let mut filter = filter();
    assert!(filter.remember(message(1), UP));
    let other = Answered::handshake(KeyId::from_bytes([2; 4]), 1);
    assert!(filter.remember(other, UP + 2 * MEMORY_MS));
    assert_eq!(filter.seen.len(), 1);
}

#[test]
fn knocks_and_first_messages_are_remembered_apart() {
    let mut filter = filter();
    let knock = |fingerprint| Answered::knock(KeyId::from_bytes([1; 4]), fingerprint);
    assert!(filter.remember(message(5), UP) && filter.remember(knock(5), UP));
    assert!(!filter.remember(message(5), UP) && !filter.remember(knock(5), UP));
    for number in 100..100 + 3 * MAX_GENERATION as u64 {
        filter.remember(knock(number), UP);
    }
    assert!(filter.has_seen(message(5)), "a flood of knocks makes no first message forgotten");
    assert!(!filter.has_seen(knock(5)), "a memory is bounded");
    let bytes = knock(1).memory.to_bytes();
    assert_eq!(MemoryName::from_bytes(bytes), knock(1).memory);
    assert_ne!(knock(1).memory, message(1).memory);
}
