//! What a node erases from its disk when its clock says that keys are over, and how long it waits with that.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;
use mizzle_base::document::{Content, NodeEntry, Role};
use mizzle_base::{Document, NodeId, Profile, hex};
use mizzle_mix::{Config, Ratchet};
use mizzle_net::clock::{Clock, Machine, ThisMachine};
use mizzle_net::host::{self, Host, HostConfig, Transport};
use mizzle_net::node::{self, KeysError, MixParts, Parts, RunningNode};
use mizzle_net::state::{Kind, State, seed};
use mizzle_net::{identity, wire};
use mizzle_traffic::draw;
use zeroize::Zeroizing;

use crate::common::{self, verified, wait_until, within};
use crate::state::Scratch;

const EPOCHS: u32 = 24;
/// In the middle of the seventh of the epochs, of which each is an hour: only that one is alive then.
const FAST_S: u64 = 6 * 3_600 + 1_800;

/// This machine's clocks, fast by so many seconds, of which some passed while it slept.
#[derive(Clone, Debug, Default)]
struct Hands {
    set_s: u64,
    slept_s: Arc<AtomicU64>,
}

impl Hands {
    fn fast(set_s: u64) -> Self {
        Self {
            set_s,
            ..Self::default()
        }
    }

    fn slept(&self) -> Duration {
        Duration::from_secs(self.slept_s.load(Ordering::SeqCst))
    }
}

impl Machine for Hands {
    fn elapsed(&self) -> Duration {
        ThisMachine.elapsed() + self.slept()
    }

    fn utc(&self) -> Duration {
        ThisMachine.utc() + self.slept() + Duration::from_secs(self.set_s)
    }
}

/// A mix that is to be started again and again, with its state on the disk.
struct Mix {
    state: State,
    keypair: Keypair,
    id: NodeId,
    document: Arc<Document>,
    first: Ratchet,
    _scratch: Scratch,
}

impl Mix {
    fn new(name: &str) -> Self {
        let mut rng = common::rng();
        let scratch = Scratch::new(name);
        let state = State::create(&scratch.0, Kind::Node).unwrap();
        let first = Ratchet::new(1, Zeroizing::new(draw::bytes(&mut rng)));
        seed::create(&state, &first).unwrap();
        let keypair = identity::generate(&mut rng).unwrap();
        let id = identity::node_id(&keypair);
        // Its neighbours are never started.
        let mut nodes = Vec::new();
        for (role, layer) in [(Role::Mix, 1), (Role::Mix, 2), (Role::Mix, 3), (Role::Gateway, 0)] {
            let is_it = layer == 1;
            let ratchet = if is_it {
                first.clone()
            } else {
                Ratchet::new(1, Zeroizing::new(draw::bytes(&mut rng)))
            };
            let other = identity::generate(&mut rng).unwrap();
            let keypair = if is_it { &keypair } else { &other };
            let keys = ratchet.keys_of(1, EPOCHS).unwrap();
            nodes.push(NodeEntry {
                id: identity::node_id(keypair).to_string(),
                role,
                layer,
                peer: keypair.public().to_peer_id().to_string(),
                addresses: Vec::new(),
                sphinx_key: keys
                    .iter()
                    .map(|keys| hex::encode(keys.sphinx.public().as_bytes()))
                    .collect(),
                weight: if role == Role::Gateway { 1.0 } else { 0.0 },
                operator: String::new(),
                exit: None,
                mail: None,
            });
        }
        let clock = Clock::start();
        let begin_s = clock.now().as_s();
        let content = Content {
            network: "hours".into(),
            sequence: 1,
            epoch: 1,
            valid_from_s: begin_s,
            valid_until_s: begin_s + u64::from(EPOCHS) * 3_600,
            profile: Profile::browse(),
            nodes,
        };
        let authority = SigningKey::from_bytes(&draw::bytes(&mut rng));
        Self {
            document: verified(&content, &authority, clock),
            state,
            keypair,
            id,
            first,
            _scratch: scratch,
        }
    }

    fn folder(&self) -> &Path {
        self.state.path()
    }

    /// With the keys that are on the disk, as they are needed by this clock.
    fn parts(&self, clock: Clock) -> Result<MixParts, KeysError> {
        let (config, document) = (Config::default(), Arc::clone(&self.document));
        let ratchet = seed::read(&self.state)?;
        MixParts::with_ratchet(config, document, &self.id, ratchet, common::rng(), clock.now())?
            .with_tags_kept(self.folder())
    }

    async fn start(&self, clock: Clock) -> Running {
        let mix = self.parts(clock).unwrap();
        let config = HostConfig::new(self.keypair.clone(), Transport::Quic)
            .with_listen(wire::loopback(Transport::Quic))
            .with_mix(wire::mix_link(&self.document.network()));
        let host = Host::start(config).await.unwrap();
        let parts = Parts {
            id: self.id,
            document: Arc::clone(&self.document),
            mix,
            link: host.mix.unwrap(),
            gateway: None,
            loss: 0.0,
        };
        let node = node::run(parts, clock, common::rng()).unwrap();
        let running = Running(host.running, node);
        wait_until("it has looked at its keys", || running.epoch().is_some()).await;
        running
    }

    /// The epoch of the seed that is on the disk, and whether there are tags of the first and of the seventh.
    fn on_disk(&self) -> (u32, bool, bool) {
        let tags = |epoch: u32| self.folder().join(format!("accepted-{epoch}-1.tags")).exists();
        (seed::read(&self.state).unwrap().epoch(), tags(1), tags(7))
    }
}

struct Running(host::Running, RunningNode);

impl Running {
    fn epoch(&self) -> Option<u32> {
        self.1.snapshot().document.map(|document| document.epoch())
    }

    async fn stop(self) {
        within("the node ends", self.1.stop()).await;
        within("its host ends", self.0.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_hours_ahead_has_its_keys_when_it_begins_again_with_the_right_one() {
    let mix = Mix::new("keys-ahead");
    let right = mix.start(Clock::start()).await;
    assert_eq!((right.epoch(), mix.on_disk()), (Some(1), (1, true, false)));
    right.stop().await;
    // Nobody tells it that its clock is fast; it is stopped before it has to believe that.
    let fast = mix.start(Clock::of(Hands::fast(FAST_S))).await;
    assert_eq!((fast.epoch(), mix.on_disk()), (Some(7), (1, true, true)));
    fast.stop().await;
    let seed = seed::read(&mix.state).unwrap();
    assert_eq!(seed.expose_seed(), mix.first.expose_seed(), "as it was");
    // What was accepted while the clock was fast isn't accepted again when its time comes.
    let right = mix.start(Clock::start()).await;
    assert_eq!((right.epoch(), mix.on_disk()), (Some(1), (1, true, true)));
    right.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_at_the_start_is_erased_once_gateways_agree_with_the_clock() {
    let mix = Mix::new("keys-agreed");
    mix.start(Clock::start()).await.stop().await;
    let later = mix.start(Clock::of(Hands::fast(FAST_S))).await;
    assert_eq!(mix.on_disk(), (1, true, true));
    later.1.documents().clock_is_right();
    wait_until("the old keys are gone", || mix.on_disk() == (7, false, true)).await;
    later.stop().await;
    let gone = mix.parts(Clock::start()).err().unwrap();
    assert!(matches!(gone, KeysError::TooEarly(_)), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_at_the_start_is_erased_after_an_overlap_whatever_gateways_say() {
    let mix = Mix::new("keys-unheard");
    mix.start(Clock::start()).await.stop().await;
    let hands = Hands::fast(FAST_S);
    let later = mix.start(Clock::of(hands.clone())).await;
    assert_eq!(mix.on_disk(), (1, true, true));
    let overlap_s = mix.document.epochs().overlap().as_secs() + 1;
    assert!(overlap_s < 1_500, "the epoch is still the same then");
    hands.slept_s.store(overlap_s, Ordering::SeqCst);
    wait_until("the old keys are gone", || mix.on_disk() == (7, false, true)).await;
    later.stop().await;
}
