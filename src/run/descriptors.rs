//! Shares the file descriptors of the process out among its services.

use crate::service::{Capacity, ServiceOptions};
use crate::tunnel::{self, TooFewDescriptors};

/// Returns what each service of a plan can hold.
///
/// # Errors
/// [`TooFewDescriptors`]
pub(super) fn shares(
    plan: &[ServiceOptions],
    descriptors: u64,
) -> Result<Vec<Capacity>, TooFewDescriptors> {
    let tunnels: Vec<tunnel::Options> =
        plan.iter().map(|ServiceOptions::Tunnel(options)| options.clone()).collect();
    let shares = tunnel::Capacity::of_all(&tunnels, descriptors)?;
    Ok(shares.into_iter().map(Capacity::Tunnel).collect())
}
