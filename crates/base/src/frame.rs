//! Frames of the gateway link, `/mizzle/gateway/1.0.0`: one size both ways, filler or real alike.
//!
//! `kind (1) ‖ zeros (7) ‖ ack (8) ‖ seq (8) ‖ body (4608)`, big-endian. Uplink: the body is a packet, `ack` is the
//! next `seq` of a [`Kind::Reply`] that the client expects, `seq` the next one of a [`Kind::Mail`] (zero: whatever is
//! first). Downlink: the body is `reply id (16) ‖ payload (3984) ‖ zeros`, or `letter id (16) ‖ index (4) ‖ count (4) ‖
//! item (4096) ‖ zeros`, or for a filler `users (4) ‖ zeros`, what the gateway can tell of the network. Replies and mail are numbered apart: a reply is acknowledged when it was read, mail when it is
//! on the client's disk. Before a client is admitted it sends [`Kind::Hello`] and gets [`Kind::Welcome`] or
//! [`Kind::Refused`]. When a frame leaves is decided by the client and gateway cores.

use alloc::boxed::Box;
use alloc::vec;

use mizzle_sphinx::{PACKET_LEN, PAYLOAD_LEN, Packet};

use crate::id::{ClientTag, LetterId, MailboxId, NetworkId};
use crate::item::{ITEM_LEN, Item};

/// Length of every frame in bytes.
pub const FRAME_LEN: usize = BODY + PACKET_LEN;

const BODY: usize = 24;
/// Where the payload of a downlink frame starts: after the reply's id.
const PAYLOAD: usize = BODY + 16;
/// Where the item of a mail frame starts: after letter id, index and count.
const ITEM: usize = BODY + 24;
/// Longest admission token in bytes.
pub const MAX_TOKEN_LEN: usize = 255;

/// The first byte of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing; downlink only (an uplink filler is a cover packet).
    Filler = 0,
    /// Uplink: a packet for the gateway's mix.
    Packet = 1,
    /// Downlink: a packet that came back, a reply or a loop.
    Reply = 2,
    /// Uplink: a client asks to be admitted.
    Hello = 3,
    /// Downlink: it is.
    Welcome = 4,
    /// Downlink: it is not.
    Refused = 5,
    /// Downlink: a piece of a letter from the client's mailbox.
    Mail = 6,
}

/// Why a gateway doesn't admit a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// Its capacity is taken.
    #[error("the gateway is full; choose another or try later")]
    Full = 1,
    /// The client isn't on its list, or its token isn't good.
    #[error("the gateway does not admit this client; ask its operator for an invitation")]
    NotAdmitted = 2,
    /// The client speaks for another network or version.
    #[error("the gateway belongs to another network; get that gateway's network document")]
    WrongNetwork = 3,
    /// A client with the same identity came after this one.
    #[error(
        "another client runs with the same identity, and the gateway keeps the newer one: its state directory is a \
         copy of this one's; stop one of the two"
    )]
    Replaced = 4,
}

/// What a frame says.
pub enum Content {
    /// See [`Kind::Filler`].
    Filler {
        /// How many users the network has at least, as far as the gateway can tell; zero if it can't.
        users: u32,
    },
    /// See [`Kind::Packet`].
    Packet(Packet),
    /// See [`Kind::Reply`].
    Reply {
        /// Client tag and random half.
        id: [u8; 16],
        /// delta as the last hop left it.
        payload: Box<[u8; PAYLOAD_LEN]>,
    },
    /// See [`Kind::Hello`].
    Hello {
        /// The network that the client believes to talk to.
        network: NetworkId,
        /// Drawn by each run of a client: of two that run with one identity the newer wins, and the older is told.
        run: [u8; 8],
        /// What an invitation says; empty where none is needed.
        token: vec::Vec<u8>,
    },
    /// See [`Kind::Welcome`].
    Welcome {
        /// Starts the id of each reply for this client.
        tag: ClientTag,
        /// Where letters for this client are kept.
        mailbox: MailboxId,
        /// Drawn when the mailbox was made: the numbers of its mail mean nothing in another one.
        generation: u64,
    },
    /// See [`Kind::Refused`].
    Refused {
        /// Why.
        why: Refusal,
        /// The run whose hello is answered: of two with one identity the frame may reach the other.
        run: [u8; 8],
    },
    /// See [`Kind::Mail`].
    Mail(Item),
}

/// One parsed frame.
pub struct Frame {
    /// Uplink: the next `seq` of a reply that the client expects.
    pub ack: u64,
    /// Downlink: number of this frame among the replies or among the mail; zero for others. Uplink: the next one of mail
    /// that the client expects.
    pub seq: u64,
    /// The rest.
    pub content: Content,
}

/// Writes a frame of [`FRAME_LEN`] bytes.
#[must_use]
pub fn encode(frame: &Frame) -> Box<[u8]> {
    let mut out = vec![0; FRAME_LEN].into_boxed_slice();
    out[8..16].copy_from_slice(&frame.ack.to_be_bytes());
    out[16..24].copy_from_slice(&frame.seq.to_be_bytes());
    let body = &mut out[BODY..];
    let kind = match &frame.content {
        Content::Filler { users } => {
            body[..4].copy_from_slice(&users.to_be_bytes());
            Kind::Filler
        }
        Content::Packet(packet) => {
            body.copy_from_slice(packet.as_bytes());
            Kind::Packet
        }
        Content::Reply { id, payload } => {
            body[..16].copy_from_slice(id);
            body[16..16 + PAYLOAD_LEN].copy_from_slice(&payload[..]);
            Kind::Reply
        }
        Content::Hello { network, run, token } => {
            // A longer token is cut; the gateway then refuses it like any wrong one.
            let token = &token[..token.len().min(MAX_TOKEN_LEN)];
            body[..32].copy_from_slice(network.as_bytes());
            body[32..40].copy_from_slice(run);
            body[40] = token.len() as u8;
            body[41..41 + token.len()].copy_from_slice(token);
            Kind::Hello
        }
        Content::Welcome {
            tag,
            mailbox,
            generation,
        } => {
            body[..8].copy_from_slice(&tag.0);
            body[8..24].copy_from_slice(mailbox.as_bytes());
            body[24..32].copy_from_slice(&generation.to_be_bytes());
            Kind::Welcome
        }
        Content::Mail(item) => {
            body[..16].copy_from_slice(item.letter.as_bytes());
            body[16..20].copy_from_slice(&item.index.to_be_bytes());
            body[20..24].copy_from_slice(&item.count.to_be_bytes());
            body[24..24 + ITEM_LEN].copy_from_slice(&item.bytes[..]);
            Kind::Mail
        }
        Content::Refused { why, run } => {
            body[0] = *why as u8;
            body[1..9].copy_from_slice(run);
            Kind::Refused
        }
    };
    out[0] = kind as u8;
    out
}

/// The number of the reply or of the mail in an encoded downlink frame; `None` for what has none.
#[must_use]
pub fn number(frame: &[u8]) -> Option<(Kind, u64)> {
    let kind = match *frame.first()? {
        kind if kind == Kind::Reply as u8 => Kind::Reply,
        kind if kind == Kind::Mail as u8 => Kind::Mail,
        _ => return None,
    };
    let seq = frame.get(16..24)?.try_into().ok()?;
    Some((kind, u64::from_be_bytes(seq)))
}

/// Puts the acknowledgements of replies and of mail into an encoded uplink frame: they are known only when the frame
/// leaves, long after the rest.
pub fn set_acks(frame: &mut [u8], replies: u64, mail: u64) {
    if let Some(fields) = frame.get_mut(8..24) {
        fields[..8].copy_from_slice(&replies.to_be_bytes());
        fields[8..].copy_from_slice(&mail.to_be_bytes());
    }
}

/// Parses a frame; `None` when it is not one. Bytes after a body are not looked at.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Frame> {
    if bytes.len() != FRAME_LEN || bytes[1..8] != [0; 7] {
        return None;
    }
    let word = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_be_bytes);
    let body = &bytes[BODY..];
    let content = match bytes[0] {
        0 => Content::Filler {
            users: body[..4].try_into().ok().map(u32::from_be_bytes)?,
        },
        1 => Content::Packet(Packet::try_from_slice(body).ok()?),
        2 => Content::Reply {
            id: body[..16].try_into().ok()?,
            payload: bytes[PAYLOAD..PAYLOAD + PAYLOAD_LEN]
                .to_vec()
                .into_boxed_slice()
                .try_into()
                .ok()?,
        },
        3 => {
            let len = usize::from(body[40]);
            Content::Hello {
                network: NetworkId::new(body[..32].try_into().ok()?),
                run: body[32..40].try_into().ok()?,
                token: body[41..41 + len].to_vec(),
            }
        }
        4 => Content::Welcome {
            tag: ClientTag(body[..8].try_into().ok()?),
            mailbox: MailboxId::new(body[8..24].try_into().ok()?),
            generation: word(BODY + 24)?,
        },
        5 => Content::Refused {
            why: match body[0] {
                1 => Refusal::Full,
                2 => Refusal::NotAdmitted,
                3 => Refusal::WrongNetwork,
                4 => Refusal::Replaced,
                _ => return None,
            },
            run: body[1..9].try_into().ok()?,
        },
        6 => {
            let number = |at: usize| body[at..at + 4].try_into().ok().map(u32::from_be_bytes);
            let item = Item {
                letter: LetterId::new(body[..16].try_into().ok()?),
                index: number(16)?,
                count: number(20)?,
                bytes: bytes[ITEM..ITEM + ITEM_LEN]
                    .to_vec()
                    .into_boxed_slice()
                    .try_into()
                    .ok()?,
            };
            if item.index >= item.count {
                return None;
            }
            Content::Mail(item)
        }
        _ => return None,
    };
    Some(Frame {
        ack: word(8)?,
        seq: word(16)?,
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips_at_one_length() {
        let contents = [
            Content::Filler { users: 64 },
            Content::Packet(Packet::zeroed()),
            Content::Reply {
                id: [3; 16],
                payload: Box::new([4; PAYLOAD_LEN]),
            },
            Content::Hello {
                network: NetworkId::new([5; 32]),
                run: [1; 8],
                token: vec![6; 255],
            },
            Content::Welcome {
                tag: ClientTag([7; 8]),
                mailbox: MailboxId::new([8; 16]),
                generation: 9,
            },
            Content::Refused {
                why: Refusal::Full,
                run: [2; 8],
            },
            Content::Refused {
                why: Refusal::Replaced,
                run: [3; 8],
            },
            Content::Mail(Item {
                letter: LetterId::new([9; 16]),
                index: 6,
                count: 7,
                bytes: Box::new([10; ITEM_LEN]),
            }),
        ];
        for content in contents {
            let bytes = encode(&Frame {
                ack: 1,
                seq: 2,
                content,
            });
            assert_eq!(bytes.len(), FRAME_LEN);
            let back = decode(&bytes).unwrap();
            assert_eq!((back.ack, back.seq), (1, 2));
            let numbered = match back.content {
                Content::Reply { .. } => Some((Kind::Reply, 2)),
                Content::Mail(_) => Some((Kind::Mail, 2)),
                _ => None,
            };
            assert_eq!(number(&bytes), numbered);
            assert_eq!(encode(&back), bytes);
        }
    }

    #[test]
    fn other_bytes_are_no_frame() {
        assert!(decode(&[]).is_none());
        let mut bytes = encode(&Frame {
            ack: 0,
            seq: 0,
            content: Content::Filler { users: 0 },
        });
        assert!(decode(&bytes[1..]).is_none());
        bytes[0] = 7;
        assert!(decode(&bytes).is_none());
        bytes[0] = 6;
        assert!(decode(&bytes).is_none(), "an index beyond the count");
        bytes[0] = 0;
        bytes[7] = 1;
        assert!(decode(&bytes).is_none());
    }
}
