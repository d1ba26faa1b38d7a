//! Where each range begins and ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::{Policy, Range, Refusal};
use super::ip;

/// First, last, what one before is, one after, what that is, and what all of the range is.
type Row = (
    &'static str,
    &'static str,
    Option<Range>,
    &'static str,
    Option<Range>,
    Range,
);

/// First, last, one before, one after: what stands around each range, written out by hand rather than
/// taken from the table under test.
#[test]
#[rustfmt::skip]
fn each_range_ends_where_it_should() {
    use Range::*;
    let cases: &[Row] = &[
        ("0.0.0.1", "0.255.255.255", Some(Unspecified), "1.0.0.0", None, ThisNetwork),
        ("10.0.0.0", "10.255.255.255", None, "11.0.0.0", None, Private),
        ("100.64.0.0", "100.127.255.255", None, "100.128.0.0", None, SharedNat),
        ("127.0.0.0", "127.255.255.255", None, "128.0.0.0", None, Loopback),
        ("168.63.129.16", "168.63.129.16", None, "168.63.129.17", None, Metadata),
        ("169.254.0.0", "169.254.169.253", None, "169.254.169.254", Some(Metadata), LinkLocal),
        ("169.254.169.254", "169.254.169.254", Some(LinkLocal), "169.254.169.255", Some(LinkLocal), Metadata),
        ("169.254.169.255", "169.254.255.255", Some(Metadata), "169.255.0.0", None, LinkLocal),
        ("172.16.0.0", "172.31.255.255", None, "172.32.0.0", None, Private),
        ("192.0.0.0", "192.0.0.255", None, "192.0.1.0", None, Protocol),
        ("192.0.2.0", "192.0.2.255", None, "192.0.3.0", None, Documentation),
        ("192.88.99.0", "192.88.99.255", None, "192.88.100.0", None, Protocol),
        ("192.168.0.0", "192.168.255.255", None, "192.169.0.0", None, Private),
        ("198.18.0.0", "198.19.255.255", None, "198.20.0.0", None, Benchmarking),
        ("198.51.100.0", "198.51.100.255", None, "198.51.101.0", None, Documentation),
        ("203.0.113.0", "203.0.113.255", None, "203.0.114.0", None, Documentation),
        ("224.0.0.0", "239.255.255.255", None, "240.0.0.0", Some(Reserved), Multicast),
        ("240.0.0.0", "255.255.255.254", Some(Multicast), "255.255.255.255", Some(Broadcast), Reserved),
        ("::1", "::1", Some(Unspecified), "::2", Some(Compatible), Loopback),
        ("::2", "::ffff:ffff", Some(Loopback), "::1:0:0", Some(Reserved), Compatible),
        ("::ffff:0:0:0", "::ffff:0:ffff:ffff", Some(Reserved), "::ffff:1:0:0", Some(Reserved), Translated),
        ("64:ff9b::", "64:ff9b::ffff:ffff", Some(Reserved), "64:ff9b::1:0:0", Some(Reserved), Nat64),
        ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Some(Reserved), "64:ff9b:2::", Some(Reserved), LocalNat64),
        ("100::", "100::ffff:ffff:ffff:ffff", Some(Reserved), "100:0:0:1::", Some(Reserved), Discard),
        ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", None, "2001:1::", Some(Protocol), Teredo),
        ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", Some(Protocol), "2001:2:1::", Some(Protocol), Benchmarking),
        ("2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", Some(Protocol), "2001:20::", Some(Orchid), Orchid),
        ("2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", Some(Orchid), "2001:30::", Some(Protocol), Orchid),
        ("2001:30::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Orchid), "2001:200::", None, Protocol),
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", None, "2001:db9::", None, Documentation),
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, "2003::", None, SixToFour),
        ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", None, "3fff:1000::", None, Documentation),
        ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Reserved), "5f01::", Some(Reserved), SegmentRouting),
        ("fc00::", "fd00:ec2::253", Some(Reserved), "fd00:ec2::254", Some(Metadata), UniqueLocal),
        ("fd00:ec2::255", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Metadata), "fe00::", Some(Reserved), UniqueLocal),
        ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Reserved), "fec0::", Some(SiteLocal), LinkLocal),
        ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(LinkLocal), "ff00::", Some(Multicast), SiteLocal),
        ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(SiteLocal), "::", Some(Unspecified), Multicast),
        // Where global unicast begins and ends.
        ("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Reserved), "2000::", None, Reserved),
        ("4000::", "4000::", None, "4000::1", Some(Reserved), Reserved),
    ];
    for &(first, last, before_is, after, after_is, range) in cases {
        let (first, last, after) = (ip(first), ip(last), ip(after));
        assert_eq!(neighbour(last, 1), after, "the test's own table, at {last}");
        for (ip, expected) in [
            (neighbour(first, -1), before_is),
            (first, Some(range)),
            (last, Some(range)),
            (after, after_is),
        ] {
            assert_eq!(Range::of(ip), expected, "{ip}");
            let verdict = Policy::default().check(SocketAddr::new(ip, 443));
            assert_eq!(verdict.err(), expected.map(Refusal::NotPublic), "{ip}");
        }
    }
    assert_eq!(Range::of(ip("0.0.0.0")), Some(Unspecified));
    assert_eq!(Range::of(ip("255.255.255.255")), Some(Broadcast));
    assert_eq!(Range::of(ip("::")), Some(Unspecified));
    assert_eq!(Range::of(ip("::ffff:127.0.0.1")), Some(Loopback));
    assert_eq!(Range::of(ip("2a00:1450::5efe:8.8.8.8")), Some(Isatap));
    assert_eq!(Range::of(ip("2a00:1450::200:5efe:8.8.8.8")), Some(Isatap));
}

fn neighbour(ip: IpAddr, step: i8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add_signed(step.into())).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add_signed(step.into())).into(),
    }
}
