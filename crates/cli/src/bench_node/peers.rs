//! The node under test between its peers: hosts of the layers before and behind it, and who sends through them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use libp2p::{Multiaddr, PeerId};
use libp2p_mix::link::{Control, Event, Frame, Receiver};
use mizzle_base::document::{Content, Role};
use mizzle_base::{Document, NetworkId, NodeId, Profile, Rng, hex};
use mizzle_mix::Lateness;
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::{self, Host, Transport};
use mizzle_net::node::{self, RunningNode};
use mizzle_net::wire;
use mizzle_sphinx::{ADDRESS_LEN, PublicKey, SecretKey};
use mizzle_traffic::draw;
use rand_core::SeedableRng as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::stock::Stock;
use super::{MEAN_DELAY_MS, Stop, threads};
use crate::assemble::{self, FIRST_EPOCH, Keys, Options, Place, StartError, fork};
use crate::bench::BenchError;
use crate::processes::{Folder, system};

/// On each side of the node.
const PEERS: usize = 16;
const VALID_S: u64 = 86_400;
/// All connections must be there by then.
const CONNECTED: Duration = Duration::from_secs(20);
/// Packets under way when they are sent as fast as they come through: less than the queues of the links hold, many
/// enough for a hundred thousand a second that wait for 20 ms each. Of a small stock a tenth, for what is measured is the
/// time while packets are sent.
const UNDER_WAY: u64 = 6_000;
/// Where nothing comes for so long, what is under way is lost.
const STUCK: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);

/// Who takes part: the same identities in each network of a run, so that packets built once serve in all of them.
pub(super) struct Cast {
    authority: SigningKey,
    name: String,
    /// The node under test, those before it, those behind it, a gateway.
    places: Vec<(Place, [u8; 32])>,
}

const NODE: usize = 0;
const BEFORE: Range<usize> = 1..1 + PEERS;
const BEHIND: Range<usize> = 1 + PEERS..1 + 2 * PEERS;
const GATEWAY: usize = 1 + 2 * PEERS;

impl Cast {
    pub(super) fn draw() -> Result<Self, BenchError> {
        let mut rng = clock::rng().map_err(system)?;
        let place = |role, layer, weight| Place {
            role,
            layer,
            has_exit: false,
            weight,
        };
        let mut places = vec![place(Role::Mix, 2, 0.0)];
        places.extend((0..PEERS).map(|_| place(Role::Mix, 1, 0.0)));
        places.extend((0..PEERS).map(|_| place(Role::Mix, 3, 0.0)));
        places.push(place(Role::Gateway, 0, 1.0));
        Ok(Self {
            authority: SigningKey::from_bytes(&draw::bytes(&mut rng)),
            name: format!("bench-{}", hex::encode(&draw::bytes::<4>(&mut rng))),
            places: places
                .into_iter()
                .map(|place| (place, draw::bytes(&mut rng)))
                .collect(),
        })
    }

    fn keys(&self, at: usize) -> Keys {
        let (_, seed) = &self.places[at];
        Keys::generate(&mut Rng::from_seed(*seed))
    }

    pub(super) fn node_secret(&self) -> SecretKey {
        sphinx(&self.keys(NODE))
    }

    pub(super) fn node_id(&self) -> Result<NodeId, BenchError> {
        Ok(assemble::node_id(&self.keys(NODE))?)
    }

    /// Keys and addresses of a packet's hops: the node, those behind it, a gateway.
    #[expect(clippy::type_complexity, reason = "one, several, one")]
    pub(super) fn way(
        &self,
    ) -> (
        (PublicKey, [u8; ADDRESS_LEN]),
        Vec<(PublicKey, [u8; ADDRESS_LEN])>,
        (PublicKey, [u8; ADDRESS_LEN]),
    ) {
        let hop = |at| {
            let keys = self.keys(at);
            // Without an id it would be in no document, and nothing would start.
            let address = assemble::node_id(&keys).map_or([0; ADDRESS_LEN], |id| id.to_address());
            (sphinx(&keys).public(), address)
        };
        (hop(NODE), BEHIND.map(hop).collect(), hop(GATEWAY))
    }

    /// The document of a network of these, who listen at these addresses.
    pub(super) fn document(&self, addresses: &[Vec<Multiaddr>]) -> Result<Arc<Document>, BenchError> {
        let (clock, mut rng) = (Clock::start(), clock::rng().map_err(system)?);
        let nowhere = [wire::loopback(Transport::Tcp)];
        let nodes = self.places.iter().enumerate().map(|(at, (place, _))| {
            let addresses = addresses.get(at).map_or(&nowhere[..], Vec::as_slice);
            assemble::entry(place, &self.keys(at), addresses, 1, &mut rng)
        });
        let now_s = clock.now().as_s();
        let content = Content {
            network: self.name.clone(),
            sequence: 1,
            epoch: FIRST_EPOCH,
            valid_from_s: now_s,
            valid_until_s: now_s + VALID_S,
            profile: Profile::browse().with_mean_delay_ms(MEAN_DELAY_MS),
            nodes: nodes.collect::<Result<_, StartError>>()?,
        };
        let signed = content.sign(&self.authority).map_err(StartError::from)?;
        let authority = self.authority.verifying_key();
        let document = Document::verify(&signed, &authority, clock.now(), 0).map_err(StartError::from)?;
        Ok(Arc::new(document))
    }
}

/// Of its first epoch, the only one that the bench's document has.
fn sphinx(keys: &Keys) -> SecretKey {
    // They are fresh: the first epoch isn't over.
    keys.first()
        .map_or_else(|| SecretKey::from_bytes([0; 32]), |keys| keys.sphinx)
}

/// What came through, and when.
pub(super) struct Arrivals {
    stock: Arc<Stock>,
    origin: Instant,
    /// Microseconds since the origin, plus one; zero while it isn't sent.
    sent_us: Box<[AtomicU32]>,
    /// Microseconds beyond the delay, plus one; zero while it isn't here.
    late_us: Box<[AtomicU32]>,
    delivered: AtomicU64,
    connected: AtomicUsize,
}

impl Arrivals {
    fn new(stock: Arc<Stock>) -> Self {
        let zeros = || (0..stock.len()).map(|_| AtomicU32::new(0)).collect();
        Self {
            sent_us: zeros(),
            late_us: zeros(),
            origin: Instant::now(),
            delivered: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
            stock,
        }
    }

    pub(super) fn packets(&self) -> usize {
        self.stock.len()
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn now_us(&self) -> u64 {
        self.now().as_micros() as u64
    }

    /// A frame that isn't of the stock is one of the node's own loops.
    fn came(&self, frame: &[u8], now_us: u64) {
        let Some(at) = self.stock.which(frame) else { return };
        let sent_us = u64::from(self.sent_us[at].load(Ordering::Relaxed)).saturating_sub(1);
        let late_us = now_us.saturating_sub(sent_us + self.stock.delay_us(at));
        self.late_us[at].store(late_us as u32 + 1, Ordering::Relaxed);
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Of those packets that were sent: when, and how late each came if it did, in microseconds.
    pub(super) fn of(&self, range: Range<usize>) -> impl Iterator<Item = (u64, Option<u64>)> + '_ {
        range.filter_map(|at| {
            let us = |of: &[AtomicU32]| Some(u64::from(of[at].load(Ordering::Relaxed).checked_sub(1)?));
            Some((us(&self.sent_us)?, us(&self.late_us)))
        })
    }

    /// How late those came that came, sorted.
    pub(super) fn late_us(&self, range: Range<usize>) -> Vec<u64> {
        let mut late: Vec<u64> = self.of(range).filter_map(|(_, late)| late).collect();
        late.sort_unstable();
        late
    }

    /// Until so many came, or nothing for a while; how many are missing.
    pub(super) fn wait_for(&self, sent: u64, grace: Duration, stop: &Stop) -> u64 {
        let (mut last, mut since) = (self.delivered(), Instant::now());
        while self.delivered() < sent && since.elapsed() < grace && !stop.is_set() {
            thread::park_timeout(PAUSE);
            if self.delivered() > last {
                (last, since) = (self.delivered(), Instant::now());
            }
        }
        sent.saturating_sub(self.delivered())
    }

    async fn receive(self: Arc<Self>, mut receiver: Receiver) {
        let mut events = Vec::new();
        while receiver.recv_many(&mut events, 256).await > 0 {
            let now_us = self.now_us();
            for event in events.drain(..) {
                match event {
                    Event::Frame { frame, .. } => self.came(&frame, now_us),
                    Event::Connected { .. } => {
                        self.connected.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A network that runs.
pub(super) struct Net {
    node: RunningNode,
    hosts: Vec<host::Running>,
    sources: Vec<Control>,
    node_peer: PeerId,
    arrivals: Arc<Arrivals>,
    node_runtime: Runtime,
    peers_runtime: Runtime,
    _folder: Folder,
}

impl Net {
    /// Starts all of it, and waits until all are connected.
    pub(super) fn start(
        cast: &Cast,
        transport: Transport,
        workers: usize,
        stock: Arc<Stock>,
        stop: &Stop,
    ) -> Result<Self, BenchError> {
        stop.check()?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let node_runtime = runtime(&format!("{}node", threads::NODE), workers)?;
        let peers_runtime = runtime("bench-peers", cores.min(4))?;
        let network = NetworkId::of(cast.authority.verifying_key().as_bytes(), &cast.name);
        let listen = |at: usize| async move {
            let at_any = vec![wire::loopback(transport)];
            assemble::listen(&cast.keys(at), Role::Mix, transport, at_any, &network, 0).await
        };
        let node_host = node_runtime.block_on(listen(NODE))?;
        let peer_hosts = BEFORE.chain(BEHIND).map(|at| peers_runtime.block_on(listen(at)));
        let peer_hosts: Vec<Host> = peer_hosts.collect::<Result<_, _>>()?;
        let (node_peer, node_addresses) = (node_host.peer_id, node_host.listen.clone());
        let addresses: Vec<Vec<Multiaddr>> = [&node_host]
            .into_iter()
            .chain(&peer_hosts)
            .map(|host| host.listen.clone())
            .collect();
        let document = cast.document(&addresses)?;

        let arrivals = Arc::new(Arrivals::new(stock));
        let (mut hosts, mut sources) = (Vec::new(), Vec::new());
        for (host, at) in peer_hosts.into_iter().zip(BEFORE.chain(BEHIND)) {
            let link = host.mix.ok_or(StartError::NoLink)?;
            hosts.push(host.running);
            if BEFORE.contains(&at) {
                link.control.add_peer(node_peer, node_addresses.clone());
                link.control.connect(node_peer);
                sources.push(link.control);
            } else {
                // Known, so that its stream is taken. It dials.
                link.control.add_peer(node_peer, Vec::new());
            }
            peers_runtime.spawn(Arc::clone(&arrivals).receive(link.receiver));
        }

        let (clock, mut rng) = (Clock::start(), clock::rng().map_err(system)?);
        let folder = Folder::temporary()?;
        std::fs::create_dir(&folder.0).map_err(system)?;
        let options = Options {
            workers,
            ..Options::keep_in(folder.0.clone())
        };
        let inside = node_runtime.enter();
        let (running, parts) =
            assemble::parts(node_host, cast.keys(NODE), &document, options, clock, &mut rng)?;
        hosts.push(running);
        let node = node::run(parts, clock, fork(&mut rng)).map_err(system)?;
        drop(inside);
        let net = Self {
            node,
            hosts,
            sources,
            node_peer,
            arrivals,
            node_runtime,
            peers_runtime,
            _folder: folder,
        };
        let since = Instant::now();
        while net.arrivals.connected.load(Ordering::Relaxed) < 2 * PEERS {
            if since.elapsed() > CONNECTED || stop.is_set() {
                net.stop();
                stop.check()?;
                return Err(BenchError::Process(
                    "the node and its peers do not connect".into(),
                ));
            }
            thread::park_timeout(PAUSE);
        }
        Ok(net)
    }

    pub(super) fn arrivals(&self) -> Arc<Arrivals> {
        Arc::clone(&self.arrivals)
    }

    /// Sends in a thread of its own, and watches meanwhile.
    pub(super) fn while_sending<A: Send, B>(
        &self,
        send: impl FnOnce(&mut Sender<'_>) -> A + Send,
        watch: impl FnOnce(&Sending) -> B,
    ) -> (A, B) {
        let sending = Sending(AtomicBool::new(false));
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                // Also when it panics.
                let _over = Over(&sending);
                send(&mut Sender {
                    net: self,
                    random: 0x9e37_79b9_7f4a_7c15,
                })
            });
            let watched = watch(&sending);
            match sender.join() {
                Ok(sent) => (sent, watched),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// What the node dropped, and under which reasons.
    pub(super) fn dropped(&self) -> Vec<(&'static str, u64)> {
        let counters = self.node.snapshot().counters;
        let refused = ["alpha", "mac", "replay", "role", "payload"];
        counters
            .iter()
            .filter(|(name, n)| *n > 0 && (name.starts_with("drop.") || refused.contains(name)))
            .collect()
    }

    /// How much later than their delays packets left the node, but for those of its last second.
    pub(super) fn lateness(&self) -> Lateness {
        self.node.snapshot().late
    }

    /// Stops all of it.
    pub(super) fn stop(self) {
        self.node_runtime.block_on(self.node.stop());
        self.peers_runtime.block_on(async {
            // At once: each waits for its connections to close and its port to be free.
            let mut closing: tokio::task::JoinSet<()> =
                self.hosts.into_iter().map(host::Running::shutdown).collect();
            while closing.join_next().await.is_some() {}
        });
        self.node_runtime.shutdown_timeout(Duration::from_secs(2));
        self.peers_runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, BenchError> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(system)
}

/// Whether a sender is still at it.
pub(super) struct Sending(AtomicBool);

impl Sending {
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self) {
        thread::park_timeout(PAUSE);
    }
}

struct Over<'a>(&'a Sending);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What was sent.
pub(super) struct Sent {
    pub(super) taken: u64,
    pub(super) refused: u64,
    pub(super) ended_us: u64,
}

/// Sends packets of the stock from peers drawn at random.
pub(super) struct Sender<'a> {
    net: &'a Net,
    random: u64,
}

impl Sender<'_> {
    /// As a Poisson process of this rate.
    pub(super) fn paced(&mut self, range: Range<usize>, per_s: f64, stop: &Stop) -> Sent {
        let (mut taken, mut refused) = (0, 0);
        let mut due = Instant::now();
        for at in range {
            due += Duration::from_secs_f64(-self.unit().ln() / per_s);
            loop {
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() || stop.is_set() {
                    break;
                }
                thread::park_timeout(left);
            }
            if stop.is_set() {
                break;
            }
            match self.send(at) {
                true => taken += 1,
                false => refused += 1,
            }
        }
        self.sent(taken, refused)
    }

    /// As long as it takes, with a bounded number of packets under way; no longer than `time`.
    pub(super) fn as_fast_as_it_goes(&mut self, range: Range<usize>, time: Duration, stop: &Stop) -> Sent {
        let arrivals = &self.net.arrivals;
        let (start, mut moved) = (Instant::now(), Instant::now());
        let (mut taken, mut refused, mut lost, mut last) = (0, 0, 0, 0);
        let under_way = UNDER_WAY.min(range.len() as u64 / 10);
        for at in range {
            while taken >= arrivals.delivered() + lost + under_way {
                if arrivals.delivered() > last {
                    (last, moved) = (arrivals.delivered(), Instant::now());
                }
                if moved.elapsed() > STUCK {
                    lost = taken - arrivals.delivered();
                }
                thread::park_timeout(Duration::from_micros(100));
            }
            if stop.is_set() || start.elapsed() > time {
                break;
            }
            match self.send(at) {
                true => taken += 1,
                false => refused += 1,
            }
        }
        self.sent(taken, refused)
    }

    fn sent(&self, taken: u64, refused: u64) -> Sent {
        Sent {
            taken,
            refused,
            ended_us: self.net.arrivals.now_us(),
        }
    }

    fn send(&mut self, at: usize) -> bool {
        let arrivals = &self.net.arrivals;
        let frame: Frame = arrivals.stock.packet(at).into_boxed();
        let source = &self.net.sources[(self.next() % PEERS as u64) as usize];
        arrivals.sent_us[at].store(self.net.arrivals.now_us() as u32 + 1, Ordering::Relaxed);
        let taken = source.try_send(&self.net.node_peer, frame).is_ok();
        if !taken {
            arrivals.sent_us[at].store(0, Ordering::Relaxed);
        }
        taken
    }

    /// xorshift64*: what is drawn here need not be unforeseen.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        (self.next() + 1) as f64 / (1_u64 << 53) as f64
    }
}
