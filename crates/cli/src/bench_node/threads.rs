//! CPU time of this process's threads by their names, where the system tells (Linux).

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// The threads of the node under test are those whose names begin so; no other thread's does.
pub(super) const NODE: &str = "mizzle-";

/// Nanoseconds on a core and waiting for one, by name.
#[derive(Clone, Debug)]
pub(super) struct Usage(BTreeMap<String, [u64; 2]>);

/// What threads of one name took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Share {
    pub(super) thread: String,
    pub(super) us_per_packet: f64,
    /// Ready to run, with every core taken by others.
    pub(super) waited_us_per_packet: f64,
}

impl Usage {
    /// That of the node's threads so far; `None` where the system doesn't tell.
    pub(super) fn of_node() -> Option<Self> {
        Self::of(NODE)
    }

    fn of(prefix: &str) -> Option<Self> {
        let mut by_name = BTreeMap::new();
        for thread in fs::read_dir("/proc/self/task").ok()? {
            let folder = thread.ok()?.path();
            // A thread may end while we look.
            let Ok(name) = fs::read_to_string(folder.join("comm")) else {
                continue;
            };
            if let Some(name) = Some(name.trim()).filter(|name| name.starts_with(prefix)) {
                let stat = fs::read_to_string(folder.join("schedstat")).ok()?;
                let mut ns = stat.split_whitespace().map(str::parse::<u64>);
                let sums: &mut [u64; 2] = by_name.entry(name.to_owned()).or_default();
                for sum in sums {
                    *sum += ns.next()?.ok()?;
                }
            }
        }
        Some(Self(by_name))
    }

    /// What was used since `before`, for each of so many packets.
    pub(super) fn since(&self, before: &Self, packets: f64) -> Vec<Share> {
        let of = |(name, ns): (&String, &[u64; 2])| {
            let before = before.0.get(name).copied().unwrap_or_default();
            let us = |at: usize| ns[at].saturating_sub(before[at]) as f64 / 1e3 / packets;
            Share {
                thread: name.clone(),
                us_per_packet: us(0),
                waited_us_per_packet: us(1),
            }
        };
        self.0.iter().map(of).collect()
    }
}

/// CPU time of the calling thread so far, in nanoseconds.
pub(super) fn of_this_thread_ns() -> Option<u64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_is_counted_under_its_name() {
        let run = || {
            let before = Usage::of("t-busy").unwrap();
            assert!(Usage::of("t-other").unwrap().0.is_empty());
            // Until some of it shows: 20 ms of CPU time.
            loop {
                (0..100_000_u64).for_each(|n| {
                    std::hint::black_box(n);
                });
                let shares = Usage::of("t-busy").unwrap().since(&before, 1.0);
                assert_eq!(shares.len(), 1);
                if shares[0].us_per_packet > 20_000.0 {
                    return shares[0].thread.clone();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("t-busy".into())
            .spawn(run)
            .unwrap();
        assert_eq!(thread.join().unwrap(), "t-busy");
    }
}
