//! Answers as they should be pass, in pieces of any size; others do not.

use super::*;

/// Counts `bytes` in pieces of `size`.
fn take(bytes: &[u8], size: usize) -> Result<Meter, Excess> {
    let mut meter = Meter::default();
    for piece in bytes.chunks(size) {
        meter.take(piece)?;
    }
    Ok(meter)
}

#[track_caller]
fn excess(bytes: &[u8]) -> Excess {
    let all = [1, 3, 8_192].map(|size| take(bytes, size).map(drop).expect_err("it is too much"));
    assert!(all[0] == all[1] && all[1] == all[2], "{all:?}");
    all[0]
}

#[test]
fn answers_of_a_server_pass_in_pieces_of_any_size() {
    let answers: [&[u8]; 16] = [
        b"+OK\r\n",
        b"-WRONGTYPE Operation against a key\r\n",
        b":-17\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b",1790000000.5\r\n",
        b"#t\r\n",
        b"(3492890328409238509324850943850943825024385\r\n",
        b"$0\r\n\r\n",
        b"$7\r\na\r\nb\r\nc\r\n",
        b"!21\r\nSYNTAX invalid syntax\r\n",
        b"=8\r\ntxt:some\r\n",
        b"*2\r\n$1\r\n0\r\n~3\r\n$3\r\none\r\n$0\r\n\r\n:3\r\n",
        b"%2\r\n+first\r\n*2\r\n:1\r\n*0\r\n+second\r\n%0\r\n",
        b"|1\r\n+ttl\r\n:3600\r\n+OK\r\n",
    ];
    for answer in answers {
        for size in 1..=answer.len() {
            let mut meter = take(answer, size).unwrap();
            assert!(meter.due.is_empty() && matches!(meter.at, At::Kind), "{answer:?}");
            assert!(meter.weight() >= answer.len() as u64 / 2);
            meter.taken(1);
            assert_eq!((meter.weight(), meter.abandoned), (0, 0));
        }
    }
    let all = answers.concat();
    let meter = take(&all, 5).unwrap();
    assert!(meter.due.is_empty() && meter.weight() > all.len() as u64);
}

#[test]
fn an_announced_length_beyond_the_limit_fails_at_once() {
    assert_eq!(excess(b"$536870912\r\n"), Excess::Text(536_870_912));
    assert_eq!(excess(b"*1000000000\r\n"), Excess::List(1_000_000_000));
    assert_eq!(excess(b"%1000000000\r\n"), Excess::List(2_000_000_000));
    assert_eq!(excess(b"~99999999999\r\n"), Excess::List(99_999_999_999));
    assert_eq!(excess(b">1000000\r\n"), Excess::List(1_000_000));
    assert_eq!(excess(b"*2\r\n$1\r\n0\r\n*300000\r\n"), Excess::List(300_000));
    assert_eq!(excess(b"=1048577\r\n"), Excess::Text(LONGEST_TEXT + 1));
    assert!(take(b"$1048576\r\n", 4).is_ok());
}

#[test]
fn a_value_without_an_end_fails_at_the_limit() {
    let line = vec![b'x'; 100_000];
    for kind in [&b"+"[..], b"-", b":", b"$", b"*"] {
        assert_eq!(excess(&[kind, &line].concat()), Excess::Line);
    }
    assert_eq!(excess(&b"*1\r\n".repeat(100)), Excess::Depth);
    // Each of these is allowed by itself.
    let texts = [&b"*200\r\n"[..], &[&b"$1000000\r\n"[..], &line, &line].concat()].concat();
    assert!(take(&texts, 4_096).is_ok());
    let mut many = b"*100\r\n".to_vec();
    for _ in 0..17 {
        many.extend(b"$1000000\r\n");
        many.resize(many.len() + 1_000_000, b'x');
        many.extend(b"\r\n");
    }
    assert_eq!(excess(&many), Excess::Answer);
    assert_eq!(excess(&b"_\r\n".repeat(300_000)), Excess::Answer);
    let nested = [&b"*200000\r\n"[..], &b"*1\r\n_\r\n".repeat(200_000)].concat();
    assert_eq!(excess(&nested), Excess::Answer);
}

#[test]
fn foreign_bytes_are_reported() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\r\n",
        b"$abc\r\n",
        b"$\r\n",
        b"$+5\r\n",
        b"$ 5\r\n",
        b"$?\r\n",
        b"*1e3\r\n",
        b"%-1\r\n",
        b"!-1\r\n",
        b"$-\r\n",
        b"$123456789012345\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ] {
        assert_eq!(excess(bytes), Excess::Foreign, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_flood_of_pushes_is_no_answer_but_each_of_them_is_bounded() {
    let push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$10\r\nip-allowed\r\n";
    let mut meter = Meter::default();
    for _ in 0..200_000 {
        meter.take(push).unwrap();
    }
    assert_eq!(meter.weight(), 0);
    // In the middle of an answer they count for nothing, and the answer does.
    meter.take(b"$3\r\nabc\r\n").unwrap();
    let weight = meter.weight();
    meter.take(&push.repeat(1_000)).unwrap();
    assert_eq!(meter.weight(), weight);
    let mut large = b">2\r\n$10\r\ninvalidate\r\n*200000\r\n".to_vec();
    large.extend(b"$40\r\n0123456789012345678901234567890123456789\r\n".repeat(200_000));
    assert_eq!(excess(&large), Excess::Answer);
}

/// The parser behind takes some pushes for answers, also of questions of many
/// commands, of which it gathers all.
#[test]
fn pushes_that_answer_weigh_as_answers() {
    for name in ["subscribe", "unsubscribe", "pmessage", "messages", "invalidated", "invalid"] {
        let mut push = format!(">2\r\n${}\r\n{name}\r\n$1000000\r\n", name.len()).into_bytes();
        push.resize(push.len() + 1_000_000, b'x');
        push.extend(b"\r\n");
        assert_eq!(excess(&push.repeat(17)), Excess::Answer, "{name}");
    }
    for push in
        [&b">2\r\n:10\r\n$7\r\nmessage\r\n"[..], b">1\r\n*1\r\n$7\r\nmessage\r\n", b">0\r\n"]
    {
        assert_eq!(excess(&push.repeat(300_000)), Excess::Answer, "{}", push.escape_ascii());
    }
}

#[test]
fn answers_weigh_until_they_are_taken_each_by_itself() {
    let mut meter = Meter::default();
    // Two questions that overlap for ever: of one the answer is there when the other
    // is taken.
    meter.take(b":1\r\n").unwrap();
    let one = meter.weight();
    for _ in 0..1_000_000 {
        meter.take(b":1\r\n").unwrap();
        meter.taken(1);
        assert_eq!(meter.weight(), one);
    }
    // What is given up is no answer to the next question.
    meter.taken(3);
    assert_eq!(meter.weight(), 0);
    meter.take(b":1\r\n:2\r\n:3").unwrap();
    assert!((1..2 * one).contains(&meter.weight()), "{}", meter.weight());
    meter.take(b"\r\n").unwrap();
    assert_eq!(meter.weight(), one);
    // Only complete answers are dropped while no answer is waited for.
    meter.take(b"*2\r\n:1\r\n").unwrap();
    meter.set_idle(true);
    assert!(meter.weight() > one);
    meter.take(b":2\r\n:3\r\n").unwrap();
    assert_eq!(meter.weight(), 0);
}

/// The parser behind makes nothing of bytes of which the meter still waits for more.
#[test]
fn the_parser_never_ends_a_value_before_the_meter() {
    use rand::{RngExt, SeedableRng};
    const WORDS: [&[u8]; 24] = [
        b"+", b"-", b":", b"$", b"*", b"~", b">", b"%", b"|", b"_", b"#", b",", b"!", b"=", b"(",
        b"\r\n", b"\r", b"\n", b"0", b"1", b"2", b"-1", b" ", b"t",
    ];
    let mut random = rand::rngs::SmallRng::seed_from_u64(9);
    let mut ended = 0;
    for _ in 0..200_000 {
        let words = (0..random.random_range(2..12)).map(|_| WORDS[random.random_range(0..24)]);
        let bytes: Vec<u8> = words.flatten().copied().collect();
        let mut meter = Meter::default();
        let end = (1..=bytes.len()).find(|end| {
            let taken = meter.take(&bytes[end - 1..*end]);
            taken.is_err() || (meter.due.is_empty() && matches!(meter.at, At::Kind))
        });
        ended += usize::from(end.is_some());
        let before = end.unwrap_or(bytes.len() + 1) - 1;
        let parsed = redis::parse_redis_value(&bytes[..before]);
        assert!(parsed.is_err(), "{} is {parsed:?}", bytes[..before].escape_ascii());
    }
    assert!(ended > 10_000, "{ended}");
}

#[test]
fn every_excess_is_a_phrase_in_one_line() {
    let all = [Excess::Text(1), Excess::List(1), Excess::Line, Excess::Depth, Excess::Answer];
    for excess in all.into_iter().chain([Excess::Together, Excess::Foreign]) {
        let text = excess.to_string();
        assert!(!text.contains('\n') && text.starts_with(char::is_lowercase), "{text}");
    }
}
