//! `keygen` and `key-id`, and the reading of `-k` files for every command.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::errors::UsageError;
use super::output::{is_read, print};
use crate::keys::KeyRing;
use crate::printable::printable;
use crate::run::Failure;
use crate::sys::keyfile::{self, Access, KeyFileError};

/// `knockpipe keygen`.
#[derive(Debug, Args)]
pub(super) struct KeygenArgs {
    /// The file to make; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// `knockpipe key-id`.
#[derive(Debug, Args)]
pub(super) struct KeyIdArgs {
    /// The key file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Accept a key file that its group or others can read or change
    #[arg(long)]
    allow_readable_key: bool,
}

/// Makes a key file and prints the new key's id.
///
/// # Errors
/// [`Failure`]; then no file is left behind.
pub(super) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    if keyfile::is_stdin(&args.file) {
        return Err(UsageError::KeyToStdout.into());
    }
    let key = keyfile::create(&args.file).map_err(failure)?;
    let file = args.file.display().to_string();
    let line = format!("key {} written to {}", key.id(), printable(&file));
    let remedy = "the key is made, 'knockpipe key-id' shows its id";
    is_read(writeln!(io::stdout(), "{line}"), remedy).map(drop)
}

/// Prints the id of the key in a file.
///
/// # Errors
/// [`Failure`] when the file is not a key file.
pub(super) fn key_id(args: &KeyIdArgs) -> Result<(), Failure> {
    let access = Access { by_others: args.allow_readable_key, user: None };
    let key = keyfile::read(&args.file, access).map_err(failure)?;
    print(&format!("{}\n", key.id())).map(drop)
}

/// Returns the keys in `files`, in that order.
///
/// # Errors
/// [`Failure`] of the first invalid file, or when they do not make a ring.
pub(super) fn ring(files: &[PathBuf], access: Access) -> Result<KeyRing, Failure> {
    if files.iter().filter(|file| keyfile::is_stdin(file)).count() > 1 {
        return Err(UsageError::TwoKeysOnStdin.into());
    }
    let several =
        |file: &&PathBuf| file.to_str().is_some_and(|f| f.contains(',')) && !file.exists();
    if let Some(file) = files.iter().find(several) {
        return Err(UsageError::SeveralKeys(file.clone()).into());
    }
    let keys: Result<Vec<_>, _> = files.iter().map(|file| keyfile::read(file, access)).collect();
    KeyRing::new(keys.map_err(failure)?).map_err(|error| Failure::Usage(error.into()))
}

/// Classifies an error: a key file is part of the configuration; only a full disk or a lack of
/// random numbers is not the user's choice.
fn failure(error: KeyFileError) -> Failure {
    match error {
        KeyFileError::Unwritable(..) | KeyFileError::NoRandomness(_) => {
            Failure::Runtime(error.into())
        }
        _ => Failure::Usage(error.into()),
    }
}
