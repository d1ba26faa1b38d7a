//! `mizzle sphinx`: single packets by hand, for work with other implementations and for reports of what went wrong.
//!
//! Keys, packets and SURBs go in and out as hexadecimal or as files; nothing is sent, and nothing is remembered, so a
//! packet can be peeled as often as one likes. The packet itself is `mizzle-sphinx`'s. How address blocks are written
//! is in `address`, reading and writing in `bytes`, what a peeled layer says in `peel`, reply blocks in `surb`.

mod address;
mod bytes;
mod peel;
mod surb;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use mizzle_base::hex;
use mizzle_net::clock;
use mizzle_sphinx::{
    ADDRESS_LEN, BuildError, Dialect, Hop, MESSAGE_LEN, Packet, PublicKey, SecretKey, build,
    build_with_secret, max_body_len, pad, pad_legacy,
};
use zeroize::Zeroizing;

use bytes::Wanted;
pub use peel::Peel;
pub use surb::{SurbCommand, SurbMake, SurbOpen, SurbUse};

/// Build and take apart single packets, for work with other implementations and bug reports.
#[derive(Clone, Debug, Subcommand)]
pub enum SphinxCommand {
    /// Make an X25519 key pair, as every hop has one
    Keygen(Keygen),
    /// Build a packet along a route of 3 to 5 hops
    ///
    /// Prints the packet, 4608 bytes, in hexadecimal. To try it, make keys for three hops with `mizzle sphinx keygen --out
    /// a.key` and so on; with their public keys `mizzle sphinx build --hop $A::20 --hop $B:b0:20 --hop $C:c0:0 --message
    /// hello --out packet`; then `mizzle sphinx peel packet --key a.key --out packet`, the same with b.key, and with c.key.
    Build(Build),
    /// Take one layer off a packet and show what it says
    Peel(Peel),
    /// Make, use and open single-use reply blocks
    #[command(subcommand)]
    Surb(SurbCommand),
}

/// `mizzle sphinx keygen`.
#[derive(Clone, Debug, Args)]
pub struct Keygen {
    /// Write the secret key in hexadecimal to this new file, which only you may read, and print the public one alone
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Make no new key, print the public key of this secret one: a file, 64 hexadecimal digits or - for standard input
    #[arg(long, value_name = "KEY", conflicts_with = "out")]
    pub public_of: Option<SecretText>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mizzle sphinx build`.
#[derive(Clone, Debug, Args)]
pub struct Build {
    /// The route
    #[command(flatten)]
    pub route: Route,

    /// What the last hop learns of where the message goes, written as the address of a hop; the last hop itself if not
    /// given
    #[arg(long, default_value = "", hide_default_value = true, value_parser = address::parse, value_name = "ADDRESS")]
    pub destination: [u8; ADDRESS_LEN],

    /// What is sent
    #[command(flatten)]
    pub message: Message,

    /// The packet's dialect
    #[command(flatten)]
    pub dialect: DialectArg,

    /// Write the packet to this file, as bytes, instead of standard output; a file that exists is replaced
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// The ephemeral secret, 64 hexadecimal digits, to build the same packet again. Danger: two packets with one secret
    /// can be linked, and whoever knows it reads them
    #[arg(long, value_name = "SECRET")]
    pub danger_seed: Option<SecretText>,
}

/// A route.
#[derive(Clone, Debug, Args)]
pub struct Route {
    /// A hop, first to last: its public key in hexadecimal, the address at which the hop before finds it, and for how
    /// many milliseconds it holds the packet, 0 at the last hop
    ///
    /// The address is `node:` and a node id, `mailbox:` and a mailbox id, /ip4/A.B.C.D/tcp/PORT/p2p/PEER (or udp/PORT/quic-v1, or with
    /// a relay) as the libp2p profile has it, or up to 94 bytes in hexadecimal, filled up with zeros. Nobody reads that of
    /// the first hop: it may be left empty.
    #[arg(long = "hop", required = true, value_parser = RouteHop::parse, value_name = "PUBLIC:ADDRESS:DELAY_MS")]
    pub hops: Vec<RouteHop>,
}

/// A hop of a route.
#[derive(Clone, Copy, Debug)]
pub struct RouteHop {
    key: PublicKey,
    address: [u8; ADDRESS_LEN],
    delay_ms: u16,
}

/// What is sent.
#[derive(Clone, Debug, Args)]
pub struct Message {
    /// The message: text, `hex:` and digits, `@` and a file, or - for standard input; `text:` before a text that begins
    /// like one of these
    #[arg(
        id = "message",
        long = "message",
        allow_hyphen_values = true,
        value_name = "MESSAGE"
    )]
    pub text: String,

    /// The number that the legacy dialect puts behind a message and nobody reads
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub legacy_sequence: u32,
}

/// How payloads are encrypted.
#[derive(Clone, Copy, Debug, Args)]
pub struct DialectArg {
    /// How the payload is encrypted and padded: the same for a whole network
    #[arg(
        long = "dialect",
        value_enum,
        default_value = "lioness",
        value_name = "DIALECT"
    )]
    pub name: DialectName,
}

/// The dialects by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DialectName {
    /// LIP-183: LIONESS, as mizzle and the current Nim nodes have it
    Lioness,
    /// AES-CTR layers, as older Nim nodes have them
    Legacy,
}

impl DialectArg {
    pub(crate) fn dialect(self) -> Dialect {
        match self.name {
            DialectName::Lioness => Dialect::Lioness,
            DialectName::Legacy => Dialect::LegacyCtr,
        }
    }
}

/// An argument that may be a secret: overwritten with zeros when dropped, and its `Debug` shows nothing.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Why a tool did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// An argument is wrong.
    #[error("{argument}: {why}")]
    Argument {
        /// Which, as the help writes it.
        argument: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A packet is refused by the hop, or a reply by its receiver.
    #[error("refused: {0}")]
    Refused(String),
    /// A file that would hold a secret is there already.
    #[error("{path} exists, and what it holds may be a key: choose another name, or remove it yourself")]
    Exists {
        /// Which.
        path: String,
    },
    /// A file can't be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Standard output can't be written.
    #[error("cannot write the result: {0}")]
    Output(io::Error),
    /// The system gives no random numbers.
    #[error(transparent)]
    Entropy(io::Error),
}

impl ToolError {
    fn argument(argument: &'static str, why: impl Into<String>) -> Self {
        Self::Argument {
            argument,
            why: why.into(),
        }
    }

    fn write(path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        Self::Write { path, source }
    }

    fn build(error: BuildError) -> Self {
        let argument = match error {
            BuildError::ZeroId => "--id",
            _ => "--hop",
        };
        Self::argument(argument, error.to_string())
    }
}

/// Does what is asked and prints the result to standard output.
///
/// # Errors
/// [`ToolError`], in words for a person; with `--json` a refusal is printed as JSON as well.
pub fn run(command: &SphinxCommand) -> Result<(), ToolError> {
    match command {
        SphinxCommand::Keygen(args) => keygen(args),
        SphinxCommand::Build(args) => build_packet(args),
        SphinxCommand::Peel(args) => peel::run(args),
        SphinxCommand::Surb(SurbCommand::Make(args)) => surb::make(args),
        SphinxCommand::Surb(SurbCommand::Use(args)) => surb::use_one(args),
        SphinxCommand::Surb(SurbCommand::Open(args)) => surb::open(args),
    }
}

fn keygen(args: &Keygen) -> Result<(), ToolError> {
    let secret = match &args.public_of {
        Some(key) => read_key("--public-of", key)?,
        None => SecretKey::generate(&mut clock::rng().map_err(ToolError::Entropy)?),
    };
    let public = hex::encode(secret.public().as_bytes());
    let digits = Zeroizing::new(hex::encode(secret.expose_bytes()));
    let mut rows = Vec::new();
    match &args.out {
        Some(path) => bytes::write_secret(path, format!("{}\n", *digits).as_bytes())?,
        None if args.public_of.is_none() => rows.push(("secret", digits.to_string())),
        None => {}
    }
    rows.push(("public", public));
    print_rows(&rows, args.json)
}

fn build_packet(args: &Build) -> Result<(), ToolError> {
    let dialect = args.dialect.dialect();
    let message = args.message.padded(dialect)?;
    let hops = args.route.hops();
    let mut packet = Packet::zeroed();
    match &args.danger_seed {
        Some(seed) => {
            let seed = read_secret::<32>("--danger-seed", "the ephemeral secret", &[32], seed)?;
            build_with_secret(dialect, *seed, &hops, &args.destination, &message, &mut packet)
        }
        None => {
            let mut rng = clock::rng().map_err(ToolError::Entropy)?;
            build(dialect, &mut rng, &hops, &args.destination, &message, &mut packet)
        }
    }
    .map_err(ToolError::build)?;
    give_packet(&packet, args.out.as_deref())
}

impl RouteHop {
    /// Reads `PUBLIC:ADDRESS:DELAY_MS`; the address may have colons of its own.
    fn parse(text: &str) -> Result<Self, String> {
        let (key, rest) = text
            .split_once(':')
            .ok_or("a hop is PUBLIC:ADDRESS:DELAY_MS, with two colons")?;
        let (address, delay_ms) = rest
            .rsplit_once(':')
            .ok_or("a hop is PUBLIC:ADDRESS:DELAY_MS, with two colons")?;
        let bytes = bytes::decode(key).map_err(|why| format!("the public key: {why}"))?;
        let key: &[u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| format!("the public key has 64 hexadecimal digits, not {}", key.len()))?;
        let key = PublicKey::from_bytes(key).map_err(|why| format!("the public key is none: {why}"))?;
        let delay_ms = delay_ms
            .parse()
            .map_err(|_| "the delay is a number of milliseconds from 0 to 65535")?;
        let address = address::parse(address)?;
        Ok(Self {
            key,
            address,
            delay_ms,
        })
    }
}

impl Route {
    fn hops(&self) -> Vec<Hop<'_>> {
        let hops = self.hops.iter().map(|hop| Hop {
            key: &hop.key,
            address: &hop.address,
            delay_ms: hop.delay_ms,
        });
        hops.collect()
    }
}

impl Message {
    /// The message with its padding.
    fn padded(&self, dialect: Dialect) -> Result<Zeroizing<[u8; MESSAGE_LEN]>, ToolError> {
        let body = bytes::message(&self.text)?;
        let mut message = Zeroizing::new([0; MESSAGE_LEN]);
        match dialect {
            Dialect::Lioness => pad(dialect, &body, &mut message),
            Dialect::LegacyCtr => pad_legacy(&body, self.legacy_sequence, &mut message),
        }
        .map_err(|_| {
            let max = max_body_len(dialect);
            ToolError::argument(
                "--message",
                format!("{} bytes do not fit into a packet, which holds {max}", body.len()),
            )
        })?;
        Ok(message)
    }
}

fn read_key(argument: &'static str, text: &SecretText) -> Result<SecretKey, ToolError> {
    let bytes = read_secret::<32>(argument, "an X25519 secret key", &[32], text)?;
    Ok(SecretKey::from_bytes(*bytes))
}

fn read_secret<const N: usize>(
    argument: &'static str,
    what: &'static str,
    lengths: &'static [usize],
    text: &SecretText,
) -> Result<Zeroizing<[u8; N]>, ToolError> {
    let wanted = Wanted {
        argument,
        what,
        lengths,
    };
    wanted.read_array(&text.0)
}

/// A finished packet: to the file, or in hexadecimal to standard output.
fn give_packet(packet: &Packet, out: Option<&Path>) -> Result<(), ToolError> {
    match out {
        Some(path) => bytes::write_file(path, packet.as_bytes()),
        None => bytes::print(&format!("{}\n", hex::encode(packet.as_bytes()))),
    }
}

/// Names and values: in columns, or as one JSON object of strings.
fn print_rows(rows: &[(&'static str, String)], json: bool) -> Result<(), ToolError> {
    if json {
        let object: serde_json::Map<_, _> = rows
            .iter()
            .map(|(name, value)| ((*name).to_string(), value.as_str().into()))
            .collect();
        return bytes::print(&format!("{}\n", serde_json::Value::Object(object)));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: String = rows
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect();
    bytes::print(&lines)
}
