//! [`Behaviour`]: what an application puts into its swarm.

use std::{sync::Arc, time::Duration};

use libp2p::swarm::NetworkBehaviour;
use mizzle_mix::{Key, Worker};
use mizzle_sphinx::PACKET_LEN;
use tokio::{runtime, sync::mpsc};

use crate::{
    config::{Config, PROTOCOL},
    control::Control,
    error::StartError,
    event::{self, Event, Events},
    link,
    node::{Node, Route},
    shared::{Parts, Shared, new_rng},
    spam::MAX_PROOF_LEN,
    streams,
};

/// How exactly a sleeping thread wakes up: packets that are due within it leave together, in random order.
const WAKE: Duration = Duration::from_micros(100);

/// A mix peer in a swarm: relays, is an exit, and sends for the application that has its [`Control`].
///
/// It has a thread of its own, named `libp2p-mix`, through which all packets go; the swarm's task sees none of them. The
/// thread ends when the behaviour is dropped.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Event")]
pub struct Behaviour {
    link: link::Behaviour,
    streams: streams::Behaviour,
    events: event::Behaviour,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Behaviour(..)")
    }
}

impl From<std::convert::Infallible> for Event {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl Behaviour {
    /// A peer as the configuration says, and the handle to use it. Call it inside a tokio runtime, in which the exit's
    /// work runs.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(mut config: Config) -> Result<(Self, Control), StartError> {
        let runtime = runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let proof_len = config.spam.as_ref().map_or(0, |spam| spam.proof_len());
        if proof_len > MAX_PROOF_LEN {
            return Err(StartError::ProofTooLong(proof_len));
        }
        let mix_config = mizzle_mix::Config::default()
            .with_held_packets(config.held_packets)
            .with_replay_tags(config.replay_tags)
            .with_tick(WAKE);
        let secret = mizzle_sphinx::SecretKey::from_bytes(*config.secret.expose_bytes());
        let key = Arc::new(Key::new(secret, config.dialect, &mix_config));
        let mut store = config.replay_store.take();
        if let Some(store) = &mut store {
            key.remember(&store.load().map_err(StartError::ReplayStore)?);
        }

        let len = PACKET_LEN + proof_len;
        // A frame that is too short is dropped and the stream goes on, as with the others' implementation.
        let link_config = config
            .link
            .clone()
            .with_protocol(PROTOCOL)
            .with_frame_len(link::FrameLen::AtMost(len))
            .with_send_frame_len(link::FrameLen::Exact(len));
        let (link, link_control, frames) = link::Behaviour::new(link_config);
        let (streams, opener, served) = streams::Behaviour::new(config.hand_over && config.is_exit());
        let (commands, received) = mpsc::channel(config.queue);
        let parts = Parts {
            commands,
            link: link_control,
            opener,
            served,
            events: Events::default(),
            runtime,
        };
        let shared = Arc::new(Shared::new(&config, parts));

        let mut worker = Worker::new(&mix_config, key.clone(), Route(shared.clone()), new_rng()?);
        if store.is_some() {
            worker.tags_are_written_down();
        }
        let node = Node {
            shared: shared.clone(),
            frames,
            commands: received,
            worker,
            key,
            store,
            rng: new_rng()?,
            max_neighbours: config.max_neighbours,
            cover: config.cover,
        };
        node.spawn()?;
        crate::discovery::serve(&shared);
        let events = event::Behaviour::new(shared.clone());
        Ok((
            Self {
                link,
                streams,
                events,
            },
            Control { shared },
        ))
    }
}
