//! MySQL and MariaDB: the greeting, a login without a password, and COM_QUIT.
//!
//! ```text
//!   server: greeting                 or an error: too many connections, host blocked
//!   check:  login of USER, no password
//!   server: (another way to log in, once) welcome, or an error
//!   check:  COM_QUIT
//! ```
//!
//! A client that leaves before the login, however politely, raises `Aborted_connects`
//! and counts towards `max_connect_errors`, after which the server blocks the
//! host. A login that succeeds raises neither, so the check has an account: one
//! without password and without rights, as HAProxy's `mysql-check user` has it.
//! A server that refuses the account works all the same.

use super::{Step, Verdict, words};

/// Longest packet that is accepted; greetings have about a hundred bytes.
const LONGEST_PACKET: usize = 4096;

/// Length and sequence number.
const HEADER: usize = 4;

/// Bits of the capabilities.
const LONG_PASSWORD: u32 = 0x1;
const PROTOCOL_41: u32 = 0x200;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;

/// utf8mb4, which every server since 5.5 has.
const CHARSET: u8 = 45;

/// Authentication method of servers that name none.
const NATIVE: &[u8] = b"mysql_native_password";

/// The packet that ends a session cleanly.
const COM_QUIT: [u8; 5] = [1, 0, 0, 0, 1];

/// Errors about the account and not about the server: access denied, encrypted connections only, an
/// old authentication method, the account's own limits, an expired password, locked by an
/// administrator or by too many failed logins.
const OF_THE_ACCOUNT: [u16; 12] =
    [1044, 1045, 1203, 1226, 1251, 1698, 1862, 3118, 3159, 3955, 4150, 4151];

/// Progress of a login.
#[derive(Debug)]
enum At {
    Greeting,
    Login,
}

/// A login at a server, from its greeting to COM_QUIT.
#[derive(Debug)]
pub struct Login {
    user: String,
    at: At,
    heard: Vec<u8>,
    /// The server asked for another authentication method.
    switched: bool,
}

/// Facts in the greeting that the login needs.
#[derive(Debug, PartialEq, Eq)]
struct Greeting<'a> {
    capabilities: u32,
    plugin: &'a [u8],
}

impl Login {
    /// Creates a login of this account.
    pub(super) fn of(user: &str) -> Self {
        Self { user: user.to_owned(), at: At::Greeting, heard: vec![], switched: false }
    }

    /// Takes bytes of the service and returns the next step.
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Step {
        let room = (LONGEST_PACKET + HEADER).saturating_sub(self.heard.len());
        self.heard.extend(&bytes[..bytes.len().min(room)]);
        loop {
            let Some([a, b, c, sequence]) = self.heard.first_chunk::<HEADER>().copied() else {
                return Step::Read;
            };
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            if length > LONGEST_PACKET {
                return foreign(&self.heard);
            }
            if self.heard.len() < HEADER + length {
                return Step::Read;
            }
            let packet: Vec<u8> = self.heard.drain(..HEADER + length).collect();
            match self.answer(&packet[HEADER..], sequence.wrapping_add(1)) {
                Step::Read => {}
                step => return step,
            }
        }
    }

    /// Answers a packet, with sequence number `number`.
    fn answer(&mut self, packet: &[u8], number: u8) -> Step {
        match (&self.at, packet.first()) {
            (_, Some(0xff)) => self.refused(packet),
            (At::Greeting, _) => match greeting(packet) {
                Some(greeting) => {
                    self.at = At::Login;
                    Step::Write(framed(number, &login(&self.user, &greeting)))
                }
                None => foreign(packet),
            },
            (At::Login, Some(0)) => Step::Done(COM_QUIT.to_vec(), Verdict::Healthy),
            (At::Login, Some(0xfe)) if !self.switched => {
                self.switched = true;
                Step::Write(framed(number, no_password(&packet[1..])))
            }
            // Fast login of caching_sha2_password: the welcome follows.
            (At::Login, Some(1)) if packet == [1, 3] => Step::Read,
            (At::Login, _) => {
                let text = "it wants another login than one without a password";
                Step::Done(vec![], self.auth_rejected(text.to_owned()))
            }
        }
    }

    /// Interprets an error packet: code, perhaps a `#` and five characters, text.
    fn refused(&self, packet: &[u8]) -> Step {
        let Some((code, text)) = packet[1..].split_first_chunk::<2>() else {
            return foreign(packet);
        };
        let code = u16::from_le_bytes(*code);
        let text = match text {
            [b'#', _, _, _, _, _, text @ ..] => text,
            text => text,
        };
        let text = format!("the server says \"{}\" ({code})", words(text));
        let verdict = match matches!(self.at, At::Login) && OF_THE_ACCOUNT.contains(&code) {
            true => self.auth_rejected(text),
            false => Verdict::Unhealthy(text),
        };
        Step::Done(vec![], verdict)
    }

    fn auth_rejected(&self, error: String) -> Verdict {
        let user = &self.user;
        let remedy =
            format!("CREATE USER '{user}'@'HOST OF THIS END', without password and rights");
        Verdict::AuthRejected { error, remedy }
    }
}

fn framed(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

/// Reads a greeting of protocol 10.
fn greeting(packet: &[u8]) -> Option<Greeting<'_>> {
    let rest = packet.strip_prefix(&[10])?;
    let end_of_version = rest.iter().position(|byte| *byte == 0)?;
    // Connection id, half of the challenge, a filler.
    let rest = rest.get(end_of_version + 1 + 4 + 8 + 1..)?;
    let (low, rest) = rest.split_first_chunk::<2>()?;
    // Character set and status; servers before 5.5 may say no more.
    let high = rest.get(3..5).map_or([0, 0], |high| [high[0], high[1]]);
    let capabilities = u32::from_le_bytes([low[0], low[1], high[0], high[1]]);
    let plugin = match capabilities & PLUGIN_AUTH {
        0 => NATIVE,
        _ => {
            let length = usize::from(*rest.get(5)?);
            // Ten reserved bytes, the other half of the challenge.
            let name = rest.get(6 + 10 + length.saturating_sub(8).max(13)..)?;
            name.split(|byte| *byte == 0).next()?
        }
    };
    Some(Greeting { capabilities, plugin })
}

/// Returns the login packet of `user` without a password.
fn login(user: &str, greeting: &Greeting<'_>) -> Vec<u8> {
    let ours = LONG_PASSWORD | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;
    let capabilities = ours & greeting.capabilities | PROTOCOL_41;
    let mut packet = capabilities.to_le_bytes().to_vec();
    packet.extend((1u32 << 24).to_le_bytes());
    packet.push(CHARSET);
    packet.extend([0; 23]);
    packet.extend(user.as_bytes());
    // The end of the name, and an empty password.
    packet.extend([0, 0]);
    if capabilities & PLUGIN_AUTH != 0 {
        packet.extend(greeting.plugin);
        packet.push(0);
    }
    packet
}

/// Returns "no password" in the authentication method that the server asks for.
fn no_password(request: &[u8]) -> &'static [u8] {
    let plugin = request.split(|byte| *byte == 0).next().unwrap_or_default();
    if plugin == NATIVE || plugin.is_empty() { b"" } else { b"\0" }
}

fn foreign(bytes: &[u8]) -> Step {
    let text = format!("it does not greet as MySQL does: \"{}\"", words(bytes));
    Step::Done(vec![], Verdict::Unhealthy(text))
}

#[cfg(test)]
#[path = "mysql_tests.rs"]
mod tests;
