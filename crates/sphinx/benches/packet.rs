//! Times of the operations of a packet, in microseconds: `cargo bench -p mizzle-sphinx`.
//!
//! Each figure is the median of many runs, one thread, for a five-hop packet of the LIONESS dialect.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and fails by stopping"
)]

use std::hint::black_box;
use std::time::Instant;

use mizzle_sphinx::{
    ADDRESS_LEN, BATCH, Dialect, Engine, Hop, MESSAGE_LEN, Packet, Peeler, PublicKey, SecretKey, build,
    build_surb, engines, recover, use_surb,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const RUNS: usize = 1_000;
const DIALECT: Dialect = Dialect::Lioness;

fn main() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let secrets: Vec<_> = (0..5).map(|hop| [hop + 1; 32]).collect();
    let keys: Vec<_> = secrets
        .iter()
        .map(|secret| SecretKey::from_bytes(*secret).public())
        .collect();
    let address = [1; ADDRESS_LEN];
    let delays = [10, 10, 10, 10, 0];
    let route: Vec<_> = keys
        .iter()
        .zip(delays)
        .map(|(key, delay_ms)| Hop {
            key,
            address: &address,
            delay_ms,
        })
        .collect();
    let message = [2; MESSAGE_LEN];
    let mut packet = Packet::zeroed();

    print(
        "validate a public key",
        || (),
        |()| PublicKey::from_bytes(keys[0].as_bytes()).unwrap(),
    );
    print(
        "build",
        || (),
        |()| build(DIALECT, &mut rng, &route, &address, &message, &mut packet).unwrap(),
    );
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    print(
        "make a SURB",
        || (),
        |()| build_surb(DIALECT, &mut rng, &route, &[1; 16]).unwrap(),
    );
    let mut used = Packet::zeroed();
    print(
        "use a SURB",
        || build_surb(DIALECT, &mut rng, &route, &[1; 16]).unwrap().0,
        |surb| use_surb(DIALECT, surb, &message, &mut used),
    );
    print(
        "recover a reply",
        || build_surb(DIALECT, &mut rng, &route, &[1; 16]).unwrap().1,
        |keys| recover(DIALECT, keys, used.payload_mut()),
    );
    engines().for_each(|engine| with_engine(engine, &packet, secrets[0]));
}

fn with_engine(engine: &'static dyn Engine, packet: &Packet, secret: [u8; 32]) {
    let name = engine.name();
    let mut out = [[0; 32]];
    let point = *SecretKey::from_bytes([3; 32]).public().as_bytes();
    print(
        &format!("X25519, {name}"),
        || (),
        |()| engine.x25519_batch(&[secret], &[point], &mut out),
    );

    let peeler = Peeler::with_engine(SecretKey::from_bytes(secret), DIALECT, engine);
    let copy = || Packet::try_from_slice(packet.as_bytes()).unwrap();
    print(&format!("peel, {name}"), copy, |mut packet| {
        peeler.peel(&mut packet, &mut |_| false).unwrap();
        packet
    });
    let mut results = Vec::with_capacity(BATCH);
    let batch = || (0..BATCH).map(|_| copy()).collect::<Vec<_>>();
    let batch_us = median_us(batch, |mut packets| {
        results.clear();
        peeler.peel_batch(&mut packets, &mut |_| false, &mut results);
        packets
    });
    println!(
        "{:<32} {:>8.2} us",
        format!("peel in a batch of {BATCH}, {name}"),
        batch_us / BATCH as f64
    );
}

fn print<I, O>(what: &str, prepare: impl FnMut() -> I, run: impl FnMut(I) -> O) {
    println!("{what:<32} {:>8.2} us", median_us(prepare, run));
}

fn median_us<I, O>(mut prepare: impl FnMut() -> I, mut run: impl FnMut(I) -> O) -> f64 {
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            let input = prepare();
            let start = Instant::now();
            let output = black_box(run(black_box(input)));
            let time = start.elapsed();
            drop(output);
            time.as_nanos() as f64 / 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}
