//! `mizzle network rekey`: gives one node of a network's folder a new seed, and so new keys from the epoch that it is on, and
//! signs the document again. What it shares with `mizzle network renew`, which makes the document of further epochs.
//!
//! For a node that must not use its key any more: its machine stopped without warning, it accepted as many packets as it
//! can remember, or somebody may have read the key.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use mizzle_base::Document;
use mizzle_base::document::DocumentError;
use mizzle_net::clock::{self, Clock};
use mizzle_net::state::{self, Kind, State, StateError, seed};

use crate::assemble::{self, Keys, StartError};
use crate::init;
use crate::join::{self, JoinError};

/// Why a node has no new key.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// The authority's key, or the node's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Several files of the node's state.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Keys(Vec<StateError>),
    /// The document's file.
    #[error(transparent)]
    Read(#[from] JoinError),
    /// The document.
    #[error("{}: {source}", .path.display())]
    Document {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
    /// No such node.
    #[error(
        "there is no node `{name}` in {}: name one as `mizzle network init` did, mix-1-1, from the folder that it made",
        .dir.display()
    )]
    NoNode {
        /// As given.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The document doesn't know it.
    #[error("{} doesn't list {name}: they are of different networks", .document.display())]
    NotListed {
        /// The node.
        name: String,
        /// The document.
        document: PathBuf,
    },
    /// A file or folder.
    #[error("cannot {action} {}: {source}; run the command again, it may be run any number of times", .path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Entropy.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What was done.
#[derive(Debug, serde::Serialize)]
struct Rekeyed {
    node: String,
    /// The new public key.
    sphinx_key: String,
    /// The document's new sequence number.
    sequence: u64,
    /// The new secret key, to be copied to the node's machine.
    key: PathBuf,
    /// The document, to be copied to all.
    document: PathBuf,
}

/// Makes the key, signs, and says what to do next.
///
/// # Errors
/// [`RekeyError`]. The command can be run again after any of them.
pub fn run(dir: &Path, name: &str, json: bool) -> Result<String, RekeyError> {
    let rekeyed = rekey(dir, name)?;
    if json {
        // Names, paths and numbers can't fail to be written.
        return Ok(serde_json::to_string(&rekeyed).unwrap_or_default() + "\n");
    }
    Ok(next_steps(&rekeyed))
}

fn rekey(dir: &Path, name: &str) -> Result<Rekeyed, RekeyError> {
    let clock = Clock::start();
    let mut rng = clock::rng().map_err(StartError::Entropy)?;
    let authority = SigningKey::from_bytes(&*state::read_secret(&dir.join(init::AUTHORITY_KEY))?);
    let path = dir.join(init::DOCUMENT);
    let wrong = |source| RekeyError::Document {
        path: path.clone(),
        source,
    };
    let bytes = join::read_document(&path)?;
    let document = Document::verify(&bytes, &authority.verifying_key(), clock.now(), 0).map_err(wrong)?;
    let mut content = document.content().map_err(wrong)?;
    let folders = folders(dir)?;
    let folder = folders
        .iter()
        .find(|folder| folder.ends_with(name) && folder.join(init::NODE_CONFIG).is_file())
        .ok_or_else(|| RekeyError::NoNode {
            name: name.into(),
            dir: dir.into(),
        })?;
    // Nobody else's from here on.
    let state = State::open(&folder.join("state"), Kind::Node)?;
    let id = assemble::id_in(&state)?.to_string();
    let entry = content.nodes.iter_mut().find(|n| n.id == id);
    let entry = entry.ok_or_else(|| RekeyError::NotListed {
        name: name.into(),
        document: path.clone(),
    })?;
    let (now, epochs) = (document.epoch(), document.epochs());
    // If this ends between the two, the node doesn't start, and the command run again mends it.
    let ratchet = Keys::renew(&state, now, &mut rng)?;
    let keys = ratchet.keys_of(now, epochs.last() - now + 1).unwrap_or_default();
    let kept = (now - epochs.first()) as usize;
    let replace_from = |all: &mut String, new: String| {
        all.truncate(kept * assemble::KEY_DIGITS);
        all.push_str(&new);
    };
    let first = |digits: &str| digits.get(..assemble::KEY_DIGITS).unwrap_or_default().to_owned();
    let sphinx_keys = assemble::digits(&keys, |keys| &keys.sphinx);
    let sphinx_key = first(&sphinx_keys);
    replace_from(&mut entry.sphinx_key, sphinx_keys);
    if let Some(exit) = &mut entry.exit {
        replace_from(&mut exit.stream_key, assemble::digits(&keys, |keys| &keys.exit));
    }
    if let Some(mail) = &mut entry.mail {
        replace_from(&mut mail.stream_key, assemble::digits(&keys, |keys| &keys.mail));
    }
    content.sequence = document.sequence() + 1;
    let signed = content.sign(&authority).map_err(wrong)?;
    write_everywhere(&path, &folders, &signed)?;
    Ok(Rekeyed {
        node: name.into(),
        sphinx_key,
        sequence: content.sequence,
        key: state.path().join(seed::FILE),
        document: path,
    })
}

/// The document, and all copies of it in the folders of nodes and clients.
pub(crate) fn write_everywhere(path: &Path, folders: &[PathBuf], signed: &[u8]) -> Result<(), RekeyError> {
    state::publish(path, signed)?;
    for copy in folders.iter().map(|folder| folder.join(init::DOCUMENT)) {
        if copy.is_file() {
            state::publish(&copy, signed)?;
        }
    }
    Ok(())
}

/// Those of all nodes and clients: two levels below, as `mizzle network init` makes them.
pub(crate) fn folders(dir: &Path) -> Result<Vec<PathBuf>, RekeyError> {
    let inside = |dir: &Path| -> Result<Vec<PathBuf>, RekeyError> {
        let read = std::fs::read_dir(dir).and_then(|entries| {
            let paths = entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<Vec<_>>>()?;
            Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
        });
        read.map_err(|source| RekeyError::Io {
            action: "read the folder",
            path: dir.into(),
            source,
        })
    };
    let mut all = Vec::new();
    for host in inside(dir)? {
        all.extend(inside(&host)?);
    }
    all.sort();
    Ok(all)
}

fn next_steps(done: &Rekeyed) -> String {
    let mut out = format!(
        "{} has new keys from now on, and the document a new number, {}; it was written to all folders here.\n\nNext:\n\n",
        done.node, done.sequence
    );
    let _ = write!(
        out,
        "  1. Copy the new seed to the node's machine, over the one in its folder `state`, and keep the rest of that folder; the \
         node must not run meanwhile:\n\n     {}\n\n  \
         2. Copy the document to every machine, over the `network.doc` of each of its nodes, and start this node again; the others \
         take it while they run, within a minute:\n\n     {}\n\n  \
         3. Clients have it from their gateways within some hours, or when they are started again; what they send through {} is \
         lost until then.\n",
        done.key.display(),
        done.document.display(),
        done.node
    );
    out
}
