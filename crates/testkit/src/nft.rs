//! Counts the packets that a namespace sends, with the packet filter of the kernel.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::program::require;

/// Counts what leaves the namespace of the caller, without what neighbours need to find each other.
const RULES: &str = "table inet knockpipe_test {
    counter sent { }
    chain out {
        type filter hook output priority 0;
        oifname \"lo\" accept
        icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report, mld-listener-report } accept
        counter name sent
    }
}
";

/// A counter of packets in one namespace. Everything is called there.
#[derive(Debug)]
pub struct Sent(());

impl Sent {
    /// Begins to count.
    #[track_caller]
    pub fn begin() -> Self {
        require("nft", "nftables");
        let mut child = nft().args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(RULES.as_bytes()).expect("nft reads its rules");
        drop(stdin);
        assert!(child.wait().expect("nft ends").success(), "nft fails, see above");
        Self(())
    }

    /// Returns the number of packets so far.
    #[track_caller]
    pub fn packets(&self) -> u64 {
        let args = ["-j", "list", "counter", "inet", "knockpipe_test", "sent"];
        let output = nft().args(args).output().expect("nft starts");
        let listed: Value = serde_json::from_slice(&output.stdout).expect("nft prints JSON");
        let all = listed["nftables"].as_array().expect("it is a list");
        let packets = all.iter().find_map(|item| item["counter"]["packets"].as_u64());
        packets.unwrap_or_else(|| panic!("no counter in {listed}"))
    }
}

/// Returns the command `nft`, also where sbin is not on the path.
fn nft() -> Command {
    let mut command = Command::new("nft");
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    command
}
