//! `mizzle client run`: a user of a network that others run.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use libp2p::PeerId;
use libp2p::identity::Keypair;
use mizzle_apps::proxy;
use mizzle_base::document::{DocumentError, MAX_DOCUMENT_LEN, Role};
use mizzle_base::frame::Refusal;
use mizzle_base::{Document, NetworkId, NodeId, Rng, Time, hex};
use mizzle_client::{Moves, NoSuchGateway};
use mizzle_net::clock::{self, Clock, ClockOff};
use mizzle_net::directory::FetchError;
use mizzle_net::state::{Folder, Kind, State, StateError};
use mizzle_net::{client, identity};
use mizzle_traffic::draw;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::args::{ClientRun, OpenProxy};
use crate::assemble::{IDENTITY_KEY, StartError, fork};
use crate::config::{ClientConfig, Problems, paths};
use crate::follow::{Follow, Keep};
use crate::mail::serve::{Letters, LettersError, SEAL_KEY};
use crate::member::{self, Join, Member, Source};
use crate::moving::{Keep as KeepMoves, Moving};
use crate::node::say;
use crate::plan::EXIT_WEIGHT;
use crate::signals::interrupted;

/// For how long a gateway that can't be reached is tried again at the start: machines of a network may start together.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files of a client's state beside its identity.
const DOCUMENT: &str = "network.doc";
const SEQUENCE: &str = "sequence";
const GATEWAY: &str = "gateway";
const DRAWN: &str = "gateways-drawn";
const WAS_DRAWN: &str = "drawn";
const WAS_LEFT: &str = "left";

/// Why `mizzle client run` ends without success.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The client didn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its gateway doesn't admit it.
    #[error("{why}; this client's id is {client}")]
    Refused {
        /// What the gateway says.
        why: Refusal,
        /// For its operator's list.
        client: PeerId,
    },
    /// The proxy would be open to others.
    #[error(transparent)]
    OpenProxy(#[from] OpenProxy),
    /// The proxy that a configuration asks for.
    #[error("{0}; choose another with `proxy` in the configuration")]
    Proxy(proxy::BindError),
    /// The document's file.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority's key.
    #[error(
        "--authority must be 64 hexadecimal digits, an Ed25519 key, as the network's authority publishes it"
    )]
    Authority,
    /// The gateway's address.
    #[error(
        "--gateway must be a multiaddr that ends in /p2p/ and a peer id, as /ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3Koo..."
    )]
    Gateway,
    /// No configuration.
    #[error(
        "name a configuration, or put one at {}: `mizzle config example client` prints one to fill in; or join without \
         one: --document FILE or --gateway MULTIADDR, and --authority KEY",
        .0.as_deref().unwrap_or(Path::new("~/.config/mizzle/client.toml")).display()
    )]
    NoConfig(Option<PathBuf>),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The gateway that the configuration names.
    #[error(
        "`gateway` names {asked}, which the network document doesn't list as a gateway; it lists {listed}"
    )]
    NoSuchGateway {
        /// Which.
        asked: NodeId,
        /// Those that there are.
        listed: String,
    },
    /// The gateway that the configuration names has the only exit.
    #[error(
        "`gateway` names {0}, and no other gateway has an exit: the exit in one's own gateway is never used, as it would \
         see both who asks and for what; name another gateway, or \"any\""
    )]
    OnlyExit(NodeId),
    /// Its letters.
    #[error(transparent)]
    Letters(#[from] LettersError),
    /// The clock.
    #[error(transparent)]
    Clock(ClockOff),
    /// Another client has taken this one's place.
    #[error("{}", Refusal::Replaced)]
    Replaced,
    /// Signals.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// [`JoinError`].
pub async fn run(args: ClientRun) -> Result<(), JoinError> {
    let interrupted = interrupted()?;
    // Held to the end: the state is this process's.
    let mut kept = None;
    let json = args.json;
    let started = async {
        let clock = Clock::start_fast(args.clock_fast_s);
        let mut rng = clock::rng().map_err(StartError::Entropy)?;
        if args.document.is_some() || args.gateway.is_some() {
            by_flags(&args, clock, &mut rng).await
        } else {
            let config = config(&args)?;
            let state = Arc::new(State::open_or_create(&config.state, Kind::Client)?);
            let door = proxy::Server::bind(proxy::Config::new(config.proxy))
                .await
                .map_err(JoinError::Proxy)?;
            by_config(&config, kept.insert(state), door, 0.0, clock, &mut rng).await
        }
    };
    let (member, peer) = tokio::select! {
        started = started => started?,
        () = interrupted.wait() => return Ok(()),
    };
    say(&if json {
        ready(&member, &peer)
    } else {
        announcement(&member, &peer)
    });
    let outcome = tokio::select! {
        () = interrupted.wait() => Ok(()),
        () = member.replaced() => Err(JoinError::Replaced),
        off = member.clock_off() => Err(JoinError::Clock(off)),
    };
    tokio::select! {
        () = member.stop() => {}
        () = interrupted.wait() => {}
    }
    drop(kept);
    outcome
}

fn config(args: &ClientRun) -> Result<ClientConfig, JoinError> {
    let path = match &args.config {
        Some(path) => path.clone(),
        None => match paths::client_config() {
            Some(path) if path.exists() => path,
            none => return Err(JoinError::NoConfig(none)),
        },
    };
    Ok(ClientConfig::load(&path)?)
}

/// A client that keeps nothing.
async fn by_flags(args: &ClientRun, clock: Clock, rng: &mut Rng) -> Result<(Member, PeerId), JoinError> {
    let address = args.socks.checked()?;
    let authority = authority(args.authority.as_deref().unwrap_or_default())?;
    let source = match (&args.document, &args.gateway) {
        (Some(path), _) => Err(read_document(path)?),
        (None, gateway) => Ok(gateway
            .as_deref()
            .and_then(Source::parse)
            .ok_or(JoinError::Gateway)?),
    };
    let door = proxy::Server::bind(proxy::Config::new(address))
        .await
        .map_err(StartError::from)?;
    let transport = args.transport.transport();
    let bytes = match source {
        Err(bytes) => bytes,
        Ok(gateway) => member::fetch(&gateway, transport, 0, rng).await?.document,
    };
    let document = Document::verify(&bytes, &authority, clock.now(), 0).map_err(StartError::from)?;
    let join = Join::new(Arc::new(document), transport, rng)?;
    let follow = follow(&join, authority, clock, rng, Box::new(|_| Ok(())));
    start(join, follow, door, clock, rng).await
}

/// From its own gateway it hears of newer documents, from others only of the time, if that one's is another.
fn follow(join: &Join, authority: VerifyingKey, clock: Clock, rng: &mut Rng, keep: Keep) -> Follow {
    Follow {
        document: Arc::clone(&join.document),
        authority,
        file: None,
        first: Some(join.gateway),
        client: None,
        but: None,
        transport: join.transport,
        clock,
        rng: fork(rng),
        keep,
    }
}

/// A client with a state, with this proxy in place of the one that the configuration asks for. Its uplink loses a share of the
/// packets on purpose, for trying and testing; else zero.
///
/// # Errors
/// [`JoinError`].
pub(crate) async fn by_config(
    config: &ClientConfig,
    state: &Arc<State>,
    door: proxy::Server,
    loss: f64,
    clock: Clock,
    rng: &mut Rng,
) -> Result<(Member, PeerId), JoinError> {
    let document = Arc::new(document(config, state, clock.now(), rng).await?);
    let (gateway, keypair, was_kept) = identity_for(config, state, &document, rng)?;
    // Before anything is connected: what can be wrong with the disk is said at once.
    // Bounded by the configuration's range: no product overflows.
    let inbox_bytes = config.inbox_mb << 20;
    let letters = Letters::open(state, document.network(), gateway, inbox_bytes, clock, rng)?;
    let join = Join {
        document: Arc::clone(&document),
        gateway,
        keypair,
        transport: config.transport,
        token: config
            .token
            .as_ref()
            .map(|token| token.expose_bytes().to_vec())
            .unwrap_or_default(),
        loss,
        patience: PATIENCE,
        min_pool: config.min_pool,
        letters: Some(letters),
        moving: config.may_move().then(|| Moving {
            among: config.gateway.clone(),
            after: Duration::from_secs(config.move_after_s),
            moves: drawn(state),
            keep: Box::new(OnDisk {
                state: Arc::clone(state),
                rng: fork(rng),
            }),
        }),
    };
    let keeper = Arc::clone(state);
    let keep = move |document: &Document| {
        let written = keeper
            .write(DOCUMENT, document.bytes())
            .and_then(|()| remember(&keeper, document));
        written.map_err(|e| e.to_string())
    };
    let mut follow = follow(&join, config.authority, clock, rng, Box::new(keep));
    follow.file.clone_from(&config.document);
    let started = start(join, follow, door, clock, rng).await;
    // One that is full or gone is not kept: the next start draws again, and an identity with it. One that wants to know
    // its clients is, for its operator is about to be told of this one.
    let asks_for_more = matches!(
        started,
        Err(JoinError::Refused {
            why: Refusal::NotAdmitted,
            ..
        })
    );
    if started.is_err() && !asks_for_more && config.gateway.len() != 1 && !was_kept {
        state.write(GATEWAY, b"")?;
    }
    started
}

async fn start(
    join: Join,
    follow: Follow,
    door: proxy::Server,
    clock: Clock,
    rng: &mut Rng,
) -> Result<(Member, PeerId), JoinError> {
    let client = join.keypair.public().to_peer_id();
    match Member::start(join, door, clock, rng).await {
        Ok(mut member) => {
            member.follow(follow);
            Ok((member, client))
        }
        Err(StartError::Client(client::StartError::Refused(why))) => Err(JoinError::Refused { why, client }),
        Err(why) => Err(why.into()),
    }
}

/// The network document: from the file that the configuration names, or the newest of what a gateway has and what was kept.
async fn document(
    config: &ClientConfig,
    state: &State,
    now: Time,
    rng: &mut Rng,
) -> Result<Document, JoinError> {
    if let Some(path) = &config.document {
        return in_file(path, config, state, now);
    }
    let kept = match state.read(DOCUMENT)? {
        // One of another authority, or that has expired, is of no use any more.
        Some(bytes) => newest(&bytes, &config.authority, now, state).ok(),
        None => None,
    };
    let known = kept.as_ref().map_or(0, Document::sequence);
    let give_up = Instant::now() + PATIENCE;
    let why = loop {
        let mut gateways = config.gateways.clone();
        let mut unreached = StartError::from(FetchError::NoAnswer);
        let mut unfit = None;
        // In any order: whom this client asks first says nothing about it.
        while !gateways.is_empty() {
            let gateway = gateways.swap_remove(draw::below(rng, gateways.len()));
            match (member::fetch(&gateway, config.transport, known, rng).await, &kept) {
                // The gateway has none that is newer.
                (Ok(answer), Some(kept)) if answer.document.is_empty() => return Ok(kept.clone()),
                (Ok(answer), _) => match newest(&answer.document, &config.authority, now, state) {
                    Ok(document) => {
                        state.write(DOCUMENT, document.bytes())?;
                        return Ok(document);
                    }
                    Err(error) => unfit = Some(error),
                },
                (Err(error), _) => unreached = error,
            }
        }
        // That one can't be reached may pass. That what it gives is not good, a person has to see.
        if let Some(error) = unfit {
            break error.into();
        }
        let again = Instant::now() + member::PAUSE;
        if kept.is_some() || again > give_up {
            break JoinError::from(unreached);
        }
        tokio::time::sleep_until(again).await;
    };
    match kept {
        Some(kept) => {
            tracing::warn!("no gateway gave a good network document: going on with the one that was kept");
            Ok(kept)
        }
        None => Err(why),
    }
}

/// The document of the file that the configuration names, or a newer one that was kept while the client ran.
fn in_file(path: &Path, config: &ClientConfig, state: &State, now: Time) -> Result<Document, JoinError> {
    let read = read_document(path)?;
    let named = newest(&read, &config.authority, now, state);
    let Some(kept) = state.read(DOCUMENT)? else {
        return Ok(named?);
    };
    match (named, newest(&kept, &config.authority, now, state)) {
        (Ok(named), _) => Ok(named),
        // Only where the one in the file is an older one of the same network, or its time is over.
        (
            Err(NewestError::Document(DocumentError::Superseded { .. } | DocumentError::Expired { .. })),
            Ok(kept),
        ) => Ok(kept),
        (Err(why), _) => Err(why.into()),
    }
}

/// Verifies a document, and that this client has not seen a newer one of the same network. Remembers its number.
fn newest(bytes: &[u8], authority: &VerifyingKey, now: Time, state: &State) -> Result<Document, NewestError> {
    let document = Document::verify(bytes, authority, now, 0)?;
    let (network, found) = (document.network(), document.sequence());
    match seen(state)? {
        Some((seen_in, known)) if seen_in == network && found < known => {
            return Err(DocumentError::Superseded { found, known }.into());
        }
        Some(same) if same == (network, found) => {}
        _ => remember(state, &document)?,
    }
    Ok(document)
}

/// Notes the newest document that this client has used.
fn remember(state: &State, document: &Document) -> Result<(), StateError> {
    let text = format!("{} {}\n", document.network(), document.sequence());
    state.write(SEQUENCE, text.as_bytes())
}

/// Network and number of the newest document that this client has used.
fn seen(folder: &Folder) -> Result<Option<(NetworkId, u64)>, StateError> {
    let text = folder.read(SEQUENCE)?.unwrap_or_default();
    let mut words = str::from_utf8(&text).unwrap_or_default().split_whitespace();
    let network = words.next().and_then(NetworkId::from_hex);
    Ok(network.zip(words.next().and_then(|n| n.parse().ok())))
}

/// Why a document isn't used.
#[derive(Debug, thiserror::Error)]
enum NewestError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<NewestError> for JoinError {
    fn from(error: NewestError) -> Self {
        match error {
            NewestError::Document(error) => StartError::from(error).into(),
            NewestError::State(error) => error.into(),
        }
    }
}

/// Its own gateway, the identity that it has with that one alone, and whether both were so at the last start.
fn identity_for(
    config: &ClientConfig,
    state: &State,
    document: &Document,
    rng: &mut Rng,
) -> Result<(NodeId, Keypair, bool), JoinError> {
    let kept = state.read(GATEWAY)?.unwrap_or_default();
    let kept = str::from_utf8(&kept)
        .ok()
        .and_then(|text| NodeId::from_hex(text.trim()));
    for asked in &config.gateway {
        check_gateway(document, *asked)?;
    }
    let named = &config.gateway;
    let gateway = match kept {
        Some(kept) if can_be_own(document, kept) && (named.is_empty() || named.contains(&kept)) => kept,
        _ if named.is_empty() => {
            client::choose_gateway(document, rng).ok_or(StartError::from(NoSuchGateway))?
        }
        _ => named[draw::below(rng, named.len())],
    };
    let same = kept == Some(gateway) && state.has(IDENTITY_KEY);
    if !same {
        settle(state, &gateway, rng)?;
    }
    let keypair = identity::keypair(&mut *state.secret(IDENTITY_KEY)?).ok_or(StartError::NoLink)?;
    Ok((gateway, keypair, same))
}

/// Where the identity is kept that a gateway has seen which is not the client's own now.
fn identity_with(gateway: &NodeId) -> String {
    format!("identity-{gateway}.key")
}

/// Makes this gateway the own one, with the identity that it has seen before, if it has. An identity that two gateways had seen
/// would tell them that they serve the same client: a crash at any moment leaves none that goes to another one.
fn settle(state: &State, gateway: &NodeId, rng: &mut Rng) -> Result<(), StateError> {
    let kept = state.read(GATEWAY)?.unwrap_or_default();
    let old = str::from_utf8(&kept)
        .ok()
        .and_then(|text| NodeId::from_hex(text.trim()));
    if let Some(old) = old.filter(|old| old != gateway && state.has(IDENTITY_KEY)) {
        let secret = state.secret(IDENTITY_KEY)?;
        state.replace_secret(&identity_with(&old), &secret)?;
    }
    // From here until the new one is written there is no gateway: the next start draws another, with an identity of its own.
    state.write(GATEWAY, b"")?;
    let known = identity_with(gateway);
    let secret = if state.has(&known) {
        state.secret(&known)?
    } else {
        Zeroizing::new(draw::bytes(rng))
    };
    state.replace_secret(IDENTITY_KEY, &secret)?;
    state.write(GATEWAY, format!("{gateway}\n").as_bytes())
}

/// The gateways that were drawn or left of late, one a line: when, in seconds, which, and what.
fn drawn(state: &State) -> Moves {
    let text = state.read(DRAWN).ok().flatten().unwrap_or_default();
    let lines = |wanted: &'static str| {
        let line = move |line: &str| {
            let mut words = line.split(' ');
            let (at_s, gateway, what) = (words.next()?, words.next()?, words.next()?);
            let gateway = NodeId::from_hex(gateway).filter(|_| what == wanted)?;
            Some((Time::from_s(at_s.parse().ok()?), gateway))
        };
        str::from_utf8(&text).unwrap_or_default().lines().filter_map(line)
    };
    Moves::with(lines(WAS_DRAWN), lines(WAS_LEFT))
}

struct OnDisk {
    state: Arc<State>,
    rng: Rng,
}

impl KeepMoves for OnDisk {
    fn drawn(&mut self, moves: &Moves) -> Result<(), String> {
        let line = |what: &'static str| {
            move |(at, gateway): (Time, NodeId)| format!("{} {gateway} {what}\n", at.as_s())
        };
        let drawn = moves.drawn().map(line(WAS_DRAWN));
        let text: String = drawn.chain(moves.left().map(line(WAS_LEFT))).collect();
        self.state
            .write(DRAWN, text.as_bytes())
            .map_err(|e| e.to_string())
    }

    fn settle(&mut self, gateway: &NodeId) -> Result<Keypair, String> {
        let settled = settle(&self.state, gateway, &mut self.rng);
        let secret = settled.and_then(|()| self.state.secret(IDENTITY_KEY));
        let mut secret = secret.map_err(|e| e.to_string())?;
        identity::keypair(&mut secret).ok_or_else(|| StartError::NoLink.to_string())
    }
}

/// A gateway from which another one's exit can be used.
pub(crate) fn can_be_own(document: &Document, id: NodeId) -> bool {
    document.gateways().any(|g| g.id == id) && document.gateways().any(|g| g.id != id && g.exit.is_some())
}

/// What is wrong with a client's state.
pub(crate) fn check_state(folder: &Folder) -> Option<StateError> {
    [IDENTITY_KEY, SEAL_KEY]
        .into_iter()
        .filter(|key| folder.has(key))
        .find_map(|key| folder.secret(key).err())
}

/// Whether a gateway that a configuration names can be a client's own.
///
/// # Errors
/// When it is none, with those that there are, or has the only exit.
pub(crate) fn check_gateway(document: &Document, asked: NodeId) -> Result<(), JoinError> {
    if can_be_own(document, asked) {
        return Ok(());
    }
    if document.node(&asked).is_some_and(|n| n.role == Role::Gateway) {
        return Err(JoinError::OnlyExit(asked));
    }
    let listed: Vec<_> = document.gateways().map(|n| n.id.to_string()).collect();
    Err(JoinError::NoSuchGateway {
        asked,
        listed: listed.join(", "),
    })
}

/// An authority's key as users write it.
///
/// # Errors
/// When it is none.
pub fn authority(text: &str) -> Result<VerifyingKey, JoinError> {
    let key = hex::decode(text).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    key.ok_or(JoinError::Authority)
}

/// A document's file; as much as shows that it is too long, whatever the file is.
///
/// # Errors
/// [`JoinError::Read`].
pub fn read_document(path: &Path) -> Result<Vec<u8>, JoinError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT_LEN as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| JoinError::Read {
            path: path.into(),
            source,
        })?;
    Ok(bytes)
}

fn ready(member: &Member, client: &PeerId) -> String {
    let document = member.document();
    let ready = serde_json::json!({
        "ready": true,
        "network": document.name(),
        "profile": document.profile().name,
        "socks": member.socks().to_string(),
        "client": client.to_string(),
    });
    format!("{ready}\n")
}

fn announcement(member: &Member, client: &PeerId) -> String {
    let document = member.document();
    let profile = document.profile();
    let mut out = format!(
        "user of network `{}`, profile `{}`\n\n",
        document.name(),
        profile.name
    );
    let _ = writeln!(
        out,
        "  proxy      {}  (SOCKS5, SOCKS4, SOCKS4a, HTTP)",
        member.socks()
    );
    let _ = writeln!(out, "  client id  {client}");
    let _ = write!(
        out,
        "\nCover traffic flows from here on, {:.1} GB a day up and {:.1} down, whether or not you use it.\n\
         Downloads reach {:.2} MB/s where the gateways with exits have {} of the slots.\n\nCtrl-C ends it.\n",
        profile.uplink_per_s() * 4_608.0 * 86_400.0 / 1e9,
        profile.downlink_per_s * 4_632.0 * 86_400.0 / 1e9,
        profile.ceiling_down_bytes_per_s(EXIT_WEIGHT) / 1e6,
        EXIT_WEIGHT,
    );
    out
}
