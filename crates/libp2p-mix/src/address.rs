//! Address blocks: the 94 bytes by which a packet names a hop or a destination, as multiaddrs both ways.
//!
//! ```text
//! 0  IPv4 (4)   4  transport: 0 tcp, 1 udp/quic-v1   5  port, big-endian (2)   7  peer id (39), or the relay's
//! 46 the relayed peer id (39), or zeros               85 zeros (9)
//! ```
//!
//! Only 39-byte peer ids fit: those of secp256k1 keys, written out in the id. IPv6, names, WebSocket and WebTransport have
//! no form. The rest of the block behind what is named must be zero here, so that no block has two spellings.

use std::{fmt, net::Ipv4Addr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
pub use mizzle_sphinx::ADDRESS_LEN;

/// An address block as it stands in a packet.
pub type Block = [u8; ADDRESS_LEN];

/// The block of a packet whose destination is its last hop itself.
pub const NOWHERE: Block = [0; ADDRESS_LEN];

const PORT_AT: usize = 5;
const PEER_AT: usize = 7;
const PEER_LEN: usize = 39;
const RELAYED_AT: usize = PEER_AT + PEER_LEN;
const END: usize = RELAYED_AT + PEER_LEN;
/// Identity multihash, 37 bytes, of a protobuf: key type 2 (secp256k1), 33 bytes of key.
const SECP256K1: [u8; 6] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];

/// Who and where: a peer and the address under which it is dialled, without a `/p2p/` of its own at the end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer.
    pub peer: PeerId,
    /// Where it listens; ends in `/p2p/<relay>/p2p-circuit` where a relay carries the connection.
    pub address: Multiaddr,
}

impl fmt::Debug for Endpoint {
    /// Says nothing: an endpoint is where somebody's packet goes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoint(..)")
    }
}

/// Why an address has no block, or a block is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The peer id is not that of a secp256k1 key.
    #[error("only peer ids of secp256k1 keys fit into a packet")]
    PeerId,
    /// The multiaddr isn't `/ip4/../tcp/..` or `/ip4/../udp/../quic-v1`, direct or by a relay.
    #[error(
        "only /ip4/../tcp/.. and /ip4/../udp/../quic-v1 fit into a packet, each with /p2p/<relay>/p2p-circuit or without"
    )]
    Form,
    /// The multiaddr ends in the id of somebody else.
    #[error("the address ends in another peer id than that of the peer")]
    OtherPeer,
    /// A block with a transport that has no meaning.
    #[error("the address block names an unknown transport")]
    Transport,
    /// A block with bytes behind its end.
    #[error("the address block has bytes behind its end")]
    Trailing,
}

impl AddressError {
    /// One word for a counter's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerId => "peer_id",
            Self::Form => "form",
            Self::OtherPeer => "other_peer",
            Self::Transport => "transport",
            Self::Trailing => "trailing",
        }
    }
}

impl Endpoint {
    /// A peer at an address, which may end in the peer's own `/p2p/`.
    ///
    /// # Errors
    /// [`AddressError`] if it has no block.
    pub fn new(peer: PeerId, address: &Multiaddr) -> Result<Self, AddressError> {
        let mut address = address.clone();
        let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
        if let Some(Protocol::P2p(last)) = address.iter().last()
            && (!relayed || !ends_in_circuit(&address))
        {
            if last != peer {
                return Err(AddressError::OtherPeer);
            }
            address.pop();
        }
        let endpoint = Self { peer, address };
        endpoint.block()?;
        Ok(endpoint)
    }

    /// An address that ends in `/p2p/PEERID`. Twice the same id at the end is taken for once: who joins an address and an
    /// id does not always know that the one has the other already.
    ///
    /// # Errors
    /// [`AddressError`] if it doesn't, or has no block.
    pub fn from_multiaddr(address: &Multiaddr) -> Result<Self, AddressError> {
        let mut rest = address.clone();
        match rest.pop() {
            Some(Protocol::P2p(peer)) if rest.iter().last() == Some(Protocol::P2p(peer)) => {
                Self::new(peer, &rest)
            }
            Some(Protocol::P2p(peer)) => Self::new(peer, address),
            _ => Err(AddressError::Form),
        }
    }

    /// The address with the peer's id at its end.
    #[must_use]
    pub fn to_multiaddr(&self) -> Multiaddr {
        self.address.clone().with(Protocol::P2p(self.peer))
    }

    /// The block.
    ///
    /// # Errors
    /// [`AddressError`] if the address has none.
    pub fn block(&self) -> Result<Block, AddressError> {
        encode(&self.peer, &self.address)
    }

    /// What a block says.
    ///
    /// # Errors
    /// [`AddressError`] for a block that names nobody who can be dialled.
    pub fn from_block(block: &Block) -> Result<Self, AddressError> {
        decode(block)
    }

    /// The IPv4 address that a dial goes to: the peer's, or its relay's.
    #[must_use]
    pub fn ip(&self) -> Option<Ipv4Addr> {
        match self.address.iter().next() {
            Some(Protocol::Ip4(ip)) => Some(ip),
            _ => None,
        }
    }
}

fn ends_in_circuit(address: &Multiaddr) -> bool {
    address.iter().last() == Some(Protocol::P2pCircuit)
}

fn encode(peer: &PeerId, address: &Multiaddr) -> Result<Block, AddressError> {
    let mut block = NOWHERE;
    let mut parts = address.iter();
    let Some(Protocol::Ip4(ip)) = parts.next() else {
        return Err(AddressError::Form);
    };
    block[..4].copy_from_slice(&ip.octets());
    let port = match parts.next() {
        Some(Protocol::Tcp(port)) => port,
        Some(Protocol::Udp(port)) if parts.next() == Some(Protocol::QuicV1) => {
            block[4] = 1;
            port
        }
        _ => return Err(AddressError::Form),
    };
    block[PORT_AT..PEER_AT].copy_from_slice(&port.to_be_bytes());
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => put_peer(&mut block[PEER_AT..RELAYED_AT], peer)?,
        (Some(Protocol::P2p(relay)), Some(Protocol::P2pCircuit), None) => {
            put_peer(&mut block[PEER_AT..RELAYED_AT], &relay)?;
            put_peer(&mut block[RELAYED_AT..END], peer)?;
        }
        _ => return Err(AddressError::Form),
    }
    Ok(block)
}

fn put_peer(out: &mut [u8], peer: &PeerId) -> Result<(), AddressError> {
    let bytes = peer.to_bytes();
    if bytes.len() != PEER_LEN || !bytes.starts_with(&SECP256K1) {
        return Err(AddressError::PeerId);
    }
    out.copy_from_slice(&bytes);
    Ok(())
}

fn decode(block: &Block) -> Result<Endpoint, AddressError> {
    if block[END..] != [0; ADDRESS_LEN - END] {
        return Err(AddressError::Trailing);
    }
    let ip = Ipv4Addr::new(block[0], block[1], block[2], block[3]);
    let port = u16::from_be_bytes([block[PORT_AT], block[PORT_AT + 1]]);
    let mut address = Multiaddr::from(ip);
    match block[4] {
        0 => address.push(Protocol::Tcp(port)),
        1 => {
            address.push(Protocol::Udp(port));
            address.push(Protocol::QuicV1);
        }
        _ => return Err(AddressError::Transport),
    }
    let first = take_peer(&block[PEER_AT..RELAYED_AT])?;
    let second = &block[RELAYED_AT..END];
    if second.iter().all(|byte| *byte == 0) {
        return Ok(Endpoint { peer: first, address });
    }
    address.push(Protocol::P2p(first));
    address.push(Protocol::P2pCircuit);
    Ok(Endpoint {
        peer: take_peer(second)?,
        address,
    })
}

fn take_peer(bytes: &[u8]) -> Result<PeerId, AddressError> {
    // Without this, a shorter id and its padding would be taken for another id.
    if !bytes.starts_with(&SECP256K1) {
        return Err(AddressError::PeerId);
    }
    PeerId::from_bytes(bytes).map_err(|_| AddressError::PeerId)
}

/// Whether an IPv4 address is one of the open internet: everything but the ranges that the IANA registry of
/// special-purpose addresses keeps for other uses, multicast, and what is reserved.
#[must_use]
pub fn is_public(ip: Ipv4Addr) -> bool {
    let [a, b, c, d] = ip.octets();
    let special = match a {
        0 | 10 | 127 => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        // Of the protocol assignments only the two anycast addresses of PCP and TURN are global.
        192 => {
            (b == 0 && c == 0 && !matches!(d, 9 | 10))
                || (b == 0 && c == 2)
                || (b == 88 && c == 99)
                || b == 168
        }
        198 => matches!(b, 18 | 19) || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        224.. => true,
        _ => false,
    };
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secp() -> PeerId {
        libp2p::identity::Keypair::generate_secp256k1()
            .public()
            .to_peer_id()
    }

    #[test]
    fn addresses_of_every_form_come_back() {
        let (peer, relay) = (secp(), secp());
        for form in [
            "/ip4/127.0.0.1/tcp/4001".to_owned(),
            "/ip4/0.0.0.0/tcp/0".to_owned(),
            "/ip4/203.0.113.9/udp/65535/quic-v1".to_owned(),
            format!("/ip4/203.0.113.9/tcp/9/p2p/{relay}/p2p-circuit"),
            format!("/ip4/203.0.113.9/udp/9/quic-v1/p2p/{relay}/p2p-circuit"),
        ] {
            let address: Multiaddr = form.parse().unwrap();
            let endpoint = Endpoint::new(peer, &address).unwrap();
            assert_eq!(endpoint.address, address);
            assert_eq!(
                Endpoint::from_block(&endpoint.block().unwrap()).unwrap(),
                endpoint,
                "{form}"
            );
            assert_eq!(
                Endpoint::new(peer, &endpoint.to_multiaddr()).unwrap(),
                endpoint,
                "{form}"
            );
            assert_eq!(
                Endpoint::from_multiaddr(&endpoint.to_multiaddr()).unwrap(),
                endpoint
            );
        }
    }

    #[test]
    fn what_has_no_block_is_refused_with_its_reason() {
        let peer = secp();
        for form in [
            "/ip6/::1/tcp/4001",
            "/dns4/example.org/tcp/443",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/9",
            "/ip4/1.2.3.4/udp/9/quic",
            "/ip4/1.2.3.4/tcp/9/ws",
            "/ip4/1.2.3.4/udp/9/quic-v1/webtransport",
            "/ip4/1.2.3.4/tcp/9/p2p-circuit",
        ] {
            assert_eq!(
                Endpoint::new(peer, &form.parse().unwrap()),
                Err(AddressError::Form),
                "{form}"
            );
        }
        let tcp: Multiaddr = "/ip4/1.2.3.4/tcp/9".parse().unwrap();
        let ed25519 = libp2p::identity::Keypair::generate_ed25519()
            .public()
            .to_peer_id();
        assert_eq!(Endpoint::new(ed25519, &tcp), Err(AddressError::PeerId));
        assert_eq!(Endpoint::new(PeerId::random(), &tcp), Err(AddressError::PeerId));
        let other = tcp.clone().with(Protocol::P2p(secp()));
        assert_eq!(Endpoint::new(peer, &other), Err(AddressError::OtherPeer));
        assert_eq!(Endpoint::from_multiaddr(&tcp), Err(AddressError::Form));
    }

    #[test]
    fn blocks_that_name_nobody_are_refused() {
        let good = Endpoint::new(secp(), &"/ip4/1.2.3.4/tcp/9".parse().unwrap())
            .unwrap()
            .block()
            .unwrap();
        let with = |at: usize, byte: u8| {
            let mut block = good;
            block[at] = byte;
            Endpoint::from_block(&block)
        };
        assert_eq!(with(4, 2), Err(AddressError::Transport));
        assert_eq!(with(93, 1), Err(AddressError::Trailing));
        assert_eq!(with(46, 1), Err(AddressError::PeerId), "half a relayed id");
        // An Ed25519 id (38 bytes) and a zero.
        assert_eq!(with(8, 0x24), Err(AddressError::PeerId));
        assert_eq!(Endpoint::from_block(&NOWHERE), Err(AddressError::PeerId));
    }

    #[test]
    fn public_addresses_are_told_from_special_ones() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.0.9",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.112.1",
            "223.255.255.255",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }
}
