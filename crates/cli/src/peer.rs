//! `mizzle peer`: the `libp2p-mix` crate on the command line, to run a node of a `/mix/1.0.0` network and to send through
//! one, with other implementations or alone.
//!
//! Here are the arguments and what people read; the swarm is `swarm`'s, keys and the list of nodes are `files`'.

mod files;
mod pong;
mod swarm;

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use libp2p_mix::{
    Config, Control, Cover, Delays, Destination, Dialect, FileReplayStore, HOPS, NoRoute, Policy, Read,
    RequestError, RequestOptions, SendError, message,
    spam::{ProofOfWork, TokenBucket},
};
use serde_json::json;

use crate::packet_tool::DialectArg;
use crate::signals;
use swarm::Running;

/// What `/mizzle/echo/1.0.0` is.
pub(crate) const ECHO: StreamProtocol = StreamProtocol::new("/mizzle/echo/1.0.0");
pub(crate) const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
const LIGHTPUSH: StreamProtocol = StreamProtocol::new("/vac/waku/lightpush/3.0.0");

/// A node of a `/mix/1.0.0` network, and requests through one.
#[derive(Clone, Debug, Subcommand)]
pub enum PeerCommand {
    /// Relay, be an exit, and answer, until Ctrl-C
    ///
    /// When ready it prints one line of JSON: peer_id, multiaddr, mix_public_key, and pool_line, which is what others put
    /// into their pool files. It answers /ipfs/ping/1.0.0, identify, and /mizzle/echo/1.0.0 (a message with its length in
    /// front comes back as it was), the last two straight and as the last node of a path.
    Run(Run),
    /// Send standard input to a protocol through the network, and print the reply
    ///
    /// The bytes go and come as they stand on the stream: a length that the protocol wants in front is the caller's. One line
    /// of JSON on standard error has round_trip_ms and path_length. The exit status is 0 with a reply (with --surbs 0: once
    /// the first node has the packet), 3 for a time-out, 4 if the exit got no answer, 5 if the pool is too small, 6 if there is
    /// no route, and 1 for all else.
    Request(Request),
}

/// What both are.
#[derive(Clone, Debug, Args)]
pub struct Peer {
    /// Where to listen: /ip4/ADDRESS/tcp/PORT or /ip4/ADDRESS/udp/PORT/quic-v1, or with a relay one of these of the relay's and
    /// /p2p/RELAY/p2p-circuit behind it; once or several times
    #[arg(long, required = true, value_name = "MULTIADDR")]
    pub listen: Vec<Multiaddr>,

    /// Where others reach this peer, if not where it listens
    #[arg(long, value_name = "MULTIADDR")]
    pub external: Option<Multiaddr>,

    /// The identity: a file with a secp256k1 secret key, 64 hexadecimal digits; made if there is none
    #[arg(long, value_name = "FILE")]
    pub identity_key: PathBuf,

    /// The key of this node's layer: a file with an X25519 secret key, 64 hexadecimal digits; made if there is none
    #[arg(long, value_name = "FILE")]
    pub mix_key: PathBuf,

    /// The known nodes: a file with lines of the form MULTIADDR/p2p/PEERID MIXPUBKEYHEX, read again whenever it changes
    #[arg(long, value_name = "FILE")]
    pub pool: PathBuf,

    /// The network's dialect
    #[command(flatten)]
    pub dialect: DialectArg,

    /// Mean delay at each hop of own packets, and of the hold before they leave, in milliseconds; default 100, and of the
    /// legacy dialect 0 to 2 exactly
    #[arg(long, value_name = "MEAN")]
    pub delay_ms: Option<u16>,

    /// How an exit reads the answer of a protocol: CODEC=lp (a message with its length in front), CODEC=exact:N, CODEC=end;
    /// known without: ping, echo, lightpush
    #[arg(long = "read", value_name = "CODEC=HOW")]
    pub reads: Vec<ReadArg>,

    /// Connect for others to private addresses too. Danger: strangers then reach what this machine reaches
    #[arg(long)]
    pub allow_private: bool,

    /// Cover packets a second, at random times
    #[arg(long, value_parser = per_second, value_name = "PACKETS_PER_SECOND")]
    pub cover: Option<f64>,

    /// What packets must show, the same in the whole network but for a bucket: pow:BITS, proof of so much work (16 bits are some
    /// 10 ms for each packet and hop); bucket:RATE, no proof, and so many packets a second from each neighbour at most
    #[arg(long, value_name = "pow:BITS|bucket:RATE")]
    pub spam: Option<SpamArg>,

    /// Remember the packets that were accepted in this file, so that none passes twice over a restart with the same key
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
}

/// `mizzle peer run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The peer
    #[command(flatten)]
    pub peer: Peer,
}

/// `mizzle peer request`.
#[derive(Clone, Debug, Args)]
#[group(id = "destination", required = true, multiple = false, args = ["to", "to_mix"])]
pub struct Request {
    /// The peer
    #[command(flatten)]
    pub peer: Peer,

    /// The destination, which need not know of mixes: MULTIADDR/p2p/PEERID
    #[arg(long, value_name = "MULTIADDR")]
    pub to: Option<Multiaddr>,

    /// The destination, a node of the pool that is itself the last of the path
    #[arg(long, value_name = "PEERID")]
    pub to_mix: Option<PeerId>,

    /// The protocol of the destination
    #[arg(long, value_parser = codec, value_name = "CODEC")]
    pub codec: StreamProtocol,

    /// Ways back for the reply, 0 to 5; with 0 there is none
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=5), value_name = "N")]
    pub surbs: u8,

    /// How long to wait for the reply, in milliseconds
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000), value_name = "MS")]
    pub timeout_ms: u64,
}

/// A codec and how its answers are read.
#[derive(Clone, Debug)]
pub struct ReadArg {
    codec: StreamProtocol,
    read: Read,
}

impl FromStr for ReadArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, how) = text
            .split_once('=')
            .ok_or("write CODEC=lp, CODEC=exact:N or CODEC=end")?;
        let most = message::max_reply_len(Dialect::Lioness);
        let read = match how.split_once(':') {
            None if how == "lp" => Read::LengthPrefixed(most),
            None if how == "end" => Read::ToEnd(most),
            Some(("exact", n)) => match n.parse() {
                Ok(n) if (1..=most).contains(&n) => Read::Exact(n),
                _ => return Err(format!("exact:N wants a number from 1 to {most}")),
            },
            _ => return Err("write lp, exact:N or end behind the =".to_owned()),
        };
        Ok(Self {
            codec: codec(name)?,
            read,
        })
    }
}

/// Spam protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpamArg {
    /// Proof of work of so many bits.
    Work(u32),
    /// So many packets a second from each neighbour.
    Bucket(u32),
}

impl FromStr for SpamArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("pow", bits)) => match bits.parse() {
                Ok(bits @ 1..=40) => Ok(Self::Work(bits)),
                _ => Err("pow:BITS wants a number from 1 to 40"),
            },
            Some(("bucket", rate)) => match rate.parse() {
                Ok(rate @ 1..=1_000_000) => Ok(Self::Bucket(rate)),
                _ => Err("bucket:RATE wants packets a second, from 1 to 1000000"),
            },
            _ => Err("write pow:BITS or bucket:RATE"),
        }
    }
}

fn codec(text: &str) -> Result<StreamProtocol, String> {
    if text.is_empty() || text.len() > message::MAX_CODEC_LEN {
        return Err(format!("a codec has 1 to {} bytes", message::MAX_CODEC_LEN));
    }
    StreamProtocol::try_from_owned(text.to_owned()).map_err(|_| "a codec begins with /".to_owned())
}

fn per_second(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(n) if (0.0..=10_000.0).contains(&n) => Ok(n),
        _ => Err("a number from 0 to 10000".to_owned()),
    }
}

/// Why `mizzle peer` did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A key, the pool or the replay memory.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An argument is wrong.
    #[error("{0}: {1}")]
    Argument(&'static str, String),
    /// An address to listen on can't be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(Multiaddr, String),
    /// The peer does not start.
    #[error(transparent)]
    Start(#[from] libp2p_mix::StartError),
    /// A request got no reply.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Standard input or output, or the system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Failure {
    /// What the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Request(RequestError::TimedOut) => 3,
            Self::Request(RequestError::EmptyReply) => 4,
            Self::Request(RequestError::NotSent(SendError::PoolTooSmall { .. })) => 5,
            Self::Request(RequestError::NotSent(SendError::NoRoute(_))) => 6,
            _ => 1,
        })
    }
}

/// Does what is asked for.
///
/// # Errors
/// [`Failure`], whose text says what to do.
pub async fn run(command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Run(args) => serve(&args.peer).await,
        PeerCommand::Request(args) => request(&args).await,
    }
}

impl Peer {
    fn config(&self) -> Result<Config, Failure> {
        let keypair = files::identity(&self.identity_key)?;
        let secret = files::mix_key(&self.mix_key)?;
        let dialect = self.dialect.dialect();
        let public = secret.public();
        let reads = [
            (PING, Read::Exact(32)),
            (ECHO, Read::LengthPrefixed(usize::MAX)),
            (LIGHTPUSH, Read::LengthPrefixed(usize::MAX)),
        ];
        // Whoever asks is in nobody's pool, and his replies end at him.
        let mut config = Config::new(keypair, secret)
            .with_dialect(dialect)
            .with_next_hops_outside_pool(true);
        for (codec, read) in reads {
            config = config.with_read(&codec, read);
        }
        for ReadArg { codec, read } in &self.reads {
            config = config.with_read(codec, *read);
        }
        if let Some(mean_ms) = self.delay_ms {
            config = config
                .with_delays(Delays::Exponential {
                    mean_ms,
                    at_least_ms: 0,
                })
                .with_hold_ms(mean_ms);
        }
        if self.allow_private {
            config = config
                .with_exit_policy(Policy::Any)
                .with_forward_policy(Policy::Any);
        }
        if let Some(per_s) = self.cover.filter(|per_s| *per_s > 0.0) {
            config = config.with_cover(Cover::Poisson { per_s });
        }
        config = match self.spam {
            Some(SpamArg::Work(bits)) => config.with_spam_protection(ProofOfWork::new(bits)),
            // A second's worth at once: packets come in bursts.
            Some(SpamArg::Bucket(rate)) => config.with_spam_protection(TokenBucket::new(rate, rate)),
            None => config,
        };
        if let Some(path) = &self.replay {
            let store = FileReplayStore::open(path, &public).map_err(|e| Failure::File {
                path: path.clone(),
                why: e.to_string(),
            })?;
            config = config.with_replay_store(store);
        }
        if let Some(external) = &self.external {
            config = config
                .with_external_address(external)
                .map_err(|e| Failure::Argument("--external", e.to_string()))?;
        }
        Ok(config)
    }

    async fn start(&self) -> Result<Running, Failure> {
        let running = swarm::start(self.config()?, &self.listen).await?;
        files::watch_pool(&self.pool, running.control.pool().clone())?;
        Ok(running)
    }
}

async fn serve(args: &Peer) -> Result<(), Failure> {
    let interrupted = signals::interrupted()?;
    let running = args.start().await?;
    let control = &running.control;
    let node = control
        .node()
        .ok_or_else(|| Failure::Argument("--listen", NoRoute::NoReturnAddress.to_string()))?;
    let ready = json!({
        "peer_id": control.peer_id().to_string(),
        "multiaddr": node.endpoint.address.to_string(),
        "mix_public_key": mizzle_base::hex::encode(control.mix_public_key().as_bytes()),
        "pool_line": node.to_string(),
    });
    say(io::stdout(), &ready)?;
    interrupted.wait().await;
    running.stop().await;
    Ok(())
}

async fn request(args: &Request) -> Result<(), Failure> {
    let destination = match (&args.to, args.to_mix) {
        (Some(address), _) => {
            Destination::peer(address).map_err(|why| RequestError::NotSent(SendError::NoRoute(why)))?
        }
        (None, Some(peer)) => Destination::Mix(peer),
        (None, None) => return Err(Failure::Argument("--to", "say --to or --to-mix".to_owned())),
    };
    let mut body = Vec::new();
    // No packet holds more; what is longer is refused with its reason below.
    io::stdin().lock().take(1 << 16).read_to_end(&mut body)?;
    let running = args.peer.start().await?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let outcome = exchange(&running.control, args, &destination, &body, timeout).await;
    running.stop().await;
    let (reply, said) = outcome?;
    say(io::stderr(), &said)?;
    let mut out = io::stdout().lock();
    out.write_all(&reply)?;
    out.flush()?;
    Ok(())
}

async fn exchange(
    control: &Control,
    args: &Request,
    destination: &Destination,
    body: &[u8],
    timeout: Duration,
) -> Result<(Vec<u8>, serde_json::Value), RequestError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the round trip is what is measured here"
    )]
    let begin = Instant::now();
    let options = RequestOptions::default()
        .with_surbs(args.surbs.into())
        .with_timeout(timeout);
    if args.surbs > 0 {
        let reply = control.request(destination, &args.codec, body, options).await?;
        let round_trip_ms = begin.elapsed().as_secs_f64() * 1e3;
        return Ok((
            reply,
            json!({ "round_trip_ms": round_trip_ms, "path_length": HOPS }),
        ));
    }
    // A real end to wait for: a process that is gone takes along what its transport had not sent.
    control
        .send_and_wait(destination, &args.codec, body, timeout)
        .await?;
    Ok((Vec::new(), json!({ "round_trip_ms": null, "path_length": HOPS })))
}

fn say(mut to: impl io::Write, what: &impl fmt::Display) -> io::Result<()> {
    writeln!(to, "{what}")?;
    to.flush()
}
