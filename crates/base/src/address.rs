//! The address of a person: a line of text to hand to correspondents.
//!
//! Bech32m (BIP 350) under the prefix `mizzle`, so a mistyped character is noticed: version 1, the first 8 bytes of
//! the network id, the X25519 key to which letters are sealed, then one to three mailboxes (gateway id and mailbox id)
//! in the order of preference. The design's End to end section. How letters are sealed and sent is left to
//! `mizzle-stream` and the client.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use bech32::primitives::decode::{CheckedHrpstring, UncheckedHrpstring};
use bech32::{Bech32m, Hrp};
use mizzle_sphinx::PublicKey;

use crate::id::{MailboxId, NetworkId, NodeId};

/// What an address begins with; bech32 puts a `1` behind it.
pub const PREFIX: &str = "mizzle";
/// Most mailboxes of an address.
pub const MAX_MAILBOXES: usize = 3;

const VERSION: u8 = 1;
const NETWORK_LEN: usize = 8;
const FRONT: usize = 1 + NETWORK_LEN + 32;
const MAILBOX_LEN: usize = NodeId::LEN + MailboxId::LEN;
const HRP: Hrp = Hrp::parse_unchecked(PREFIX);

/// Where letters for somebody are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mailbox {
    /// At this gateway,
    pub gateway: NodeId,
    /// under this id.
    pub id: MailboxId,
}

/// The address of a person; see the [module](self).
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    network: [u8; NETWORK_LEN],
    seal_key: PublicKey,
    mailboxes: Vec<Mailbox>,
}

/// Why a text isn't an address that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// Something else.
    #[error("this is not a mizzle address: those begin with `{PREFIX}1` and are one word")]
    NotAnAddress,
    /// A character is wrong, missing or too much.
    #[error("the address has a typing error (its checksum is wrong): copy it again from its owner")]
    Checksum,
    /// Made by a later version.
    #[error("the address is of version {0}, and this program knows version {VERSION} only: update mizzle")]
    Version(u8),
    /// The version is known but the rest doesn't fit it.
    #[error("the address is damaged: ask its owner for it again")]
    Damaged,
    /// Of another network.
    #[error("the address belongs to another network than the one that this client is in")]
    OtherNetwork,
}

impl Address {
    /// The address of who has the secret of `seal_key` and these mailboxes.
    ///
    /// # Errors
    /// [`AddressError::Damaged`] without a mailbox, or with more than [`MAX_MAILBOXES`].
    pub fn new(
        network: &NetworkId,
        seal_key: PublicKey,
        mailboxes: Vec<Mailbox>,
    ) -> Result<Self, AddressError> {
        let mut short = [0; NETWORK_LEN];
        short.copy_from_slice(&network.as_bytes()[..NETWORK_LEN]);
        Self::checked(short, seal_key, mailboxes)
    }

    fn checked(
        network: [u8; NETWORK_LEN],
        seal_key: PublicKey,
        mailboxes: Vec<Mailbox>,
    ) -> Result<Self, AddressError> {
        let usable = |m: &Mailbox| m.id != MailboxId::DROP;
        if !(1..=MAX_MAILBOXES).contains(&mailboxes.len()) || !mailboxes.iter().all(usable) {
            return Err(AddressError::Damaged);
        }
        Ok(Self {
            network,
            seal_key,
            mailboxes,
        })
    }

    /// The key to which letters are sealed.
    #[must_use]
    pub fn seal_key(&self) -> &PublicKey {
        &self.seal_key
    }

    /// Where letters are kept, the preferred place first; at least one.
    #[must_use]
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// Checks that it belongs to this network.
    ///
    /// # Errors
    /// [`AddressError::OtherNetwork`].
    pub fn check_network(&self, network: &NetworkId) -> Result<(), AddressError> {
        if network.as_bytes().starts_with(&self.network) {
            Ok(())
        } else {
            Err(AddressError::OtherNetwork)
        }
    }

    /// The bytes behind the text.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRONT + self.mailboxes.len() * MAILBOX_LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.network);
        out.extend_from_slice(self.seal_key.as_bytes());
        for mailbox in &self.mailboxes {
            out.extend_from_slice(mailbox.gateway.as_bytes());
            out.extend_from_slice(mailbox.id.as_bytes());
        }
        out
    }

    /// Reads [`Self::to_bytes`].
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AddressError> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(AddressError::Version(other)),
            None => return Err(AddressError::Damaged),
        }
        let (front, rest) = bytes.split_at_checked(FRONT).ok_or(AddressError::Damaged)?;
        let (network, key) = front[1..].split_at(NETWORK_LEN);
        let network = network.try_into().map_err(|_| AddressError::Damaged)?;
        let key: [u8; 32] = key.try_into().map_err(|_| AddressError::Damaged)?;
        let seal_key = PublicKey::from_bytes(&key).map_err(|_| AddressError::Damaged)?;
        if !rest.len().is_multiple_of(MAILBOX_LEN) {
            return Err(AddressError::Damaged);
        }
        let mailboxes = rest.chunks_exact(MAILBOX_LEN).filter_map(|chunk| {
            let (gateway, id) = chunk.split_at(NodeId::LEN);
            Some(Mailbox {
                gateway: NodeId::new(gateway.try_into().ok()?),
                id: MailboxId::new(id.try_into().ok()?),
            })
        });
        Self::checked(network, seal_key, mailboxes.collect())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 185 bytes at most, of the 627 or so that the code carries.
        let text = bech32::encode::<Bech32m>(HRP, &self.to_bytes()).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(..)")
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text: String = text.trim().to_string();
        let unchecked = UncheckedHrpstring::new(&text).map_err(|_| {
            if text
                .get(..PREFIX.len())
                .is_some_and(|p| p.eq_ignore_ascii_case(PREFIX))
            {
                AddressError::Checksum
            } else {
                AddressError::NotAnAddress
            }
        })?;
        if unchecked.hrp() != HRP {
            return Err(AddressError::NotAnAddress);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(&text).map_err(|_| AddressError::Checksum)?;
        let bytes: Vec<u8> = checked.byte_iter().collect();
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_sphinx::SecretKey;

    fn address(mailboxes: u8) -> Address {
        let mailbox = |n: u8| Mailbox {
            gateway: NodeId::new([n; 32]),
            id: MailboxId::new([n + 100; 16]),
        };
        let key = SecretKey::from_bytes([9; 32]).public();
        let network = NetworkId::new([5; 32]);
        Address::new(&network, key, (1..=mailboxes).map(mailbox).collect()).unwrap()
    }

    #[test]
    fn text_and_bytes_round_trip_with_one_to_three_mailboxes() {
        for n in 1..=3 {
            let address = address(n);
            let text = address.to_string();
            assert!(text.starts_with("mizzle1"), "{text}");
            assert_eq!(text.parse(), Ok(address.clone()));
            assert_eq!(
                text.to_uppercase().parse(),
                Ok(address.clone()),
                "as QR codes have it"
            );
            assert_eq!(alloc::format!("  {text}\n").parse(), Ok(address.clone()));
            assert_eq!(Address::from_bytes(&address.to_bytes()), Ok(address));
        }
        let none = Address::new(&NetworkId::new([5; 32]), *address(1).seal_key(), Vec::new());
        assert_eq!(none, Err(AddressError::Damaged));
    }

    #[test]
    fn every_single_mistyped_character_is_noticed() {
        let text = address(1).to_string();
        for at in 7..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] = if bad[at] == b'q' { b'p' } else { b'q' };
            let bad = String::from_utf8(bad).unwrap();
            assert_eq!(bad.parse::<Address>(), Err(AddressError::Checksum), "{bad}");
            let (front, back) = text.split_at(at);
            let short = alloc::format!("{front}{}", &back[1..]);
            assert_eq!(short.parse::<Address>(), Err(AddressError::Checksum), "{short}");
        }
    }

    #[test]
    fn other_texts_versions_and_networks_are_told_apart() {
        for text in [
            "",
            "mizzle",
            "hello",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            let wanted = if text == "mizzle" {
                AddressError::Checksum
            } else {
                AddressError::NotAnAddress
            };
            assert_eq!(error, wanted, "{text}");
        }
        let mut later = address(1).to_bytes();
        later[0] = 2;
        let text = bech32::encode::<Bech32m>(HRP, &later).unwrap();
        assert_eq!(text.parse::<Address>(), Err(AddressError::Version(2)));
        for cut in [0, 1, 40, 60, 88] {
            let text = bech32::encode::<Bech32m>(HRP, &address(1).to_bytes()[..cut]).unwrap();
            assert_eq!(text.parse::<Address>(), Err(AddressError::Damaged), "{cut} bytes");
        }
        assert_eq!(address(1).check_network(&NetworkId::new([5; 32])), Ok(()));
        assert_eq!(
            address(1).check_network(&NetworkId::new([6; 32])),
            Err(AddressError::OtherNetwork)
        );
    }
}
