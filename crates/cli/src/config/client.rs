//! The file of `mizzle client run`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use mizzle_base::NodeId;
use mizzle_net::host::Transport;
use mizzle_net::state;
use zeroize::Zeroizing;

use super::Problems;
use super::read::Said;
use super::table::{self, File, Key, Without};
use crate::member::Source;

/// What a client's file says.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The state directory.
    pub state: PathBuf,
    /// The network document's file.
    pub document: Option<PathBuf>,
    /// The gateways that are asked for it otherwise.
    pub gateways: Vec<Source>,
    /// Whose signature it must have.
    pub authority: VerifyingKey,
    /// Those that may be its own gateway; any if none is named.
    pub gateway: Vec<NodeId>,
    /// How long its gateway may be away until it moves to another one, in seconds; 0: it never moves.
    pub move_after_s: u64,
    /// What the gateway asks for, if it asks.
    pub token: Option<Token>,
    /// How to talk to gateways.
    pub transport: Transport,
    /// Where programs reach the proxy.
    pub proxy: SocketAddr,
    /// Whether others than this machine may.
    pub danger_proxy_for_others: bool,
    /// Packets that a mix must have in its pool, or nothing is sent; 0: whatever there are.
    pub min_pool: u64,
    /// Bytes on disk for letters that nobody has fetched yet, in MB.
    pub inbox_mb: u64,
}

/// An invitation. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The bytes, for the gateway.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            state: PathBuf::new(),
            document: None,
            gateways: Vec::new(),
            authority: VerifyingKey::default(),
            gateway: Vec::new(),
            move_after_s: 300,
            token: None,
            transport: Transport::Both,
            proxy: SocketAddr::from(([127, 0, 0, 1], 1080)),
            danger_proxy_for_others: false,
            min_pool: 0,
            inbox_mb: 8_192,
        }
    }
}

const HEAD: &str = "A user of a mizzle network, for `mizzle client run FILE`. Paths are relative to this file.\n\
                    `mizzle config check FILE` finds mistakes.";

const KEYS: &[Key<ClientConfig>] = &[
    table::authority(
        "The authority's key, 64 hexadecimal digits, from a source that you trust: whoever holds it says who the nodes\n\
                are.",
    ),
    Key {
        name: "document",
        about: "The network document, from this file. It or `gateways` must be given.",
        without: Without::Nothing("\"network.doc\""),
        read: |config, reader, value| config.document = reader.file(value),
    },
    Key {
        name: "gateways",
        about: "The network document, from any of these gateways: their multiaddrs, each with /p2p/ and a peer id at the end.\n\
                It is asked for at each start, and the last one is kept.",
        without: Without::Nothing(
            "[\"/ip4/192.0.2.1/udp/4100/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN\"]",
        ),
        read: |config, reader, value| {
            config.gateways = reader.list(value, |text| {
                Source::parse(text).ok_or_else(|| {
                    format!("holds \"{text}\", which is no multiaddr that ends in /p2p/ and a peer id")
                })
            });
            if config.gateways.is_empty() && value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                reader.wrong(value, "must have one gateway at least");
            }
        },
    },
    Key {
        name: "gateway",
        about: "Your own gateway, which carries all that you send: its id in the network document, 64 hexadecimal digits; a list of\n\
                several; or \"any\". Of several one is drawn at the first start and kept. With exactly one you never move to another.",
        without: Without::Default("\"any\""),
        read: |config, reader, value| {
            let id = |text: &str| {
                NodeId::from_hex(text).ok_or_else(|| {
                    "must be \"any\", a node id of 64 hexadecimal digits, or a list of them".to_owned()
                })
            };
            if value.get_ref().as_array().is_some() {
                config.gateway = reader.list(value, id);
                if value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                    reader.wrong(value, "must name one gateway at least, or be \"any\"");
                }
                return;
            }
            let one = |text: &str| match text {
                "any" => Ok(Vec::new()),
                text => id(text).map(|id| vec![id]),
            };
            config.gateway = reader.parsed(value, one).unwrap_or_default();
        },
    },
    Key {
        name: "move_after_s",
        about: "Move to another gateway, one drawn of those that `gateway` allows, when yours was away for so many seconds, or when\n\
                it was found twice to lose packets; at most three times a day. You have another mailbox and address then: letters\n\
                to the old one wait there until you name the old gateway again. 0: never move. With a token you never do.",
        without: Without::Default("300"),
        read: |config, reader, value| {
            if let Some(after) = reader.number(value, 0..=86_400) {
                config.move_after_s = after;
            }
        },
    },
    Key {
        name: "token",
        about: "The invitation, where the gateway asks for one. Keep this file to yourself then (mode 600).",
        without: Without::Nothing("\"...\""),
        read: |config, reader, value| {
            config.token = reader.parsed(value, |text| match text.len() {
                1..=255 => Ok(Token(Zeroizing::new(text.to_owned()))),
                _ => Err("must be 1 to 255 bytes".into()),
            });
        },
    },
    Key {
        name: "transport",
        about: "How to talk to gateways: \"quic\", \"tcp\", or \"any\", whichever they speak.",
        without: Without::Default("\"any\""),
        read: |config, reader, value| {
            let choices = [
                ("any", Transport::Both),
                ("quic", Transport::Quic),
                ("tcp", Transport::Tcp),
            ];
            if let Some(transport) = reader.choice(value, &choices) {
                config.transport = transport;
            }
        },
    },
    Key {
        name: "proxy",
        about: "Where programs on this machine reach the proxy; port 0 takes any that is free, and `mizzle client run` prints it.",
        without: Without::Default("\"127.0.0.1:1080\""),
        read: |config, reader, value| {
            let address = |text: &str| {
                text.parse().map_err(|_| {
                    format!("must be an address and a port, as \"127.0.0.1:1080\", and is \"{text}\"")
                })
            };
            if let Some(proxy) = reader.parsed(value, address) {
                config.proxy = proxy;
            }
        },
    },
    Key {
        name: "danger_proxy_for_others",
        about: "Let the proxy listen on an address that other machines reach. Danger: there is no password, and whoever\n\
                reaches the port sends as you, unencrypted up to here.",
        without: Without::Default("false"),
        read: |config, reader, value| {
            if let Some(danger) = reader.boolean(value) {
                config.danger_proxy_for_others = danger;
            }
        },
    },
    Key {
        name: "min_pool",
        about: "Send nothing of yours, only cover, while a mix holds fewer packets than this at a time on average: programs get\n\
                an error, letters wait. Below 20 some users stand out by chance. How many there are follows from what your\n\
                gateway says of the number of users, which it knows some time after its own start;\n\
                `mizzle status` shows it. 0: send whatever there are.",
        without: Without::Default("0"),
        read: |config, reader, value| {
            if let Some(packets) = reader.number(value, 0..=1_000_000) {
                config.min_pool = packets;
            }
        },
    },
    Key {
        name: "inbox_mb",
        about: "The most that letters which you haven't fetched take on this disk, in MB. When it is full, your gateway keeps\n\
                what comes.",
        without: Without::Default("8192"),
        read: |config, reader, value| {
            if let Some(mb) = reader.number(value, 1..=1_000_000_000) {
                config.inbox_mb = mb;
            }
        },
    },
    table::state(
        "The folder with what must outlast a restart: identity, gateway, network document. Made at the first start; one\n\
                process at a time. By default mizzle/NAME in the user's state folder, NAME being that of this file.",
    ),
];

impl ClientConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::parse(path, &super::text_of(path)?)
    }

    /// Whether this client may move to another gateway by itself.
    #[must_use]
    pub fn may_move(&self) -> bool {
        // An invitation is for the gateway that gave it; another one should not even see it.
        self.move_after_s > 0 && self.gateway.len() != 1 && self.token.is_none()
    }

    /// The file with these keys given, name and TOML value, and all explained.
    pub(crate) fn render(given: &[(&str, String)]) -> String {
        <Self as File>::render(given)
    }
}

impl File for ClientConfig {
    const HEAD: &'static str = HEAD;
    const KEYS: &'static [Key<Self>] = KEYS;

    fn state(&mut self) -> &mut PathBuf {
        &mut self.state
    }

    fn authority(&mut self) -> &mut VerifyingKey {
        &mut self.authority
    }

    fn check(&self, path: &Path, said: &mut Said<'_>) {
        match (said.has("document"), said.has("gateways")) {
            (false, false) => said.wrong(
                "document",
                "`document` and `gateways` are missing: one of them must say where the network document comes from",
            ),
            (true, true) => said.wrong(
                "gateways",
                "`gateways` has no effect beside `document`: leave one of them out",
            ),
            _ => {}
        }
        if !self.proxy.ip().is_loopback() && !self.danger_proxy_for_others {
            said.wrong(
                "proxy",
                "`proxy` can be reached from other machines, and has no password: use 127.0.0.1, or say \
                 danger_proxy_for_others = true if you mean it",
            );
        }
        if self.token.is_some()
            && let Err(why) = state::check_private(path)
        {
            said.wrong("token", format!("`token`: {why}"));
        }
    }
}
