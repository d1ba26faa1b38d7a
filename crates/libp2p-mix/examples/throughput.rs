//! What a frame costs the CPU, sender and receiver together: `cargo run --release --example throughput`.
//!
//! One peer sends 4608-byte frames to another over loopback, both in this process: as fast as it goes, then paced.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "an example"
)]

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
use libp2p_mix::link::{Behaviour, Config, Event, FrameLen, SendError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

async fn spawn(behaviour: Behaviour, listen: &str) -> (PeerId, Multiaddr) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .build();
    let peer = *swarm.local_peer_id();
    swarm.listen_on(listen.parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move {
        loop {
            swarm.next().await;
        }
    });
    (peer, address)
}

/// User and system time of this process in clock ticks of 10 ms (Linux).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("transport                 frames/s   CPU µs/frame (sender and receiver)");
    for (name, listen) in [
        ("QUIC", "/ip4/127.0.0.1/udp/0/quic-v1"),
        ("TCP+Noise+yamux", "/ip4/127.0.0.1/tcp/0"),
    ] {
        for (pace, frames) in [(None, 200_000_u64), (Some(10), 30_000), (Some(1), 5_000)] {
            let config = || Config::new(StreamProtocol::new("/throughput"), FrameLen::Exact(4608));
            let (a, control, _events) = Behaviour::new(config());
            let (b, _, mut receiver) = Behaviour::new(config());
            spawn(a, listen).await;
            let (peer, address) = spawn(b, listen).await;
            control.add_peer(peer, vec![address]);
            control.connect(peer);
            while !matches!(receiver.recv().await, Some(Event::Connected { .. })) {}
            let (start, cpu_start) = (Instant::now(), cpu());
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(1));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                for n in 0..frames {
                    let mut frame = vec![n as u8; 4608].into_boxed_slice();
                    if pace.is_some_and(|pace| n % pace == 0) {
                        ticks.tick().await;
                    } else if pace.is_some() {
                        // Each frame alone: let the connection write this one first.
                        tokio::task::yield_now().await;
                    }
                    while let Err((error, back)) = control.try_send(&peer, frame) {
                        if error != SendError::Full {
                            panic!("{error}");
                        }
                        frame = back;
                        tokio::task::yield_now().await;
                    }
                }
            });
            let mut events = Vec::new();
            let mut got = 0;
            while got < frames {
                receiver.recv_many(&mut events, 256).await;
                got += events
                    .drain(..)
                    .filter(|e| matches!(e, Event::Frame { .. }))
                    .count() as u64;
            }
            let label = pace.map_or(name.to_owned(), |pace| format!("{name}, paced {pace}/ms"));
            let rate = frames as f64 / start.elapsed().as_secs_f64();
            let cost = (cpu() - cpu_start).as_secs_f64() * 1e6 / frames as f64;
            println!("{label:24} {rate:9.0}   {cost:6.1}");
        }
    }
}
