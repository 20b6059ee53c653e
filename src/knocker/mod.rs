//! Knocks as their sender: one datagram that asks the far end's gate to let this host in.
//!
//! ```text
//!   far_end    the knocks at one far end: their text, their key, their way
//!   sent       knocks that were sent, and whether another is due (pure)
//!   schedule   times at which one who stays knocks (pure)
//!   port       a port that opens
//! ```
//!
//! A knock has no answer, so nothing here waits for an answer, and none is read: that a knock has
//! arrived shows in the connection that follows. Every datagram is new, because a gate accepts each
//! only once. What a far end does with it, and for how long, only the far end decides.

mod far_end;
pub mod port;
mod schedule;
mod sent;

pub use far_end::{DEFAULT_LASTING, KnockWish, Knocker, KnockerParts, SentTo, now};
pub use schedule::Schedule;
pub use sent::Occasion;
