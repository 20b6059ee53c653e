//! Names of other programs that people type out of habit, with the names used here.
//!
//! None of them is accepted: two names for one flag would have to be explained for ever. The
//! error names the right one.

use clap::{Arg, Command};
use strsim::osa_distance;

use crate::addr::ServiceName;

/// Flags of spiped, stunnel, ghostunnel, socat and the like.
const FLAGS: [(&[&str], &str); 22] = [
    (
        &["listen", "accept", "local", "listen-address", "listen-addr", "src", "l", "L"],
        "write -s ADDR (where to listen)",
    ),
    (
        &["connect", "remote", "forward", "backend", "upstream", "destination", "dest", "dst"],
        "write -t ADDR (where to forward)",
    ),
    (
        &["port", "host", "listen-port", "source-port", "target-port", "hostname"],
        "write it as a part of the address: -s HOST:PORT, -t HOST:PORT",
    ),
    (&["verbose", "debug", "v", "vv"], "write --log-level debug"),
    (&["quiet", "silent", "q"], "write --log-level warn"),
    (&["daemon", "daemonize", "background", "fork", "detach"], BACKGROUND),
    (&["foreground", "no-daemon", "nodaemon", "no-fork", "nofork", "F"], FOREGROUND),
    (
        &["config", "config-file", "conf", "configuration", "c"],
        "a configuration file is run with 'knockpipe run -c FILE'",
    ),
    (
        &["keyfile", "key-file", "secret", "psk", "psk-file", "psksecrets", "password"],
        "write -k FILE, with a file of 'knockpipe keygen'",
    ),
    (
        &["cert", "certificate", "cacert", "ca", "ca-file", "cafile", "keystore", "tls", "ssl"],
        "there are no certificates here; write -k FILE, the same key file at both ends",
    ),
    (&["pid", "pidfile", "pid-path"], "write -p FILE"),
    (&["log", "log-file", "logfile", "output"], "redirect standard error, or write --syslog"),
    (&["group", "uid", "gid", "setuid", "setgid"], "write -u USER:GROUP"),
    (&["chroot", "chdir"], "leave it out, the process restricts itself to the files in use"),
    (&["client", "encrypt"], "the end next to the clients is 'knockpipe encrypt'"),
    (&["server", "decrypt"], "the end next to the server is 'knockpipe decrypt'"),
    (&["maxconn", "max-connections", "max-conns"], "write -n N"),
    (&["keepalive", "tcp-keepalive"], "leave it out, keepalive is on unless -j is given"),
    (&["unix", "socket", "unix-socket"], "write the path as the address, such as -s /PATH"),
    (
        &["proxy", "proxy-protocol"],
        "write --proxy-from NET for headers that come in, --proxy-to-target v1|v2 to send them",
    ),
    (&["stats", "status", "stats-socket"], "write --admin PATH, and ask with 'knockpipe status'"),
    (&["reload"], "order it with 'knockpipe reload', or send SIGHUP"),
];

const BACKGROUND: &str = "leave it out, this command stays in the foreground; \
                          'knockpipe -e' and 'knockpipe -d' go to the background, as spiped does";

const FOREGROUND: &str = "leave it out, this command stays in the foreground";

/// Flags for the name of a gate, where `--gate` is the address of a store.
const GATE_NAMES: [&str; 2] = ["knock-gate", "gate-name"];

/// Commands of other programs.
const COMMANDS: [(&[&str], &str); 10] = [
    (&["version"], "write 'knockpipe --version'"),
    (&["start", "daemon", "serve"], "write 'knockpipe run -c FILE', or encrypt or decrypt"),
    (&["stop", "quit", "shutdown", "end"], "write 'knockpipe drain', or send SIGTERM"),
    (&["restart"], "write 'knockpipe reload' to read the file again; see also --handover"),
    (&["client", "connect"], "the end next to the clients is 'knockpipe encrypt'"),
    (&["server", "listen"], "the end next to the server is 'knockpipe decrypt'"),
    (&["genkey", "key", "newkey", "gen-key"], "write 'knockpipe keygen FILE'"),
    (&["test", "validate", "verify", "configtest"], "write 'knockpipe check -c FILE'"),
    (&["ps", "sessions", "connections", "clients"], "write 'knockpipe who'"),
    (&["disconnect", "terminate"], "write 'knockpipe kick'"),
];

/// The keys of a configuration file for flags of other programs.
const KEYS: [(&[&str], &str); 9] = [
    (&["listen", "accept", "local", "bind-address", "src"], "source"),
    (&["connect", "remote", "forward", "backend", "upstream", "dest", "dst"], "target"),
    (&["keyfile", "key-file", "secret", "psk", "keys", "password"], "key"),
    (&["sources"], "source"),
    (&["targets"], "target"),
    (&["type", "role", "direction", "client", "server"], "mode"),
    (&["verbose", "debug", "quiet", "loglevel"], "log-level"),
    (&["pid", "pidfile"], "pid-file"),
    (&["maxconn", "max-connections"], "max-sessions"),
];

/// Returns the remedy for a flag of another program; `word` is the flag without its hyphens.
pub(super) fn of_flag(word: &str, is_spiped: bool) -> Option<&'static str> {
    match looked_up(&FLAGS, word)? {
        FOREGROUND if is_spiped => Some("write -F"),
        BACKGROUND if is_spiped => Some("leave it out, without -F it goes to the background"),
        remedy => Some(remedy),
    }
}

/// Returns the remedy for a command of another program.
pub(super) fn of_command(word: &str) -> Option<&'static str> {
    looked_up(&COMMANDS, word)
}

/// Returns the key that another program calls by this name.
pub(super) fn of_key(word: &str) -> Option<&'static str> {
    looked_up(&KEYS, word)
}

fn looked_up(table: &[(&[&str], &'static str)], word: &str) -> Option<&'static str> {
    table.iter().find(|(words, _)| words.contains(&word)).map(|(_, answer)| *answer)
}

/// Returns the one of `known` that `word` misspells or begins.
pub(super) fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    let known: Vec<&str> = known.into_iter().collect();
    misspelled(&word, known.iter().copied()).or_else(|| {
        let mut longer = known.iter().filter(|one| word.len() > 2 && one.starts_with(&*word));
        longer.next().filter(|_| longer.next().is_none()).copied()
    })
}

/// Returns the one of `known` that `word` misspells.
pub(super) fn misspelled<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = if word.len() < 5 { 1 } else { 2 };
    let rated = known.map(|one| (osa_distance(word, one), one));
    rated.filter(|(far, _)| *far <= most).min().map(|(_, one)| one)
}

/// Returns the remedy where `--gate` of the command `here` has the name of a gate: such as one that
/// `knock --gate` asks for.
pub(super) fn of_gate_name(here: &Command, flag: &str, value: &str) -> Option<String> {
    let is_name = flag == "gate" && !value.is_empty() && value.parse::<ServiceName>().is_ok();
    let mut known = here.get_arguments().filter_map(Arg::get_long).filter(|_| is_name);
    let by_name = known.find(|flag| GATE_NAMES.contains(flag))?;
    Some(format!("write --{by_name} NAME for a gate by its name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["timeout", "version", "idle-timeout", "suite", "pool", "key"];
        for (word, meant) in [
            ("timout", Some("timeout")),
            ("verison", Some("version")),
            ("Time_out", Some("timeout")),
            ("idle", Some("idle-timeout")),
            ("poll", Some("pool")),
            ("listen", None),
            ("daemon", None),
            ("k", None),
        ] {
            assert_eq!(near(word, known), meant, "{word}");
        }
    }
}
