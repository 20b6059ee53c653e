//! Questions to a store, without a store.

use super::*;

fn v4(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from(0x0b00_0000 + number).into()
}

fn v6(host: u64) -> IpAddr {
    std::net::Ipv6Addr::from((0x2001 << 112) | u128::from(host)).into()
}

fn asked(step: Step) -> Vec<IpAddr> {
    match step {
        Step::Do(Task::Ask(ips)) => ips,
        step => panic!("asks nothing: {step:?}"),
    }
}

fn step(inquiry: &Inquiry, now: Instant) -> Step {
    inquiry.lock().step(now)
}

#[test]
fn peers_of_one_address_share_a_question_and_are_few() {
    let (inquiry, now) = (Arc::new(Inquiry::default()), Instant::now());
    let waiting: Vec<_> = (0..100).filter_map(|_| inquiry.wait(v4(1))).collect();
    assert_eq!(waiting.len(), MOST_OF_SOURCE);
    assert!(!inquiry.has_room(v4(1)) && inquiry.has_room(v4(2)));
    assert_eq!(asked(step(&inquiry, now)), [v4(1)]);
    drop(waiting);
    // Another peer of that address waits for the question that is on its way.
    let again = inquiry.wait(v4(1)).unwrap();
    inquiry.answered(&[v4(1)]);
    assert!(inquiry.is_answered(v4(1)) && inquiry.wait(v4(1)).is_none());
    assert!(matches!(step(&inquiry, now + EVERY), Step::Wait));
    drop(again);
    inquiry.set_changed();
    assert!(inquiry.wait(v4(1)).is_some(), "what was answered is not certain any more");
    let state = inquiry.lock();
    assert!(state.waiting.is_empty() && state.waiting_in_total == 0);
}

#[test]
fn a_64_has_a_few_questions_at_once() {
    let inquiry = Arc::new(Inquiry::default());
    let waiting: Vec<_> = (0..1_000).filter_map(|host| inquiry.wait(v6(host))).collect();
    assert_eq!(waiting.len(), ADDRESSES_OF_SOURCE);
    assert_eq!(asked(step(&inquiry, Instant::now())).len(), ADDRESSES_OF_SOURCE);
}

#[test]
fn the_questions_of_a_flood_are_limited_per_second() {
    let (inquiry, start) = (Arc::new(Inquiry::default()), Instant::now());
    let mut number = 0;
    let (mut questions, mut addresses) = (0, 0);
    for ms in 0..1_000 {
        let now = start + Duration::from_millis(ms);
        let waiting: Vec<_> = (0..1_000)
            .filter_map(|_| {
                number += 1;
                inquiry.wait(v4(number))
            })
            .collect();
        assert!(waiting.len() <= MOST_WAITING);
        while let Step::Do(Task::Ask(ips)) = step(&inquiry, now) {
            questions += 1;
            addresses += ips.len();
            inquiry.answered(&ips);
        }
    }
    assert_eq!((questions, addresses), (20, 20 * PEERS));
}

/// A peer that has a place is answered in the time that a grant may take.
#[test]
fn every_waiting_peer_is_asked_about_within_the_time_of_a_grant() {
    let (inquiry, start) = (Arc::new(Inquiry::default()), Instant::now());
    let waiting: Vec<_> = (0..100_000).filter_map(|number| inquiry.wait(v4(number))).collect();
    assert_eq!(waiting.len(), MOST_ADDRESSES);
    let mut now = start;
    let mut all = vec![];
    while all.len() < MOST_ADDRESSES {
        match step(&inquiry, now) {
            Step::Do(Task::Ask(ips)) => {
                inquiry.answered(&ips);
                all.extend(ips);
            }
            Step::WaitUntil(at) => now = at,
            step => panic!("{step:?}"),
        }
    }
    assert!(now - start < Duration::from_millis(200), "{:?}", now - start);
}

#[test]
fn peers_come_before_the_others_and_one_question_before_the_next() {
    let (inquiry, start) = (Arc::new(Inquiry::default()), Instant::now());
    inquiry.set_changed();
    assert!(matches!(step(&inquiry, start), Step::Do(Task::NameOthers)));
    inquiry.others_are((0..OTHERS as u32 + 100).map(v4).collect());
    assert_eq!(asked(step(&inquiry, start)).len(), OTHERS);
    let _waiting = inquiry.wait(v6(1)).unwrap();
    // The store has not answered yet.
    assert!(matches!(step(&inquiry, start), Step::WaitUntil(_)));
    inquiry.answered(&[]);
    assert_eq!(asked(step(&inquiry, start)), [v6(1)]);
    inquiry.answered(&[v6(1)]);
    // A change does not begin the round again before its end, only after it.
    inquiry.set_changed();
    assert_eq!(asked(step(&inquiry, start)).len(), 100);
    inquiry.answered(&[]);
    // It took so long, and that is the time to the next.
    let end = start + REST / 10;
    let Step::WaitUntil(at) = step(&inquiry, end) else { panic!("rounds follow at once") };
    assert_eq!(at, end + REST / 10);
    assert!(matches!(step(&inquiry, at), Step::Do(Task::NameOthers)));
    inquiry.others_are(vec![]);
    assert!(matches!(step(&inquiry, at), Step::Wait));
}

#[test]
fn a_lost_question_delays_no_peer() {
    let (inquiry, start) = (Arc::new(Inquiry::default()), Instant::now());
    let _one = inquiry.wait(v4(1)).unwrap();
    assert_eq!(asked(step(&inquiry, start)), [v4(1)]);
    let _other = inquiry.wait(v4(2)).unwrap();
    assert_eq!(asked(step(&inquiry, start + LOST)), [v4(2)]);
    inquiry.forget();
    assert!(matches!(step(&inquiry, start + LOST * 2), Step::Wait));
}

/// A question about many leaves out networks of unusual lengths.
#[test]
fn a_peer_does_not_rely_on_a_question_about_many() {
    let (inquiry, now) = (Arc::new(Inquiry::default()), Instant::now());
    inquiry.others_are((0..PEERS as u64 + 1).map(v6).collect());
    assert_eq!(asked(step(&inquiry, now)).len(), PEERS + 1);
    let _waiting = inquiry.wait(v6(1)).unwrap();
    inquiry.answered(&[]);
    assert_eq!(asked(step(&inquiry, now)), [v6(1)]);
}
