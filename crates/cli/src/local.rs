//! A whole network in one folder and in this process: `mizzle up` keeps it running, `mizzle bench` measures it.
//!
//! The folder is one as `mizzle network init` makes it, and its nodes and its client are those of `mizzle node run` and `mizzle
//! client run`: they keep letters, keys and what they accepted as any do, each answers `mizzle status`, and all commands that take
//! a network's folder or a configuration take these. What is here is only how the folder comes to be, and that nothing of it
//! leaves this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{SigningKey, VerifyingKey};
use mizzle_apps::proxy;
use mizzle_base::document::{DocumentError, Role};
use mizzle_base::profile::Pattern;
use mizzle_base::{Counters, Document, Profile};
use mizzle_exit::Allow;
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::HostError;
use mizzle_net::state::{self, Kind, State, StateError};
use mizzle_traffic::ledger::Tally;

use crate::args::{NetworkArgs, NetworkInit, ProfileName, TransportName};
use crate::assemble::StartError;
use crate::config::{ClientConfig, NodeConfig, Problems};
use crate::init::{self, InitError};
use crate::join::{self, JoinError};
use crate::member::Member;
use crate::node::{self, NodeError};
use crate::rekey::{self, RekeyError};
use crate::renew::{self, RenewError};

/// The document is valid for so long, and is renewed when half of it is over.
const VALID_DAYS: u32 = 10;
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_secs(3_600);
/// After the folder's name: where it is while it is being made or deleted. A crash leaves no half of a network.
const UNFINISHED: &str = ".unfinished";

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The folder holds another one than was asked for.
    #[error(
        "{} holds a network of {found}, and {asked} is asked for: say so, name another folder with --state, or begin anew with \
         --fresh, which deletes the one that is there with its letters", .folder.display()
    )]
    Other {
        /// Which.
        folder: PathBuf,
        /// What is there.
        found: String,
        /// What should be.
        asked: String,
    },
    /// The folder holds something else.
    #[error("{} holds something else than a network of `mizzle up`: name another folder with --state", .0.display())]
    Foreign(PathBuf),
    /// The folder.
    #[error("cannot {action} {}: {source}; name another folder with --state", .path.display())]
    Folder {
        /// What was to be done.
        action: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its document.
    #[error(
        "{}: {source}. Each folder of a node in there has a copy, `network.doc`; or name another folder with --state, or begin anew \
         with --fresh, which deletes the network that is kept with its letters", .path.display()
    )]
    Document {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: DocumentError,
    },
    /// It can't be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Its document can't be renewed.
    #[error(transparent)]
    Renew(#[from] RenewError),
    /// Nor read.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// A configuration in it.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A key or state in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another program has a port of it.
    #[error(
        "{0}: stop what has it, name another folder with --state, or begin anew with --fresh, which deletes the network that is \
         kept with its letters"
    )]
    Taken(HostError),
    /// A node doesn't start.
    #[error(transparent)]
    Node(NodeError),
    /// The client doesn't.
    #[error(transparent)]
    Client(#[from] JoinError),
    /// The rest.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl From<NodeError> for LocalError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Listen(error) => Self::Taken(error),
            error => Self::Node(error),
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Where it is kept; made where there is none.
    folder: PathBuf,
    profile: ProfileName,
    network: NetworkArgs,
    socks: SocketAddr,
}

impl LocalConfig {
    /// A network as the command line describes it, in a folder; its SOCKS port is any free one of the loopback interface.
    #[must_use]
    pub fn new(folder: PathBuf, profile: ProfileName, network: &NetworkArgs) -> Self {
        Self {
            folder,
            profile,
            network: network.clone(),
            socks: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        }
    }

    /// Another address for the SOCKS port.
    #[must_use]
    pub fn with_socks(mut self, address: SocketAddr) -> Self {
        self.socks = address;
        self
    }

    /// What is asked of `mizzle network init`.
    fn init(&self, dir: PathBuf) -> NetworkInit {
        let loopback = ["127.0.0.0/8", "[::1]"].iter();
        NetworkInit {
            dir,
            name: None,
            profile: self.profile,
            mean_delay_ms: self.network.mean_delay_ms,
            pattern: Pattern::Poisson,
            mixes_per_layer: self.network.mixes_per_layer,
            gateways: self.network.gateways,
            exits: 1,
            clients: 1,
            transport: self.network.transport,
            hosts: vec![Ipv4Addr::LOCALHOST.into()],
            base_port: 0,
            valid_days: VALID_DAYS,
            epoch_s: 86_400,
            epochs: None,
            // Never a port of the network itself: nodes see to that.
            exit_allow: loopback.filter_map(|range| Allow::parse(range).ok()).collect(),
            json: false,
        }
    }
}

/// Where a node listens.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Listening {
    /// `mix`, `gateway`, or `gateway with exit`.
    pub role: &'static str,
    /// Layer of a mix; 0 for gateways.
    pub layer: u8,
    /// Multiaddr.
    pub address: String,
    /// Its configuration, for other commands.
    pub config: PathBuf,
}

/// What all parts have done so far.
pub struct Report {
    /// All counters of nodes and client.
    pub counters: Counters,
    /// The client's loops.
    pub client_loops: Tally,
}

/// A running network.
pub struct Local {
    folder: PathBuf,
    authority: VerifyingKey,
    client_config: PathBuf,
    listening: Vec<Listening>,
    nodes: Vec<node::Running>,
    member: Member,
    renewing: tokio::task::AbortHandle,
    /// The client's, this process's until it ends.
    state: Arc<State>,
}

impl Local {
    /// Starts everything; returns when the client is admitted and the SOCKS port listens.
    ///
    /// # Errors
    /// [`LocalError`], in words for a person.
    pub async fn start(config: LocalConfig) -> Result<Self, LocalError> {
        let clock = Clock::start();
        let mut rng = clock::rng().map_err(StartError::Entropy)?;
        // First what a user is likeliest to have wrong.
        let door = proxy::Server::bind(proxy::Config::new(config.socks))
            .await
            .map_err(StartError::from)?;
        let folder = Folder::open_or_make(&config, clock)?;
        let how = node::How {
            refused: vec![door.local_addr()],
            loss: config.network.drop_percent / 100.0,
        };
        let mut configs = Vec::new();
        for path in node_configs(&folder.path)? {
            let mut config = NodeConfig::load(&path)?;
            // All share the cores of this machine.
            config.workers = Some(1);
            configs.push((path, config));
        }
        let mut bound = Vec::new();
        for (path, config) in &configs {
            // So that Ctrl-C is heard between two: reading keys and tags keeps the thread.
            tokio::task::yield_now().await;
            let node = node::Bound::start(path, config, how.clone(), clock, &mut rng);
            let node = Box::pin(node).await?;
            bound.push((path, node));
        }
        let (mut nodes, mut listening) = (Vec::new(), Vec::new());
        for (path, node) in bound {
            let node = node.run(clock, &mut rng)?;
            let addresses = node.listening().iter().map(ToString::to_string);
            listening.push(Listening {
                role: node.role_name(),
                layer: node.layer(),
                address: addresses.collect::<Vec<_>>().join(" "),
                config: path.clone(),
            });
            nodes.push(node);
        }
        // Mixes layer by layer, then gateways, as packets go.
        listening.sort_by_key(|node| (node.layer == 0, node.layer));
        let client_config = init::client_config(&folder.path);
        let client = ClientConfig::load(&client_config)?;
        let state = Arc::new(State::open_or_create(&client.state, Kind::Client)?);
        let joining = join::by_config(&client, &state, door, how.loss, clock, &mut rng);
        let (member, _) = Box::pin(joining).await?;
        let authority = folder.authority.verifying_key();
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                // Nodes and client take it from their files.
                if let Err(why) = folder.renew(clock) {
                    tracing::warn!("the network document can't be renewed: {why}");
                }
            }
        })
        .abort_handle();
        Ok(Self {
            folder: config.folder,
            authority,
            client_config,
            listening,
            nodes,
            member,
            renewing,
            state,
        })
    }

    /// Where the SOCKS port listens.
    #[must_use]
    pub fn socks(&self) -> SocketAddr {
        self.member.socks()
    }

    /// Where the nodes listen.
    #[must_use]
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// Where it is kept.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The client's configuration, for other commands.
    #[must_use]
    pub fn client_config(&self) -> &Path {
        &self.client_config
    }

    /// The network document.
    #[must_use]
    pub fn document(&self) -> &Document {
        self.member.document()
    }

    /// Who signed it.
    #[must_use]
    pub fn authority(&self) -> &VerifyingKey {
        &self.authority
    }

    /// What all parts have done so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let client = self.member.snapshot();
        let mut counters = client.counters;
        self.nodes
            .iter()
            .for_each(|node| counters.merge(&node.snapshot().counters));
        Report {
            counters,
            client_loops: client.loops,
        }
    }

    /// Stops everything in order: first the client, then the nodes.
    pub async fn stop(self) {
        self.renewing.abort();
        self.member.stop().await;
        // At once: each waits for its connections to close and its port to be free.
        let mut closing: tokio::task::JoinSet<()> = self.nodes.into_iter().map(node::Running::stop).collect();
        while closing.join_next().await.is_some() {}
        drop(self.state);
    }
}

/// The folder of a network.
struct Folder {
    path: PathBuf,
    authority: SigningKey,
}

impl Folder {
    /// The one that is there, if it is what was asked for, with a document that is good for some days; else a new one.
    fn open_or_make(config: &LocalConfig, clock: Clock) -> Result<Self, LocalError> {
        let path = &config.folder;
        if !has_files(path)? {
            let unfinished = beside(path);
            remove(&unfinished)?;
            init::make(&config.init(unfinished.clone()))?;
            std::fs::rename(&unfinished, path).map_err(failed("make", path))?;
        }
        let key = path.join(init::AUTHORITY_KEY);
        if !key.exists() {
            return Err(LocalError::Foreign(path.clone()));
        }
        let folder = Self {
            path: path.clone(),
            authority: SigningKey::from_bytes(&*state::read_secret(&key)?),
        };
        folder.check(config, clock)?;
        folder.renew(clock)?;
        Ok(folder)
    }

    fn document(&self, clock: Clock) -> Result<Document, LocalError> {
        let path = self.path.join(init::DOCUMENT);
        let bytes = join::read_document(&path)?;
        renew::verify(&bytes, &self.authority, clock.now())
            .map_err(|source| LocalError::Document { path, source })
    }

    /// Whether it is the network that was asked for.
    fn check(&self, config: &LocalConfig, clock: Clock) -> Result<(), LocalError> {
        let document = self.document(clock)?;
        let mixes = document.nodes().iter().filter(|n| n.role == Role::Mix).count();
        let addresses = document.nodes().iter().flat_map(|n| &n.addresses);
        let transport = match addresses.into_iter().all(|a| a.contains("/quic-v1")) {
            true => TransportName::Quic,
            false => TransportName::Tcp,
        };
        let found = words(
            document.profile(),
            mixes / 3,
            document.gateways().count(),
            transport,
        );
        let asked = &config.network;
        let profile = init::profile(config.profile, asked.mean_delay_ms);
        let asked = words(
            &profile,
            asked.mixes_per_layer.into(),
            asked.gateways.into(),
            asked.transport,
        );
        if found == asked {
            return Ok(());
        }
        Err(LocalError::Other {
            folder: self.path.clone(),
            found,
            asked,
        })
    }

    /// Makes the next document when half of the time of the one that there is is over.
    fn renew(&self, clock: Clock) -> Result<(), LocalError> {
        let left = self.document(clock)?.validity().1.since(clock.now());
        if left < Duration::from_secs(u64::from(VALID_DAYS) * 86_400 / 2) {
            renew::renew(&self.path, VALID_DAYS)?;
        }
        Ok(())
    }
}

/// The configurations of all nodes.
fn node_configs(folder: &Path) -> Result<Vec<PathBuf>, LocalError> {
    let all = rekey::folders(folder)?.into_iter();
    let configs = all.map(|folder| folder.join(init::NODE_CONFIG));
    Ok(configs.filter(|config| config.is_file()).collect())
}

/// Deletes a network of `mizzle up` that doesn't run.
///
/// # Errors
/// When the folder holds anything else, or a node or the client of it runs.
pub fn delete(folder: &Path) -> Result<(), LocalError> {
    if !has_files(folder)? {
        return Ok(());
    }
    let client = init::client_config(folder);
    if !folder.join(init::AUTHORITY_KEY).exists() || !client.exists() {
        return Err(LocalError::Foreign(folder.into()));
    }
    // In the order in which they start: who has all of these runs nothing and starts nothing meanwhile.
    let mut locks = Vec::new();
    for node in node_configs(folder)? {
        locks.push(State::open(&NodeConfig::load(&node)?.state, Kind::Node)?);
    }
    locks.push(State::open_or_create(
        &ClientConfig::load(&client)?.state,
        Kind::Client,
    )?);
    // In one step: a crash leaves no half of it there.
    let unfinished = beside(folder);
    remove(&unfinished)?;
    std::fs::rename(folder, &unfinished).map_err(failed("delete", folder))?;
    remove(&unfinished)?;
    drop(locks);
    Ok(())
}

/// Where a network is while it is being made or deleted.
fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    folder.with_file_name(name)
}

fn remove(folder: &Path) -> Result<(), LocalError> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("delete", folder)(e)),
        _ => Ok(()),
    }
}

fn has_files(folder: &Path) -> Result<bool, LocalError> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("read", folder)(e)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_path_buf();
    move |source| LocalError::Folder { action, path, source }
}

/// What makes one network another, in words.
fn words(profile: &Profile, mixes_per_layer: usize, gateways: usize, transport: TransportName) -> String {
    format!(
        "profile `{}` with {} ms a hop, {mixes_per_layer} mixes a layer and {gateways} gateways over {}",
        profile.name,
        profile.mean_delay_ms,
        transport.word()
    )
}
