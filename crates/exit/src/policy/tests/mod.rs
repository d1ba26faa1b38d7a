//! What is refused and what an operator's list changes; ranges, texts and properties have files of their own.

mod properties;
mod ranges;
mod text;

use std::net::{IpAddr, SocketAddr};

use super::{Allow, Policy, Range, Refusal};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn allowing<const N: usize>(entries: [&str; N]) -> Policy {
    Policy::default().with_allowed(entries.map(|entry| Allow::parse(entry).unwrap()))
}

fn verdict(policy: &Policy, text: &str) -> Result<String, Refusal> {
    policy.check(at(text)).map(|addr| addr.to_string())
}

#[test]
fn public_addresses_are_accepted_on_every_port_but_zero() {
    let policy = Policy::default();
    for text in [
        "1.1.1.1:443",
        "8.8.8.8:53",
        "192.31.196.1:25",
        "[2606:4700::1111]:443",
        "[2a00:1450::1]:1",
    ] {
        assert_eq!(verdict(&policy, text).as_deref(), Ok(text));
    }
    assert_eq!(verdict(&policy, "1.1.1.1:0"), Err(Refusal::PortZero));
}

#[test]
fn a_mapped_address_is_judged_and_connected_as_ipv4() {
    let policy = allowing(["10.0.0.0/8:80"]);
    assert_eq!(
        verdict(&policy, "[::ffff:1.1.1.1]:443").as_deref(),
        Ok("1.1.1.1:443")
    );
    assert_eq!(
        verdict(&policy, "[::ffff:10.1.2.3]:80").as_deref(),
        Ok("10.1.2.3:80")
    );
    assert_eq!(
        verdict(&policy, "[::ffff:10.1.2.3]:81"),
        Err(Refusal::NotPublic(Range::Private))
    );
    assert_eq!(
        verdict(&policy, "[::ffff:127.0.0.1]:80"),
        Err(Refusal::NotPublic(Range::Loopback))
    );
    // A wide IPv6 listing says nothing about IPv4.
    let policy = allowing(["[::]/0"]);
    assert_eq!(
        verdict(&policy, "[::ffff:127.0.0.1]:80"),
        Err(Refusal::NotPublic(Range::Loopback))
    );
}

#[test]
fn listed_addresses_are_accepted_on_listed_ports_only() {
    let policy = allowing(["127.0.0.0/8", "10.0.0.0/8:80-443", "[fd00::]/8:80", "192.168.1.7"]);
    for text in [
        "127.0.0.1:22",
        "10.255.0.1:80",
        "10.0.0.0:443",
        "[fd12::1]:80",
        "192.168.1.7:1",
    ] {
        assert_eq!(verdict(&policy, text).as_deref(), Ok(text));
    }
    for text in ["10.0.0.1:79", "10.0.0.1:444", "192.168.1.8:1"] {
        assert_eq!(
            verdict(&policy, text),
            Err(Refusal::NotPublic(Range::Private)),
            "{text}"
        );
    }
    assert_eq!(
        verdict(&policy, "[fd12::1]:81"),
        Err(Refusal::NotPublic(Range::UniqueLocal))
    );
}

#[test]
fn listing_a_carrying_form_does_not_list_what_is_inside() {
    let policy = allowing([
        "[64:ff9b::]/96",
        "[64:ff9b:1::]/48",
        "[64:ff9b:1:aa::]/64",
        "[2002::]/16",
        "[2001::]/32",
        "[::]/96",
        "[::ffff:0:0:0]/96",
        "[fd00::]/8",
    ]);
    let accepted = [
        "[64:ff9b::808:808]:80",
        "[64:ff9b:1:808:8:800::]:80",
        "[64:ff9b:1:aa:8:808:800:0]:80",
        "[2002:808:808::1]:80",
        "[2001:0:808:808::f7f7:f7f7]:80",
        "[::808:808]:80",
        "[::ffff:0:808:808]:80",
        "[fd00::5efe:808:808]:80",
    ];
    for text in accepted {
        assert_eq!(verdict(&policy, text).as_deref(), Ok(text));
    }
    let refused = [
        ("[64:ff9b::7f00:1]:80", Range::Loopback),
        ("[64:ff9b::a9fe:a9fe]:80", Range::Metadata),
        ("[64:ff9b:1:7f00:0:100::]:80", Range::Loopback),
        // The suffix holds a public address, which a translator of this length never reads.
        ("[64:ff9b:1:7f00:0:100:808:808]:80", Range::Loopback),
        // 10.0.0.1 behind a translator of length 64; behind one of length 48 it would be 0.170.0.10.
        ("[64:ff9b:1:aa:a:0:100:0]:80", Range::Private),
        ("[2002:7f00:1::1]:80", Range::Loopback),
        ("[2002:808:808::5efe:7f00:1]:80", Range::Loopback),
        ("[2001:0:808:808:0:0:80ff:fffe]:80", Range::Loopback),
        ("[2001:0:a00:1:0:0:f7f7:f7f7]:80", Range::Private),
        ("[::a00:1]:80", Range::Private),
        ("[::ffff:0:a00:1]:80", Range::Private),
        ("[fd00::5efe:a00:1]:80", Range::Private),
    ];
    for (text, range) in refused {
        assert_eq!(
            verdict(&policy, text),
            Err(Refusal::CarriesNotPublic(range)),
            "{text}"
        );
    }
}

#[test]
fn endpoints_of_nodes_are_refused_even_if_listed() {
    let policy = allowing(["0.0.0.0/0", "[::]/0"]).with_refused_endpoints(
        [
            "5.6.7.8:4001",
            "[2a00::9]:4001",
            "[::ffff:9.9.9.9]:1",
            "127.0.0.1:70",
        ]
        .map(at),
    );
    for text in [
        "5.6.7.8:4001",
        "[2a00::9]:4001",
        "9.9.9.9:1",
        "[::ffff:5.6.7.8]:4001",
        "[64:ff9b::506:708]:4001",
        "0.0.0.0:70",
    ] {
        assert_eq!(verdict(&policy, text), Err(Refusal::NodeEndpoint), "{text}");
    }
    for text in [
        "5.6.7.8:4002",
        "5.6.7.9:4001",
        "[64:ff9b::506:708]:4002",
        "127.0.0.1:71",
    ] {
        assert_eq!(verdict(&policy, text).as_deref(), Ok(text));
    }
    let scoped = SocketAddr::V6(std::net::SocketAddrV6::new(
        "2a00::9".parse().unwrap(),
        4001,
        7,
        3,
    ));
    assert_eq!(policy.check(scoped), Err(Refusal::NodeEndpoint));
}

#[test]
fn an_unspecified_endpoint_stands_for_every_local_address() {
    let policy = allowing(["0.0.0.0/0", "[::]/0"])
        .with_refused_endpoints([at("0.0.0.0:9000")])
        .with_own_addresses(["5.6.7.8", "2a00::9"].map(ip));
    for text in [
        "127.0.0.1:9000",
        "127.9.9.9:9000",
        "[::1]:9000",
        "5.6.7.8:9000",
        "[2a00::9]:9000",
        "0.0.0.0:9000",
        "[::]:9000",
    ] {
        assert_eq!(verdict(&policy, text), Err(Refusal::NodeEndpoint), "{text}");
    }
    for text in ["127.0.0.1:9001", "5.6.7.8:9001", "5.6.7.9:9000"] {
        assert_eq!(verdict(&policy, text).as_deref(), Ok(text));
    }
}

#[test]
fn own_public_addresses_are_refused_unless_listed() {
    let own = || ["5.6.7.8", "2a00::9"].map(ip);
    let policy = Policy::default().with_own_addresses(own());
    for text in ["5.6.7.8:80", "[::ffff:5.6.7.8]:80", "[2a00::9]:80"] {
        assert_eq!(verdict(&policy, text), Err(Refusal::OwnAddress), "{text}");
    }
    let policy = allowing(["5.6.7.8:80"]).with_own_addresses(own());
    assert_eq!(verdict(&policy, "5.6.7.8:80").as_deref(), Ok("5.6.7.8:80"));
    assert_eq!(verdict(&policy, "5.6.7.8:81"), Err(Refusal::OwnAddress));
}

#[test]
fn refusals_speak_plainly() {
    let message = |text| Policy::default().check(at(text)).unwrap_err().to_string();
    assert_eq!(
        message("169.254.169.254:80"),
        "the destination is a cloud metadata service, not a public internet address, and this exit's operator does not list it"
    );
    assert!(message("[2002::1]:80").contains("6to4"));
}
