//! [`NodeRecord`]: an extensible peer record with the service `/mix/1.0.0`, in a signed envelope.
//!
//! ```text
//! record  = 1: peer id   2: sequence number   3: { 1: multiaddr } *   4: { 1: service id   2: data } *
//! ```
//!
//! The data of the service is the 32-byte mix key. The specification (`EXTENSIBLE-PEER-RECORDS`) and the running code
//! sign under different names; ours are signed as the code does, and both are read.

use libp2p::{
    Multiaddr, PeerId,
    core::SignedEnvelope,
    identity::{Keypair, SigningError},
};

use super::proto::{Value, next_field, put_bytes, put_number};
use crate::{MixNode, pool::BadNode};

/// The longest record that is looked at, in bytes, envelope included.
pub const MAX_RECORD_LEN: usize = 1024;

const SERVICE: &str = "/mix/1.0.0";
/// Domain and payload type: those of the code, then those of the specification.
const SIGNED_AS: [(&str, &[u8]); 2] = [
    ("libp2p-peer-record", &[0x03, 0x01]),
    ("libp2p-routing-state", b"/libp2p/extensible-peer-record/"),
];

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The later of two records of a node has the larger one: Unix seconds when it was signed.
    pub seq: u64,
    /// The node. Of several addresses the first that fits into a packet.
    pub node: MixNode,
}

/// Why a record is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// More than 1024 bytes.
    #[error("the record is longer than {MAX_RECORD_LEN} bytes")]
    TooLong,
    /// The envelope or the record in it can't be read.
    #[error("the record cannot be read")]
    Malformed,
    /// It isn't signed by whom it is about.
    #[error("the record is not signed by the peer that it is about")]
    Signature,
    /// The peer isn't a mix node.
    #[error("the record names no mix service")]
    NoService,
    /// The node can't take part.
    #[error(transparent)]
    Node(BadNode),
}

impl NodeRecord {
    /// The signed envelope.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn sign(&self, keypair: &Keypair) -> Result<Vec<u8>, SigningError> {
        let mut record = Vec::new();
        put_bytes(&mut record, 1, &self.node.endpoint.peer.to_bytes());
        put_number(&mut record, 2, self.seq);
        let mut address = Vec::new();
        put_bytes(&mut address, 1, &self.node.endpoint.address.to_vec());
        put_bytes(&mut record, 3, &address);
        let mut service = Vec::new();
        put_bytes(&mut service, 1, SERVICE.as_bytes());
        put_bytes(&mut service, 2, self.node.key.as_bytes());
        put_bytes(&mut record, 4, &service);
        let (domain, payload_type) = SIGNED_AS[0];
        let envelope = SignedEnvelope::new(keypair, domain.to_owned(), payload_type.to_vec(), record)?;
        Ok(envelope.into_protobuf_encoding())
    }

    /// Reads a signed envelope and verifies all of it.
    ///
    /// # Errors
    /// [`BadRecord`].
    pub fn read(bytes: &[u8]) -> Result<Self, BadRecord> {
        if bytes.len() > MAX_RECORD_LEN {
            return Err(BadRecord::TooLong);
        }
        let envelope = SignedEnvelope::from_protobuf_encoding(bytes).map_err(|_| BadRecord::Malformed)?;
        let (payload, key) = SIGNED_AS
            .iter()
            .find_map(|(domain, kind)| envelope.payload_and_signing_key((*domain).to_owned(), kind).ok())
            .ok_or(BadRecord::Signature)?;
        let fields = Fields::read(payload).map_err(|()| BadRecord::Malformed)?;
        let peer = fields.peer.ok_or(BadRecord::Malformed)?;
        if key.to_peer_id() != peer {
            return Err(BadRecord::Signature);
        }
        let mix_key = fields.mix_key.ok_or(BadRecord::NoService)?;
        let mut node = Err(BadNode::Address);
        for address in &fields.addresses {
            node = MixNode::new(peer, address, &mix_key);
            if node != Err(BadNode::Address) {
                break;
            }
        }
        Ok(Self {
            seq: fields.seq,
            node: node.map_err(BadRecord::Node)?,
        })
    }
}

#[derive(Default)]
struct Fields {
    peer: Option<PeerId>,
    seq: u64,
    addresses: Vec<Multiaddr>,
    mix_key: Option<[u8; 32]>,
}

impl Fields {
    fn read(mut bytes: &[u8]) -> Result<Self, ()> {
        let mut fields = Self::default();
        while let Some((field, value, rest)) = next_field(bytes)? {
            match (field, value) {
                (1, Value::Bytes(peer)) => fields.peer = Some(PeerId::from_bytes(peer).map_err(|_| ())?),
                (2, Value::Number(seq)) => fields.seq = seq,
                (3, Value::Bytes(info)) => {
                    // An address of a form that we don't know is another's.
                    if let Some(address) = bytes_field(info, 1)? {
                        fields.addresses.extend(Multiaddr::try_from(address.to_vec()));
                    }
                }
                (4, Value::Bytes(service)) if bytes_field(service, 1)? == Some(SERVICE.as_bytes()) => {
                    let data = bytes_field(service, 2)?;
                    fields.mix_key = data.and_then(|data| data.try_into().ok());
                }
                _ => {}
            }
            bytes = rest;
        }
        Ok(fields)
    }
}

/// The last field of that number.
fn bytes_field(mut bytes: &[u8], wanted: u64) -> Result<Option<&[u8]>, ()> {
    let mut found = None;
    while let Some((field, value, rest)) = next_field(bytes)? {
        if let (true, Value::Bytes(value)) = (field == wanted, value) {
            found = Some(value);
        }
        bytes = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::PeerRecord;
    use mizzle_sphinx::SecretKey;

    fn record(keypair: &Keypair) -> NodeRecord {
        let address = "/ip4/1.2.3.4/udp/9/quic-v1".parse().unwrap();
        let key = SecretKey::from_bytes([7; 32]).public();
        let node = MixNode::new(keypair.public().to_peer_id(), &address, key.as_bytes()).unwrap();
        NodeRecord {
            seq: 1_800_000_000,
            node,
        }
    }

    #[test]
    fn a_signed_record_comes_back_under_both_names_and_is_a_peer_record_too() {
        let keypair = Keypair::generate_secp256k1();
        let record = record(&keypair);
        let bytes = record.sign(&keypair).unwrap();
        assert_eq!(NodeRecord::read(&bytes), Ok(record.clone()));
        let envelope = SignedEnvelope::from_protobuf_encoding(&bytes).unwrap();
        let plain = PeerRecord::from_signed_envelope_interop(envelope.clone()).unwrap();
        assert_eq!(
            (plain.peer_id(), plain.seq()),
            (record.node.endpoint.peer, record.seq)
        );
        let (payload, _) = envelope
            .payload_and_signing_key(SIGNED_AS[0].0.to_owned(), SIGNED_AS[0].1)
            .unwrap();
        let (domain, kind) = SIGNED_AS[1];
        let other =
            SignedEnvelope::new(&keypair, domain.to_owned(), kind.to_vec(), payload.to_vec()).unwrap();
        assert_eq!(NodeRecord::read(&other.into_protobuf_encoding()), Ok(record));
    }

    #[test]
    fn records_that_lie_or_are_cut_are_refused() {
        let (keypair, other) = (Keypair::generate_secp256k1(), Keypair::generate_secp256k1());
        let good = record(&keypair).sign(&keypair).unwrap();
        assert_eq!(
            NodeRecord::read(&record(&keypair).sign(&other).unwrap()),
            Err(BadRecord::Signature)
        );
        for cut in 0..good.len() {
            assert!(NodeRecord::read(&good[..cut]).is_err(), "{cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(NodeRecord::read(&bad).is_err(), "{at}");
        }
        assert_eq!(
            NodeRecord::read(&[0; MAX_RECORD_LEN + 1]),
            Err(BadRecord::TooLong)
        );
        let sign = |fields: &[u8]| {
            let (domain, kind) = SIGNED_AS[0];
            let signed = SignedEnvelope::new(&keypair, domain.to_owned(), kind.to_vec(), fields.to_vec());
            NodeRecord::read(&signed.unwrap().into_protobuf_encoding())
        };
        let mut fields = Vec::new();
        put_bytes(&mut fields, 1, &keypair.public().to_peer_id().to_bytes());
        assert_eq!(sign(&fields), Err(BadRecord::NoService));
        let mut service = Vec::new();
        put_bytes(&mut service, 1, SERVICE.as_bytes());
        put_bytes(
            &mut service,
            2,
            SecretKey::from_bytes([7; 32]).public().as_bytes(),
        );
        put_bytes(&mut fields, 4, &service);
        assert_eq!(
            sign(&fields),
            Err(BadRecord::Node(BadNode::Address)),
            "no address"
        );
        assert_eq!(sign(&[0xff; 11]), Err(BadRecord::Malformed));
    }
}
