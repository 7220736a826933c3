//! Medians, and how far a ratio of medians can be trusted.
//!
//! A ratio comes with the 5-95 % interval of a bootstrap: both sides are drawn again, with
//! repetition, and the ratio of the medians taken, some thousand times. With few samples the
//! interval is a guide and no more; a gate needs 30 a side.

/// Draws enough for intervals stable to the digits the tables show.
const RESAMPLES: usize = 2000;

/// A small generator (splitmix64): shuffles and resamples, nothing else.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; the bias of the remainder is far below what is measured here.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    median_in(&mut sorted)
}

fn median_in(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The smallest; NaN of nothing.
pub fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::min)
}

/// A ratio of two medians and its 5-95 % interval.
#[derive(Clone, Copy)]
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// None when a side has no sample.
    pub fn of(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
        if ours.is_empty() || theirs.is_empty() {
            return None;
        }
        let mut random = Random::new(1);
        let (mut a, mut b) = (vec![0.0; ours.len()], vec![0.0; theirs.len()]);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                a.fill_with(|| ours[random.below(ours.len())]);
                b.fill_with(|| theirs[random.below(theirs.len())]);
                median_in(&mut a) / median_in(&mut b)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[(share * (RESAMPLES - 1) as f64) as usize];
        Some(Ratio { value: median(ours) / median(theirs), low: at(0.05), high: at(0.95) })
    }

    /// How far from 1 the interval reaches: the noise, when both sides are the same thing.
    pub fn spread(&self) -> f64 {
        (self.high - 1.0).abs().max((1.0 - self.low).abs())
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}-{:.2}]", self.value, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_lies_in_its_interval_and_two_equal_sides_include_one() {
        let ours: Vec<f64> = (0..30).map(|i| 100.0 + f64::from(i % 7)).collect();
        let theirs: Vec<f64> = (0..30).map(|i| 50.0 + f64::from(i % 5)).collect();
        let ratio = Ratio::of(&ours, &theirs).expect("two sides");
        assert!(ratio.low <= ratio.value && ratio.value <= ratio.high);
        assert!(ratio.low > 1.8 && ratio.high < 2.2);
        let same = Ratio::of(&ours, &ours).expect("two sides");
        assert!(same.low <= 1.0 && 1.0 <= same.high && same.spread() < 0.05);
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<usize> = (0..50).collect();
        Random::new(7).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
