//! The tokens of a service, read from the file that a flag names.

use std::path::Path;

use anyhow::anyhow;

use crate::knockd::tokens::Tokens;
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::sys::tokens_file::{self, TokensFileError};

/// Reads the tokens of a file.
///
/// # Errors
/// [`Failure::Usage`]
pub(super) fn read_tokens(path: &Path, access: Access) -> Result<Tokens, Failure> {
    let text = tokens_file::read(path, access).map_err(|error| Failure::Usage(error.into()))?;
    parse_tokens(&text, path)
}

/// Reads the tokens of the text of a file.
///
/// # Errors
/// [`Failure::Usage`]
pub(super) fn parse_tokens(text: &str, path: &Path) -> Result<Tokens, Failure> {
    Tokens::parse(text)
        .map_err(|error| Failure::Usage(anyhow!("--tokens {}: {error}", path.display())))
}

impl From<TokensFileError> for Failure {
    fn from(error: TokensFileError) -> Self {
        Self::Runtime(error.into())
    }
}
