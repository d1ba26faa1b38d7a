//! Address blocks as people write and read them: hexadecimal, the ids of the `loopix` profile, the multiaddrs of the
//! `libp2p` profile.
//!
//! The libp2p form is that of the Nim implementation: IPv4 (4 bytes), transport (1), port (2), peer id (39), and
//! behind a relay the peer id of the peer itself (39). Peer ids must be those of secp256k1 keys: no others have 39 bytes.

use std::net::Ipv4Addr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use mizzle_base::{MailboxId, NodeId, hex};
use mizzle_sphinx::ADDRESS_LEN;

/// An address block.
pub(super) type Block = [u8; ADDRESS_LEN];

const TCP: u8 = 0;
const QUIC: u8 = 1;

const TRANSPORT_AT: usize = 4;
const PORT_AT: usize = 5;
const PEER_AT: usize = 7;
const PEER_LEN: usize = 39;
const RELAYED_AT: usize = PEER_AT + PEER_LEN;
const REST_AT: usize = RELAYED_AT + PEER_LEN;

/// How the 39 bytes begin: an identity multihash (0, 37 bytes) of a protobuf with key type 2, secp256k1, and a key
/// of 33 bytes.
const SECP256K1: [u8; 6] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];

/// Reads `node:ID`, `mailbox:ID`, a multiaddr, or up to 94 bytes in hexadecimal, filled up with zeros.
///
/// # Errors
/// What is wrong, in words that follow the argument's name.
pub(super) fn parse(text: &str) -> Result<Block, String> {
    if let Some(id) = text.strip_prefix("node:") {
        let id = NodeId::from_hex(id).ok_or("`node:` needs 64 hexadecimal digits, a node id")?;
        return Ok(id.to_address());
    }
    if let Some(id) = text.strip_prefix("mailbox:") {
        let id = MailboxId::from_hex(id).ok_or("`mailbox:` needs 32 hexadecimal digits, a mailbox id")?;
        return Ok(id.to_address());
    }
    if text.starts_with('/') {
        return from_multiaddr(text);
    }
    let bytes = super::bytes::decode(text).map_err(|why| {
        format!("the address is not node:ID, mailbox:ID, a multiaddr or a block in hexadecimal ({why})")
    })?;
    let mut block = [0; ADDRESS_LEN];
    match block.get_mut(..bytes.len()) {
        Some(front) => front.copy_from_slice(&bytes),
        None => {
            return Err(format!(
                "an address block has {ADDRESS_LEN} bytes, not {}",
                bytes.len()
            ));
        }
    }
    Ok(block)
}

/// What a block may mean, in the words that [`parse`] reads. The profiles' forms overlap, so there may be more than
/// one meaning, or none.
pub(super) fn readings(block: &Block) -> Vec<String> {
    let node = NodeId::from_address(block).map(|id| format!("node:{id}"));
    let mailbox = MailboxId::from_address(block).map(|id| format!("mailbox:{id}"));
    let libp2p = to_multiaddr(block).map(|address| address.to_string());
    [node, mailbox, libp2p].into_iter().flatten().collect()
}

/// The block in hexadecimal.
pub(super) fn to_hex(block: &Block) -> String {
    hex::encode(block)
}

fn from_multiaddr(text: &str) -> Result<Block, String> {
    const FORM: &str = "the packet holds only /ip4/A.B.C.D/tcp/PORT/p2p/PEER, the same with udp/PORT/quic-v1, and \
                        either with /p2p/RELAY/p2p-circuit before the peer";
    let address: Multiaddr = text
        .parse()
        .map_err(|why| format!("the address is no multiaddr: {why}"))?;
    let parts: Vec<_> = address.iter().collect();
    let (ip, transport, port, peers) = match parts.as_slice() {
        [Protocol::Ip4(ip), Protocol::Tcp(port), peers @ ..] => (ip, TCP, port, peers),
        [
            Protocol::Ip4(ip),
            Protocol::Udp(port),
            Protocol::QuicV1,
            peers @ ..,
        ] => (ip, QUIC, port, peers),
        _ => return Err(FORM.into()),
    };
    let mut block = [0; ADDRESS_LEN];
    block[..TRANSPORT_AT].copy_from_slice(&ip.octets());
    block[TRANSPORT_AT] = transport;
    block[PORT_AT..PEER_AT].copy_from_slice(&port.to_be_bytes());
    match peers {
        [Protocol::P2p(peer)] => write_peer(peer, &mut block[PEER_AT..RELAYED_AT])?,
        [Protocol::P2p(relay), Protocol::P2pCircuit, Protocol::P2p(peer)] => {
            write_peer(relay, &mut block[PEER_AT..RELAYED_AT])?;
            write_peer(peer, &mut block[RELAYED_AT..REST_AT])?;
        }
        _ => return Err(FORM.into()),
    }
    Ok(block)
}

fn write_peer(peer: &PeerId, out: &mut [u8]) -> Result<(), String> {
    let bytes = peer.to_bytes();
    if bytes.len() != PEER_LEN || !bytes.starts_with(&SECP256K1) {
        return Err(format!(
            "{peer} is not the peer id of a secp256k1 key (16Uiu2...), and no other fits into the packet"
        ));
    }
    out.copy_from_slice(&bytes);
    Ok(())
}

fn to_multiaddr(block: &Block) -> Option<Multiaddr> {
    let (front, rest) = block.split_at(REST_AT);
    if rest.iter().any(|byte| *byte != 0) {
        return None;
    }
    let [a, b, c, d, transport, high, low, ..] = *block;
    let port = u16::from_be_bytes([high, low]);
    let mut address = Multiaddr::from(Ipv4Addr::new(a, b, c, d));
    match transport {
        TCP => address.push(Protocol::Tcp(port)),
        QUIC => {
            address.push(Protocol::Udp(port));
            address.push(Protocol::QuicV1);
        }
        _ => return None,
    }
    address.push(Protocol::P2p(read_peer(&front[PEER_AT..RELAYED_AT])?));
    let relayed = &front[RELAYED_AT..];
    if relayed.iter().any(|byte| *byte != 0) {
        address.push(Protocol::P2pCircuit);
        address.push(Protocol::P2p(read_peer(relayed)?));
    }
    Some(address)
}

fn read_peer(bytes: &[u8]) -> Option<PeerId> {
    // A compressed point begins with 2 or 3.
    let key = bytes.strip_prefix(&SECP256K1)?;
    matches!(key.first(), Some(2 | 3))
        .then(|| PeerId::from_bytes(bytes).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "16Uiu2HAmDwyDGZ9Lo1dx6QefFBQhUS2wwYAEWeGCVLsmmFofXYMP";
    const RELAY: &str = "16Uiu2HAmLhVL5cbaDbHsPTX6mHaRcvZJnmcEAoB87sRkBLWSheM8";

    #[test]
    fn every_form_is_read_back_as_it_was_written() {
        for text in [
            format!("node:{}", "0f".repeat(32)),
            format!("mailbox:{}", "a1".repeat(16)),
            format!("/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"),
            format!("/ip4/10.1.2.3/udp/4002/quic-v1/p2p/{PEER}"),
            format!("/ip4/10.1.2.3/tcp/4002/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"),
            format!("/ip4/10.1.2.3/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"),
        ] {
            let block = parse(&text).unwrap();
            assert!(readings(&block).contains(&text), "{text}");
            assert_eq!(parse(&to_hex(&block)), Ok(block));
        }
        // Half a node id of zeros is a mailbox id too: both are shown.
        let both = parse(&format!("mailbox:{}", "a1".repeat(16))).unwrap();
        assert_eq!(readings(&both).len(), 2);
        assert_eq!(parse("01ff").unwrap()[..3], [1, 0xff, 0]);
        assert_eq!(parse("").unwrap(), [0; ADDRESS_LEN]);
        assert!(readings(&[0; ADDRESS_LEN]).is_empty());
    }

    #[test]
    fn what_the_packet_cannot_hold_is_refused_with_the_reason() {
        let ed25519 = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        for (text, words) in [
            ("node:12", "64 hexadecimal digits"),
            ("mailbox:", "32 hexadecimal digits"),
            ("012", "odd"),
            ("zz", "not a hexadecimal digit"),
            (&"00".repeat(95), "94 bytes, not 95"),
            ("/ip4/1.2.3.4.5/tcp/1", "no multiaddr"),
            (&format!("/ip6/::1/tcp/1/p2p/{PEER}"), "only /ip4/"),
            (&format!("/ip4/1.2.3.4/udp/1/p2p/{PEER}"), "only /ip4/"),
            ("/ip4/1.2.3.4/tcp/1", "only /ip4/"),
            (
                &format!("/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit"),
                "only /ip4/",
            ),
            (&format!("/ip4/1.2.3.4/tcp/1/p2p/{ed25519}"), "secp256k1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn other_bytes_are_no_multiaddr() {
        let block = parse(&format!("/ip4/127.0.0.1/tcp/4001/p2p/{PEER}")).unwrap();
        // Transport, multihash, key, the second peer id, the zeros at the end.
        for at in [TRANSPORT_AT, PEER_AT, PEER_AT + 6, RELAYED_AT, REST_AT] {
            let mut other = block;
            other[at] ^= 0x40;
            assert_eq!(readings(&other), Vec::<String>::new(), "byte {at}");
        }
    }
}
