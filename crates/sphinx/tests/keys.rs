//! Which public keys are refused, and that the others give what X25519 gives.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;
mod reference;

use common::{from_hex, random, rng};
use mizzle_sphinx::{InvalidKey, PublicKey, SecretKey, engines};

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::montgomery::MontgomeryPoint;

/// 2^255 - 19, little-endian, plus a small number.
fn p_plus(n: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xed + n, 0x7f);
    bytes
}

/// The u-coordinates of small order on the curve and its twist, as RFC 7748 users list them.
fn small_order() -> Vec<[u8; 32]> {
    let order_eight = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ];
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = p_plus(0);
    minus_one[0] -= 1;
    let listed = order_eight.map(|u| from_hex(u).try_into().unwrap());
    [[0; 32], one, minus_one].into_iter().chain(listed).collect()
}

#[test]
fn keys_of_small_order_are_refused() {
    for u in small_order() {
        let refused = PublicKey::from_bytes(&u).unwrap_err();
        // The twist has points of small order too, -1 among them.
        assert!(
            matches!(refused, InvalidKey::NotPrimeOrder | InvalidKey::NotOnCurve),
            "{u:02x?}: {refused}"
        );
    }
    for point in EIGHT_TORSION {
        let refused = PublicKey::from_bytes(&point.to_montgomery().to_bytes()).unwrap_err();
        assert_eq!(refused, InvalidKey::NotPrimeOrder);
    }
}

#[test]
fn keys_that_are_not_canonical_are_refused() {
    for n in 0..=18 {
        assert_eq!(
            PublicKey::from_bytes(&p_plus(n)),
            Err(InvalidKey::NotCanonical),
            "p + {n}"
        );
    }
    let mut key = *SecretKey::from_bytes([7; 32]).public().as_bytes();
    key[31] |= 0x80;
    assert_eq!(PublicKey::from_bytes(&key), Err(InvalidKey::NotCanonical));
}

#[test]
fn keys_on_the_twist_are_refused() {
    let (mut twist, mut other) = (0, 0);
    for n in 2..=255 {
        let mut u = [0; 32];
        u[0] = n;
        match (MontgomeryPoint(u).to_edwards(0), PublicKey::from_bytes(&u)) {
            (None, refused) => {
                assert_eq!(refused, Err(InvalidKey::NotOnCurve));
                twist += 1;
            }
            (Some(point), key) => {
                assert_eq!(key.is_ok(), point.is_torsion_free());
                other += 1;
            }
        }
    }
    assert!(
        twist > 90 && other > 90,
        "{twist} on the twist, {other} on the curve"
    );
}

#[test]
fn keys_of_mixed_order_are_refused() {
    let key = SecretKey::from_bytes([9; 32]).public();
    let point = MontgomeryPoint(*key.as_bytes()).to_edwards(0).unwrap();
    for torsion in &EIGHT_TORSION[1..] {
        let mixed = (point + torsion).to_montgomery().to_bytes();
        assert_eq!(PublicKey::from_bytes(&mixed), Err(InvalidKey::NotPrimeOrder));
    }
}

#[test]
fn keys_made_here_are_accepted_and_equal_x25519() {
    let mut rng = rng(1);
    let mut nine = [0; 32];
    nine[0] = 9;
    for _ in 0..50 {
        let secret = random(&mut rng);
        let key = SecretKey::from_bytes(secret).public();
        assert_eq!(*key.as_bytes(), reference::x25519(&secret, &nine));
        assert_eq!(PublicKey::from_bytes(key.as_bytes()), Ok(key));
    }
    let (a, b) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
    assert_ne!(a.public(), b.public());
    assert_eq!(SecretKey::from_bytes(*a.expose_bytes()).public(), a.public());
}

#[test]
fn debug_shows_no_secret() {
    assert_eq!(format!("{:?}", SecretKey::from_bytes([7; 32])), "SecretKey(..)");
}

#[test]
fn engines_agree_on_all_kinds_of_points() {
    let mut rng = rng(2);
    let mut points: Vec<[u8; 32]> = (0..200).map(|_| random(&mut rng)).collect();
    points.extend(small_order());
    points.extend((0..=18).map(p_plus));
    points.extend(EIGHT_TORSION.map(|point| point.to_montgomery().to_bytes()));
    let with_top_bit = points.clone().into_iter().map(|mut point| {
        point[31] |= 0x80;
        point
    });
    points.extend(with_top_bit);
    points.push(SecretKey::from_bytes([1; 32]).public().as_bytes().to_owned());
    points.push(
        from_hex(&("09".to_owned() + &"00".repeat(31)))
            .try_into()
            .unwrap(),
    );
    let mut scalars: Vec<[u8; 32]> = points.iter().map(|_| random(&mut rng)).collect();
    (scalars[0], scalars[1]) = ([0; 32], [0xff; 32]);

    let expected: Vec<_> = scalars
        .iter()
        .zip(&points)
        .map(|(scalar, u)| reference::x25519(scalar, u))
        .collect();
    let zeros = expected.iter().filter(|out| **out == [0; 32]).count();
    assert!(zeros >= 2 * small_order().len(), "{zeros}");
    for engine in engines() {
        let mut out = vec![[1; 32]; points.len()];
        engine.x25519_batch(&scalars, &points, &mut out);
        assert!(out == expected, "{}", engine.name());
    }
}
