//! What was counted in the last minutes, for rates and averages, and the warning of small pools.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mizzle_base::{Counters, Time};
use mizzle_net::clock::Clock;
use mizzle_traffic::anonymity;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::Rate;

/// The pool is looked at so often; counters are remembered once in so many looks, and so many of them.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u64 = 10;
const REMEMBERED: usize = 31;

/// What was seen at a moment.
struct Look {
    at: Time,
    counters: Counters,
    /// Sum and number of the pools that were seen until the next one.
    pools: (u64, u64),
}

/// Remembers what was counted in the last minutes. Ends with its owner.
pub(super) struct Record {
    looks: Arc<Mutex<VecDeque<Look>>>,
    task: AbortHandle,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has changed since the oldest look.
pub(super) struct Lately {
    pub(super) over_s: f64,
    pub(super) before: Counters,
    pub(super) pool_mean: Option<f64>,
}

impl Record {
    /// Looks again and again. Must be called within a runtime.
    pub(super) fn start(clock: Clock, mut look: impl FnMut() -> (Counters, usize) + Send + 'static) -> Self {
        let looks = Arc::new(Mutex::new(VecDeque::new()));
        let mine = Arc::clone(&looks);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for n in 0.. {
                ticks.tick().await;
                let (counters, pool) = look();
                let mut looks = mine.lock().unwrap_or_else(PoisonError::into_inner);
                note(&mut looks, n, clock.now(), counters, pool);
            }
        });
        let task = task.abort_handle();
        Self { looks, task }
    }

    pub(super) fn lately(&self, now: Time) -> Lately {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let (sum, n) = looks
            .iter()
            .fold((0, 0), |(sum, n), look| (sum + look.pools.0, n + look.pools.1));
        let oldest = looks.front();
        Lately {
            over_s: oldest.map_or(0.0, |look| now.since(look.at).as_secs_f64()),
            before: oldest.map_or_else(Counters::default, |look| look.counters.clone()),
            pool_mean: (n > 0).then(|| sum as f64 / n as f64),
        }
    }
}

fn note(looks: &mut VecDeque<Look>, n: u64, at: Time, counters: Counters, pool: usize) {
    if n.is_multiple_of(LOOKS) {
        if looks.len() == REMEMBERED {
            looks.pop_front();
        }
        looks.push_back(Look {
            at,
            counters,
            pools: (0, 0),
        });
    }
    if let Some(last) = looks.back_mut() {
        last.pools.0 += pool as u64;
        last.pools.1 += 1;
    }
}

/// Says in the log when pools become too small, and when they are large enough again.
#[derive(Default)]
pub(super) struct Warning {
    given: bool,
}

impl Warning {
    pub(super) fn look(&mut self, pool: f64) {
        let small = pool < anonymity::POOL_WANTED;
        if small == self.given {
            return;
        }
        self.given = small;
        if small {
            tracing::warn!(
                "the network has so few users that less than {} packets are in the pool of a mix: some of them stand out; \
                 see `mizzle status`",
                anonymity::POOL_WANTED
            );
        } else {
            tracing::info!("the network has enough users again");
        }
    }
}

impl Lately {
    pub(super) fn of(&self, now: &Counters, name: &str) -> u64 {
        now.get(name).saturating_sub(self.before.get(name))
    }

    pub(super) fn rates(&self, now: &Counters, kinds: &[(&str, &[&str])]) -> Vec<Rate> {
        let rate = |(name, counters): &(&str, &[&str])| Rate {
            name: (*name).into(),
            per_s: counters
                .iter()
                .map(|counter| self.of(now, counter) as f64)
                .sum::<f64>()
                / self.over_s.max(1.0),
            total: counters.iter().map(|counter| now.get(counter)).sum(),
        };
        kinds.iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_five_minutes_and_pools_are_averaged() {
        let mut looks = VecDeque::new();
        let mut counters = Counters::default();
        for n in 0..1_000 {
            counters.add("slot.data", 2);
            note(
                &mut looks,
                n,
                Time::from_s(n),
                counters.clone(),
                (n % 2) as usize * 10,
            );
        }
        assert_eq!(looks.len(), REMEMBERED);
        let record = Record {
            looks: Arc::new(Mutex::new(looks)),
            task: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .spawn(async {})
                .abort_handle(),
        };
        let lately = record.lately(Time::from_s(999));
        assert!((300.0..=310.0).contains(&lately.over_s), "{}", lately.over_s);
        assert_eq!(lately.pool_mean, Some(5.0));
        let rates = lately.rates(&counters, &[("data", &["slot.data", "nothing"])]);
        assert!(
            (rates[0].per_s - 2.0).abs() < 0.01 && rates[0].total == 2_000,
            "{rates:?}"
        );
    }
}
