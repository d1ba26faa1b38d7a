//! The process that is looked at: does the same things with one secret after the other, each between two calls of [`mark`].

use std::hint::black_box;
use std::io::{BufRead, Write};

use mizzle_sphinx::{
    Dialect, Engine, Outgoing, Packet, Peeled, Peeler, Rejected, SecretKey, build_batch, engines, use_engine,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::common::{Path, random, rng};

/// The first argument of this process.
pub(crate) const ROLE: &str = "traced";

/// What is done with each secret, in this order.
pub(crate) const ALL: [&str; 6] = ["ladder", "base point", "twice", "key", "build", "hop"];

/// How many secrets are tried, after one that warms up what is found out once.
pub(crate) const SECRETS: usize = 2;

/// Packets that are built and peeled: as few as share a vector. Valgrind takes seconds for each.
const PACKETS: usize = 2;

/// The shortest route, as all hops are alike.
const HOPS: usize = 3;

pub(crate) fn run(name: &str) {
    let engine = engines().find(|engine| engine.name() == name).unwrap();
    use_engine(name).unwrap();
    let mut rng = rng(11);
    let mut lanes = Lanes::new(engine, &mut rng);
    let mut packets = Packets::new(&mut rng);
    tell();
    for secret in 0..=SECRETS {
        // One of them has all bits alike.
        let given = if secret == 1 { [0xff; 32] } else { random(&mut rng) };
        lanes
            .scalars
            .fill_with(|| if secret == 1 { given } else { random(&mut rng) });
        lanes.multiply(engine);
        let key = SecretKey::from_bytes(given);
        between_marks(|| key.public());
        packets.build_and_peel(&mut rng);
    }
}

/// Called before and after what is looked at.
#[inline(never)]
fn mark() {
    black_box(());
}

fn between_marks<T>(what: impl FnOnce() -> T) -> T {
    mark();
    let out = black_box(what());
    mark();
    out
}

/// Says where [`mark`] stands, and waits until that was heard.
fn tell() {
    println!("{:x}", mark as fn() as usize);
    std::io::stdout().flush().unwrap();
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

/// As many multiplications as an engine does at once.
struct Lanes {
    scalars: Vec<[u8; 32]>,
    points: Vec<[u8; 32]>,
    out: Vec<[u8; 32]>,
}

impl Lanes {
    fn new(engine: &dyn Engine, rng: &mut ChaCha20Rng) -> Self {
        let zeros = vec![[0; 32]; engine.lanes()];
        // Points that no lane takes the other way for: they are public.
        let point = |_: &_| *SecretKey::from_bytes(random(rng)).public().as_bytes();
        Self {
            points: zeros.iter().map(point).collect(),
            scalars: zeros.clone(),
            out: zeros,
        }
    }

    fn multiply(&mut self, engine: &dyn Engine) {
        let Self { scalars, points, out } = self;
        between_marks(|| engine.x25519_batch(scalars, points, out));
        between_marks(|| engine.x25519_base_batch(scalars, out));
        let mut between = |_: &[[u8; 32]], others: &mut [[u8; 32]], wanted: &mut [bool]| {
            others.copy_from_slice(scalars);
            wanted.fill(true);
        };
        between_marks(|| engine.x25519_twice(scalars, points, &mut between, out));
    }
}

/// Packets of one sender, and their route.
struct Packets {
    packets: Vec<Packet>,
    results: Vec<Result<Peeled, Rejected>>,
    path: Path,
}

impl Packets {
    fn new(rng: &mut ChaCha20Rng) -> Self {
        Self {
            packets: (0..PACKETS).map(|_| Packet::zeroed()).collect(),
            results: Vec::with_capacity(PACKETS),
            path: Path::random(rng, HOPS),
        }
    }

    /// Messages go another route each time, to another node.
    fn build_and_peel(&mut self, rng: &mut ChaCha20Rng) {
        let Self {
            packets,
            results,
            path,
        } = self;
        let other = Path::random(rng, HOPS);
        // In the same place, whichever it is.
        path.keys.clone_from(&other.keys);
        path.addresses.clone_from(&other.addresses);
        path.delays.clone_from(&other.delays);
        let hops = path.hops();
        let outgoing = packets.iter_mut().map(|packet| {
            rng.fill_bytes(packet.message_mut());
            Outgoing {
                route: &hops,
                destination: &path.addresses[HOPS - 1],
                packet,
            }
        });
        let mut outgoing: Vec<_> = outgoing.collect();
        // Of its own, so that it always has as much left of what it computes at once.
        let mut random_bytes = ChaCha20Rng::from_seed(random(rng));
        between_marks(|| build_batch(Dialect::Lioness, &mut random_bytes, &mut outgoing)).unwrap();
        drop(outgoing);
        let peeler = Peeler::new(SecretKey::from_bytes(other.secrets[0]), Dialect::Lioness);
        results.clear();
        between_marks(|| peeler.peel_batch(packets, &mut |_, _| {}, results));
        for result in results {
            assert!(matches!(result, Ok(Peeled::Forward { .. })), "{result:?}");
        }
    }
}
