//! The user at the other end of a unix socket.

use std::fmt;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Uid, geteuid};

use crate::files::place::user_name;

/// Another user, which is not trusted; `None` where the system does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger(pub Option<Uid>);

/// A user at the other end, with the group that the process there had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: Uid,
    /// The group; `None` where only the user is known.
    pub gid: Option<Gid>,
}

/// Checks that the peer is root, the user of this process, or `user`, which the process becomes
/// later or was told to trust. A peer that the system does not know is not trusted.
///
/// # Errors
/// The untrusted user as a [`Stranger`].
pub fn check_peer(socket: &impl AsFd, user: Option<Uid>) -> Result<Peer, Stranger> {
    let peer = getsockopt(socket, PeerCredentials).map_err(|_| Stranger(None))?;
    let uid = Uid::from_raw(peer.uid());
    let is_trusted = uid.is_root() || uid == geteuid() || Some(uid) == user;
    let gid = Some(Gid::from_raw(peer.gid()));
    if is_trusted { Ok(Peer { uid, gid }) } else { Err(Stranger(Some(uid))) }
}

/// Returns true if [`check_peer`] trusts the peer.
pub fn is_trusted(socket: &impl AsFd, user: Option<Uid>) -> bool {
    check_peer(socket, user).is_ok()
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(uid) => f.write_str(&user_name(uid)),
            None => f.write_str("unknown"),
        }
    }
}
