//! Times of the operations of a packet, for every engine of this CPU: `cargo bench -p mizzle-sphinx`.
//!
//! All of it is one interleaved run on one thread: each round runs every case once, so that a busy neighbour or a
//! change of the clock meets all of them. A figure is the least of the rounds, in microseconds for one packet; the
//! median beside it shows how busy the machine was. Ratios are of the least of this run. Packets are five hops long,
//! 4608 bytes, of the LIONESS dialect.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and fails by stopping"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use mizzle_sphinx::{
    ADDRESS_LEN, Dialect, Engine, Hop, MESSAGE_LEN, Outgoing, Packet, Peeler, PublicKey, SecretKey,
    SurbRequest, build, build_batch, build_surb, build_surbs, engines, recover, use_engine, use_surb,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const ROUNDS: usize = 300;
const DIALECT: Dialect = Dialect::Lioness;
const BATCHES: [usize; 4] = [1, 2, 8, 64];

/// Something to measure: what it is, with how many packets at once, the time of a run, and all times so far.
struct Case<'a> {
    what: String,
    batch: usize,
    run: Box<dyn FnMut() -> Duration + 'a>,
    us: Vec<f64>,
}

impl Case<'_> {
    fn least(&self) -> f64 {
        self.us[0]
    }

    fn median(&self) -> f64 {
        self.us[self.us.len() / 2]
    }
}

fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(run());
    start.elapsed()
}

fn copy(packet: &Packet) -> Packet {
    Packet::try_from_slice(packet.as_bytes()).unwrap()
}

fn main() {
    let secrets: Vec<_> = (0..5).map(|hop| [hop + 1; 32]).collect();
    let keys: Vec<_> = secrets
        .iter()
        .map(|secret| SecretKey::from_bytes(*secret).public())
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
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let packets: Vec<_> = (0..64)
        .map(|_| {
            let mut packet = Packet::zeroed();
            build(
                DIALECT,
                &mut rng,
                &route,
                &address,
                &[2; MESSAGE_LEN],
                &mut packet,
            )
            .unwrap();
            packet
        })
        .collect();

    let mut cases = Vec::new();
    for engine in engines() {
        hops(engine, &packets, secrets[0], &mut cases);
    }
    for engine in engines() {
        builds(engine, &route, &mut cases);
        surbs(engine, &route, &mut cases);
    }
    for engine in engines() {
        curve(engine, &mut cases);
        hashes(engine, &mut cases);
        cipher(engine, &mut cases);
    }
    others(&keys, &route, &mut cases);

    for _ in 0..ROUNDS {
        for case in &mut cases {
            let time = (case.run)();
            case.us.push(time.as_nanos() as f64 / 1e3 / case.batch as f64);
        }
    }
    for case in &mut cases {
        case.us.sort_by(f64::total_cmp);
    }
    print(&cases);
}

fn hops<'a>(engine: &'static dyn Engine, packets: &'a [Packet], secret: [u8; 32], cases: &mut Vec<Case<'a>>) {
    for batch in BATCHES {
        let peeler = Peeler::with_engine(SecretKey::from_bytes(secret), DIALECT, engine);
        let mut results = Vec::with_capacity(batch);
        let run = move || {
            let mut packets: Vec<_> = packets[..batch].iter().map(copy).collect();
            results.clear();
            let time = timed(|| peeler.peel_batch(&mut packets, &mut |_, _| {}, &mut results));
            assert!(results.iter().all(Result::is_ok));
            time
        };
        cases.push(Case {
            what: format!("hop, {}", engine.name()),
            batch,
            run: Box::new(run),
            us: vec![],
        });
    }
}

/// Building takes the engine that is chosen for the program.
fn choose(engine: &dyn Engine) {
    use_engine(engine.name()).unwrap();
}

fn builds<'a>(engine: &'static dyn Engine, route: &'a [Hop<'a>], cases: &mut Vec<Case<'a>>) {
    for batch in BATCHES {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let mut packets: Vec<_> = (0..batch).map(|_| Packet::zeroed()).collect();
        let run = move || {
            choose(engine);
            let destination = &[1; ADDRESS_LEN];
            let mut outgoing: Vec<_> = packets
                .iter_mut()
                .map(|packet| Outgoing {
                    route,
                    destination,
                    packet,
                })
                .collect();
            timed(|| build_batch(DIALECT, &mut rng, &mut outgoing).unwrap())
        };
        cases.push(Case {
            what: format!("build, {}", engine.name()),
            batch,
            run: Box::new(run),
            us: vec![],
        });
    }
}

/// Five is what a client sends at once.
fn surbs<'a>(engine: &'static dyn Engine, route: &'a [Hop<'a>], cases: &mut Vec<Case<'a>>) {
    for batch in [1, 5, 64] {
        let mut rng = ChaCha20Rng::from_seed([5; 32]);
        let mut made = Vec::with_capacity(batch);
        let run = move || {
            choose(engine);
            made.clear();
            let requests = vec![SurbRequest { route, id: &[1; 16] }; batch];
            timed(|| build_surbs(DIALECT, &mut rng, &requests, &mut made).unwrap())
        };
        cases.push(Case {
            what: format!("make SURBs, {}", engine.name()),
            batch,
            run: Box::new(run),
            us: vec![],
        });
    }
}

fn curve(engine: &'static dyn Engine, cases: &mut Vec<Case<'_>>) {
    for batch in BATCHES {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut bytes = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        let scalars: Vec<_> = (0..batch).map(|_| bytes()).collect();
        let points: Vec<_> = (0..batch).map(|_| bytes()).collect();
        let mut out = vec![[0; 32]; batch];
        let base_scalars = scalars.clone();
        let mut base_out = out.clone();
        let base = move || timed(|| engine.x25519_base_batch(&base_scalars, &mut base_out));
        cases.push(Case {
            what: format!("X25519 of 9, {}", engine.name()),
            batch,
            run: Box::new(base),
            us: vec![],
        });
        let run = move || timed(|| engine.x25519_batch(&scalars, &points, &mut out));
        cases.push(Case {
            what: format!("X25519, {}", engine.name()),
            batch,
            run: Box::new(run),
            us: vec![],
        });
    }
}

fn hashes(engine: &'static dyn Engine, cases: &mut Vec<Case<'_>>) {
    for batch in BATCHES {
        let blocks = vec![[[7; 64]; 62]; batch];
        let mut states = vec![[0; 8]; batch];
        let run = move || {
            let blocks: Vec<_> = blocks.iter().map(<[_; 62]>::as_slice).collect();
            timed(|| engine.sha256_batch(&mut states, &blocks))
        };
        cases.push(Case {
            what: format!("SHA-256, 3968 bytes, {}", engine.name()),
            batch,
            run: Box::new(run),
            us: vec![],
        });
    }
}

fn cipher(engine: &'static dyn Engine, cases: &mut Vec<Case<'_>>) {
    let mut data = vec![[0; 3952]; 64];
    let run = move || {
        timed(|| {
            data.iter_mut()
                .for_each(|data| engine.aes_ctr(&[1; 16], &[2; 16], 0, data))
        })
    };
    cases.push(Case {
        what: format!("AES-CTR, 3952 bytes, {}", engine.name()),
        batch: 64,
        run: Box::new(run),
        us: vec![],
    });
}

fn others<'a>(keys: &'a [PublicKey], route: &'a [Hop<'a>], cases: &mut Vec<Case<'a>>) {
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let mut surb = move || build_surb(DIALECT, &mut rng, route, &[1; 16]).unwrap();
    let (made, kept) = (surb(), surb());
    let (mut made, mut kept) = (Some(made.0), Some(kept.1));
    let mut packet = Packet::zeroed();
    let mut again = surb.clone();
    let validate = move || timed(|| PublicKey::from_bytes(keys[0].as_bytes()).unwrap());
    let mut case = |what: &str, mut run: Box<dyn FnMut() -> Duration + 'a>| {
        let run = Box::new(move || {
            use_engine("best").unwrap();
            run()
        });
        cases.push(Case {
            what: what.to_owned(),
            batch: 1,
            run,
            us: vec![],
        });
    };
    case("validate a public key", Box::new(validate));
    case(
        "use a SURB",
        Box::new(move || {
            let surb = made.take().unwrap_or_else(|| again().0);
            timed(|| use_surb(DIALECT, surb, &[2; MESSAGE_LEN], &mut packet))
        }),
    );
    let mut packet = Packet::zeroed();
    case(
        "recover a reply",
        Box::new(move || {
            let keys = kept.take().unwrap_or_else(|| surb().1);
            timed(|| recover(DIALECT, keys, packet.payload_mut()))
        }),
    );
}

/// The figures that were to be reached, in microseconds on a Zen 5 of 4.0 GHz: what, under which engine, in batches of
/// how many; to reach, and beyond.
const WANTED: [(&str, &str, usize, f64, f64); 4] = [
    ("hop", "ifma", 64, 10.0, 7.5),
    ("hop", "avx2", 64, 40.0, 36.0),
    ("build", "ifma", 64, 55.0, 40.0),
    ("X25519", "ifma", 64, 2.5, 2.2),
];

/// One X25519 of graviola on the machine of [`WANTED`]: what tells how much slower this one is.
const GRAVIOLA_THERE_US: f64 = 16.9;

fn print(cases: &[Case<'_>]) {
    let least = |what: &str, batch: usize| {
        let case = cases.iter().find(|case| case.what == what && case.batch == batch);
        case.map(Case::least)
    };
    println!(
        "{:<34} {:>6} {:>10} {:>10} {:>16}",
        "us for one", "batch", "least", "median", "against dalek, 1"
    );
    for case in cases {
        let (kind, _) = case.what.rsplit_once(", ").unwrap_or((&case.what, ""));
        let ratio = least(&format!("{kind}, dalek"), 1)
            .map_or(String::new(), |dalek| format!("{:.1}x", dalek / case.least()));
        let (least, median) = (case.least(), case.median());
        println!(
            "{:<34} {:>6} {least:>10.2} {median:>10.2} {ratio:>16}",
            case.what, case.batch
        );
    }

    let Some(graviola) = least("X25519, graviola", 64) else {
        return;
    };
    let slower = graviola / GRAVIOLA_THERE_US;
    println!("\nWanted on a Zen 5 of 4.0 GHz, with the figures of this machine, and divided by {slower:.2},");
    println!(
        "as much slower as one X25519 of graviola is here ({graviola:.1} us against {GRAVIOLA_THERE_US}):"
    );
    println!(
        "{:<34} {:>8} {:>8} {:>8} {:>10}",
        "us for one, in batches of 64", "wanted", "beyond", "here", "divided"
    );
    for (kind, engine, batch, wanted, beyond) in WANTED {
        let what = format!("{kind}, {engine}");
        match least(&what, batch) {
            Some(here) => println!(
                "{what:<34} {wanted:>8} {beyond:>8} {here:>8.2} {:>10.2}",
                here / slower
            ),
            None => println!("{what:<34} {wanted:>8} {beyond:>8}  this CPU has no such engine"),
        }
    }
}
