//! The number of the kernel's rule set, which each transaction of any program increases: whether
//! rules were changed costs one small question, and not a list of all of them.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN` and `.. NFT_MSG_NEWGEN`.
const GETGEN: u16 = 10 << 8 | 16;
const NEWGEN: u16 = 10 << 8 | 15;

/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;

/// `NFTA_GEN_ID`
const GEN_ID: u16 = 1;

/// Length of a message's header, and of netfilter's own behind it.
const HEADERS: usize = 16 + 4;

/// A socket for the question, opened when it is first asked.
#[derive(Debug, Default)]
pub(super) struct Generation {
    socket: Option<OwnedFd>,
}

impl Generation {
    /// Returns the number; `None` where the kernel does not tell.
    pub(super) fn now(&mut self) -> Option<u32> {
        if self.socket.is_none() {
            self.socket = open().ok();
        }
        let number = ask(self.socket.as_ref()?);
        if number.is_none() {
            self.socket = None;
        }
        number
    }
}

fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let netfilter = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Asks, and reads the answer, which the kernel has ready when the question was sent.
fn ask(socket: &OwnedFd) -> Option<u32> {
    let mut question = Vec::with_capacity(HEADERS);
    question.extend((HEADERS as u32).to_ne_bytes());
    question.extend(GETGEN.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Sequence and port; then family, version and resource of netfilter.
    question.extend([0; 8 + 4]);
    send(socket.as_raw_fd(), &question, MsgFlags::empty()).ok()?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    read(answer.get(..length)?)
}

/// Finds the number in an answer.
fn read(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != NEWGEN {
        return None;
    }
    let mut attributes = answer.get(HEADERS..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == GEN_ID {
            return Some(u32::from_be_bytes(attributes.get(4..8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; HEADERS];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer.extend(attributes);
        answer
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut all = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        all.extend(value);
        all.resize(all.len().next_multiple_of(4), 0);
        all
    }

    #[test]
    fn the_number_is_found_behind_other_attributes() {
        let number = attribute(GEN_ID, &7_u32.to_be_bytes());
        let other = attribute(3, b"nft");
        assert_eq!(read(&answer(NEWGEN, &number)), Some(7));
        assert_eq!(read(&answer(NEWGEN, &[other.clone(), number.clone()].concat())), Some(7));
        assert_eq!(read(&answer(NEWGEN, &other)), None);
        assert_eq!(read(&answer(2, &number)), None, "an error");
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_none() {
        let whole = answer(NEWGEN, &attribute(GEN_ID, &7_u32.to_be_bytes()));
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        // A length of zero must not go round for ever.
        assert_eq!(read(&answer(NEWGEN, &[0; 40])), None);
    }
}
