//! A stand-in for the firewall API of Tencent Cloud Lighthouse.
//!
//! [`Cloud`] has the rules and decides, without a socket; [`CloudServer`] serves it over HTTP, for
//! programs and for the official client. It checks every signature with code of its own.

mod request;
mod server;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

pub use knockpipe_base::civil::Date;
pub use request::Asked;
pub use server::CloudServer;

/// Instances that exist.
pub const INSTANCES: [&str; 2] = ["lhins-aaaa0001", "lhins-bbbb0002"];

/// The account.
pub const SECRET_ID: &str = "AKIDstandin0000";
pub const SECRET_KEY: &str = "standin-secret-key";
pub const REGION: &str = "ap-shanghai";

/// The most characters of a description.
const LONGEST: usize = 64;

/// The rules of all instances, and what goes wrong.
pub struct Cloud {
    pub instances: BTreeMap<String, Instance>,
    /// The most rules of an instance.
    pub quota: usize,
    /// The most requests of one action in a second.
    pub rate: usize,
    pub failures: Vec<Failure>,
    /// Connections end without an answer.
    pub is_down: bool,
    pub calls: Vec<Call>,
    /// The requests as they came.
    pub seen: Vec<Seen>,
    turns: HashMap<String, VecDeque<Duration>>,
}

#[derive(Clone, Debug, Default)]
pub struct Instance {
    pub rules: Vec<Value>,
    pub version: u64,
}

/// The next `times` calls of an action answer an error, or a status for a code like `HTTP 503`.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Name of the action; `*` is any.
    pub action: String,
    pub code: String,
    pub times: usize,
}

/// A call that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub action: String,
    pub instance: String,
    /// `ok` or the code of the error.
    pub result: String,
    /// The rules that it was about.
    pub rules: usize,
}

/// A request as it came, with names of headers in small letters.
pub struct Seen {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A refusal: code and message.
struct Refusal(String, String);

type Answer = Result<Value, Refusal>;

impl Default for Cloud {
    fn default() -> Self {
        let instances = INSTANCES.map(|id| (id.to_owned(), Instance::default()));
        Self {
            instances: instances.into(),
            quota: 100,
            rate: 10,
            failures: vec![],
            is_down: false,
            calls: vec![],
            seen: vec![],
            turns: HashMap::new(),
        }
    }
}

/// A rule as the API shows it.
pub fn rule(protocol: &str, port: &str, network: &str, description: &str) -> Value {
    let block = if network.contains(':') { "Ipv6CidrBlock" } else { "CidrBlock" };
    json!({"Protocol": protocol, "Port": port, block: network, "Action": "ACCEPT",
        "FirewallRuleDescription": description})
}

impl Cloud {
    /// Answers a request: status and body.
    pub fn answer(&mut self, asked: &Asked<'_>) -> (u16, String) {
        let action = asked.header("x-tc-action").unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(asked.body).unwrap_or_default();
        let instance = body["InstanceId"].as_str().unwrap_or_default().to_owned();
        self.seen.push(Seen { headers: asked.headers.to_vec(), body: asked.body.to_vec() });
        let answer = self.judge(asked, &action, &body);
        let result = answer.as_ref().map_or_else(|refusal| refusal.0.clone(), |_| "ok".to_owned());
        let rules = body["FirewallRules"].as_array().map_or(0, Vec::len);
        self.calls.push(Call { action, instance, result: result.clone(), rules });
        if let Some(status) = result.strip_prefix("HTTP ") {
            return (status.parse().unwrap(), "<html>not today</html>".to_owned());
        }
        let mut response = answer.unwrap_or_else(
            |Refusal(code, message)| json!({"Error": {"Code": code, "Message": message}}),
        );
        response["RequestId"] = format!("request-{}", self.calls.len()).into();
        (200, json!({"Response": response}).to_string())
    }

    fn judge(&mut self, asked: &Asked<'_>, action: &str, body: &Value) -> Answer {
        asked.check().map_err(|(code, message)| Refusal(code.to_owned(), message))?;
        self.take_turn(action, asked.at)?;
        self.fail(action)?;
        self.act(action, body)
    }

    /// Lets the requests of an action through that may be made in a second.
    fn take_turn(&mut self, action: &str, at: Duration) -> Result<(), Refusal> {
        let turns = self.turns.entry(action.to_owned()).or_default();
        turns.retain(|turn| at.saturating_sub(*turn) < Duration::from_secs(1));
        if turns.len() >= self.rate {
            return refuse("RequestLimitExceeded", "too many requests in a second");
        }
        turns.push_back(at);
        Ok(())
    }

    fn fail(&mut self, action: &str) -> Result<(), Refusal> {
        let is_due = |failure: &&mut Failure| {
            failure.times > 0 && (failure.action == "*" || failure.action == action)
        };
        match self.failures.iter_mut().find(is_due) {
            None => Ok(()),
            Some(failure) => {
                failure.times -= 1;
                refuse(&failure.code, "asked for by the test")
            }
        }
    }

    fn act(&mut self, action: &str, body: &Value) -> Answer {
        let id = body["InstanceId"].as_str().unwrap_or_default();
        let Some(instance) = self.instances.get_mut(id) else {
            return refuse("ResourceNotFound.InstanceIdNotFound", &format!("no instance {id}"));
        };
        if let Some(version) = body["FirewallVersion"].as_u64()
            && version != instance.version
        {
            return refuse("UnsupportedOperation.FirewallVersionMismatch", "read the rules again");
        }
        let rules = body["FirewallRules"].as_array().cloned().unwrap_or_default();
        match action {
            "DescribeFirewallRules" => return instance.describe(body),
            "CreateFirewallRules" => instance.create(&rules, self.quota)?,
            "DeleteFirewallRules" => instance.delete(&rules)?,
            "ModifyFirewallRuleDescription" => instance.rename(&body["FirewallRule"])?,
            _ => return refuse("InvalidAction", action),
        }
        instance.version += 1;
        Ok(json!({}))
    }

    /// The rules of an instance, as one text each.
    pub fn rules(&self, instance: &str) -> Vec<String> {
        let mut rules: Vec<String> = self.instances[instance].rules.iter().map(text).collect();
        rules.sort_unstable();
        rules
    }

    /// The times that an action was called with this result.
    pub fn count(&self, action: &str, result: &str) -> usize {
        self.calls.iter().filter(|call| call.action == action && call.result == result).count()
    }
}

impl Instance {
    fn describe(&self, body: &Value) -> Answer {
        let number = |name: &str, or: u64| body[name].as_u64().unwrap_or(or);
        let (offset, limit) = (number("Offset", 0), number("Limit", 20));
        if limit > 100 {
            return refuse("InvalidParameterValue.OutOfRange", "Limit");
        }
        let page = self.rules.iter().skip(offset as usize).take(limit as usize).map(|rule| {
            let mut rule = rule.clone();
            rule["AppType"] = "Custom".into();
            for block in ["CidrBlock", "Ipv6CidrBlock"] {
                if rule[block].is_null() {
                    rule[block] = "".into();
                }
            }
            rule
        });
        Ok(json!({"TotalCount": self.rules.len(), "FirewallVersion": self.version,
            "FirewallRuleSet": page.collect::<Vec<Value>>()}))
    }

    fn create(&mut self, rules: &[Value], quota: usize) -> Result<(), Refusal> {
        for (place, rule) in rules.iter().enumerate() {
            check(rule)?;
            if rules[..place].iter().any(|other| key(other) == key(rule)) {
                return refuse("InvalidParameter.FirewallRulesDuplicated", &text(rule));
            }
            if self.rules.iter().any(|other| key(other) == key(rule)) {
                return refuse("InvalidParameter.FirewallRulesExist", &text(rule));
            }
        }
        if self.rules.len() + rules.len() > quota {
            return refuse("LimitExceeded.FirewallRulesLimitExceeded", &quota.to_string());
        }
        self.rules.extend_from_slice(rules);
        Ok(())
    }

    fn delete(&mut self, rules: &[Value]) -> Result<(), Refusal> {
        for rule in rules {
            if !self.rules.iter().any(|other| key(other) == key(rule)) {
                return refuse("ResourceNotFound.FirewallRulesNotFound", &text(rule));
            }
        }
        self.rules.retain(|rule| !rules.iter().any(|other| key(other) == key(rule)));
        Ok(())
    }

    fn rename(&mut self, wanted: &Value) -> Result<(), Refusal> {
        check(wanted)?;
        match self.rules.iter_mut().find(|rule| key(rule) == key(wanted)) {
            None => refuse("ResourceNotFound.FirewallRulesNotFound", &text(wanted)),
            Some(rule) => {
                rule["FirewallRuleDescription"] = wanted["FirewallRuleDescription"].clone();
                Ok(())
            }
        }
    }
}

fn refuse<T>(code: &str, message: &str) -> Result<T, Refusal> {
    Err(Refusal(code.to_owned(), message.to_owned()))
}

/// Checks what the API checks of a rule.
fn check(rule: &Value) -> Result<(), Refusal> {
    let of = |name: &str| rule[name].as_str().unwrap_or_default();
    if of("FirewallRuleDescription").chars().count() > LONGEST {
        return refuse("InvalidParameterValue.FirewallRuleDescriptionTooLong", &text(rule));
    }
    let (list, range) = (of("Port").contains(','), of("Port").contains('-'));
    let ports = (1..=LONGEST).contains(&of("Port").len()) && !(list && range);
    let blocks = [of("CidrBlock"), of("Ipv6CidrBlock")];
    let one = blocks.iter().filter(|block| !block.is_empty()).count() == 1;
    let is_known = matches!(of("Protocol"), "TCP" | "UDP") && of("Action") == "ACCEPT";
    if ports && one && is_known { Ok(()) } else { refuse("InvalidParameterValue", &text(rule)) }
}

/// Identity of a rule.
fn key(rule: &Value) -> [&str; 5] {
    ["Protocol", "Port", "CidrBlock", "Ipv6CidrBlock", "Action"]
        .map(|name| rule[name].as_str().unwrap_or_default())
}

/// A rule as one line, with its description last.
fn text(rule: &Value) -> String {
    let [protocol, port, v4, v6, _] = key(rule);
    let description = rule["FirewallRuleDescription"].as_str().unwrap_or_default();
    format!("{protocol} {port} {v4}{v6} {description}")
}
