//! The seal: Noise_NK to an exit's stream key, explicit counters, nothing in clear that links two packets.
//!
//! Here are the handshake and the two directions' keys; which counter a packet has, how often one may be
//! received and what is inside is left to [`tag`](crate::tag), [`window`](crate::window) and
//! [`session`](crate::session). The design's End to end section; Noise revision 34, pattern NK, stateless transport.
//!
//! | packet | in clear | sealed |
//! |---|---|---|
//! | INITIAL, client to exit | 8 random bytes, e (32) | nonce of the session, tag key, attempt, SURBs, frames |
//! | client to exit | tag (8), one-time | SURBs, frames |
//! | exit to client, unconfirmed | `01`, second message (48), counter (8) | frames |
//! | exit to client | `00`, counter (8) | frames |
//!
//! A packet of the exit travels inside the layers of a SURB, so only the client sees its front. One of the client
//! is seen by the gateway that strips the last Sphinx layer. What that one can tell is an INITIAL from the rest, half
//! the time (e is on the curve); not whose it is.

use mizzle_base::Rng;
use rand_core::{Rng as _, SeedableRng as _};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that authenticate a sealed packet.
pub(crate) const MAC_LEN: usize = 16;
/// A public key of the handshake.
pub(crate) const KEY_LEN: usize = 32;
/// The exit's message of the handshake: its ephemeral key and the authentication of an empty payload.
pub(crate) const ANSWER_LEN: usize = KEY_LEN + MAC_LEN;

const PATTERN: &str = "Noise_NK_25519_ChaChaPoly_SHA256";
const PROTOCOL: &[u8] = b"mizzle session 1\0";

/// The X25519 public key of `secret`: what an exit publishes as its stream key.
#[must_use]
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    let mut out = [0; 32];
    // The resolver has this curve by the features that the manifest names; zeros would refuse every handshake.
    if let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
        dh.set(secret);
        out.copy_from_slice(dh.pubkey());
    }
    out
}

/// The handshake or a packet could not be sealed or opened. Why is not told: it would say nothing useful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealError;

impl From<snow::Error> for SealError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// Snow takes its ephemeral keys from here, so that no entropy enters but what the caller gave.
struct Resolver {
    seed: Zeroizing<[u8; 32]>,
}

struct SeededRandom(Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(Rng::from_seed(*self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// What a handshake of the pattern is built from; its ephemeral keys come from `rng`.
pub(crate) fn builder<'a>(
    pattern: &str,
    prologue: &'a [u8],
    rng: &mut Rng,
) -> Result<Builder<'a>, SealError> {
    let params: NoiseParams = pattern.parse()?;
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *seed);
    Ok(Builder::with_resolver(params, Box::new(Resolver { seed })).prologue(prologue)?)
}

fn prologue(context: &[u8]) -> Vec<u8> {
    [PROTOCOL, context].concat()
}

/// The client's side of one handshake that waits for its answer.
pub(crate) struct Initiator(Box<HandshakeState>);

impl Initiator {
    /// Starts a handshake: writes e and the sealed payload to `out`, [`KEY_LEN`] + [`MAC_LEN`] longer than it.
    pub(crate) fn start(
        context: &[u8],
        exit_key: &[u8; 32],
        rng: &mut Rng,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<Self, SealError> {
        let prologue = prologue(context);
        let mut state = builder(PATTERN, &prologue, rng)?
            .remote_public_key(exit_key)?
            .build_initiator()?;
        state.write_message(payload, out)?;
        Ok(Self(Box::new(state)))
    }

    /// Takes an answer: the keys, or itself again when the answer belongs to another handshake.
    pub(crate) fn finish(mut self, answer: &[u8; ANSWER_LEN]) -> Result<Keys, Option<Self>> {
        // A failed read leaves snow's state as it was (it restores a checkpoint), so other answers can be tried.
        if self.0.read_message(answer, &mut [0; MAC_LEN]).is_err() {
            return Err(Some(self));
        }
        // Can't fail after the last message; were it to, the attempt is lost and the next one takes over.
        let state = self.0.into_stateless_transport_mode().map_err(|_| None)?;
        Ok(Keys {
            state,
            answer: *answer,
        })
    }
}

/// Both directions' keys of one finished handshake.
pub(crate) struct Keys {
    state: StatelessTransportState,
    answer: [u8; ANSWER_LEN],
}

impl Keys {
    /// Seals `plain` to `out`, [`MAC_LEN`] longer. A counter must be used once only.
    pub(crate) fn seal(&self, counter: u64, plain: &[u8], out: &mut [u8]) -> Result<(), SealError> {
        self.state.write_message(counter, plain, out)?;
        Ok(())
    }

    /// Opens `sealed` to `out`, which has room for it; how many bytes were inside.
    pub(crate) fn open(&self, counter: u64, sealed: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        if sealed.len() < MAC_LEN || out.len() < sealed.len() {
            return Err(SealError);
        }
        Ok(self.state.read_message(counter, sealed, out)?)
    }

    /// The exit's message of the handshake that these keys are from.
    pub(crate) fn answer(&self) -> &[u8; ANSWER_LEN] {
        &self.answer
    }
}

/// The exit's side: opens the front of an INITIAL (e and the sealed payload) to `payload`, and answers.
pub(crate) fn respond(
    context: &[u8],
    secret: &[u8; 32],
    rng: &mut Rng,
    message: &[u8],
    payload: &mut [u8],
) -> Result<(Keys, usize), SealError> {
    if message.len() < KEY_LEN + MAC_LEN || payload.len() < message.len() {
        return Err(SealError);
    }
    let prologue = prologue(context);
    let mut state = builder(PATTERN, &prologue, rng)?
        .local_private_key(secret)?
        .build_responder()?;
    let len = state.read_message(message, payload)?;
    let mut answer = [0; ANSWER_LEN];
    if state.write_message(&[], &mut answer)? != ANSWER_LEN {
        return Err(SealError);
    }
    Ok((
        Keys {
            state: state.into_stateless_transport_mode()?,
            answer,
        },
        len,
    ))
}

/// An exit's stream key.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_and_an_answer_to_another_attempt_is_told() {
        let mut rng = Rng::from_seed([1; 32]);
        let secret = [7; 32];
        let mut message = [[0; 100 + 48]; 2];
        let [m1, m2] = &mut message;
        let first = Initiator::start(b"net", &public_key(&secret), &mut rng, &[5; 100], m1).unwrap();
        let second = Initiator::start(b"net", &public_key(&secret), &mut rng, &[5; 100], m2).unwrap();
        let mut plain = [0; 200];
        let (exit, len) = respond(b"net", &secret, &mut rng, &message[1], &mut plain).unwrap();
        assert_eq!(&plain[..len], &[5; 100]);
        let first = match first.finish(exit.answer()) {
            Err(unfinished) => unfinished.unwrap(),
            Ok(_) => panic!("the answer is for the second"),
        };
        let client = second.finish(exit.answer()).ok().unwrap();
        let (other, _) = respond(b"net", &secret, &mut rng, &message[0], &mut plain).unwrap();
        assert!(first.finish(other.answer()).is_ok(), "a failed try does no harm");
        let mut sealed = [0; 26];
        exit.seal(9, b"0123456789", &mut sealed).unwrap();
        assert_eq!(client.open(9, &sealed, &mut plain), Ok(10));
        assert_eq!(&plain[..10], b"0123456789");
        assert!(client.open(8, &sealed, &mut plain).is_err());
        assert!(client.open(9, &sealed[..15], &mut plain).is_err());
        assert!(respond(b"other", &secret, &mut rng, &message[0], &mut plain).is_err());
        assert!(respond(b"net", &secret, &mut rng, &message[0][..47], &mut plain).is_err());
    }
}
