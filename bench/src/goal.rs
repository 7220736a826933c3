//! Says whether Fibra reached what it was designed for, with the noise of the same run in mind.

use crate::stats::{Ratio, median};

/// What was reached against what was aimed at; at most `goal` is good.
pub struct Goal {
    pub what: String,
    pub reached: f64,
    pub goal: f64,
    /// How far a subject was from itself in this run, as a share; 0 for what is counted exactly.
    pub noise: f64,
    /// Enough rounds to decide.
    pub decides: bool,
}

/// With more noise than this, nothing is reached or missed: a goal would pass by shouting.
const NOISE_MAX: f64 = 0.10;

impl Goal {
    /// The noise of a run in which something was sampled twice. Without that, there is none to
    /// allow for, and every miss is a miss.
    pub fn noise(once: &[f64], again: &[f64]) -> f64 {
        Ratio::of(again, once).map_or(0.0, |ratio| ratio.spread())
    }

    /// One line, or nothing when there was nothing to measure.
    pub fn line(&self) -> Option<String> {
        if self.reached.is_nan() {
            return None;
        }
        let verdict = match self.reached / self.goal {
            _ if !self.decides => "undecided, too few rounds",
            _ if self.noise > NOISE_MAX => "undecided, too noisy",
            share if share <= 1.0 => "reached",
            share if share <= 1.0 + self.noise => "within the noise",
            _ => "missed",
        };
        let noise = self.noise * 100.0;
        let (what, reached, goal) = (&self.what, self.reached, self.goal);
        Some(format!("goal: {what} {reached:.2}, at most {goal} (noise {noise:.0} %): {verdict}"))
    }
}

/// The ratio of two medians, NaN when a side is missing.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours) / median(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_missed_only_beyond_the_noise() {
        let line = |reached| {
            let what = "x".to_string();
            let goal = Goal { what, reached, goal: 1.03, noise: 0.05, decides: true };
            goal.line().unwrap_or_default()
        };
        assert!(line(1.03).ends_with(": reached"));
        assert!(line(1.07).ends_with(": within the noise"));
        assert!(line(1.09).ends_with(": missed"));
        assert!(line(f64::NAN).is_empty());
    }

    #[test]
    fn noise_and_haste_decide_nothing() {
        let line = |noise, decides| {
            let goal = Goal { what: "x".to_string(), reached: 0.5, goal: 1.03, noise, decides };
            goal.line().unwrap_or_default()
        };
        assert!(line(0.0, true).ends_with(": reached"));
        assert!(line(0.3, true).ends_with(": undecided, too noisy"));
        assert!(line(0.0, false).ends_with(": undecided, too few rounds"));
    }
}
