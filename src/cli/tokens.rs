//! The tokens of a service, read from the file that a flag names.

use std::path::Path;

use anyhow::anyhow;

use crate::knockd::tokens::Tokens;
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::sys::tokens_file;

/// Reads the tokens of a file.
///
/// # Errors
/// [`Failure::Usage`]
pub(super) fn read_tokens(path: &Path, access: Access) -> Result<Tokens, Failure> {
    let text = tokens_file::read(path, access).map_err(|error| Failure::Usage(error.into()))?;
    let tokens = Tokens::parse(&text);
    tokens.map_err(|error| Failure::Usage(anyhow!("--tokens {}: {error}", path.display())))
}
