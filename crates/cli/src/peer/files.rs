//! The files of `mizzle peer`: keys, and the list of nodes, which is watched.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::identity::{Keypair, secp256k1};
use libp2p_mix::pool::BadNode;
use libp2p_mix::{MixNode, Pool, SecretKey};
use mizzle_base::hex;
use zeroize::{Zeroize as _, Zeroizing};

use super::Failure;

/// How often the list of nodes is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Of a list of nodes; more than any pool holds.
const MAX_POOL_BYTES: u64 = 4 << 20;

fn failure(path: &Path, why: impl ToString) -> Failure {
    Failure::File {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// The identity in a file.
pub(super) fn identity(path: &Path) -> Result<Keypair, Failure> {
    let mut bytes = secret(path, |bytes| secp256k1::SecretKey::try_from_bytes(bytes).is_ok())?;
    let key = secp256k1::SecretKey::try_from_bytes(&mut *bytes)
        .map_err(|_| failure(path, "it is not a secp256k1 secret key"))?;
    Ok(secp256k1::Keypair::from(key).into())
}

/// The key of the node's layer in a file.
pub(super) fn mix_key(path: &Path) -> Result<SecretKey, Failure> {
    Ok(SecretKey::from_bytes(*secret(path, |_| true)?))
}

/// 32 bytes in hexadecimal; made if there is no such file.
fn secret(path: &Path, is_key: impl Fn(&mut [u8; 32]) -> bool) -> Result<Zeroizing<[u8; 32]>, Failure> {
    match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => hex::decode(text.trim())
            .map(Zeroizing::new)
            .ok_or_else(|| failure(path, "a key file holds 64 hexadecimal digits")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut bytes = Zeroizing::new([0; 32]);
            loop {
                getrandom::fill(&mut *bytes).map_err(|e| failure(path, e))?;
                // Looking at a key may take it apart.
                let mut copy = *bytes;
                let good = is_key(&mut copy);
                copy.zeroize();
                if good {
                    break;
                }
            }
            let text = Zeroizing::new(hex::encode(&*bytes));
            write_new(path, text.as_bytes()).map_err(|e| failure(path, e))?;
            tracing::info!(path = %path.display(), "made a new key");
            Ok(bytes)
        }
        Err(error) => Err(failure(path, error)),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Fills the pool from the file, and again whenever the file changes, until the process ends. A file that isn't there yet is an
/// empty list.
pub(super) fn watch_pool(path: &Path, pool: Pool) -> Result<(), Failure> {
    let mut last = read(path)?;
    fill(path, last.as_deref().unwrap_or_default(), &pool)?;
    if last.is_none() {
        tracing::warn!(path = %path.display(), "the pool file is not there yet: no node is known");
    }
    let path: PathBuf = path.to_owned();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            match read(&path) {
                Ok(now) if now != last => {
                    // A file that is gone for a moment is being replaced.
                    if let Some(text) = &now
                        && let Err(error) = fill(&path, text, &pool)
                    {
                        tracing::warn!(%error, "the changed pool file is not used");
                    }
                    last = now;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the pool file cannot be read"),
            }
        }
    });
    Ok(())
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failure(path, error)),
        Ok(meta) if meta.len() > MAX_POOL_BYTES => {
            return Err(failure(path, "it is too large for a list of nodes"));
        }
        Ok(_) => {}
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(path, error)),
    }
}

/// Lines that are none are an error; nodes that can't take part are left out.
fn fill(path: &Path, text: &str, pool: &Pool) -> Result<(), Failure> {
    let mut nodes = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.parse::<MixNode>() {
            Ok(node) => nodes.push(node),
            Err(BadNode::Form) => return Err(failure(path, format!("line {}: {}", at + 1, BadNode::Form))),
            Err(why) => {
                pool.refused(why);
                tracing::warn!(line = at + 1, %why, "a node of the pool file is left out");
            }
        }
    }
    pool.set_static(nodes).map_err(|e| failure(path, e))
}
