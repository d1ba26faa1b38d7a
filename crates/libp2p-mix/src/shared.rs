//! What the packets' thread, the exit's tasks and the handles of the application share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use libp2p::PeerId;
use mizzle_base::{Counters, Rng, Time};
use mizzle_sphinx::{Dialect, Packet, PublicKey};
use rand_core::{Rng as _, SeedableRng};
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, oneshot},
};

use crate::{
    address::{Block, Endpoint},
    config::{Config, Policy},
    cover::Slots,
    delay::{Delays, exponential},
    event::{Event, Events},
    exit::{Exchange, HandOver, Read},
    lock,
    pool::Pool,
    spam::{Proof, SpamProtection},
    streams::{Opener, Served},
    surbs::Credentials,
};

/// What the packets' thread is asked to do.
pub(crate) enum Command {
    /// Send a packet of our own after a hold.
    Send {
        to: Block,
        packet: Packet,
        hold: Duration,
        /// Told when the link to its first hop has it.
        left: Option<oneshot::Sender<PeerId>>,
    },
    /// A packet whose proof was checked elsewhere may be worked on.
    Verified(Packet),
    /// A packet whose proof was made elsewhere may leave.
    Proven { to: Block, packet: Packet, proof: Proof },
}

/// See the [module](self).
pub(crate) struct Shared {
    pub(crate) me: PeerId,
    pub(crate) key: PublicKey,
    pub(crate) dialect: Dialect,
    pub(crate) delays: Delays,
    pub(crate) hold_ms: u16,
    pub(crate) min_pool: usize,
    pub(crate) forward: Policy,
    pub(crate) exit: Policy,
    pub(crate) reads: HashMap<String, Read>,
    pub(crate) exit_timeout: Duration,
    pub(crate) exits: Arc<Semaphore>,
    pub(crate) hand_over: HandOver,
    pub(crate) spam: Option<Arc<dyn SpamProtection>>,
    pub(crate) slots: Option<Mutex<Slots>>,
    pub(crate) pool: Pool,
    pub(crate) credentials: Credentials,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) link: crate::link::Control,
    pub(crate) opener: Opener,
    pub(crate) served: Served,
    pub(crate) handlers: Mutex<HashMap<String, mpsc::Sender<Exchange>>>,
    pub(crate) runtime: runtime::Handle,
    pub(crate) events: Events,
    pub(crate) keypair: libp2p::identity::Keypair,
    pub(crate) record_asks: Arc<Semaphore>,
    pub(crate) closed: AtomicBool,
    clock: Clock,
    counters: Mutex<Counters>,
    external: Option<Endpoint>,
    /// What the swarm says of our addresses: confirmed ones, then those that we listen on.
    addresses: RwLock<Addresses>,
}

#[derive(Default)]
pub(crate) struct Addresses {
    pub(crate) confirmed: Vec<Endpoint>,
    pub(crate) listening: Vec<Endpoint>,
}

/// Microseconds of UTC that never run backwards: one reading of the system's clock, then a monotonic one.
struct Clock {
    utc: Time,
    since: tokio::time::Instant,
}

impl Clock {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "this crate is a shell: it owns its clock"
        )]
        let utc = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            utc: Time::ZERO + utc,
            since: tokio::time::Instant::now(),
        }
    }
}

/// What [`Shared`] is made of beside the configuration.
pub(crate) struct Parts {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) link: crate::link::Control,
    pub(crate) opener: Opener,
    pub(crate) served: Served,
    pub(crate) events: Events,
    pub(crate) runtime: runtime::Handle,
}

impl Shared {
    pub(crate) fn new(config: &Config, parts: Parts) -> Self {
        let me = config.peer_id();
        Self {
            me,
            key: config.mix_public_key(),
            dialect: config.dialect,
            delays: config.delays,
            hold_ms: config.hold_ms,
            min_pool: config.min_pool,
            forward: config.forward.clone(),
            exit: config.exit.clone(),
            reads: config
                .reads
                .iter()
                .map(|(codec, read)| (codec.clone(), *read))
                .collect(),
            exit_timeout: config.exit_timeout,
            exits: Arc::new(Semaphore::new(config.max_exits)),
            hand_over: HandOver::default(),
            spam: config.spam.clone(),
            slots: Slots::new(config.cover).map(Mutex::new),
            pool: Pool::new(me, config.max_pool),
            credentials: Credentials::new(config.max_surbs, config.surb_lifetime),
            commands: parts.commands,
            link: parts.link,
            opener: parts.opener,
            served: parts.served,
            handlers: Mutex::default(),
            runtime: parts.runtime,
            events: parts.events,
            keypair: config.keypair.clone(),
            record_asks: crate::discovery::asks(),
            closed: AtomicBool::new(false),
            clock: Clock::new(),
            counters: Mutex::default(),
            external: config.external.clone(),
            addresses: RwLock::default(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.utc + self.clock.since.elapsed()
    }

    pub(crate) fn count(&self, what: &'static str) {
        lock(&self.counters).count(what);
    }

    pub(crate) fn merge(&self, counters: &Counters) {
        lock(&self.counters).merge(counters);
    }

    pub(crate) fn counters(&self) -> Counters {
        lock(&self.counters).clone()
    }

    pub(crate) fn tell(&self, event: Event) {
        self.events.tell(event);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The behaviour is gone: services end, nothing more is sent.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        lock(&self.handlers).clear();
        self.served.clear();
    }

    /// Where others reach us.
    pub(crate) fn return_address(&self) -> Option<Endpoint> {
        if self.external.is_some() {
            return self.external.clone();
        }
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        let all = || addresses.confirmed.iter().chain(&addresses.listening);
        // One that strangers can reach is better than one that only this site can, and that than this machine's own.
        let public = all().find(|e| e.ip().is_some_and(crate::address::is_public));
        let beyond = || all().find(|e| e.ip().is_some_and(|ip| !ip.is_loopback()));
        public.or_else(beyond).or_else(|| all().next()).cloned()
    }

    pub(crate) fn change_addresses(&self, change: impl FnOnce(&mut Addresses)) {
        let before = self.return_address();
        change(&mut self.addresses.write().unwrap_or_else(PoisonError::into_inner));
        let after = self.return_address();
        if before != after {
            self.tell(Event::ReturnAddress(after));
        }
    }

    /// A slot of the budget, if there is one; always, if there is no budget.
    pub(crate) fn claim_slot(&self) -> bool {
        let now = self.now();
        let told = self.spam.as_ref().and_then(|spam| spam.epoch(now));
        self.slots
            .as_ref()
            .is_none_or(|slots| lock(slots).claim(now, told))
    }

    /// How long a packet of our own is held before its first hop.
    pub(crate) fn hold(&self, rng: &mut Rng) -> Duration {
        match self.hold_ms {
            0 => Duration::ZERO,
            mean_ms => exponential(rng, mean_ms.into()),
        }
    }
}

/// A generator seeded by the operating system.
pub(crate) fn new_rng() -> std::io::Result<Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| std::io::Error::other(e.to_string()))?;
    let rng = Rng::from_seed(seed);
    zeroize::Zeroize::zeroize(&mut seed);
    Ok(rng)
}

/// A random number for the end of a legacy message.
pub(crate) fn sequence(rng: &mut Rng) -> u32 {
    rng.next_u32()
}
