//! `knockpipe knockd token`: makes, lists and revokes the tokens that may knock over HTTP.
//!
//! The tokens file has hashes only. A new token is printed once, and is nowhere afterwards.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::Done;
use super::gate_cmd::SourceArgs;
use super::gate_cmd::grants_of;
use super::output::{FormArgs, Output, notice, print};
use super::tokens::{parse_tokens, read_tokens};
use crate::addr::ServiceName;
use crate::duration;
use crate::files::read::read as read_file;
use crate::knockd::tokens::{
    DEFAULT_MAX_TTL, Revoked, Token, TokenHash, Tokens, is_name, is_reserved, name_of, who,
};
use crate::net::clock;
use crate::random::random;
use crate::run::Failure;
use crate::sys::keyfile::{Access, is_stdin};
use crate::sys::tokens_file::{self, TokensFileError};

/// Bytes of a token that is taken over, beyond which it is no token.
const LONGEST_TOKEN: usize = 1_024;

/// Characters below which a token that is taken over may be guessed.
const SHORT: usize = 20;

/// Words that examples have in the place of a token.
const PLACEHOLDERS: [&str; 2] = ["CHANGE_ME", "REPLACE_WITH"];

const NEW_EXAMPLES: &str = "\
The token is printed once, on standard output: put it where its holder finds it. The file gets a
line with its SHA-256. A running knockd takes it in with the next reload (SIGHUP).

Examples:
  knockpipe knockd token new phone --tokens tokens --max-ttl 12h --one-address
  knockpipe knockd token new office --tokens tokens --gates redis,mysql --any-address
  Take over a key that clients have already:
    printf %s \"$KEY\" | knockpipe knockd token new admin --tokens tokens --from -";

const REVOKE_EXAMPLES: &str = "\
Marks the token in the file as revoked. A running knockd knows it until it is reloaded (SIGHUP),
which also ends what the token granted; so does the next start. With --gate the grants end at once:
their connections end as the gate says. Reload before you make a token anew under the same name.

Example:
  knockpipe knockd token revoke phone --tokens tokens --gate redis://127.0.0.1
  systemctl reload knockpipe";

/// `knockpipe knockd token`.
#[derive(Debug, Args)]
pub(super) struct CommandArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token, print it once, and add its hash to the file
    #[command(after_help = NEW_EXAMPLES)]
    New(NewArgs),
    /// List the tokens of the file and what they may do
    List(ListArgs),
    /// Revoke a token in the file, and end its grants
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(Box<RevokeArgs>),
}

/// The file.
#[derive(Debug, Args)]
struct FileArgs {
    /// File of the tokens
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
}

/// `token new`.
#[derive(Debug, Args)]
struct NewArgs {
    /// Name of the token in logs, and beside its grants
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    file: FileArgs,

    /// Gates that it opens, by the names of --knock-gate; repeatable [default: all of the service]
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',')]
    gates: Vec<ServiceName>,

    /// Longest grant, such as 12h or 30d [default: 12h]
    #[arg(
        long, value_name = "DURATION", value_parser = duration::parse, allow_hyphen_values = true
    )]
    max_ttl: Option<Duration>,

    /// It may let in other addresses than its holder's own, and networks
    #[arg(long)]
    any_address: bool,

    /// A new grant takes the previous one back
    #[arg(long)]
    one_address: bool,

    /// It may list all grants
    #[arg(long)]
    see_grants: bool,

    /// Take over the token in this file, or on standard input (-), instead of making one
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// `token list`.
#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    form: FormArgs,
}

/// `token revoke`.
#[derive(Debug, Args)]
struct RevokeArgs {
    /// Name of the token
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    store: SourceArgs,
}

/// Runs one command.
///
/// # Errors
/// [`Failure`] of the arguments, the file or the store.
pub(super) fn run(args: CommandArgs) -> Result<Done, Failure> {
    match args.command {
        TokenCommand::New(args) => new(args),
        TokenCommand::List(args) => list(&args),
        TokenCommand::Revoke(args) => revoke(&args),
    }
}

fn new(args: NewArgs) -> Result<Done, Failure> {
    let NewArgs { name, file, gates, max_ttl, any_address, one_address, see_grants, from } = args;
    let usage = |error: anyhow::Error| Failure::Usage(error);
    if !is_name(&name) {
        return Err(usage(anyhow!(
            "\"{}\" cannot name a token; use letters, digits, dots, hyphens or underscores",
            name.escape_debug()
        )));
    }
    if is_reserved(&name) {
        return Err(usage(anyhow!(
            "{name} is the name of the secret of a disguise; give the token another one"
        )));
    }
    let path = &file.tokens;
    if tokens_file::exists(path) {
        // Also its owner and mode.
        let present = read_tokens(path, Access::default())?;
        refuse_twin(&present, &name, path)?;
        if is_revoked(&present, &name) {
            // What the one of before granted until now is not this one's.
            mark_revoked(path, &name, |line| Revoked::parse(line).is_some())?;
        }
    }
    let secret = match &from {
        Some(from) => taken_over(from)?,
        None => made()?,
    };
    let token = Token {
        name,
        hash: TokenHash::of(&secret),
        gates,
        max_ttl: max_ttl.unwrap_or(DEFAULT_MAX_TTL),
        any_address,
        one_address,
        sees_grants: see_grants,
    };
    tokens_file::append(path, |content| {
        let present = parse_tokens(content, path)?;
        refuse_twin(&present, &token.name, path)?;
        match present.find(&secret) {
            Some(same) => Err(usage(anyhow!("this is the token {}; give another one", same.name))),
            None => Ok(token.to_string()),
        }
    })?;
    if from.is_none() {
        let mut line = Zeroizing::new(String::from_utf8_lossy(&secret).into_owned());
        line.push('\n');
        print(&line)?;
    }
    Ok(Done::Clean)
}

/// Writes one line about the revocation, at this moment, in the place of those lines of this name
/// that are meant.
fn mark_revoked(
    path: &Path,
    name: &str,
    is_meant: impl Fn(&str) -> bool,
) -> Result<(), TokensFileError> {
    let revoked = Revoked { name: name.to_owned(), at: Some(clock::now()) };
    let mut lines = std::iter::once(format!("{revoked}\n"));
    tokens_file::rewrite(path, |line| match name_of(line) == Some(name) && is_meant(line) {
        true => lines.next().unwrap_or_default(),
        false => line.to_owned(),
    })
}

/// Returns true if a token of this name was revoked, and there is no other one.
fn is_revoked(tokens: &Tokens, name: &str) -> bool {
    tokens.named(name).is_none() && tokens.revoked().iter().any(|revoked| revoked.name == name)
}

/// Refuses a name that a token has already.
fn refuse_twin(present: &Tokens, name: &str, path: &Path) -> Result<(), Failure> {
    match present.named(name) {
        Some(_) => Err(Failure::Usage(anyhow!(
            "there is a token {name} in {}; give another name, or revoke that one first",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Makes a token of 256 random bits.
fn made() -> Result<Zeroizing<Vec<u8>>, Failure> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = random::<32>().map(Zeroizing::new).map_err(|error| {
        Failure::Runtime(anyhow!("the operating system gave no random numbers: {error}; try again"))
    })?;
    let mut token = Zeroizing::new(Vec::with_capacity(65));
    for byte in bytes.iter() {
        token.extend([byte >> 4, byte & 0xf].map(|digit| DIGITS[usize::from(digit)]));
    }
    Ok(token)
}

/// Reads a token that exists already: the only line.
fn taken_over(from: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let usage = |error: anyhow::Error| Failure::Usage(error);
    let bytes = if is_stdin(from) {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_TOKEN + 2));
        let read = io::stdin().take(LONGEST_TOKEN as u64 + 2).read_to_end(&mut bytes);
        read.map_err(|error| Failure::Runtime(anyhow!("cannot read standard input: {error}")))?;
        bytes
    } else {
        read_file(from, LONGEST_TOKEN + 2).map_err(|error| {
            usage(anyhow!("cannot read --from {}: {error}; check its path", from.display()))
        })?
    };
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.next().unwrap_or_default();
    if lines.any(|line| !line.is_empty()) {
        return Err(usage(anyhow!(
            "--from has several lines, and one of them is to be the token; leave that one line there"
        )));
    }
    let text = String::from_utf8_lossy(line);
    if line.is_empty() || line.len() > LONGEST_TOKEN {
        return Err(usage(anyhow!("--from has no token in its first line; write the token there")));
    }
    if let Some(word) = PLACEHOLDERS.iter().find(|word| text.contains(**word)) {
        return Err(usage(anyhow!(
            "--from has the word {word} of an example and no token; give the token, or leave --from out"
        )));
    }
    if line.len() < SHORT {
        notice(&format!(
            "the token has {} characters only and might be guessed; better make one without --from",
            line.len()
        ));
    }
    Ok(Zeroizing::new(line.to_vec()))
}

fn list(args: &ListArgs) -> Result<Done, Failure> {
    let tokens = read_tokens(&args.file.tokens, Access::default())?;
    let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or(0);
    let mut output = Output::new(args.form.form());
    for token in tokens.iter() {
        output.say(
            || format!("{:width$}  {}", token.name, token.rights()),
            || {
                let gates: Vec<&str> = token.gates.iter().map(ServiceName::as_str).collect();
                json!({
                    "name": token.name,
                    "max_ttl_s": token.max_ttl.as_secs(),
                    "gates": gates,
                    "any_address": token.any_address,
                    "one_address": token.one_address,
                    "see_grants": token.sees_grants,
                })
            },
        )?;
    }
    output.finish().map(|()| Done::Clean)
}

fn revoke(args: &RevokeArgs) -> Result<Done, Failure> {
    let RevokeArgs { name, file, store } = args;
    let path = &file.tokens;
    let tokens = read_tokens(path, Access::default())?;
    let is_listed = tokens.named(name).is_some();
    let was_revoked = is_revoked(&tokens, name);
    if was_revoked {
        notice(&format!("token {name} is revoked already"));
    } else if !is_listed {
        notice(&format!("there is no token {} in {}", name.escape_debug(), path.display()));
    }
    if !is_name(name) {
        return Ok(Done::Unchanged);
    }
    // First, so that a store that cannot be named leaves the token where it is.
    let source = store.find_any()?;
    if is_listed {
        mark_revoked(path, name, |_| true)?;
    }
    // Also of one that is not listed any more: it may have knocked until the service was reloaded.
    let ended = source.map(|source| grants_of::end(source, &who(name))).transpose();
    let ended = ended.map_err(|failure| match failure {
        Failure::Runtime(error) if is_listed || was_revoked => {
            Failure::Runtime(error.context(format!(
                "token {name} is revoked in {}, and its grants are left until this is run again, or knockd is reloaded",
                path.display()
            )))
        }
        failure => failure,
    })?;
    let told = match (is_listed, ended) {
        (true, Some(ended)) => format!(
            "token {name} revoked, and {ended} of its grants ended; reload knockd (SIGHUP), which knows the token until then\n"
        ),
        (true, None) => format!(
            "token {name} revoked; reload knockd (SIGHUP), which knows the token until then, and ends its grants then; with --gate they end at once\n"
        ),
        (false, Some(0) | None) => return Ok(Done::Unchanged),
        (false, Some(ended)) => format!("{ended} of the grants of token {name} ended\n"),
    };
    print(&told)?;
    Ok(Done::Clean)
}
