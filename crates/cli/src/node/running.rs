//! A node of a configuration while it runs: its keys and state, its host and cores, who answers `mizzle status`, and what looks
//! for newer documents. One process runs one (`mizzle node run`), or all of a network (`mizzle up`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use mizzle_base::document::{DocumentError, Role};
use mizzle_base::{Document, NodeId, Rng, Time};
use mizzle_exit::Policy;
use mizzle_gateway::ClientId;
use mizzle_gateway::store::Limits;
use mizzle_net::clock::{Clock, ClockOff};
use mizzle_net::host::{self, Transport};
use mizzle_net::node::{self, Parts, RunningNode};
use mizzle_net::state::{self, Folder, Kind, State};
use mizzle_net::wire;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::NodeError;
use crate::assemble::{self, Keys, Options, StartError, role_name};
use crate::config::node::Admission;
use crate::config::{NodeConfig, Problem, Problems};
use crate::control;
use crate::follow::{Follow, Following};
use crate::join;
use crate::renew::NextKeys;
use crate::status::NodeWatch;

/// Clients that a gateway links at most, whatever its capacity: each may hold some 100 KB.
const MAX_CLIENTS: u32 = 16_384;
/// As memory and mailboxes are counted.
const BYTES_IN_MB: u64 = 1 << 20;
/// Replies wait in pieces of 4 KB.
const REPLIES_IN_MB: u64 = 256;
/// What a mix remembers of a packet that it accepted, in bytes.
const TAG_BYTES: u64 = 11;
/// Packets for which there is room from the start, at most: 11 MB. It grows with what comes.
const MOST_EXPECTED: f64 = (1 << 20) as f64;
/// Other nodes that a loop passes, and its own.
const HOPS_OF_A_LOOP: f64 = 4.0;
/// Threads that peel, unless the configuration says more.
const MOST_WORKERS: usize = 16;
/// In the state: the last document that was taken while the node ran. The file that the configuration names is its operator's.
const KEPT_DOCUMENT: &str = "network.doc";
/// The longest token, in bytes.
const MAX_TOKEN_LEN: usize = 255;

/// How a node runs that its configuration doesn't say.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Endpoints of this machine that its exit refuses, as the proxy of the same process.
    pub refused: Vec<std::net::SocketAddr>,
    /// The share of packets that its links lose on purpose, for trying and testing; else zero.
    pub loss: f64,
}

/// A node that runs.
pub struct Running {
    document: Arc<Document>,
    id: NodeId,
    role: Role,
    layer: u8,
    has_exit: bool,
    listening: Vec<Multiaddr>,
    node: RunningNode,
    host: host::Running,
    following: Following,
    answering: Option<watch::Sender<bool>>,
    /// This process's until it ends.
    state: State,
}

/// A node that listens and is about to run: what it kept is read, others can connect, and nothing is done for them yet. Where many
/// start on one machine all are so far before any runs, so that none waits for another one's door or disk.
pub struct Bound<'a> {
    config: &'a NodeConfig,
    document: Arc<Document>,
    id: NodeId,
    listening: Vec<Multiaddr>,
    host: host::Running,
    parts: Parts,
    state: State,
}

impl<'a> Bound<'a> {
    /// Begins with the node of this file.
    ///
    /// # Errors
    /// [`NodeError`], and nothing is left behind.
    pub async fn start(
        path: &Path,
        config: &'a NodeConfig,
        how: How,
        clock: Clock,
        rng: &mut Rng,
    ) -> Result<Self, NodeError> {
        let state = State::open(&config.state, Kind::Node)?;
        let Loaded {
            document,
            keys,
            gateway,
        } = load(config, &state, clock.now()).map_err(|list| Problems {
            file: path.into(),
            list,
        })?;
        let id = assemble::node_id(&keys)?;
        let listed = document
            .node(&id)
            .ok_or(StartError::Node(mizzle_mix::NotOurs::NotListed))?;
        let clients = (config.capacity_frames_per_s as f64 / document.profile().downlink_per_s) as u32;
        let network = document.network();
        // It listens where it is told, and dials whatever the document names.
        let (transport, addresses) = (Transport::Both, config.listen.clone());
        let clients = clients.clamp(1, MAX_CLIENTS);
        let host = assemble::listen(&keys, listed.role, transport, addresses, &network, clients).await?;
        let listening = host.listen.clone();
        let options = Options {
            gateway,
            policy: policy(config, &document, &listening).with_refused_endpoints(how.refused),
            keep: config.state.clone(),
            mail: mail_limits(config),
            workers: workers(config),
            mix: mix_config(config, &document),
            loss: how.loss,
        };
        if let Err(why) = write_next_keys(&state, &keys, id, &document) {
            tracing::warn!("{why}");
        }
        let (host, parts) = assemble::parts(host, keys, &document, options, clock, rng)?;
        Ok(Self {
            config,
            document,
            id,
            listening,
            host,
            parts,
            state,
        })
    }

    /// Goes to work.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn run(self, clock: Clock, rng: &mut Rng) -> Result<Running, NodeError> {
        let Self {
            config,
            document,
            id,
            listening,
            host,
            parts,
            state,
        } = self;
        let (role, layer, has_exit) = document
            .node(&id)
            .map(|n| (n.role, n.layer, n.exit.is_some()))
            .ok_or(StartError::Node(mizzle_mix::NotOurs::NotListed))?;
        let node = node::run(parts, clock, assemble::fork(rng)).map_err(StartError::Thread)?;
        let folder = config.state.clone();
        let follow = Follow {
            document: Arc::clone(&document),
            authority: config.authority,
            file: Some(config.document.clone()),
            first: None,
            client: None,
            but: Some(id),
            transport: Transport::Both,
            clock,
            rng: assemble::fork(rng),
            keep: Box::new(move |document| keep(&folder, id, document)),
        };
        let following = follow.start(node.documents());
        let mail_max_bytes = config.mail_total_mb * BYTES_IN_MB;
        let watch = NodeWatch::start(Arc::clone(&document), id, node.observer(), mail_max_bytes, clock);
        let answering = answer(&state, watch);
        Ok(Running {
            document,
            id,
            role,
            layer,
            has_exit,
            listening,
            node,
            host,
            following,
            answering,
            state,
        })
    }
}

impl Running {
    /// The document that it began with.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Its id there.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// `mix`, `gateway` or `gateway with exit`.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        role_name(self.role, self.has_exit)
    }

    /// 1 to 3 for a mix, 0 for a gateway.
    #[must_use]
    pub fn layer(&self) -> u8 {
        self.layer
    }

    /// Where it listens.
    #[must_use]
    pub fn listening(&self) -> &[Multiaddr] {
        &self.listening
    }

    /// What it has done so far.
    #[must_use]
    pub fn snapshot(&self) -> node::Snapshot {
        self.node.snapshot()
    }

    /// Waits until gateways say that this machine's clock is off by more than it may be.
    pub async fn clock_off(&self) -> ClockOff {
        self.following.clock_off().await
    }

    /// Stops it: connections have a few seconds to close. Its state is free afterwards.
    pub async fn stop(self) {
        drop((self.answering, self.following));
        self.node.stop().await;
        self.host.shutdown().await;
        drop(self.state);
    }
}

/// What a node needs beside its configuration, read and compared.
pub struct Loaded {
    document: Arc<Document>,
    keys: Keys,
    gateway: mizzle_gateway::Config,
}

/// Reads all that a configuration names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(config: &NodeConfig, folder: &Folder, now: Time) -> Result<Loaded, Vec<Problem>> {
    let keys = Keys::read(folder);
    let document = document(config, folder, keys.as_ref().ok(), now);
    let gateway = gateway(config);
    match (document, keys, gateway) {
        (Ok(document), Ok(keys), Ok(gateway)) => {
            check(config, &document, &keys)?;
            Ok(Loaded {
                document: Arc::new(document),
                keys,
                gateway,
            })
        }
        (document, keys, gateway) => {
            let mut wrong: Vec<Problem> = document.err().into_iter().map(Problem::from).collect();
            wrong.extend(keys.err().into_iter().flatten().map(|e| e.to_string().into()));
            wrong.extend(gateway.err().map(Problem::from));
            Err(wrong)
        }
    }
}

/// The document of the file that the configuration names, or a newer one that was taken while the node ran.
fn document(
    config: &NodeConfig,
    folder: &Folder,
    keys: Option<&Keys>,
    now: Time,
) -> Result<Document, String> {
    let verify = |bytes: &[u8]| Document::verify(bytes, &config.authority, now, 0);
    let named = join::read_document(&config.document).map_err(|e| e.to_string())?;
    let named = verify(&named);
    // One of another authority, one that is over, or one of other keys than those that are there, is of no use any more.
    let kept = folder.read(KEPT_DOCUMENT).ok().flatten();
    let kept = kept.and_then(|bytes| verify(&bytes).ok());
    let kept = kept.filter(|kept| keys.is_some_and(|keys| check(config, kept, keys).is_ok()));
    match (named, kept) {
        (Ok(named), Some(kept))
            if kept.network() == named.network() && kept.sequence() > named.sequence() =>
        {
            Ok(kept)
        }
        (Err(DocumentError::Expired { .. }), Some(kept)) => Ok(kept),
        (named, _) => named.map_err(|e| format!("{}: {e}", config.document.display())),
    }
}

/// Whether the document speaks of this node.
fn check(config: &NodeConfig, document: &Document, keys: &Keys) -> Result<(), Vec<Problem>> {
    let id = assemble::node_id(keys).map_err(|e| vec![e.to_string().into()])?;
    let Some(listed) = document.node(&id) else {
        return Err(vec![
            format!(
                "{} doesn't list a node with the identity in {} (node id {id}): get a document that does from the \
                 authority, or name the state that belongs to this one",
                config.document.display(),
                config.state.join(assemble::IDENTITY_KEY).display(),
            )
            .into(),
        ]);
    };
    keys.check(document, listed).map_err(|wrong| {
        let text = |e: assemble::OtherKey| format!("{}: {e}", config.state.display()).into();
        wrong.into_iter().map(text).collect()
    })
}

fn gateway(config: &NodeConfig) -> Result<mizzle_gateway::Config, String> {
    let admission = match config.admission {
        Admission::Open => mizzle_gateway::Admission::Open,
        Admission::List => mizzle_gateway::Admission::AllowList(
            config
                .clients
                .iter()
                .map(node::client_id)
                .collect::<std::collections::BTreeSet<ClientId>>(),
        ),
        Admission::Token => {
            let path = config.token_file.as_deref().unwrap_or(Path::new(""));
            let text = state::read_private(path).map_err(|e| e.to_string())?;
            let token = Zeroizing::new(text.trim_ascii().to_vec());
            if token.is_empty() || token.len() > MAX_TOKEN_LEN {
                return Err(format!("{} must hold 1 to {MAX_TOKEN_LEN} bytes", path.display()));
            }
            mizzle_gateway::Admission::Token(token)
        }
    };
    Ok(mizzle_gateway::Config::default()
        .with_admission(admission)
        .with_downlink_capacity_per_s(config.capacity_frames_per_s as f64)
        .with_replies((config.replies_client_mb * REPLIES_IN_MB) as usize)
        .with_replies_total((config.replies_total_mb * REPLIES_IN_MB) as usize)
        .with_reply_life(Duration::from_secs(config.replies_minutes * 60)))
}

/// Bounded by the configuration's ranges: no product overflows.
fn mail_limits(config: &NodeConfig) -> Limits {
    Limits::default()
        .with_mailbox_bytes(config.mail_mailbox_mb * BYTES_IN_MB)
        .with_total_bytes(config.mail_total_mb * BYTES_IN_MB)
        .with_letters(config.mail_letters.try_into().unwrap_or(u32::MAX))
        .with_item_life(Duration::from_secs(config.mail_days * 86_400))
}

/// How much it remembers, and for how much there is room from the start: for the loops of the whole network in an
/// epoch. What clients send comes on top, and nobody knows how many there will be.
fn mix_config(config: &NodeConfig, document: &Document) -> mizzle_mix::Config {
    let length = document.epochs().length();
    let loops = document.profile().node_loop_per_s * HOPS_OF_A_LOOP * length.as_secs_f64();
    mizzle_mix::Config::default()
        .with_replay_tags((config.replay_mb * BYTES_IN_MB / TAG_BYTES) as usize)
        .with_expected_tags(loops.min(MOST_EXPECTED) as usize)
}

/// Connections need the other half of the cores.
fn workers(config: &NodeConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config
        .workers
        .map_or_else(|| cores.div_ceil(2).min(MOST_WORKERS), |n| n as usize)
}

/// Whether the node has the keys of a newer document. If it has, the document is kept, and the node says which keys it will have
/// when that one is over.
fn keep(state: &Path, id: NodeId, document: &Document) -> Result<(), String> {
    let folder = State::inspect(state, Kind::Node).map_err(|e| e.to_string())?;
    let wrong = |list: Vec<String>| list.join("; ");
    let keys = Keys::read(&folder).map_err(|list| wrong(list.iter().map(ToString::to_string).collect()))?;
    let listed = document.node(&id).ok_or("it doesn't list this node")?;
    keys.check(document, listed)
        .map_err(|list| wrong(list.iter().map(ToString::to_string).collect()))?;
    // For the next start. Without it the node would begin with the one that it was started with, as long as that is good.
    state::publish(&folder.path().join(KEPT_DOCUMENT), document.bytes()).map_err(|e| e.to_string())?;
    write_next_keys(&folder, &keys, id, document)
}

/// The public keys that the node will have when the document is over, for whoever makes the next one.
fn write_next_keys(folder: &Folder, keys: &Keys, id: NodeId, document: &Document) -> Result<(), String> {
    let next = NextKeys::of(keys, id, document).ok_or("the keys of the document's end are over")?;
    let path = folder.path().join(assemble::NEXT_KEYS);
    state::publish(&path, next.text().as_bytes()).map_err(|e| e.to_string())
}

/// Answers `mizzle status` until what it returns is dropped. A node whose socket can't be had mixes none the worse.
fn answer(state: &State, watch: NodeWatch) -> Option<watch::Sender<bool>> {
    let listener = control::Listener::bind(state.path())
        .inspect_err(|why| tracing::warn!("`mizzle status` can't be answered: {why}"))
        .ok()?;
    let services = control::Services {
        status: Arc::new(move || watch.status()),
        client: None,
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(control::serve(listener, services, stopped));
    Some(stop)
}

/// An exit serves neither the machine that it runs on nor the network itself, wherever it listens.
fn policy(config: &NodeConfig, document: &Document, listening: &[Multiaddr]) -> Policy {
    let own: Vec<_> = config
        .listen
        .iter()
        .chain(listening)
        .filter_map(wire::socket_address)
        .collect();
    let ips = own
        .iter()
        .map(std::net::SocketAddr::ip)
        .filter(|ip| !ip.is_unspecified());
    assemble::policy(document, config.allow.iter().cloned())
        .with_own_addresses(ips)
        .with_refused_endpoints(own.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_as_much_mail_as_its_file_says() {
        let limits = |mailbox, total, letters, days| {
            let config = NodeConfig {
                mail_mailbox_mb: mailbox,
                mail_total_mb: total,
                mail_letters: letters,
                mail_days: days,
                ..NodeConfig::default()
            };
            format!("{:?}", mail_limits(&config))
        };
        let mib = 1 << 20;
        let wanted = Limits::default()
            .with_mailbox_bytes(3 * mib)
            .with_total_bytes(70 * mib)
            .with_letters(5)
            .with_item_life(Duration::from_secs(9 * 86_400));
        assert_eq!(limits(3, 70, 5, 9), format!("{wanted:?}"));
        // What stands in the explained configuration as the default is the store's own.
        assert_eq!(
            limits(256, 16_384, 10_000, 30),
            format!("{:?}", Limits::default())
        );
    }
}
