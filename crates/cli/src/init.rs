//! `mizzle network init`: makes a network on disk. Keys, the signed document, and for each node and client a folder with
//! all that it needs, ready to copy to its machine and run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use mizzle_base::document::{Content, DocumentError, Epochs, MAX_EPOCHS, Role};
use mizzle_base::{Profile, Rng, hex};
use mizzle_net::clock::{self, Clock};
use mizzle_net::state::{self, Kind, State, StateError};
use mizzle_traffic::draw;
use zeroize::Zeroizing;

use crate::args::{NetworkInit, ProfileName, TransportName};
use crate::assemble::{self, FIRST_EPOCH, Keys, Place, StartError};
use crate::config;

/// Free ports are looked for here: below those that systems give to outgoing connections, one of which could take a port
/// between now and the node's start.
const FREE_PORTS: std::ops::Range<u16> = 10_000..30_000;
/// So many tries find a free port in a range that is nearly full.
const TRIES: usize = 1_000;
/// In a network's folder: the authority's secret key.
pub const AUTHORITY_KEY: &str = "authority.key";
/// The signed document; there and in the folder of each node and client.
pub const DOCUMENT: &str = "network.doc";
/// In a node's folder: its configuration.
pub const NODE_CONFIG: &str = "node.toml";
/// In a client's folder: its configuration.
pub const CLIENT_CONFIG: &str = "client.toml";
/// Where the first client's proxy listens; the others' follow.
const FIRST_PROXY: u16 = 1_080;

/// Why no network is made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder isn't empty.
    #[error("{} is there already and not empty: name a new folder", .0.display())]
    NotEmpty(PathBuf),
    /// A file or folder.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A key or state.
    #[error(transparent)]
    State(#[from] StateError),
    /// More exits than gateways.
    #[error("--exits {exits} are more than --gateways {gateways}: an exit runs in a gateway")]
    Exits {
        /// Exits asked for.
        exits: u16,
        /// Gateways asked for.
        gateways: u16,
    },
    /// Keys that would change too often.
    #[error(
        "--epoch-s {epoch_s} is too short for this profile, {shortest_s} is the least: packets and replies that are under way \
         when keys change must arrive"
    )]
    ShortEpoch {
        /// Asked for.
        epoch_s: u64,
        /// The least.
        shortest_s: u64,
    },
    /// More epochs than a document may have.
    #[error(
        "keys of {0} epochs are more than the {MAX_EPOCHS} that a document may have: choose a longer --epoch-s or fewer --valid-days"
    )]
    Epochs(u64),
    /// No name.
    #[error("--name must be 1 to 255 bytes without control characters")]
    Name,
    /// A host twice.
    #[error("--hosts names {0} twice")]
    HostTwice(IpAddr),
    /// No ports left.
    #[error(
        "{host} would need {nodes} ports from {base}, and the last one is 65535: choose a lower --base-port"
    )]
    Ports {
        /// Where.
        host: IpAddr,
        /// How many.
        nodes: usize,
        /// From which.
        base: u16,
    },
    /// No free port.
    #[error(
        "no free port found on {host}: {source}. --base-port 0 looks for ports of this machine; for others name the \
         first one, as --base-port 4100"
    )]
    NoFreePort {
        /// Where.
        host: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Entropy.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What was made.
#[derive(Debug, serde::Serialize)]
pub struct Made {
    /// Its name.
    pub network: String,
    /// The authority's public key.
    pub authority: String,
    /// The authority's secret key.
    pub authority_key: PathBuf,
    /// The file with the public one, for commands.
    pub authority_pub: PathBuf,
    /// The signed document.
    pub document: PathBuf,
    /// How many key epochs it has.
    pub epochs: u32,
    /// All nodes.
    pub nodes: Vec<MadeNode>,
    /// The configurations of all clients.
    pub clients: Vec<PathBuf>,
}

/// A node that was made.
#[derive(Debug, serde::Serialize)]
pub struct MadeNode {
    /// As `mix-1-1` or `gateway-3`.
    pub name: String,
    /// `mix`, `gateway` or `gateway with exit`.
    pub role: &'static str,
    /// Where it belongs.
    pub host: IpAddr,
    /// Where others reach it.
    pub address: String,
    /// Its configuration.
    pub config: PathBuf,
}

struct Seedling {
    name: String,
    place: Place,
    keys: Keys,
    socket: SocketAddr,
}

/// Makes it and says what to do next.
///
/// # Errors
/// [`InitError`].
pub fn run(args: &NetworkInit) -> Result<String, InitError> {
    let made = make(args)?;
    if args.json {
        // Names, paths and numbers can't fail to be written.
        return Ok(serde_json::to_string(&made).unwrap_or_default() + "\n");
    }
    Ok(next_steps(args, &made))
}

/// Makes it.
///
/// # Errors
/// [`InitError`]; what was written before stays.
pub fn make(args: &NetworkInit) -> Result<Made, InitError> {
    let clock = Clock::start();
    let mut rng = clock::rng().map_err(StartError::Entropy)?;
    check(args)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => format!("mizzle-{}", hex::encode(&draw::bytes::<4>(&mut rng))),
    };
    let profile = profile(args.profile, args.mean_delay_ms);
    let epochs = epochs(args, &profile)?;
    let seedlings = plant(args, &mut rng)?;
    let secret = Zeroizing::new(draw::bytes(&mut rng));
    let authority = SigningKey::from_bytes(&secret);
    let nodes = seedlings.iter().map(|s| {
        assemble::entry(
            &s.place,
            &s.keys,
            &[multiaddr(s.socket, args.transport)],
            epochs,
            &mut rng,
        )
    });
    let now_s = clock.now().as_s();
    let content = Content {
        network: name.clone(),
        sequence: 1,
        epoch: FIRST_EPOCH,
        valid_from_s: now_s,
        valid_until_s: now_s + u64::from(epochs) * args.epoch_s,
        profile: Profile {
            pattern: args.pattern,
            ..profile
        },
        nodes: nodes.collect::<Result<_, _>>()?,
    };
    let signed = content.sign(&authority)?;

    // Only now that nothing but the disk can fail.
    let dir = empty_folder(&args.dir)?;
    let authority_key = dir.join(AUTHORITY_KEY);
    state::create_secret(&authority_key, &secret)?;
    let document = dir.join(DOCUMENT);
    write(&document, &signed)?;
    let authority = hex::encode(authority.verifying_key().as_bytes());
    let authority_pub = dir.join("authority.pub");
    write(&authority_pub, format!("{authority}\n").as_bytes())?;
    let mut nodes = Vec::new();
    for seedling in &seedlings {
        nodes.push(node_folder(args, &dir, seedling, &signed, &authority)?);
    }
    let clients = (0..args.clients)
        .map(|n| make_client(args, &dir, n, &signed, &authority))
        .collect::<Result<_, _>>()?;
    Ok(Made {
        network: name,
        authority,
        authority_key,
        authority_pub,
        document,
        epochs,
        nodes,
        clients,
    })
}

/// The numbers of a profile, with another delay if one is given.
#[must_use]
pub fn profile(name: ProfileName, mean_delay_ms: Option<f64>) -> Profile {
    let profile = name.profile();
    match mean_delay_ms {
        Some(ms) => profile.with_mean_delay_ms(ms),
        None => profile,
    }
}

/// The configuration of the first client of a network in this folder.
#[must_use]
pub fn client_config(dir: &Path) -> PathBuf {
    client_folder(dir, 0).join(CLIENT_CONFIG)
}

/// The folder of a client, counted from 0.
fn client_folder(dir: &Path, n: u16) -> PathBuf {
    dir.join("clients").join(format!("client-{}", n + 1))
}

fn check(args: &NetworkInit) -> Result<(), InitError> {
    if args.exits > args.gateways {
        return Err(InitError::Exits {
            exits: args.exits,
            gateways: args.gateways,
        });
    }
    if let Some(name) = &args.name
        && (name.is_empty() || name.len() > 255 || name.chars().any(char::is_control))
    {
        return Err(InitError::Name);
    }
    for (n, host) in args.hosts.iter().enumerate() {
        if args.hosts[..n].contains(host) {
            return Err(InitError::HostTwice(*host));
        }
    }
    Ok(())
}

/// How many epochs the document has keys of: as many whole ones as it is valid.
fn epochs(args: &NetworkInit, profile: &Profile) -> Result<u32, InitError> {
    let shortest_s = Epochs::shortest_s(profile);
    if args.epoch_s < shortest_s {
        return Err(InitError::ShortEpoch {
            epoch_s: args.epoch_s,
            shortest_s,
        });
    }
    let wanted = match args.epochs {
        Some(epochs) => u64::from(epochs),
        None => u64::from(args.valid_days) * 86_400 / args.epoch_s,
    };
    match u32::try_from(wanted) {
        Ok(wanted) if wanted as usize <= MAX_EPOCHS => Ok(wanted.max(1)),
        _ => Err(InitError::Epochs(wanted)),
    }
}

/// Names, keys and sockets of all nodes.
fn plant(args: &NetworkInit, rng: &mut Rng) -> Result<Vec<Seedling>, InitError> {
    let places = assemble::places(args.mixes_per_layer, args.gateways, args.exits);
    let mut ports = Ports::new(args, places.len(), rng)?;
    let mut in_layer = BTreeMap::new();
    let mut seedlings = Vec::new();
    for (place, &host) in places.into_iter().zip(args.hosts.iter().cycle()) {
        let n = in_layer.entry(place.layer).or_insert(0);
        *n += 1;
        let name = match place.role {
            Role::Mix => format!("mix-{}-{n}", place.layer),
            Role::Gateway => format!("gateway-{n}"),
        };
        seedlings.push(Seedling {
            name,
            keys: Keys::generate(rng),
            place,
            socket: SocketAddr::new(host, ports.next(host)?),
        });
    }
    Ok(seedlings)
}

/// Gives out ports.
struct Ports {
    /// Free ones of this machine, or the next of each host.
    free: Option<Vec<u16>>,
    next: BTreeMap<IpAddr, u16>,
    base: u16,
    nodes: usize,
}

impl Ports {
    fn new(args: &NetworkInit, nodes: usize, rng: &mut Rng) -> Result<Self, InitError> {
        let free = match args.base_port {
            0 => Some(free_ports(args, nodes, rng)?),
            _ => None,
        };
        Ok(Self {
            free,
            next: BTreeMap::new(),
            base: args.base_port,
            nodes,
        })
    }

    fn next(&mut self, host: IpAddr) -> Result<u16, InitError> {
        let none = InitError::Ports {
            host,
            nodes: self.nodes,
            base: self.base,
        };
        if let Some(free) = &mut self.free {
            return free.pop().ok_or(none);
        }
        // 0 stands for the one after the last.
        let next = self.next.entry(host).or_insert(self.base);
        if *next == 0 {
            return Err(none);
        }
        let port = *next;
        *next = port.checked_add(1).unwrap_or(0);
        Ok(port)
    }
}

/// Ports that are free on each of the hosts, which are this machine's addresses. One beside the other from a place drawn by lot:
/// two networks that are made at the same time then seldom want the same one.
fn free_ports(args: &NetworkInit, nodes: usize, rng: &mut Rng) -> Result<Vec<u16>, InitError> {
    let mut ports = Vec::new();
    let mut last = None;
    let first = draw::below(rng, FREE_PORTS.len());
    for n in 0..nodes + TRIES {
        if ports.len() == nodes {
            return Ok(ports);
        }
        let port = FREE_PORTS.start + ((first + n) % FREE_PORTS.len()) as u16;
        let taken = args.hosts.iter().find_map(|&host| {
            let bound = match args.transport {
                TransportName::Quic => UdpSocket::bind((host, port)).map(drop),
                TransportName::Tcp => TcpListener::bind((host, port)).map(drop),
            };
            bound.err().map(|source| InitError::NoFreePort { host, source })
        });
        match taken {
            None if !ports.contains(&port) => ports.push(port),
            None => {}
            taken => last = taken,
        }
    }
    let none = InitError::NoFreePort {
        host: args.hosts.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into()),
        source: io::ErrorKind::AddrInUse.into(),
    };
    Err(last.unwrap_or(none))
}

fn multiaddr(socket: SocketAddr, transport: TransportName) -> Multiaddr {
    let ip = Multiaddr::empty().with(socket.ip().into());
    match transport {
        TransportName::Quic => ip.with(Protocol::Udp(socket.port())).with(Protocol::QuicV1),
        TransportName::Tcp => ip.with(Protocol::Tcp(socket.port())),
    }
}

/// A loopback address is listened on itself; of another one it isn't known whether the machine has it or somebody
/// forwards from it, so all are listened on.
fn listen_on(socket: SocketAddr) -> SocketAddr {
    let ip = match socket.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, socket.port())
}

fn node_folder(
    args: &NetworkInit,
    dir: &Path,
    seedling: &Seedling,
    document: &[u8],
    authority: &str,
) -> Result<MadeNode, InitError> {
    let host = seedling.socket.ip();
    // Colons are no part of names on some systems.
    let folder = dir.join(host.to_string().replace(':', "-")).join(&seedling.name);
    let state = State::create(&folder.join("state"), Kind::Node)?;
    seedling.keys.write(&state)?;
    write(&folder.join(DOCUMENT), document)?;
    let listen = multiaddr(listen_on(seedling.socket), args.transport);
    let mut given = vec![
        ("document", config::quoted(DOCUMENT)),
        ("authority", config::quoted(authority)),
        ("listen", format!("[{}]", config::quoted(&listen.to_string()))),
        ("state", config::quoted("state")),
    ];
    if seedling.place.has_exit && !args.exit_allow.is_empty() {
        let ranges: Vec<_> = args
            .exit_allow
            .iter()
            .map(|range| config::quoted(&range.to_string()))
            .collect();
        given.push(("exit.allow", format!("[{}]", ranges.join(", "))));
    }
    let path = folder.join(NODE_CONFIG);
    write(&path, config::NodeConfig::render(&given).as_bytes())?;
    Ok(MadeNode {
        name: seedling.name.clone(),
        role: seedling.place.role_name(),
        host,
        address: multiaddr(seedling.socket, args.transport).to_string(),
        config: path,
    })
}

fn make_client(
    args: &NetworkInit,
    dir: &Path,
    n: u16,
    document: &[u8],
    authority: &str,
) -> Result<PathBuf, InitError> {
    let folder = client_folder(dir, n);
    // The identity is drawn at the first start, on the client's own machine.
    drop(State::create(&folder.join("state"), Kind::Client)?);
    write(&folder.join(DOCUMENT), document)?;
    // Where ports are free ones, those of proxies are too; below 65535 for any number of clients that is allowed.
    let port = if args.base_port == 0 { 0 } else { FIRST_PROXY + n };
    let given = [
        ("authority", config::quoted(authority)),
        ("document", config::quoted(DOCUMENT)),
        ("transport", config::quoted(args.transport.word())),
        ("proxy", config::quoted(&format!("127.0.0.1:{port}"))),
        ("state", config::quoted("state")),
    ];
    let path = folder.join(CLIENT_CONFIG);
    write(&path, config::ClientConfig::render(&given).as_bytes())?;
    Ok(path)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    std::fs::write(path, bytes).map_err(|source| InitError::Write {
        path: path.into(),
        source,
    })
}

fn empty_folder(path: &Path) -> Result<PathBuf, InitError> {
    let failed = |source| InitError::Write {
        path: path.into(),
        source,
    };
    std::fs::create_dir_all(path).map_err(failed)?;
    if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(InitError::NotEmpty(path.into()));
    }
    Ok(path.into())
}

fn next_steps(args: &NetworkInit, made: &Made) -> String {
    let dir = args.dir.display();
    let mut out = format!(
        "network `{}`: {} nodes, document valid for {} days, keys of {} epochs of {} s\n\n",
        made.network,
        made.nodes.len(),
        u64::from(made.epochs) * args.epoch_s / 86_400,
        made.epochs,
        args.epoch_s,
    );
    for node in &made.nodes {
        let _ = writeln!(out, "  {:<12} {:<18} {}", node.name, node.role, node.address);
    }
    let _ = write!(
        out,
        "\nauthority's key  {}\n\
         Tell users this key, which is in {} too; they trust whoever holds its secret, {}: keep that offline.\n\nNext:\n\n",
        made.authority,
        made.authority_pub.display(),
        made.authority_key.display()
    );
    let _ = if args.hosts.iter().all(IpAddr::is_loopback) {
        writeln!(
            out,
            "  1. Start all nodes on this machine:\n\n     \
             for node in \"{dir}\"/*/*/node.toml; do mizzle node run \"$node\" & done\n"
        )
    } else {
        writeln!(
            out,
            "  1. Copy each folder {dir}/HOST to its machine and to no other, for it holds secret keys; there start each \
             node:\n\n     mizzle node run HOST/NODE/node.toml\n"
        )
    };
    if let Some(client) = made.clients.first() {
        let _ = writeln!(
            out,
            "  2. Start a client, and point programs at its proxy:\n\n     mizzle client run {}\n",
            client.display()
        );
    }
    let _ = writeln!(
        out,
        "When the document expires, the network stops: make the next one before, with `mizzle network renew \"{dir}\"`."
    );
    out
}
