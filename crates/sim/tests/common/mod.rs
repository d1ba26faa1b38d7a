//! What the simulations share: servers of the outside world, and a program that fetches from one.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use mizzle_base::{NodeId, Rng, Time};
use mizzle_client::{StreamEvent, StreamKey};
use mizzle_exit::Policy;
use mizzle_sim::{Network, Outside, PUBLIC, Plan, Server};
use mizzle_stream::{Isolation, OpenError, OpenRequest, Target};
use mizzle_traffic::draw;
use rand_core::SeedableRng as _;

/// Answers any first bytes with so many bytes of a pattern, then ends.
pub(crate) struct File(pub(crate) usize);

pub(crate) fn pattern(n: usize) -> Vec<u8> {
    (0..n as u32)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(n)
        .collect()
}

impl Server for File {
    fn data(&mut self, _: &[u8], out: &mut Vec<u8>) -> bool {
        out.extend(pattern(std::mem::take(&mut self.0)));
        true
    }
    fn finished(&mut self, _: &mut Vec<u8>) -> bool {
        true
    }
}

/// Says back what it is told, ends when its peer does.
pub(crate) struct Echo;

impl Server for Echo {
    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(data);
        false
    }
    fn finished(&mut self, _: &mut Vec<u8>) -> bool {
        true
    }
}

pub(crate) const FILE_PORT: u16 = 80;
pub(crate) const ECHO_PORT: u16 = 7;

/// A network with a file of so many bytes at `files.test:80` and an echo at port 7.
pub(crate) fn network(plan: Plan, file: usize) -> Network {
    let mut outside = Outside::default();
    outside.name("files.test", vec![PUBLIC]);
    outside.name(
        "inside.test",
        vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
    );
    outside.serve(SocketAddr::new(PUBLIC, FILE_PORT), move || Box::new(File(file)));
    outside.serve(SocketAddr::new(PUBLIC, ECHO_PORT), || Box::new(Echo));
    Network::new(plan, Policy::default(), outside).unwrap()
}

pub(crate) fn target(name: &str, port: u16) -> Target {
    Target::name(name, port).unwrap()
}

pub(crate) fn fresh(name: &str, port: u16) -> OpenRequest {
    OpenRequest {
        target: target(name, port),
        isolation: Isolation::Fresh,
    }
}

/// Runs until the stream is open or failed.
pub(crate) fn await_open(
    net: &mut Network,
    client: usize,
    key: StreamKey,
    limit: Duration,
) -> Result<(), OpenError> {
    let until = net.now() + limit;
    while net.now() < until {
        for (k, event) in net.events(client) {
            match event {
                StreamEvent::Opened if k == key => return Ok(()),
                StreamEvent::Failed(why) if k == key => return Err(why),
                _ => {}
            }
        }
        net.step();
    }
    panic!("neither opened nor failed within {limit:?}");
}

/// Reads a stream to its end; what came and when the last of it did.
pub(crate) fn read_to_end(
    net: &mut Network,
    client: usize,
    key: StreamKey,
    limit: Duration,
) -> (Vec<u8>, Time) {
    let until = net.now() + limit;
    let mut got = Vec::new();
    while net.now() < until {
        net.step();
        let more = net.read(client, key);
        got.extend_from_slice(&more);
        for (k, event) in net.events(client) {
            match event {
                StreamEvent::Ended if k == key => return (got, net.now()),
                StreamEvent::Failed(why) if k == key => panic!("the stream failed: {why}"),
                _ => {}
            }
        }
    }
    panic!("no end within {limit:?}; {} bytes came", got.len());
}

/// Writes all of `data`, running the network while there is no room.
pub(crate) fn write_all(net: &mut Network, client: usize, key: StreamKey, mut data: &[u8]) {
    while !data.is_empty() {
        let n = net.write(client, key, data);
        data = &data[n..];
        if n == 0 {
            net.step();
        }
    }
}

/// Four of the twelve mixes, which is a third, and at least one of each layer lives.
pub(crate) fn victims(net: &Network, seed: u64) -> BTreeSet<NodeId> {
    let layers: Vec<Vec<NodeId>> = (1..=3)
        .map(|layer| net.document().layer(layer).map(|mix| mix.id).collect())
        .collect();
    let mut rng = Rng::seed_from_u64(seed);
    loop {
        let mut all: Vec<NodeId> = layers.concat();
        let dead: BTreeSet<NodeId> = (0..4)
            .map(|_| all.swap_remove(draw::below(&mut rng, all.len())))
            .collect();
        if layers
            .iter()
            .all(|layer| layer.iter().any(|mix| !dead.contains(mix)))
        {
            return dead;
        }
    }
}
