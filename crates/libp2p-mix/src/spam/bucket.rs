//! [`TokenBucket`]: so many packets a second from each neighbour, and no proof.

use std::{collections::HashMap, sync::Mutex};

use libp2p::PeerId;
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;

use super::{Answer, CannotProve, Proof, SpamProtection};
use crate::lock;

/// Each neighbour may send so many packets a second, and so many at once after a pause. What it sends beyond that is
/// dropped and counted.
///
/// It bounds what one connected peer can make us compute, whoever made the packets. All connections of a
/// peer share one bucket, so that opening more of them buys nothing.
#[derive(Debug)]
pub struct TokenBucket {
    per_s: f64,
    burst: f64,
    peers: Mutex<HashMap<PeerId, Bucket>>,
}

/// Peers with a bucket that isn't full; beyond it the full ones are forgotten, which changes nothing for them.
const MOST_PEERS: usize = 4096;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Time,
}

impl TokenBucket {
    /// `per_s` packets a second, `burst` at once; at least one each.
    #[must_use]
    pub fn new(per_s: u32, burst: u32) -> Self {
        Self {
            per_s: per_s.max(1).into(),
            burst: burst.max(1).into(),
            peers: Mutex::default(),
        }
    }

    fn refilled(&self, bucket: &Bucket, now: Time) -> f64 {
        (bucket.tokens + now.since(bucket.at).as_secs_f64() * self.per_s).min(self.burst)
    }

    fn take(&self, now: Time, from: &PeerId) -> bool {
        let mut peers = lock(&self.peers);
        if peers.len() >= MOST_PEERS && !peers.contains_key(from) {
            peers.retain(|_, bucket| self.refilled(bucket, now) < self.burst);
            if peers.len() >= MOST_PEERS {
                // So many that send without a pause: the newcomer waits.
                return false;
            }
        }
        let bucket = peers.entry(*from).or_insert(Bucket {
            tokens: self.burst,
            at: now,
        });
        bucket.tokens = self.refilled(bucket, now);
        // A clock set back fills no bucket twice.
        bucket.at = bucket.at.max(now);
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }
}

impl SpamProtection for TokenBucket {
    fn proof_len(&self) -> usize {
        0
    }

    fn verify(&self, now: Time, from: &PeerId, _: &[u8; PACKET_LEN], _: &[u8]) -> Answer<bool> {
        Answer::Now(self.take(now, from))
    }

    fn generate(&self, _: Time, _: &[u8; PACKET_LEN]) -> Answer<Result<Proof, CannotProve>> {
        Answer::Now(Ok(Proof::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = TokenBucket::new(10, 5);
        let (a, b) = (PeerId::random(), PeerId::random());
        let now = Time::from_s(100);
        let passed = |now, n| (0..n).filter(|_| bucket.take(now, &a)).count();
        assert_eq!(passed(now, 20), 5);
        assert!(bucket.take(now, &b), "another peer has its own");
        assert_eq!(passed(now.plus_s_f64(0.3), 20), 3);
        assert_eq!(passed(now, 20), 0, "the clock was set back");
        assert_eq!(passed(now.plus_s_f64(100.0), 20), 5);
    }

    #[test]
    fn the_table_of_peers_is_bounded_and_forgets_only_full_buckets() {
        let bucket = TokenBucket::new(1, 2);
        let now = Time::from_s(100);
        let first = PeerId::random();
        assert!(bucket.take(now, &first));
        for _ in 1..MOST_PEERS {
            assert!(bucket.take(now, &PeerId::random()));
        }
        assert!(!bucket.take(now, &PeerId::random()), "no room");
        let later = now.plus_s_f64(2.0);
        assert!(bucket.take(later, &PeerId::random()));
        assert_eq!(lock(&bucket.peers).len(), 1);
    }
}
