//! Names of things on the wire, and the 94-byte Sphinx address blocks of the `loopix` profile that carry them.
//!
//! The block of an intermediate hop is `1 ‖ node id (32) ‖ zeros`, of a last hop `1 ‖ mailbox id (16) ‖ zeros`.
//! Anything else is refused, so there is one encoding of each. The multiaddr form of the `libp2p` profile is
//! `libp2p-mix`'s.

use core::fmt;

use mizzle_sphinx::ADDRESS_LEN;
use sha2::{Digest, Sha256};

/// First byte of every address block of this version.
const VERSION: u8 = 1;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps raw bytes.
            #[must_use]
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The address block that names it; see the [module](self).
            #[must_use]
            pub fn to_address(&self) -> [u8; ADDRESS_LEN] {
                let mut block = [0; ADDRESS_LEN];
                block[0] = VERSION;
                block[1..=$len].copy_from_slice(&self.0);
                block
            }

            /// Reads an address block; `None` for another version or for bytes after the id.
            #[must_use]
            pub fn from_address(block: &[u8; ADDRESS_LEN]) -> Option<Self> {
                let (id, rest) = block[1..].split_at($len);
                if block[0] != VERSION || rest.iter().any(|&b| b != 0) {
                    return None;
                }
                id.try_into().ok().map(Self)
            }

            /// Reads lower- or upper-case hexadecimal.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                crate::hex::decode(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::hex::write(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Four bytes tell two apart in a log without naming a node or a mailbox in full.
                f.write_str(concat!(stringify!($name), "("))?;
                crate::hex::write(&self.0[..4], f)?;
                f.write_str("..)")
            }
        }
    };
}

id! {
    /// A node: a hash of its libp2p identity, so that it may move to another address.
    NodeId, 32
}
id! {
    /// A network: a hash of its authority's key and its name.
    NetworkId, 32
}
id! {
    /// Where a message goes at its last gateway: a client's mailbox, or an exit. [`MailboxId::DROP`] is nobody.
    MailboxId, 16
}

id! {
    /// A letter: drawn by its sender. Sending it again under its id stores it once.
    LetterId, 16
}

impl NetworkId {
    /// The id of the network `name` under an authority's Ed25519 key.
    #[must_use]
    pub fn of(authority: &[u8; 32], name: &str) -> Self {
        let hash = Sha256::new()
            .chain_update(b"mizzle network\0")
            .chain_update(authority)
            .chain_update(name.as_bytes());
        Self(hash.finalize().into())
    }
}

impl NodeId {
    /// The id of the node with this identity: `public_key` in libp2p's protobuf form, so keys of any type fit.
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        Self(
            Sha256::new()
                .chain_update(b"mizzle node\0")
                .chain_update(public_key)
                .finalize()
                .into(),
        )
    }
}

impl MailboxId {
    /// The destination of drops: the gateway takes the SURBs, if any, and forgets the rest.
    pub const DROP: Self = Self::new([0; 16]);
}

/// The 8 bytes that a gateway gave to a client: a reply whose id starts with them is that client's.
///
/// Known to the two of them only, and new each epoch (the design's "reply ends" row).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTag(pub [u8; 8]);

impl fmt::Debug for ClientTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTag(..)")
    }
}

impl ClientTag {
    /// The id of a reply: this tag, then 8 random bytes that its creator tells apart.
    #[must_use]
    pub fn reply_id(self, random: [u8; 8]) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.0);
        id[8..].copy_from_slice(&random);
        id
    }

    /// The two halves of a reply's id.
    #[must_use]
    pub fn split(id: &[u8; 16]) -> (Self, [u8; 8]) {
        let (mut tag, mut random) = ([0; 8], [0; 8]);
        tag.copy_from_slice(&id[..8]);
        random.copy_from_slice(&id[8..]);
        (Self(tag), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_blocks_have_one_encoding() {
        let id = NodeId::new([7; 32]);
        let block = id.to_address();
        assert_eq!(NodeId::from_address(&block), Some(id));
        for i in [0, 33, 93] {
            let mut bad = block;
            bad[i] ^= 0x10;
            assert_eq!(NodeId::from_address(&bad), None, "byte {i}");
        }
        // A multiaddr block of the `libp2p` profile (127.0.0.1, tcp) names no node here.
        let mut private = [0; ADDRESS_LEN];
        private[..7].copy_from_slice(&[127, 0, 0, 1, 0, 0x0f, 0xa1]);
        assert_eq!(NodeId::from_address(&private), None);
    }

    #[test]
    fn hex_round_trips_and_refuses_other_lengths() {
        let id = MailboxId::new(*b"0123456789abcdef");
        let text = alloc::format!("{id}");
        assert_eq!(MailboxId::from_hex(&text), Some(id));
        assert_eq!(MailboxId::from_hex(&text[1..]), None);
        assert_eq!(MailboxId::from_hex("zz"), None);
    }
}
