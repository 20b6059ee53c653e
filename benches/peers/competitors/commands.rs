//! Configuration of each competitor: its defaults, with limits raised so far that every load fits,
//! and with both ends of a TLS pair showing a certificate, because both ends of ours and of spiped
//! know each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Competitor, Files};
use testkit::end::binary;

const AES: &str = "TLS_AES_256_GCM_SHA384";
const CHACHA: &str = "TLS_CHACHA20_POLY1305_SHA256";

/// One end of a pair: the address where it listens, and the one that it connects to.
pub(super) struct Hop {
    /// Next to the client, where plain becomes sealed.
    pub(super) near: bool,
    pub(super) listen: SocketAddr,
    pub(super) to: SocketAddr,
}

pub(super) fn of(
    competitor: Competitor,
    hop: &Hop,
    files: &Files,
    dir: &Path,
) -> anyhow::Result<Command> {
    Ok(match competitor {
        Competitor::Direct => anyhow::bail!("a direct connection has no ends"),
        Competitor::Haproxy => haproxy(hop, dir, ["", ""])?,
        Competitor::HaproxyTls => {
            let pem = files.pem().display().to_string();
            let suite = format!("ciphersuites {AES} ca-file {pem} crt {pem} verify required");
            let words = if hop.near { ["", &suite] } else { [&suite, ""] };
            haproxy(hop, dir, words)?
        }
        Competitor::Spiped => spiped(hop, files),
        Competitor::StunnelAes => stunnel(hop, files, dir, AES)?,
        Competitor::StunnelChacha => stunnel(hop, files, dir, CHACHA)?,
        Competitor::Knockpipe => knockpipe(hop, files, &[]),
        Competitor::KnockpipeChacha => knockpipe(hop, files, &["--suite", "chacha20-poly1305"]),
        Competitor::KnockpipePool if hop.near => knockpipe(hop, files, &["--pool", "4"]),
        Competitor::KnockpipePool => knockpipe(hop, files, &[]),
    })
}

/// Its defaults, padding and log included; only the number of sessions is raised.
fn knockpipe(hop: &Hop, files: &Files, words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .arg(if hop.near { "encrypt" } else { "decrypt" })
        .arg("-k")
        .arg(files.knockpipe_key())
        .args(["-s", &hop.listen.to_string(), "-t", &hop.to.to_string(), "-n", "0"])
        .args(words);
    command
}

fn spiped(hop: &Hop, files: &Files) -> Command {
    let socket = |addr: SocketAddr| format!("[{}]:{}", addr.ip(), addr.port());
    let mut command = Command::new("spiped");
    command
        .arg(if hop.near { "-e" } else { "-d" })
        .args(["-F", "-n", "0", "-s", &socket(hop.listen), "-t", &socket(hop.to), "-k"])
        .arg(files.spiped_key());
    command
}

fn stunnel(hop: &Hop, files: &Files, dir: &Path, suite: &str) -> anyhow::Result<Command> {
    let client = if hop.near { "yes" } else { "no" };
    let pem = files.pem();
    let config = format!(
        "foreground = yes\npid =\ndebug = err\n[pair]\nclient = {client}\n\
         accept = {}\nconnect = {}\ncert = {pem}\nCAfile = {pem}\nverifyChain = yes\n\
         sslVersionMin = TLSv1.3\nciphersuites = {suite}\n",
        hop.listen,
        hop.to,
        pem = pem.display(),
    );
    let file = write(&config, dir, hop)?;
    let mut command = Command::new("stunnel");
    command.arg(file);
    Ok(command)
}

/// Configures haproxy; `words` are for the lines `bind` and `server`.
fn haproxy(hop: &Hop, dir: &Path, words: [&str; 2]) -> anyhow::Result<Command> {
    let [bind, server] =
        words.map(|w| if w.is_empty() { w.to_owned() } else { format!("ssl {w}") });
    let config = format!(
        "global\n maxconn 9000\n\
         defaults\n mode tcp\n maxconn 9000\n backlog 4096\n timeout connect 5s\n \
         timeout client 1h\n timeout server 1h\n\
         listen pair\n bind {} {bind}\n server only {} {server}\n",
        hop.listen, hop.to
    );
    let file = write(&config, dir, hop)?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(file);
    Ok(command)
}

fn write(config: &str, dir: &Path, hop: &Hop) -> anyhow::Result<PathBuf> {
    let file = dir.join(if hop.near { "near.conf" } else { "far.conf" });
    std::fs::write(&file, config)?;
    Ok(file)
}
