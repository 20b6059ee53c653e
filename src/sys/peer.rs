//! Who is at the other end of a unix socket.

use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, geteuid};

/// Whether it is root, the user of this process, or the `user` whom it becomes
/// later. Nobody is trusted whom the system does not tell.
pub fn is_trusted(socket: &impl AsFd, user: Option<Uid>) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| {
        let uid = Uid::from_raw(peer.uid());
        uid.is_root() || uid == geteuid() || Some(uid) == user
    })
}
