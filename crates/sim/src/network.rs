//! The driver: every core, every packet in flight, one clock. What a node holds is in `node`, what users write to each other in
//! `letters`.

mod letters;
mod node;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::{Document, MailboxId, NodeId, Rng, Time};
use mizzle_client::{self as client, Client, StreamEvent, StreamKey};
use mizzle_exit::{self as exit, Exit, Policy};
use mizzle_gateway::store::MailStore as _;
use mizzle_gateway::{self as gateway, ClientId, Gateway};
use mizzle_mix::{self as mix, Delivered, Mix};
use mizzle_sphinx::Packet;
use mizzle_stream::{OpenError, OpenRequest};
use mizzle_traffic::draw;
use mizzle_traffic::weights::{self, Report, Reports};
use rand_core::SeedableRng as _;

use crate::outside::Outside;
use crate::plan::{Plan, PlanError, START, Secrets};
use letters::Desk;
use node::{Connection, NodeSim};

pub use letters::{PostError, Received, Sent, Stage};

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
    /// A packet came back to a gateway for one of its clients: a reply, a filler or a loop.
    Returned {
        /// Which gateway.
        gateway: NodeId,
        /// When.
        at: Time,
    },
}

enum Event {
    Packet {
        node: usize,
        packet: Packet,
    },
    Up {
        client: ClientIndex,
        frame: Box<[u8]>,
    },
    Down {
        client: ClientIndex,
        frame: Box<[u8]>,
    },
    /// Mail is on a client's disk.
    Kept {
        client: ClientIndex,
        generation: u64,
        next: u64,
    },
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

struct ClientSim {
    core: Client,
    id: ClientId,
    gateway: usize,
    /// Its link is there; while it is not, it hears and says nothing.
    linked: bool,
    events: Vec<(StreamKey, StreamEvent)>,
    desk: Desk,
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
    policy: Policy,
    outside: Outside,
    /// Share of the packets that come back for clients and are lost at their gateway.
    lost_replies: f64,
    watch: bool,
    sightings: Vec<Sighting>,
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
        let mut nodes = Vec::new();
        for node in secrets {
            nodes.push(NodeSim::start(&document, node, &policy, &mut rng, START)?);
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
            let id = ClientId(draw::bytes(&mut rng));
            let core = Client::new(
                client::Config::default(),
                Arc::clone(&document),
                &nodes[gateway].id,
                fork(&mut rng),
            )?;
            nodes[gateway].clients.insert(id, index);
            let desk = if plan.mail {
                Desk::new(&mut rng)
            } else {
                Desk::default()
            };
            clients.push(ClientSim {
                core,
                id,
                gateway,
                linked: true,
                events: Vec::new(),
                desk,
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
            policy,
            outside,
            lost_replies: 0.0,
            watch: false,
            sightings: Vec::new(),
            drops: None,
            reports: Reports::default(),
            reported: START,
        };
        for index in 0..network.clients.len() {
            let at = network.client_time();
            network.clients[index].core.handle(at, client::Input::LinkUp);
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
            node.mail.iter().for_each(|m| all.merge(m.counters()));
        }
        all
    }

    /// The epochs whose keys each node has.
    #[must_use]
    pub fn alive_keys(&self) -> Vec<Vec<u32>> {
        let epochs = |node: &NodeSim| node.keys.keys().copied().collect();
        self.nodes.iter().map(epochs).collect()
    }

    /// The earliest epoch that any node could still make keys of.
    #[must_use]
    pub fn earliest_seed(&self) -> Option<u32> {
        self.nodes.iter().map(|node| node.ring.ratchet().epoch()).min()
    }

    /// What a client's clock shows.
    fn client_time(&self) -> Time {
        shifted(self.now, self.plan.clients_fast_s)
    }

    /// Links lose this share of packets from here on.
    pub fn set_loss(&mut self, loss: f64) {
        self.plan.loss = loss;
    }

    /// Of the packets that come back for clients, on SURBs and as loops, this share is lost at their gateway from here on.
    pub fn set_lost_replies(&mut self, share: f64) {
        self.lost_replies = share;
    }

    /// The node is gone, with all that it held in memory and what was under way to it; its clients lose their links.
    pub fn stop(&mut self, node: &NodeId) {
        let Some(&index) = self.by_id.get(node) else {
            return;
        };
        if std::mem::replace(&mut self.nodes[index].up, false) {
            self.nodes[index].connections.clear();
            self.tell_clients(index, || client::Input::LinkDown);
        }
    }

    /// The node is there again, or begins anew at once: with its keys and its store and without a memory of anything else. Its
    /// clients come back.
    ///
    /// # Errors
    /// When it isn't as the document says, which was checked when the network was built.
    pub fn start(&mut self, node: &NodeId) -> Result<(), PlanError> {
        let Some(&index) = self.by_id.get(node) else {
            return Ok(());
        };
        self.stop(node);
        let old = &self.nodes[index];
        let secrets = Secrets {
            id: old.id,
            identity: old.identity.clone(),
            // As it is on a disk.
            ratchet: old.ring.ratchet().clone(),
            has_exit: old.has_exit,
        };
        let new = NodeSim::start(&self.document, secrets, &self.policy, &mut self.rng, self.now)?;
        let old = std::mem::replace(&mut self.nodes[index], new);
        let node = &mut self.nodes[index];
        node.clients = old.clients;
        node.store = old.store;
        if node.gateway.is_some() {
            // Of a store in memory this never fails.
            let registered = node.store.registered().unwrap_or_default();
            let (config, rng) = (gateway::Config::default(), fork(&mut self.rng));
            let document = in_epoch(&self.document, self.now);
            node.gateway = Some(Gateway::new(config, document, &node.id, registered, rng));
        }
        self.tell_clients(index, || client::Input::LinkUp);
        Ok(())
    }

    /// The client begins anew, as after a crash: its streams are gone, and what was under way to it finds nobody who knows it.
    ///
    /// # Errors
    /// When its gateway isn't as the document says, which was checked when the network was built.
    pub fn restart_client(&mut self, client: ClientIndex) -> Result<(), PlanError> {
        let gateway = self.nodes[self.clients[client].gateway].id;
        let rng = fork(&mut self.rng);
        let at = self.client_time();
        let document = in_epoch(&self.document, at);
        let old = &mut self.clients[client];
        old.core = Client::new(old.desk.config(), document, &gateway, rng)?;
        old.events.clear();
        old.desk.restarted();
        if old.linked {
            old.core.handle(at, client::Input::LinkUp);
        }
        self.drain_client(client);
        Ok(())
    }

    /// The client's link is gone, as when it is switched off or out of reach: what is on its way there is lost.
    pub fn leave(&mut self, client: ClientIndex) {
        let at = self.client_time();
        let left = &mut self.clients[client];
        if !std::mem::replace(&mut left.linked, false) {
            return;
        }
        left.core.handle(at, client::Input::LinkDown);
        let (node, id) = (left.gateway, left.id);
        if let Some(gateway) = &mut self.nodes[node].gateway {
            gateway.handle(self.now, gateway::Input::Gone { client: id });
        }
        self.drain_client(client);
        self.turn_node(node, Vec::new());
    }

    /// It is there again.
    pub fn come_back(&mut self, client: ClientIndex) {
        if !std::mem::replace(&mut self.clients[client].linked, true)
            && self.nodes[self.clients[client].gateway].up
        {
            let at = self.client_time();
            self.clients[client].core.handle(at, client::Input::LinkUp);
            self.drain_client(client);
        }
    }

    fn tell_clients(&mut self, node: usize, what: impl Fn() -> client::Input) {
        let at = self.client_time();
        for index in 0..self.clients.len() {
            if self.clients[index].gateway == node && self.clients[index].linked {
                self.clients[index].core.handle(at, what());
                self.drain_client(index);
            }
        }
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
        let at = self.client_time();
        self.clients[client].core.open(at, request)
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

    /// Has packets between nodes dropped from now on.
    pub fn attack(&mut self, drops: Drops) {
        self.drops = Some(drops);
    }

    /// A client leaves its gateway for this one, with another identity: a core that has seen nothing of before.
    ///
    /// # Errors
    /// When there is no such gateway.
    pub fn move_client(&mut self, client: ClientIndex, gateway: &NodeId) -> Result<(), PlanError> {
        let place = self.by_id.get(gateway).copied();
        let place = place.ok_or(mizzle_client::NoSuchGateway)?;
        let core = Client::new(
            client::Config::default(),
            Arc::clone(&self.document),
            gateway,
            fork(&mut self.rng),
        )?;
        let old = &self.clients[client];
        let (gone, id) = (self.nodes[old.gateway].gateway.as_mut(), old.id);
        if let Some(gone) = gone {
            gone.handle(self.now, gateway::Input::Gone { client: id });
        }
        let id = ClientId(draw::bytes(&mut self.rng));
        self.nodes[place].clients.insert(id, client);
        let mut desk = std::mem::take(&mut self.clients[client].desk);
        desk.restarted();
        self.clients[client] = ClientSim {
            core,
            id,
            gateway: place,
            linked: true,
            events: Vec::new(),
            desk,
        };
        let at = self.client_time();
        self.clients[client].core.handle(at, client::Input::LinkUp);
        self.drain_client(client);
        Ok(())
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

    /// All nodes that live publish, and all clients that have a link hear it at once.
    fn report(&mut self) {
        self.reported = self.now;
        self.reports.expire(self.now);
        let (document, now) = (&self.document, self.now);
        for node in self.nodes.iter().filter(|node| node.up) {
            let bytes = Report::sign(document, &node.identity, now, &node.mix.said(now));
            if let Ok(report) = Report::verify(&bytes, document, now) {
                self.reports.add(report);
            }
        }
        let bundle = self.reports.bundle(Time::ZERO, usize::MAX);
        let at = self.client_time();
        for index in 0..self.clients.len() {
            if !self.clients[index].linked {
                continue;
            }
            let client = &mut self.clients[index].core;
            client.handle(at, client::Input::Reports(bundle.clone()));
            self.drain_client(index);
        }
    }

    /// Lets one thing happen, the next; returns the new time.
    pub fn step(&mut self) -> Time {
        self.step_until(Time::FAR_FUTURE)
    }

    /// The same, if it happens until then; else time passes and nothing happens.
    pub fn step_until(&mut self, until: Time) -> Time {
        let in_flight = self.in_flight.peek().map(|Reverse(p)| p.at);
        let nodes = self.nodes.iter().filter(|n| n.up).flat_map(|n| {
            let gateway = n.gateway.as_ref().and_then(Gateway::deadline);
            [
                n.mix.deadline(),
                gateway,
                n.exit.as_ref().and_then(Exit::deadline),
                n.mail.as_ref().and_then(Exit::deadline),
                n.ring.change_at(),
            ]
        });
        let back = |at| shifted(at, -self.plan.clients_fast_s);
        let clients = self
            .clients
            .iter()
            .flat_map(|c| [c.core.deadline().map(back), c.desk.deadline()]);
        let next = nodes
            .chain(clients)
            .chain([in_flight])
            .flatten()
            .min()
            .unwrap_or(self.now);
        self.now = self.now.max(next.min(until));
        while self.in_flight.peek().is_some_and(|Reverse(p)| p.at <= self.now) {
            if let Some(Reverse(pending)) = self.in_flight.pop() {
                self.arrive(pending.event);
            }
        }
        for index in 0..self.nodes.len() {
            self.turn_node(index, Vec::new());
        }
        let at_clients = self.client_time();
        if self.plan.reports && self.now.since(self.reported) >= weights::EVERY {
            self.report();
        }
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index].core;
            if client.deadline().is_some_and(|at| at <= at_clients) {
                client.handle(at_clients, client::Input::Tick);
            }
            self.run_desk(index);
            self.drain_client(index);
        }
        self.now
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Time) {
        while self.now < until {
            self.step_until(until);
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
                if self.nodes[node].up
                    && self.clients[client].linked
                    && let Some(gateway) = &mut self.nodes[node].gateway
                {
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
            // It went with the link.
            Event::Down { client, .. } if !self.clients[client].linked => {}
            Event::Down { client, frame } => {
                let at = self.client_time();
                self.clients[client].core.handle(at, client::Input::Frame(frame));
                self.drain_client(client);
            }
            Event::Kept {
                client,
                generation,
                next,
            } => {
                let at = self.client_time();
                let kept = client::Input::MailKept { generation, next };
                self.clients[client].core.handle(at, kept);
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
                client::Action::Reconnect
                    if self.clients[index].linked && self.nodes[self.clients[index].gateway].up =>
                {
                    let at = self.client_time();
                    self.clients[index].core.handle(at, client::Input::LinkUp);
                }
                client::Action::Reconnect => {}
                client::Action::Admitted(admission) => self.clients[index].desk.admitted(&admission),
                client::Action::Mail { number, item } => self.take_mail(index, number, item),
                client::Action::Refused(_) | client::Action::GatewayBlamed | client::Action::Loop(_) => {}
                client::Action::Stream(key, event) => {
                    let (now, client) = (self.now, &mut self.clients[index]);
                    if !client.desk.happened(&mut client.core, now, key, event) {
                        client.events.push((key, event));
                    }
                }
            }
        }
    }

    fn turn_node(&mut self, index: usize, mut packets: Vec<Packet>) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if !node.up {
            return;
        }
        // The simulation's clock never goes back, so no key is asked for that was erased.
        let _ = node.turn_keys(now);
        if let Some(gateway) = &mut node.gateway {
            gateway.handle(now, gateway::Input::Tick);
        }
        for exit in [&mut node.exit, &mut node.mail].into_iter().flatten() {
            exit.handle(now, exit::Input::Tick);
        }
        loop {
            let acted = self.drain_exit(index, &mut packets)
                | self.nodes[index].drain_mail(now, &mut packets)
                | self.drain_gateway(index, &mut packets);
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
                    self.see(|| Sighting::Returned {
                        gateway: from,
                        at: now,
                    });
                    // The link to the client loses packets too, before they have a frame.
                    let lost = self.lost()
                        || (self.lost_replies > 0.0 && draw::unit(&mut self.rng) <= self.lost_replies);
                    if !lost && let Some(gateway) = &mut self.nodes[index].gateway {
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
                gateway::Action::Post(packet) => {
                    acted = true;
                    if let Some(mail) = &mut self.nodes[index].mail {
                        mail.handle(self.now, exit::Input::Message(packet));
                    }
                }
                gateway::Action::Upload(id, what) => {
                    acted = true;
                    self.nodes[index].tell_sender(self.now, id, what);
                }
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

/// The document with the keys of now.
fn in_epoch(document: &Arc<Document>, now: Time) -> Arc<Document> {
    document
        .turned(now)
        .map_or_else(|| Arc::clone(document), Arc::new)
}

/// A clock that is fast by so many seconds.
fn shifted(at: Time, fast_s: i64) -> Time {
    let by = Duration::from_secs(fast_s.unsigned_abs());
    if fast_s < 0 { at - by } else { at + by }
}

fn fork(rng: &mut Rng) -> Rng {
    Rng::from_seed(draw::bytes(rng))
}
