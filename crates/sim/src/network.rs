//! The driver: every core, every packet in flight, one clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use mizzle_base::{Document, MailboxId, NodeId, Rng, Time};
use mizzle_client::{self as client, Client, StreamEvent, StreamKey};
use mizzle_exit::{self as exit, ConnId, Exit, Policy};
use mizzle_gateway::store::{Limits, MailStore as _, MemoryMailStore};
use mizzle_gateway::{self as gateway, ClientId, Gateway};
use mizzle_mix::{self as mix, Delivered, Mix};
use mizzle_sphinx::Packet;
use mizzle_stream::{OpenError, OpenRequest};
use mizzle_traffic::draw;
use mizzle_traffic::weights::{self, Report, Reports};
use rand_core::SeedableRng as _;

use crate::outside::{Outside, Server};
use crate::plan::{Plan, PlanError, START};

/// A client of the network, by its number from zero.
pub type ClientIndex = usize;

/// Something that an observer of a link or a node could see.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// A client's frame left towards its gateway.
    Uplink {
        /// Who.
        client: ClientIndex,
        /// When.
        at: Time,
    },
    /// A gateway's frame left towards its client.
    Downlink {
        /// To whom.
        client: ClientIndex,
        /// When.
        at: Time,
    },
    /// A packet left a node for another.
    Hop {
        /// From.
        from: NodeId,
        /// To.
        to: NodeId,
        /// When.
        at: Time,
    },
    /// A gateway took the last layer off a message: all that it has of it.
    LastHop {
        /// Which gateway.
        gateway: NodeId,
        /// For which mailbox.
        mailbox: MailboxId,
        /// The message, 3968 bytes.
        message: Box<[u8]>,
        /// When.
        at: Time,
    },
}

enum Event {
    Packet { node: usize, packet: Packet },
    Up { client: ClientIndex, frame: Box<[u8]> },
    Down { client: ClientIndex, frame: Box<[u8]> },
}

struct Pending {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct Connection {
    server: Box<dyn Server>,
    answer: Vec<u8>,
    ended: bool,
    end_told: bool,
    asked: Option<usize>,
}

struct NodeSim {
    id: NodeId,
    identity: SigningKey,
    mix: Mix,
    gateway: Option<Gateway>,
    store: MemoryMailStore,
    exit: Option<Exit>,
    connections: BTreeMap<ConnId, Connection>,
    clients: BTreeMap<ClientId, ClientIndex>,
}

struct ClientSim {
    core: Client,
    id: ClientId,
    gateway: usize,
    events: Vec<(StreamKey, StreamEvent)>,
}

/// Whether a node that is under attack, or the link after it, drops a packet from this node to that one.
pub type Drops = Box<dyn Fn(&NodeId, &NodeId) -> bool>;

/// A running simulation.
pub struct Network {
    plan: Plan,
    now: Time,
    document: Arc<Document>,
    by_id: BTreeMap<NodeId, usize>,
    nodes: Vec<NodeSim>,
    clients: Vec<ClientSim>,
    in_flight: BinaryHeap<Reverse<Pending>>,
    order: u64,
    rng: Rng,
    outside: Outside,
    watch: bool,
    sightings: Vec<Sighting>,
    dead: BTreeSet<usize>,
    drops: Option<Drops>,
    reports: Reports,
    reported: Time,
}

impl Network {
    /// Builds it: all nodes up, all clients linked to their gateways and about to be admitted.
    ///
    /// # Errors
    /// What is wrong with the plan.
    pub fn new(plan: Plan, policy: Policy, outside: Outside) -> Result<Self, PlanError> {
        let mut rng = Rng::seed_from_u64(plan.seed);
        let (document, secrets) = plan.build(&mut rng)?;
        let document = Arc::new(document);
        let mut fork = || Rng::from_seed(draw::bytes(&mut rng));
        let mut nodes = Vec::new();
        for node in secrets {
            let id = node.id;
            let core = Mix::new(
                mix::Config::default(),
                Arc::clone(&document),
                id,
                node.sphinx,
                fork(),
                START,
            )?;
            let is_gateway = document.gateways().any(|g| g.id == id);
            let gateway = is_gateway.then(|| {
                Gateway::new(
                    gateway::Config::default(),
                    Arc::clone(&document),
                    &id,
                    Vec::new(),
                    fork(),
                )
            });
            let exit = node.stream.map(|secret| {
                let config = exit::Config::default();
                Exit::new(config, &document, &id, secret, policy.clone(), fork())
            });
            let (connections, clients) = (BTreeMap::new(), BTreeMap::new());
            nodes.push(NodeSim {
                id,
                identity: node.identity,
                mix: core,
                gateway,
                store: MemoryMailStore::in_memory(Limits::default()),
                exit,
                connections,
                clients,
            });
        }
        let by_id = nodes.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
        let entries: Vec<usize> = (0..nodes.len())
            .filter(|&i| nodes[i].gateway.is_some() && nodes[i].exit.is_none())
            .collect();
        let mut clients = Vec::new();
        for index in 0..plan.clients {
            let place = index
                .checked_rem(entries.len())
                .ok_or(mizzle_client::NoSuchGateway)?;
            let gateway = entries[place];
            let id = ClientId(draw::bytes(&mut fork()));
            let core = Client::new(
                client::Config::default(),
                Arc::clone(&document),
                &nodes[gateway].id,
                fork(),
            )?;
            nodes[gateway].clients.insert(id, index);
            clients.push(ClientSim {
                core,
                id,
                gateway,
                events: Vec::new(),
            });
        }
        let mut network = Self {
            plan,
            now: START,
            document,
            by_id,
            nodes,
            clients,
            in_flight: BinaryHeap::new(),
            order: 0,
            rng,
            outside,
            watch: false,
            sightings: Vec::new(),
            dead: BTreeSet::new(),
            drops: None,
            reports: Reports::default(),
            reported: START,
        };
        for index in 0..network.clients.len() {
            network.clients[index].core.handle(START, client::Input::LinkUp);
            network.drain_client(index);
        }
        Ok(network)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The network document.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// A client's core, to read counters from.
    #[must_use]
    pub fn client(&self, client: ClientIndex) -> &Client {
        &self.clients[client].core
    }

    /// The outside world.
    #[must_use]
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Counters of all nodes together.
    #[must_use]
    pub fn node_counters(&self) -> mizzle_base::Counters {
        let mut all = mizzle_base::Counters::default();
        for node in &self.nodes {
            all.merge(node.mix.counters());
            node.gateway.iter().for_each(|g| all.merge(g.counters()));
            node.exit.iter().for_each(|e| all.merge(e.counters()));
        }
        all
    }

    /// Begins to keep what observers see; [`Self::sightings`] takes it.
    pub fn watch(&mut self) {
        self.watch = true;
    }

    /// What was seen since the last call.
    pub fn sightings(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.sightings)
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn open(&mut self, client: ClientIndex, request: OpenRequest) -> Result<StreamKey, OpenError> {
        self.clients[client].core.open(self.now, request)
    }

    /// Writes to a stream; returns how many bytes were taken.
    pub fn write(&mut self, client: ClientIndex, key: StreamKey, data: &[u8]) -> usize {
        self.clients[client].core.write(key, data)
    }

    /// Ends a stream's upward side.
    pub fn finish(&mut self, client: ClientIndex, key: StreamKey) {
        self.clients[client].core.finish(key);
    }

    /// Resets a stream.
    pub fn reset(&mut self, client: ClientIndex, key: StreamKey) {
        self.clients[client].core.reset(key);
    }

    /// All bytes of a stream that have arrived in order.
    pub fn read(&mut self, client: ClientIndex, key: StreamKey) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(bytes) = self.clients[client]
            .core
            .read(key, usize::MAX)
            .filter(|b| !b.is_empty())
        {
            out.extend_from_slice(&bytes);
        }
        self.drain_client(client);
        out
    }

    /// What happened to a client's streams since the last call.
    pub fn events(&mut self, client: ClientIndex) -> Vec<(StreamKey, StreamEvent)> {
        self.drain_client(client);
        std::mem::take(&mut self.clients[client].events)
    }

    /// Sends a packet into a node as if a neighbour had.
    pub fn inject(&mut self, node: &NodeId, packet: Packet) {
        if let Some(&node) = self.by_id.get(node) {
            self.schedule(self.now, Event::Packet { node, packet });
        }
    }

    /// Ends a node, as a crash would. What it held is gone, and what comes to it from now on.
    pub fn kill(&mut self, node: &NodeId) {
        self.dead.extend(self.by_id.get(node));
    }

    /// Has packets between nodes dropped from now on.
    pub fn attack(&mut self, drops: Drops) {
        self.drops = Some(drops);
    }

    /// What the nodes published of late.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// A node's mix core, to read from.
    #[must_use]
    pub fn mix(&self, node: &NodeId) -> Option<&Mix> {
        Some(&self.nodes[*self.by_id.get(node)?].mix)
    }

    /// All nodes that live publish, and all clients hear it at once.
    fn report(&mut self) {
        self.reported = self.now;
        self.reports.expire(self.now);
        let (document, now) = (&self.document, self.now);
        for (_, node) in self
            .nodes
            .iter()
            .enumerate()
            .filter(|(n, _)| !self.dead.contains(n))
        {
            let bytes = Report::sign(document, &node.identity, now, &node.mix.said(now));
            if let Ok(report) = Report::verify(&bytes, document, now) {
                self.reports.add(report);
            }
        }
        let bundle = self.reports.bundle(Time::ZERO, usize::MAX);
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index].core;
            client.handle(now, client::Input::Reports(bundle.clone()));
            self.drain_client(index);
        }
    }

    /// Lets one thing happen, the next; returns the new time.
    pub fn step(&mut self) -> Time {
        let in_flight = self.in_flight.peek().map(|Reverse(p)| p.at);
        let living = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(n, _)| !self.dead.contains(n));
        let nodes = living.flat_map(|(_, n)| {
            let gateway = n.gateway.as_ref().and_then(Gateway::deadline);
            [
                n.mix.deadline(),
                gateway,
                n.exit.as_ref().and_then(Exit::deadline),
            ]
        });
        let clients = self.clients.iter().map(|c| c.core.deadline());
        let next = nodes
            .chain(clients)
            .chain([in_flight])
            .flatten()
            .min()
            .unwrap_or(self.now);
        self.now = self.now.max(next);
        while self.in_flight.peek().is_some_and(|Reverse(p)| p.at <= self.now) {
            if let Some(Reverse(pending)) = self.in_flight.pop() {
                self.arrive(pending.event);
            }
        }
        for index in 0..self.nodes.len() {
            self.turn_node(index, Vec::new());
        }
        if self.plan.reports && self.now.since(self.reported) >= weights::EVERY {
            self.report();
        }
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index].core;
            if client.deadline().is_some_and(|at| at <= self.now) {
                client.handle(self.now, client::Input::Tick);
            }
            self.drain_client(index);
        }
        self.now
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Time) {
        while self.now < until {
            self.step();
        }
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.in_flight.push(Reverse(Pending {
            at,
            order: self.order,
            event,
        }));
    }

    fn see(&mut self, sighting: impl FnOnce() -> Sighting) {
        if self.watch {
            self.sightings.push(sighting());
        }
    }

    fn lost(&mut self) -> bool {
        self.plan.loss > 0.0 && draw::unit(&mut self.rng) <= self.plan.loss
    }

    fn arrive(&mut self, event: Event) {
        match event {
            Event::Packet { node, packet } => self.turn_node(node, vec![packet]),
            Event::Up { client, frame } => {
                let (node, id) = (self.clients[client].gateway, self.clients[client].id);
                if let Some(gateway) = &mut self.nodes[node].gateway {
                    gateway.handle(
                        self.now,
                        gateway::Input::Frame {
                            client: id,
                            conn: gateway::Conn(0),
                            bytes: frame,
                        },
                    );
                }
                self.turn_node(node, Vec::new());
            }
            Event::Down { client, frame } => {
                self.clients[client]
                    .core
                    .handle(self.now, client::Input::Frame(frame));
                self.drain_client(client);
            }
        }
    }

    fn drain_client(&mut self, index: ClientIndex) {
        while let Some(action) = self.clients[index].core.poll() {
            match action {
                client::Action::Send(frame) => {
                    let (now, up) = (self.now, self.clients[index].core.is_up());
                    if up {
                        self.see(|| Sighting::Uplink {
                            client: index,
                            at: now,
                        });
                    }
                    // Admission is not a packet: links lose packets only.
                    if !(up && self.lost()) {
                        self.schedule(now + self.plan.link, Event::Up { client: index, frame });
                    }
                }
                // Connections here take no time and don't break.
                client::Action::Reconnect => {
                    self.clients[index].core.handle(self.now, client::Input::LinkUp);
                }
                client::Action::Admitted(_)
                | client::Action::Refused(_)
                | client::Action::Mail { .. }
                | client::Action::GatewayBlamed
                | client::Action::Loop(_) => {}
                client::Action::Stream(key, event) => self.clients[index].events.push((key, event)),
            }
        }
    }

    fn turn_node(&mut self, index: usize, mut packets: Vec<Packet>) {
        if self.dead.contains(&index) {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[index];
        if let Some(gateway) = &mut node.gateway {
            gateway.handle(now, gateway::Input::Tick);
        }
        if let Some(exit) = &mut node.exit {
            exit.handle(now, exit::Input::Tick);
        }
        loop {
            let acted = self.drain_exit(index, &mut packets) | self.drain_gateway(index, &mut packets);
            let input = mix::Input::Packets(std::mem::take(&mut packets));
            self.nodes[index].mix.handle(now, input);
            if !(self.drain_mix(index) || acted) {
                break;
            }
        }
    }

    fn drain_mix(&mut self, index: usize) -> bool {
        let mut delivered = false;
        while let Some(action) = self.nodes[index].mix.poll() {
            let (now, from) = (self.now, self.nodes[index].id);
            match action {
                // A simulated node is never killed.
                mix::Action::Accepted(_) => {}
                mix::Action::Forward { to, packet } => {
                    self.see(|| Sighting::Hop { from, to, at: now });
                    let is_dropped = self.drops.as_ref().is_some_and(|drops| drops(&from, &to));
                    if !is_dropped && !self.lost() {
                        let node = self.by_id[&to];
                        self.schedule(now + self.plan.link, Event::Packet { node, packet });
                    }
                }
                mix::Action::Deliver(Delivered::Message { mailbox, packet }) => {
                    delivered = true;
                    let message = || packet.message().as_slice().into();
                    self.see(|| Sighting::LastHop {
                        gateway: from,
                        mailbox,
                        message: message(),
                        at: now,
                    });
                    if let Some(gateway) = &mut self.nodes[index].gateway {
                        gateway.handle(now, gateway::Input::Message { mailbox, packet });
                    }
                }
                mix::Action::Deliver(Delivered::Reply { id, packet }) => {
                    delivered = true;
                    // The link to the client loses packets too, before they have a frame.
                    if !self.lost()
                        && let Some(gateway) = &mut self.nodes[index].gateway
                    {
                        gateway.handle(now, gateway::Input::Reply { id, packet });
                    }
                }
            }
        }
        delivered
    }

    fn drain_gateway(&mut self, index: usize, packets: &mut Vec<Packet>) -> bool {
        let mut acted = false;
        while let Some(action) = self.nodes[index].gateway.as_mut().and_then(Gateway::poll) {
            match action {
                gateway::Action::Mix(packet) => packets.push(packet),
                gateway::Action::Exit(packet) => {
                    acted = true;
                    if let Some(exit) = &mut self.nodes[index].exit {
                        exit.handle(self.now, exit::Input::Message(packet));
                    }
                }
                gateway::Action::Welcome { client, bytes, .. }
                | gateway::Action::Refuse { client, bytes, .. }
                | gateway::Action::Send { client, bytes, .. } => {
                    let (now, client) = (self.now, self.nodes[index].clients[&client]);
                    self.see(|| Sighting::Downlink { client, at: now });
                    self.schedule(now + self.plan.link, Event::Down { client, frame: bytes });
                }
                gateway::Action::Store(order) => {
                    let node = &mut self.nodes[index];
                    let (answers, _) = node.store.perform(vec![order]);
                    if let Some(gateway) = &mut node.gateway {
                        for answer in answers {
                            gateway.handle(self.now, gateway::Input::Store(answer));
                        }
                    }
                }
                // Its gateways take no mail.
                gateway::Action::Post(_) | gateway::Action::Upload(..) => {}
            }
        }
        acted
    }

    fn drain_exit(&mut self, index: usize, packets: &mut Vec<Packet>) -> bool {
        let mut acted = false;
        while let Some(action) = self.nodes[index].exit.as_mut().and_then(Exit::poll) {
            acted = true;
            let inputs = match action {
                exit::Action::Mix(packet) => {
                    packets.push(packet);
                    continue;
                }
                exit::Action::Resolve(id, name) => {
                    vec![exit::Input::Resolved(id, self.outside.resolve(&name))]
                }
                exit::Action::Connect(id, addresses) => {
                    let result = self.outside.connect(&addresses).map(|server| {
                        let connection = Connection {
                            server,
                            answer: Vec::new(),
                            ended: false,
                            end_told: false,
                            asked: None,
                        };
                        self.nodes[index].connections.insert(id, connection);
                    });
                    vec![exit::Input::Connected(id, result)]
                }
                // An exit leads to no mailbox.
                exit::Action::Mailbox(..) => Vec::new(),
                exit::Action::Abort(id) | exit::Action::Forget(id) => {
                    self.nodes[index].connections.remove(&id);
                    continue;
                }
                exit::Action::Read(id, max) => self.nodes[index].converse(id, |c| c.asked = Some(max)),
                exit::Action::Write(id, bytes) => {
                    let n = bytes.len();
                    let mut inputs = self.nodes[index].converse(id, |c| {
                        c.ended |= c.server.data(&bytes, &mut c.answer);
                    });
                    inputs.push(exit::Input::Wrote(id, n));
                    inputs
                }
                exit::Action::Finish(id) => self.nodes[index].converse(id, |c| {
                    c.ended |= c.server.finished(&mut c.answer);
                }),
            };
            if let Some(exit) = &mut self.nodes[index].exit {
                inputs.into_iter().for_each(|input| exit.handle(self.now, input));
            }
        }
        acted
    }
}

impl NodeSim {
    /// Does something with a connection, then answers an outstanding read if there is something to read.
    fn converse(&mut self, id: ConnId, act: impl FnOnce(&mut Connection)) -> Vec<exit::Input> {
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
