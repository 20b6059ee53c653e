//! Place that a denied client is sent to: the operator's URL, with the address of the page that it
//! asked for in a parameter, if so configured.
//!
//! The page's address is the client's own word: a page that sends it back after a login has to check
//! that it leads to a host of theirs.

use std::str::FromStr;

use hyper::Uri;
use hyper::header::HeaderValue;

/// Address of a page as its client knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    /// `http` or `https`.
    pub(super) scheme: &'a str,
    /// Host, with its port if that is not the usual one.
    pub(super) host: Option<&'a HeaderValue>,
    /// Path with its query.
    pub(super) path: &'a str,
}

/// Settings of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Address to send to, as it was written.
    url: String,
    /// Parameter that names the page.
    parameter: Option<String>,
}

/// Reason why a text is no address to send a browser to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address for a browser; write http://HOST/PATH or https://HOST/PATH")]
pub struct RedirectError(String);

/// Reason why a text is no name of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no name of a parameter; write letters, digits, - and _ only")]
pub struct ParameterError(String);

/// Name of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter(String);

impl FromStr for Redirect {
    type Err = RedirectError;

    fn from_str(text: &str) -> Result<Self, RedirectError> {
        let wrong = || RedirectError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_value = HeaderValue::from_str(text).is_ok() && text.is_ascii();
        if is_web && uri.host().is_some_and(|host| !host.is_empty()) && is_value {
            Ok(Self { url: text.to_owned(), parameter: None })
        } else {
            Err(wrong())
        }
    }
}

impl FromStr for Parameter {
    type Err = ParameterError;

    fn from_str(text: &str) -> Result<Self, ParameterError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParameterError(text.to_owned()))
        }
    }
}

impl Redirect {
    /// Names the page in a parameter.
    #[must_use]
    pub fn with_parameter(self, parameter: Option<Parameter>) -> Self {
        Self { parameter: parameter.map(|parameter| parameter.0), ..self }
    }

    /// Returns the value of Location for a client that asked for `page`.
    pub(super) fn location(&self, page: Page<'_>) -> Option<HeaderValue> {
        let host = page.host.and_then(|host| host.to_str().ok());
        let (Some(parameter), Some(host)) = (&self.parameter, host) else {
            return HeaderValue::from_str(&self.url).ok();
        };
        let (url, fragment) = match self.url.split_once('#') {
            Some((url, fragment)) => (url, Some(fragment)),
            None => (&*self.url, None),
        };
        let joint = match url.split_once('?') {
            None => "?",
            Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
            Some(_) => "&",
        };
        let page = format!("{}://{host}{}", page.scheme, page.path);
        let mut location = format!("{url}{joint}{parameter}={}", escaped(&page));
        if let Some(fragment) = fragment {
            location.push('#');
            location.push_str(fragment);
        }
        HeaderValue::try_from(location).ok()
    }
}

/// Returns text as the value of a parameter: everything but unreserved characters as `%XX`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.extend(
                [byte >> 4, byte & 15].map(|half| char::from(b"0123456789ABCDEF"[half as usize])),
            );
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(url: &str, parameter: Option<&str>, path: &str) -> String {
        let parameter = parameter.map(|name| name.parse().unwrap());
        let redirect = url.parse::<Redirect>().unwrap().with_parameter(parameter);
        let host = HeaderValue::from_static("app.example:8443");
        let page = Page { scheme: "https", host: Some(&host), path };
        redirect.location(page).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn without_a_parameter_the_url_is_sent_as_it_was_written() {
        for url in ["https://www.google.com", "http://login.example/?a=b#c"] {
            assert_eq!(location(url, None, "/x"), url);
        }
    }

    #[test]
    fn the_page_is_one_parameter_whatever_is_in_it() {
        let page = "https%3A%2F%2Fapp.example%3A8443%2Fa%3Fb%3D1%26c%3D2";
        let cases = [
            ("https://l.example", format!("https://l.example?rd={page}")),
            ("https://l.example/x", format!("https://l.example/x?rd={page}")),
            ("https://l.example/?q=1", format!("https://l.example/?q=1&rd={page}")),
            ("https://l.example/?", format!("https://l.example/?rd={page}")),
            ("https://l.example/?q&", format!("https://l.example/?q&rd={page}")),
            ("https://l.example/#in", format!("https://l.example/?rd={page}#in")),
        ];
        for (url, expected) in cases {
            assert_eq!(location(url, Some("rd"), "/a?b=1&c=2"), expected);
        }
    }

    #[test]
    fn what_is_no_address_for_a_browser_is_refused() {
        for text in ["", "login", "/login", "//host/x", "ftp://h/", "https://", "http://h/\r\nX: y"]
        {
            let error = text.parse::<Redirect>().unwrap_err().to_string();
            assert!(error.contains("; write http"), "{error}");
        }
        for text in ["", "a b", "a=b", "a&b", "é"] {
            assert!(text.parse::<Parameter>().is_err(), "{text}");
        }
    }
}
