//! `mizzle network renew`: makes the next network document, the same nodes with keys of further epochs.
//!
//! It begins with the epoch before the current one, so that whoever takes it while he runs goes on with the keys that he has.
//! The further public keys come from the seeds in the folders of the nodes or, where those were not kept there, from the file
//! that each node writes ([`NextKeys`]).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use mizzle_base::document::{DocumentError, MAX_EPOCHS, Node, NodeEntry};
use mizzle_base::{Document, NetworkId, NodeId, hex};
use mizzle_net::clock::Clock;
use mizzle_net::identity;
use mizzle_net::state::{self, Kind, State, seed};
use mizzle_traffic::weights;

use crate::assemble::{self, KEY_DIGITS, Keys};
use crate::init;
use crate::join;
use crate::rekey::{self, RekeyError};

/// Why there is no further document.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// As for `mizzle network rekey`.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// A node whose keys nobody knows.
    #[error(
        "no further keys of node {id} were found in {}: copy the file `state/next.keys` from its machine to its folder there \
         ({why})", .dir.display()
    )]
    NoKeys {
        /// Which.
        id: NodeId,
        /// Where they were looked for.
        dir: PathBuf,
        /// What is wrong with what is there.
        why: String,
    },
}

/// What is signed begins with it.
const DOMAIN: &str = "mizzle next keys 1\0";

/// Public keys of a node for the epochs after those of a document, as it writes them, signed with the secret of its identity: who
/// carries the file can't put in keys of his own.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct NextKeys {
    /// The node.
    pub id: String,
    /// The first epoch.
    pub epoch: u32,
    /// Keys of packets, of this and the following epochs, 64 hexadecimal digits each, one after the other.
    pub sphinx_key: String,
    /// Keys of the sessions of an exit, whether it has one or not.
    pub exit: String,
    /// Keys of the sessions of the mail, whether it keeps any or not.
    pub mail: String,
    /// Ed25519 signature in hexadecimal over `mizzle next keys 1`, a zero byte, and the network's id and what stands above, each
    /// after a space: numbers and hexadecimal digits.
    #[serde(default)]
    pub signature: String,
}

impl NextKeys {
    /// The keys of as many epochs as a document can add, but no more than four times as many as this one has and a hundred.
    #[must_use]
    pub fn of(keys: &Keys, id: NodeId, document: &Document) -> Option<Self> {
        let epochs = document.epochs();
        let count = epochs.count().saturating_mul(4).saturating_add(100);
        let epoch = epochs.last().checked_add(1)?;
        let signing = keys.signing();
        let keys = keys.ratchet().keys_of(epoch, count.min(MAX_EPOCHS as u32))?;
        let mut next = Self {
            id: id.to_string(),
            epoch,
            sphinx_key: assemble::digits(&keys, |keys| &keys.sphinx),
            exit: assemble::digits(&keys, |keys| &keys.exit),
            mail: assemble::digits(&keys, |keys| &keys.mail),
            signature: String::new(),
        };
        let signature = signing.sign(next.signed(&document.network()).as_bytes());
        next.signature = hex::encode(&signature.to_bytes());
        Some(next)
    }

    fn signed(&self, network: &NetworkId) -> String {
        let Self {
            id,
            epoch,
            sphinx_key,
            exit,
            mail,
            ..
        } = self;
        format!("{DOMAIN} {network} {id} {epoch} {sphinx_key} {exit} {mail}")
    }

    /// Whether the node signed it, in this network.
    fn is_signed_by(&self, node: &Node, network: &NetworkId) -> bool {
        let key = node
            .peer
            .parse()
            .ok()
            .and_then(|peer| identity::public_key(&peer));
        let key = key.and_then(|key| VerifyingKey::from_bytes(&key).ok());
        // Whose peer id the document pairs with another id is nobody.
        let key = key.filter(|key| weights::node_of(key) == node.id);
        let signature = hex::decode(&self.signature).map(|bytes| Signature::from_bytes(&bytes));
        key.zip(signature).is_some_and(|(key, signature)| {
            key.verify_strict(self.signed(network).as_bytes(), &signature)
                .is_ok()
        })
    }

    /// What stands in the file.
    #[must_use]
    pub fn text(&self) -> String {
        // Text and numbers can't fail to be written.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// How many epochs it has keys of; none if it isn't whole.
    fn count(&self) -> u32 {
        let len = self.sphinx_key.len();
        let whole = len.is_multiple_of(KEY_DIGITS) && self.exit.len() == len && self.mail.len() == len;
        if whole && self.sphinx_key.is_ascii() && self.exit.is_ascii() && self.mail.is_ascii() {
            (len / KEY_DIGITS) as u32
        } else {
            0
        }
    }
}

#[derive(Debug, serde::Serialize)]
pub(crate) struct Renewed {
    /// The document's new number.
    sequence: u64,
    /// Epochs that it has keys of: the first and the last.
    epochs: (u32, u32),
    /// When it ends, in seconds since 1970, UTC.
    valid_until_s: u64,
    /// For how many days from now.
    days: f64,
    document: PathBuf,
}

/// Makes it, signs, and says what to do next.
///
/// # Errors
/// [`RenewError`]. The command can be run again after any of them.
pub fn run(dir: &Path, valid_days: u32, json: bool) -> Result<String, RenewError> {
    let renewed = renew(dir, valid_days)?;
    if json {
        // Paths and numbers can't fail to be written.
        return Ok(serde_json::to_string(&renewed).unwrap_or_default() + "\n");
    }
    let mut out = format!(
        "the document has a new number, {}, and keys of the epochs {} to {}: it is valid for {:.1} days from now on. It was written \
         to all folders here.\n\nNext:\n\n",
        renewed.sequence, renewed.epochs.0, renewed.epochs.1, renewed.days
    );
    let _ = write!(
        out,
        "  Copy the document to every machine, over the `network.doc` of each of its nodes, before the old one is over. Nodes take \
         it while they run, within a minute; clients have it from their gateways within some hours:\n\n     {}\n",
        renewed.document.display()
    );
    Ok(out)
}

pub(crate) fn renew(dir: &Path, valid_days: u32) -> Result<Renewed, RenewError> {
    let now = Clock::start().now();
    let authority = state::read_secret(&dir.join(init::AUTHORITY_KEY)).map_err(RekeyError::from)?;
    let authority = SigningKey::from_bytes(&authority);
    let path = dir.join(init::DOCUMENT);
    let wrong = |source: DocumentError| RekeyError::Document {
        path: path.clone(),
        source,
    };
    let bytes = join::read_document(&path).map_err(RekeyError::from)?;
    let document = verify(&bytes, &authority, now).map_err(wrong)?;
    let mut content = document.content().map_err(wrong)?;
    let folders = rekey::folders(dir)?;
    let epochs = *document.epochs();
    let current = document.epoch();
    let first = current.saturating_sub(1).max(epochs.first());
    // As many as the time asked for has, and what all nodes have keys for.
    let length_s = epochs.length().as_secs().max(1);
    let wanted_s = now.as_s() + u64::from(valid_days) * 86_400;
    let last_wanted = u64::from(first) + wanted_s.saturating_sub(epochs.begin(first).as_s()) / length_s;
    let last_possible = u64::from(first) + MAX_EPOCHS as u64 - 1;
    let last = u32::try_from(last_wanted.min(last_possible)).unwrap_or(u32::MAX - 1);
    let mut last = last.max(epochs.last());
    let mut all = Vec::new();
    for node in document.nodes() {
        let next = next_keys(&folders, node, &document, last).map_err(|why| RenewError::NoKeys {
            id: node.id,
            dir: dir.into(),
            why,
        })?;
        last = last.min(epochs.last() + next.count());
        all.push(next);
    }
    for (entry, next) in content.nodes.iter_mut().zip(&all) {
        extend(
            entry,
            next,
            (first - epochs.first()) as usize,
            (last - epochs.last()) as usize,
        );
    }
    content.epoch = first;
    content.valid_from_s = epochs.begin(first).as_s();
    content.valid_until_s = epochs.end(last).as_s();
    content.sequence = document.sequence() + 1;
    let signed = content.sign(&authority).map_err(wrong)?;
    // What nodes would not take is not given to them.
    let renewed = verify(&signed, &authority, now).map_err(wrong)?;
    if !renewed.continues(&document) {
        return Err(wrong(DocumentError::Content(
            "it doesn't continue the one before".into(),
        ))
        .into());
    }
    rekey::write_everywhere(&path, &folders, &signed)?;
    Ok(Renewed {
        sequence: content.sequence,
        epochs: (first, last),
        valid_until_s: content.valid_until_s,
        days: content.valid_until_s.saturating_sub(now.as_s()) as f64 / 86_400.0,
        document: path,
    })
}

/// One that is over can be renewed all the same: then everybody needs the new one at once, but no other keys.
pub(crate) fn verify(
    bytes: &[u8],
    authority: &SigningKey,
    now: mizzle_base::Time,
) -> Result<Document, DocumentError> {
    let authority = authority.verifying_key();
    match Document::verify(bytes, &authority, now, 0) {
        Err(DocumentError::Expired { ago_s }) => {
            let before = now - std::time::Duration::from_secs(ago_s + 1);
            Document::verify(bytes, &authority, before, 0)
        }
        verified => verified,
    }
}

/// The keys of a node for the epochs after those of the document, up to `last`: from its file, else from its seed.
fn next_keys(folders: &[PathBuf], node: &Node, document: &Document, last: u32) -> Result<NextKeys, String> {
    let ours = |folder: &&PathBuf| {
        let state = State::inspect(&folder.join("state"), Kind::Node);
        state.is_ok_and(|state| assemble::id_in(&state).is_ok_and(|id| id == node.id))
    };
    let folder = folders
        .iter()
        .find(ours)
        .ok_or("there is no folder with its identity")?;
    let state = State::inspect(&folder.join("state"), Kind::Node).map_err(|e| e.to_string())?;
    let begin = document.epochs().last() + 1;
    let mut why = String::from("there is no such file, and no seed");
    if state.has(seed::FILE) {
        match Keys::read(&state) {
            Ok(keys) => match keys.check(document, node) {
                Ok(()) => {
                    let mut next = NextKeys::of(&keys, node.id, document).ok_or("its keys are over")?;
                    let count = (last + 1).saturating_sub(begin);
                    if let Some(keys) = keys.ratchet().keys_of(begin, count) {
                        next.sphinx_key = assemble::digits(&keys, |keys| &keys.sphinx);
                        next.exit = assemble::digits(&keys, |keys| &keys.exit);
                        next.mail = assemble::digits(&keys, |keys| &keys.mail);
                    }
                    return Ok(next);
                }
                Err(wrong) => {
                    why = wrong
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("; ")
                }
            },
            Err(wrong) => {
                why = wrong
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            }
        }
    }
    let Some(bytes) = state.read(assemble::NEXT_KEYS).map_err(|e| e.to_string())? else {
        return Err(why);
    };
    let next: NextKeys =
        serde_json::from_slice(&bytes).map_err(|e| format!("the one there can't be read: {e}"))?;
    if next.id != node.id.to_string() || next.epoch != begin || next.count() == 0 {
        return Err(format!(
            "the one there is of another node, or doesn't begin with epoch {begin}: it must be what the node wrote since it has \
             the document of now"
        ));
    }
    if !next.is_signed_by(node, &document.network()) {
        return Err(
            "the one there isn't signed by this node: it was changed on its way, or written by a mizzle of before it signed \
             them; copy it again from the node's machine, and don't trust what lies here"
                .into(),
        );
    }
    Ok(next)
}

/// Without the epochs that are over, and with `more` after the last one.
fn extend(entry: &mut NodeEntry, next: &NextKeys, over: usize, more: usize) {
    let extend = |keys: &mut String, next: &str| {
        *keys = keys.get(over * KEY_DIGITS..).unwrap_or_default().to_owned()
            + next.get(..more * KEY_DIGITS).unwrap_or_default();
    };
    extend(&mut entry.sphinx_key, &next.sphinx_key);
    if let Some(exit) = &mut entry.exit {
        extend(&mut exit.stream_key, &next.exit);
    }
    if let Some(mail) = &mut entry.mail {
        extend(&mut mail.stream_key, &next.mail);
    }
}
