use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::cloud::{Asked, Cloud, Failure, INSTANCES, REGION, SECRET_ID, SECRET_KEY, rule};
use tokio::time::Instant;

use super::*;
use crate::reconcile::reconcile;

const A: &str = INSTANCES[0];
const B: &str = INSTANCES[1];

/// The way to a cloud in memory, by tokio's clock, which stands still while there is work.
struct InMemory {
    cloud: Arc<Mutex<Cloud>>,
    began: Instant,
}

impl Transport for InMemory {
    fn host(&self) -> &str {
        "lighthouse.test"
    }

    async fn post(&self, headers: Vec<Header>, body: Vec<u8>) -> Result<Reply, String> {
        let mut headers: Vec<(String, String)> =
            headers.into_iter().map(|header| (header.name.to_owned(), header.value)).collect();
        headers.push(("host".to_owned(), self.host().to_owned()));
        let now = seconds();
        let asked = Asked { headers: &headers, body: &body, at: self.began.elapsed(), now };
        let mut cloud = self.cloud.lock().unwrap();
        if cloud.is_down {
            return Err("connection closed".to_owned());
        }
        let (status, text) = cloud.answer(&asked);
        Ok(Reply { status, body: text.into_bytes() })
    }
}

struct Site {
    cloud: Arc<Mutex<Cloud>>,
    began: Instant,
    firewall: Lighthouse<InMemory>,
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn day(before: u64) -> Date {
    Date::days_before(seconds(), before)
}

fn options() -> Options {
    Options {
        instances: vec![A.to_owned(), B.to_owned()],
        region: REGION.to_owned(),
        credentials: Credentials::parse(&format!("{SECRET_ID}\n{SECRET_KEY}")).unwrap(),
        prefix: "Knockd-".parse().unwrap(),
        days: 0,
        ports: "80,443,51820/udp".parse().unwrap(),
    }
}

fn site(options: Options) -> Site {
    site_of(Arc::default(), Instant::now(), options)
}

fn site_of(cloud: Arc<Mutex<Cloud>>, began: Instant, options: Options) -> Site {
    let transport = InMemory { cloud: Arc::clone(&cloud), began };
    Site { cloud, began, firewall: Lighthouse::new(options, transport) }
}

fn entry(network: &str, label: Option<&str>) -> Entry {
    let network = network.parse().unwrap();
    Entry { network, lasting: Lasting { end: Expiry::Never, label: label.map(Into::into) } }
}

fn entries(all: &[(&str, Option<&str>)]) -> Entries {
    all.iter().map(|(network, label)| entry(network, *label)).collect()
}

impl Site {
    fn cloud(&self) -> std::sync::MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap()
    }

    fn put(&self, instance: &str, rules: &[serde_json::Value]) {
        self.cloud().instances.get_mut(instance).unwrap().rules = rules.to_vec();
    }

    /// The same cloud with a program that remembers nothing.
    fn again(&self) -> Self {
        site_of(Arc::clone(&self.cloud), self.began, options())
    }

    /// Does what the program does: read, compare, apply.
    async fn follow(&mut self, wanted: &Entries) -> Result<usize, BackendError> {
        let present = self.firewall.present().await?;
        let steps = reconcile(wanted, &present, self.firewall.keeps());
        self.firewall.apply(&steps).await.map(|()| steps.len())
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_a_rule_for_each_instance_and_protocol_and_goes_with_it() {
    let mut site = site(options());
    let wanted = entries(&[("203.0.113.7/32", Some("Office_01")), ("2001:db8:7::/64", None)]);
    assert_eq!(site.follow(&wanted).await.unwrap(), 2);
    let today = day(0);
    for instance in INSTANCES {
        assert_eq!(
            site.cloud().rules(instance),
            [
                format!("TCP 80,443 2001:db8:7::/64 Knockd-DEFAULT@@{today}"),
                format!("TCP 80,443 203.0.113.7 Knockd-Office_01@@{today}"),
                format!("UDP 51820 2001:db8:7::/64 Knockd-DEFAULT@@{today}"),
                format!("UDP 51820 203.0.113.7 Knockd-Office_01@@{today}"),
            ]
        );
    }
    assert_eq!(site.follow(&wanted).await.unwrap(), 0, "nothing is left to do");
    assert_eq!(site.follow(&Entries::default()).await.unwrap(), 2);
    assert!(INSTANCES.iter().all(|instance| site.cloud().rules(instance).is_empty()));
    assert_eq!(site.firewall.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_begins_again_removes_what_is_not_wanted_any_more_and_nothing_of_others() {
    let mut before = site(options());
    let wanted = entries(&[("203.0.113.7/32", Some("a")), ("203.0.113.8/32", Some("b"))]);
    before.follow(&wanted).await.unwrap();
    let foreign = [
        rule("TCP", "22", "198.51.100.5", "SSH of the office"),
        rule("TCP", "80,443", "198.51.100.6", "Other-x@@20200101"),
        rule("TCP", "80,443", "198.51.100.7", "Knockd-f"),
        rule("TCP", "80,443", "198.51.100.8", "Knockd-x@@soon"),
        rule("TCP", "80,443", "203.0.113.9", "mine"),
    ];
    before.cloud().instances.get_mut(A).unwrap().rules.extend(foreign.clone());
    let mut site = before.again();
    let wanted = entries(&[("203.0.113.8/32", Some("b")), ("203.0.113.9/32", Some("c"))]);
    assert_eq!(site.follow(&wanted).await.unwrap(), 2);
    let rules = site.cloud().rules(A).join("\n");
    assert!(!rules.contains("203.0.113.7"), "{rules}");
    assert_eq!(rules.matches("203.0.113.8").count(), 2, "{rules}");
    // Another program lets it in to one of the ports: that rule is neither doubled nor taken over.
    assert_eq!(rules.matches("203.0.113.9").count(), 2, "{rules}");
    let all = &site.cloud().instances[A].rules.clone();
    assert!(foreign.iter().all(|rule| all.contains(rule)), "{rules}");
    assert_eq!(site.follow(&wanted).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_date_is_renewed_and_rules_for_other_ports_and_labels_are_put_right() {
    let mut site = site(options());
    for instance in INSTANCES {
        site.put(
            instance,
            &[
                rule("TCP", "443,80", "203.0.113.7/32", &format!("Knockd-a@@{}", day(1))),
                rule("UDP", "51820", "203.0.113.7", &format!("Knockd-old@@{}", day(0))),
                rule("TCP", "8080", "203.0.113.7", &format!("Knockd-a@@{}", day(0))),
            ],
        );
    }
    let wanted = entries(&[("203.0.113.7/32", Some("a"))]);
    site.follow(&wanted).await.unwrap();
    let today = day(0);
    assert_eq!(
        site.cloud().rules(B),
        [
            format!("TCP 443,80 203.0.113.7/32 Knockd-a@@{today}"),
            format!("UDP 51820 203.0.113.7 Knockd-a@@{today}"),
        ]
    );
    assert_eq!(site.cloud().count("CreateFirewallRules", "ok"), 0, "what is there stays");
    assert_eq!(site.follow(&wanted).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_days_rules_of_others_under_the_prefix_stay_until_they_are_old() {
    let mut site = site(Options { days: 30, ..options() });
    let old = |name: &str, days| {
        rule(
            "TCP",
            "80,443",
            &format!("198.51.100.{name}"),
            &format!("Knockd-{name}@@{}", day(days)),
        )
    };
    let fill = (0..110).map(|n| rule("TCP", "9", &format!("192.0.2.{n}"), "mine"));
    let rules: Vec<_> =
        fill.chain([old("1", 31), old("2", 30), old("3", 29), old("4", 0)]).collect();
    site.cloud().quota = 200;
    site.put(A, &rules);
    site.follow(&entries(&[("203.0.113.7/32", None)])).await.unwrap();
    let rules = site.cloud().rules(A).join("\n");
    assert!(!rules.contains("198.51.100.1 ") && !rules.contains("198.51.100.2 "), "{rules}");
    assert!(rules.contains("198.51.100.3 ") && rules.contains("198.51.100.4 "), "{rules}");
    assert_eq!(rules.matches("mine").count(), 110);
    site.follow(&Entries::default()).await.unwrap();
    let rules = site.cloud().rules(A).join("\n");
    assert!(!rules.contains("203.0.113.7"), "what this process made goes at once: {rules}");
}

#[tokio::test(start_paused = true)]
async fn without_room_old_rules_go_and_the_rule_is_made_after_all() {
    let mut site = site(Options { days: 30, ports: "80".parse().unwrap(), ..options() });
    let named =
        |network: &str, days| rule("TCP", "80", network, &format!("Knockd-x@@{}", day(days)));
    let foreign = rule("TCP", "80", "198.51.100.3", "mine");
    site.put(A, &[named("198.51.100.1", 2), named("198.51.100.2", 1), foreign]);
    site.cloud().quota = 3;
    site.follow(&entries(&[("203.0.113.7/32", None)])).await.unwrap();
    let rules = site.cloud().rules(A).join("\n");
    assert!(rules.contains("203.0.113.7") && !rules.contains("198.51.100.1"), "{rules}");
    assert!(rules.contains("198.51.100.2") && rules.contains("mine"), "{rules}");
    // No more can go: as many as fit are made, and the rest is a failure that says so.
    let wanted =
        entries(&[("203.0.113.7/32", None), ("203.0.113.8/32", None), ("203.0.113.9/32", None)]);
    site.follow(&wanted).await.unwrap();
    let error = site.firewall.trouble().unwrap();
    assert!(error.cause.contains("no room for 2 more rules on instance lhins-aaaa0001"), "{error}");
    assert_eq!(site.cloud().rules(A).len(), 3);
    assert_eq!(site.cloud().rules(B).len(), 3, "the other instance has room");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_exist_keeps_no_other_from_being_served() {
    let mut site =
        site(Options { instances: vec!["lhins-zzzz9999".to_owned(), A.to_owned()], ..options() });
    let wanted = entries(&[("203.0.113.7/32", None)]);
    assert_eq!(site.follow(&wanted).await.unwrap(), 1);
    let error = site.firewall.trouble().unwrap();
    assert!(error.to_string().contains("lhins-zzzz9999"), "{error}");
    assert!(error.remedy.contains("--lighthouse-instances"), "{error}");
    assert_eq!(site.cloud().rules(A).len(), 2);
    assert_eq!(site.follow(&wanted).await.unwrap(), 0);
    assert!(site.firewall.trouble().unwrap().cause.contains("lhins-zzzz9999"));
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_tried_again_and_what_does_not_is_reported() {
    for (code, action, is_made) in [
        ("UnsupportedOperation.FirewallBusy", "CreateFirewallRules", true),
        ("RequestLimitExceeded", "CreateFirewallRules", true),
        ("UnsupportedOperation.FirewallVersionMismatch", "CreateFirewallRules", true),
        ("InternalError", "DescribeFirewallRules", true),
        ("HTTP 503", "CreateFirewallRules", true),
        ("AuthFailure.SecretIdNotFound", "*", false),
        ("UnauthorizedOperation.CamNoAuth", "*", false),
        ("InvalidParameterValue.FirewallRuleDescriptionTooLong", "CreateFirewallRules", false),
    ] {
        let mut site = site(Options { instances: vec![A.to_owned()], ..options() });
        let times = if is_made { 1 } else { 99 };
        let failure = Failure { action: action.to_owned(), code: code.to_owned(), times };
        site.cloud().failures = vec![failure];
        let outcome = site.follow(&entries(&[("203.0.113.7/32", None)])).await;
        assert_eq!(outcome.is_ok(), is_made, "{code}: {outcome:?}");
        assert_eq!(site.cloud().rules(A).len(), if is_made { 2 } else { 0 }, "{code}");
        if let Err(error) = outcome {
            assert!(error.cause.contains(code) && !error.remedy.is_empty(), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rules_are_made_though_they_cannot_be_read_and_are_found_later() {
    let mut site = site(options());
    let failure = |times| Failure {
        action: "DescribeFirewallRules".to_owned(),
        code: "InternalError".to_owned(),
        times,
    };
    site.cloud().failures = vec![failure(99)];
    let wanted = entries(&[("203.0.113.7/32", None)]);
    assert_eq!(site.follow(&wanted).await.unwrap(), 1);
    assert_eq!(site.cloud().rules(A).len(), 2);
    assert!(site.firewall.trouble().unwrap().cause.contains("InternalError"));
    // Once more: they are there already.
    site.follow(&wanted).await.unwrap();
    site.cloud().failures.clear();
    assert_eq!(site.follow(&wanted).await.unwrap(), 0);
    assert_eq!(site.firewall.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_is_away_is_a_failure_and_followed_once_it_is_back() {
    let mut site = site(options());
    let wanted = entries(&[("203.0.113.7/32", None)]);
    site.cloud().is_down = true;
    let error = site.follow(&wanted).await.unwrap_err();
    assert_eq!(error.retry, Retry::Soon);
    assert!(error.to_string().contains("--lighthouse-endpoint"), "{error}");
    site.cloud().is_down = false;
    site.follow(&wanted).await.unwrap();
    assert_eq!(site.cloud().rules(B).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_rules_keep_to_ten_requests_in_a_second_and_to_pages_of_a_hundred() {
    let mut site = site(options());
    site.cloud().quota = 2_000;
    let wanted: Entries = (0..400u32)
        .map(|n| Entry {
            network: std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0xCB00_7100 + n)).into(),
            lasting: Lasting { end: Expiry::Never, label: None },
        })
        .collect();
    site.follow(&wanted).await.unwrap();
    assert_eq!(site.cloud().rules(A).len(), 800);
    assert_eq!(site.follow(&wanted).await.unwrap(), 0);
    let limited = site.cloud().calls.iter().any(|call| call.result == "RequestLimitExceeded");
    assert!(!limited, "no request was refused for coming too soon");
}

#[tokio::test(start_paused = true)]
async fn somebody_who_changes_rules_at_the_same_time_is_not_overridden() {
    let mut site = site(Options { instances: vec![A.to_owned()], ..options() });
    let wanted = entries(&[("203.0.113.7/32", None)]);
    site.follow(&wanted).await.unwrap();
    // An operator takes a rule over, after it was read and before it is deleted.
    site.firewall.present().await.unwrap();
    {
        let mut cloud = site.cloud();
        let instance = cloud.instances.get_mut(A).unwrap();
        instance.rules[0]["FirewallRuleDescription"] = "mine now".into();
        instance.version += 1;
    }
    site.firewall.apply(&[Step::Remove("203.0.113.7/32".parse().unwrap())]).await.unwrap();
    assert_eq!(site.cloud().rules(A), ["TCP 80,443 203.0.113.7 mine now"]);
}

#[tokio::test(start_paused = true)]
async fn no_error_shows_a_secret() {
    let text = format!("{SECRET_ID}\nanother-secret-key\nsecret-token");
    let credentials = Credentials::parse(&text).unwrap();
    let mut site = site(Options { credentials, ..options() });
    let error = site.follow(&entries(&[("203.0.113.7/32", None)])).await.unwrap_err();
    let shown = format!("{error} {error:?} {:?}", site.firewall.trouble());
    assert!(shown.contains("AuthFailure.SignatureFailure"), "{shown}");
    for secret in [SECRET_ID, "another-secret-key", "secret-token"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(!format!("{:?}", options()).contains(SECRET_KEY));
}

#[tokio::test(start_paused = true)]
async fn at_exit_rules_stay_or_all_of_ours_go() {
    let mut site = site(options());
    site.put(A, &[rule("TCP", "22", "198.51.100.5", "SSH of the office")]);
    site.follow(&entries(&[("203.0.113.7/32", None)])).await.unwrap();
    site.firewall.at_exit(AtExit::Keep).await.unwrap();
    assert_eq!(site.cloud().rules(A).len(), 3);
    site.firewall.at_exit(AtExit::Remove).await.unwrap();
    assert_eq!(site.cloud().rules(A), ["TCP 22 198.51.100.5 SSH of the office"]);
}

#[tokio::test(start_paused = true)]
async fn rules_that_let_everybody_in_are_named() {
    let mut site = site(options());
    site.put(
        A,
        &[
            rule("TCP", "443", "0.0.0.0/0", "HTTPS"),
            rule("TCP", "22", "0.0.0.0/0", "SSH"),
            rule("UDP", "51000-52000", "::/0", "\x1b[2J"),
            rule("TCP", "80", "203.0.113.0/24", "some"),
        ],
    );
    let lines = site.firewall.obstacles().await.unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("TCP 443 from 0.0.0.0/0") && lines[0].contains("; delete it"));
    assert!(!lines[1].contains('\x1b'), "{lines:?}");
    let steps = [
        Step::Add(entry("203.0.113.7/32", Some("a"))),
        Step::Remove("203.0.113.8/32".parse().unwrap()),
    ];
    let lines = site.firewall.describe(&steps);
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(
        lines[0],
        format!("lhins-aaaa0001: create TCP 80,443 from 203.0.113.7 \"Knockd-a@@{}\"", day(0))
    );
}

/// Whatever is there and whatever fails: once nothing fails any more, the rules of ours are those of
/// the entries, and those of others are untouched.
#[tokio::test(start_paused = true)]
async fn every_course_of_failures_ends_in_what_is_wanted() {
    for seed in 0..60 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut site = site(options());
        let foreign = [
            rule("TCP", "22", "198.51.100.5", "mine"),
            rule("TCP", "80,443", "203.0.113.3", "mine, too"),
        ];
        for instance in INSTANCES {
            site.put(instance, &foreign);
        }
        let mut wanted = Entries::default();
        for _ in 0..6 {
            let network = |n: u32| format!("203.0.113.{n}/32");
            let labels = [None, Some("a"), Some("b")];
            let picked = (0..8).filter(|_| random.random_bool(0.5)).collect::<Vec<u32>>();
            wanted = picked
                .iter()
                .map(|n| entry(&network(*n), labels[random.random_range(0..3)]))
                .collect();
            let codes = [
                "InternalError",
                "UnsupportedOperation.FirewallBusy",
                "RequestLimitExceeded",
                "UnsupportedOperation.FirewallVersionMismatch",
                "HTTP 502",
            ];
            let code = codes[random.random_range(0..codes.len())].to_owned();
            let times = random.random_range(0..8);
            site.cloud().failures = vec![Failure { action: "*".to_owned(), code, times }];
            site.cloud().quota = if random.random_bool(0.3) { 9 } else { 100 };
            let _ = site.follow(&wanted).await;
            if random.random_bool(0.3) {
                site = site.again();
            }
        }
        site.cloud().failures.clear();
        site.cloud().quota = 100;
        for _ in 0..3 {
            site.follow(&wanted).await.unwrap();
        }
        assert_eq!(site.follow(&wanted).await.unwrap(), 0, "seed {seed}");
        for instance in INSTANCES {
            let rules = site.cloud().instances[instance].rules.clone();
            assert!(foreign.iter().all(|rule| rules.contains(rule)), "seed {seed}");
            let of_three = usize::from(wanted.get("203.0.113.3/32".parse().unwrap()).is_some());
            assert_eq!(rules.len(), 2 + 2 * wanted.len() - of_three, "seed {seed}: {rules:?}");
        }
    }
}
