//! The stand-in for the cloud, with the official client: what that one sends is accepted, and signed
//! as our own requests are.
//!
//! Needs scripts/install-test-tools.sh, for the client.

use std::process::Command;

use knockpipe_firewall::lighthouse::{Credentials, Signed};
use testkit::cloud::{CloudServer, INSTANCES, SECRET_ID, SECRET_KEY};

/// The Python that has the official client.
const PYTHON: &str = "/opt/knockpipe-test-tools/bin/python";

/// Creates, describes, renames and deletes a rule, then asks for what does not exist.
const SCRIPT: &str = r#"
import sys
from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.lighthouse.v20200324 import lighthouse_client, models

endpoint, key_id, key, instance = sys.argv[1:]
profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=endpoint))
client = lighthouse_client.LighthouseClient(
    credential.Credential(key_id, key), "ap-shanghai", profile)

def rule(text):
    made = models.FirewallRule()
    made.Protocol, made.Port, made.CidrBlock, made.Action = "TCP", "80,443", "203.0.113.7", "ACCEPT"
    made.FirewallRuleDescription = text
    return made

def ask(name, **fields):
    request = getattr(models, name + "Request")()
    request.InstanceId = instance
    for field, value in fields.items():
        setattr(request, field, value)
    return getattr(client, name)(request)

ask("CreateFirewallRules", FirewallRules=[rule("Knockd-Büro@@20261130")])
answer = ask("DescribeFirewallRules", Limit=100)
assert answer.TotalCount == 1 and answer.FirewallVersion == 1
assert answer.FirewallRuleSet[0].FirewallRuleDescription == "Knockd-Büro@@20261130"
ask("ModifyFirewallRuleDescription", FirewallRule=rule("mine"), FirewallVersion=1)
for name, fields, code in [
    ("CreateFirewallRules", {"FirewallRules": [rule("again")]}, "InvalidParameter.FirewallRulesExist"),
    ("DeleteFirewallRules", {"FirewallRules": [rule("")], "FirewallVersion": 1},
     "UnsupportedOperation.FirewallVersionMismatch"),
]:
    try:
        ask(name, **fields)
        raise SystemExit(name + " was not refused")
    except TencentCloudSDKException as error:
        assert error.code == code, error
ask("DeleteFirewallRules", FirewallRules=[rule("")], FirewallVersion=2)
"#;

fn run(server: &CloudServer, key: &str) -> (bool, String) {
    let output = Command::new(PYTHON)
        .args(["-c", SCRIPT, &server.address().to_string(), SECRET_ID, key, INSTANCES[0]])
        .env("PYTHONIOENCODING", "utf-8")
        .output()
        .expect("this test needs scripts/install-test-tools.sh");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_official_client_is_accepted_and_signs_as_we_do() {
    let server = CloudServer::start();
    let (success, said) = run(&server, SECRET_KEY);
    assert!(success, "{said}");
    let cloud = server.cloud();
    assert_eq!(cloud.calls.len(), 6);
    assert!(cloud.rules(INSTANCES[0]).is_empty());
    let credentials = Credentials::parse(&format!("{SECRET_ID}\n{SECRET_KEY}")).unwrap();
    for seen in &cloud.seen {
        let header = |name: &str| {
            let found = seen.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str()).unwrap()
        };
        let timestamp = header("x-tc-timestamp").parse().unwrap();
        let signed = Signed { host: header("host"), timestamp, body: &seen.body };
        assert_eq!(signed.authorization(&credentials), header("authorization"));
    }
}

#[test]
fn another_key_is_refused() {
    let server = CloudServer::start();
    let (success, said) = run(&server, "another-key");
    assert!(!success && said.contains("AuthFailure.SignatureFailure"), "{said}");
}
