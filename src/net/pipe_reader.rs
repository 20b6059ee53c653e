//! Detects that the reader of a pipe or a socket is gone, which otherwise only a write would show.
//! Reads and writes nothing.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Returns whether `output` has lost its reader: it is a pipe or a socket with its other end
/// closed. Always false for anything else.
pub fn has_no_reader(output: &impl AsFd) -> bool {
    // No event is requested: errors and hang-ups are reported in any case.
    let mut asked = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let reported = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    reported && asked[0].revents().is_some_and(|events| events.intersects(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_has_a_reader_until_that_is_closed() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!has_no_reader(&writer));
        drop(reader);
        assert!(has_no_reader(&writer));
    }
}
