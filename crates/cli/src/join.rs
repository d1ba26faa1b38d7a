//! `mizzle client run`: a user of a network that others run.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use ed25519_dalek::VerifyingKey;
use mizzle_apps::proxy;
use mizzle_base::hex;
use mizzle_net::clock::{self, Clock};

use crate::args::{ClientRun, OpenProxy};
use crate::local::StartError;
use crate::member::{Member, Source};
use crate::plan::EXIT_WEIGHT;
use crate::signals::interrupted;

/// Why `mizzle client run` ends without success.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The client didn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The proxy would be open to others.
    #[error(transparent)]
    OpenProxy(#[from] OpenProxy),
    /// The document's file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
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
    let address = args.socks.checked()?;
    let authority = authority(&args.authority)?;
    let source = source(&args)?;
    let door = proxy::Server::bind(proxy::Config::new(address))
        .await
        .map_err(StartError::from)?;
    let mut rng = clock::rng().map_err(StartError::Entropy)?;
    let transport = args.transport.transport();
    let started = Member::start(source, &authority, transport, door, 0.0, Clock::start(), &mut rng);
    let member = tokio::select! {
        member = started => member?,
        () = interrupted.wait() => return Ok(()),
    };
    let mut out = io::stdout().lock();
    // A reader that has gone is no reason to stop.
    let _ = out
        .write_all(announcement(&member).as_bytes())
        .and_then(|()| out.flush());
    drop(out);
    interrupted.wait().await;
    tokio::select! {
        () = member.stop() => {}
        () = interrupted.wait() => {}
    }
    Ok(())
}

/// An authority's key as users write it.
///
/// # Errors
/// When it is none.
pub fn authority(text: &str) -> Result<VerifyingKey, JoinError> {
    let key = hex::decode(text).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
    key.ok_or(JoinError::Authority)
}

fn source(args: &ClientRun) -> Result<Source, JoinError> {
    match (&args.document, &args.gateway) {
        (Some(path), _) => std::fs::read(path)
            .map(Source::Bytes)
            .map_err(|source| JoinError::Read {
                path: path.display().to_string(),
                source,
            }),
        (None, gateway) => gateway
            .as_deref()
            .and_then(Source::gateway)
            .ok_or(JoinError::Gateway),
    }
}

fn announcement(member: &Member) -> String {
    let document = member.document();
    let profile = document.profile();
    let mut out = format!(
        "user of network `{}`, profile `{}`\n\n",
        document.name(),
        profile.name
    );
    let _ = writeln!(out, "  SOCKS5 proxy  {}", member.socks());
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
