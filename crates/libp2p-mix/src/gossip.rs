//! Gossip without a name on it: a message reaches a gossipsub topic through the mixnet.
//!
//! There are two ways. An exit that has gossipsub itself [publishes for the sender](Control::publish_by): the topic's
//! own peers choose who passes it on, and it works wherever such an exit is in the pool. Or the sender writes the message as
//! gossipsub does and whichever exit the packet ends at [hands it to a peer of the topic](Control::publish_to). Exits of this crate do
//! so as a neighbour does, with one stream to each peer that they keep; one that gossips itself publishes instead, if its
//! application takes [publications](Control::publications). Exits of the Nim implementation open a stream for each message, of
//! which a peer on rust-libp2p reads at most four on a connection, and none where the exit speaks no gossipsub: in a network with
//! such exits the first way is the better one.
//!
//! Either way the topic's messages must be anonymous: without source, number and signature
//! (`MessageAuthenticity::Anonymous`, `ValidationMode::Anonymous`), with a [`message_id`] made of their content, and a check
//! that nothing of an identity is left, which with the `gossipsub` feature is `NoIdentity`. Topics whose peers want
//! signatures refuse such messages.

use libp2p::{PeerId, StreamProtocol};
use sha2::{Digest, Sha256};

use crate::{
    Control, Destination, Endpoint, Incoming, SendError,
    discovery::{Value, next_field, put_bytes, varint},
};

/// Asks an exit to publish.
pub const PUBLISH_PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p-mix/publish/1.0.0");
/// Gossipsub's own protocol, in the version that every implementation speaks.
pub const MESHSUB_PROTOCOL: StreamProtocol = StreamProtocol::new("/meshsub/1.1.0");

/// Something for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The topic, as its peers name it.
    pub topic: String,
    /// The message.
    pub data: Vec<u8>,
}

impl Publication {
    /// For [`PUBLISH_PROTOCOL`]: the length of the topic, the topic, the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = varint(self.topic.len() as u64);
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(&self.data);
        out
    }

    /// Reads what [`encode`](Self::encode) wrote; topics have at most 16,383 bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = match bytes {
            [len @ 0..0x80, rest @ ..] => (usize::from(*len), rest),
            [low, high @ 1..0x80, rest @ ..] => (usize::from(low & 0x7f) | usize::from(*high) << 7, rest),
            _ => return None,
        };
        let (topic, data) = rest.split_at_checked(len)?;
        Some(Self {
            topic: std::str::from_utf8(topic).ok()?.to_owned(),
            data: data.to_vec(),
        })
    }

    /// The message as gossipsub's peers write it on a stream: an RPC with one message that has a topic and data only, with
    /// its length in front.
    #[must_use]
    pub fn rpc(&self) -> Vec<u8> {
        let mut message = [None; 7];
        (message[DATA], message[TOPIC]) = (Some(&self.data[..]), Some(self.topic.as_bytes()));
        Rpc(vec![message]).encode()
    }
}

/// Messages in an RPC that is handed over; more are none.
const MAX_MESSAGES: usize = 16;

/// An RPC of gossipsub that has messages and nothing else: no subscription and no control message, which would be the exit's
/// own word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rpc<'a>(Vec<Message<'a>>);

/// The fields of one message, by their numbers; 0 is none.
type Message<'a> = [Option<&'a [u8]>; 7];

const DATA: usize = 2;
const TOPIC: usize = 4;

impl<'a> Rpc<'a> {
    /// Reads one that has its length in front, and nothing behind it; `None` for what a peer would close its stream at.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        // At most two bytes of length: no packet holds more.
        let (prefix, mut rest) = match bytes {
            [0..0x80, rest @ ..] => (1, rest),
            [_, 0..0x80, rest @ ..] => (2, rest),
            _ => return None,
        };
        if varint(rest.len() as u64) != bytes[..prefix] {
            return None;
        }
        let mut messages = Vec::new();
        while let Some((field, value, behind)) = next_field(rest).ok()? {
            let (2, Value::Bytes(message)) = (field, value) else {
                return None;
            };
            messages.push(decode_message(message)?);
            rest = behind;
        }
        (1..=MAX_MESSAGES)
            .contains(&messages.len())
            .then_some(Self(messages))
    }

    /// The same as it is always written, with its length in front.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut rpc = Vec::new();
        for message in &self.0 {
            let mut fields = Vec::new();
            for (field, value) in message.iter().enumerate() {
                if let Some(value) = value {
                    put_bytes(&mut fields, field as u8, value);
                }
            }
            put_bytes(&mut rpc, 2, &fields);
        }
        let mut out = varint(rpc.len() as u64);
        out.extend(rpc);
        out
    }

    /// The messages as somebody else could publish them; `None` if one has something of an identity.
    pub(crate) fn publications(&self) -> Option<Vec<Publication>> {
        let publication = |message: &Message<'_>| {
            let anonymous = (0..7).all(|field| field == DATA || field == TOPIC || message[field].is_none());
            anonymous.then(|| Publication {
                topic: String::from_utf8_lossy(message[TOPIC].unwrap_or_default()).into_owned(),
                data: message[DATA].unwrap_or_default().to_vec(),
            })
        };
        self.0.iter().map(publication).collect()
    }
}

fn decode_message(mut bytes: &[u8]) -> Option<Message<'_>> {
    let mut message = [None; 7];
    while let Some((field, value, behind)) = next_field(bytes).ok()? {
        let Value::Bytes(value) = value else { return None };
        let place = message.get_mut(usize::try_from(field).ok()?)?;
        if field == 0 || place.replace(value).is_some() {
            return None;
        }
        bytes = behind;
    }
    std::str::from_utf8(message[TOPIC]?).ok()?;
    Some(message)
}

/// The id of an anonymous message: SHA-256 over the length of the topic (8 bytes, big-endian), the topic and the message.
/// Without one made of the content, all anonymous messages would have the same.
#[must_use]
pub fn message_id(topic: &str, data: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update((topic.len() as u64).to_be_bytes())
        .chain_update(topic)
        .chain_update(data)
        .finalize()
        .into()
}

impl Control {
    /// Has a node of the pool publish. Nobody says whether it did.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn publish_by(&self, exit: PeerId, publication: &Publication) -> Result<(), SendError> {
        self.send(&Destination::Mix(exit), &PUBLISH_PROTOCOL, &publication.encode())
            .await
    }

    /// Has whichever exit the packet ends at hand the message to a peer of the topic, which takes it for one from the exit; see
    /// the [module](self) for which exits and peers that works with. Nobody says whether it arrived.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn publish_to(&self, peer: Endpoint, publication: &Publication) -> Result<(), SendError> {
        self.send(&Destination::Peer(peer), &MESHSUB_PROTOCOL, &publication.rpc())
            .await
    }

    /// Takes publications for others; at most `queue` wait. Publish each with gossipsub, in the swarm's loop:
    /// `gossipsub.publish(IdentTopic::new(p.topic), p.data)`. Whom to do that for, and in which topics, is the application's to
    /// decide.
    #[must_use]
    pub fn publications(&self, queue: usize) -> Publications {
        Publications(self.serve(&PUBLISH_PROTOCOL, queue, None))
    }
}

/// What others ask this exit to publish.
#[derive(Debug)]
pub struct Publications(Incoming);

impl Publications {
    /// The next one; `None` once the behaviour is gone. What is no publication is passed over.
    pub async fn next(&mut self) -> Option<Publication> {
        loop {
            let exchange = self.0.next().await?;
            if let Some(publication) = Publication::decode(exchange.body()) {
                return Some(publication);
            }
        }
    }
}

/// Refuses messages of a topic that have anything of an identity left, key and signature included, which gossipsub alone lets through.
/// The data passes as it is.
#[cfg(feature = "gossipsub")]
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIdentity;

#[cfg(feature = "gossipsub")]
impl libp2p::gossipsub::DataTransform for NoIdentity {
    fn inbound_transform(
        &self,
        raw: libp2p::gossipsub::RawMessage,
    ) -> Result<libp2p::gossipsub::Message, std::io::Error> {
        let anonymous = raw.source.is_none()
            && raw.sequence_number.is_none()
            && raw.signature.is_none()
            && raw.key.is_none();
        if !anonymous {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "a message with an identity",
            ));
        }
        Ok(libp2p::gossipsub::Message {
            source: None,
            data: raw.data,
            sequence_number: None,
            topic: raw.topic,
        })
    }

    fn outbound_transform(
        &self,
        _: &libp2p::gossipsub::TopicHash,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, std::io::Error> {
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_come_back_and_are_written_as_gossipsub_does() {
        for topic in [
            String::new(),
            "a".to_owned(),
            "t".repeat(127),
            "t".repeat(128),
            "t".repeat(300),
        ] {
            let publication = Publication {
                topic,
                data: b"data".to_vec(),
            };
            assert_eq!(Publication::decode(&publication.encode()), Some(publication));
        }
        for bad in [&[][..], &[5, b'a'], &[0x80], &[0x80, 0x80, 1], &[1, 0xff]] {
            assert_eq!(Publication::decode(bad), None, "{bad:?}");
        }
        let rpc = Publication {
            topic: "t".to_owned(),
            data: b"hi".to_vec(),
        }
        .rpc();
        assert_eq!(rpc, [9, 0x12, 7, 0x12, 2, b'h', b'i', 0x22, 1, b't']);
    }

    #[test]
    fn only_an_rpc_of_messages_is_handed_over_and_always_written_alike() {
        let one = Publication {
            topic: "t".repeat(200),
            data: vec![7; 1000],
        };
        let rpc = one.rpc();
        let read = Rpc::decode(&rpc).unwrap();
        assert_eq!(read.encode(), rpc);
        assert_eq!(read.publications(), Some(vec![one]));

        let framed = |rpc: &[u8]| [&varint(rpc.len() as u64)[..], rpc].concat();
        // Topic before data, and signed.
        let signed = framed(&[0x12, 9, 0x22, 1, b't', 0x12, 1, b'd', 0x2a, 1, 5]);
        let read = Rpc::decode(&signed).unwrap();
        assert_eq!(
            read.encode(),
            framed(&[0x12, 9, 0x12, 1, b'd', 0x22, 1, b't', 0x2a, 1, 5])
        );
        assert_eq!(read.publications(), None, "nobody else can publish it");
        for bad in [
            &[][..],
            &framed(&[]),
            &[6, 0x12, 3, 0x22, 1, b't'],
            &[0x85, 0, 0x12, 3, 0x22, 1, b't'],
            &[0x80, 0x80, 0x12, 3, 0x22, 1, b't'],
            &[&framed(&[0x12, 3, 0x22, 1, b't'])[..], &[0]].concat(),
            // A subscription, a control message, a message without a topic, a topic that is no text, one named twice, a
            // field that there isn't.
            &framed(&[0x0a, 2, 0x08, 1, 0x12, 3, 0x22, 1, b't']),
            &framed(&[0x1a, 0]),
            &framed(&[0x12, 3, 0x12, 1, b'd']),
            &framed(&[0x12, 3, 0x22, 1, 0xff]),
            &framed(&[0x12, 6, 0x22, 1, b't', 0x22, 1, b'u']),
            &framed(&[0x12, 6, 0x22, 1, b't', 0x3a, 1, b'u']),
            &framed(&[0x12, 3, 0x22, 1, b't'].repeat(MAX_MESSAGES + 1)),
        ] {
            assert_eq!(Rpc::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ids_are_of_topic_and_content() {
        assert_eq!(message_id("a", b"b"), message_id("a", b"b"));
        assert_ne!(message_id("a", b"b"), message_id("ab", b""));
    }
}
