//! The file of `mizzle client run`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use mizzle_base::{NodeId, hex};
use mizzle_net::host::Transport;
use mizzle_net::state;
use zeroize::Zeroizing;

use super::table::{Key, Without, render_keys};
use super::{Problems, paths, read};
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
    /// Its own gateway; any if none is named.
    pub gateway: Option<NodeId>,
    /// What the gateway asks for, if it asks.
    pub token: Option<Token>,
    /// How to talk to gateways.
    pub transport: Transport,
    /// Where programs reach the proxy.
    pub proxy: SocketAddr,
    /// Whether others than this machine may.
    pub danger_proxy_for_others: bool,
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
            gateway: None,
            token: None,
            transport: Transport::Both,
            proxy: SocketAddr::from(([127, 0, 0, 1], 1080)),
            danger_proxy_for_others: false,
        }
    }
}

const HEAD: &str = "A user of a mizzle network, for `mizzle client run FILE`. Paths are relative to this file.\n\
                    `mizzle config check FILE` finds mistakes.";

const KEYS: &[Key<ClientConfig>] = &[
    Key {
        name: "authority",
        about: "The authority's key, 64 hexadecimal digits, from a source that you trust: whoever holds it says who the nodes\n\
                are.",
        without: Without::Refused("\"0000000000000000000000000000000000000000000000000000000000000000\""),
        read: |config, reader, value| {
            if let Some(key) = reader.parsed(value, authority) {
                config.authority = key;
            }
        },
    },
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
        about: "Your own gateway, which carries all that you send: its id in the network document, 64 hexadecimal digits; or\n\
                \"any\", one drawn at the first start and kept.",
        without: Without::Default("\"any\""),
        read: |config, reader, value| {
            let id = |text: &str| match text {
                "any" => Ok(None),
                text => NodeId::from_hex(text)
                    .map(Some)
                    .ok_or_else(|| "must be \"any\" or a node id, 64 hexadecimal digits".into()),
            };
            config.gateway = reader.parsed(value, id).flatten();
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
        name: "state",
        about: "The folder with what must outlast a restart: identity, gateway, network document. Made at the first start; one\n\
                process at a time. By default mizzle/NAME in the user's state folder, NAME being that of this file.",
        without: Without::Nothing("\"state\""),
        read: |config, reader, value| {
            if let Some(path) = reader.path(value) {
                config.state = path;
            }
        },
    },
];

/// An authority's key.
pub(super) fn authority(text: &str) -> Result<VerifyingKey, String> {
    hex::decode(text)
        .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
        .ok_or_else(|| {
            "must be an Ed25519 key, 64 hexadecimal digits, as the network's authority publishes it".into()
        })
}

/// All names.
pub(super) fn names() -> Vec<&'static str> {
    KEYS.iter().map(|key| key.name).collect()
}

/// The file with these keys given, name and TOML value, and all explained.
pub(crate) fn render(given: &[(&str, String)]) -> String {
    render_keys(KEYS, HEAD, given)
}

impl ClientConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::parse(path, &super::text_of(path)?)
    }

    /// Reads the text of the file at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let mut config = Self::default();
        let mut said = read::read(path, text, KEYS, &mut config);
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
        if !config.proxy.ip().is_loopback() && !config.danger_proxy_for_others {
            said.wrong(
                "proxy",
                "`proxy` can be reached from other machines, and has no password: use 127.0.0.1, or say \
                 danger_proxy_for_others = true if you mean it",
            );
        }
        if config.token.is_some()
            && let Err(why) = state::check_private(path)
        {
            said.wrong("token", format!("`token`: {why}"));
        }
        if !said.has("state") {
            match paths::state(path) {
                Some(state) => config.state = state,
                None => said.wrong(
                    "state",
                    "`state` is missing, and there is no home folder to put it in",
                ),
            }
        }
        said.finish(path)?;
        Ok(config)
    }
}
