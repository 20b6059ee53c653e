//! Converts the metrics from OpenMetrics to Prometheus's older text format, 0.0.4.
//!
//! Both have the same content, and samples look the same. Only the lines about families differ: the
//! older format has neither info nor an end mark, and a family has the name of its samples.

use std::fmt::Write;

/// Converts `openmetrics` into the older format.
pub(super) fn plain(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        // Writing to a string cannot fail.
        let _ = match word(line, "# ").unwrap_or_default() {
            ("HELP", about) => {
                help = about.split_once(' ');
                Ok(())
            }
            ("TYPE", about) => family(&mut text, help.take(), about),
            ("UNIT", _) | ("EOF", "") => Ok(()),
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

/// Splits off the first word after `start`.
fn word<'a>(line: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    let rest = line.strip_prefix(start)?;
    Some(rest.split_once(' ').unwrap_or((rest, "")))
}

/// Writes the two lines at the head of a family. No help text here has characters that the two
/// formats escape differently.
fn family(text: &mut String, help: Option<(&str, &str)>, about: &str) -> std::fmt::Result {
    let (name, kind) = about.rsplit_once(' ').unwrap_or((about, "unknown"));
    let (end, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "unknown" => ("", "untyped"),
        kind => ("", kind),
    };
    if let Some((_, help)) = help.filter(|(of, _)| *of == name) {
        writeln!(text, "# HELP {name}{end} {help}")?;
    }
    writeln!(text, "# TYPE {name}{end} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_called_as_their_samples_are() {
        let openmetrics = "\
# HELP a_build The program.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{t=\"# EOF\"} 2\n\
# HELP a_open Open ones.\n# TYPE a_open gauge\na_open 3.0\n\
# HELP a_s Time.\n# TYPE a_s histogram\na_s_sum 0.5\na_s_count 1\na_s_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let expected = "\
# HELP a_build_info The program.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total{t=\"# EOF\"} 2\n\
# HELP a_open Open ones.\n# TYPE a_open gauge\na_open 3.0\n\
# HELP a_s Time.\n# TYPE a_s histogram\na_s_sum 0.5\na_s_count 1\na_s_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(plain(openmetrics), expected);
    }
}
