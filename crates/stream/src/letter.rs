//! Letters: what one person sends to another, sealed to the key of an address into [items](mizzle_base::Item) of one
//! size.
//!
//! Noise_X (revision 34, one-way) with the receiver's seal key; network and letter id are its prologue. The first item is
//! `e (32) ‖ s (48) ‖ sealed`, every other one is sealed with its index as counter; the plaintext of each is `last (1) ‖
//! length (2) ‖ content ‖ zeros`. The contents, one after another, are the [`Header`] and then the data. A sender who
//! does not sign uses a static key that is thrown away: the two kinds look the same to everyone but the receiver.
//!
//! Signing convinces the receiver and nobody else, for the receiver could have made the same bytes. Who steals a
//! receiver's seal key reads all letters to it, old ones too (prekeys come later), and can write to its owner under any
//! name. How items travel and where they wait is left to others. The design's End to end section.

use mizzle_base::address::Address;
use mizzle_base::item::ITEM_LEN;
use mizzle_base::{LetterId, NetworkId, Rng};
use mizzle_sphinx::PublicKey;
use rand_core::Rng as _;
use snow::StatelessTransportState;
use zeroize::Zeroizing;

use crate::seal::{self, KEY_LEN, MAC_LEN, SealError};

const PATTERN: &str = "Noise_X_25519_ChaChaPoly_SHA256";
const PROTOCOL: &[u8] = b"mizzle letter 1\0";
/// `last ‖ length`.
const FRONT: usize = 3;
/// Content of the first item in bytes, at most.
pub const FIRST_LEN: usize = ITEM_LEN - KEY_LEN - (KEY_LEN + MAC_LEN) - MAC_LEN - FRONT;
/// Content of every other item in bytes, at most.
pub const CHUNK_LEN: usize = ITEM_LEN - MAC_LEN - FRONT;
/// Longest name of a file in bytes.
pub const MAX_NAME_LEN: usize = 255;

const VERSION: u8 = 1;
const WANTS_READ: u8 = 1;

/// What a letter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Text to read.
    Text = 1,
    /// A file with a name.
    File = 2,
    /// Says that a letter was read; carries no data.
    Receipt = 3,
}

/// What stands before a letter's data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Name of a file, without a path; else empty.
    pub name: String,
    /// The address that the sender signed with; none if the letter is anonymous.
    pub from: Option<Address>,
    /// The sender would like to hear when it was read.
    pub wants_read: bool,
    /// Of which letter a receipt is.
    pub of: Option<LetterId>,
}

/// Why an item or a letter is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LetterError {
    /// It doesn't open: for another key, damaged, or out of its place.
    #[error("the letter does not open: it was damaged, or is sealed for somebody else")]
    Seal,
    /// It opens, but what is inside is no letter.
    #[error("the letter is damaged, or of a later version of mizzle")]
    Content,
    /// The name isn't one that a file can safely have.
    #[error("a file's name has 1 to {MAX_NAME_LEN} bytes, no path and no control characters")]
    Name,
    /// The sender claims an address whose key he doesn't have.
    #[error("the letter claims a sender who did not write it")]
    Forged,
    /// More content than an item holds.
    #[error("an item holds less")]
    TooLong,
}

impl From<SealError> for LetterError {
    fn from(_: SealError) -> Self {
        Self::Seal
    }
}

impl From<snow::Error> for LetterError {
    fn from(_: snow::Error) -> Self {
        Self::Seal
    }
}

/// A name with which a file may be saved anywhere: no path, no tricks with terminals.
fn check_name(name: &str) -> Result<(), LetterError> {
    let bad = |c: char| {
        // Marks that turn the direction of a line could make `gpj.exe` look like `exe.jpg`.
        c.is_control()
            || matches!(c, '/' | '\\' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let dots = name == "." || name == "..";
    if name.is_empty() || name.len() > MAX_NAME_LEN || dots || name.chars().any(bad) {
        return Err(LetterError::Name);
    }
    Ok(())
}

impl Header {
    /// Of a letter of text, anonymous.
    #[must_use]
    pub fn text() -> Self {
        Self {
            kind: Kind::Text,
            name: String::new(),
            from: None,
            wants_read: false,
            of: None,
        }
    }

    /// Of a file, anonymous.
    ///
    /// # Errors
    /// [`LetterError::Name`].
    pub fn file(name: &str) -> Result<Self, LetterError> {
        check_name(name)?;
        Ok(Self {
            kind: Kind::File,
            name: name.to_string(),
            ..Self::text()
        })
    }

    /// Of a receipt for the letter `of`, signed by `from`.
    #[must_use]
    pub fn receipt(of: LetterId, from: Address) -> Self {
        Self {
            kind: Kind::Receipt,
            from: Some(from),
            of: Some(of),
            ..Self::text()
        }
    }

    /// `version (1) ‖ kind (1) ‖ flags (1) ‖ name length (1) ‖ name ‖ address length (1) ‖ address ‖ letter (0 or 16)`,
    /// some 460 bytes at most.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let from = self.from.as_ref().map(Address::to_bytes).unwrap_or_default();
        let flags = if self.wants_read { WANTS_READ } else { 0 };
        let name = &self.name.as_bytes()[..self.name.len().min(MAX_NAME_LEN)];
        let mut out = vec![VERSION, self.kind as u8, flags, name.len() as u8];
        out.extend_from_slice(name);
        out.push(from.len() as u8);
        out.extend_from_slice(&from);
        if let Some(of) = &self.of {
            out.extend_from_slice(of.as_bytes());
        }
        out
    }

    /// Reads a header at the start of `bytes`; also how many bytes it took.
    ///
    /// # Errors
    /// [`LetterError::Content`], [`LetterError::Name`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), LetterError> {
        let wrong = LetterError::Content;
        let (&[version, kind, flags, name_len], rest) = bytes.split_first_chunk::<4>().ok_or(wrong)?;
        if version != VERSION || flags & !WANTS_READ != 0 {
            return Err(wrong);
        }
        let kind = match kind {
            1 => Kind::Text,
            2 => Kind::File,
            3 => Kind::Receipt,
            _ => return Err(wrong),
        };
        let (name, rest) = rest.split_at_checked(name_len.into()).ok_or(wrong)?;
        let name = core::str::from_utf8(name).map_err(|_| wrong)?;
        match kind {
            Kind::File => check_name(name)?,
            Kind::Text | Kind::Receipt if name.is_empty() => {}
            Kind::Text | Kind::Receipt => return Err(wrong),
        }
        let (&from_len, rest) = rest.split_first().ok_or(wrong)?;
        let (from, rest) = rest.split_at_checked(from_len.into()).ok_or(wrong)?;
        let from = match from {
            [] => None,
            bytes => Some(Address::from_bytes(bytes).map_err(|_| wrong)?),
        };
        let (of, rest) = match kind {
            Kind::Receipt => {
                let (of, rest) = rest.split_first_chunk().ok_or(wrong)?;
                (Some(LetterId::new(*of)), rest)
            }
            _ => (None, rest),
        };
        let header = Self {
            kind,
            name: name.to_string(),
            from,
            wants_read: flags & WANTS_READ != 0,
            of,
        };
        Ok((header, bytes.len() - rest.len()))
    }
}

fn prologue(network: &NetworkId, letter: &LetterId) -> Vec<u8> {
    [PROTOCOL, network.as_bytes(), letter.as_bytes()].concat()
}

/// Writes `last ‖ length ‖ content ‖ zeros`.
fn plain(content: &[u8], last: bool, out: &mut [u8]) -> Result<(), LetterError> {
    let room = out
        .get_mut(FRONT..)
        .and_then(|room| room.get_mut(..content.len()))
        .ok_or(LetterError::TooLong)?;
    room.copy_from_slice(content);
    out[0] = u8::from(last);
    // An item's length fits 16 bits.
    out[1..FRONT].copy_from_slice(&(content.len() as u16).to_be_bytes());
    Ok(())
}

/// Reads what [`plain`] wrote.
fn content(plain: &[u8]) -> Result<(&[u8], bool), LetterError> {
    let (&[last, high, low], rest) = plain.split_first_chunk::<FRONT>().ok_or(LetterError::Content)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    match (last, rest.get(..len)) {
        (0 | 1, Some(content)) => Ok((content, last == 1)),
        _ => Err(LetterError::Content),
    }
}

/// Seals one letter, item by item.
pub struct Sealer {
    state: StatelessTransportState,
    next: u64,
}

impl Sealer {
    /// Begins a letter with its first item: at most [`FIRST_LEN`] bytes of `first`, which begin with the header. `signer`
    /// is the secret of the sender's seal key, if he signs: the header names his address then.
    ///
    /// # Errors
    /// [`LetterError::TooLong`].
    pub fn begin(
        network: &NetworkId,
        letter: &LetterId,
        receiver: &PublicKey,
        signer: Option<&[u8; 32]>,
        rng: &mut Rng,
        first: &[u8],
        last: bool,
    ) -> Result<(Self, Box<[u8; ITEM_LEN]>), LetterError> {
        let prologue = prologue(network, letter);
        let mut thrown_away = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *thrown_away);
        let mut state = seal::builder(PATTERN, &prologue, rng)?
            .local_private_key(signer.unwrap_or(&thrown_away))?
            .remote_public_key(receiver.as_bytes())?
            .build_initiator()?;
        let mut bytes = Zeroizing::new([0; FIRST_LEN + FRONT]);
        plain(first, last, &mut *bytes)?;
        let mut item = Box::new([0; ITEM_LEN]);
        if state.write_message(&*bytes, &mut item[..])? != ITEM_LEN {
            return Err(LetterError::Seal);
        }
        let state = state.into_stateless_transport_mode()?;
        Ok((Self { state, next: 1 }, item))
    }

    /// The next item, with at most [`CHUNK_LEN`] bytes of content.
    ///
    /// # Errors
    /// [`LetterError::TooLong`].
    pub fn next(&mut self, chunk: &[u8], last: bool) -> Result<Box<[u8; ITEM_LEN]>, LetterError> {
        let mut bytes = Zeroizing::new([0; CHUNK_LEN + FRONT]);
        plain(chunk, last, &mut *bytes)?;
        let mut item = Box::new([0; ITEM_LEN]);
        self.state.write_message(self.next, &*bytes, &mut item[..])?;
        self.next += 1;
        Ok(item)
    }
}

/// The first item of a letter, opened.
pub struct Opened {
    /// Its header. `from`, if there, is who wrote it: checked.
    pub header: Header,
    /// The data that the first item holds.
    pub data: Vec<u8>,
    /// The letter ends here.
    pub last: bool,
    /// Opens the items after it.
    pub unsealer: Unsealer,
}

/// Opens the items of one letter after the first, in order.
pub struct Unsealer {
    state: StatelessTransportState,
    next: u64,
}

/// Opens the first item of a letter with the secret of one's seal key.
///
/// # Errors
/// Why it is refused; the letter is of no use then.
pub fn open(
    network: &NetworkId,
    letter: &LetterId,
    secret: &[u8; 32],
    item: &[u8; ITEM_LEN],
) -> Result<Opened, LetterError> {
    let prologue = prologue(network, letter);
    // A receiver draws no ephemeral key in a one-way pattern: this generator gives nothing.
    let mut unused = <Rng as rand_core::SeedableRng>::from_seed([0; 32]);
    let mut state = seal::builder(PATTERN, &prologue, &mut unused)?
        .local_private_key(secret)?
        .build_responder()?;
    let mut bytes = Zeroizing::new([0; ITEM_LEN]);
    let len = state.read_message(item, &mut *bytes)?;
    let (first, last) = content(&bytes[..len])?;
    let (header, used) = Header::decode(first)?;
    let signed_by = state.get_remote_static();
    let claimed = header.from.as_ref().map(|from| &from.seal_key().as_bytes()[..]);
    if claimed.is_some() && claimed != signed_by {
        return Err(LetterError::Forged);
    }
    if header.kind == Kind::Receipt && claimed.is_none() {
        return Err(LetterError::Content);
    }
    Ok(Opened {
        data: first[used..].to_vec(),
        header,
        last,
        unsealer: Unsealer {
            state: state.into_stateless_transport_mode()?,
            next: 1,
        },
    })
}

impl Unsealer {
    /// Opens the next item: its data, and whether the letter ends with it.
    ///
    /// # Errors
    /// Why it is refused; the letter is of no use then.
    pub fn next(&mut self, item: &[u8; ITEM_LEN]) -> Result<(Vec<u8>, bool), LetterError> {
        let mut bytes = Zeroizing::new([0; ITEM_LEN]);
        let len = self.state.read_message(self.next, item, &mut *bytes)?;
        self.next += 1;
        let (data, last) = content(&bytes[..len])?;
        Ok((data.to_vec(), last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_base::address::Mailbox;
    use mizzle_base::{MailboxId, NodeId};
    use mizzle_sphinx::SecretKey;
    use rand_core::SeedableRng as _;

    const NETWORK: NetworkId = NetworkId::new([1; 32]);
    const LETTER: LetterId = LetterId::new([2; 16]);

    fn public(secret: [u8; 32]) -> PublicKey {
        SecretKey::from_bytes(secret).public()
    }

    fn address(secret: [u8; 32]) -> Address {
        let mailbox = Mailbox {
            gateway: NodeId::new([3; 32]),
            id: MailboxId::new([4; 16]),
        };
        Address::new(&NETWORK, public(secret), vec![mailbox]).unwrap()
    }

    fn seal(header: &Header, data: &[u8], signer: Option<[u8; 32]>) -> Vec<Box<[u8; ITEM_LEN]>> {
        let mut rng = Rng::seed_from_u64(5);
        let all = [&header.encode()[..], data].concat();
        let (first, rest) = all.split_at(all.len().min(FIRST_LEN));
        let chunks: Vec<&[u8]> = rest.chunks(CHUNK_LEN).collect();
        let (mut sealer, item) = Sealer::begin(
            &NETWORK,
            &LETTER,
            &public([7; 32]),
            signer.as_ref(),
            &mut rng,
            first,
            chunks.is_empty(),
        )
        .unwrap();
        let mut items = vec![item];
        for (n, chunk) in chunks.iter().enumerate() {
            items.push(sealer.next(chunk, n + 1 == chunks.len()).unwrap());
        }
        items
    }

    fn unseal(items: &[Box<[u8; ITEM_LEN]>]) -> Result<(Header, Vec<u8>), LetterError> {
        let mut opened = open(&NETWORK, &LETTER, &[7; 32], &items[0])?;
        let (mut data, mut last) = (opened.data, opened.last);
        for item in &items[1..] {
            assert!(!last, "nothing comes after the last item");
            let (more, end) = opened.unsealer.next(item)?;
            data.extend_from_slice(&more);
            last = end;
        }
        assert!(last);
        Ok((opened.header, data))
    }

    #[test]
    fn letters_of_every_length_are_the_same_after_the_seal() {
        let header = Header::file("Überraschung 1.pdf").unwrap();
        let room = FIRST_LEN - header.encode().len();
        for len in [
            0,
            1,
            room - 1,
            room,
            room + 1,
            room + CHUNK_LEN,
            room + CHUNK_LEN + 1,
        ] {
            let data: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let items = seal(&header, &data, None);
            assert_eq!(items.len(), 1 + (len.saturating_sub(room)).div_ceil(CHUNK_LEN));
            assert_eq!(unseal(&items), Ok((header.clone(), data)), "{len} bytes");
        }
    }

    #[test]
    fn a_signed_letter_names_its_sender_and_a_claimed_one_is_refused() {
        let mut header = Header::text();
        header.from = Some(address([8; 32]));
        header.wants_read = true;
        let signed = unseal(&seal(&header, b"hello", Some([8; 32]))).unwrap();
        assert_eq!(signed.0, header);
        assert_eq!(
            unseal(&seal(&header, b"hello", Some([9; 32]))),
            Err(LetterError::Forged)
        );
        assert_eq!(unseal(&seal(&header, b"hello", None)), Err(LetterError::Forged));
        let receipt = Header::receipt(LETTER, address([8; 32]));
        assert_eq!(unseal(&seal(&receipt, b"", Some([8; 32]))).unwrap().0, receipt);
        let nobodys = Header {
            from: None,
            ..receipt
        };
        assert_eq!(unseal(&seal(&nobodys, b"", None)), Err(LetterError::Content));
    }

    #[test]
    fn what_was_changed_moved_or_is_for_others_does_not_open() {
        let items = seal(&Header::text(), &[6; 3 * CHUNK_LEN], None);
        assert_eq!(items.len(), 4);
        for at in (0..ITEM_LEN).step_by(101) {
            for n in 0..2 {
                let mut bad = items.clone();
                bad[n][at] ^= 1;
                assert_eq!(unseal(&bad), Err(LetterError::Seal), "byte {at} of item {n}");
            }
        }
        let mut swapped = items.clone();
        swapped.swap(1, 2);
        assert_eq!(unseal(&swapped), Err(LetterError::Seal));
        let first = &items[0];
        assert!(
            open(&NETWORK, &LETTER, &[6; 32], first).is_err(),
            "another receiver"
        );
        assert!(open(&NETWORK, &LetterId::new([3; 16]), &[7; 32], first).is_err());
        assert!(open(&NetworkId::new([3; 32]), &LETTER, &[7; 32], first).is_err());
    }

    #[test]
    fn unsafe_names_are_refused_by_both_ends() {
        let long = "x".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "/etc/passwd",
            "a\nb",
            "a\u{202e}gpj.exe",
            &long,
        ] {
            assert_eq!(Header::file(name), Err(LetterError::Name), "{name:?}");
            let header = Header {
                kind: Kind::File,
                name: name.into(),
                ..Header::text()
            };
            if name.len() <= MAX_NAME_LEN {
                assert_eq!(
                    Header::decode(&header.encode()),
                    Err(LetterError::Name),
                    "{name:?}"
                );
            }
        }
        assert!(Header::file("résumé (2).tar.gz").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_no_header_or_one_that_encodes_to_itself(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            if let Ok((header, used)) = Header::decode(&bytes) {
                proptest::prop_assert_eq!(header.encode(), &bytes[..used]);
            }
        }
    }
}
