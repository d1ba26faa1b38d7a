//! `mizzle bench sphinx`: what peeling and building a packet cost, on every engine that this CPU has.
//!
//! All of it is one run on one thread in which everything takes turns: each round runs every case once, so that a busy
//! neighbour or a change of the clock meets all of them. Of each the least and the median of the rounds are told, in
//! microseconds for one packet. Packets have five hops, 4608 bytes, and LIONESS.
//!
//! This file reaches the packet crate and nothing else of the program: `compare/`, which puts other people's packets beside
//! ours, takes the very same code.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use mizzle_base::Rng;
use mizzle_sphinx::{
    ADDRESS_LEN, BuildError, Dialect, Engine, Hop, MESSAGE_LEN, Outgoing, Packet, Peeler, PublicKey,
    SecretKey, SurbRequest, build, build_batch, build_surbs, engine, engines, prepare, use_engine,
};
use rand_core::SeedableRng as _;
use serde_json::{Value, json};

/// Packets at once, for each case.
const BATCHES: [usize; 3] = [1, 8, 64];
const DIALECT: Dialect = Dialect::Lioness;
const HOPS: u8 = 5;

/// What a hop's figures are called.
pub const HOP: &str = "hop";
/// What a build's figures are called.
pub const BUILD: &str = "build";
const SURB: &str = "SURB";
/// The part of a build that can be done ahead, many at once.
const PREPARE: &str = "prepare";
/// What is left of it then, one at a time.
const SEAL: &str = "seal";

/// Something to measure.
pub struct Case<'a> {
    /// What is done: [`HOP`], [`BUILD`] and so on.
    pub what: &'static str,
    /// The engine, or whose code it is.
    pub by: &'static str,
    /// How many packets one run handles.
    pub batch: usize,
    /// One run: how long the part that counts took.
    pub run: Box<dyn FnMut() -> Duration + 'a>,
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub what: &'static str,
    /// By which engine, or by whose code.
    pub by: &'static str,
    /// Packets at once.
    pub batch: usize,
    /// The least of the rounds, microseconds a packet.
    pub least_us: f64,
    /// The median of the rounds, microseconds a packet.
    pub median_us: f64,
}

/// All figures of a run.
pub struct Figures(pub Vec<Row>);

/// Times a part of a run.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(run());
    start.elapsed()
}

/// Measures every engine, and what others add, in `rounds` rounds; the text or JSON to print.
///
/// # Errors
/// [`BuildError`] if the packets that are to be peeled can't be built.
pub fn run(rounds: u32, json: bool) -> Result<String, BuildError> {
    let figures = measure(rounds, Vec::new())?;
    Ok(if json {
        format!("{}\n", figures.json(rounds))
    } else {
        figures.table(rounds)
    })
}

/// Runs our cases and those of others in turns.
///
/// # Errors
/// [`BuildError`] if the packets that are to be peeled can't be built.
pub fn measure(rounds: u32, others: Vec<Case<'_>>) -> Result<Figures, BuildError> {
    let chosen = engine().name();
    let secrets: Vec<_> = (1..=HOPS).map(|hop| [hop; 32]).collect();
    let keys: Vec<_> = secrets
        .iter()
        .map(|s| SecretKey::from_bytes(*s).public())
        .collect();
    let route = route(&keys);
    let packets = packets(&route)?;

    let mut cases = others;
    for engine in engines() {
        hops(engine, &packets, secrets[0], &mut cases);
        builds(engine, &route, &mut cases);
        surbs(engine, &route, &mut cases);
        prepares(engine, &route, &mut cases);
    }
    let mut times: Vec<Vec<f64>> = cases
        .iter()
        .map(|_| Vec::with_capacity(rounds as usize))
        .collect();
    for _ in 0..rounds.max(1) {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            times.push((case.run)().as_nanos() as f64 / 1e3 / case.batch as f64);
        }
    }
    // Building takes the engine of the whole program. It had this one, so it is there.
    let _ = use_engine(chosen);
    let rows = cases.iter().zip(times).map(|(case, mut us)| {
        us.sort_by(f64::total_cmp);
        Row {
            what: case.what,
            by: case.by,
            batch: case.batch,
            least_us: us[0],
            median_us: us[us.len() / 2],
        }
    });
    Ok(Figures(rows.collect()))
}

fn route(keys: &[PublicKey]) -> Vec<Hop<'_>> {
    let last = keys.len() - 1;
    keys.iter()
        .enumerate()
        .map(|(at, key)| Hop {
            key,
            address: &[1; ADDRESS_LEN],
            delay_ms: if at == last { 0 } else { 10 },
        })
        .collect()
}

fn packets(route: &[Hop<'_>]) -> Result<Vec<Packet>, BuildError> {
    let mut rng = Rng::from_seed([1; 32]);
    let mut one = || {
        let mut packet = Packet::zeroed();
        build(
            DIALECT,
            &mut rng,
            route,
            &[1; ADDRESS_LEN],
            &[2; MESSAGE_LEN],
            &mut packet,
        )?;
        Ok(packet)
    };
    (0..64).map(|_| one()).collect()
}

/// Adds a hop on an engine, in batches of each size.
pub fn hops<'a>(
    engine: &'static dyn Engine,
    packets: &'a [Packet],
    secret: [u8; 32],
    cases: &mut Vec<Case<'a>>,
) {
    for batch in BATCHES {
        let peeler = Peeler::with_engine(SecretKey::from_bytes(secret), DIALECT, engine);
        let mut results = Vec::with_capacity(batch);
        let mut mine: Vec<_> = (0..batch).map(|_| Packet::zeroed()).collect();
        let run = move || {
            for (mine, packet) in mine.iter_mut().zip(packets) {
                *mine.as_bytes_mut() = *packet.as_bytes();
            }
            results.clear();
            timed(|| peeler.peel_batch(&mut mine, &mut |_, _| {}, &mut results))
        };
        cases.push(Case {
            what: HOP,
            by: engine.name(),
            batch,
            run: Box::new(run),
        });
    }
}

/// Building takes the engine that is chosen for the program. It is one of [`engines`], so it is there.
fn choose(engine: &dyn Engine) {
    let _ = use_engine(engine.name());
}

fn builds<'a>(engine: &'static dyn Engine, route: &'a [Hop<'a>], cases: &mut Vec<Case<'a>>) {
    for batch in BATCHES {
        let mut rng = Rng::from_seed([4; 32]);
        let mut packets: Vec<_> = (0..batch).map(|_| Packet::zeroed()).collect();
        let run = move || {
            choose(engine);
            let mut outgoing: Vec<_> = packets
                .iter_mut()
                .map(|packet| Outgoing {
                    route,
                    destination: &[1; ADDRESS_LEN],
                    packet,
                })
                .collect();
            timed(|| build_batch(DIALECT, &mut rng, &mut outgoing))
        };
        cases.push(Case {
            what: BUILD,
            by: engine.name(),
            batch,
            run: Box::new(run),
        });
    }
}

fn surbs<'a>(engine: &'static dyn Engine, route: &'a [Hop<'a>], cases: &mut Vec<Case<'a>>) {
    for batch in BATCHES {
        let mut rng = Rng::from_seed([5; 32]);
        let mut made = Vec::with_capacity(batch);
        let run = move || {
            choose(engine);
            made.clear();
            let requests = vec![SurbRequest { route, id: &[1; 16] }; batch];
            timed(|| build_surbs(DIALECT, &mut rng, &requests, &mut made))
        };
        cases.push(Case {
            what: SURB,
            by: engine.name(),
            batch,
            run: Box::new(run),
        });
    }
}

fn prepares<'a>(engine: &'static dyn Engine, route: &'a [Hop<'a>], cases: &mut Vec<Case<'a>>) {
    for batch in BATCHES {
        let mut rng = Rng::from_seed([6; 32]);
        let mut prepared = Vec::with_capacity(batch);
        let routes = vec![route; batch];
        let run = move || {
            choose(engine);
            prepared.clear();
            timed(|| prepare(DIALECT, &mut rng, &routes, &mut prepared))
        };
        cases.push(Case {
            what: PREPARE,
            by: engine.name(),
            batch,
            run: Box::new(run),
        });
    }
    let mut rng = Rng::from_seed([7; 32]);
    let (mut prepared, mut packet) = (Vec::with_capacity(8), Packet::zeroed());
    let run = move || {
        choose(engine);
        if prepared.is_empty() {
            // The route was built with before.
            let _ = prepare(DIALECT, &mut rng, &[route; 8], &mut prepared);
        }
        let next = prepared.pop();
        timed(|| {
            if let Some(next) = next {
                next.seal(&[1; ADDRESS_LEN], &mut packet);
            }
        })
    };
    cases.push(Case {
        what: SEAL,
        by: engine.name(),
        batch: 1,
        run: Box::new(run),
    });
}

impl Figures {
    /// The least time of a case, microseconds a packet.
    #[must_use]
    pub fn least(&self, what: &str, by: &str, batch: usize) -> Option<f64> {
        let is_it = |row: &&Row| row.what == what && row.by == by && row.batch == batch;
        self.0.iter().find(is_it).map(|row| row.least_us)
    }

    /// The least of any batch.
    #[must_use]
    pub fn best(&self, what: &str, by: &str) -> Option<f64> {
        let rows = self.0.iter().filter(|row| row.what == what && row.by == by);
        rows.map(|row| row.least_us).min_by(f64::total_cmp)
    }

    /// How many times as long as our best engine in batches of 64 something takes; what has no batches, as it alone.
    #[must_use]
    pub fn ratio(&self, row: &Row) -> Option<f64> {
        let (best, _) = best_and_portable();
        let ours = self.least(row.what, best, 64).or(self.least(row.what, best, 1));
        Some(row.least_us / ours?)
    }

    /// For people.
    #[must_use]
    pub fn table(&self, rounds: u32) -> String {
        let mut text = format!(
            "Microseconds for one packet of five hops, 4608 bytes, on one core; {rounds} rounds in which all take turns.\n\
             times: how many times as long as the best engine takes in batches of 64.\n\n\
             {:<8}{:<28}{:>6}{:>10}{:>10}{:>8}\n",
            "what", "by", "batch", "least", "median", "times"
        );
        for row in &self.0 {
            let ratio = self.ratio(row).map_or(String::new(), |r| format!("{r:.2}"));
            let _ = writeln!(
                text,
                "{:<8}{:<28}{:>6}{:>10.2}{:>10.2}{ratio:>8}",
                row.what, row.by, row.batch, row.least_us, row.median_us
            );
        }
        text
    }

    /// For programs; the keys are explained in `docs/performance.md`.
    #[must_use]
    pub fn json(&self, rounds: u32) -> Value {
        let (best, portable) = best_and_portable();
        let row = |row: &Row| {
            json!({
                "what": row.what,
                "by": row.by,
                "batch": row.batch,
                "least_us": row.least_us,
                "median_us": row.median_us,
                "times": self.ratio(row),
            })
        };
        json!({
            "engine": best,
            "engine_portable": portable,
            "rounds": rounds,
            "hop_us": self.least(HOP, best, 64),
            "hop_one_us": self.least(HOP, best, 1),
            "hop_portable_us": self.best(HOP, portable),
            "build_us": self.least(BUILD, best, 64),
            "build_one_us": self.least(BUILD, best, 1),
            "build_portable_us": self.best(BUILD, portable),
            "surb_us": self.least(SURB, best, 64),
            "prepare_us": self.least(PREPARE, best, 64),
            "prepare_8_us": self.least(PREPARE, best, 8),
            "seal_us": self.least(SEAL, best, 1),
            // Of others' packets: `compare/` measures them, this binary doesn't hold them.
            "peer_hop_us": self.least(HOP, PEER, 1),
            "peer_build_us": self.least(BUILD, PEER, 1),
            "plain_hop_us": self.least(HOP, PLAIN, 1),
            "rows": self.0.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Nym's packet, which `compare/` puts beside ours.
pub const PEER: &str = "nym sphinx-packet";
/// Our packet on nothing but dalek and RustCrypto, used as anyone would, which `compare/` measures too.
pub const PLAIN: &str = "plain dalek + RustCrypto";

/// The names of this CPU's best engine, and of its best that needs no wide vectors.
fn best_and_portable() -> (&'static str, &'static str) {
    let best = engines().next().map_or("", Engine::name);
    let portable = engines().map(Engine::name).find(|name| *name != "ifma");
    (best, portable.unwrap_or(best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_its_rows_and_the_choice_of_the_engine_is_as_before() {
        let before = engine().name();
        let figures = measure(1, Vec::new()).expect("five hops can be built");
        assert_eq!(engine().name(), before);
        for engine in engines() {
            assert!(figures.least(SEAL, engine.name(), 1).is_some_and(|us| us > 0.0));
            for what in [HOP, BUILD, SURB, PREPARE] {
                for batch in BATCHES {
                    assert!(
                        figures
                            .least(what, engine.name(), batch)
                            .is_some_and(|us| us > 0.0)
                    );
                }
            }
        }
        let json = figures.json(1);
        for key in ["hop_us", "hop_portable_us", "build_us", "prepare_us", "seal_us"] {
            assert!(json[key].as_f64().is_some_and(|us| us > 0.0), "{key}");
        }
        assert!(
            json["peer_hop_us"].is_null(),
            "the binary holds nobody else's packet"
        );
        assert_eq!(figures.table(1).lines().count(), 4 + figures.0.len());
    }
}
