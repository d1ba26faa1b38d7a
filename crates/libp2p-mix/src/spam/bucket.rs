//! [`TokenBucket`]: so many packets a second over each connection, and no proof.

use std::{collections::HashMap, sync::Mutex};

use libp2p::PeerId;
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;

use super::{Answer, CannotProve, Proof, SpamProtection, Via};
use crate::{link::Conn, lock};

/// A connection may bring so many packets a second, and so many at once after a pause. What it brings beyond that is dropped
/// and counted.
///
/// It bounds what one peer can make us compute, whoever made the packets. Each connection has a bucket, so that one
/// can't starve another; but rate and burst are the peer's, and its connections share them: of n each fills at
/// an n-th of the rate and holds an n-th of the burst, and a new one begins with what the others can't hold any more. So opening
/// more connections buys nothing, but for a burst of one packet each where there are more of them than the burst has packets, of 8 at
/// most. How many peers there may be is the swarm's to limit (`libp2p::connection_limits`).
#[derive(Debug)]
pub struct TokenBucket {
    per_s: f64,
    burst: f64,
    peers: Mutex<HashMap<PeerId, Buckets>>,
}

/// Peers with a bucket that isn't full; beyond it those whose buckets are full are forgotten, which changes nothing for them.
const MOST_PEERS: usize = 4096;
/// Connections of one peer that have buckets; what comes over more is dropped until one of them was silent for as long as its
/// bucket takes to fill.
const MOST_CONNS: usize = 8;

/// The buckets of one peer.
#[derive(Debug)]
struct Buckets {
    of_conns: Vec<Bucket>,
    /// When they were filled last.
    at: Time,
}

#[derive(Debug)]
struct Bucket {
    conn: Conn,
    tokens: f64,
    used: Time,
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

    /// What each of `n` connections of a peer may hold: at least one, or it would never pass anything.
    fn capacity(&self, n: usize) -> f64 {
        (self.burst / n as f64).max(1.0)
    }

    /// How long an empty bucket takes to fill, however many there are.
    fn fills_in_s(&self) -> f64 {
        self.burst / self.per_s
    }

    fn refill(&self, buckets: &mut Buckets, now: Time) {
        let n = buckets.of_conns.len();
        let (capacity, more) = (
            self.capacity(n),
            now.since(buckets.at).as_secs_f64() * self.per_s / n as f64,
        );
        for bucket in &mut buckets.of_conns {
            bucket.tokens = (bucket.tokens + more).min(capacity);
        }
        // A clock set back fills no bucket twice.
        buckets.at = buckets.at.max(now);
    }

    /// The bucket of a connection, made if need be.
    fn bucket<'a>(&self, buckets: &'a mut Buckets, now: Time, conn: Conn) -> Option<&'a mut Bucket> {
        if let Some(at) = buckets.of_conns.iter().position(|b| b.conn == conn) {
            return buckets.of_conns.get_mut(at);
        }
        let all = buckets.of_conns.iter().map(|b| b.tokens).sum::<f64>();
        // One that was silent for so long has closed, or loses nothing.
        let fills_in_s = self.fills_in_s();
        buckets
            .of_conns
            .retain(|b| now.since(b.used).as_secs_f64() <= fills_in_s);
        if buckets.of_conns.len() >= MOST_CONNS {
            return None;
        }
        let capacity = self.capacity(buckets.of_conns.len() + 1);
        let mut kept = 0.0;
        for bucket in &mut buckets.of_conns {
            bucket.tokens = bucket.tokens.min(capacity);
            kept += bucket.tokens;
        }
        buckets.of_conns.push(Bucket {
            conn,
            tokens: (all - kept).clamp(0.0, capacity),
            used: now,
        });
        buckets.of_conns.last_mut()
    }

    fn take(&self, now: Time, via: Via) -> bool {
        let mut peers = lock(&self.peers);
        if peers.len() >= MOST_PEERS && !peers.contains_key(&via.peer) {
            peers.retain(|_, buckets| {
                self.refill(buckets, now);
                let capacity = self.capacity(buckets.of_conns.len());
                buckets.of_conns.iter().any(|b| b.tokens < capacity)
            });
            if peers.len() >= MOST_PEERS {
                // So many that send without a pause: the newcomer waits.
                return false;
            }
        }
        let buckets = peers.entry(via.peer).or_insert_with(|| Buckets {
            of_conns: vec![Bucket {
                conn: via.conn,
                tokens: self.burst,
                used: now,
            }],
            at: now,
        });
        self.refill(buckets, now);
        let Some(bucket) = self.bucket(buckets, now, via.conn) else {
            return false;
        };
        bucket.used = bucket.used.max(now);
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

    fn verify(&self, now: Time, via: Via, _: &[u8; PACKET_LEN], _: &[u8]) -> Answer<bool> {
        Answer::Now(self.take(now, via))
    }

    fn generate(&self, _: Time, _: &[u8; PACKET_LEN]) -> Answer<Result<Proof, CannotProve>> {
        Answer::Now(Ok(Proof::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(peer: PeerId, conn: u64) -> Via {
        Via {
            peer,
            conn: Conn::from_number(conn),
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = TokenBucket::new(10, 5);
        let (a, b) = (PeerId::random(), PeerId::random());
        let now = Time::from_s(100);
        let passed = |now, n| (0..n).filter(|_| bucket.take(now, via(a, 1))).count();
        assert_eq!(passed(now, 20), 5);
        assert!(bucket.take(now, via(b, 2)), "another peer has its own");
        assert_eq!(passed(now.plus_s_f64(0.3), 20), 3);
        assert_eq!(passed(now, 20), 0, "the clock was set back");
        assert_eq!(passed(now.plus_s_f64(100.0), 20), 5);
    }

    #[test]
    fn connections_of_a_peer_share_its_rate_and_none_starves_another() {
        let bucket = TokenBucket::new(10, 8);
        let (peer, now) = (PeerId::random(), Time::from_s(100));
        let passed = |now, conn, n| (0..n).filter(|_| bucket.take(now, via(peer, conn))).count();
        assert_eq!(passed(now, 1, 2), 2);
        // Six are left: the first keeps four, the second has the others.
        assert_eq!((passed(now, 2, 9), passed(now, 1, 9)), (2, 4));
        let later = now.plus_s_f64(0.41);
        assert_eq!(
            (passed(later, 1, 9), passed(later, 2, 9)),
            (2, 2),
            "half of the rate each"
        );
        // New connections again and again get nothing beyond that.
        let more: usize = (3..100).map(|conn| passed(later, conn, 9)).sum();
        assert_eq!(more, 0);
        // They fall silent; whoever comes then has it all.
        let pause = later.plus_s_f64(10.0);
        let all: usize = (200..208).map(|conn| passed(pause, conn, 9)).sum();
        assert!(all <= 8, "{all}");
        assert_eq!(passed(pause, 300, 9), 0, "as many as there are buckets");
        assert_eq!(passed(pause.plus_s_f64(10.0), 300, 99), 8);
    }

    #[test]
    fn the_table_of_peers_is_bounded_and_forgets_only_full_buckets() {
        let bucket = TokenBucket::new(1, 2);
        let now = Time::from_s(100);
        let first = via(PeerId::random(), 1);
        assert!(bucket.take(now, first));
        for conn in 1..MOST_PEERS as u64 {
            assert!(bucket.take(now, via(PeerId::random(), conn)));
        }
        assert!(!bucket.take(now, via(PeerId::random(), 1)), "no room");
        let later = now.plus_s_f64(2.0);
        assert!(bucket.take(later, via(PeerId::random(), 1)));
        assert_eq!(lock(&bucket.peers).len(), 1);
    }
}
