//! The back end for nftables with the real `nft`, in a network namespace of its own.
//!
//! Needs root, for the namespace, and nftables.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use knockpipe_base::unix_time::{Expiry, UnixMillis};
use knockpipe_firewall::nftables::{Hooks, Nftables, NftablesOptions, find};
use knockpipe_firewall::{AtExit, Backend, Entries, Entry, Retry, reconcile};
use testkit::netns::Namespace;

/// Tables of other programs.
const FOREIGN: &str = "table inet other {
    set names { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 } }
    chain input { type filter hook input priority 0; policy accept; tcp dport 22 accept; }
}
table ip nat {
    chain prerouting { type nat hook prerouting priority -100; tcp dport 8080 dnat to 10.0.0.2:80; }
}
";

fn options() -> NftablesOptions {
    NftablesOptions {
        program: find().unwrap(),
        table: "knockpipe".to_owned(),
        ports: "22,5000-5010,514/udp".parse().unwrap(),
        hooks: Hooks { input: true, forward: false },
        cut: false,
        reject: false,
    }
}

/// Runs asynchronous work in a new namespace.
fn in_namespace<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send) {
    let host = Namespace::unique("kpf");
    host.nft(FOREIGN);
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    });
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new(find().unwrap()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?} {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn foreign() -> String {
    nft(&["-s", "list", "table", "inet", "other"]) + &nft(&["-s", "list", "table", "ip", "nat"])
}

/// Returns the chains of the table, with lines in no order: which set is asked first is no matter.
fn rules() -> BTreeSet<String> {
    let text = nft(&["-s", "list", "table", "inet", "knockpipe"]);
    let (_, chains) = text.split_once("chain").unwrap();
    chains.lines().map(str::to_owned).collect()
}

/// Returns the end of something that lasts for so long.
fn after(seconds: u64) -> Expiry {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = UnixMillis(u64::try_from(since.as_millis()).unwrap());
    Expiry::after(now, Some(Duration::from_secs(seconds)))
}

fn entries(all: &[(&str, Expiry)]) -> Entries {
    let entry = |(network, end): &(&str, Expiry)| {
        Entry::new(network.parse::<IpNet>().unwrap_or_else(|_| panic!("{network}")), *end)
    };
    all.iter().map(entry).collect()
}

/// Makes what is there what is wanted, as the program does.
async fn reach(nftables: &mut Nftables, wanted: &Entries) {
    let present = nftables.present().await.unwrap();
    let present = nftables.damage().map_or(present, |_| Entries::default());
    let steps = reconcile(wanted, &present, nftables.keeps());
    nftables.apply(&steps).await.unwrap();
    let present = nftables.present().await.unwrap();
    assert_eq!(reconcile(wanted, &present, nftables.keeps()), []);
    assert_eq!(nftables.damage(), None);
}

#[test]
fn any_entries_become_any_others_and_foreign_tables_stay_byte_for_byte() {
    in_namespace(|| async {
        let before = foreign();
        let mut nftables = Nftables::new(options());
        nftables.prepare().await.unwrap();
        let ends = [Expiry::Never, after(60), after(100_000_000)];
        for end in ends {
            for wanted in [
                &[("192.0.2.7/32", end), ("2001:db8::7/128", end), ("10.0.0.0/8", end)][..],
                &[("192.0.2.7/32", after(600)), ("10.0.0.0/9", end), ("10.128.0.0/9", after(90))],
                &[("10.0.0.0/10", end), ("10.64.0.0/10", after(70)), ("10.64.0.1/32", after(80))],
                &[("0.0.0.0/0", end), ("::/0", Expiry::Never)],
                &[("0.0.0.0/1", end), ("::/1", end), ("8000::/1", end)],
                &[],
            ] {
                reach(&mut nftables, &entries(wanted)).await;
            }
        }
        assert_eq!(foreign(), before);
        nftables.at_exit(AtExit::Keep).await.unwrap();
        assert!(nft(&["list", "tables"]).contains("inet knockpipe"));
        nftables.at_exit(AtExit::Remove).await.unwrap();
        nftables.at_exit(AtExit::Remove).await.unwrap();
        assert_eq!(nft(&["list", "tables"]), "table inet other\ntable ip nat\n");
        assert_eq!(foreign(), before);
    });
}

#[test]
fn what_others_do_to_the_table_is_noticed_and_repaired() {
    in_namespace(|| async {
        let mut nftables = Nftables::new(options());
        nftables.prepare().await.unwrap();
        let wanted = entries(&[("192.0.2.7/32", after(600)), ("10.0.0.0/8", Expiry::Never)]);
        reach(&mut nftables, &wanted).await;
        let right = rules();
        for damage in [
            "flush ruleset",
            "delete table inet knockpipe",
            "flush table inet knockpipe",
            "flush chain inet knockpipe input",
            "flush set inet knockpipe ipv4_32",
            "add element inet knockpipe ipv4_32 { 192.0.2.66 }",
            "add element inet knockpipe ipv4_8 { 11.0.0.0 timeout 1h }",
            "insert rule inet knockpipe guard accept",
            "add chain inet knockpipe extra { type filter hook input priority 5; policy drop; }",
            "add map inet knockpipe mine { type ipv4_addr : verdict; }",
            "add table inet knockpipe { flags dormant; }",
            "flush set inet knockpipe ipv4_8; add element inet knockpipe ipv4_8 { 12.0.0.1 }",
        ] {
            nft(&[damage]);
            tokio::time::timeout(Duration::from_secs(5), nftables.altered()).await.unwrap();
            nftables.prepare().await.unwrap();
            reach(&mut nftables, &wanted).await;
            assert_eq!(rules(), right, "{damage}");
        }
        // What it does itself is no such news.
        nftables.prepare().await.unwrap();
        let present = nftables.present().await.unwrap();
        let other = entries(&[("192.0.2.8/32", after(600))]);
        nftables.apply(&reconcile(&other, &present, nftables.keeps())).await.unwrap();
        let news = tokio::time::timeout(Duration::from_secs(1), nftables.altered()).await;
        assert!(news.is_err(), "its own change is taken for another program's");
    });
}

#[test]
fn a_removal_of_what_has_just_ended_is_no_failure() {
    in_namespace(|| async {
        let mut nftables = Nftables::new(options());
        nftables.prepare().await.unwrap();
        let wanted = entries(&[("192.0.2.7/32", after(1)), ("10.0.0.0/8", after(1))]);
        reach(&mut nftables, &wanted).await;
        let steps = reconcile(&Entries::default(), &wanted, nftables.keeps());
        let listed = || nft(&["list", "table", "inet", "knockpipe"]);
        testkit::wait::eventually("the kernel ends it", || !listed().contains("expires"));
        nftables.apply(&steps).await.unwrap();
        assert!(nftables.present().await.unwrap().is_empty());
    });
}

/// Every set of flags makes rules that the kernel takes, and a change from one to another is one
/// transaction.
#[test]
fn the_table_follows_other_options() {
    in_namespace(|| async {
        let mut seen = BTreeSet::new();
        for flags in 0..16 {
            let is = |bit: u32| flags & (1 << bit) != 0;
            let hooks = Hooks { input: !is(1) || !is(0), forward: is(0) };
            let mut nftables =
                Nftables::new(NftablesOptions { hooks, cut: is(2), reject: is(3), ..options() });
            nftables.prepare().await.unwrap();
            reach(&mut nftables, &Entries::default()).await;
            let mut same =
                Nftables::new(NftablesOptions { hooks, cut: is(2), reject: is(3), ..options() });
            same.present().await.unwrap();
            assert_eq!(
                same.damage(),
                None,
                "{}",
                nft(&["-j", "list", "table", "inet", "knockpipe"])
            );
            let text = nft(&["-s", "list", "table", "inet", "knockpipe"]);
            assert_eq!(text.contains("hook input"), hooks.input, "{text}");
            assert_eq!(text.contains("hook forward"), hooks.forward, "{text}");
            seen.insert(text);
        }
        assert_eq!(seen.len(), 12);
    });
}

#[test]
fn what_stands_in_the_way_is_named_with_a_remedy() {
    in_namespace(|| async {
        let mut nftables =
            Nftables::new(NftablesOptions { ports: "22,8080".parse().unwrap(), ..options() });
        let found = nftables.obstacles().await.unwrap();
        let [redirect] = &found[..] else { panic!("{found:?}") };
        assert!(
            redirect.contains("8080/tcp") && redirect.contains("--hook input,forward"),
            "{redirect}"
        );
        nft(&["add chain inet other late { type filter hook input priority 5; policy drop; }"]);
        nft(&["add rule inet other input tcp dport 22 drop"]);
        nft(&["delete table ip nat"]);
        let found = nftables.obstacles().await.unwrap();
        let [refusal, default] = &found[..] else { panic!("{found:?}") };
        assert!(refusal.contains("refuses 22/tcp") && refusal.contains("; who"), "{refusal}");
        assert!(default.contains("late drops by default") && default.contains("8080"), "{default}");
    });
}

/// With nothing, other options, and the same ones: each is left alone if it is not ours.
#[test]
fn a_table_of_somebody_else_is_neither_changed_nor_removed() {
    in_namespace(|| async {
        let before = foreign();
        let own = NftablesOptions { table: "other".to_owned(), ..options() };
        let mut nftables = Nftables::new(own);
        for result in [
            nftables.prepare().await,
            nftables.present().await.map(drop),
            nftables.at_exit(AtExit::Remove).await,
        ] {
            let error = result.unwrap_err();
            assert!(error.to_string().contains("choose another --table"), "{error}");
            assert_eq!(error.retry, Retry::Never);
        }
        assert_eq!(foreign(), before);
    });
}

#[test]
fn a_table_is_made_with_its_elements_in_one_transaction() {
    in_namespace(|| async {
        let mut nftables = Nftables::new(options());
        nftables.prepare().await.unwrap();
        assert!(nftables.damage().unwrap().contains("missing"));
        assert!(!nft(&["list", "tables"]).contains("knockpipe"), "a look changes nothing");
        let wanted = entries(&[("192.0.2.7/32", after(600)), ("10.0.0.0/8", Expiry::Never)]);
        let steps = reconcile(&wanted, &Entries::default(), nftables.keeps());
        let [line] = &nftables.describe(&steps)[..] else { panic!("more than one document") };
        assert!(line.contains("192.0.2.7") && line.contains("delete"), "{line}");
        reach(&mut nftables, &wanted).await;
        let mut same = Nftables::new(options());
        same.present().await.unwrap();
        assert_eq!(same.damage(), None);
        let other = NftablesOptions { cut: true, ..options() };
        let mut check = Nftables::new(other);
        check.present().await.unwrap();
        assert!(check.damage().unwrap().contains("other chains"), "settings are compared, too");
    });
}

/// The one that came later gives way.
#[test]
fn a_second_process_with_other_settings_leaves_the_table_to_the_first() {
    in_namespace(|| async {
        let mut first = Nftables::new(options());
        let wanted = entries(&[("192.0.2.7/32", Expiry::Never)]);
        first.prepare().await.unwrap();
        reach(&mut first, &wanted).await;
        let right = rules();
        let mut second = Nftables::new(NftablesOptions { cut: true, ..options() });
        second.prepare().await.unwrap();
        reach(&mut second, &wanted).await;
        first.prepare().await.unwrap();
        reach(&mut first, &wanted).await;
        let error = second.prepare().await.unwrap_err();
        assert!(error.to_string().contains("another process keeps"), "{error}");
        assert!(second.at_exit(AtExit::Remove).await.is_err());
        assert_eq!(rules(), right);
    });
}
