//! All figures of a run.

use std::collections::BTreeMap;

use crate::competitors::Competitor;

/// Result of one measurement: the name of each figure with its unit, and its value.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// The figures of all rounds.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<(&'static str, &'static str, Competitor), Vec<f64>>);

impl Results {
    pub(crate) fn add(&mut self, row: &'static str, competitor: Competitor, figures: Figures) {
        for (figure, value) in figures {
            self.0.entry((row, figure, competitor)).or_default().push(value);
        }
    }

    /// Returns the median of the rounds.
    pub(crate) fn get(
        &self,
        row: &'static str,
        figure: &'static str,
        competitor: Competitor,
    ) -> Option<f64> {
        Some(median(self.0.get(&(row, figure, competitor))?))
    }

    /// Returns the figures of `row`, by name.
    pub(crate) fn figures(&self, row: &str) -> Vec<&'static str> {
        let mut names: Vec<_> =
            self.0.keys().filter(|(of, ..)| *of == row).map(|(_, name, _)| *name).collect();
        names.dedup();
        names
    }

    pub(crate) fn has(&self, competitor: Competitor) -> bool {
        self.0.keys().any(|(.., of)| *of == competitor)
    }

    /// Returns the largest number of rounds of any measurement.
    pub(crate) fn rounds(&self) -> usize {
        self.0.values().map(Vec::len).max().unwrap_or(0)
    }
}

/// Returns the value in the middle; of an even number, the mean of the two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Returns the value that the given share of all does not exceed. Sorts.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
