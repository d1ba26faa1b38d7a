//! What kind of address an address is: a table of the ranges that are not public unicast, after the IANA
//! special-purpose registries (RFC 6890 and its updates), and the IPv6 forms that carry an IPv4 address.
//!
//! The standard library's `is_global` is unstable and counts some carrying forms as global.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses: the first `len` bits of `ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    pub(super) ip: IpAddr,
    pub(super) len: u8,
}

impl Net {
    /// Whether `ip` is in the block. Addresses of the other family never are.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => (net.to_bits() ^ ip.to_bits()) & mask_v4(self.len) == 0,
            (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits() ^ ip.to_bits()) & mask_v6(self.len) == 0,
            _ => false,
        }
    }

    /// The same block with every bit behind the prefix cleared.
    pub(super) fn truncated(&self) -> Self {
        let ip = match self.ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask_v4(self.len))),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask_v6(self.len))),
        };
        Self { ip, len: self.len }
    }
}

fn mask_v4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}

fn mask_v6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

/// Kinds of addresses that are not public unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Range {
    /// `0.0.0.0` and `::`.
    Unspecified,
    /// The rest of `0.0.0.0/8`.
    ThisNetwork,
    /// `127.0.0.0/8` and `::1`.
    Loopback,
    /// RFC 1918.
    Private,
    /// `100.64.0.0/10`, between a provider and its customers.
    SharedNat,
    /// `169.254.0.0/16` and `fe80::/10`.
    LinkLocal,
    /// Where clouds tell a machine its secrets.
    Metadata,
    /// `fc00::/7`.
    UniqueLocal,
    /// `fec0::/10`, deprecated.
    SiteLocal,
    /// `224.0.0.0/4` and `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// Examples in texts.
    Documentation,
    /// `198.18.0.0/15` and `2001:2::/48`.
    Benchmarking,
    /// `192.0.0.0/24`, `192.88.99.0/24`, `2001::/23`: for protocols, not for hosts.
    Protocol,
    /// `100::/64`.
    Discard,
    /// `2001:10::/28` and `2001:20::/28`: hashes in the shape of addresses.
    Orchid,
    /// `5f00::/16`.
    SegmentRouting,
    /// `::/96`, deprecated; carries an IPv4 address.
    Compatible,
    /// `::ffff:0:0:0/96`; carries an IPv4 address.
    Translated,
    /// `2002::/16`; carries an IPv4 address.
    SixToFour,
    /// `64:ff9b::/96`; carries an IPv4 address.
    Nat64,
    /// `64:ff9b:1::/48`; carries an IPv4 address.
    LocalNat64,
    /// `2001::/32`; carries two IPv4 addresses.
    Teredo,
    /// An interface id of `0:5efe` or `200:5efe`; carries an IPv4 address.
    Isatap,
    /// Not assigned to anyone.
    Reserved,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::ThisNetwork => "an address of \"this network\" (0.0.0.0/8)",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::SharedNat => "an address behind a provider's NAT (100.64.0.0/10)",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata service",
            Self::UniqueLocal => "a unique local address (fc00::/7)",
            Self::SiteLocal => "a site-local address (fec0::/10)",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "a documentation address",
            Self::Benchmarking => "a benchmarking address",
            Self::Protocol => "an address set aside for protocols",
            Self::Discard => "an address of the discard prefix (100::/64)",
            Self::Orchid => "an ORCHID identifier",
            Self::SegmentRouting => "a segment routing identifier (5f00::/16)",
            Self::Compatible => "an IPv4-compatible IPv6 address (::/96)",
            Self::Translated => "an IPv4-translated IPv6 address (::ffff:0:0:0/96)",
            Self::SixToFour => "a 6to4 address (2002::/16)",
            Self::Nat64 => "a NAT64 address (64:ff9b::/96)",
            Self::LocalNat64 => "a local NAT64 address (64:ff9b:1::/48)",
            Self::Teredo => "a Teredo address (2001::/32)",
            Self::Isatap => "an ISATAP address",
            Self::Reserved => "a reserved address",
        })
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Net {
    Net {
        ip: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        len,
    }
}

/// The last segment apart, because every block but a few ends in zeros.
const fn v6(head: [u16; 4], tail: [u16; 2], len: u8) -> Net {
    let [a, b, c, d] = head;
    let [e, h] = tail;
    Net {
        ip: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, 0, 0, h)),
        len,
    }
}

/// The first entry that contains an address names it, so the smaller block stands before the larger.
pub(super) const TABLE: &[(Net, Range)] = &[
    (v4(0, 0, 0, 0, 32), Range::Unspecified),
    (v4(0, 0, 0, 0, 8), Range::ThisNetwork),
    (v4(10, 0, 0, 0, 8), Range::Private),
    (v4(100, 64, 0, 0, 10), Range::SharedNat),
    (v4(127, 0, 0, 0, 8), Range::Loopback),
    // The one metadata service at a public address: Azure's.
    (v4(168, 63, 129, 16, 32), Range::Metadata),
    (v4(169, 254, 169, 254, 32), Range::Metadata),
    (v4(169, 254, 0, 0, 16), Range::LinkLocal),
    (v4(172, 16, 0, 0, 12), Range::Private),
    (v4(192, 0, 0, 0, 24), Range::Protocol),
    (v4(192, 0, 2, 0, 24), Range::Documentation),
    (v4(192, 88, 99, 0, 24), Range::Protocol),
    (v4(192, 168, 0, 0, 16), Range::Private),
    (v4(198, 18, 0, 0, 15), Range::Benchmarking),
    (v4(198, 51, 100, 0, 24), Range::Documentation),
    (v4(203, 0, 113, 0, 24), Range::Documentation),
    (v4(224, 0, 0, 0, 4), Range::Multicast),
    (v4(255, 255, 255, 255, 32), Range::Broadcast),
    (v4(240, 0, 0, 0, 4), Range::Reserved),
    (v6([0, 0, 0, 0], [0, 0], 128), Range::Unspecified),
    (v6([0, 0, 0, 0], [0, 1], 128), Range::Loopback),
    (v6([0, 0, 0, 0], [0, 0], 96), Range::Compatible),
    (v6([0, 0, 0, 0], [0xffff, 0], 96), Range::Translated),
    (v6([0x64, 0xff9b, 0, 0], [0, 0], 96), Range::Nat64),
    (v6([0x64, 0xff9b, 1, 0], [0, 0], 48), Range::LocalNat64),
    (v6([0x100, 0, 0, 0], [0, 0], 64), Range::Discard),
    (v6([0x2001, 0, 0, 0], [0, 0], 32), Range::Teredo),
    (v6([0x2001, 2, 0, 0], [0, 0], 48), Range::Benchmarking),
    (v6([0x2001, 0x10, 0, 0], [0, 0], 28), Range::Orchid),
    (v6([0x2001, 0x20, 0, 0], [0, 0], 28), Range::Orchid),
    (v6([0x2001, 0, 0, 0], [0, 0], 23), Range::Protocol),
    (v6([0x2001, 0xdb8, 0, 0], [0, 0], 32), Range::Documentation),
    (v6([0x2002, 0, 0, 0], [0, 0], 16), Range::SixToFour),
    (v6([0x3fff, 0, 0, 0], [0, 0], 20), Range::Documentation),
    (v6([0x5f00, 0, 0, 0], [0, 0], 16), Range::SegmentRouting),
    (v6([0xfd00, 0xec2, 0, 0], [0, 0x254], 128), Range::Metadata),
    (v6([0xfc00, 0, 0, 0], [0, 0], 7), Range::UniqueLocal),
    (v6([0xfe80, 0, 0, 0], [0, 0], 10), Range::LinkLocal),
    (v6([0xfec0, 0, 0, 0], [0, 0], 10), Range::SiteLocal),
    (v6([0xff00, 0, 0, 0], [0, 0], 8), Range::Multicast),
];

/// All that is assigned as global unicast (RFC 4291, section 2.4); what lies outside and is not in the table
/// belongs to nobody.
const GLOBAL_UNICAST_V6: Net = v6([0x2000, 0, 0, 0], [0, 0], 3);

impl Range {
    /// Tells what kind of address this is; `None` for a public unicast address. IPv4-mapped IPv6 counts as
    /// the IPv4 address it stands for.
    #[must_use]
    pub fn of(ip: IpAddr) -> Option<Self> {
        let ip = ip.to_canonical();
        if let Some((_, range)) = TABLE.iter().find(|(net, _)| net.contains(ip)) {
            return Some(*range);
        }
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(_) if !GLOBAL_UNICAST_V6.contains(ip) => Some(Self::Reserved),
            IpAddr::V6(ip) => is_isatap(ip).then_some(Self::Isatap),
        }
    }
}

fn is_isatap(ip: Ipv6Addr) -> bool {
    matches!(ip.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _])
}

/// An IPv6 address that carries IPv4 addresses inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carrier {
    bits: u128,
    range: Range,
}

impl Carrier {
    /// `None` for an address that carries nothing.
    pub(super) fn of(ip: Ipv6Addr) -> Option<Self> {
        let bits = ip.to_bits();
        match Range::of(IpAddr::V6(ip)) {
            Some(
                range @ (Range::Compatible
                | Range::Translated
                | Range::SixToFour
                | Range::Nat64
                | Range::LocalNat64
                | Range::Teredo),
            ) => Some(Self { bits, range }),
            // Its mark is in the interface id, so any prefix may have it, listed private ones included.
            _ if is_isatap(ip) => Some(Self {
                bits,
                range: Range::Isatap,
            }),
            _ => None,
        }
    }

    pub(super) fn range(self) -> Range {
        self.range
    }

    /// The addresses inside. `prefix_len` is that of the translator, which only [`Range::LocalNat64`] needs
    /// (RFC 6052, section 2.2, figure 1): unless it is one of that figure, every place it shows is read.
    pub(super) fn carried(self, prefix_len: u8) -> impl Iterator<Item = Ipv4Addr> {
        let bits = self.bits;
        let at = |behind: u32| (bits >> behind) as u32;
        // Bits 64 to 71 of these forms are unused and split the IPv4 address.
        let split = |prefix_len: u32| {
            let head = ((bits >> 64) as u64).checked_shl(prefix_len).unwrap_or(0);
            let tail = (bits as u64) << 8;
            ((head | tail >> (64 - prefix_len)) >> 32) as u32
        };
        let places = match self.range {
            Range::SixToFour => [Some(at(80)), None, None, None],
            // The server, then the client, whose bits are flipped (RFC 4380, section 4).
            Range::Teredo => [Some(at(64)), Some(!at(0)), None, None],
            Range::LocalNat64 => match prefix_len {
                48 | 56 | 64 => [Some(split(prefix_len.into())), None, None, None],
                96 => [Some(at(0)), None, None, None],
                _ => [Some(split(48)), Some(split(56)), Some(split(64)), Some(at(0))],
            },
            _ => [Some(at(0)), None, None, None],
        };
        // An address of another form may have such an interface id as well.
        let isatap = is_isatap(Ipv6Addr::from_bits(bits)).then(|| at(0));
        places
            .into_iter()
            .chain([isatap])
            .flatten()
            .map(Ipv4Addr::from_bits)
    }
}
