//! Tokens that may knock over HTTP, as the tokens file lists them.
//!
//! A line for each: its name, the SHA-256 of the token, and what it may do. A token is 256 random
//! bits, so a fast hash keeps it as well as a slow one would. The token itself is nowhere: who reads
//! the file can knock with none of them. Pure: text in, tokens out; `sys::tokens_file` reads the
//! file.

use std::fmt::{self, Write as _};
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::addr::ServiceName;
use crate::duration;
use crate::gate::UnixMillis;
use crate::gate::grant::{MOST_WHO, TOKEN};

/// Longest grant of a token with a line that does not say.
pub const DEFAULT_MAX_TTL: Duration = Duration::from_secs(12 * 3_600);

/// Most bytes of a name, so that the note of a grant holds it.
const MOST_NAME: usize = MOST_WHO - TOKEN.len();

/// The beginning of the hash in a line.
const HASH: &str = "sha256:";

/// The word in the place of the hash of a token that was revoked.
const REVOKED: &str = "revoked";

/// Name of the secret of a disguise, and of those of named services with a dot behind it.
const DISGUISE: &str = "disguise";

/// Permission to let in another address than the client's own.
const ANY_ADDRESS: &str = "any-address";
/// Rule that a new grant takes the previous one back.
const ONE_ADDRESS: &str = "one-address";
/// Permission to list all grants.
const SEE_GRANTS: &str = "see-grants";

/// The hash of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// A token that may knock, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name in logs, and beside its grants.
    pub name: String,
    /// Its hash.
    pub hash: TokenHash,
    /// Gates that it opens; none are all of the service.
    pub gates: Vec<ServiceName>,
    /// Its longest grant.
    pub max_ttl: Duration,
    /// It may let in other addresses than the client's own.
    pub any_address: bool,
    /// Its new grant takes the previous one back.
    pub one_address: bool,
    /// It may list all grants.
    pub sees_grants: bool,
}

/// All tokens of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    known: Vec<Token>,
    /// Tokens that were revoked, of which grants may be left.
    revoked: Vec<Revoked>,
}

/// A token that was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its name, which another token may have by now.
    pub name: String,
    /// Moment of the revocation; a line that was written by hand may lack it.
    pub at: Option<UnixMillis>,
}

/// Reason why a text is no list of tokens. Repeats no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// A line does not begin with a name.
    #[error(
        "line {0}: the name is not 1 to {MOST_NAME} letters, digits, dots, hyphens or underscores; write NAME sha256:HEX ..., as 'knockpipe knockd token new NAME' does"
    )]
    Name(usize),
    /// A name that no token of a file has.
    #[error("line {0}: the name {1} is that of the secret of a disguise; rename the token")]
    Reserved(usize, String),
    /// Two lines have one name.
    #[error("line {0}: the name {1} is taken by a line before; rename one of them, or remove it")]
    Twice(usize, String),
    /// Two lines have one token.
    #[error("line {0}: its token is that of {1} too; give each a token of its own")]
    SameToken(usize, String),
    /// No hash behind the name.
    #[error(
        "line {0}: no sha256: with 64 hex digits behind the name; make the line with 'knockpipe knockd token new NAME'"
    )]
    Hash(usize),
    /// Another word.
    #[error(
        "line {0}: \"{1}\" is unknown; use max-ttl=DURATION, gates=NAME,NAME, any-address, one-address or see-grants"
    )]
    Word(usize, String),
    /// A value that does not fit its word.
    #[error("line {0}: {1}")]
    Value(usize, String),
}

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    fn parse(hex: &str) -> Option<Self> {
        let mut hash = [0; 32];
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(Self(hash))
    }

    fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

impl Token {
    /// Returns the name beside its grants.
    pub fn who(&self) -> String {
        who(&self.name)
    }

    /// Returns true if it opens `gate`.
    pub fn opens(&self, gate: &ServiceName) -> bool {
        self.gates.is_empty() || self.gates.contains(gate)
    }

    /// Returns its words behind the hash, as a line has them.
    pub fn rights(&self) -> String {
        let mut words = vec![format!("max-ttl={}", duration::format(self.max_ttl))];
        if !self.gates.is_empty() {
            let gates: Vec<&str> = self.gates.iter().map(ServiceName::as_str).collect();
            words.push(format!("gates={}", gates.join(",")));
        }
        let flags = [
            (ANY_ADDRESS, self.any_address),
            (ONE_ADDRESS, self.one_address),
            (SEE_GRANTS, self.sees_grants),
        ];
        words.extend(flags.iter().filter(|(_, is)| *is).map(|(word, _)| (*word).to_owned()));
        words.join(" ")
    }

    fn parse(line: &str, number: usize) -> Result<Self, TokensError> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name));
        let name = name.ok_or(TokensError::Name(number))?.to_owned();
        if is_reserved(&name) {
            return Err(TokensError::Reserved(number, name));
        }
        let hash = words.next().and_then(|word| word.strip_prefix(HASH));
        let hash = hash.and_then(TokenHash::parse).ok_or(TokensError::Hash(number))?;
        let mut token = Self {
            name,
            hash,
            gates: vec![],
            max_ttl: DEFAULT_MAX_TTL,
            any_address: false,
            one_address: false,
            sees_grants: false,
        };
        words.try_for_each(|word| token.take(word, number))?;
        Ok(token)
    }

    fn take(&mut self, word: &str, number: usize) -> Result<(), TokensError> {
        let bad = |error: &dyn fmt::Display| TokensError::Value(number, error.to_string());
        match word.split_once('=') {
            None if word == ANY_ADDRESS => self.any_address = true,
            None if word == ONE_ADDRESS => self.one_address = true,
            None if word == SEE_GRANTS => self.sees_grants = true,
            Some(("max-ttl", value)) => {
                self.max_ttl = duration::parse(value).map_err(|error| bad(&error))?;
            }
            Some(("gates", names)) => {
                let names = names.split(',').map(str::parse::<ServiceName>);
                self.gates = names.collect::<Result<_, _>>().map_err(|error| bad(&error))?;
            }
            _ => {
                let shown = word.escape_debug().take(40).collect();
                return Err(TokensError::Word(number, shown));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Token {
    /// The line of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {HASH}{} {}", self.name, self.hash.hex(), self.rights())
    }
}

impl Tokens {
    /// Reads the text of a file. Empty lines, and those that begin with `#`, are passed over.
    ///
    /// # Errors
    /// [`TokensError`]
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            if is_comment(line) {
                continue;
            }
            if let Some(revoked) = Revoked::parse(line) {
                tokens.revoked.push(revoked);
                continue;
            }
            let token = Token::parse(line, number)?;
            if tokens.named(&token.name).is_some() {
                return Err(TokensError::Twice(number, token.name));
            }
            if let Some(same) = tokens.known.iter().find(|other| other.hash == token.hash) {
                return Err(TokensError::SameToken(number, same.name.clone()));
            }
            tokens.known.push(token);
        }
        let Self { known, revoked } = &mut tokens;
        // Without a moment nothing tells the grants of the one from those of the other.
        revoked.retain(|it| it.at.is_some() || known.iter().all(|token| token.name != it.name));
        Ok(tokens)
    }

    /// Returns a list of one.
    pub fn single(token: Token) -> Self {
        Self { known: vec![token], revoked: vec![] }
    }

    /// Finds the one that `presented` is. All are compared, each in constant time, so that the time
    /// of an answer says nothing about any of them.
    pub fn find(&self, presented: &[u8]) -> Option<&Token> {
        let hash = TokenHash::of(presented);
        let mut found = None;
        for token in &self.known {
            if bool::from(token.hash.0.ct_eq(&hash.0)) {
                found = Some(token);
            }
        }
        found
    }

    /// Returns the one of this name.
    pub fn named(&self, name: &str) -> Option<&Token> {
        self.known.iter().find(|token| token.name == name)
    }

    /// Returns all of them in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.known.iter()
    }

    /// Returns true if it has this token by this name, whatever it may do.
    pub fn has(&self, token: &Token) -> bool {
        self.named(&token.name).is_some_and(|same| same.hash == token.hash)
    }

    /// Returns the tokens that were revoked, also where another one has the name now.
    pub fn revoked(&self) -> &[Revoked] {
        &self.revoked
    }
}

/// Returns the name of a token beside its grants.
pub fn who(name: &str) -> String {
    format!("{TOKEN}{name}")
}

/// Returns true if a token may have this name.
pub fn is_name(name: &str) -> bool {
    (1..=MOST_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Returns the name of the secret of a disguise; services with names have one each.
pub fn disguise_name(service: Option<&str>) -> String {
    let name = service.map_or_else(|| DISGUISE.to_owned(), |name| format!("{DISGUISE}.{name}"));
    name.chars().take(MOST_NAME).collect()
}

/// Returns true for a name of the secret of a disguise, which no token of a file may have.
pub fn is_reserved(name: &str) -> bool {
    name.strip_prefix(DISGUISE).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Revoked {
    /// Reads a line; `None` for one that is about something else.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name))?.to_owned();
        if words.next() != Some(REVOKED) {
            return None;
        }
        let at = words.next().map(str::parse).transpose().ok()?.map(UnixMillis);
        words.next().is_none().then_some(Self { name, at })
    }
}

impl fmt::Display for Revoked {
    /// The line of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {REVOKED}", self.name)?;
        self.at.map_or(Ok(()), |at| write!(f, " {}", at.0))
    }
}

/// Returns true if a line of the file is about no token.
pub fn is_comment(line: &str) -> bool {
    let line = line.trim_ascii_start();
    line.is_empty() || line.starts_with('#')
}

/// Returns the name at the beginning of a line.
pub fn name_of(line: &str) -> Option<&str> {
    line.split_ascii_whitespace().next().filter(|_| !is_comment(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, token: &str, rest: &str) -> String {
        format!("{name} sha256:{} {rest}\n", TokenHash::of(token.as_bytes()).hex())
    }

    #[test]
    fn a_line_says_what_a_token_may_and_is_read_back() {
        let text = [
            "# NAME sha256:HEX ...\n\n".to_owned(),
            line("phone", "p", "max-ttl=90s one-address"),
            line("office.2", "o", "gates=redis,mysql any-address see-grants max-ttl=3650d"),
            line("plain", "q", ""),
        ];
        let tokens = Tokens::parse(&text.concat()).unwrap();
        let shown: Vec<String> = tokens.iter().map(Token::rights).collect();
        assert_eq!(
            shown,
            [
                "max-ttl=90s one-address",
                "max-ttl=3650d gates=redis,mysql any-address see-grants",
                "max-ttl=12h"
            ]
        );
        let again: String = tokens.iter().map(|token| format!("{token}\n")).collect();
        assert_eq!(Tokens::parse(&again).unwrap(), tokens);
        let office = tokens.find(b"o").unwrap();
        assert_eq!((office.who(), &*office.name), ("token:office.2".to_owned(), "office.2"));
        let opens = |token: &Token, gate: &str| token.opens(&gate.parse().unwrap());
        assert!(opens(office, "redis") && !opens(office, "default"));
        assert!(opens(tokens.named("plain").unwrap(), "default"), "no gates are all");
    }

    #[test]
    fn only_the_whole_token_is_found_whatever_its_bytes() {
        let accent = "cl\u{e9}-5c0d";
        let text = line("one", "guest-4b1d77e09c", "") + &line("two", accent, "");
        let tokens = Tokens::parse(&text).unwrap();
        let name = |presented: &[u8]| tokens.find(presented).map(|token| &*token.name);
        assert_eq!(name(b"guest-4b1d77e09c"), Some("one"));
        assert_eq!(name(accent.as_bytes()), Some("two"));
        for wrong in ["", "guest-4b1d77e09", "guest-4b1d77e09c0", "GUEST-4B1D77E09C", "one"] {
            assert_eq!(name(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(name(b"cl\xe9-5c0d"), None);
        let hash = TokenHash::of(b"guest-4b1d77e09c").hex();
        assert_eq!(name(hash.as_bytes()), None, "the hash is no token");
    }

    #[test]
    fn what_is_no_token_is_refused_with_its_line_and_without_a_hash() {
        let hash = TokenHash::of(b"x").hex();
        let long = "x".repeat(MOST_NAME + 1);
        for (text, what) in [
            ("na/me sha256:00".to_owned(), "line 1: the name"),
            (format!("{long} sha256:{hash}"), "line 1: the name"),
            ("phone".to_owned(), "line 1: no sha256:"),
            (format!("phone {hash}"), "line 1: no sha256:"),
            (format!("phone sha256:{}", &hash[1..]), "line 1: no sha256:"),
            (format!("phone sha256:{}g", &hash[1..]), "line 1: no sha256:"),
            (format!("#\nphone sha256:{hash} sudo"), "line 2: \"sudo\" is unknown"),
            (format!("phone sha256:{hash} any-address=no"), "line 1: \"any-address=no\""),
            (format!("phone sha256:{hash} max-ttl=30"), "line 1: \"30\" has no unit"),
            (format!("phone sha256:{hash} gates="), "line 1: \"\" is not a service name"),
            (format!("phone revoked {hash}"), "line 1: no sha256:"),
            (format!("phone revoked 1 {hash}"), "line 1: no sha256:"),
            (line("disguise", "1", ""), "line 1: the name disguise is that of the secret"),
            (line("disguise.door", "1", ""), "line 1: the name disguise.door is that of"),
            (line("a", "1", "") + &line("a", "2", ""), "line 2: the name a is taken"),
            (line("a", "1", "") + &line("b", "1", ""), "line 2: its token is that of a"),
        ] {
            let error = Tokens::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(what) && error.contains(';'), "{error}");
            assert!(!error.contains(&hash[1..]), "{error}");
        }
    }

    #[test]
    fn a_revoked_token_is_known_by_its_name_alone() {
        let office = line("office", "o", "");
        let text = "phone revoked\n".to_owned() + &office + "office revoked\noffice revoked 7\n";
        let tokens = Tokens::parse(&text).unwrap();
        let shown: Vec<String> = tokens.revoked().iter().map(Revoked::to_string).collect();
        assert_eq!(shown, ["phone revoked", "office revoked 7"], "one of the name is there again");
        assert_eq!(tokens.iter().count(), 1);
        assert!(tokens.named("phone").is_none() && tokens.find(b"").is_none());
        let other = Tokens::parse(&line("office", "other", "")).unwrap();
        let office = tokens.named("office").unwrap();
        assert!(tokens.has(office) && !other.has(office));
    }

    #[test]
    fn a_name_is_as_long_as_the_note_of_its_grant_holds() {
        use crate::gate::{GrantNote, UnixMillis};
        let name = "x".repeat(MOST_NAME);
        let tokens = Tokens::parse(&line(&name, "t", "")).unwrap();
        let who = tokens.find(b"t").unwrap().who();
        assert_eq!(GrantNote::new(&who, None, UnixMillis(0)).who, who);
        assert!(!format!("{tokens:?}").contains(&TokenHash::of(b"t").hex()));
    }
}
