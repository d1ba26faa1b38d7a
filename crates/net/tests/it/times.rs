//! What an observer of sockets has of a client that is now idle and now busy: when its packets leave, when frames come to it,
//! and how many packets come to each gateway.
//!
//! Relays stand on the way from the client to its gateway and from the last mixes to both gateways, and take the time of all
//! that passes. Idle and busy spells alternate within one client, in random order within each pair, so that whatever else the
//! machine does hits both; the pairs' differences are tested, and their own spread says how small a difference would have been
//! found. Nothing here depends on how fast the machine is: one too busy to find anything says so. Once over TCP in a network that has
//! nothing else to do, once over QUIC while another client of the same gateway brings it all the load that it can.

#[path = "../../../sim/src/two_samples.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is the simulator's")]
mod two_samples;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{self, EXIT, GATEWAY, Net, RunningClient, verified, within};
use libp2p::Multiaddr;
use mizzle_base::{Profile, Rng, Time};
use mizzle_net::clock::Clock;
use mizzle_net::host::Transport;
use mizzle_net::wire;
use mizzle_traffic::draw;
use mizzle_traffic::pattern::{Pattern, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use two_samples::{Demand, of_pairs, power_for_pairs};

/// Differences as large as by chance once in ten thousand comparisons count as such.
const DEMAND: Demand = Demand {
    alpha: 0.0001,
    power: 0.9,
};
const TENTH_MS: f64 = 0.1;
/// As many pairs as it takes to find a tenth of a millisecond, within these bounds. That only their spread is looked at, not
/// their mean, keeps the test honest.
const PAIRS: std::ops::RangeInclusive<usize> = 16..=40;
/// The least length of a spell; a random tenth more keeps their ends off the ticks of timers.
const SPELL: Duration = Duration::from_millis(800);
/// After each: what was under way arrives.
const PAUSE: Duration = Duration::from_millis(500);
/// A frame on a TCP connection with what Noise and yamux add. Nothing else of theirs is half as long.
const ON_THE_WIRE: f64 = 4_665.0;
/// A datagram that carries a part of a frame is longer, and one with acknowledgements alone shorter. Over QUIC such datagrams are
/// counted, some four for a frame.
const PART_OF_A_FRAME: usize = 400;

/// 100 packets a second up, 200 frames down.
fn profile() -> Profile {
    Profile {
        payload_per_s: 80.0,
        loop_per_s: 10.0,
        drop_per_s: 10.0,
        downlink_per_s: 200.0,
        ..Profile::browse()
    }
}

/// When frames passed a relay: towards the node, and back.
#[derive(Clone, Default)]
struct Passed([Arc<Mutex<Vec<Time>>>; 2]);

impl Passed {
    fn up(&self) -> Vec<Time> {
        self.0[0].lock().unwrap().clone()
    }

    fn down(&self) -> Vec<Time> {
        self.0[1].lock().unwrap().clone()
    }
}

/// A relay in front of `to`.
fn relay(transport: Transport, clock: Clock, to: SocketAddr) -> (Multiaddr, Passed) {
    match transport {
        Transport::Tcp => relay_tcp(clock, to),
        Transport::Quic | Transport::Both => relay_quic(clock, to),
    }
}

/// Each peer has a socket of its own towards the node. Its threads end with the test's process.
fn relay_quic(clock: Clock, to: SocketAddr) -> (Multiaddr, Passed) {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = front.local_addr().unwrap().port();
    let passed = Passed::default();
    let [up, down] = passed.0.clone();
    let note = move |seen: &Mutex<Vec<Time>>, n: usize| {
        if n >= PART_OF_A_FRAME {
            seen.lock().unwrap().push(clock.now());
        }
    };
    thread::spawn(move || {
        let (mut behind, mut buffer) = (BTreeMap::<SocketAddr, Arc<UdpSocket>>::new(), vec![0; 65_536]);
        // An error is of a peer that has gone.
        loop {
            let Ok((n, from)) = front.recv_from(&mut buffer) else {
                continue;
            };
            note(&up, n);
            let socket = behind.entry(from).or_insert_with(|| {
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
                socket.connect(to).unwrap();
                let (back, front, down) = (Arc::clone(&socket), Arc::clone(&front), Arc::clone(&down));
                thread::spawn(move || {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(n) = back.recv(&mut buffer) {
                        note(&down, n);
                        let _ = front.send_to(&buffer[..n], from);
                    }
                });
                socket
            });
            let _ = socket.send(&buffer[..n]);
        }
    });
    let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
    (address.parse().unwrap(), passed)
}

/// Its threads end with their connections.
fn relay_tcp(clock: Clock, to: SocketAddr) -> (Multiaddr, Passed) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Passed::default();
    let seen = passed.clone();
    thread::spawn(move || {
        for from in listener.incoming() {
            let (from, to) = (from.unwrap(), TcpStream::connect(to).unwrap());
            for (direction, seen) in seen.0.iter().enumerate() {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                from.set_nodelay(true).unwrap();
                to.set_nodelay(true).unwrap();
                if direction == 1 {
                    std::mem::swap(&mut from, &mut to);
                }
                let seen = Arc::clone(seen);
                thread::spawn(move || pass(clock, &mut from, &mut to, &seen));
            }
        }
    });
    (format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap(), passed)
}

fn pass(clock: Clock, from: &mut TcpStream, to: &mut TcpStream, seen: &Mutex<Vec<Time>>) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let (now, frames) = (clock.now(), (n as f64 / ON_THE_WIRE).round() as usize);
        seen.lock().unwrap().extend(std::iter::repeat_n(now, frames));
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// All moments at which packets of the one client here were to leave.
static PLANNED: Mutex<Vec<Time>> = Mutex::new(Vec::new());

/// A pattern that leaves a note of what it draws.
struct Noted(Box<dyn Pattern>);

impl Pattern for Noted {
    fn next(&mut self, rng: &mut Rng, last: Time) -> Time {
        let next = self.0.next(rng, last);
        PLANNED.lock().unwrap().push(next);
        next
    }
}

fn noted(profile: &Profile) -> Vec<Stream> {
    let note = |Stream { pattern, shares }| Stream {
        pattern: Box::new(Noted(pattern)),
        shares,
    };
    Stream::of_profile(profile).into_iter().map(note).collect()
}

/// How late each packet was that left within the spells, in ms: the first that passed after its moment, in order.
fn lateness_ms(planned: &[Time], passed: &[Time]) -> Vec<(Time, f64)> {
    let mut out = Vec::new();
    let mut passed = passed.iter().peekable();
    for &at in planned {
        while passed.peek().is_some_and(|&&p| p < at) {
            passed.next();
        }
        // One that never left: nothing for a long time, which the next one's packet comes after.
        if let Some(&&p) = passed.peek()
            && p.since(at) < Duration::from_millis(500)
        {
            out.push((p, p.since(at).as_secs_f64() * 1e3));
            passed.next();
        }
    }
    out
}

/// Where in its interval each frame of a constant rate came, in ms after the earliest usual one.
fn phase_ms(per_s: f64, passed: &[Time], from: Time) -> Vec<(Time, f64)> {
    let interval = 1e3 / per_s;
    let at_ms = |at: &Time| at.since(from).as_secs_f64() * 1e3;
    // Around the circle: the direction in which most lie is the middle.
    let angle = |ms: f64| ms / interval * std::f64::consts::TAU;
    let (sin, cos) = passed.iter().fold((0.0, 0.0), |(s, c), at| {
        let a = angle(at_ms(at));
        (s + a.sin(), c + a.cos())
    });
    let middle = sin.atan2(cos) / std::f64::consts::TAU * interval;
    let off = |at: &Time| (at_ms(at) - middle + interval / 2.0).rem_euclid(interval);
    passed.iter().map(|at| (*at, off(at))).collect()
}

struct Spell {
    from: Time,
    until: Time,
}

impl Spell {
    fn holds(&self, at: Time) -> bool {
        self.from <= at && at < self.until
    }

    fn median(&self, values: &[(Time, f64)]) -> f64 {
        let mut mine: Vec<f64> = values.iter().filter(|v| self.holds(v.0)).map(|v| v.1).collect();
        mine.sort_unstable_by(f64::total_cmp);
        mine.get(mine.len() / 2).copied().unwrap_or(0.0)
    }

    fn count(&self, passed: &[Time]) -> f64 {
        passed.iter().filter(|at| self.holds(**at)).count() as f64
    }
}

/// The mean difference of a figure's pairs, standardised, and its standard error.
fn compare(pairs: &[(Spell, Spell)], figure: impl Fn(&Spell) -> f64) -> Option<(f64, f64)> {
    let differences: Vec<f64> = pairs
        .iter()
        .map(|(idle, busy)| figure(busy) - figure(idle))
        .collect();
    of_pairs(&differences)
}

/// Says what a time's pairs tell, and fails if they tell of a tenth of a millisecond.
fn judge_time(what: &str, pairs: &[(Spell, Spell)], figure: impl Fn(&Spell) -> f64) {
    let (z, error) = compare(pairs, figure).unwrap();
    let power = power_for_pairs(error, TENTH_MS, DEMAND);
    println!(
        "{what}: busy - idle = {:.3} ms, z = {z:.2}; {TENTH_MS} ms would be found with power {power:.3}",
        z * error
    );
    if power < DEMAND.power {
        println!("  too little: this machine is too busy to tell");
    }
    // Less than that may be there: what a busy program costs the machine besides.
    assert!(
        z.abs() < DEMAND.critical() || (z * error).abs() < TENTH_MS,
        "{what} tells when the client is busy: {:.3} ms of difference, z = {z:.2}",
        z * error
    );
}

/// The same of how many there were; counts of Poisson processes vary by themselves, whatever the machine does.
fn judge_count(what: &str, pairs: &[(Spell, Spell)], figure: impl Fn(&Spell) -> f64) {
    let mean = pairs.iter().map(|(idle, _)| figure(idle)).sum::<f64>() / pairs.len() as f64;
    let Some((z, error)) = compare(pairs, figure) else {
        return println!("{what}: {mean:.3}, never anything else");
    };
    println!(
        "{what}: {mean:.3}, busy - idle = {:.3}, z = {z:.2}; {:.3} would be found with power 0.9",
        z * error,
        DEMAND.quantiles() * error
    );
    assert!(
        z.abs() < DEMAND.critical(),
        "{what} tells when the client is busy: z = {z:.2}"
    );
}

/// Fetches and uploads until the time is over; how many bytes came.
async fn keep_busy(client: &RunningClient, server: SocketAddr, until: tokio::time::Instant) -> usize {
    let mut stream = client.open(server).await.unwrap();
    let (mut got, mut buffer) = (0, vec![0; 16 * 1024]);
    while tokio::time::Instant::now() < until {
        within("an upload goes on", stream.write_all(&buffer))
            .await
            .unwrap();
        within("its echo comes", stream.read_exact(&mut buffer))
            .await
            .unwrap();
        got += buffer.len();
    }
    got
}

/// The tests take turns: each looks at times.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn sockets_do_not_tell_when_a_client_is_busy() {
    compare_idle_and_busy(Transport::Tcp, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_quic_do_not_tell_when_a_client_is_busy_while_its_gateway_is_busy_with_another() {
    compare_idle_and_busy(Transport::Quic, true).await;
}

async fn compare_idle_and_busy(transport: Transport, under_load: bool) {
    let _turn = TURN.lock().await;
    PLANNED.lock().unwrap().clear();
    let mut to_gateways = Vec::new();
    let net = Net::start_with(transport, profile(), |clock, n, addresses| {
        if n < GATEWAY {
            return addresses;
        }
        let (address, passed) = relay(transport, clock, wire::socket_address(&addresses[0]).unwrap());
        to_gateways.push(passed);
        vec![address]
    })
    .await;
    // The client has a relay of its own.
    let gateway = wire::socket_address(&net.nodes[GATEWAY].addresses[0]).unwrap();
    let (address, link) = relay(transport, net.clock, gateway);
    let mut content = net.content.clone();
    content.nodes[GATEWAY].addresses = vec![address.to_string()];
    let document = verified(&content, &net.authority, net.clock);
    let bounds = mizzle_client::Config::default().with_danger_own_pattern(noted);
    let client = net.client_with(bounds, GATEWAY, document).await.unwrap();
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    // Never idle, from before the first spell to after the last.
    let load = if under_load {
        let other = net.client().await;
        let over = tokio::time::Instant::now() + Duration::from_secs(3_600);
        Some(tokio::spawn(async move { keep_busy(&other, server, over).await }))
    } else {
        None
    };
    let started = net.clock.now();
    let (mut rng, mut pairs, mut got) = (common::rng(), Vec::new(), 0);
    let lateness = || {
        let mut planned = PLANNED.lock().unwrap().clone();
        planned.sort_unstable();
        lateness_ms(&planned, &link.up())
    };
    let phases = || phase_ms(profile().downlink_per_s, &link.down(), started);
    let finds = |pairs: &[(Spell, Spell)], values: &[(Time, f64)]| {
        let error = compare(pairs, |s| s.median(values)).map_or(f64::INFINITY, |c| c.1);
        power_for_pairs(error, TENTH_MS, DEMAND) >= DEMAND.power
    };
    while pairs.len() < *PAIRS.end()
        && (pairs.len() < *PAIRS.start() || !(finds(&pairs, &lateness()) && finds(&pairs, &phases())))
    {
        let idle_first = draw::below(&mut rng, 2) == 0;
        let mut spells = Vec::new();
        for busy in [!idle_first, idle_first] {
            tokio::time::sleep(PAUSE).await;
            let length = SPELL.mul_f64(1.0 + draw::unit(&mut rng) / 10.0);
            let (from, over) = (net.clock.now(), tokio::time::Instant::now() + length);
            if busy {
                got += keep_busy(&client, server, over).await;
            }
            tokio::time::sleep_until(over).await;
            // By the clock and not when the last bytes were there, which is just after a frame.
            let until = from + length;
            spells.push(Spell { from, until });
        }
        if !idle_first {
            spells.reverse();
        }
        let busy = spells.pop().unwrap();
        pairs.push((spells.pop().unwrap(), busy));
    }
    println!(
        "{transport:?}, under load: {under_load}; {} pairs; {got} bytes came back in busy spells",
        pairs.len()
    );
    assert!(got > 0);
    if let Some(load) = load {
        assert!(!load.is_finished(), "the load ended");
        load.abort();
    }
    let (up, down) = (lateness(), phases());
    judge_time("packets leave later", &pairs, |s| s.median(&up));
    judge_time("frames come later", &pairs, |s| s.median(&down));
    let [own, other] = [to_gateways[0].up(), to_gateways[EXIT - GATEWAY].up()];
    let planned = PLANNED.lock().unwrap().clone();
    let link_up = link.up();
    judge_count("packets up, of one that is planned", &pairs, |s| {
        s.count(&link_up) / s.count(&planned).max(1.0)
    });
    let per_s = |passed: &[Time], s: &Spell| s.count(passed) / s.until.since(s.from).as_secs_f64();
    let link_down = link.down();
    judge_count("frames down, per second", &pairs, |s| per_s(&link_down, s));
    judge_count("packets to the own gateway, per second", &pairs, |s| {
        per_s(&own, s)
    });
    judge_count("packets to the other gateway, per second", &pairs, |s| {
        per_s(&other, s)
    });
    judge_count("share of the other gateway", &pairs, |s| {
        s.count(&other) / (s.count(&own) + s.count(&other)).max(1.0)
    });
}
