//! Does one operation on packets so many times, for something outside that counts instructions: `.ci/instructions`.
//!
//! `count ENGINE hop|build|surb BATCH TIMES` peels, builds or makes SURBs, `BATCH` at once.
#![expect(clippy::print_stdout, reason = "it says what it did")]

use std::error::Error;

use mizzle_sphinx::{
    ADDRESS_LEN, Dialect, Hop, MESSAGE_LEN, Outgoing, Packet, Peeler, SecretKey, SurbRequest, build,
    build_batch, build_surbs, engine, use_engine,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const DIALECT: Dialect = Dialect::Lioness;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, what, batch, times] = &arguments[..] else {
        return Err("say: count ENGINE hop|build|surb BATCH TIMES".into());
    };
    let (batch, times): (usize, usize) = (batch.parse()?, times.parse()?);
    use_engine(name)?;

    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let keys: Vec<_> = (1..=5)
        .map(|hop| SecretKey::from_bytes([hop; 32]).public())
        .collect();
    let address = [1; ADDRESS_LEN];
    let route: Vec<_> = keys
        .iter()
        .zip([10, 10, 10, 10, 0])
        .map(|(key, delay_ms)| Hop {
            key,
            address: &address,
            delay_ms,
        })
        .collect();
    let message = [2; MESSAGE_LEN];
    let mut packet = Packet::zeroed();
    build(DIALECT, &mut rng, &route, &address, &message, &mut packet)?;

    let peeler = Peeler::new(SecretKey::from_bytes([1; 32]), DIALECT);
    let mut packets: Vec<_> = (0..batch).map(|_| Packet::zeroed()).collect();
    let (mut results, mut surbs) = (Vec::new(), Vec::new());
    for _ in 0..times {
        match what.as_str() {
            "hop" => {
                for copy in &mut packets {
                    *copy.as_bytes_mut() = *packet.as_bytes();
                }
                results.clear();
                peeler.peel_batch(&mut packets, &mut |_, _| {}, &mut results);
                if results.iter().any(Result::is_err) {
                    return Err("a packet was refused".into());
                }
            }
            "build" => {
                let outgoing = packets.iter_mut().map(|packet| Outgoing {
                    route: &route,
                    destination: &address,
                    packet,
                });
                build_batch(DIALECT, &mut rng, &mut outgoing.collect::<Vec<_>>())?;
            }
            "surb" => {
                surbs.clear();
                let request = SurbRequest {
                    route: &route,
                    id: &[1; 16],
                };
                build_surbs(DIALECT, &mut rng, &vec![request; batch], &mut surbs)?;
            }
            other => return Err(format!("{other:?} is none of hop, build, surb").into()),
        }
    }
    println!("{what}, {batch} at once, {times} times, {}", engine().name());
    Ok(())
}
