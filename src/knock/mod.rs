//! The receiver of knocks: one authentic datagram puts an address into the gate's store.
//!
//! ```text
//!   thread     the thread that reads, of low priority                    (process)
//!   receiver   datagram -> allowance -> tag -> freshness -> decision     (thread)
//!   allowance  datagrams of a source that are read
//!   decide     settings and a knock -> a grant, or the reason for none
//!   grants     grant -> claim and entry in the store                     (runtime)
//!   renewal    grants that living sessions renew
//!   options    settings
//! ```
//!
//! Nothing is ever sent from here, to anybody. The gate reads no knock: it is asked to claim, to
//! grant and to renew, and follows its store, as it does for entries of other programs.

mod allowance;
mod decide;
mod grants;
mod options;
mod receiver;
mod renewal;
pub mod thread;

pub use options::{ReceiverOptions, SourcePolicy, WidestNetworks};
pub use receiver::{KnockReceiver, ReceiverParts};
