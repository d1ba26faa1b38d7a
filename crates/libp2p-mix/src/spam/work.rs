//! [`ProofOfWork`]: each hop of each packet costs its sender some thousand hashes.

use std::time::Duration;

use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;
use sha2::{Digest, Sha256};

use super::{Answer, CannotProve, Proof, SpamProtection, Via};

const LABEL: &[u8] = b"libp2p-mix proof of work 1\0";
const TIME_LEN: usize = 4;
const NONCE_LEN: usize = 8;

/// A proof of 12 bytes: the Unix time in seconds (4) and a number (8), both big-endian, such that
/// `SHA-256(label ‖ SHA-256(packet) ‖ time ‖ number)` begins with so many zero bits.
///
/// It is bound to the packet, so nobody can put it behind another one, and to the time, so nobody can keep a stock of
/// packets. With n bits a proof takes 2ⁿ hashes on average, a check two: 16 bits are some 10 ms on one core of a machine with
/// SHA instructions. Proofs are made on threads for blocking work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofOfWork {
    bits: u32,
    window: Duration,
}

impl ProofOfWork {
    /// Proofs of so many zero bits, at most 40, accepted within two minutes of their time.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self {
            bits: bits.min(40),
            window: Duration::from_secs(120),
        }
    }

    /// How far a proof's time may be from ours, either way.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    fn solves(self, seed: &Sha256, nonce: u64) -> bool {
        let digest: [u8; 32] = seed.clone().chain_update(nonce.to_be_bytes()).finalize().into();
        let zeros: u32 = digest
            .iter()
            .position(|byte| *byte != 0)
            .map_or(256, |at| 8 * at as u32 + digest[at].leading_zeros());
        zeros >= self.bits
    }

    fn prove(self, now: Time, digest: [u8; 32]) -> Proof {
        // Until 2106; the check counts modulo 2³² too.
        let time = (now.as_s() as u32).to_be_bytes();
        let seed = seed(&digest, time);
        let nonce = (0..).find(|nonce| self.solves(&seed, *nonce)).unwrap_or_default();
        Proof {
            bytes: [&time[..], &nonce.to_be_bytes()].concat(),
            token: Vec::new(),
        }
    }
}

fn seed(digest: &[u8; 32], time: [u8; TIME_LEN]) -> Sha256 {
    Sha256::new()
        .chain_update(LABEL)
        .chain_update(digest)
        .chain_update(time)
}

impl SpamProtection for ProofOfWork {
    fn proof_len(&self) -> usize {
        TIME_LEN + NONCE_LEN
    }

    fn verify(&self, now: Time, _: Via, packet: &[u8; PACKET_LEN], proof: &[u8]) -> Answer<bool> {
        let Some((time, nonce)) = proof.split_first_chunk::<TIME_LEN>() else {
            return Answer::Now(false);
        };
        let Ok(nonce) = nonce.try_into().map(u64::from_be_bytes) else {
            return Answer::Now(false);
        };
        let apart = (now.as_s() as u32).wrapping_sub(u32::from_be_bytes(*time)) as i32;
        let in_time = u64::from(apart.unsigned_abs()) <= self.window.as_secs();
        Answer::Now(in_time && self.solves(&seed(&Sha256::digest(packet).into(), *time), nonce))
    }

    fn generate(&self, now: Time, packet: &[u8; PACKET_LEN]) -> Answer<Result<Proof, CannotProve>> {
        let (work, digest) = (*self, Sha256::digest(packet).into());
        Answer::Later(Box::pin(async move {
            tokio::task::spawn_blocking(move || work.prove(now, digest))
                .await
                .map_err(|_| CannotProve("the runtime is shutting down".to_owned()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::PeerId;

    fn passes(work: ProofOfWork, now: Time, packet: &[u8; PACKET_LEN], proof: &[u8]) -> bool {
        let via = Via {
            peer: PeerId::random(),
            conn: crate::link::Conn::from_number(1),
        };
        let Answer::Now(passes) = work.verify(now, via, packet, proof) else {
            panic!()
        };
        passes
    }

    #[tokio::test]
    async fn a_proof_holds_for_its_packet_and_its_time() {
        let work = ProofOfWork::new(8);
        let now = Time::from_s(1_800_000_000);
        let packet = [7; PACKET_LEN];
        let Answer::Later(proof) = work.generate(now, &packet) else {
            panic!()
        };
        let proof = proof.await.unwrap().bytes;
        assert_eq!(proof.len(), work.proof_len());
        assert!(passes(work, now, &packet, &proof));
        assert!(passes(work, now.plus_s_f64(120.0), &packet, &proof));
        assert!(passes(work, now - Duration::from_secs(120), &packet, &proof));
        assert!(!passes(work, now.plus_s_f64(121.0), &packet, &proof), "stale");
        assert!(
            !passes(work, now - Duration::from_secs(121), &packet, &proof),
            "from the future"
        );
        assert!(!passes(work, now, &[8; PACKET_LEN], &proof), "another packet");
        // 24 more bits: one proof in 16 million has them by chance.
        assert!(
            !passes(ProofOfWork::new(32), now, &packet, &proof),
            "too little work"
        );
        for wrong in [&proof[..11], &[], &[0; 12], &[0xff; 13]] {
            assert!(!passes(work, now, &packet, wrong));
        }
    }
}
