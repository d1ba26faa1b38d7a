//! The libp2p identity of a node: an ed25519 key pair and the peer id that follows from it.
//!
//! Where the secret is kept is left to the store.

use libp2p::{
    PeerId,
    identity::{Keypair, PublicKey, ed25519},
};
use mizzle_base::{NodeId, Rng};
use rand_core::Rng as _;

/// The key pair of a 32-byte ed25519 secret; the bytes given are overwritten with zeros.
#[must_use]
pub fn keypair(secret: &mut [u8; 32]) -> Option<Keypair> {
    Keypair::ed25519_from_bytes(secret).ok()
}

/// A fresh key pair.
#[must_use]
pub fn generate(rng: &mut Rng) -> Option<Keypair> {
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    keypair(&mut secret)
}

/// The id under which the network document lists the node with this identity.
#[must_use]
pub fn node_id(keypair: &Keypair) -> NodeId {
    NodeId::of(&keypair.public().encode_protobuf())
}

/// The peer id of a node by its ed25519 public key; `None` if that is no point of the curve.
#[must_use]
pub fn peer_id(public: &[u8; 32]) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(public).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The ed25519 public key of a peer, which its peer id contains; `None` for other kinds of keys.
#[must_use]
pub fn public_key(peer: &PeerId) -> Option<[u8; 32]> {
    // An identity multihash of the protobuf { type: Ed25519, data: 32 bytes }.
    let bytes = peer.to_bytes();
    let protobuf = bytes.strip_prefix(&[0x00, 36])?;
    let key = PublicKey::try_decode_protobuf(protobuf).ok()?;
    key.try_into_ed25519().ok().map(|key| key.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_pair_peer_id_and_public_key_belong_together() {
        let mut secret = [7; 32];
        let pair = keypair(&mut secret).unwrap();
        assert_eq!(secret, [0; 32]);
        let peer = pair.public().to_peer_id();
        let public = public_key(&peer).unwrap();
        assert_eq!(peer_id(&public), Some(peer));
        // RFC 8032: the public key is a function of the secret, so this never changes.
        assert_eq!(pair.public().try_into_ed25519().unwrap().to_bytes(), public);
    }

    #[test]
    fn other_peer_ids_have_no_ed25519_key() {
        assert_eq!(public_key(&PeerId::random()), None);
    }
}
