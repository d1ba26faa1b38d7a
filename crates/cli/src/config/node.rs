//! The file of `mizzle node run`.

use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use libp2p::{Multiaddr, PeerId};
use mizzle_exit::Allow;
use mizzle_net::wire;

use super::Problems;
use super::read::Said;
use super::table::{self, File, Key, Without};

/// Whom a gateway admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Anyone.
    #[default]
    Open,
    /// Who knows the token.
    Token,
    /// Who is on the list.
    List,
}

/// What a node's file says.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// The state directory.
    pub state: PathBuf,
    /// The network document's file.
    pub document: PathBuf,
    /// Whose signature it must have.
    pub authority: VerifyingKey,
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// Threads that peel packets, if it says.
    pub workers: Option<u64>,
    /// Memory for remembering what was accepted, in MB.
    pub replay_mb: u64,
    /// Whom the gateway admits.
    pub admission: Admission,
    /// The file with the token that it asks for.
    pub token_file: Option<PathBuf>,
    /// Peer ids of the clients on its list.
    pub clients: Vec<PeerId>,
    /// Frames a second that it sends to clients in all.
    pub capacity_frames_per_s: u64,
    /// Bytes on disk for one mailbox, in MB.
    pub mail_mailbox_mb: u64,
    /// Bytes on disk for all mailboxes, in MB.
    pub mail_total_mb: u64,
    /// Letters in one mailbox.
    pub mail_letters: u64,
    /// Days for which it keeps letters.
    pub mail_days: u64,
    /// Memory for the replies that wait for one client, in MB.
    pub replies_client_mb: u64,
    /// Memory for the replies that wait for all, in MB.
    pub replies_total_mb: u64,
    /// Minutes for which replies wait for a client that is away.
    pub replies_minutes: u64,
    /// What the exit may connect to although it is not public.
    pub allow: Vec<Allow>,
}

const HEAD: &str = "A mix or a gateway of a mizzle network, for `mizzle node run FILE`. Which of the two it is, the network\n\
                    document says. Paths are relative to this file. `mizzle config check FILE` finds mistakes.";

const KEYS: &[Key<NodeConfig>] = &[
    Key {
        name: "document",
        about: "The network document, as the authority published it.",
        without: Without::Refused("\"network.doc\""),
        read: |config, reader, value| {
            if let Some(path) = reader.file(value) {
                config.document = path;
            }
        },
    },
    table::authority("The authority's key, 64 hexadecimal digits, from a source that you trust."),
    Key {
        name: "listen",
        about: "Where others reach it, as multiaddrs: /udp/PORT/quic-v1 is QUIC, /tcp/PORT is TCP; 0.0.0.0 and :: stand for\n\
                all addresses of this machine. The network document lists the addresses that others dial.",
        without: Without::Refused("[\"/ip4/0.0.0.0/udp/4100/quic-v1\"]"),
        read: |config, reader, value| {
            config.listen = reader.list(value, listen);
            if config.listen.is_empty() && value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                reader.wrong(value, "must have one address at least");
            }
        },
    },
    table::state(
        "The folder with its keys, which `mizzle network init` makes; one process at a time. Back it up: without it the\n\
                node is lost. By default mizzle/NAME in the user's state folder, NAME being that of this file.",
    ),
    Key {
        name: "workers",
        about: "Threads that peel packets. The others that it needs, for its connections, are not among them. By default one\n\
                for each two cores of the machine, and 16 at most.",
        without: Without::Nothing("4"),
        read: |config, reader, value| config.workers = reader.number(value, 1..=64),
    },
    Key {
        name: "replay_mb",
        about: "The most memory for remembering which packets it accepted, in MB: 11 bytes for each, so that none passes twice.\n\
                It is taken as it is needed. When it is full, the node takes no more packets until it has another key,\n\
                in the next key epoch or from `mizzle network rekey`; before, its log says so. 1024 last for 97 million\n\
                packets in an epoch.",
        without: Without::Default("1024"),
        read: |config, reader, value| {
            if let Some(mb) = reader.number(value, 1..=1_000_000) {
                config.replay_mb = mb;
            }
        },
    },
    Key {
        name: "gateway.admission",
        about: "Whom it admits as a client: \"open\", anyone; \"token\", who knows the text in `token_file`; \"list\", those in\n\
                `clients`.",
        without: Without::Default("\"open\""),
        read: |config, reader, value| {
            let choices = [
                ("open", Admission::Open),
                ("token", Admission::Token),
                ("list", Admission::List),
            ];
            if let Some(admission) = reader.choice(value, &choices) {
                config.admission = admission;
            }
        },
    },
    Key {
        name: "gateway.token_file",
        about: "A file with the text that clients must know, up to 255 bytes; spaces around it don't count. Its owner's alone\n\
                (mode 600).",
        without: Without::Nothing("\"token\""),
        read: |config, reader, value| config.token_file = reader.file(value),
    },
    Key {
        name: "gateway.clients",
        about: "The clients on its list: their ids, which `mizzle client run` prints.",
        without: Without::Nothing("[\"12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN\"]"),
        read: |config, reader, value| {
            config.clients = reader.list(value, |text| {
                text.parse().map_err(|_| {
                    format!("holds \"{text}\", which is no client's id: they begin with 12D3KooW")
                })
            });
        },
    },
    Key {
        name: "gateway.capacity_frames_per_s",
        about: "Frames of 4632 bytes that it sends to clients in a second, in all. It admits as many clients as that feeds:\n\
                45000 are 450 in a network of profile `browse`, and 200 MB/s.",
        without: Without::Default("45000"),
        read: |config, reader, value| {
            if let Some(frames) = reader.number(value, 1..=10_000_000) {
                config.capacity_frames_per_s = frames;
            }
        },
    },
    Key {
        name: "gateway.mail_mailbox_mb",
        about: "The most that it keeps on disk for one mailbox, in MB.",
        without: Without::Default("256"),
        read: |config, reader, value| {
            if let Some(mb) = reader.number(value, 1..=1_000_000) {
                config.mail_mailbox_mb = mb;
            }
        },
    },
    Key {
        name: "gateway.mail_total_mb",
        about: "The most that it keeps on disk for all mailboxes, in MB.",
        without: Without::Default("16384"),
        read: |config, reader, value| {
            if let Some(mb) = reader.number(value, 1..=1_000_000_000) {
                config.mail_total_mb = mb;
            }
        },
    },
    Key {
        name: "gateway.mail_letters",
        about: "The most letters that it keeps in one mailbox, those included of which a part has come. A sender is told that the\n\
                mailbox is full.",
        without: Without::Default("10000"),
        read: |config, reader, value| {
            if let Some(letters) = reader.number(value, 1..=1_000_000) {
                config.mail_letters = letters;
            }
        },
    },
    Key {
        name: "gateway.mail_days",
        about: "Letters that nobody fetched for so many days are deleted. More than a week, in which a letter may still be brought\n\
                in parts.",
        without: Without::Default("30"),
        read: |config, reader, value| {
            if let Some(days) = reader.number(value, 8..=3_650) {
                config.mail_days = days;
            }
        },
    },
    Key {
        name: "gateway.replies_client_mb",
        about: "The most memory for what comes back for one client and has not left for it yet, in MB. More is dropped, and the\n\
                other end of a stream sends it again.",
        without: Without::Default("16"),
        read: |config, reader, value| {
            if let Some(mb) = reader.number(value, 1..=65_536) {
                config.replies_client_mb = mb;
            }
        },
    },
    Key {
        name: "gateway.replies_total_mb",
        about: "The same for all clients together. It is taken as it is needed, and one client never gets more than is free.",
        without: Without::Default("256"),
        read: |config, reader, value| {
            if let Some(mb) = reader.number(value, 1..=1_000_000) {
                config.replies_total_mb = mb;
            }
        },
    },
    Key {
        name: "gateway.replies_minutes",
        about: "For how many minutes it is kept for a client that is away; its sessions end after one.",
        without: Without::Default("10"),
        read: |config, reader, value| {
            if let Some(minutes) = reader.number(value, 1..=1_440) {
                config.replies_minutes = minutes;
            }
        },
    },
    Key {
        name: "exit.allow",
        about: "Addresses that its exit may connect to for anyone although they are not public: ranges, with ports if you\n\
                like, as \"10.0.0.0/8:80-443\". None by default. Nodes of the network are never among them.",
        without: Without::Default("[]"),
        read: |config, reader, value| {
            config.allow = reader.list(value, |text| Allow::parse(text).map_err(|e| e.to_string()));
        },
    },
];

fn listen(text: &str) -> Result<Multiaddr, String> {
    use libp2p::multiaddr::Protocol;
    let address: Multiaddr = text.parse().map_err(|_| {
        format!("holds \"{text}\", which is no multiaddr: write /ip4/ADDRESS/udp/PORT/quic-v1")
    })?;
    let parts: Vec<_> = address.iter().skip(2).collect();
    let good = match address.iter().nth(1) {
        Some(Protocol::Udp(_)) => parts == [Protocol::QuicV1],
        Some(Protocol::Tcp(_)) => parts.is_empty(),
        _ => false,
    };
    if good && wire::socket_address(&address).is_some() {
        Ok(address)
    } else {
        Err(format!(
            "holds \"{text}\", on which nodes don't listen: write /ip4/ADDRESS/udp/PORT/quic-v1 or \
             /ip4/ADDRESS/tcp/PORT"
        ))
    }
}

impl NodeConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::parse(path, &super::text_of(path)?)
    }

    /// The file with these keys given, name and TOML value, and all explained.
    pub(crate) fn render(given: &[(&str, String)]) -> String {
        <Self as File>::render(given)
    }
}

impl File for NodeConfig {
    const HEAD: &'static str = HEAD;
    const KEYS: &'static [Key<Self>] = KEYS;

    fn state(&mut self) -> &mut PathBuf {
        &mut self.state
    }

    fn authority(&mut self) -> &mut VerifyingKey {
        &mut self.authority
    }

    fn check(&self, _: &Path, said: &mut Said<'_>) {
        match self.admission {
            Admission::Token if !said.has("gateway.token_file") => said.wrong(
                "gateway.admission",
                "`gateway.admission` is \"token\": name the file that holds it, token_file = \"token\"",
            ),
            Admission::List if !said.has("gateway.clients") => said.wrong(
                "gateway.admission",
                "`gateway.admission` is \"list\": say who is on it, clients = [\"12D3KooW...\"]",
            ),
            _ => {}
        }
        for (name, wanted, what) in [
            ("gateway.token_file", Admission::Token, "token"),
            ("gateway.clients", Admission::List, "list"),
        ] {
            if said.has(name) && self.admission != wanted {
                let text = format!("`{name}` has no effect: `gateway.admission` would have to be \"{what}\"");
                said.wrong(name, text);
            }
        }
        if self.mail_mailbox_mb > self.mail_total_mb {
            said.wrong(
                "gateway.mail_mailbox_mb",
                "`gateway.mail_mailbox_mb` is more than all mailboxes may hold, `gateway.mail_total_mb`",
            );
        }
        if self.replies_client_mb > self.replies_total_mb {
            said.wrong(
                "gateway.replies_client_mb",
                "`gateway.replies_client_mb` is more than all clients may have together, `gateway.replies_total_mb`",
            );
        }
    }
}
