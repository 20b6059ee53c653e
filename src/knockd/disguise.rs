//! The disguised knock: a request for an unsuspicious file, with a secret in a header.
//!
//! Every connection gets one answer of one form, whatever it asks: another path, another method,
//! what is no request. A knock that is right gets that answer as well, and at once, so that neither
//! the text nor the time tells it from a wrong one; unless the operator has set a text for it, which
//! then comes once the store has the entry, and is no lie. There is no other endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tokio_util::task::TaskTracker;

use super::knocks::Knocks;
use super::options::{Answers, Disguise};
use crate::addr::ClientAddr;
use crate::gate::Member;
use crate::http::{Form, Head};

/// A knock, right or wrong.
struct Attempt {
    socket: ClientAddr,
    headers: HeaderMap,
}

/// A service in disguise.
pub(super) struct Disguised {
    options: Arc<Disguise>,
    knocks: Arc<Knocks>,
}

impl Disguised {
    pub(super) fn new(options: Arc<Disguise>, knocks: Arc<Knocks>) -> Arc<Self> {
        Arc::new(Self { options, knocks })
    }

    /// Answers what came through `socket`: a request, or what is none. Runs in `tasks` what the
    /// answer does not wait for.
    pub(super) async fn answer(
        self: Arc<Self>,
        head: Option<Head>,
        socket: ClientAddr,
        tasks: &TaskTracker,
    ) -> Form {
        let answers = &self.options.answers;
        let Some(head) = head.filter(|head| self.options.is_attempt(head)) else {
            return answers.form(false);
        };
        let attempt = Attempt { socket, headers: head.headers };
        let knocking = Arc::clone(&self);
        let knock = async move { knocking.knock(attempt).await };
        if answers.tell_nothing() {
            tasks.spawn(knock);
            answers.form(false)
        } else {
            answers.form(knock.await)
        }
    }

    /// Lets in the address that a right knock is for; returns true if the store has the entry.
    async fn knock(&self, attempt: Attempt) -> bool {
        let Attempt { socket, headers } = &attempt;
        let options = &self.options;
        let client = options.clients.client(*socket, headers);
        let secret = only(headers, &options.secret).map(HeaderValue::as_bytes);
        let Ok(caller) = self.knocks.caller_of(*socket, client, secret) else { return false };
        let address = match &options.claim {
            None => Some(caller.client),
            Some(name) => only(headers, name).and_then(address),
        };
        let Some(address) = address else { return false };
        let label = only(headers, &options.label).map(|it| String::from_utf8_lossy(it.as_bytes()));
        self.knocks.let_in(&caller, address.into(), label.as_deref()).await.is_ok()
    }
}

impl Disguise {
    /// Returns true for a request that tries a secret.
    fn is_attempt(&self, head: &Head) -> bool {
        let path = head.target.split('?').next().unwrap_or_default();
        head.method == "GET" && path == self.path && head.headers.contains_key(&self.secret)
    }
}

impl Answers {
    /// Returns true if the answer is the same for a right knock.
    fn tell_nothing(&self) -> bool {
        self.success == self.failure
    }

    fn form(&self, is_in: bool) -> Form {
        let body = if is_in { &self.success } else { &self.failure };
        Form { status: self.status, content_type: self.content_type.clone(), body: body.clone() }
    }
}

/// Returns the value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Reads one address of a client: no network, and none that no other host has.
fn address(value: &HeaderValue) -> Option<IpAddr> {
    let ip = value.to_str().ok()?.trim().parse::<IpAddr>().ok()?.to_canonical();
    let member = Member::from(ip);
    (!member.is_of_nobody() && !member.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_address_is_one_of_another_host() {
        let read = |text: &[u8]| address(&HeaderValue::from_bytes(text).unwrap());
        for good in ["203.0.113.1", " 203.0.113.1\t", "::ffff:203.0.113.1"] {
            assert_eq!(read(good.as_bytes()), Some("203.0.113.1".parse().unwrap()), "{good}");
        }
        assert_eq!(read(b"2001:DB8::5"), Some("2001:db8::5".parse().unwrap()));
        for bad in [
            "",
            "nonsense",
            "0.0.0.0",
            "0.0.0.0/0",
            "203.0.113.1/32",
            "203.0.113.1, 203.0.113.2",
            "203.0.113.1:80",
            "203.0.113.1;",
            "999.1.1.1",
            "0203.0.113.1",
            "::",
            "::1",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "0.1.2.3",
            "169.254.1.1",
            "240.0.0.1",
            "fe80::1",
            "fe80::1%eth0",
        ] {
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(read(b"203.0.113.1\xe9"), None);
    }

    #[test]
    fn a_header_counts_if_it_is_there_once() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("referer");
        assert_eq!(only(&headers, &name), None);
        headers.append(&name, HeaderValue::from_static("a"));
        assert_eq!(only(&headers, &name), Some(&HeaderValue::from_static("a")));
        headers.append(&name, HeaderValue::from_static("a"));
        assert_eq!(only(&headers, &name), None);
    }
}
