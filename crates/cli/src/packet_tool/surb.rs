//! Reply blocks: made by who wants an answer, used by who answers, opened again by the maker.
//!
//! What a maker keeps is written as the values that the SURB was made of, so that it can be derived again: the ephemeral
//! secret (32 bytes), the reply key (16), the public keys of the hops (32 each). Whoever has them can follow the reply.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mizzle_base::{MailboxId, Rng, hex};
use mizzle_net::clock;
use mizzle_sphinx::{
    ADDRESS_LEN, Hop, ID_LEN, MAX_HOPS, PAYLOAD_LEN, Packet, PublicKey, REPLY_KEY_LEN, SURB_LEN,
    SURB_WITH_ADDRESS_LEN, Surb, SurbKeys, build_surb_with_secret, recover, unpad, use_surb,
};
use rand_core::Rng as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::bytes::{self, Wanted};
use super::peel::{address_json, print_json, readable};
use super::{DialectArg, Message, Route, SecretText, ToolError, give_packet, read_secret};

/// What `make` draws or is given: ephemeral secret and reply key.
const SEED_LEN: usize = 32 + REPLY_KEY_LEN;

const KEY_LEN: usize = 32;

/// Reply blocks.
#[derive(Clone, Debug, Subcommand)]
pub enum SurbCommand {
    /// Make a SURB, with which somebody can answer without knowing whom
    ///
    /// Prints the SURB (640 bytes: header and reply key), to be given away, and the keys that open the answer, to be kept:
    /// ephemeral secret, reply key, and the public keys of the hops.
    Make(SurbMake),
    /// Send a message with a SURB: build the packet for the SURB's first hop
    Use(SurbUse),
    /// Read the message of a reply that arrived
    Open(SurbOpen),
}

/// `mizzle sphinx surb make`.
#[derive(Clone, Debug, Args)]
pub struct SurbMake {
    /// The route, whose last hop is the maker
    #[command(flatten)]
    pub route: Route,

    /// What the maker sees again when the reply arrives, 32 hexadecimal digits, not all zero; random if not given
    #[arg(long, value_parser = parse_id, value_name = "ID")]
    pub id: Option<[u8; ID_LEN]>,

    /// Put the address of the first hop in front, as the libp2p profile sends SURBs: 734 bytes
    #[arg(long)]
    pub with_address: bool,

    /// The packet's dialect
    #[command(flatten)]
    pub dialect: DialectArg,

    /// Write the SURB to this new file, as bytes, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Write the keys in hexadecimal to this new file, which only you may read, instead of printing them
    #[arg(long, value_name = "FILE")]
    pub keys_out: Option<PathBuf>,

    /// Ephemeral secret and reply key, 96 hexadecimal digits, to make the same SURB again. Danger: packets of two such
    /// SURBs can be linked, and whoever knows the secret reads them
    #[arg(long, value_name = "SECRET")]
    pub danger_seed: Option<SecretText>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mizzle sphinx surb use`.
#[derive(Clone, Debug, Args)]
pub struct SurbUse {
    /// The SURB, with or without the address of its first hop: a file, hexadecimal digits, or - for standard input
    pub surb: SecretText,

    /// What is sent
    #[command(flatten)]
    pub message: Message,

    /// The packet's dialect
    #[command(flatten)]
    pub dialect: DialectArg,

    /// Write the packet to this file, as bytes, instead of standard output; a file that exists is replaced
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Print JSON: the packet, and the address of the first hop if the SURB has it
    #[arg(long, conflicts_with = "out")]
    pub json: bool,
}

/// `mizzle sphinx surb open`.
#[derive(Clone, Debug, Args)]
pub struct SurbOpen {
    /// The payload of the reply, 3984 bytes as `peel` wrote it: a file, hexadecimal digits, or - for standard input
    #[arg(default_value = "-")]
    pub payload: String,

    /// The keys that `make` gave: a file or hexadecimal digits
    #[arg(long, value_name = "KEYS")]
    pub keys: SecretText,

    /// The packet's dialect
    #[command(flatten)]
    pub dialect: DialectArg,

    /// Write the message to this file, as bytes; a file that exists is replaced
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn make(args: &SurbMake) -> Result<(), ToolError> {
    let hops = args.route.hops();
    let mut rng = clock::rng().map_err(ToolError::Entropy)?;
    let seed = match &args.danger_seed {
        Some(text) => read_secret(
            "--danger-seed",
            "ephemeral secret and reply key",
            &[SEED_LEN],
            text,
        )?,
        None => random::<SEED_LEN>(&mut rng),
    };
    let id = args.id.unwrap_or_else(|| *random(&mut rng));
    let (surb, _) = from_seed(args.dialect, &seed, &hops, &id)?;

    let surb = match hops.first() {
        Some(first) if args.with_address => {
            let mut out = Zeroizing::new([0; SURB_WITH_ADDRESS_LEN]);
            surb.to_bytes_with_address(first.address, &mut out);
            Zeroizing::new(out.to_vec())
        }
        _ => {
            let mut out = Zeroizing::new([0; SURB_LEN]);
            surb.to_bytes(&mut out);
            Zeroizing::new(out.to_vec())
        }
    };
    let mut keys = Zeroizing::new(hex::encode(&*seed));
    hops.iter()
        .for_each(|hop| keys.push_str(&hex::encode(hop.key.as_bytes())));

    let mut rows = vec![("id", hex::encode(&id))];
    match &args.keys_out {
        Some(path) => bytes::write_secret(path, format!("{}\n", *keys).as_bytes())?,
        None => rows.push(("keys", keys.to_string())),
    }
    match &args.out {
        Some(path) => bytes::write_secret(path, &surb)?,
        None => rows.push(("surb", hex::encode(&surb))),
    }
    super::print_rows(&rows, args.json)
}

pub(super) fn use_one(args: &SurbUse) -> Result<(), ToolError> {
    let dialect = args.dialect.dialect();
    if &**args.surb.0 == "-" && args.message.text == "-" {
        let why = "standard input is the SURB's already: give a file";
        return Err(ToolError::argument("--message", why));
    }
    let wanted = Wanted {
        argument: "SURB",
        what: "a SURB",
        lengths: &[SURB_LEN, SURB_WITH_ADDRESS_LEN],
    };
    let given = wanted.read(&args.surb.0)?;
    let (first_hop, surb) = match given.as_slice().try_into() {
        Ok(bytes) => {
            let (address, surb) = Surb::from_bytes_with_address(bytes);
            (Some(address), surb)
        }
        Err(_) => {
            let bytes = given.as_slice().try_into();
            let bytes = bytes.map_err(|_| ToolError::argument("SURB", "has a length of no SURB"))?;
            (None, Surb::from_bytes(bytes))
        }
    };
    let message = args.message.padded(dialect)?;
    let mut packet = Packet::zeroed();
    use_surb(dialect, surb, &message, &mut packet);
    if args.json {
        let first_hop = first_hop.as_ref().map(address_json);
        return print_json(&json!({ "packet": hex::encode(packet.as_bytes()), "first_hop": first_hop }));
    }
    give_packet(&packet, args.out.as_deref())
}

pub(super) fn open(args: &SurbOpen) -> Result<(), ToolError> {
    let dialect = args.dialect.dialect();
    if args.payload == "-" && &**args.keys.0 == "-" {
        let why = "standard input is the payload's already: give a file";
        return Err(ToolError::argument("--keys", why));
    }
    let keys = read_keys(args)?;
    let wanted = Wanted {
        argument: "PAYLOAD",
        what: "the payload of a reply",
        lengths: &[PAYLOAD_LEN],
    };
    let mut packet = Packet::zeroed();
    *packet.payload_mut() = *wanted.read_array(&args.payload)?;
    recover(dialect, keys, packet.payload_mut()).map_err(|why| {
        ToolError::Refused(format!(
            "{why} (it was changed on its way, --keys are another SURB's, or a --dialect was another)"
        ))
    })?;
    let body = unpad(dialect, packet.message()).map_err(|why| ToolError::Refused(why.to_string()))?;
    if let Some(path) = &args.out {
        bytes::write_file(path, body)?;
    }
    if args.json {
        return print_json(&json!({
            "message": hex::encode(body),
            "text": core::str::from_utf8(body).ok(),
        }));
    }
    let value = match &args.out {
        Some(path) => format!("{} bytes in {}", body.len(), path.display()),
        None => readable(body),
    };
    super::print_rows(&[("message", value)], false)
}

/// Derives the maker's keys again. Addresses, delays and the id have no part in them.
fn read_keys(args: &SurbOpen) -> Result<SurbKeys, ToolError> {
    const LENGTHS: [usize; 3] = [
        SEED_LEN + 3 * KEY_LEN,
        SEED_LEN + 4 * KEY_LEN,
        SEED_LEN + MAX_HOPS * KEY_LEN,
    ];
    let wanted = Wanted {
        argument: "--keys",
        what: "what `make` prints as keys",
        lengths: &LENGTHS,
    };
    let bytes = wanted.read(&args.keys.0)?;
    let wrong = |why: &str| ToolError::argument("--keys", why);
    let (seed, keys) = bytes
        .split_first_chunk::<SEED_LEN>()
        .ok_or_else(|| wrong("too short"))?;
    let (keys, _) = keys.as_chunks::<KEY_LEN>();
    let keys = keys.iter().map(PublicKey::from_bytes);
    let keys: Vec<_> = keys
        .collect::<Result<_, _>>()
        .map_err(|why| wrong(&format!("the public key of a hop is none: {why}")))?;
    let hop = |key| Hop {
        key,
        address: &[0; ADDRESS_LEN],
        delay_ms: 0,
    };
    let hops: Vec<_> = keys.iter().map(hop).collect();
    Ok(from_seed(args.dialect, seed, &hops, &[1; ID_LEN])?.1)
}

fn from_seed(
    dialect: DialectArg,
    seed: &[u8; SEED_LEN],
    hops: &[Hop<'_>],
    id: &[u8; ID_LEN],
) -> Result<(Surb, SurbKeys), ToolError> {
    let (mut ephemeral, mut reply_key) = (Zeroizing::new([0; 32]), Zeroizing::new([0; REPLY_KEY_LEN]));
    ephemeral.copy_from_slice(&seed[..32]);
    reply_key.copy_from_slice(&seed[32..]);
    build_surb_with_secret(dialect.dialect(), *ephemeral, *reply_key, hops, id).map_err(ToolError::build)
}

fn random<const N: usize>(rng: &mut Rng) -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    rng.fill_bytes(&mut *bytes);
    bytes
}

fn parse_id(text: &str) -> Result<[u8; ID_LEN], String> {
    // A mailbox id has the same form.
    let id = MailboxId::from_hex(text).ok_or("an id has 32 hexadecimal digits")?;
    Ok(*id.as_bytes())
}
