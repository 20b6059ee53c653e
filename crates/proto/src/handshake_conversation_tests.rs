//! A whole conversation, from the handshake to Fin, in pieces of any size.

use super::*;
use crate::record::{DATA_OFFSET, MAX_DATA, MAX_RECORD};

/// The whole conversation over a pipe that passes `chunk` bytes at a time.
#[test]
fn a_conversation_over_pipes_of_1_8_and_65536_bytes() {
    for chunk in [1, 8, 65_536] {
        for suites in [SuiteSet::BOTH, SuiteSet::PORTABLE] {
            converse(chunk, suites);
        }
    }
}

fn converse(chunk: usize, suites: SuiteSet) {
    let (mut dialer, unconfirmed) = shake(suites);
    let data: Vec<u8> = (0..3 * MAX_DATA + 17).map(|i| (i % 251) as u8).collect();
    let mut wire = vec![];
    dialer.outbound.confirm(&mut wire).unwrap();
    dialer.outbound.open(&open(), &mut wire).unwrap();
    for piece in data.chunks(MAX_DATA) {
        let mut slot = vec![0; MAX_RECORD];
        slot[DATA_OFFSET..DATA_OFFSET + piece.len()].copy_from_slice(piece);
        let len = dialer.outbound.seal_data(&mut slot, piece.len()).unwrap();
        wire.extend_from_slice(&slot[..len]);
    }
    dialer.outbound.fin(&mut wire).unwrap();

    let mut arrived = vec![];
    let mut received = vec![];
    let mut events = vec![];
    let mut waiting = Some(unconfirmed);
    let mut session = None;
    for bytes in wire.chunks(chunk) {
        arrived.extend_from_slice(bytes);
        if let Some(unconfirmed) = waiting.take() {
            match unconfirmed.confirm(&mut arrived).unwrap() {
                First::Incomplete(unconfirmed) => waiting = Some(unconfirmed),
                First::Confirmed(confirmed, event, len) => {
                    arrived.drain(..len);
                    events.push(event);
                    session = Some(confirmed);
                }
            }
        }
        let Some(session) = &mut session else { continue };
        while let Some((event, len)) = session.inbound.next(&mut arrived).unwrap() {
            match event {
                Event::Data(range) => received.extend_from_slice(&arrived[range]),
                event => events.push(event),
            }
            arrived.drain(..len);
        }
    }
    assert_eq!(events, [Event::Confirmed, Event::Open(open()), Event::Fin]);
    assert!(received == data && arrived.is_empty());
    assert!(session.unwrap().inbound.is_finished());
}
