//! Form of the metrics for a scraper: the one that its Accept header prefers.
//!
//! A request without a preference gets the older text format, since every scraper reads it;
//! OpenMetrics is for those that name it.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// A form of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
}

/// Rank of a form: by its quality first, then by the exactness of its name, then by its place in
/// the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// In thousandths.
    quality: u32,
    exactness: u8,
    /// Negated place, so that the first is the largest.
    place: isize,
}

/// One media range of the header.
#[derive(Debug, Default)]
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    quality: u32,
}

impl Form {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the form that a request prefers.
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let values: Vec<&str> = values.collect();
        Self::of(&values.join(","))
    }

    fn of(accept: &str) -> Self {
        let ranges: Vec<Range<'_>> = accept.split(',').map(Range::parse).collect();
        match Self::OpenMetrics.rank(&ranges) {
            Some(rank) if Some(rank) > Self::Text.rank(&ranges) => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// Returns the rank of this form; `None` where it is not acceptable. Of several ranges that
    /// contain it, the one that names it most exactly decides, and among equals the one with the
    /// highest rank.
    fn rank(self, ranges: &[Range<'_>]) -> Option<Rank> {
        let placed = ranges.iter().zip((0isize..).map(|place| -place));
        let found = placed.filter_map(|(range, place)| {
            let exactness = range.exactness(self)?;
            Some(Rank { quality: range.quality, exactness, place })
        });
        let most_exact = found.max_by_key(|it| (it.exactness, it.quality, it.place))?;
        (most_exact.quality > 0).then_some(most_exact)
    }
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut range =
            Self { kind: parts.next().unwrap_or_default(), version: None, quality: 1000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("q") => range.quality = quality(value),
                name if name.eq_ignore_ascii_case("version") => range.version = Some(value),
                _ => {}
            }
        }
        range
    }

    /// Rates the exactness with which the range names a form; `None` where it does not contain it.
    fn exactness(&self, form: Form) -> Option<u8> {
        let (whole, part, versions): (_, _, &[&str]) = match form {
            Form::Text => ("text/plain", "text/*", &["0.0.4"]),
            // Both have the same content.
            Form::OpenMetrics => {
                ("application/openmetrics-text", "application/*", &["0.0.1", "1.0.0"])
            }
        };
        let is = |kind: &str| self.kind.eq_ignore_ascii_case(kind);
        match self.version {
            Some(version) => (is(whole) && versions.contains(&version)).then_some(3),
            None if is(whole) => Some(2),
            None if is(part) => Some(1),
            None if is("*/*") => Some(0),
            None => None,
        }
    }
}

/// Parses a quality in thousandths; an invalid one counts as the best, as if it were absent.
fn quality(text: &str) -> u32 {
    let quality = text.parse::<f64>().ok().filter(|quality| (0.0..=1.0).contains(quality));
    quality.map_or(1000, |quality| (quality * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_is_liked_best() {
        use Form::{OpenMetrics, Text};
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let cases = [
            ("", Text),
            ("*/*", Text),
            ("text/html, */*;q=0.8", Text),
            ("text/plain", Text),
            ("text/*", Text),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Text),
            ("application/json", Text),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", OpenMetrics),
            ("application/openmetrics-text;version=2.0.0", Text),
            ("application/*", OpenMetrics),
            (prometheus, OpenMetrics),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.9", Text),
            ("application/openmetrics-text;q=0, */*", Text),
            ("application/openmetrics-text;q=0", Text),
            ("text/plain;q=0, */*", OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            ("text/plain, application/openmetrics-text", Text),
            ("application/openmetrics-text, text/plain", OpenMetrics),
            ("application/openmetrics-text, */*", OpenMetrics),
            ("text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.999", Text),
            ("text/plain;q=x, application/openmetrics-text;q=0.1", Text),
            (";;=,", Text),
        ];
        for (accept, expected) in cases {
            assert_eq!(Form::of(accept), expected, "{accept}");
        }
    }
}
