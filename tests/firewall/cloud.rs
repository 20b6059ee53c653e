//! The firewall of a cloud, with a stand-in for its API.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use testkit::cloud::Date;
use testkit::cloud::{Cloud, CloudServer, Failure, INSTANCES, REGION, SECRET_ID, SECRET_KEY, rule};
use testkit::redis::Redis;
use testkit::tree::read;
use testkit::{End, Launch, Program, any, binary, eventually};

/// A store and a cloud.
struct Site {
    redis: Redis,
    server: CloudServer,
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Self { redis: Redis::start(), server: CloudServer::start(), dir };
        site.write_secret("account", &format!("{SECRET_ID}\n{SECRET_KEY}\n"));
        site
    }

    /// Writes a file that only its owner may read, and returns its path.
    fn write_secret(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn flags(&self, ports: &str, instances: &str) -> Vec<String> {
        let account = self.dir.path().join("account").to_str().unwrap().to_owned();
        let (gate, url) = (self.redis.url(), self.server.url());
        ["--backend", "lighthouse", "--ports", ports, "--gate", &gate]
            .into_iter()
            .chain(["--lighthouse-endpoint", &url, "--lighthouse-region", REGION])
            .chain(["--lighthouse-instances", instances, "--lighthouse-credentials", &account])
            .map(str::to_owned)
            .collect()
    }

    /// Waits until an instance has these rules, each as the beginning of a line.
    fn expect(&self, instance: &str, rules: &[&str]) {
        eventually(&format!("{instance} has {rules:?}"), || {
            let there = self.server.cloud().rules(instance);
            let mut pairs = there.iter().zip(rules);
            there.len() == rules.len() && pairs.all(|(rule, wanted)| rule.starts_with(wanted))
        });
    }
}

#[test]
fn an_entry_becomes_rules_on_every_instance_and_they_go_with_it() {
    let site = Site::new();
    let foreign = rule("TCP", "443", "0.0.0.0/0", "HTTPS for all");
    site.server.cloud().instances.get_mut(INSTANCES[0]).unwrap().rules.push(foreign);
    let flags = site.flags("80,443,51820/udp", &INSTANCES.join(","));
    let firewall = Launch::new("firewall").args(&flags).spawn();
    firewall.wait_line("in step", |line| line.is("firewall in step"));
    site.redis.ask("SADD ip-allowed 203.0.113.7 2001:db8::/64");
    site.expect(
        INSTANCES[1],
        &[
            "TCP 80,443 2001:db8::/64 knockpipe-",
            "TCP 80,443 203.0.113.7 knockpipe-",
            "UDP 51820 2001:db8::/64 knockpipe-",
            "UDP 51820 203.0.113.7 knockpipe-",
        ],
    );
    site.redis.ask("SREM ip-allowed 203.0.113.7");
    let gone = ["TCP 80,443 2001:db8::/64 knockpipe-", "UDP 51820 2001:db8::/64 knockpipe-"];
    site.expect(INSTANCES[1], &gone);
    site.expect(INSTANCES[0], &[&["TCP 443 0.0.0.0/0 HTTPS for all"], &gone[..]].concat());
    let look = |what: &str| {
        let mut command = Command::new(binary());
        command.args(["firewall", what]).args(&flags).output().unwrap()
    };
    let status = look("status");
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && text.contains("2001:db8::/64"), "{status:?}");
    let check = look("check");
    let text = String::from_utf8_lossy(&check.stdout);
    assert!(text.contains("in the way: the rule TCP 443 from 0.0.0.0/0"), "{check:?}");
    drop(firewall);
    let again = Launch::new("firewall").args(&flags).args(["--at-exit", "remove"]).spawn();
    again.wait_line("in step", |line| line.is("firewall in step"));
    again.signal(nix::sys::signal::Signal::SIGTERM);
    site.expect(INSTANCES[1], &[]);
    site.expect(INSTANCES[0], &["TCP 443 0.0.0.0/0 HTTPS for all"]);
}

#[test]
fn a_rule_has_the_label_of_the_knock_and_the_prefix_that_is_given() {
    let site = Site::new();
    let prefix = ["--allow-prefix", "allow:"];
    let firewall = Launch::new("firewall")
        .args(site.flags("22", INSTANCES[0]))
        .args(["--lighthouse-prefix", "Office-"])
        .args(prefix)
        .spawn();
    firewall.wait_line("in step", |line| line.is("firewall in step"));
    let allow = |label: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["gate", "allow", "203.0.113.7", "--ttl", "1h", "--gate", &site.redis.url()]);
        assert!(command.args(prefix).args(label).output().unwrap().status.success());
    };
    allow(&["--label", "Anna's laptop"]);
    site.expect(INSTANCES[0], &["TCP 22 203.0.113.7 Office-Anna's laptop@@20"]);
}

/// The API repeats what was sent in its refusals, and a level of the log is for those who look for
/// a fault.
#[test]
fn no_secret_of_the_account_is_in_the_log() {
    let site = Site::new();
    site.redis.ask("SADD ip-allowed 203.0.113.7");
    site.write_secret("account", &format!("{SECRET_ID}\nanother-secret-key\na-secret-token\n"));
    let flags = site.flags("22", INSTANCES[0]);
    let start = |launch: Launch| launch.args(&flags).args(["--log-level", "trace"]).spawn();
    let secrets = [SECRET_ID, "another-secret-key", "a-secret-token"];
    let firewall = start(Launch::new("firewall"));
    firewall.wait_line("a refusal", |line| {
        line.is("firewall not in step") && line.text().contains("AuthFailure.SignatureFailure")
    });
    firewall.wait_line("its remedy", |line| line.text().contains("--lighthouse-credentials"));
    let said = firewall.stderr();
    assert!(secrets.iter().all(|secret| !said.contains(secret)), "{said}");
    let sent = site.server.cloud().seen.len();
    assert!(sent > 0);
    // Nor in what refuses a file.
    site.write_secret("account", "AKIDx\nanother-secret-key another-secret-key\n");
    let refused = Command::new(binary()).arg("firewall").args(&flags).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("characters") && !said.contains("another-secret"), "{said}");
}

#[test]
fn what_is_missing_or_has_no_meaning_is_refused_in_one_line() {
    let site = Site::new();
    let url = site.redis.url();
    let base = ["--ports", "22", "--gate", &url];
    let cloud = ["--backend", "lighthouse", "--lighthouse-instances", "lhins-1"];
    for (args, piece) in [
        (vec!["--backend", "lighthouse"], "--lighthouse-instances is missing"),
        (cloud.to_vec(), "--lighthouse-region is missing"),
        ([&cloud[..], &["--lighthouse-region", "x"]].concat(), "KNOCKPIPE_LIGHTHOUSE_CREDENTIALS"),
        (vec!["--lighthouse-region", "x"], "no meaning for --backend nftables"),
        (vec!["--backend", "firewalld", "--cut"], "--cut has no meaning for --backend firewalld"),
        (vec!["--backend", "exec:/bin/true", "--reject"], "it is for nftables and firewalld"),
        (vec!["--backend", "exec:/bin/true", "--exec-deadline", "0s"], "some time, such as 10s"),
        (vec!["--backend", "lighthouse", "--lighthouse-endpoint", "http://x.test"], "plain text"),
        (vec!["--backend", "lighthouse", "--lighthouse-prefix", "a@b"], "knockpipe-"),
    ] {
        let output =
            Command::new(binary()).arg("firewall").args(base).args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(piece) && said.trim().lines().count() == 1, "{args:?}: {said}");
    }
}

/// The recorded cases of Knockdoor in which the cloud fails. There the knock itself calls the cloud;
/// here it makes an entry, `knockd`'s answer tells of that, and the firewall follows. So what is held
/// to the recording are the rules, and that the firewall's log names each error that lasts.
#[test]
fn every_case_of_knockdoor_in_which_the_cloud_fails_leaves_the_better_rules() {
    let vectors: Value = serde_json::from_str(&read("tests/vectors/knockdoor-cloud.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    // Most of it is waiting for another attempt.
    thread::scope(|scope| {
        for case in cases {
            let config = &vectors["configs"][case["config"].as_str().unwrap()];
            let mut set = &Value::Null;
            for step in case["steps"].as_array().unwrap() {
                match step.get("cloud_set") {
                    Some(state) => set = state,
                    None => {
                        let set = set;
                        let name = case["name"].as_str().unwrap();
                        scope.spawn(move || check_knock(config, set, step, name));
                    }
                }
            }
        }
    });
}

/// Knocks once at a new `knockd` whose store a new firewall follows.
fn check_knock(config: &Value, set: &Value, step: &Value, name: &str) {
    let site = Site::new();
    fill(&mut site.server.cloud(), set);
    let secret = site.write_secret("referer", config["referer"].as_str().unwrap());
    let prefix = ["--allow-prefix", "allow:"];
    let knockd: End = Launch::new("knockd")
        .source(&any())
        .args(["--gate", &site.redis.url(), "--disguise", config["path"].as_str().unwrap()])
        .args(["--disguise-secret", &secret, "--disguise-claim-header", "ip"])
        .args(prefix)
        .start();
    let ids = config["instances"].as_array().unwrap().iter().map(|id| id.as_str().unwrap());
    let flags =
        site.flags(config["tcp_ports"].as_str().unwrap(), &ids.collect::<Vec<_>>().join(","));
    let days = config["days"].to_string();
    let firewall: Program = Launch::new("firewall")
        .args(flags)
        .args(["--lighthouse-prefix", config["rule_prefix"].as_str().unwrap()])
        .args(["--lighthouse-days", &days])
        .args(prefix)
        .spawn();
    let url = format!("http://{}{}", knockd.addr(), config["path"].as_str().unwrap());
    let (referer, ip) = (config["referer"].as_str().unwrap(), step["ip"].as_str().unwrap());
    let knock = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
        .args(["-H", &format!("Referer: {referer}"), "-H", &format!("ip: {ip}")])
        .output()
        .expect("curl starts");
    assert_eq!(String::from_utf8_lossy(&knock.stdout), "500");
    for (instance, rules) in step["rules"].as_object().unwrap() {
        let mut wanted: Vec<String> = rules.as_array().unwrap().iter().map(line).collect();
        wanted.sort_unstable();
        eventually(&format!("{name}: {instance} has {wanted:?}"), || {
            site.server.cloud().rules(instance) == wanted
        });
    }
    if set["fail"].as_array().is_some_and(|fail| fail.iter().any(|one| one["times"] == 99)) {
        let code = set["fail"][0]["code"].as_str().unwrap();
        let code = code.replace("HTTP ", "status ");
        firewall.wait_line(&code, |line| {
            line.is("firewall not in step") && line.text().contains(&code)
        });
    }
}

/// Brings the stand-in into a state.
fn fill(cloud: &mut Cloud, set: &Value) {
    for (id, rules) in set["rules"].as_object().unwrap() {
        let rules = rules.as_array().unwrap().iter().map(dated);
        cloud.instances.get_mut(id).unwrap().rules = rules.collect();
    }
    cloud.quota = usize::try_from(set["quota"].as_u64().unwrap()).unwrap();
    cloud.is_down = set["down"] == true;
    let failure = |one: &Value| Failure {
        action: one["action"].as_str().unwrap().to_owned(),
        code: one["code"].as_str().unwrap().to_owned(),
        times: usize::try_from(one["times"].as_u64().unwrap()).unwrap(),
    };
    cloud.failures = set["fail"].as_array().unwrap().iter().map(failure).collect();
}

/// Returns a rule with dates instead of their names.
fn dated(rule: &Value) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let text = (0..3).fold(rule.to_string(), |text, days| {
        let name = if days == 0 { "{today}".to_owned() } else { format!("{{today-{days}}}") };
        text.replace(&name, &Date::days_before(now, days).to_string())
    });
    serde_json::from_str(&text).unwrap()
}

fn line(rule: &Value) -> String {
    let rule = dated(rule);
    let of = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{} {} {} {}",
        of("Protocol"),
        of("Port"),
        of("CidrBlock"),
        of("FirewallRuleDescription")
    )
}
