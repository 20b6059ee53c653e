//! Header fields that proxies treat in a special way: one table, and one way to compare names.
//!
//! Servers make variables of fields, as CGI does, and then `X-Forwarded-For`, `X_Forwarded_For` and
//! to some `X.Forwarded.For` have one name. So a field of the table is meant by every such spelling,
//! and only the one with dashes is ever believed. Fields that browsers send on behalf of an
//! application are in no group that is taken from a stranger. Knows no request: what is done with a
//! field is decided where it is done.

use std::borrow::Cow;

use hyper::body::Frame;
use hyper::header::HeaderName;

/// Group of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Ends of a message, and uses of its connection.
    Framing,
    /// The client as a proxy sees it: address, scheme, host, path.
    Client,
    /// The user that a proxy has checked.
    User,
    /// Whole messages: no hop may drop one of these, and none comes behind a body.
    Message,
}

use Group::{Client, Framing, Message, User};

/// Names with their groups, in their order.
const TABLE: [(&str, Group); 118] = [
    ("age", Message),
    ("ali-cdn-real-ip", Client),
    ("authorization", Message),
    ("cache-control", Message),
    ("cdn-src-ip", Client),
    ("cf-connecting-ip", Client),
    ("cf-connecting-ipv6", Client),
    ("cf-pseudo-ipv4", Client),
    ("client-cert", User),
    ("client-cert-chain", User),
    ("client-ip", Client),
    ("connection", Framing),
    ("content-disposition", Message),
    ("content-encoding", Message),
    ("content-language", Message),
    ("content-length", Framing),
    ("content-location", Message),
    ("content-range", Message),
    ("content-security-policy", Message),
    ("content-type", Message),
    ("cookie", Message),
    ("date", Message),
    ("do-connecting-ip", Client),
    ("expect", Framing),
    ("expires", Message),
    ("fastly-client-ip", Client),
    ("fly-client-ip", Client),
    ("forwarded", Client),
    ("forwarded-for", Client),
    ("forwarded-host", Client),
    ("forwarded-proto", Client),
    ("front-end-https", Client),
    ("host", Framing),
    ("http2-settings", Framing),
    ("incap-client-ip", Client),
    ("keep-alive", Framing),
    ("location", Message),
    ("max-forwards", Message),
    ("origin", Message),
    ("pragma", Message),
    // A variable of programs that CGI runs: they would send their requests there (httpoxy).
    ("proxy", Client),
    ("proxy-authenticate", Message),
    ("proxy-authorization", Message),
    ("proxy-client-ip", Client),
    ("proxy-connection", Framing),
    ("range", Message),
    ("referer", Message),
    ("remote-addr", Client),
    ("remote-email", User),
    ("remote-groups", User),
    ("remote-host", Client),
    ("remote-name", User),
    ("remote-user", User),
    ("retry-after", Message),
    ("set-cookie", Message),
    ("strict-transport-security", Message),
    ("te", Framing),
    ("trailer", Framing),
    ("transfer-encoding", Framing),
    ("true-client-ip", Client),
    ("upgrade", Framing),
    ("user-agent", Message),
    ("vary", Message),
    ("wl-proxy-client-ip", Client),
    ("wl-proxy-client-port", Client),
    ("wl-proxy-ssl", Client),
    ("www-authenticate", Message),
    ("x-appengine-remote-addr", Client),
    ("x-appengine-user-ip", Client),
    ("x-arr-ssl", Client),
    ("x-auth-user", User),
    ("x-auth-username", User),
    ("x-azure-clientip", Client),
    ("x-azure-socketip", Client),
    ("x-client-cert", User),
    ("x-client-host", Client),
    ("x-client-ip", Client),
    ("x-clientip", Client),
    ("x-cluster-client-ip", Client),
    ("x-coming-from", Client),
    ("x-custom-ip-authorization", Client),
    ("x-email", User),
    ("x-envoy-external-address", Client),
    ("x-envoy-original-path", Client),
    ("x-forward-for", Client),
    ("x-forwarded-access-token", User),
    ("x-forwarded-email", User),
    ("x-forwarded-groups", User),
    ("x-forwarded-preferred-username", User),
    ("x-forwarded-user", User),
    ("x-grafana-user", User),
    ("x-host", Client),
    ("x-http-destinationurl", Client),
    ("x-http-host-override", Client),
    ("x-nf-client-connection-ip", Client),
    ("x-originating-ip", Client),
    ("x-override-url", Client),
    ("x-proxy-user", User),
    ("x-proxyuser-ip", Client),
    ("x-real-host", Client),
    ("x-real-ip", Client),
    ("x-real-port", Client),
    ("x-remote-addr", Client),
    ("x-remote-group", User),
    ("x-remote-groups", User),
    ("x-remote-ip", Client),
    ("x-remote-user", User),
    ("x-rewrite-url", Client),
    ("x-scheme", Client),
    ("x-ssl", Client),
    ("x-ssl-cert", User),
    ("x-sucuri-clientip", Client),
    ("x-true-client-ip", Client),
    ("x-url-scheme", Client),
    ("x-user", User),
    ("x-username", User),
    ("x-vercel-forwarded-for", Client),
    ("x-vercel-proxied-for", Client),
];

/// Beginnings of names that belong to a group as a whole, in their order; none begins another. A
/// name of the table counts before its beginning.
const FAMILIES: [(&str, Group); 24] = [
    ("access-control-", Message),
    ("cf-access-authenticated-", User),
    ("cf-access-jwt-", User),
    ("cloudfront-", Client),
    ("if-", Message),
    ("sec-", Message),
    ("ssl-client-", User),
    ("tailscale-user-", User),
    ("x-amzn-oidc-", User),
    ("x-auth-request-", User),
    ("x-authenticated-", User),
    ("x-authentik-", User),
    ("x-consumer-", User),
    ("x-credential-", User),
    ("x-forwarded", Client),
    ("x-goog-authenticated-user-", User),
    ("x-goog-iap-", User),
    ("x-ms-client-principal", User),
    ("x-ms-token-", User),
    ("x-original-", Client),
    ("x-pomerium-", User),
    ("x-ssl-client-", User),
    ("x-vouch-", User),
    ("x-webauth-", User),
];

impl Group {
    /// Returns the group of a name, however it is spelled.
    pub fn of(name: &str) -> Option<Self> {
        let name = &*with_dashes(name);
        if let Ok(place) = TABLE.binary_search_by_key(&name, |(known, _)| known) {
            return Some(TABLE[place].1);
        }
        // The last one that is not behind the name is the only one that the name can begin with.
        let behind = FAMILIES.partition_point(|(start, _)| *start <= name);
        let (start, group) = FAMILIES[..behind].last()?;
        name.starts_with(start).then_some(*group)
    }
}

/// Returns true if a name is spelled with dashes, as all that is believed.
pub fn has_dashes(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns true if a server might take the one name for the other.
pub fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && with_dashes(one) == with_dashes(other)
}

/// Takes out of the fields behind a body what a server might take for a field in front of it.
/// `own` is the operator's own field with the client's address.
pub fn without_special<T>(frame: Frame<T>, own: Option<&HeaderName>) -> Frame<T> {
    let mut trailers = match frame.into_trailers() {
        Ok(trailers) => trailers,
        Err(data) => return data,
    };
    let is_special = |name: &&HeaderName| {
        let name = name.as_str();
        Group::of(name).is_some() || own.is_some_and(|own| is_same(name, own.as_str()))
    };
    let found: Vec<HeaderName> = trailers.keys().filter(is_special).cloned().collect();
    for name in found {
        trailers.remove(name);
    }
    Frame::trailers(trailers)
}

/// Returns a name as servers compare it that make variables of fields: every other sign is a dash.
fn with_dashes(name: &str) -> Cow<'_, str> {
    if has_dashes(name) {
        return Cow::Borrowed(name);
    }
    let plain = |sign: char| if sign.is_ascii_alphanumeric() { sign } else { '-' };
    Cow::Owned(name.chars().map(plain).collect())
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    #[test]
    fn the_table_is_in_its_order() {
        assert!(TABLE.windows(2).all(|two| two[0].0 < two[1].0), "{TABLE:?}");
        assert!(TABLE.iter().all(|(name, _)| has_dashes(name) && *name == name.to_lowercase()));
        let is_apart =
            |two: &[(&str, Group)]| two[0].0 < two[1].0 && !two[1].0.starts_with(two[0].0);
        assert!(FAMILIES.windows(2).all(is_apart), "{FAMILIES:?}");
    }

    #[test]
    fn the_document_lists_what_is_dropped() {
        let document = include_str!("../../docs/operating/http-gate.md");
        let list = document.split("## Fields that are dropped").nth(1).unwrap();
        let mut parts = list.split("\n## ").next().unwrap().split("About a user");
        let named = |text: &str| {
            let mut names: Vec<_> = text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            names.retain(|name| name != "*");
            names.sort();
            names
        };
        for group in [Client, User] {
            let of_group = |it: &&(&str, Group)| it.1 == group;
            let whole = TABLE.iter().filter(of_group).map(|it| it.0.to_owned());
            let begun = FAMILIES.iter().filter(of_group).map(|it| format!("{}*", it.0));
            let mut names: Vec<_> = whole.chain(begun).collect();
            names.sort();
            assert_eq!(named(parts.next().unwrap()), names, "{group:?}");
        }
    }

    #[test]
    fn every_spelling_of_a_name_is_of_its_group() {
        for name in ["x-forwarded-for", "x_forwarded_for", "x.forwarded-for", "x!forwarded~for"] {
            assert_eq!(Group::of(name), Some(Client), "{name}");
            assert!(is_same(name, "X-Forwarded-For".to_lowercase().as_str()), "{name}");
        }
        for (name, group) in [
            ("x-forwarded-anything", Client),
            ("x_forwarded", Client),
            ("content_length", Framing),
            ("ssl_client_cert", User),
            ("remote.user", User),
            ("x-forwarded-user", User),
            ("x_forwarded_groups", User),
            ("x-forwarded-users", Client),
            ("x-forwarded-client-cert", Client),
            ("cf-access-authenticated-user-email", User),
            ("x-ms-client-principal", User),
            ("x-ms-client-principal-name", User),
            ("x-webauth-name", User),
            ("x-original-method", Client),
            ("cloudfront-viewer-address", Client),
            ("sec-websocket-key", Message),
            ("if_none_match", Message),
        ] {
            assert_eq!(Group::of(name), Some(group), "{name}");
        }
    }

    #[test]
    fn what_browsers_and_applications_send_for_themselves_is_in_no_group_of_a_proxy() {
        let is_taken = |name: &str| matches!(Group::of(name), Some(Client | User));
        for name in [
            "accept",
            "accept-language",
            "authorization",
            "cf-access-client-id",
            "cookie",
            "dnt",
            "early-data",
            "origin",
            "priority",
            "referer",
            "save-data",
            "sec-fetch-site",
            "upgrade-insecure-requests",
            "x-api-key",
            "x-csrf-token",
            "x-http-method-override",
            "x-originator",
            "x-user-id",
            "x-request-id",
            "x-requested-with",
            "x-xsrf-token",
        ] {
            assert!(!is_taken(name), "{name}");
        }
    }

    #[test]
    fn fields_of_a_head_are_taken_out_of_trailers() {
        let mut trailers = HeaderMap::new();
        let names = [
            "x-sum",
            "grpc-status",
            "x-forwarded-for",
            "x_real_ip",
            "content-length",
            "transfer.encoding",
            "authorization",
            "set-cookie",
            "x-own",
            "x_own",
        ];
        for name in names {
            trailers.append(HeaderName::from_static(name), "1".parse().unwrap());
        }
        let own = HeaderName::from_static("x-own");
        let frame = without_special(Frame::<()>::trailers(trailers), Some(&own));
        let trailers = frame.into_trailers().unwrap();
        let left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-sum", "grpc-status"]);
    }
}
