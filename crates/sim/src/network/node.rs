//! A node of the simulation: its cores, its keys, and the connections of its exit.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mizzle_base::{Document, NodeId, Rng, Time};
use mizzle_exit::{self as exit, ConnId, Exit, Policy};
use mizzle_gateway::store::{Limits, MemoryMailStore};
use mizzle_gateway::{self as gateway, ClientId, Gateway, UploadId};
use mizzle_mix::{self as mix, Key, Mix, NodeKeys, NotOurs, Ring, TooEarly};
use mizzle_sphinx::Dialect;

use super::{ClientIndex, fork, in_epoch};
use crate::outside::Server;
use crate::plan::{PlanError, Secrets};

pub(super) struct Connection {
    pub(super) server: Box<dyn Server>,
    pub(super) answer: Vec<u8>,
    pub(super) ended: bool,
    pub(super) end_told: bool,
    pub(super) asked: Option<usize>,
}

pub(super) struct NodeSim {
    pub(super) id: NodeId,
    pub(super) identity: SigningKey,
    pub(super) ring: Ring,
    pub(super) keys: BTreeMap<u32, Arc<Key>>,
    pub(super) has_exit: bool,
    /// It is there: a node that is not hears, says and does nothing.
    pub(super) up: bool,
    pub(super) mix: Mix,
    pub(super) gateway: Option<Gateway>,
    pub(super) store: MemoryMailStore,
    pub(super) exit: Option<Exit>,
    pub(super) connections: BTreeMap<ConnId, Connection>,
    /// The session end of its mail, and what that and the gateway core call the streams to mailboxes.
    pub(super) mail: Option<Exit>,
    pub(super) uploads: BTreeMap<UploadId, ConnId>,
    pub(super) clients: BTreeMap<ClientId, ClientIndex>,
}

impl NodeSim {
    /// A node that begins at `now`, with an empty store, and with no memory of packets that its keys were used for.
    pub(super) fn start(
        document: &Arc<Document>,
        secrets: Secrets,
        policy: &Policy,
        rng: &mut Rng,
        now: Time,
    ) -> Result<Self, PlanError> {
        let Secrets {
            id,
            identity,
            ratchet,
            has_exit,
        } = secrets;
        let document = &in_epoch(document, now);
        let mut ring = Ring::new(ratchet, document);
        let current = ring.turn(now)?.epochs().next();
        let own = current.and_then(|epoch| ring.keys(epoch));
        let NodeKeys {
            sphinx, exit, mail, ..
        } = own.ok_or(NotOurs::OtherKey)?;
        let config = mix::Config::default();
        let core = Mix::new(config, Arc::clone(document), id, sphinx, fork(rng), now)?;
        let is_gateway = document.gateways().any(|g| g.id == id);
        let gateway = is_gateway.then(|| {
            let config = gateway::Config::default();
            Gateway::new(config, Arc::clone(document), &id, Vec::new(), fork(rng))
        });
        let exit = has_exit.then(|| {
            let config = exit::Config::default();
            Exit::new(
                config,
                document,
                &id,
                *exit.expose_bytes(),
                policy.clone(),
                fork(rng),
            )
        });
        let keeps_mail = document.node(&id).is_some_and(|node| node.mail.is_some());
        let mail = keeps_mail.then(|| {
            let config = exit::Config::for_mail();
            Exit::for_mail(config, document, &id, *mail.expose_bytes(), fork(rng))
        });
        // Those that are alive beside the current one come with the first turn.
        ring.ask_again(now);
        let mut node = Self {
            id,
            identity,
            ring,
            keys: BTreeMap::new(),
            has_exit,
            up: true,
            mix: core,
            gateway,
            store: MemoryMailStore::in_memory(Limits::default()),
            exit,
            connections: BTreeMap::new(),
            mail,
            uploads: BTreeMap::new(),
            clients: BTreeMap::new(),
        };
        node.turn_keys(now)?;
        Ok(node)
    }

    /// Takes and lets go of keys when it is time.
    pub(super) fn turn_keys(&mut self, now: Time) -> Result<(), TooEarly> {
        if self.ring.change_at().is_none_or(|at| at > now) {
            return Ok(());
        }
        let turn = self.ring.turn(now)?;
        let of = |epoch| Some((epoch, self.ring.keys(epoch)?));
        let alive: Vec<_> = turn.epochs().filter_map(of).collect();
        if let Some(exit) = &mut self.exit {
            exit.set_keys(
                alive
                    .iter()
                    .map(|(epoch, keys)| (*epoch, *keys.exit.expose_bytes())),
            );
        }
        if let Some(mail) = &mut self.mail {
            mail.set_keys(
                alive
                    .iter()
                    .map(|(epoch, keys)| (*epoch, *keys.mail.expose_bytes())),
            );
        }
        let mut keys = Vec::new();
        let mut before = std::mem::take(&mut self.keys);
        for (epoch, NodeKeys { sphinx, .. }) in alive {
            let key = before
                .remove(&epoch)
                .unwrap_or_else(|| Arc::new(Key::new(sphinx, Dialect::Lioness, &mix::Config::default())));
            keys.push(Arc::clone(&key));
            self.keys.insert(epoch, key);
        }
        self.mix.set_keys(&keys);
        Ok(())
    }

    /// Does something with a connection, then answers an outstanding read if there is something to read.
    pub(super) fn converse(&mut self, id: ConnId, act: impl FnOnce(&mut Connection)) -> Vec<exit::Input> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Vec::new();
        };
        act(connection);
        let Some(max) = connection.asked else {
            return Vec::new();
        };
        if connection.answer.is_empty() {
            if !connection.ended || connection.end_told {
                return Vec::new();
            }
            connection.end_told = true;
        }
        connection.asked = None;
        let rest = connection.answer.split_off(max.min(connection.answer.len()));
        let bytes = std::mem::replace(&mut connection.answer, rest);
        vec![exit::Input::Read(id, Bytes::from(bytes))]
    }
}
