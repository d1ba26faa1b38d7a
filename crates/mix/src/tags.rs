//! The tags of packets that were accepted under one key: a flat table that several workers share without a lock.
//!
//! 64 bits of SipHash-2-4 of a packet's tag under a secret of the node: a sender can't grind tags that collide. With 10⁸
//! tags a fresh packet is taken for a replay with probability 5·10⁻¹². The secret follows from the Sphinx key, so that
//! what a shell wrote down means the same to the next run of the node.
//!
//! **The table.** Lines of eight tags, a cache line each, three quarters full at most: 10.7 bytes a tag. A tag belongs into
//! the first empty place from its home line on, and nothing is ever taken out. So two workers with the same tag meet at
//! the same place, and one of them loses the exchange there.
//!
//! **Growth.** Memory that is spread over by a hash is touched all at once, so the table begins as large as its owner
//! expects and goes on in parts, each seven times as large as those before it together. A part that is full is closed
//! tag by tag: who looks there for one and finds an empty place seals it before going on to the next part, so nobody
//! can put that tag there any more. All places before the seal are taken for good, and whoever looks for the same
//! tag comes to the same seal.

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher24;
use zeroize::Zeroizing;

/// Places in a line: 64 bytes of them.
const LINE: usize = 8;
/// Of which so many are taken, on the average, when a part is full.
const LINE_LOAD: usize = 6;
/// Lines beyond these: workers that count at the same time may put in a batch more each.
const SPARE_LINES: usize = 256;
/// Seven times as much each time: enough parts for any memory.
const MOST_PARTS: usize = 12;
const GROWTH: usize = 7;
/// ReplayTags looked up together.
const BATCH: usize = 64;

const EMPTY: u64 = 0;
const SEALED: u64 = u64::MAX;

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not there; now it is.
    New,
    /// It was there.
    Known,
    /// There is no room to remember it, nor will there be.
    NoRoom,
}

/// All tags of one key: a flat table that several workers share without a lock, and that grows without stopping them.
pub struct ReplayTags {
    secret: Zeroizing<[u8; 16]>,
    parts: [OnceLock<Part>; MOST_PARTS],
    expected: usize,
    limit: usize,
    full: AtomicBool,
}

impl ReplayTags {
    /// Of the node with this Sphinx key: room for `expected` tags at once, for `limit` in all.
    #[must_use]
    pub fn new(sphinx_secret: &[u8; 32], expected: usize, limit: usize) -> Self {
        let digest = Zeroizing::new(<[u8; 32]>::from(
            Sha256::new()
                .chain_update(b"mizzle replay tags 2\0")
                .chain_update(sphinx_secret)
                .finalize(),
        ));
        let mut secret = Zeroizing::new([0; 16]);
        secret.copy_from_slice(&digest[..16]);
        Self {
            secret,
            parts: Default::default(),
            expected: expected.clamp(1, limit.max(1)),
            limit,
            full: AtomicBool::new(limit == 0),
        }
    }

    /// Looks tags up, all of their lines first, and puts in those that are new, in their order; these are appended to
    /// `accepted` in the form in which they are written down.
    pub fn admit(&self, tags: &[[u8; 32]], verdicts: &mut Vec<Verdict>, mut accepted: Option<&mut Vec<u64>>) {
        for tags in tags.chunks(BATCH) {
            let mut short = [0; BATCH];
            for (short, tag) in short.iter_mut().zip(tags) {
                *short = self.short(tag);
            }
            let short = &short[..tags.len()];
            self.put(short, |tag, verdict| {
                verdicts.push(verdict);
                if let (Verdict::New, Some(accepted)) = (verdict, &mut accepted) {
                    accepted.push(tag);
                }
            });
        }
    }

    /// Puts in what earlier runs wrote down.
    pub fn remember(&self, tags: &[u64]) {
        // Other values were never written, and mean something else here.
        let tags: Vec<u64> = tags
            .iter()
            .copied()
            .filter(|tag| ![EMPTY, SEALED].contains(tag))
            .collect();
        tags.chunks(BATCH).for_each(|tags| self.put(tags, |_, _| {}));
    }

    /// No room was left for a tag. From then on there is none for any: forgetting one would let a packet pass twice.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// How many there are; some of the last batches may be missing.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.parts().map(|part| part.taken.load(Ordering::Relaxed)).sum()
    }

    /// How many there may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn short(&self, tag: &[u8; 32]) -> u64 {
        match SipHasher24::new_with_key(&self.secret).hash(tag) {
            // These two mean something else in the table. One in 2⁶³ tags shares its place for that.
            EMPTY | SEALED => 1,
            short => short,
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().map_while(OnceLock::get)
    }

    /// Of a batch.
    fn put(&self, tags: &[u64], mut told: impl FnMut(u64, Verdict)) {
        // Nothing waits for these: the lines are on their way from memory together.
        for part in self.parts() {
            for &tag in tags {
                black_box(part.line(part.home(tag))[0].load(Ordering::Relaxed));
            }
        }
        // Counted here and added up when done: the counters are shared.
        let mut news = [0; MOST_PARTS];
        for &tag in tags {
            let verdict = if self.is_full() {
                Verdict::NoRoom
            } else {
                self.put_one(tag, &mut news)
            };
            told(tag, verdict);
        }
        for (part, n) in self.parts().zip(news).filter(|(_, n)| *n > 0) {
            part.taken.fetch_add(n, Ordering::Relaxed);
        }
    }

    fn put_one(&self, tag: u64, news: &mut [usize; MOST_PARTS]) -> Verdict {
        let mut before = 0;
        for (place, news) in self.parts.iter().zip(news) {
            let Some(part) = place.get().or_else(|| self.grow(place, before)) else {
                break;
            };
            let is_open = part.taken.load(Ordering::Relaxed) + *news < part.capacity;
            match part.put(tag, is_open) {
                Put::New => {
                    *news += 1;
                    return Verdict::New;
                }
                Put::Known => return Verdict::Known,
                Put::NotHere => before += part.capacity,
            }
        }
        self.full.store(true, Ordering::Relaxed);
        Verdict::NoRoom
    }

    /// The part after those that hold `before` tags; none if that is all, or if there is no memory.
    fn grow<'a>(&self, place: &'a OnceLock<Part>, before: usize) -> Option<&'a Part> {
        let capacity = match before {
            0 => self.expected,
            _ => before.saturating_mul(GROWTH),
        };
        let part = Part::new(capacity.min(self.limit - before))?;
        // Another worker may have been faster; then this one's memory was never touched.
        Some(place.get_or_init(|| part))
    }
}

/// Room for a number of tags.
struct Part {
    slots: Box<[AtomicU64]>,
    /// Where the first line begins, for lines to be those of the cache.
    first: usize,
    lines: usize,
    capacity: usize,
    taken: AtomicUsize,
}

enum Put {
    New,
    Known,
    /// Nor can it come here any more.
    NotHere,
}

impl Part {
    /// None for no tags, or without memory. The memory is zero as the system hands it out, and is touched only by tags.
    fn new(capacity: usize) -> Option<Self> {
        if capacity == 0 {
            return None;
        }
        let lines = capacity.div_ceil(LINE_LOAD).checked_add(SPARE_LINES)?;
        let len = lines.checked_mul(LINE)?.checked_add(LINE - 1)?;
        let slots = bytemuck::allocation::try_zeroed_slice_box::<AtomicU64>(len).ok()?;
        Some(Self {
            first: slots.as_ptr().align_offset(64).min(LINE - 1),
            slots,
            lines,
            capacity,
            taken: AtomicUsize::new(0),
        })
    }

    fn home(&self, tag: u64) -> usize {
        ((u128::from(tag) * self.lines as u128) >> 64) as usize
    }

    fn line(&self, line: usize) -> &[AtomicU64] {
        &self.slots[self.first + line * LINE..][..LINE]
    }

    fn put(&self, tag: u64, is_open: bool) -> Put {
        let home = self.home(tag);
        for line in (home..self.lines).chain(0..home) {
            for slot in self.line(line) {
                let mut there = slot.load(Ordering::Relaxed);
                if there == EMPTY {
                    let new = if is_open { tag } else { SEALED };
                    // No other memory depends on a tag, so relaxed is enough: all threads agree on one slot's history.
                    match slot.compare_exchange(EMPTY, new, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) if is_open => return Put::New,
                        Ok(_) => return Put::NotHere,
                        Err(faster) => there = faster,
                    }
                }
                if there == tag {
                    return Put::Known;
                }
                if there == SEALED {
                    return Put::NotHere;
                }
            }
        }
        Put::NotHere
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    fn tag(n: u64) -> [u8; 32] {
        let mut tag = [7; 32];
        tag[..8].copy_from_slice(&n.to_le_bytes());
        tag
    }

    fn admit(tags: &ReplayTags, numbers: impl IntoIterator<Item = u64>) -> Vec<Verdict> {
        let asked: Vec<_> = numbers.into_iter().map(tag).collect();
        let mut verdicts = Vec::new();
        tags.admit(&asked, &mut verdicts, None);
        assert_eq!(verdicts.len(), asked.len());
        verdicts
    }

    #[test]
    fn a_tag_is_new_once_and_without_room_for_one_all_are_refused() {
        use Verdict::{Known, New, NoRoom};
        let tags = ReplayTags::new(&[1; 32], 1, 2);
        assert_eq!(admit(&tags, [1, 1, 2, 1, 2]), [New, Known, New, Known, Known]);
        assert!(!tags.is_full(), "nothing was refused yet");
        assert_eq!((tags.remembered(), tags.limit()), (2, 2));
        assert_eq!(admit(&tags, [3, 1]), [NoRoom, NoRoom]);
        assert!(tags.is_full());
        assert_eq!(admit(&tags, [1]), [NoRoom], "the key has ended");
        assert_eq!(tags.remembered(), 2);
        assert_eq!(admit(&ReplayTags::new(&[1; 32], 0, 0), [1]), [NoRoom]);
    }

    #[test]
    fn what_one_run_wrote_down_the_next_one_knows() {
        let first = ReplayTags::new(&[1; 32], 9, 9);
        let (mut verdicts, mut written) = (Vec::new(), Vec::new());
        first.admit(&[tag(1), tag(2), tag(1)], &mut verdicts, Some(&mut written));
        assert_eq!(written.len(), 2);
        let next = ReplayTags::new(&[1; 32], 1, 9);
        // What a file may hold that nobody wrote does no harm.
        next.remember(&[&written[..], &[EMPTY, SEALED]].concat());
        assert_eq!(next.remembered(), 2);
        assert_eq!(
            admit(&next, [1, 2, 3]),
            [Verdict::Known, Verdict::Known, Verdict::New]
        );
        let of_another_key = ReplayTags::new(&[2; 32], 9, 9);
        of_another_key.remember(&written);
        assert_eq!(admit(&of_another_key, [1]), [Verdict::New]);
    }

    #[test]
    fn parts_are_filled_and_closed_one_after_the_other_and_nothing_is_forgotten() {
        const N: u64 = 20_000;
        // Parts of 10, 70, 560, 4480, and the rest.
        let tags = ReplayTags::new(&[1; 32], 10, N as usize);
        for n in (0..N).step_by(50) {
            assert!(admit(&tags, n..n + 50).iter().all(|v| *v == Verdict::New), "{n}");
            let before = admit(&tags, n.saturating_sub(99)..n);
            assert!(before.iter().all(|v| *v == Verdict::Known), "{n}");
        }
        assert_eq!((tags.parts().count(), tags.remembered()), (5, N as usize));
        assert!(admit(&tags, 0..N).iter().all(|v| *v == Verdict::Known));
        assert_eq!(admit(&tags, [N]), [Verdict::NoRoom]);
    }

    #[test]
    fn a_full_table_takes_less_than_twelve_bytes_a_tag() {
        let part = Part::new(1 << 20).unwrap();
        let bytes = part.slots.len() * size_of::<AtomicU64>();
        assert!(bytes < 12 << 20, "{bytes}");
        assert_eq!(part.slots[part.first..].as_ptr().align_offset(64), 0);
    }

    /// Each thread is told the same tags in another order; of each, one thread alone is told that it is new.
    #[test]
    fn of_workers_with_the_same_tags_one_alone_accepts_each() {
        const THREADS: u64 = 4;
        const N: u64 = 30_000;
        for expected in [10, 1_000, N as usize] {
            let tags = ReplayTags::new(&[3; 32], expected, 2 * N as usize);
            let start = Barrier::new(THREADS as usize);
            let accepted: Vec<Vec<u64>> = std::thread::scope(|scope| {
                let ask = |thread: u64| {
                    let (tags, start) = (&tags, &start);
                    scope.spawn(move || {
                        let (mut verdicts, mut accepted) = (Vec::new(), Vec::new());
                        start.wait();
                        for n in (0..N).step_by(40) {
                            // Nearly together, and each batch in an order of its own.
                            let mut batch: Vec<_> = (n..n + 40).map(tag).collect();
                            batch.rotate_left(thread as usize * 10);
                            tags.admit(&batch, &mut verdicts, Some(&mut accepted));
                        }
                        assert!(!verdicts.contains(&Verdict::NoRoom));
                        accepted
                    })
                };
                let threads: Vec<_> = (0..THREADS).map(ask).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let total: usize = accepted.iter().map(Vec::len).sum();
            let distinct: BTreeSet<u64> = accepted.into_iter().flatten().collect();
            assert_eq!((total, distinct.len()), (N as usize, N as usize), "{expected}");
            assert_eq!(tags.remembered(), N as usize);
        }
    }
}
