//! All engines that this CPU has give the same bytes, whatever stands in the lanes beside.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::hint::black_box;

use aes::Aes128;
use common::{from_hex, random, rng};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::montgomery::MontgomeryPoint;
use mizzle_sphinx::{Engine, engine, engines, use_engine};
use rand_chacha::rand_core::Rng;

const ALL: [&str; 4] = ["ifma", "avx2", "graviola", "dalek"];

fn hex(text: &str) -> [u8; 32] {
    from_hex(text).try_into().unwrap()
}

fn number(n: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = n;
    bytes
}

/// 2^255 - 19 plus `n`.
fn p_plus(n: i8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xed_u8.wrapping_add_signed(n), 0x7f);
    bytes
}

/// What an engine could get wrong: small orders, numbers that are not canonical, the ends of the field.
fn hard_points() -> Vec<[u8; 32]> {
    let mut points: Vec<_> = EIGHT_TORSION
        .map(|point| point.to_montgomery().to_bytes())
        .to_vec();
    points.extend((-3..=18).map(p_plus));
    points.extend((0..=20).map(number));
    points.extend([[0xff; 32], [0x7f; 32], [0x80; 32]]);
    let with_top_bit = points.clone().into_iter().map(|mut point| {
        point[31] |= 0x80;
        point
    });
    points.extend(with_top_bit);
    points
}

fn hard_scalars() -> [[u8; 32]; 8] {
    let mut low_bits = [0; 32];
    low_bits[0] = 7;
    let mut top_bits = [0; 32];
    top_bits[31] = 0xc0;
    [
        [0; 32],
        [0xff; 32],
        number(1),
        number(8),
        low_bits,
        top_bits,
        [0xaa; 32],
        [0x55; 32],
    ]
}

fn oracle(scalar: &[u8; 32], point: &[u8; 32]) -> [u8; 32] {
    MontgomeryPoint(*point).mul_clamped(*scalar).to_bytes()
}

fn run(engine: &dyn Engine, scalars: &[[u8; 32]], points: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let mut out = vec![[1; 32]; points.len()];
    engine.x25519_batch(scalars, points, &mut out);
    out
}

#[test]
fn engines_that_this_cpu_lacks_are_named() {
    let names: Vec<_> = engines().map(|engine| engine.name()).collect();
    let expected: Vec<_> = ALL.into_iter().filter(|name| names.contains(name)).collect();
    assert_eq!(names, expected, "each once, the best first");
    assert_eq!(*names.last().unwrap(), "dalek");
    for name in ALL.iter().filter(|name| !names.contains(name)) {
        eprintln!("skipped, for this CPU or build has no such engine: all tests of {name}");
    }
}

#[test]
fn an_engine_can_be_chosen_by_its_name() {
    for name in engines().map(|engine| engine.name()) {
        use_engine(name).unwrap();
        assert_eq!(engine().name(), name);
    }
    use_engine("portable").unwrap();
    assert_ne!(engine().name(), "ifma");
    let error = use_engine("abacus").unwrap_err().to_string();
    assert!(
        error.contains("\"abacus\"") && error.contains("portable") && error.contains("dalek"),
        "{error}"
    );
    assert_ne!(engine().name(), "ifma", "an unknown name changes nothing");
    use_engine("best").unwrap();
    assert_eq!(engine().name(), engines().next().unwrap().name());
}

#[test]
fn engines_give_what_dalek_gives_for_batches_of_all_lengths() {
    let mut rng = rng(1);
    let hard = hard_points();
    for count in (0..=24).chain([31, 32, 33, 63, 64, 65, 127, 128, 129, 200]) {
        let scalars: Vec<[u8; 32]> = (0..count)
            .map(|at| match hard_scalars().get(rng.next_u32() as usize % 64) {
                Some(scalar) if at > 0 => *scalar,
                _ => random(&mut rng),
            })
            .collect();
        let points: Vec<[u8; 32]> = (0..count)
            .map(|_| match rng.next_u32() as usize {
                n if n.is_multiple_of(3) => hard[n / 3 % hard.len()],
                _ => random(&mut rng),
            })
            .collect();
        let expected: Vec<_> = scalars.iter().zip(&points).map(|(k, u)| oracle(k, u)).collect();
        for engine in engines() {
            assert!(
                run(engine, &scalars, &points) == expected,
                "{count}, {}",
                engine.name()
            );
        }
    }
}

#[test]
fn every_hard_point_under_every_hard_scalar() {
    let (mut scalars, mut points) = (vec![], vec![]);
    for scalar in hard_scalars() {
        for point in hard_points() {
            scalars.push(scalar);
            points.push(point);
        }
    }
    let expected: Vec<_> = scalars.iter().zip(&points).map(|(k, u)| oracle(k, u)).collect();
    let zeros = expected.iter().filter(|out| **out == [0; 32]).count();
    assert!(zeros >= 8 * 2 * 5, "points of small order give zeros: {zeros}");
    for engine in engines() {
        assert!(run(engine, &scalars, &points) == expected, "{}", engine.name());
    }
}

#[test]
fn a_lane_never_changes_its_neighbours() {
    let mut rng = rng(2);
    let count = 70;
    let scalars: Vec<[u8; 32]> = (0..count).map(|_| random(&mut rng)).collect();
    let points: Vec<[u8; 32]> = (0..count).map(|_| random(&mut rng)).collect();
    for engine in engines() {
        let expected = run(engine, &scalars, &points);
        for at in 0..count {
            let bad = [[0; 32], p_plus(-1), [0xff; 32]][at % 3];
            let mut points = points.clone();
            points[at] = bad;
            let mut out = run(engine, &scalars, &points);
            assert_eq!(out[at], oracle(&scalars[at], &bad));
            out[at] = expected[at];
            assert!(out == expected, "lane {at}, {}", engine.name());
        }
        // All of them at once, but one.
        let mut points = vec![[0; 32]; count];
        points[13] = p_plus(5);
        let out = run(engine, &scalars, &points);
        for (at, out) in out.iter().enumerate() {
            assert_eq!(
                *out,
                oracle(&scalars[at], &points[at]),
                "lane {at}, {}",
                engine.name()
            );
        }
    }
}

#[test]
fn slices_of_different_lengths_touch_only_what_all_have() {
    let mut rng = rng(3);
    let scalars: Vec<[u8; 32]> = (0..20).map(|_| random(&mut rng)).collect();
    for engine in engines() {
        for [k, u, out] in [
            [3, 20, 20],
            [20, 3, 20],
            [20, 20, 3],
            [1, 9, 9],
            [9, 9, 1],
            [0, 8, 8],
        ] {
            let mut result = vec![[1; 32]; 20];
            engine.x25519_batch(&scalars[..k], &scalars[..u], &mut result[..out]);
            let count = k.min(u).min(out);
            for (at, result) in result.iter().enumerate() {
                let expected = if at < count {
                    oracle(&scalars[at], &scalars[at])
                } else {
                    [1; 32]
                };
                assert_eq!(*result, expected, "{k} {u} {out}, lane {at}, {}", engine.name());
            }
        }
    }
}

/// The two vectors of RFC 7748, section 5.2, in all lanes of batches that fill vectors and that do not.
#[test]
fn engines_give_what_rfc_7748_prints() {
    let vectors = [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ];
    for engine in engines() {
        for count in [1, 2, 8, 11, 64] {
            let pick = |at: usize| vectors[at % 2];
            let scalars: Vec<_> = (0..count).map(|at| hex(pick(at).0)).collect();
            let points: Vec<_> = (0..count).map(|at| hex(pick(at).1)).collect();
            let expected: Vec<_> = (0..count).map(|at| hex(pick(at).2)).collect();
            assert!(run(engine, &scalars, &points) == expected, "{}", engine.name());
        }
    }
}

#[test]
fn engines_multiply_the_base_point_as_dalek_does() {
    let mut rng = rng(8);
    for count in (0..=18).chain([63, 64, 65, 130]) {
        let mut scalars: Vec<[u8; 32]> = (0..count).map(|_| random(&mut rng)).collect();
        for (scalar, hard) in scalars.iter_mut().skip(1).step_by(3).zip(hard_scalars()) {
            *scalar = hard;
        }
        let expected: Vec<_> = scalars.iter().map(|scalar| oracle(scalar, &number(9))).collect();
        for engine in engines() {
            let mut out = vec![[1; 32]; count];
            engine.x25519_base_batch(&scalars, &mut out);
            assert!(out == expected, "{count}, {}", engine.name());
            assert!(run(engine, &scalars, &vec![number(9); count]) == expected);
        }
    }
}

/// Two products of each point, the second ones of those that are wanted, by scalars that depend on the first.
#[test]
fn engines_multiply_twice_what_others_multiply_once() {
    let mut rng = rng(8);
    let mut points = hard_points();
    points.extend((0..200).map(|_| random::<32>(&mut rng)));
    let all_scalars: Vec<[u8; 32]> = hard_scalars()
        .into_iter()
        .cycle()
        .take(points.len() / 2)
        .chain(std::iter::repeat_with(|| random(&mut rng)))
        .take(points.len())
        .collect();
    let product =
        |scalar: &[u8; 32], point: &[u8; 32]| MontgomeryPoint(*point).mul_clamped(*scalar).to_bytes();
    let again = |first: &[u8; 32], at: usize| first.map(|byte| byte ^ at as u8);
    for engine in engines() {
        for (count, is_wanted) in [
            (0, [true; 3]),
            (1, [true; 3]),
            (2, [true, false, true]),
            (3, [false, true, false]),
            (9, [true; 3]),
            (21, [false, false, true]),
            (63, [true, true, false]),
            (64, [true; 3]),
            (64, [false; 3]),
        ] {
            let batches = points.chunks(count.max(1)).zip(all_scalars.chunks(count.max(1)));
            for (points, scalars) in batches {
                let count = count.min(points.len());
                let (points, scalars) = (&points[..count], &scalars[..count]);
                let first: Vec<_> = scalars.iter().zip(points).map(|(k, u)| product(k, u)).collect();
                let mut out = vec![[0xaa; 32]; count];
                let mut calls = 0;
                let mut between = |told: &[[u8; 32]], others: &mut [[u8; 32]], wanted: &mut [bool]| {
                    calls += 1;
                    assert!(told == first, "{count}, {}", engine.name());
                    assert!(others.len() == count && wanted.len() == count);
                    for at in 0..count {
                        wanted[at] = is_wanted[at % 3];
                        if wanted[at] {
                            others[at] = again(&told[at], at);
                        }
                    }
                };
                engine.x25519_twice(scalars, points, &mut between, &mut out);
                assert_eq!(calls, 1);
                for at in (0..count).filter(|at| is_wanted[at % 3]) {
                    let expected = product(&again(&first[at], at), &points[at]);
                    assert_eq!(out[at], expected, "{at} of {count}, {}", engine.name());
                }
            }
        }
    }
}

/// The iteration of RFC 7748, section 5.2, in as many lanes as make an engine use its vectors.
fn iterate(engine: &dyn Engine, rounds: usize) -> [u8; 32] {
    let lanes = engine.lanes();
    let (mut k, mut u) = (vec![number(9); lanes], vec![number(9); lanes]);
    for _ in 0..rounds {
        let out = run(engine, &k, &u);
        u = std::mem::replace(&mut k, out);
    }
    assert!(k.iter().all(|lane| *lane == k[0]));
    k[0]
}

#[test]
fn a_thousand_iterations_end_as_in_rfc_7748() {
    for engine in engines() {
        let after = |rounds| iterate(engine, rounds);
        assert_eq!(
            after(1),
            hex("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
        );
        assert_eq!(
            after(1000),
            hex("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")
        );
    }
}

/// A minute: `cargo test --release -p mizzle-sphinx --test engines -- --ignored`. Of dalek, what the others are compared
/// with above, a thousand are enough.
#[test]
#[ignore = "takes a minute"]
fn a_million_iterations_end_as_in_rfc_7748() {
    let expected = hex("7c3911e0ab2586fd864497297e575e6f3bc601c0883c30df5f4dd2d24f665424");
    let mut others: Vec<_> = engines().filter(|engine| engine.name() != "dalek").collect();
    // The last, graviola where it is there, multiplies one at a time and goes all the way; of the others most lanes are idle in
    // this, and a tenth of it beside that will do.
    let Some(first) = others.pop() else {
        println!("SKIPPED: this CPU has no engine but dalek");
        return;
    };
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(iterate(first, 1_000_000), expected, "{}", first.name()));
        let tenth = iterate(first, 100_000);
        for engine in others {
            assert_eq!(iterate(engine, 100_000), tenth, "{}", engine.name());
        }
    });
}

/// Welch's t between the times of two kinds of inputs that were taken in turns, without the slowest tenth, which
/// belongs to the system.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn welch_t<T>(samples: usize, mut prepare: impl FnMut(usize) -> T, mut time: impl FnMut(T)) -> f64 {
    let mut rng = rng(4);
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let kind = (rng.next_u32() & 1) as usize;
        let input = prepare(kind);
        let start = std::time::Instant::now();
        time(black_box(input));
        times.push((kind, start.elapsed().as_nanos() as f64));
    }
    let mut sorted: Vec<_> = times.iter().map(|(_, ns)| *ns).collect();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted[samples * 9 / 10];
    let moments = |kind: usize| {
        let kept: Vec<_> = times
            .iter()
            .filter(|(k, ns)| *k == kind && *ns <= cut)
            .map(|(_, ns)| *ns)
            .collect();
        let n = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / n;
        let variance = kept.iter().map(|ns| (ns - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    };
    let ((mean_a, error_a), (mean_b, error_b)) = (moments(0), moments(1));
    (mean_a - mean_b) / (error_a + error_b).sqrt()
}

/// As dudect does it: scalars of one kind, and random ones, in a random order; whether their times differ. Times say
/// nothing for certain: it looks for what 40,000 samples make plain, and then again with four times as many, by which a difference
/// that is there grows and one by chance goes. It needs a quiet machine and is not part of every run:
/// `cargo test --release -p mizzle-sphinx --test engines -- --ignored timing`. What it can't see, `secrets` may.
#[test]
#[ignore = "measures times, which needs a quiet machine"]
fn timing_does_not_depend_on_the_scalars() {
    const LANES: usize = 8;
    const POOL: usize = 64;
    let mut rng = rng(5);
    let points: Vec<[u8; 32]> = (0..LANES).map(|_| random(&mut rng)).collect();
    // Points that no lane takes the other way for.
    let on_curve: Vec<_> = points
        .iter()
        .map(|secret| MontgomeryPoint::mul_base_clamped(*secret).to_bytes())
        .collect();
    // The others are not our code.
    let fixed = [[0; 32], [0xff; 32], random(&mut rng)];
    let ours: Vec<_> = engines().filter(|engine| engine.lanes() > 1).collect();
    if ours.is_empty() {
        eprintln!("skipped: this CPU has neither AVX-512 IFMA nor AVX2");
        return;
    }
    for (engine, fixed) in ours.iter().flat_map(|engine| fixed.map(|fixed| (*engine, fixed))) {
        let kinds = [
            vec![fixed; LANES * POOL],
            (0..LANES * POOL).map(|_| random(&mut rng)).collect(),
        ];
        let (mut at, mut out) = (0, [[0; 32]; LANES]);
        // Copied, so that both kinds are read from one place.
        let mut prepare = |kind: usize| -> [[u8; 32]; LANES] {
            at = (at + LANES) % (LANES * POOL);
            kinds[kind][at..at + LANES].try_into().unwrap()
        };
        let mut check = |what: &str, time: &mut dyn FnMut(&[[u8; 32]; LANES])| {
            let mut t = |samples| {
                let t = welch_t(samples, &mut prepare, |scalars| time(&scalars));
                println!("{}, {what}, fixed {:02x}..: t = {t:.2}", engine.name(), fixed[0]);
                t.abs()
            };
            assert!(
                t(40_000) < 5.0 || t(160_000) < 10.0,
                "{}, {what} takes not always as long",
                engine.name()
            );
        };
        check("ladder", &mut |scalars| {
            engine.x25519_batch(scalars, &points, black_box(&mut out));
        });
        check("base point", &mut |scalars| {
            engine.x25519_base_batch(scalars, black_box(&mut out));
        });
        check("twice", &mut |scalars| {
            let mut between = |_: &[[u8; 32]], others: &mut [[u8; 32]], wanted: &mut [bool]| {
                others.copy_from_slice(scalars);
                wanted.fill(true);
            };
            engine.x25519_twice(scalars, &on_curve, &mut between, black_box(&mut out));
        });
    }
    let engine = ours[0];
    // What it would look like if it did.
    let t = welch_t(
        20_000,
        |kind| kind,
        |kind| {
            let mut out = [[0; 32]; 1];
            for _ in 0..=kind {
                engine.x25519_batch(&[[3; 32]], &points[..1], black_box(&mut out));
            }
        },
    );
    println!("twice the work in one kind: t = {t:.2}");
    assert!(t.abs() > 10.0, "{t}");
}

fn random_blocks(rng: &mut impl Rng, count: usize) -> Vec<[u8; 64]> {
    (0..count)
        .map(|_| {
            let mut block = [0; 64];
            rng.fill_bytes(&mut block);
            block
        })
        .collect()
}

#[test]
fn engines_hash_as_sha2_does() {
    let mut rng = rng(6);
    for messages in (0..=18).chain([31, 32, 33, 64, 70]) {
        for blocks in [0, 1, 2, 11, 63] {
            // Now and then one message is longer or shorter than the others.
            let lens = (0..messages).map(|_| match rng.next_u32() % 40 {
                0 => 0,
                1 => blocks + 3,
                _ => blocks,
            });
            let lens: Vec<_> = lens.collect();
            let data: Vec<_> = lens.iter().map(|len| random_blocks(&mut rng, *len)).collect();
            let data: Vec<_> = data.iter().map(Vec::as_slice).collect();
            let start: Vec<[u32; 8]> = (0..messages).map(|_| [(); 8].map(|()| rng.next_u32())).collect();
            let mut expected = start.clone();
            for (state, blocks) in expected.iter_mut().zip(&data) {
                sha2::block_api::compress256(state, blocks);
            }
            for engine in engines() {
                let mut states = start.clone();
                engine.sha256_batch(&mut states, &data);
                assert!(states == expected, "{messages} x {blocks}, {}", engine.name());
            }
        }
    }
}

#[test]
fn engines_encrypt_as_aes_and_ctr_do() {
    let mut rng = rng(7);
    let mut ivs: Vec<[u8; 16]> = (0..4).map(|_| random(&mut rng)).collect();
    // Counters that wrap, at 2^64 and at 2^128, within every vector there is.
    ivs.extend((0..40).flat_map(|n| {
        let wraps = u128::from(u64::MAX) - 3 * n;
        [(u128::MAX - 3 * n).to_be_bytes(), wraps.to_be_bytes()]
    }));
    for (at, iv) in ivs.iter().enumerate() {
        let key: [u8; 16] = random(&mut rng);
        for len in [
            0, 1, 15, 16, 17, 63, 64, 112, 511, 512, 513, 576, 1024, 3952, 3984,
        ] {
            let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let skip = (at % 3) as u32 * 7;
            let mut expected = data.clone();
            let mut cipher = Ctr128BE::<Aes128>::new(&key.into(), iv.into());
            let mut skipped = vec![0; 16 * skip as usize];
            cipher.apply_keystream(&mut skipped);
            cipher.apply_keystream(&mut expected);
            for engine in engines() {
                let mut out = data.clone();
                engine.aes_ctr(&key, iv, skip, &mut out);
                assert!(out == expected, "{len} bytes from {iv:02x?}, {}", engine.name());
            }
        }
    }
}
