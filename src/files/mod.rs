//! Files and unix sockets that a user names by a path.
//!
//! ```text
//!   place    a name in a directory that is looked up once, to make and remove files there
//!   read     keys, passwords, certificates, configurations: regular files, of bounded length
//!   text     text that people write by hand, without the additions of editors
//!   connect  a unix socket with a listener that may never accept
//! ```
//!
//! A path may lead through directories of other users, who can change its meaning between any two
//! look-ups. So no path is looked up twice.

pub mod connect;
pub mod place;
pub mod read;
pub mod text;
