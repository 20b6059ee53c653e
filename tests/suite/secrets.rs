//! No output of the program, at any log level, holds key bytes.

use std::fs;
use std::iter::repeat_n;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use testkit::middleman::{Act, Edit, Middleman, Toward};
use testkit::{Addr, Launch, NEVER, Target, Wire, binary, keygen};

/// The shortest piece of a key that counts as a leak, in bytes. Shorter ones
/// turn up by chance in a log of this size.
const PIECE: usize = 6;

/// The output of each program, with a name for it.
type Captures = Vec<(String, Vec<u8>)>;

/// "a run at trace level with captured output contains no key
/// bytes in hex, base64 or raw": keygen, key-id, both ends, pipe, a wrong key,
/// a tampered record, broken key files, in both log formats.
#[test]
fn a_run_at_trace_level_contains_no_key_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = Captures::new();
    let mut keys = Vec::new();
    let mut pairs = Vec::new();
    for format in ["json", "text"] {
        let text = dir.path().join(format!("{format}.key"));
        said.push(("keygen".into(), all(&run(Command::new(binary()).arg("keygen").arg(&text)))));
        said.push(("key-id".into(), all(&run(Command::new(binary()).arg("key-id").arg(&text)))));
        let raw = raw_key(dir.path(), &format!("{format}.raw"));
        let wrong = keygen(dir.path(), &format!("{format}.wrong"));
        broken_files(dir.path(), &text, &mut said);
        for key in [&text, &raw] {
            let (key, wrong) = (key.clone(), wrong.clone());
            pairs.push(thread::spawn(move || tunnel(&key, &wrong, format)));
        }
        keys.extend([text, raw, wrong]);
    }
    for pair in pairs {
        said.extend(pair.join().unwrap());
    }
    let total: usize = said.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("{} captures, {total} bytes", said.len());
    assert!(total > 10_000, "trace level says more than {total} bytes");
    let secrets: Vec<_> = keys.iter().flat_map(|key| secrets_in(key)).collect();
    for (name, bytes) in &said {
        let text = Said::new(bytes);
        secrets.iter().for_each(|secret| no_trace(secret, &text, name));
    }
}

/// The search finds keys where there are some: otherwise the test above proves nothing.
#[test]
fn the_search_finds_every_spelling_of_a_key() {
    let key: Vec<u8> = (0..32).map(|i: u8| i.wrapping_mul(37) ^ 0xa5).collect();
    let hex = testkit::data::hex(&key);
    let shifted = STANDARD_NO_PAD.encode([b"xx", &key[3..]].concat());
    let json = format!("{:?}", key.escape_ascii().to_string());
    let spellings = [
        hex.clone().into_bytes(),
        hex.to_uppercase().into_bytes(),
        STANDARD_NO_PAD.encode(&key).into_bytes(),
        URL_SAFE_NO_PAD.encode(&key[1..]).into_bytes(),
        shifted.into_bytes(),
        format!("{:?}", &key[4..12]).into_bytes(),
        format!("{:#?}", &key[4..12]).into_bytes(),
        format!("{:02x?}", &key[4..12]).into_bytes(),
        format!("{:#04x?}", &key[4..12]).into_bytes(),
        json.into_bytes(),
        key[20..].to_vec(),
    ];
    for spelling in spellings {
        let text = Said::new(&[b"a line with ", &*spelling, b" in it"].concat());
        let found = std::panic::catch_unwind(|| no_trace(&key, &text, "itself"));
        assert!(found.is_err(), "not found: {}", String::from_utf8_lossy(&spelling));
    }
}

/// Runs both ends, clients, a stranger, a wrong key and a tampered record.
fn tunnel(key: &Path, wrong: &Path, format: &str) -> Captures {
    let mut said = Captures::new();
    let target = Target::echo();
    let loud = ["--log-level", "trace", "-o", "1s"];
    let any = Addr::parse("127.0.0.1:0").unwrap();
    let shape = |launch: Launch| if format == "text" { launch.text_log() } else { launch };
    let decrypt = Launch::decrypt(key).source(&any).target(target.addr()).args(loud);
    let mut decrypt = shape(decrypt).start();
    let middle = Middleman::start(decrypt.addr());
    let mut ends = Vec::new();
    for key in [key, wrong] {
        let encrypt = Launch::encrypt(key).source(&any).target(middle.addr()).args(loud);
        ends.push(shape(encrypt).start());
    }
    let mut good = ends[0].connect();
    good.expect_echo(b"hello");
    drop(good);
    let flip = Act::Flip { byte: 9, bit: 3 };
    for (toward, frame) in [(Toward::Acceptor, 0), (Toward::Acceptor, 2), (Toward::Dialer, 1)] {
        // A first message that gets no answer is followed by another.
        let edits = if frame == 0 { 2 } else { 1 };
        let edit = Edit { toward, frame, act: flip.clone() };
        middle.edit_next(repeat_n(edit, edits));
        let mut cut = ends[0].connect();
        assert!(!cut.echoes(b"hello", NEVER), "tampering goes unnoticed");
    }
    assert!(!ends[1].connect().echoes(b"hello", NEVER), "a wrong key gets through");
    let mut stranger = Wire::connect(decrypt.addr()).unwrap();
    assert!(!stranger.echoes(&[0x55; 400], NEVER), "a stranger gets an answer");
    said.push(("pipe".into(), pipe(key, decrypt.addr(), format)));
    said.push(("pipe with a wrong key".into(), pipe(wrong, decrypt.addr(), format)));
    for end in ends.iter_mut().chain([&mut decrypt]) {
        end.stop();
        said.push((format!("end {}", end.pid()), end.program.raw_lines().join(&b'\n')));
    }
    said
}

/// Sends one line through `pipe`, and returns its stderr.
fn pipe(key: &Path, to: &Addr, format: &str) -> Vec<u8> {
    let mut command = Command::new(binary());
    command.args(["pipe", "-t", &to.to_string(), "-o", "1s", "--log-level", "trace"]);
    command.args(["--log-format", format, "-k"]).arg(key);
    all(&run(&mut command))
}

/// Key files that are refused: the complaint must not quote them.
fn broken_files(dir: &Path, good: &Path, said: &mut Captures) {
    let text = fs::read_to_string(good).unwrap();
    let mut checksum = text.trim_end().to_owned();
    let last = if checksum.pop() == Some('0') { '1' } else { '0' };
    checksum.push(last);
    let short = text.trim_end().rsplit_once(' ').unwrap().0.to_owned();
    let typo = text.replacen("knockpipe-key-1 ", "knockpipe-key-1  ", 1);
    for (name, content) in [("checksum", checksum), ("short", short), ("typo", typo)] {
        let file = dir.join(name);
        let _ = fs::remove_file(&file);
        write_private(&file, content.as_bytes());
        for command in ["key-id", "pipe"] {
            let mut refused = Command::new(binary());
            match command {
                "key-id" => refused.arg("key-id").arg(&file),
                _ => refused.args(["pipe", "-t", "127.0.0.1:1", "-k"]).arg(&file),
            };
            said.push((format!("{command} {name}"), all(&run(&mut refused))));
        }
    }
}

/// Writes a key file of arbitrary bytes, as spiped takes it.
fn raw_key(dir: &Path, name: &str) -> PathBuf {
    let file = dir.join(name);
    let mut bytes = vec![0; 48];
    let mut source = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut source, &mut bytes).unwrap();
    write_private(&file, &bytes);
    file
}

fn write_private(file: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file).unwrap().write_all(bytes).unwrap();
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("knockpipe starts")
}

fn all(output: &Output) -> Vec<u8> {
    [&output.stdout[..], &output.stderr[..]].concat()
}

/// Returns the secret bytes behind a key file: the key itself, and the file's content.
fn secrets_in(file: &Path) -> Vec<Vec<u8>> {
    let content = fs::read(file).unwrap();
    if let Some(text) = content.strip_prefix(b"knockpipe-key-1 ") {
        let encoded = text.split(|&b| b == b' ').next().unwrap();
        let encoded: Vec<u8> = encoded.iter().copied().filter(|&b| b != b'=').collect();
        let key = STANDARD_NO_PAD
            .decode(&encoded)
            .or_else(|_| URL_SAFE_NO_PAD.decode(&encoded))
            .expect("keygen writes base64");
        assert_eq!(key.len(), 32);
        return vec![key];
    }
    vec![Sha256::digest(&content).to_vec(), content]
}

/// Panics when a piece of `secret` stands in `text`, in any spelling.
fn no_trace(secret: &[u8], text: &Said, name: &str) {
    for piece in secret.windows(PIECE) {
        assert!(!contains(&text.raw, piece), "raw key bytes in {name}");
        let escaped = piece.escape_ascii().to_string();
        assert!(!text.unescaped.contains(&escaped), "escaped key bytes in {name}");
        let hex = testkit::data::hex(piece);
        assert!(!text.hex_digits.contains(&hex), "key bytes in hex in {name}");
        let list = piece.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        assert!(!text.squeezed.contains(&list), "key bytes as a list in {name}");
    }
    // Every three bytes are four characters, at any offset of the encoding.
    for piece in secret.windows(9) {
        for encoded in [STANDARD_NO_PAD.encode(piece), URL_SAFE_NO_PAD.encode(piece)] {
            assert!(!contains(&text.raw, encoded.as_bytes()), "key bytes in base64 in {name}");
        }
    }
}

/// The output of a program, in the forms that are searched.
struct Said {
    raw: Vec<u8>,
    /// With single backslashes again, which JSON doubles.
    unescaped: String,
    /// Without white space: a list of numbers over many lines is one.
    squeezed: String,
    /// Only the hexadecimal digits: `1a2b`, `1A:2B` and `[0x1a, 0x2b]` are the same.
    hex_digits: String,
}

impl Said {
    fn new(raw: &[u8]) -> Self {
        let text = String::from_utf8_lossy(raw);
        let squeezed: String = text.split_whitespace().collect();
        let mut hex_digits = squeezed.to_ascii_lowercase().replace("0x", "");
        hex_digits.retain(|c| c.is_ascii_hexdigit());
        Self { raw: raw.to_owned(), unescaped: text.replace("\\\\", "\\"), squeezed, hex_digits }
    }
}

fn contains(text: &[u8], piece: &[u8]) -> bool {
    text.windows(piece.len()).any(|window| window == piece)
}
