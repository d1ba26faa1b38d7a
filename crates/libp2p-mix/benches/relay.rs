//! What the transport of one hop costs a relay: receive, queue, send, no cryptography of packets.
//!
//! `cargo bench -p libp2p-mix` prints four rows: over TCP and over QUIC, at 10,000 packets a second and as fast as they
//! come. 16 peers send 4608-byte frames to the relay and it passes each on to one of 16 others, drawn at random; all
//! over loopback in this process, the relay with a runtime of its own, and only the CPU of that runtime's threads is
//! counted (Linux). With `-- tcp` or `-- quic` only those rows, with `-- 20` each row measures for 20 s rather than 5.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints, and fails by stopping"
)]

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
use libp2p_mix::link::{Behaviour, Config, Control, Event, Frame, FrameLen, Receiver, SendError};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

const LEN: usize = 4608;
const PEERS: usize = 16;
const RATE_PER_S: f64 = 10_000.0;
/// Most frames under way when they are sent as fast as they come: less than the queues hold, so that none is refused.
const UNDER_WAY: u64 = 2048;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds = args.iter().find_map(|a| a.parse().ok()).unwrap_or(5);
    let chosen =
        |name: &str| args.iter().all(|a| a != "tcp" && a != "quic") || args.iter().any(|a| a == name);
    println!(
        "transport            frames/s  CPU us/frame   of the relay's threads, {PEERS} peers in, {PEERS} out"
    );
    for (short, name, listen) in [
        ("tcp", "TCP+Noise+yamux", "/ip4/127.0.0.1/tcp/0"),
        ("quic", "QUIC", "/ip4/127.0.0.1/udp/0/quic-v1"),
    ] {
        if !chosen(short) {
            continue;
        }
        for (rate, label) in [(Some(RATE_PER_S), "10,000/s"), (None, "saturating")] {
            let (rate, us) = measure(listen, rate, Duration::from_secs(seconds));
            println!("{name:15} {rate:12.0} {us:13.1}   {label}");
        }
    }
}

fn measure(listen: &str, rate: Option<f64>, time: Duration) -> (f64, f64) {
    // The relay's threads are those that carry the name.
    let relay = runtime("relay");
    let others = runtime("others");
    let (peer, address, control, receiver) = relay.block_on(spawn(listen));
    let done = Arc::new(AtomicBool::new(false));
    let delivered = Arc::new(AtomicU64::new(0));
    let sources: Vec<Control> = (0..PEERS)
        .map(|_| {
            let (_, _, source, _) = others.block_on(spawn(listen));
            source.add_peer(peer, vec![address.clone()]);
            source.connect(peer);
            source
        })
        .collect();
    let sinks: Vec<PeerId> = (0..PEERS)
        .map(|_| {
            let (sink, address, _, mut receiver) = others.block_on(spawn(listen));
            control.add_peer(sink, vec![address]);
            control.connect(sink);
            let delivered = delivered.clone();
            others.spawn(async move {
                let mut events = Vec::new();
                while receiver.recv_many(&mut events, 256).await > 0 {
                    let frames = events.drain(..).filter(|e| matches!(e, Event::Frame { .. }));
                    delivered.fetch_add(frames.count() as u64, Relaxed);
                }
            });
            sink
        })
        .collect();
    relay.spawn(forward(receiver, control, sinks));
    let sending = thread::spawn({
        let (done, delivered) = (done.clone(), delivered.clone());
        move || match rate {
            Some(rate) => paced(&sources, peer, rate, &done),
            None => saturating(&sources, peer, &delivered, &done),
        }
    });
    // Until all are connected and windows have grown.
    while delivered.load(Relaxed) < 2 * UNDER_WAY {
        thread::sleep(Duration::from_millis(1));
    }
    let (frames, cpu, start) = (delivered.load(Relaxed), cpu_ns("relay"), Instant::now());
    thread::sleep(time);
    let frames = (delivered.load(Relaxed) - frames) as f64;
    let (cpu, elapsed) = (cpu_ns("relay") - cpu, start.elapsed());
    done.store(true, Relaxed);
    sending.join().unwrap();
    relay.shutdown_timeout(Duration::from_secs(2));
    others.shutdown_timeout(Duration::from_secs(2));
    (frames / elapsed.as_secs_f64(), cpu as f64 / 1e3 / frames)
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .unwrap()
}

async fn spawn(listen: &str) -> (PeerId, Multiaddr, Control, Receiver) {
    let config = Config::new(StreamProtocol::new("/relay"), FrameLen::Exact(LEN))
        .with_send_queue_len(1024)
        .with_receive_queue_len(2 * UNDER_WAY as usize);
    let (behaviour, control, receiver) = Behaviour::new(config);
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
    (peer, address, control, receiver)
}

/// The relay: takes what has come, sorts it by next hop, queues it.
async fn forward(mut receiver: Receiver, control: Control, sinks: Vec<PeerId>) {
    let (mut events, mut draw) = (Vec::new(), Draw(1));
    let mut sorted: Vec<Vec<Frame>> = sinks.iter().map(|_| Vec::new()).collect();
    while receiver.recv_many(&mut events, 64).await > 0 {
        for event in events.drain(..) {
            if let Event::Frame { frame, .. } = event {
                sorted[draw.below(sinks.len())].push(frame);
            }
        }
        for (sink, frames) in sinks.iter().zip(&mut sorted) {
            match control.try_send_many(sink, frames) {
                Ok(()) => {}
                // Not connected yet, at the start.
                Err(SendError::Full) => frames.clear(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Frames one by one at times of a Poisson process, from a peer drawn at random.
fn paced(sources: &[Control], relay: PeerId, rate_per_s: f64, done: &AtomicBool) {
    let (mut due, mut draw) = (Instant::now(), Draw(2));
    while !done.load(Relaxed) {
        due += Duration::from_secs_f64(-draw.unit().ln() / rate_per_s);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Full at the start: the frame is left out.
        let _ = sources[draw.below(sources.len())].try_send(&relay, frame());
    }
}

/// As many as are let under way, from all peers in turn.
fn saturating(sources: &[Control], relay: PeerId, delivered: &AtomicU64, done: &AtomicBool) {
    let mut sent = 0;
    while !done.load(Relaxed) {
        if sent >= delivered.load(Relaxed) + UNDER_WAY {
            thread::sleep(Duration::from_micros(100));
            continue;
        }
        for source in sources {
            let mut frames: Vec<Frame> = (0..16).map(|_| frame()).collect();
            if source.try_send_many(&relay, &mut frames).is_ok() {
                sent += 16;
            }
        }
    }
}

fn frame() -> Frame {
    vec![7; LEN].into_boxed_slice()
}

/// A xorshift generator: what is drawn here need not be unforeseen.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        (self.next() + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// CPU time so far of this process's threads of that name, in nanoseconds.
fn cpu_ns(name: &str) -> u64 {
    let task = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|t| t.unwrap().path());
    task.filter(|t| fs::read_to_string(t.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .filter_map(|t| fs::read_to_string(t.join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
