//! [`Counters`]: what a core did and what it dropped, each under a fixed name.

use alloc::collections::BTreeMap;

/// Counts under names known at compile time, so their number is bounded and they carry nothing about a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// One more of `name`.
    pub fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// `n` more of `name`.
    pub fn add(&mut self, name: &'static str, n: u64) {
        let entry = self.0.entry(name).or_default();
        *entry = entry.saturating_add(n);
    }

    /// How many of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All that were counted, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(&name, &n)| (name, n))
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(name, n)| self.add(name, n));
    }
}
