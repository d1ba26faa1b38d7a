//! The packets that wait for their delay: a slab, and a wheel of lists through it.
//!
//! Packets stay where they are, whatever happens here: a place in the slab holds their box. The wheel has levels of 64
//! lists: the first level's are of one tick each, the next one's of 64, and so on up to the end of time. A packet is in
//! the lowest level at which its tick and the current one are in the same round; when time comes to a list of a higher
//! level, its packets move down. So putting one in and taking one out take the same small time however many are held
//! (at most one move a level, and mostly one or two).
//!
//! Packets of one tick leave in random order, so neither the order of their arrival nor the batch they came in shows.

use std::time::Duration;

use mizzle_base::{Rng, Time};
use mizzle_sphinx::Packet;
use mizzle_traffic::draw;

/// Enough that 64 bits of ticks have a place.
const LEVELS: usize = 11;
const SLOTS: usize = 64;
/// 64 = 2⁶ lists a level.
const BITS: u32 = 6;
/// No place in the slab.
const NONE: u32 = u32::MAX;

/// A packet that leaves.
pub(crate) struct Due<H> {
    pub(crate) to: H,
    pub(crate) packet: Packet,
    /// Of the node itself.
    pub(crate) is_own: bool,
    /// When it came.
    pub(crate) since: Time,
}

struct Entry<H> {
    due: u64,
    what: Option<Due<H>>,
    /// The next in its list, or in that of the free places.
    next: u32,
}

struct Level {
    /// A bit for each list that isn't empty.
    occupied: u64,
    heads: [u32; SLOTS],
    /// Of each list that isn't empty: the first tick at which one of it is due.
    first: [u64; SLOTS],
}

pub(crate) struct Wheel<H> {
    tick_us: u64,
    /// All before it have left.
    current: u64,
    levels: Vec<Level>,
    slab: Vec<Entry<H>>,
    free: u32,
    /// Places that are taken, those of packets that were dropped included: each is free again at its time.
    held: usize,
    dropped: usize,
    capacity: usize,
    leaving: Vec<u32>,
}

impl<H> Wheel<H> {
    /// Holds at most `capacity` packets; they leave at whole multiples of `tick`, and never before their time.
    pub(crate) fn new(capacity: usize, tick: Duration) -> Self {
        let level = || Level {
            occupied: 0,
            heads: [NONE; SLOTS],
            first: [0; SLOTS],
        };
        Self {
            tick_us: u64::try_from(tick.as_micros()).unwrap_or(u64::MAX).max(1),
            current: 0,
            levels: (0..LEVELS).map(|_| level()).collect(),
            slab: Vec::new(),
            free: NONE,
            held: 0,
            dropped: 0,
            capacity: capacity.min(NONE as usize),
            leaving: Vec::new(),
        }
    }

    /// False when full: the packet is gone.
    pub(crate) fn push(&mut self, due: Time, what: Due<H>) -> bool {
        if self.held >= self.capacity {
            return false;
        }
        let entry = Entry {
            due: due.as_us().div_ceil(self.tick_us),
            what: Some(what),
            next: NONE,
        };
        let at = self.free;
        let at = match self.slab.get_mut(at as usize) {
            Some(place) => {
                self.free = place.next;
                *place = entry;
                at
            }
            None => {
                self.slab.push(entry);
                // Below the capacity, which is.
                (self.slab.len() - 1) as u32
            }
        };
        self.held += 1;
        self.link(at);
        true
    }

    /// Hands over what is due, the earlier ticks first, with how long ago its tick was.
    pub(crate) fn pop_due(&mut self, now: Time, rng: &mut Rng, mut leaves: impl FnMut(Due<H>, Duration)) {
        let now_us = now.as_us();
        let now = now_us / self.tick_us;
        while let Some((level, slot)) = self.first_list() {
            let start = self.start(level, slot);
            if start > now {
                break;
            }
            self.current = start;
            let list = self.take_list(level, slot);
            if level > 0 {
                self.relink(list);
                continue;
            }
            let late = Duration::from_micros(now_us - start * self.tick_us);
            let mut leaving = std::mem::take(&mut self.leaving);
            self.walk(list, |at| leaving.push(at));
            for n in (1..leaving.len()).rev() {
                leaving.swap(n, draw::below(rng, n + 1));
            }
            for at in leaving.drain(..) {
                let place = &mut self.slab[at as usize];
                place.next = self.free;
                self.free = at;
                self.held -= 1;
                match place.what.take() {
                    Some(due) => leaves(due, late),
                    None => self.dropped -= 1,
                }
            }
            self.leaving = leaving;
        }
        self.current = self.current.max(now);
    }

    /// Drops what others sent that came after `since`; returns how many.
    pub(crate) fn drop_after(&mut self, since: Time) -> usize {
        let before = self.dropped;
        for place in &mut self.slab {
            let is_meant = |due: &mut Due<H>| !due.is_own && due.since > since;
            self.dropped += usize::from(place.what.take_if(is_meant).is_some());
        }
        self.dropped - before
    }

    /// The clock shows `now`, which is before what it showed, and all that wait are due by `sooner` earlier.
    pub(crate) fn rewind(&mut self, now: Time, sooner: Duration) {
        let all = self.take_all();
        let by = sooner;
        let sooner = u64::try_from(sooner.as_micros()).unwrap_or(u64::MAX) / self.tick_us;
        self.current = now.as_us() / self.tick_us;
        for at in all {
            let place = &mut self.slab[at as usize];
            place.due = place.due.saturating_sub(sooner);
            if let Some(what) = &mut place.what {
                what.since = what.since - by;
            }
            self.link(at);
        }
    }

    /// Nothing ran for a while: all that wait are due by so much later.
    pub(crate) fn postpone(&mut self, by: Duration) {
        let by = u64::try_from(by.as_micros())
            .unwrap_or(u64::MAX)
            .div_ceil(self.tick_us);
        for at in self.take_all() {
            let place = &mut self.slab[at as usize];
            place.due = place.due.saturating_add(by);
            self.link(at);
        }
    }

    /// Takes all places out of the lists.
    fn take_all(&mut self) -> Vec<u32> {
        let mut all = Vec::with_capacity(self.held);
        while let Some((level, slot)) = self.first_list() {
            let list = self.take_list(level, slot);
            self.walk(list, |at| all.push(at));
        }
        all
    }

    /// When the first one leaves.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let (level, slot) = self.first_list()?;
        Some(Time::from_us(
            self.levels[level].first[slot].saturating_mul(self.tick_us),
        ))
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.held - self.dropped
    }

    /// The earliest list. Those of a lower level are all earlier than those of a higher one, and none is behind the
    /// current tick.
    fn first_list(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        Some((level, self.levels[level].occupied.trailing_zeros() as usize))
    }

    /// The first tick that belongs to a list, as seen from the current one.
    fn start(&self, level: usize, slot: usize) -> u64 {
        let shift = level as u32 * BITS;
        let round = u64::MAX.checked_shl(shift + BITS).unwrap_or(0);
        (self.current & round) | ((slot as u64) << shift)
    }

    fn link(&mut self, at: u32) {
        let place = &mut self.slab[at as usize];
        // What should have left leaves with what is due now.
        let due = place.due.max(self.current);
        let differing = due ^ self.current;
        let level = ((u64::BITS - 1).saturating_sub(differing.leading_zeros()) / BITS) as usize;
        let slot = (due >> (level as u32 * BITS)) as usize % SLOTS;
        let level = &mut self.levels[level];
        place.next = level.heads[slot];
        let is_first = level.occupied & (1 << slot) == 0;
        if is_first || due < level.first[slot] {
            level.first[slot] = due;
        }
        level.occupied |= 1 << slot;
        level.heads[slot] = at;
    }

    fn take_list(&mut self, level: usize, slot: usize) -> u32 {
        let level = &mut self.levels[level];
        level.occupied &= !(1 << slot);
        std::mem::replace(&mut level.heads[slot], NONE)
    }

    fn walk(&self, mut at: u32, mut each: impl FnMut(u32)) {
        while let Some(place) = self.slab.get(at as usize) {
            each(at);
            at = place.next;
        }
    }

    fn relink(&mut self, mut at: u32) {
        while let Some(place) = self.slab.get(at as usize) {
            let next = place.next;
            self.link(at);
            at = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_base::Rng;
    use proptest::prelude::*;
    use rand_core::{Rng as _, SeedableRng as _};

    fn due(to: u64) -> Due<u64> {
        Due {
            to,
            packet: Packet::zeroed(),
            is_own: false,
            since: Time::ZERO,
        }
    }

    fn popped(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
        let mut out = Vec::new();
        wheel.pop_due(Time::from_us(now), &mut Rng::seed_from_u64(now), |due, _| {
            out.push(due.to)
        });
        out
    }

    #[test]
    fn packets_leave_at_their_times_and_no_more_are_held_than_allowed() {
        let mut wheel = Wheel::new(3, Duration::from_micros(1));
        for n in [30, 10, 20] {
            assert!(wheel.push(Time::from_us(n), due(n)));
        }
        assert!(!wheel.push(Time::from_us(1), due(1)));
        assert_eq!(wheel.deadline(), Some(Time::from_us(10)));
        assert_eq!(popped(&mut wheel, 9), [0; 0]);
        assert_eq!(popped(&mut wheel, 25), [10, 20]);
        assert_eq!(popped(&mut wheel, 25), [0; 0]);
        assert_eq!(popped(&mut wheel, 30), [30]);
        assert_eq!((wheel.len(), wheel.deadline()), (0, None));
    }

    #[test]
    fn what_came_late_is_dropped_and_its_place_is_free_at_its_time() {
        let mut wheel = Wheel::new(9, Duration::from_micros(1));
        for n in 1..=6 {
            let what = Due {
                is_own: n == 6,
                since: Time::from_us(n),
                ..due(n)
            };
            wheel.push(Time::from_us(100 * n), what);
        }
        assert_eq!(wheel.drop_after(Time::from_us(3)), 2);
        assert_eq!(wheel.drop_after(Time::from_us(3)), 0);
        assert_eq!((wheel.len(), wheel.held), (4, 6));
        assert_eq!(popped(&mut wheel, 1_000), [1, 2, 3, 6]);
        assert_eq!((wheel.len(), wheel.held, wheel.dropped), (0, 0, 0));
    }

    #[test]
    fn with_a_coarser_tick_packets_leave_at_its_multiples_after_their_time() {
        let mut wheel = Wheel::new(9, Duration::from_micros(100));
        for n in [1, 99, 100, 101] {
            wheel.push(Time::from_us(n), due(n));
        }
        assert_eq!(wheel.deadline(), Some(Time::from_us(100)));
        assert_eq!(popped(&mut wheel, 99), [0; 0]);
        let mut first = popped(&mut wheel, 199);
        first.sort_unstable();
        assert_eq!(first, [1, 99, 100]);
        assert_eq!(popped(&mut wheel, 200), [101]);
    }

    #[test]
    fn packets_of_one_tick_leave_in_any_order() {
        let mut orders = std::collections::BTreeSet::new();
        for seed in 0..600 {
            let mut wheel = Wheel::new(9, Duration::from_micros(100));
            (0..4).for_each(|n| assert!(wheel.push(Time::from_us(seed * 1_000 + 1 + n), due(n))));
            orders.insert(popped(&mut wheel, seed * 1_000 + 100));
        }
        // Each of the 24 is missing with a probability of 10⁻¹¹.
        assert_eq!(orders.len(), 24);
    }

    proptest! {
        /// Beside a sorted list: whatever comes and however time goes, the same leave at the same calls.
        #[test]
        fn what_leaves_and_when_is_as_of_a_sorted_list(
            steps in prop::collection::vec((0_u32..4, 0_u32..64, any::<u64>()), 1..200),
            tick in prop_oneof![Just(1_u64), Just(128), Just(1_000)],
        ) {
            let mut wheel = Wheel::new(usize::MAX, Duration::from_micros(tick));
            let mut list: Vec<(u64, u64)> = Vec::new();
            let mut now = 1_u64 << 50;
            let mut rng = Rng::seed_from_u64(tick);
            for (n, (what, bits, value)) in (0_u64..).zip(steps) {
                let by = value >> bits.max(8);
                match what {
                    0 | 1 => {
                        let at = now.saturating_add(by);
                        wheel.push(Time::from_us(at), due(n));
                        list.push((at.div_ceil(tick), n));
                    }
                    2 => now = now.saturating_add(by),
                    _ => {
                        // Set back, with what waits or without it.
                        let (earlier, by) = (now.saturating_sub(by), by.min(now));
                        let shift = if value % 2 == 0 { by } else { 0 };
                        wheel.rewind(Time::from_us(earlier), Duration::from_micros(shift));
                        list.iter_mut().for_each(|(due, _)| *due = due.saturating_sub(shift / tick));
                        now = earlier;
                    }
                }
                let (mut left, stays) = list.into_iter().partition::<Vec<_>, _>(|(due, _)| *due <= now / tick);
                list = stays;
                let mut out = Vec::new();
                wheel.pop_due(Time::from_us(now), &mut rng, |due, _| out.push(due.to));
                left.sort_unstable();
                let (mut out_sorted, mut left) = (out, left.into_iter().map(|l| l.1).collect::<Vec<_>>());
                out_sorted.sort_unstable();
                left.sort_unstable();
                prop_assert_eq!(out_sorted, left);
                let first = list.iter().map(|l| Time::from_us(l.0.saturating_mul(tick))).min();
                prop_assert_eq!(wheel.deadline(), first);
                prop_assert_eq!(wheel.len(), list.len());
            }
        }
    }

    #[test]
    fn a_million_packets_pass_and_the_slab_is_used_again() {
        let mut wheel: Wheel<u64> = Wheel::new(1 << 12, Duration::from_micros(128));
        let (mut rng, mut draws) = (Rng::seed_from_u64(1), Rng::seed_from_u64(2));
        let (mut now, mut left) = (0, 0);
        for n in 0..1_000_000 {
            now += 10;
            // 20 ms in the mean, up to a minute now and then.
            let delay = draws.next_u64() % if n % 1_000 == 0 { 60_000_000 } else { 40_000 };
            // One box for all of them: this is about the lists.
            assert!(wheel.push(
                Time::from_us(now + delay),
                Due {
                    to: now + delay,
                    packet: Packet::zeroed(),
                    is_own: false,
                    since: Time::ZERO,
                }
            ));
            wheel.pop_due(Time::from_us(now), &mut rng, |due, _| {
                assert!(due.to <= now && due.to + 138 > now, "{} at {now}", due.to);
                left += 1;
            });
        }
        assert_eq!(left + wheel.len(), 1_000_000);
        assert!(wheel.slab.len() < 1 << 12, "{}", wheel.slab.len());
    }
}
