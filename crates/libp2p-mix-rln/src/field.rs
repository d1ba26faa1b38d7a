//! Elements of the field that all of RLN counts in: 32 bytes, little-endian, below the order of BN254's scalars.

use rln::prelude::{CanonicalDeserialize, CanonicalSerialize, Fr, Hasher, PoseidonHash};

/// `None` where the number is not below the order: each element has one encoding only, so that nobody can show one
/// nullifier under two names.
pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Option<Fr> {
    Fr::deserialize_compressed(&bytes[..]).ok()
}

pub(crate) fn to_bytes(element: &Fr) -> [u8; 32] {
    let mut bytes = [0; 32];
    // Fails only where there is too little room.
    let _ = element.serialize_compressed(&mut bytes[..]);
    bytes
}

/// Poseidon of two elements.
pub(crate) fn pair(left: Fr, right: Fr) -> Fr {
    Hasher::<PoseidonHash>::hash_pair(left, right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_one_encoding() {
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(to_bytes(&from_bytes(&one).unwrap()), one);
        // The order itself, in little-endian bytes: zero by another name.
        let order = data_encoding::HEXLOWER
            .decode(b"010000f093f5e1439170b97948e833285d588181b64550b829a031e1724e6430")
            .unwrap();
        assert_eq!(from_bytes(&order.try_into().unwrap()), None);
        assert_eq!(from_bytes(&[0xff; 32]), None);
    }
}
