//! Reading message 1 as it arrives, and under a prologue.

use super::*;

#[test]
fn message_1_says_how_many_bytes_it_needs() {
    let (_, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    let read = |bytes: &[u8]| read_message1(&ring(&[1]), PROLOGUE, bytes).err();
    for got in 0..MESSAGE_LEN {
        assert_eq!(read(&message1[..got]), Some(Unread::Need(MESSAGE_LEN - got)));
    }
    assert_eq!(read(&message1), None);
    let longer = [&message1[..], &[0]].concat();
    assert_eq!(read(&longer), Some(PeerError::BadLength.into()));
}

#[test]
fn message_1_of_another_prologue_is_refused() {
    let (_, message1) = Dialer::start(&key(1), hello(), secret(&[2; 32]));
    let read = read_message1(&ring(&[1]), b"knockpipe/2", &message1);
    assert_eq!(read.err(), Some(PeerError::BadTag.into()));
}
