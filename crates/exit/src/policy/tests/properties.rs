//! What holds for every address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::super::ranges::{Net, TABLE};
use super::super::{Allow, Policy, Range};
use super::allowing;

fn embeddings(v4: Ipv4Addr, noise: u128) -> Vec<Ipv6Addr> {
    let v = u128::from(v4.to_bits());
    let cut = |bits: u32| noise & ((1 << bits) - 1);
    let net = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
    // Figure 1 of RFC 6052, read the other way round; the suffix is noise.
    let local = |len: u32| {
        let head = v >> (len - 32);
        let tail = v & ((1 << (len - 32)) - 1);
        let suffix = 56 - (len - 32);
        net("64:ff9b:1::") | (head << 64) | (tail << suffix) | cut(suffix)
    };
    [
        net("::ffff:0:0") | v,
        v,
        net("::ffff:0:0:0") | v,
        net("64:ff9b::") | v,
        net("2002::") | v << 80 | cut(80),
        net("2001::") | v << 64 | cut(64),
        net("2001::") | cut(96) & !0xffff_ffff | (v ^ 0xffff_ffff),
        net("64:ff9b:1::") | cut(80) & !0xffff_ffff | v,
        local(48),
        net("64:ff9b:1::") | (noise & 0xff) << 72 | (local(56) & ((1 << 72) - 1)),
        net("64:ff9b:1::") | (noise & 0xffff) << 64 | (local(64) & ((1 << 64) - 1)),
        net("fd00::") | cut(64) << 64 & !(0xff << 120) | 0x5efe << 32 | v,
        net("2a00::") | cut(40) << 64 | 0x0200_5efe << 32 | v,
    ]
    .map(Ipv6Addr::from_bits)
    .to_vec()
}

fn inside(net: Net, noise: u128) -> IpAddr {
    match net.truncated().ip {
        IpAddr::V4(ip) => {
            let host = (noise as u32).checked_shr(net.len.into()).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() | host).into()
        }
        IpAddr::V6(ip) => {
            let host = noise.checked_shr(net.len.into()).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() | host).into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_inside_a_refused_range_is_accepted(
        entry in 0..TABLE.len(), noise: u128, port: u16,
    ) {
        let ip = inside(TABLE[entry].0, noise);
        prop_assert!(Policy::default().check(SocketAddr::new(ip, port)).is_err());
    }

    /// Also with every IPv6 address listed: what is inside must be acceptable by itself.
    #[test]
    fn no_refused_ipv4_address_is_reached_through_an_embedding(
        entry in 0..TABLE.len(), noise: u128, other: u128, port: u16,
    ) {
        let IpAddr::V4(v4) = inside(TABLE[entry].0, noise) else { return Ok(()) };
        let open = allowing(["[::]/0"]);
        for ip in embeddings(v4, other) {
            for policy in [&Policy::default(), &open] {
                // `::` and `::1` are addresses of their own, not 0.0.0.0 and 0.0.0.1 inside something.
                let own = ip.is_unspecified() || ip.is_loopback();
                let verdict = policy.check(SocketAddr::new(ip.into(), port));
                prop_assert!(own || verdict.is_err(), "{v4} through {ip}: {verdict:?}");
            }
        }
    }

    #[test]
    fn whatever_is_accepted_by_default_is_public(bits: u128, port: u16, v6: bool) {
        let ip = if v6 { IpAddr::V6(Ipv6Addr::from_bits(bits)) } else { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) };
        if let Ok(addr) = Policy::default().check(SocketAddr::new(ip, port)) {
            prop_assert_eq!(Range::of(addr.ip()), None);
            prop_assert_eq!(addr.ip(), ip.to_canonical());
        }
    }

    #[test]
    fn any_text_is_read_or_explained(text in ".*") {
        if let Ok(allow) = Allow::parse(&text) {
            prop_assert_eq!(Allow::parse(&allow.to_string()), Ok(allow));
        }
    }
}
