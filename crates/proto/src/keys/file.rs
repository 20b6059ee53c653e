//! Content of key files: bytes to key, and key to bytes.
//!
//! Two forms are read. `keygen` writes the text form: one line of a versioned prefix, the key in
//! base64, and a checksum that catches a damaged copy. Everything else of at least 32 bytes is a
//! raw key file like those of spiped: the key is the SHA-256 of all its bytes. docs/PROTOCOL.md,
//! section 2, defines both exactly.
//!
//! A file that looks like the text form is never hashed: a mistyped line would otherwise be a valid
//! key that no other end has. No error here shows a byte of the file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::Key;
use crate::labels;
use knockpipe_base::secret::Secret;

/// Start of a text key file of the version that is written here.
const PREFIX: &str = "knockpipe-key-1";

/// Bytes that every text key file contains, in any version.
const FAMILY: &[u8] = b"knockpipe-key-";

/// Length of the shortest raw key file, in bytes: as much as the key itself.
const SHORTEST: usize = 32;

/// Length of the longest key file in either form, in bytes: 1 MiB. More is a mistake.
pub const LONGEST: usize = 1 << 20;

/// 32 bytes in base64, with padding.
const BASE64_LEN: usize = 44;

/// Error of a key file that holds no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// No bytes at all.
    #[error("is empty; copy it again from the other host, or make a key with 'knockpipe keygen'")]
    Empty,
    /// Fewer than 32 bytes.
    #[error(
        "has only {0} bytes, and a key file needs at least 32; copy it again from the other host, or make a key with 'knockpipe keygen'"
    )]
    Short(usize),
    /// More than [`LONGEST`].
    #[error("is larger than 1 MiB; that is hardly a key, give another file")]
    Long,
    /// The file looks like the text form, but is not one line of three words.
    #[error("is not a complete key file; copy it again as it is, nothing before or after its line")]
    Malformed,
    /// A text form of another version.
    #[error("has a key format that this version does not know; install a newer knockpipe")]
    UnknownVersion,
    /// The checksum does not match the key.
    #[error("is damaged, its checksum does not match; copy it again")]
    Checksum,
}

/// Returns the key in the bytes of a key file of either form.
///
/// # Errors
/// [`BadKey`] if the bytes are too few or too many, or meant as the text form but damaged.
pub fn parse(bytes: &[u8]) -> Result<Key, BadKey> {
    if bytes.is_empty() {
        return Err(BadKey::Empty);
    }
    if bytes.len() > LONGEST {
        return Err(BadKey::Long);
    }
    if bytes.windows(FAMILY.len()).any(|window| window == FAMILY) {
        return parse_text(trim(bytes));
    }
    if bytes.len() < SHORTEST {
        return Err(BadKey::Short(bytes.len()));
    }
    Ok(Key::new(Secret::filled_by(|key| {
        Sha256::new_with_prefix(bytes).finalize_into(key.into());
    })))
}

/// Returns the text form of `key`: one line, newline included.
pub fn encode(key: &Key) -> Zeroizing<String> {
    let mut base64 = Zeroizing::new([0; BASE64_LEN]);
    STANDARD
        .encode_slice(key.secret().expose(), &mut base64[..])
        .expect("44 characters hold 32 bytes in base64");
    let base64 = str::from_utf8(&base64[..]).expect("base64 is ASCII");
    // Allocated for the whole line at once: growing would leave a copy of the key in memory.
    let mut line = Zeroizing::new(String::with_capacity(PREFIX.len() + BASE64_LEN + 11));
    for part in [PREFIX, " ", base64, " ", &checksum(key.secret()), "\n"] {
        line.push_str(part);
    }
    line
}

/// Removes the white space around the line that editors and other systems leave: space, tab, line
/// feed, form feed and carriage return.
fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

fn parse_text(line: &[u8]) -> Result<Key, BadKey> {
    let mut words = line.split(|byte| *byte == b' ');
    let prefix = words.next().ok_or(BadKey::Malformed)?;
    if prefix != PREFIX.as_bytes() {
        return Err(wrong_prefix(prefix));
    }
    let (Some(base64), Some(sum), None) = (words.next(), words.next(), words.next()) else {
        return Err(BadKey::Malformed);
    };
    let secret = decode(base64)?;
    if sum.len() != 8 || !sum.iter().all(u8::is_ascii_hexdigit) {
        return Err(BadKey::Malformed);
    }
    if !sum.eq_ignore_ascii_case(checksum(&secret).as_bytes()) {
        return Err(BadKey::Checksum);
    }
    Ok(Key::new(secret))
}

/// Returns the error for a prefix of another version, or of no key line at all.
fn wrong_prefix(prefix: &[u8]) -> BadKey {
    match prefix.strip_prefix(FAMILY) {
        Some(version) if !version.is_empty() && version.iter().all(u8::is_ascii_digit) => {
            BadKey::UnknownVersion
        }
        _ => BadKey::Malformed,
    }
}

fn decode(base64: &[u8]) -> Result<Secret<32>, BadKey> {
    if base64.len() != BASE64_LEN {
        return Err(BadKey::Malformed);
    }
    // The decoder needs space for its estimate of 33 bytes.
    let mut bytes = Zeroizing::new([0; 33]);
    let len = STANDARD.decode_slice(base64, &mut bytes[..]).map_err(|_| BadKey::Malformed)?;
    if len != 32 {
        return Err(BadKey::Malformed);
    }
    Ok(Secret::filled_by(|key| key.copy_from_slice(&bytes[..32])))
}

fn checksum(secret: &Secret<32>) -> String {
    labels::key_checksum(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(Secret::take(&mut [byte; 32]))
    }

    #[test]
    fn text_form_goes_both_ways() {
        let line = encode(&key(0x41));
        assert!(line.starts_with("knockpipe-key-1 QUFB"), "{}", *line);
        assert_eq!((line.len(), line.capacity()), (70, 70));
        assert!(parse(line.as_bytes()).unwrap().secret().same_as(key(0x41).secret()));
    }

    #[test]
    fn blank_around_the_line_is_harmless() {
        let line = encode(&key(1));
        for text in [line.trim_end().to_owned(), format!("{}\r\n\n", line.trim_end())] {
            assert_eq!(parse(text.as_bytes()).unwrap().id(), key(1).id());
        }
    }

    #[test]
    fn every_damaged_text_file_is_refused_and_not_hashed() {
        let line = encode(&key(1));
        for at in 0..line.len() - 1 {
            let mut damaged = line.as_bytes().to_vec();
            damaged[at] = if damaged[at] == b'0' { b'1' } else { b'0' };
            // With a damaged family name the file counts as random bytes.
            let refused = parse(&damaged).is_err();
            assert_eq!(refused, at >= FAMILY.len(), "byte {at}");
        }
        for end in FAMILY.len()..line.len() - 1 {
            assert!(parse(&line.as_bytes()[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let line = encode(&key(1)).trim_end().to_owned();
        let cases = [
            (String::new(), BadKey::Empty),
            ("short".into(), BadKey::Short(5)),
            (line.replace("key-1", "key-2"), BadKey::UnknownVersion),
            (line.replace("key-1", "key-x"), BadKey::Malformed),
            (line.replace("key-1", "key-"), BadKey::Malformed),
            (format!("{line} more"), BadKey::Malformed),
            (format!("# mine\n{line}\n"), BadKey::Malformed),
            (format!("\u{feff}{line}\n"), BadKey::Malformed),
            (format!("{line}\n{line}\n"), BadKey::Malformed),
            (line.replace(' ', "  "), BadKey::Malformed),
            (format!("{}00000000", &line[..line.len() - 8]), BadKey::Checksum),
            (format!("{}+0000000", &line[..line.len() - 8]), BadKey::Malformed),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), error, "{text:?}");
        }
    }

    /// "Before and after the line, bytes 09, 0A, 0C, 0D and 20 do not count. Nothing
    /// else is tolerated."
    #[test]
    fn white_space_is_tolerated_around_the_line_and_nowhere_else() {
        let line = encode(&key(1)).trim_end().as_bytes().to_vec();
        assert_eq!(line.len(), 69);
        let read = |bytes: &[u8]| parse(bytes).map(|read| read.id());
        for byte in 0..=u8::MAX {
            let blank = [0x09, 0x0a, 0x0c, 0x0d, 0x20].contains(&byte);
            for text in [
                [&[byte][..], &line].concat(),
                [&line[..], &[byte]].concat(),
                [&[byte, b' ', byte][..], &line, &[byte, b'\n', byte]].concat(),
            ] {
                let expected = if blank { Ok(key(1).id()) } else { Err(BadKey::Malformed) };
                // A digit after the version makes it another version.
                let read = read(&text);
                assert_eq!(read, expected, "{byte:#04x}");
            }
            // Inside, at both gaps: one space, and nothing besides it.
            for gap in [15, 60] {
                let mut other = line.clone();
                assert_eq!(other[gap], b' ');
                other[gap] = byte;
                assert_eq!(read(&other).is_ok(), byte == b' ', "{byte:#04x}");
                other[gap] = b' ';
                other.insert(gap, byte);
                assert!(read(&other).is_err(), "{byte:#04x}");
            }
        }
        for bom_or_wide in ["\u{feff}", "\u{a0}", "\u{2028}", "\u{3000}", "\u{85}"] {
            let text = [bom_or_wide.as_bytes(), &line].concat();
            assert_eq!(read(&text), Err(BadKey::Malformed), "{bom_or_wide:?}");
        }
        let (head, sum) = line.split_at(61);
        assert_eq!(read(&[head, &sum.to_ascii_uppercase()].concat()), Ok(key(1).id()));
        assert!(read(&[&line[..15].to_ascii_uppercase(), &line[15..]].concat()).is_ok(), "raw");
    }

    /// BASE64 encodes 32 bytes in the one canonical way.
    #[test]
    fn base64_is_canonical() {
        let line = encode(&key(1)).trim_end().to_owned();
        let base64 = line.split(' ').nth(1).unwrap();
        assert!(base64.ends_with("E="), "{base64}");
        for other in [
            base64.replace("E=", "F="),
            base64.replace("E=", "EA"),
            base64.replace("E=", "=="),
            base64.replace("E=", "E"),
            base64.replace("E=", "E=="),
            format!("-{}", &base64[1..]),
            format!("_{}", &base64[1..]),
        ] {
            let read = parse(line.replace(base64, &other).as_bytes()).unwrap_err();
            assert_eq!(read, BadKey::Malformed, "{other}");
        }
    }

    /// "A key file has 1 byte to 1 MiB, a raw one at least 32 bytes."
    #[test]
    fn sizes_are_exact_in_either_form() {
        for (length, expected) in [
            (0, Some(BadKey::Empty)),
            (1, Some(BadKey::Short(1))),
            (31, Some(BadKey::Short(31))),
            (32, None),
            (LONGEST, None),
            (LONGEST + 1, Some(BadKey::Long)),
        ] {
            assert_eq!(parse(&vec![7; length]).err(), expected, "{length} raw");
        }
        let line = encode(&key(1)).trim_end().as_bytes().to_vec();
        for (length, expected) in [(LONGEST, None), (LONGEST + 1, Some(BadKey::Long))] {
            let mut text = line.clone();
            text.resize(length, b'\n');
            assert_eq!(parse(&text).err(), expected, "{length} text");
        }
        // Recognised as the text form although it is short, or far into the file.
        assert_eq!(parse(b"knockpipe-key-").unwrap_err(), BadKey::Malformed);
        let mut far = vec![7; LONGEST - FAMILY.len()];
        far.extend_from_slice(FAMILY);
        assert_eq!(parse(&far).unwrap_err(), BadKey::Malformed);
        assert!(parse(&far[..LONGEST - 1]).is_ok(), "its last byte is missing");
    }

    #[test]
    fn raw_bytes_are_hashed() {
        // SHA-256 of 32 zero bytes, computed by sha256sum.
        let expected = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
        let key = parse(&[0; 32]).unwrap();
        let hex: String = key.secret().expose().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(parse(&[0; 31]).unwrap_err(), BadKey::Short(31));
        assert_ne!(parse(&[0; 33]).unwrap().id(), key.id());
    }
}
