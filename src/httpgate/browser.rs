//! Requests of browsers for a document, in place of which a page can be shown. Programs, scripts of
//! a page and WebSockets could do nothing with one.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, UPGRADE};

/// Returns true if the answer to a request is shown to a person.
pub(super) fn shows_answer(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let mut kinds = lines.flat_map(|line| line.split(','));
    !headers.contains_key(UPGRADE) && kinds.any(is_html)
}

/// Returns true for HTML, unless it is what a client does not want.
fn is_html(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("text/html"));
    let weight = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('='));
    is_html && weight.and_then(|weight| weight.parse::<f32>().ok()).is_none_or(|it| it > 0.0)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn browsers_ask_for_html() {
        let shows = |lines: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            shows_answer(&headers)
        };
        for accept in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/json, Text/HTML ;q=0.1",
        ] {
            assert!(shows(&[("accept", accept)]), "{accept}");
            assert!(!shows(&[("accept", accept), ("upgrade", "websocket")]), "{accept}");
        }
        assert!(shows(&[("accept", "a/b"), ("accept", "text/html")]));
        for accept in ["*/*", "text/*", "application/json", "text/html;q=0", "text/html2", ""] {
            assert!(!shows(&[("accept", accept)]), "{accept}");
        }
        assert!(!shows(&[]));
    }
}
