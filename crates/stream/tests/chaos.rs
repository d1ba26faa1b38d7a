//! Random programs on random links: whatever they do, nobody breaks the protocol, nothing stalls, all is forgotten.
//!
//! `MIZZLE_SEEDS=from..to cargo test --release -p mizzle-stream --test chaos` runs other seeds than the fixed ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod model;

use std::collections::BTreeMap;

use mizzle_base::Rng;
use mizzle_stream::*;
use model::*;
use rand_core::{Rng as _, SeedableRng as _};

#[derive(Default)]
struct Streams {
    programs: BTreeMap<(Side, usize, StreamId), Program>,
    opened: u64,
    over: u64,
}

fn chaos(seed: u64) {
    let mut rng = Rng::seed_from_u64(seed ^ 0xc4a05);
    let loss = f64::from((rng.next_u32() % 4) * 10) / 100.0;
    let mut world = World::new(seed, Link::lossy(loss));
    let damage = rng.next_u32().is_multiple_of(2);
    let mut noise = Rng::seed_from_u64(seed);
    if damage {
        world.tamper = Some(Box::new(move |_, _, body| match noise.next_u32() % 20 {
            0 => Fate::Twice,
            1 => {
                let at = noise.next_u32() as usize % body.len();
                body[at] ^= 1;
                Fate::Deliver
            }
            _ => Fate::Deliver,
        }));
    }
    let sessions = 1 + rng.next_u32() as usize % 4;
    (0..sessions).for_each(|_| {
        world.connect();
    });
    let mut streams = Streams::default();
    let start = world.now;
    while world.now.since(start).as_secs() < 20 {
        if rng.next_u32().is_multiple_of(400) {
            let i = rng.next_u32() as usize % sessions;
            let now = world.now;
            if let Ok(id) = world.clients[i].open(now, &Target::name("a.b", 1).unwrap()) {
                let mut program = Program::new(u64::from(rng.next_u32() % 200_000), 1, 2);
                program.pump(&mut world.clients[i], id, now);
                streams.programs.insert((Side::Client, i, id), program);
                streams.opened += 1;
            }
        }
        if rng.next_u32().is_multiple_of(3_000)
            && let Some(&(side, i, id)) = streams.programs.keys().nth(rng.next_u32() as usize % 7)
            && let Some(session) = world.session(side, i)
        {
            session.reset(id, 9);
            streams.programs.remove(&(side, i, id));
        }
        step(&mut world, &mut streams, &mut rng);
    }
    // Everything that was begun ends, and then the sessions do.
    while world.clients.iter().any(|c| !c.is_closed() && c.streams() > 0) || !world.exits.is_empty() {
        step(&mut world, &mut streams, &mut rng);
        let left: Vec<usize> = world.clients.iter().map(Session::streams).collect();
        let after = world.now.since(start).as_secs();
        assert!(
            after < 1_000,
            "seed {seed} loss {loss}: {left:?} and {} exits left",
            world.exits.len()
        );
    }
    assert!(!world.drops.contains_key(&DropReason::Protocol), "seed {seed}");
    assert_eq!(world.acceptor.sessions(), 0, "seed {seed}");
}

fn step(world: &mut World, streams: &mut Streams, rng: &mut Rng) {
    world.step();
    let now = world.now;
    for (side, i, event) in world.take_events() {
        match event {
            Event::Incoming(id, _) => {
                let session = world.exits.get_mut(&i).unwrap();
                if rng.next_u32().is_multiple_of(5) {
                    session.open_failed(id, OpenError::Refused);
                } else {
                    session.opened(id);
                    let mut program = Program::new(u64::from(rng.next_u32() % 500_000), 2, 1);
                    program.pump(session, id, now);
                    streams.programs.insert((side, i, id), program);
                }
            }
            Event::Readable(id) | Event::Writable(id) => {
                if let Some(program) = streams.programs.get_mut(&(side, i, id))
                    && let Some(session) = world.session(side, i)
                {
                    program.pump(session, id, now);
                }
            }
            Event::OpenFailed(id, error) => {
                assert!(
                    error == OpenError::Refused || error == OpenError::Closed,
                    "seed {}: {error}",
                    world.seed
                );
                streams.programs.remove(&(side, i, id));
                streams.over += 1;
            }
            Event::Reset(id, _) => {
                streams.programs.remove(&(side, i, id));
            }
            Event::Finished(id) => {
                let program = &streams.programs[&(side, i, id)];
                assert!(program.read > 0 || program.peer_salt > 0);
            }
            Event::Closed(reason) => {
                let fine = matches!(
                    reason,
                    CloseReason::Idle | CloseReason::Peer | CloseReason::Timeout
                );
                assert!(fine, "seed {}: {side:?} {reason}", world.seed);
                assert!(
                    side == Side::Exit || reason != CloseReason::Timeout,
                    "seed {}",
                    world.seed
                );
            }
            Event::Opened(_) | Event::Delivered(_) | Event::Stalled(_) => {}
        }
    }
}

#[test]
fn random_programs_on_random_links_all_end() {
    let seeds = std::env::var("MIZZLE_SEEDS").unwrap_or_else(|_| "0..12".into());
    let (from, to) = seeds.split_once("..").unwrap();
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        chaos(seed);
    }
}
