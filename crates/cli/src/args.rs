//! The command line: what can be asked for, and the help that teaches it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mizzle_base::Profile;
use mizzle_base::profile::{MAX_MEAN_DELAY_MS, Pattern};
use mizzle_exit::Allow;
use mizzle_net::host::Transport;

/// Hides who talks to whom, even from someone who watches every link.
///
/// mizzle is a mixnet: programs send through it as through a proxy, and their packets travel over five
/// hops, mixed with cover traffic that flows whether or not anyone speaks.
///
/// Try it: `mizzle up` starts a whole network in this process and prints a curl line to paste.
#[derive(Debug, Parser)]
#[command(name = "mizzle", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole network in this process, for trying and developing
    ///
    /// Three layers of mixes, gateways, an exit and a client, each node with a port of its own, and a proxy through them. It is
    /// kept in a folder as `mizzle network init` makes it, letters and all, and goes on there at the next start; `mizzle status`
    /// and the commands for letters find its client. This network hides nothing: it has one user. Ctrl-C ends it.
    Up(Up),
    /// Run a mix or a gateway
    #[command(subcommand)]
    Node(NodeCommand),
    /// Be a user of a network
    #[command(subcommand)]
    Client(ClientCommand),
    /// Letters.
    #[command(flatten)]
    Mail(crate::mail::MailCommand),
    /// Show how a running client or node is, and how well the network hides its users
    ///
    /// Users and pools, what an observer could tell, traffic by kind, loops, streams, letters, and what is wrong. Nothing of it
    /// says where anything goes or who anybody is. A node answers as a client does, to its owner on its machine alone.
    ///
    /// Exit status: 0 it answered, 1 error, 5 nothing runs there.
    Status(crate::status::StatusArgs),
    /// Check configuration files, and show what can be set
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measure this machine and print the figures of the documentation again
    #[command(subcommand)]
    Bench(Bench),
    /// Show what each traffic profile costs and carries, and plan networks
    ///
    /// Without --users, the profiles. With it, what follows for a network of that size: the pools of its mixes, what observers
    /// and corrupt nodes learn, how long packets take, what nodes must carry; which rules it breaks, and what would mend that.
    Plan(crate::plan::PlanArgs),
    /// Make networks, and look at their documents
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Build and take apart single packets, for work with other implementations and bug reports
    #[command(subcommand)]
    Sphinx(crate::packet_tool::SphinxCommand),
    /// Run a node of a libp2p mix network (/mix/1.0.0), and send requests through one
    ///
    /// These are the networks of the other implementations of that protocol: each node knows the others from a list, and
    /// there are no gateways, no cover traffic of clients, and no sessions.
    #[command(subcommand)]
    Peer(crate::peer::PeerCommand),
    /// Print a script that teaches a shell to complete mizzle's command line
    ///
    /// For bash: `mizzle completions bash > ~/.local/share/bash-completion/completions/mizzle`. For fish: `mizzle
    /// completions fish > ~/.config/fish/completions/mizzle.fish`. For zsh: write it as `_mizzle` to a folder of $fpath.
    Completions(crate::completions::Completions),
}

/// How nodes talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportName {
    /// QUIC over UDP
    Quic,
    /// TCP with Noise and yamux
    Tcp,
}

impl TransportName {
    /// As hosts take it.
    #[must_use]
    pub fn transport(self) -> Transport {
        match self {
            Self::Quic => Transport::Quic,
            Self::Tcp => Transport::Tcp,
        }
    }

    /// As configurations write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// Which traffic the network's users share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileName {
    /// For messages: a second a hop, 0.5 GB a day
    Chat,
    /// For pages and wallets: 20 ms a hop, up to 0.2 MB/s, 60 GB a day
    Browse,
    /// For files: 20 ms a hop, up to 1.2 MB/s, 330 GB a day
    Bulk,
}

impl ProfileName {
    /// The numbers behind the name.
    #[must_use]
    pub fn profile(self) -> Profile {
        match self {
            Self::Chat => Profile::chat(),
            Self::Browse => Profile::browse(),
            Self::Bulk => Profile::bulk(),
        }
    }
}

/// The network of `mizzle up` and of the measurements.
#[derive(Clone, Debug, Args)]
pub struct NetworkArgs {
    /// How nodes talk to each other
    #[arg(long, value_enum, default_value = "quic")]
    pub transport: TransportName,

    /// Mixes in each of the three layers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32), value_name = "N")]
    pub mixes_per_layer: u16,

    /// Gateways; the last of them has the exit
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=32), value_name = "N")]
    pub gateways: u16,

    /// Mean delay at each hop in milliseconds; the profile's if not given
    #[arg(long, value_parser = mean_delay, value_name = "MS")]
    pub mean_delay_ms: Option<f64>,

    /// Lose this share of the packets on every link, to try and to test
    #[arg(long, default_value_t = 0.0, value_parser = percent, value_name = "PERCENT")]
    pub drop_percent: f64,
}

/// `mizzle up`.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "browse")]
    pub profile: ProfileName,

    /// The network
    #[command(flatten)]
    pub network: NetworkArgs,

    /// Where the proxy listens
    #[command(flatten)]
    pub socks: SocksArgs,

    /// Where the network is kept from one start to the next: keys, letters, and a configuration of each node and of the client,
    /// for other commands. By default ~/.local/state/mizzle/up
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Delete the network that is kept, with its letters, and begin anew
    #[arg(long)]
    pub fresh: bool,

    /// Write the signed network document to this file
    #[arg(long, value_name = "FILE")]
    pub write_document: Option<PathBuf>,

    /// Print one JSON object when ready instead of text
    #[arg(long)]
    pub json: bool,
}

/// A node.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeCommand {
    /// Run the mix or gateway with this configuration until Ctrl-C
    ///
    /// Its keys are in the state that the configuration names; the network document says which of the nodes they make it.
    /// `mizzle network init` writes such configurations, `mizzle config example node` explains them.
    Run {
        /// Its configuration
        config: PathBuf,
        /// Print one JSON object when ready instead of text
        #[arg(long)]
        json: bool,
        /// Have a clock that is fast by so many seconds. For tests
        #[arg(long, hide = true, default_value_t = 0, allow_negative_numbers = true)]
        clock_fast_s: i64,
    },
}

/// Configuration files.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say all that is wrong with configurations, and with the files that they name
    Check {
        /// Configurations of nodes or clients
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration with every key explained
    Example {
        /// Whose
        #[arg(value_enum)]
        kind: ConfigKind,
    },
}

/// Whose configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConfigKind {
    /// A mix or a gateway
    Node,
    /// A user
    Client,
}

/// A user's side.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Join a network and open a proxy through it
    ///
    /// With a configuration, or without any argument the one at ~/.config/mizzle/client.toml, the client keeps its
    /// identity and its gateway from one start to the next; `mizzle config example client` explains what can be set.
    ///
    /// Without one, to try a network: `mizzle up --write-document net.doc`, then with the key that `mizzle up --json`
    /// prints `mizzle client run --document net.doc --authority KEY --socks 127.0.0.1:1081`. Either way the network
    /// document is verified with the authority's key before anything is connected.
    Run(ClientRun),
}

/// `mizzle client run`.
#[derive(Clone, Debug, Args)]
#[group(id = "source", multiple = false, args = ["document", "gateway"])]
pub struct ClientRun {
    /// The client's configuration; ~/.config/mizzle/client.toml if nothing is given
    #[arg(conflicts_with_all = ["source", "authority", "transport", "address", "danger_socks_for_others"])]
    pub config: Option<PathBuf>,

    /// The network document, from this file
    #[arg(long, value_name = "FILE", requires = "authority")]
    pub document: Option<PathBuf>,

    /// The network document, from this gateway: its multiaddr, with /p2p/ and its peer id at the end
    #[arg(long, value_name = "MULTIADDR", requires = "authority")]
    pub gateway: Option<String>,

    /// The authority's key, 64 hexadecimal digits, from a source that you trust
    #[arg(long, value_name = "KEY", requires = "source")]
    pub authority: Option<String>,

    /// How to talk to the gateways
    #[arg(long, value_enum, default_value = "quic", requires = "source")]
    pub transport: TransportName,

    /// Where the proxy listens
    #[command(flatten)]
    pub socks: SocksArgs,

    /// Print one JSON object when ready instead of text
    #[arg(long)]
    pub json: bool,

    /// Have a clock that is fast by so many seconds. For tests
    #[arg(long, hide = true, default_value_t = 0, allow_negative_numbers = true)]
    pub clock_fast_s: i64,
}

/// The proxy's port.
#[derive(Clone, Debug, Args)]
pub struct SocksArgs {
    /// Where the proxy listens: SOCKS5, SOCKS4, SOCKS4a and HTTP on one port
    #[arg(long = "socks", default_value = "127.0.0.1:1080", value_name = "ADDRESS")]
    pub address: SocketAddr,

    /// Let the proxy listen on an address that other machines reach. Danger: there is no password, and whoever
    /// reaches the port sends as this machine's user, unencrypted up to here
    #[arg(long)]
    pub danger_socks_for_others: bool,
}

/// The proxy would be open to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and the proxy has no password: use 127.0.0.1, or say \
     --danger-socks-for-others if you mean it"
)]
pub struct OpenProxy(SocketAddr);

impl SocksArgs {
    /// The address to listen on.
    ///
    /// # Errors
    /// When others could reach it and that isn't asked for.
    pub fn checked(&self) -> Result<SocketAddr, OpenProxy> {
        if self.address.ip().is_loopback() || self.danger_socks_for_others {
            Ok(self.address)
        } else {
            Err(OpenProxy(self.address))
        }
    }
}

/// Measurements; each starts its own network, in this process with a web server beside it or in processes.
#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Download a file: goodput beside the ceiling formula, CPU for each megabyte
    Transfer {
        /// The run
        #[command(flatten)]
        run: Run,
        /// Bytes to download
        #[arg(long, default_value_t = 10_000_000, value_name = "N")]
        bytes: u64,
        /// Do it again over links that lose this share of the packets, and print the ratio
        #[arg(long, value_parser = percent, value_name = "PERCENT")]
        against_drop_percent: Option<f64>,
    },
    /// Download a small file again and again: time to first byte and to the last
    Small {
        /// The run
        #[command(flatten)]
        run: Run,
        /// Bytes of the file
        #[arg(long, default_value_t = 1_000, value_name = "N")]
        bytes: u64,
        /// How often
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
        times: u32,
    },
    /// Download over many connections at once
    Parallel {
        /// The run
        #[command(flatten)]
        run: Run,
        /// Connections
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500), value_name = "N")]
        connections: u32,
        /// Bytes in all
        #[arg(long, default_value_t = 100_000_000, value_name = "N")]
        bytes: u64,
    },
    /// Leave the network alone: CPU and memory of cover traffic
    Idle {
        /// The run
        #[command(flatten)]
        run: Run,
        /// For how long
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400), value_name = "SECONDS")]
        seconds: u32,
    },
    /// Start a network of 16 processes: time until all are ready, memory of each, and what cover costs each
    ///
    /// Nine mixes, three gateways of which two have exits, and four clients, in a temporary folder that is removed.
    Processes(ProcessesRun),
    /// Send a file from client to client through a network of processes: goodput beside the ceiling formula
    ///
    /// Starts the network in a temporary folder that is removed, has `mizzle send` bring a file of random bytes and `mizzle
    /// receive` fetch it, and compares every byte.
    Send(crate::bench_send::SendRun),
    /// Send many small letters between the clients of a network of processes: all must come, each once
    Letters(crate::bench_letters::LettersRun),
    /// A gateway's mailboxes on this machine's disk: letters kept a second, disk and memory that many take
    ///
    /// The gateway core, the thread that waits for its disk and the store of the real code, without the packets by which letters
    /// come and go. Letters of one piece of 4096 bytes come from 1024 senders at a time, and each counts once it is on disk,
    /// synced, and its sender is told so. Then the store is opened again, all is read, compared and deleted. A million needs
    /// 7 GB of disk for some minutes.
    Mailbox(crate::bench_mailbox::MailboxRun),
    /// Kill a part of the mixes of a network of processes: what stands still, what is lost, when routes avoid the dead
    ///
    /// Three layers of mixes, three gateways with exits and three clients in a temporary folder that is removed. One client downloads,
    /// the others write letters to each other, and mixes drawn at random are killed meanwhile.
    Killed(crate::bench_killed::KilledRun),
    /// One node between 16 peers that send and 16 that receive: CPU time a packet, latency, memory, a flood
    ///
    /// A mix of the real code, with its host, links and files, over real connections on loopback; the peers run in this
    /// process too, on threads of their own, so CPU time is that of the node's threads (Linux). JSON: node_us_per_packet,
    /// node_pps_per_core (of the better transport); for each of `transports` these, us_per_packet_by_thread, capacity_pps
    /// (what came through beside the peers), `latency` at 10, 50 and 80 % of that (beyond_delay_p50_ms,
    /// beyond_delay_p99_ms: from the sender's queue to the receiver, less the drawn delay), `flood` at twice that
    /// (refused_before_the_node, dropped, recovery_ms, resident_growth_mb); `pipeline` from memory to memory by workers,
    /// pipeline_two_to_one; held_bytes_per_packet.
    Node(crate::bench_node::NodeRun),
    /// Peel and build packets: microseconds for each, on every engine that this CPU has
    ///
    /// All engines and sizes of batches take turns in one run on one core; read the least beside the median, which shows how
    /// busy the machine was. docs/performance.md says what limits each figure.
    Sphinx {
        /// How often each takes its turn
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
        rounds: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// How soon a node notices that it is cut off, and how often for nothing; half a minute of computing on two cores
    ///
    /// The alarm that nodes run, in a model of the network under virtual time: all that comes to one mix is dropped, and an alarm
    /// is wanted before its pool is flushed. Then years without an attack, by losses that come alone or in bursts, and by jitter.
    Alarm {
        /// Attacks
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
        seeds: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show where the 4608 bytes of a data slot's packet go
    Packet {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `mizzle bench processes`.
#[derive(Clone, Debug, Args)]
pub struct ProcessesRun {
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "browse")]
    pub profile: ProfileName,
    /// How nodes talk to each other
    #[arg(long, value_enum, default_value = "quic")]
    pub transport: TransportName,
    /// For how long nobody uses the network while it is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400), value_name = "SECONDS")]
    pub seconds: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What measurements share.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "bulk")]
    pub profile: ProfileName,
    /// The network
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Networks and their documents.
#[derive(Clone, Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network: keys, signed document, and for each node and client a folder ready to copy and run
    ///
    /// Writes DIR/authority.key and authority.pub, DIR/network.doc, DIR/HOST/NODE for each node and DIR/clients/client-N for
    /// each client. The folders hold secret keys: copy each to its machine only, and keep authority.key offline.
    Init(NetworkInit),
    /// Give a node a new Sphinx key, and sign the document again
    ///
    /// For a node that must not use its key any more: its machine stopped without warning, or it accepted as many packets as it
    /// can remember, and its log says so. Reads and writes DIR, which `mizzle network init` made; the node must not run
    /// from there. Says what to copy to which machine afterwards.
    Rekey {
        /// The network's folder, with authority.key
        dir: PathBuf,
        /// The node: the name of its folder, as mix-1-1
        node: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the next network document: the same nodes, with keys of further epochs
    ///
    /// Before the document is over, as `mizzle status` and the log of each node say in time. Reads and writes DIR, which `mizzle
    /// network init` made. The nodes' further keys come from the seeds in their folders there, or from the file
    /// `state/next.keys` that each node writes, copied there. Says what to copy to which machine afterwards; no node needs to
    /// be started again for it.
    Renew {
        /// The network's folder, with authority.key
        dir: PathBuf,
        /// For how long the new document is valid from now on
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_650), value_name = "DAYS")]
        valid_days: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give the mixes weights by what all nodes publish of their loops, and sign the document again
    ///
    /// Asks all gateways of the running network. A mix that loses packets by the median of those who can tell is used less by all
    /// clients, at the least half as much as evenly; with too few reports nothing is held against it. Reads and writes DIR,
    /// which `mizzle network init` made. Nodes and clients take the document while they run.
    Weigh {
        /// The network's folder, with authority.key
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Verify a document and show what it says
    Show {
        /// The document
        file: PathBuf,
        /// The authority's key, 64 hexadecimal digits, from a source that you trust
        #[arg(long, value_name = "KEY")]
        authority: String,
        /// Show whole ids and keys
        #[arg(long)]
        full: bool,
        /// Print JSON: the signed content as it is
        #[arg(long, conflicts_with = "full")]
        json: bool,
    },
}

/// `mizzle network init`.
#[derive(Clone, Debug, Args)]
pub struct NetworkInit {
    /// Where to; must be empty or not exist
    pub dir: PathBuf,
    /// The network's name; drawn if not given
    #[arg(long)]
    pub name: Option<String>,
    /// Which traffic the network's users share
    #[arg(long, value_enum, default_value = "browse")]
    pub profile: ProfileName,
    /// Mean delay at each hop in milliseconds; the profile's if not given
    #[arg(long, value_parser = mean_delay, value_name = "MS")]
    pub mean_delay_ms: Option<f64>,
    /// When users' packets leave: poisson (as in Loopix), constant, or danger-budget:SECONDS, in which data leaves
    /// at once in place of later cover, and who watches a user's link sees when he is active
    #[arg(long, value_parser = pattern, default_value = "poisson", value_name = "PATTERN")]
    pub pattern: Pattern,
    /// Mixes in each of the three layers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32), value_name = "N")]
    pub mixes_per_layer: u16,
    /// Gateways
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=32), value_name = "N")]
    pub gateways: u16,
    /// How many of the gateways have an exit: the last ones
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32), value_name = "N")]
    pub exits: u16,
    /// Clients; more can join later, with a copy of a client's folder without its state
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=1_000), value_name = "N")]
    pub clients: u16,
    /// How nodes talk to each other
    #[arg(long, value_enum, default_value = "quic")]
    pub transport: TransportName,
    /// IP addresses of the machines, over which the nodes are spread in turn
    #[arg(
        long,
        default_value = "127.0.0.1",
        value_delimiter = ',',
        value_name = "A,B,C"
    )]
    pub hosts: Vec<IpAddr>,
    /// The first port on each machine, the next ones following; 0: ports of this machine that are free now
    #[arg(long, default_value_t = 4_100, value_name = "PORT")]
    pub base_port: u16,
    /// How long the network document is valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_650), value_name = "DAYS")]
    pub valid_days: u32,
    /// How long a key is used: all nodes change theirs at the same moments, and erase those that are over
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=31_536_000), value_name = "SECONDS")]
    pub epoch_s: u64,
    /// For how many epochs the document has keys, in place of --valid-days. For tests
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub epochs: Option<u32>,
    /// Let exits connect to these addresses for anyone although they are not public; once for each range. For tests
    #[arg(long, value_parser = Allow::parse, value_name = "RANGE")]
    pub exit_allow: Vec<Allow>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text
        .trim_end_matches('%')
        .parse()
        .map_err(|_| "not a number".to_string())?;
    // Above that nothing useful arrives over ten links, there and back.
    if (0.0..=50.0).contains(&value) {
        Ok(value)
    } else {
        Err("must be between 0 and 50".into())
    }
}

fn mean_delay(text: &str) -> Result<f64, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| "not a number of milliseconds".to_string())?;
    if (1.0..=MAX_MEAN_DELAY_MS).contains(&value) {
        Ok(value)
    } else {
        Err(format!("must be between 1 and {MAX_MEAN_DELAY_MS}"))
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let budget = text.strip_prefix("danger-budget:");
    match (text, budget.and_then(|s| s.parse().ok())) {
        ("poisson", _) => Ok(Pattern::Poisson),
        ("constant", _) => Ok(Pattern::Constant),
        // Which lengths there may be follows from the profile, which is checked when the document is made.
        (_, Some(epoch_s)) => Ok(Pattern::DangerBudget { epoch_s }),
        _ => Err("not one of poisson, constant, danger-budget:SECONDS".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        for args in [
            ["--drop-percent", "51"],
            ["--drop-percent", "x"],
            ["--mean-delay-ms", "0"],
            ["--mean-delay-ms", "NaN"],
            ["--gateways", "1"],
            ["--mixes-per-layer", "0"],
            ["--socks", "nowhere"],
            ["--profile", "fast"],
        ] {
            let all = ["mizzle", "up", args[0], args[1]];
            let error = Cli::try_parse_from(all).expect_err("refused").to_string();
            assert!(error.contains(args[1]) && error.contains(args[0]), "{error}");
        }
    }

    #[test]
    fn patterns_are_named() {
        assert_eq!(pattern("poisson"), Ok(Pattern::Poisson));
        assert_eq!(pattern("constant"), Ok(Pattern::Constant));
        assert_eq!(
            pattern("danger-budget:1.5"),
            Ok(Pattern::DangerBudget { epoch_s: 1.5 })
        );
        assert!(pattern("danger-budget:").is_err() && pattern("tides").is_err());
    }
}
