//! The cases, and what they share: rounds in which every item is sampled once, in random order.

pub mod echo;
pub mod parked;
pub mod spawn;
pub mod switch;

use std::io::{IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::child::{Cores, Figures};
use crate::json::Json;
use crate::stats::Random;
use crate::subject::{self, Subject};

/// How this run measures.
pub struct Plan {
    pub rounds: usize,
    pub cores: Cores,
    /// Names, or parts of names, of the subjects wanted; empty means all.
    pub only: Vec<String>,
    pub connections: Vec<usize>,
    pub measure_ms: u64,
    /// Samples during which others used more of the machine than this are not used.
    pub foreign_max: f64,
    pub quick: bool,
}

/// Rounds behind every ratio that decides something.
pub const DECIDING_ROUNDS: usize = 30;

impl Plan {
    /// Enough rounds for a verdict.
    fn decides(&self) -> bool {
        self.rounds >= DECIDING_ROUNDS
    }

    /// The subjects that are wanted and can do it.
    fn subjects(&self, can: fn(&Subject) -> bool) -> Vec<Subject> {
        let is_wanted = |name: &str| {
            self.only.is_empty() || self.only.iter().any(|o| name.contains(o.as_str()))
        };
        subject::all().into_iter().filter(|s| can(s) && is_wanted(s.name)).collect()
    }
}

/// The subject whose absolute goals are judged by its own noise.
const FIBRA: &str = "fibra";

/// One thing to sample in every round. An item marked `again` is its subject a second time: the
/// ratio of the two is the noise.
#[derive(Clone)]
struct Item {
    subject: &'static str,
    size: usize,
    again: bool,
}

impl Item {
    fn label(&self) -> String {
        if self.again { format!("{} again", self.subject) } else { self.subject.to_string() }
    }
}

/// An item and its samples so far.
struct Sampled {
    item: Item,
    samples: Vec<Figures>,
    /// The last of the errors, if any.
    error: Option<String>,
}

impl Sampled {
    fn values(&self, name: &str) -> Vec<f64> {
        self.samples.iter().filter_map(|s| s.get(name)).copied().filter(|v| !v.is_nan()).collect()
    }

    fn to_json(&self) -> Json {
        let mut fields = vec![
            ("subject".to_string(), Json::text(self.item.label())),
            ("size".to_string(), Json::Number(self.item.size as f64)),
        ];
        let mut names: Vec<&String> = self.samples.iter().flat_map(|s| s.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            fields.push((name.clone(), Json::numbers(&self.values(name))));
        }
        Json::Object(fields)
    }
}

/// The samples of one subject at one size.
fn of<'a>(sampled: &'a [Sampled], subject: &str, size: usize, again: bool) -> Option<&'a Sampled> {
    sampled
        .iter()
        .find(|s| s.item.subject == subject && s.item.size == size && s.item.again == again)
}

/// Its values under a name; none if it was not sampled.
fn values(sampled: &[Sampled], subject: &str, size: usize, name: &str) -> Vec<f64> {
    of(sampled, subject, size, false).map_or_else(Vec::new, |s| s.values(name))
}

/// The same of the subject sampled a second time.
fn values_again(sampled: &[Sampled], subject: &str, size: usize, name: &str) -> Vec<f64> {
    of(sampled, subject, size, true).map_or_else(Vec::new, |s| s.values(name))
}

/// Errors after which an item is left alone.
const ERRORS_MAX: usize = 3;

/// Samples every item once a round, shuffled. `sample` says None for a sample not to be used.
fn interleave(
    case: &str,
    rounds: usize,
    items: Vec<Item>,
    mut sample: impl FnMut(&Item) -> Result<Option<Figures>, String>,
) -> Vec<Sampled> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let mut random = Random::new(seed);
    let mut sampled: Vec<Sampled> =
        items.into_iter().map(|item| Sampled { item, samples: Vec::new(), error: None }).collect();
    let mut errors = vec![0; sampled.len()];
    for round in 1..=rounds {
        progress(&format!("{case}: round {round} of {rounds}"));
        let mut order: Vec<usize> = (0..sampled.len()).collect();
        random.shuffle(&mut order);
        for i in order {
            if errors[i] >= ERRORS_MAX {
                continue;
            }
            match sample(&sampled[i].item) {
                Ok(Some(figures)) => sampled[i].samples.push(figures),
                Ok(None) => {}
                Err(error) => {
                    errors[i] += 1;
                    sampled[i].error = Some(error);
                }
            }
        }
    }
    progress("");
    sampled
}

/// One line that is overwritten, where somebody watches.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}

/// A line for each item that failed.
fn error_notes(sampled: &[Sampled]) -> Vec<String> {
    sampled
        .iter()
        .filter_map(|s| {
            let error = s.error.as_ref()?;
            Some(format!("{} at {}: {error}", s.item.label(), s.item.size))
        })
        .collect()
}
