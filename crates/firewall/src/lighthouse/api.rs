//! The requests of the API and its answers, as JSON.
//!
//! Knows version 2020-03-24 and nothing of connections. Answers come from outside: what is not as
//! documented is an error, and text of the server is escaped.

use serde::{Deserialize, Serialize};

use knockpipe_base::printable::printable;

/// Version of the API.
pub(super) const VERSION: &str = "2020-03-24";

/// The most rules of one answer.
pub(super) const PAGE: usize = 100;

/// A rule of the firewall of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Rule {
    #[serde(default)]
    pub(super) protocol: String,
    #[serde(default, skip_serializing_if = "is_unset")]
    pub(super) port: Option<String>,
    #[serde(default, skip_serializing_if = "is_unset")]
    pub(super) cidr_block: Option<String>,
    #[serde(default, skip_serializing_if = "is_unset")]
    pub(super) ipv6_cidr_block: Option<String>,
    #[serde(default)]
    pub(super) action: String,
    #[serde(default, skip_serializing_if = "is_unset")]
    pub(super) firewall_rule_description: Option<String>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Name of the action.
    pub(super) action: &'static str,
    /// Body.
    pub(super) body: Vec<u8>,
}

/// Rules of one page, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    #[serde(default)]
    pub(super) total_count: Option<usize>,
    #[serde(default)]
    pub(super) firewall_rule_set: Option<Vec<Rule>>,
    #[serde(default)]
    pub(super) firewall_version: Option<u64>,
}

/// Refusal of a request by the API, or a request without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// A refusal.
    #[error("{code}: {message}")]
    Refused {
        /// Its documented name.
        code: String,
        /// Text of the server about it.
        message: String,
    },
    /// A status of HTTP.
    #[error("status {0}")]
    Status(u16),
    /// Another text than documented.
    #[error("the answer is not as documented ({0})")]
    Malformed(String),
    /// No answer.
    #[error("{0}")]
    Away(String),
}

/// Kind of an error, by which it is decided what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Passes by itself.
    Passing,
    /// Too many requests at once.
    Often,
    /// The rules are not those that were read.
    Changed,
    /// One of the rules is there already.
    Exists,
    /// No more rules fit.
    Full,
    /// The account may not.
    Denied,
    /// The clocks differ.
    Clock,
    /// There is no such instance.
    NoInstance,
    /// Anything else.
    Wrong,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Page<'a> {
    instance_id: &'a str,
    offset: usize,
    limit: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Rules<'a> {
    instance_id: &'a str,
    firewall_rules: &'a [Rule],
    #[serde(skip_serializing_if = "Option::is_none")]
    firewall_version: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OneRule<'a> {
    instance_id: &'a str,
    firewall_rule: &'a Rule,
    #[serde(skip_serializing_if = "Option::is_none")]
    firewall_version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    response: Response,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    #[serde(default)]
    error: Option<Refusal>,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
}

fn is_unset(text: &Option<String>) -> bool {
    text.as_deref().is_none_or(str::is_empty)
}

// === impl Request ===

impl Request {
    /// Creates the question for the rules from `offset` on.
    pub(super) fn describe(instance: &str, offset: usize) -> Self {
        let page = Page { instance_id: instance, offset, limit: PAGE };
        Self::new("DescribeFirewallRules", &page)
    }

    /// Creates the request for new rules. It is refused if the rules have another version.
    pub(super) fn create(instance: &str, rules: &[Rule], version: Option<u64>) -> Self {
        Self::new("CreateFirewallRules", &Rules::new(instance, rules, version))
    }

    /// Creates the request to delete rules. It is refused if the rules have another version.
    pub(super) fn delete(instance: &str, rules: &[Rule], version: Option<u64>) -> Self {
        Self::new("DeleteFirewallRules", &Rules::new(instance, rules, version))
    }

    /// Creates the request to give the rule that is otherwise equal this description. It is
    /// refused if the rules have another version.
    pub(super) fn rename(instance: &str, rule: &Rule, version: Option<u64>) -> Self {
        let body =
            OneRule { instance_id: instance, firewall_rule: rule, firewall_version: version };
        Self::new("ModifyFirewallRuleDescription", &body)
    }

    fn new(action: &'static str, body: &impl Serialize) -> Self {
        // Structs of texts and numbers always have a JSON form.
        Self { action, body: serde_json::to_vec(body).unwrap_or_default() }
    }
}

impl<'a> Rules<'a> {
    fn new(instance_id: &'a str, firewall_rules: &'a [Rule], version: Option<u64>) -> Self {
        Self { instance_id, firewall_rules, firewall_version: version }
    }
}

// === impl Answer ===

impl Answer {
    /// Reads the answer to a request.
    pub(super) fn read(status: u16, body: &[u8]) -> Result<Self, ApiError> {
        if status != 200 {
            return Err(ApiError::Status(status));
        }
        let malformed = |error: serde_json::Error| ApiError::Malformed(error.to_string());
        let Envelope { response } = serde_json::from_slice(body).map_err(malformed)?;
        match response.error {
            None => Ok(response.answer),
            Some(Refusal { code, message }) => {
                Err(ApiError::Refused { code: shown(&code), message: shown(&message) })
            }
        }
    }
}

/// Makes text of a server fit for one line.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(300).collect();
    printable(&cut).into_owned()
}

// === impl ApiError ===

impl ApiError {
    /// Returns the kind of the error.
    pub(super) fn kind(&self) -> Kind {
        let code = match self {
            Self::Status(429) => return Kind::Often,
            Self::Status(500..=599) | Self::Away(_) => return Kind::Passing,
            Self::Status(_) | Self::Malformed(_) => return Kind::Wrong,
            Self::Refused { code, .. } => code.as_str(),
        };
        match code {
            "UnsupportedOperation.FirewallVersionMismatch"
            | "ResourceNotFound.FirewallRulesNotFound" => Kind::Changed,
            "InvalidParameter.FirewallRulesExist" => Kind::Exists,
            "UnsupportedOperation.FirewallBusy"
            | "ResourceUnavailable"
            | "ServiceUnavailable"
            | "ResourceInUse" => Kind::Passing,
            "ResourceNotFound.InstanceIdNotFound"
            | "ResourceNotFound.InstanceNotFound"
            | "ResourceNotFound.FirewallNotFound"
            | "InvalidParameterValue.InstanceIdMalformed" => Kind::NoInstance,
            "AuthFailure.SignatureExpire" => Kind::Clock,
            _ => match code.split('.').next().unwrap_or_default() {
                "RequestLimitExceeded" => Kind::Often,
                "LimitExceeded" => Kind::Full,
                "InternalError" | "FailedOperation" => Kind::Passing,
                "AuthFailure" | "UnauthorizedOperation" => Kind::Denied,
                _ => Kind::Wrong,
            },
        }
    }

    /// Replaces `secret`, should a server repeat it.
    pub(super) fn hide(&mut self, secret: &str) {
        let texts: &mut [&mut String] = match self {
            Self::Refused { code, message } => &mut [code, message],
            Self::Malformed(text) | Self::Away(text) => &mut [text],
            Self::Status(_) => &mut [],
        };
        for text in texts {
            if text.contains(secret) {
                **text = text.replace(secret, "[redacted]");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str) -> ApiError {
        let body = format!(
            r#"{{"Response":{{"Error":{{"Code":"{code}","Message":"two\nlines"}},"RequestId":"r-1"}}}}"#
        );
        Answer::read(200, body.as_bytes()).unwrap_err()
    }

    #[test]
    fn requests_have_the_documented_form() {
        let rule = Rule {
            protocol: "TCP".into(),
            port: Some("22".into()),
            cidr_block: Some("203.0.113.7".into()),
            ipv6_cidr_block: Some(String::new()),
            action: "ACCEPT".into(),
            firewall_rule_description: None,
        };
        let text = |request: Request| String::from_utf8(request.body).unwrap();
        let written =
            r#"{"Protocol":"TCP","Port":"22","CidrBlock":"203.0.113.7","Action":"ACCEPT"}"#;
        assert_eq!(
            text(Request::create("lhins-1", std::slice::from_ref(&rule), Some(7))),
            format!(
                r#"{{"InstanceId":"lhins-1","FirewallRules":[{written}],"FirewallVersion":7}}"#
            )
        );
        assert_eq!(
            text(Request::rename("lhins-1", &rule, None)),
            format!(r#"{{"InstanceId":"lhins-1","FirewallRule":{written}}}"#)
        );
        assert_eq!(
            text(Request::describe("lhins-1", 100)),
            r#"{"InstanceId":"lhins-1","Offset":100,"Limit":100}"#
        );
    }

    #[test]
    fn answers_are_read_with_nulls_and_fields_that_are_new() {
        let body = br#"{"Response":{"TotalCount":1,"FirewallRuleSet":[{"AppType":"Linux","Protocol":
            "TCP","Port":null,"CidrBlock":"0.0.0.0/0","Action":"ACCEPT","FirewallRuleDescription":""}],
            "FirewallVersion":3,"RequestId":"r"}}"#;
        let answer = Answer::read(200, body).unwrap();
        assert_eq!((answer.total_count, answer.firewall_version), (Some(1), Some(3)));
        assert_eq!(answer.firewall_rule_set.unwrap()[0].protocol, "TCP");
        for body in ["", "[]", "{\"Response\":7}", "<html>"] {
            let error = Answer::read(200, body.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn each_documented_error_has_its_kind_and_is_one_line() {
        for (code, kind) in [
            ("InvalidParameter.FirewallRulesExist", Kind::Exists),
            ("LimitExceeded.FirewallRulesLimitExceeded", Kind::Full),
            ("ResourceNotFound.FirewallRulesNotFound", Kind::Changed),
            ("ResourceNotFound.FirewallNotFound", Kind::NoInstance),
            ("ResourceNotFound.InstanceIdNotFound", Kind::NoInstance),
            ("UnsupportedOperation.FirewallBusy", Kind::Passing),
            ("UnsupportedOperation.FirewallVersionMismatch", Kind::Changed),
            ("InvalidParameterValue.FirewallRuleDescriptionTooLong", Kind::Wrong),
            ("InternalError", Kind::Passing),
            ("RequestLimitExceeded", Kind::Often),
            ("RequestLimitExceeded.UinLimitExceeded", Kind::Often),
            ("AuthFailure.SecretIdNotFound", Kind::Denied),
            ("AuthFailure.SignatureExpire", Kind::Clock),
            ("UnauthorizedOperation.CamNoAuth", Kind::Denied),
        ] {
            let error = refused(code);
            assert_eq!(error.kind(), kind, "{code}");
            assert_eq!(error.to_string(), format!("{code}: two\\nlines"));
        }
        assert_eq!(Answer::read(503, b"").unwrap_err().kind(), Kind::Passing);
    }

    #[test]
    fn a_secret_that_a_server_repeats_is_not_shown() {
        let mut error = refused("AuthFailure.AKIDsecret");
        error.hide("AKIDsecret");
        assert_eq!(error.to_string(), "AuthFailure.[redacted]: two\\nlines");
    }
}
