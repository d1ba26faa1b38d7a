//! Taking one layer off, and saying what was under it or which check failed.

use std::path::PathBuf;

use clap::Args;
use mizzle_base::hex;
use mizzle_sphinx::{Dialect, PACKET_LEN, Packet, Peeled, Peeler, Rejected, TAG_LEN, unpad};
use serde_json::{Value, json};

use super::address::{self, Block};
use super::bytes::{self, Wanted};
use super::{DialectArg, SecretText, ToolError};

/// `mizzle sphinx peel`.
#[derive(Clone, Debug, Args)]
pub struct Peel {
    /// The packet: a file, hexadecimal digits, or - for standard input
    #[arg(default_value = "-")]
    pub packet: String,

    /// The hop's secret key: a file or 64 hexadecimal digits, which other users of this machine can see on a command
    /// line
    #[arg(long, value_name = "KEY")]
    pub key: SecretText,

    /// The packet's dialect
    #[command(flatten)]
    pub dialect: DialectArg,

    /// Write what was under the layer to this file, as bytes: the packet for the next hop, the message, or the payload of
    /// a reply for `surb open`; a file that exists is replaced
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Print JSON, with all bytes
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &Peel) -> Result<(), ToolError> {
    let dialect = args.dialect.dialect();
    if args.packet == "-" && &**args.key.0 == "-" {
        let why = "standard input is the packet's already: give a file";
        return Err(ToolError::argument("--key", why));
    }
    let secret = super::read_key("--key", &args.key)?;
    let wanted = Wanted {
        argument: "PACKET",
        what: "a packet",
        lengths: &[PACKET_LEN],
    };
    let mut packet = Packet::zeroed();
    *packet.as_bytes_mut() = *wanted.read_array(&args.packet)?;

    let public = hex::encode(secret.public().as_bytes());
    let mut tag = None;
    let result = Peeler::new(secret, dialect).peel(&mut packet, &mut |told| {
        tag = Some(*told);
        false
    });
    let layer = match result {
        Ok(Peeled::Forward { next, delay_ms }) => Layer::Forward { next, delay_ms },
        Ok(Peeled::Exit { destination }) => Layer::Exit { destination },
        Ok(Peeled::Reply { id }) => Layer::Reply { id },
        Err(rejected) => {
            let why = explain(rejected, &public);
            if args.json {
                let check = rejected.as_str();
                let tag = tag.map(|tag| hex::encode(&tag));
                print_json(&json!({ "layer": "refused", "check": check, "why": why, "tag": tag }))?;
            }
            return Err(ToolError::Refused(format!("{} ({why})", rejected)));
        }
    };
    let under = layer.under(dialect, &packet);
    if let Some(path) = &args.out {
        bytes::write_file(path, under.bytes)?;
    }
    if args.json {
        return print_json(&layer.json(&under, tag));
    }
    let mut rows = layer.rows();
    rows.extend(tag.map(|tag| ("replay tag", hex::encode(&tag))));
    match (&args.out, under.what) {
        (Some(path), what) => rows.push((what, format!("{} bytes in {}", under.bytes.len(), path.display()))),
        (None, "message") => rows.push(("message", readable(under.bytes))),
        (None, what) => rows.push((
            what,
            format!("{} bytes; --out or --json gives them", under.bytes.len()),
        )),
    }
    if !under.is_padded {
        rows.push((
            "padding",
            "wrong: the length in front is impossible, so this is all of the message".into(),
        ));
    }
    super::print_rows(&rows, false)
}

/// What the layer said.
enum Layer {
    Forward { next: Block, delay_ms: u16 },
    Exit { destination: Block },
    Reply { id: [u8; 16] },
}

/// What was under the layer.
struct Under<'a> {
    what: &'static str,
    bytes: &'a [u8],
    is_padded: bool,
}

impl Layer {
    fn under<'a>(&self, dialect: Dialect, packet: &'a Packet) -> Under<'a> {
        let (what, bytes, is_padded) = match self {
            Self::Forward { .. } => ("packet", packet.as_bytes().as_slice(), true),
            Self::Reply { .. } => ("payload", packet.payload().as_slice(), true),
            Self::Exit { .. } => match unpad(dialect, packet.message()) {
                Ok(body) => ("message", body, true),
                Err(_) => ("message", packet.message().as_slice(), false),
            },
        };
        Under {
            what,
            bytes,
            is_padded,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Forward { .. } => "forward",
            Self::Exit { .. } => "exit",
            Self::Reply { .. } => "reply",
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("layer", self.name().to_string())];
        match self {
            Self::Forward { next, delay_ms } => {
                rows.push(("delay", format!("{delay_ms} ms")));
                rows.extend(address_rows("next", next));
            }
            Self::Exit { destination } => rows.extend(address_rows("destination", destination)),
            Self::Reply { id } => rows.push(("id", hex::encode(id))),
        }
        rows
    }

    fn json(&self, under: &Under<'_>, tag: Option<[u8; TAG_LEN]>) -> Value {
        let mut value = json!({
            "layer": self.name(),
            "tag": tag.map(|tag| hex::encode(&tag)),
            under.what: hex::encode(under.bytes),
        });
        match self {
            Self::Forward { next, delay_ms } => {
                value["next"] = address_json(next);
                value["delay_ms"] = (*delay_ms).into();
            }
            Self::Exit { destination } => {
                value["destination"] = address_json(destination);
                value["padding_is_right"] = under.is_padded.into();
                value["text"] = core::str::from_utf8(under.bytes).ok().into();
            }
            Self::Reply { id } => value["id"] = hex::encode(id).into(),
        }
        value
    }
}

/// A block, and in rows without a name what it may mean.
fn address_rows(name: &'static str, block: &Block) -> Vec<(&'static str, String)> {
    if block.iter().all(|byte| *byte == 0) {
        return vec![(name, "all zero: the hop itself".into())];
    }
    let meanings = address::readings(block);
    let mut rows = vec![(name, address::to_hex(block))];
    if meanings.is_empty() {
        rows.push(("", "in no form that is known here".into()));
    }
    rows.extend(meanings.into_iter().map(|text| ("", text)));
    rows
}

pub(super) fn address_json(block: &Block) -> Value {
    json!({ "block": address::to_hex(block), "readings": address::readings(block) })
}

/// Text in quotes, escaped, so that what somebody else sent can't reach the terminal; other bytes in hexadecimal.
pub(super) fn readable(bytes: &[u8]) -> String {
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => format!("{text:?}"),
        _ => format!("hex:{}", hex::encode(bytes)),
    }
}

pub(super) fn print_json(value: &Value) -> Result<(), ToolError> {
    bytes::print(&format!("{value}\n"))
}

/// What a failed check says about where to look.
fn explain(rejected: Rejected, public: &str) -> String {
    match rejected {
        Rejected::Alpha => {
            "its first 32 bytes are zero, above 2^255 - 20, or of small order: no builder makes such \
                            a packet"
                .into()
        }
        Rejected::Mac => {
            format!(
                "it is for another key than this one, whose public half is {public}, or its first 624 bytes were changed"
            )
        }
        Rejected::Role => "it ends here, with a destination and an id at once: its builder is wrong".into(),
        Rejected::Payload => {
            "it was changed behind its first 624 bytes, at any hop, or a --dialect on its way was \
                              another"
                .into()
        }
        // Nothing is remembered here.
        Rejected::Replay => "it is a replay".into(),
    }
}
