//! `mizzle node run`: one mix or gateway, with the identity that its state holds and the role that the document gives it.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mizzle_base::document::DocumentError;
use mizzle_base::{Document, NodeId, Time};
use mizzle_exit::Policy;
use mizzle_gateway::ClientId;
use mizzle_gateway::store::Limits;
use mizzle_net::clock::{self, Clock, ClockOff};
use mizzle_net::host::{HostError, Transport};
use mizzle_net::node;
use mizzle_net::state::{self, Folder, Kind, State, StateError};
use mizzle_net::wire;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::assemble::{self, Keys, Options, StartError, role_name};
use crate::config::node::Admission;
use crate::config::{NodeConfig, Problem, Problems};
use crate::control;
use crate::follow::Follow;
use crate::join;
use crate::renew::NextKeys;
use crate::signals::interrupted;
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

/// Why a node ends without success.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration or what it names.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// An address to listen on.
    #[error(
        "{0}: stop what has it, or set another in `listen` (others dial the addresses in the network document)"
    )]
    Listen(HostError),
    /// It doesn't start.
    #[error(transparent)]
    Start(StartError),
    /// The clock.
    #[error(transparent)]
    Clock(ClockOff),
    /// Signals.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<StartError> for NodeError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Host(error @ HostError::Listen { .. }) => Self::Listen(error),
            error => Self::Start(error),
        }
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

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// [`NodeError`], before anything is announced.
pub async fn run(path: &Path, json: bool, clock: Clock) -> Result<(), NodeError> {
    let interrupted = interrupted()?;
    let config = NodeConfig::load(path)?;
    // This process's until it ends.
    let state = State::open(&config.state, Kind::Node)?;
    let mut rng = clock::rng().map_err(StartError::Entropy)?;
    let Loaded {
        document,
        keys,
        gateway,
    } = load(&config, &state, clock.now()).map_err(|list| Problems {
        file: path.into(),
        list,
    })?;
    let id = assemble::node_id(&keys)?;
    let (role, layer, has_exit) = document
        .node(&id)
        .map(|n| (n.role, n.layer, n.exit.is_some()))
        .ok_or(StartError::Node(mizzle_mix::NotOurs::NotListed))?;
    let clients = (config.capacity_frames_per_s as f64 / document.profile().downlink_per_s) as u32;
    let network = document.network();
    // It listens where it is told, and dials whatever the document names.
    let (transport, addresses) = (Transport::Both, config.listen.clone());
    let clients = clients.clamp(1, MAX_CLIENTS);
    let host = assemble::listen(&keys, role, transport, addresses, &network, clients).await?;
    let listening = host.listen.clone();
    let options = Options {
        gateway,
        policy: policy(&config, &document, &listening),
        keep: Some(config.state.clone()),
        mail: mail_limits(&config),
        workers: workers(&config),
        mix: mix_config(&config, &document),
        loss: 0.0,
    };
    if let Err(why) = write_next_keys(&state, &keys, id, &document) {
        tracing::warn!("{why}");
    }
    let (host, parts) = assemble::parts(host, keys, &document, options, clock, &mut rng)?;
    let node = node::run(parts, clock, assemble::fork(&mut rng)).map_err(StartError::Thread)?;
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
        rng: assemble::fork(&mut rng),
        keep: Box::new(move |document| keep(&folder, id, document)),
    };
    let following = follow.start(node.documents());
    let mail_max_bytes = config.mail_total_mb * BYTES_IN_MB;
    let watch = NodeWatch::start(Arc::clone(&document), id, node.observer(), mail_max_bytes, clock);
    let answering = answer(&state, watch);

    let role = role_name(role, has_exit);
    let text = if json {
        let ready = serde_json::json!({
            "ready": true,
            "network": document.name(),
            "role": role,
            "layer": layer,
            "id": id.to_string(),
            "listening": listening.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        format!("{ready}\n")
    } else {
        let layer = if layer == 0 {
            String::new()
        } else {
            format!(" of layer {layer}")
        };
        let addresses: Vec<_> = listening.iter().map(ToString::to_string).collect();
        format!(
            "{role}{layer} of network `{}`, listening on {}; Ctrl-C ends it\n",
            document.name(),
            addresses.join(" and ")
        )
    };
    say(&text);
    let outcome = tokio::select! {
        () = interrupted.wait() => Ok(()),
        off = following.clock_off() => Err(NodeError::Clock(off)),
    };
    drop((answering, following));
    // Connections have a few seconds to close; who asks a second time doesn't want to wait for them.
    tokio::select! {
        () = async { node.stop().await; host.shutdown().await } => {}
        () = interrupted.wait() => {}
    }
    drop(state);
    outcome
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

/// Prints what the process is ready for.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    // A reader that has gone is no reason to stop.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// An exit serves neither the machine that it runs on nor the network itself, wherever it listens.
fn policy(config: &NodeConfig, document: &Document, listening: &[libp2p::Multiaddr]) -> Policy {
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
