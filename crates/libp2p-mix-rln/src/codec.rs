//! `RateLimitProof` on the wire: protobuf of six byte strings, 301 bytes, in this order and no other form.

/// Bytes behind each packet.
pub(crate) const PROOF_LEN: usize = 301;

const ZK_LEN: usize = 128;

/// The fields as they are written; nothing in them is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateLimitProof {
    pub(crate) zk: [u8; ZK_LEN],
    pub(crate) root: [u8; 32],
    pub(crate) epoch: [u8; 32],
    pub(crate) x: [u8; 32],
    pub(crate) y: [u8; 32],
    pub(crate) nullifier: [u8; 32],
}

impl RateLimitProof {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PROOF_LEN);
        out.extend_from_slice(&[0x0a, 0x80, 0x01]);
        out.extend_from_slice(&self.zk);
        for (number, field) in (2..).zip([&self.root, &self.epoch, &self.x, &self.y, &self.nullifier]) {
            out.extend_from_slice(&[number << 3 | 2, 32]);
            out.extend_from_slice(field);
        }
        out
    }

    /// `None` for everything that [`encode`](Self::encode) doesn't write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[0x0a, 0x80, 0x01])?;
        let (zk, mut rest) = rest.split_first_chunk::<ZK_LEN>()?;
        let mut field = |number: u8| {
            let (value, after) = rest
                .strip_prefix(&[number << 3 | 2, 32])?
                .split_first_chunk::<32>()?;
            rest = after;
            Some(*value)
        };
        let proof = Self {
            zk: *zk,
            root: field(2)?,
            epoch: field(3)?,
            x: field(4)?,
            y: field(5)?,
            nullifier: field(6)?,
        };
        rest.is_empty().then_some(proof)
    }
}

/// An epoch's number in the first eight bytes, little-endian, zeros behind it.
pub(crate) fn epoch_bytes(epoch: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&epoch.to_le_bytes());
    bytes
}

/// `None` where something stands in the zeros: it would be another epoch to the circuit, with a limit of its own, under
/// the same number.
pub(crate) fn epoch_number(bytes: &[u8; 32]) -> Option<u64> {
    let (number, zeros) = bytes.split_first_chunk::<8>()?;
    zeros
        .iter()
        .all(|byte| *byte == 0)
        .then(|| u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof() -> RateLimitProof {
        RateLimitProof {
            zk: [1; ZK_LEN],
            root: [2; 32],
            epoch: [3; 32],
            x: [4; 32],
            y: [5; 32],
            nullifier: [6; 32],
        }
    }

    #[test]
    fn the_layout_is_protobufs() {
        let bytes = proof().encode();
        let mut expected = vec![0x0a, 0x80, 0x01];
        expected.extend([1; 128]);
        for (tag, value) in [(0x12, 2), (0x1a, 3), (0x22, 4), (0x2a, 5), (0x32, 6)] {
            expected.extend([tag, 0x20]);
            expected.extend([value; 32]);
        }
        assert_eq!(bytes, expected);
        assert_eq!(bytes.len(), PROOF_LEN);
        assert_eq!(RateLimitProof::decode(&bytes), Some(proof()));
    }

    #[test]
    fn nothing_else_is_read() {
        let bytes = proof().encode();
        for cut in 0..bytes.len() {
            assert_eq!(RateLimitProof::decode(&bytes[..cut]), None, "{cut} bytes");
        }
        assert_eq!(RateLimitProof::decode(&[&bytes[..], &[0]].concat()), None);
        // Each byte that is not a value.
        for at in [0, 1, 2, 131, 132, 165, 166, 199, 200, 233, 234, 267, 268] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(RateLimitProof::decode(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn an_epoch_has_one_encoding() {
        assert_eq!(epoch_number(&epoch_bytes(0x0102_0304)), Some(0x0102_0304));
        assert_eq!(epoch_bytes(0x0102_0304)[..5], [4, 3, 2, 1, 0]);
        for at in 8..32 {
            let mut bytes = epoch_bytes(7);
            bytes[at] = 1;
            assert_eq!(epoch_number(&bytes), None);
        }
    }
}
