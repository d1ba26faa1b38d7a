//! `mizzle network show`: a document, verified, as a person reads it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use mizzle_base::Document;
use mizzle_base::document::{DocumentError, MAX_DOCUMENT_LEN, Role};
use mizzle_net::clock::Clock;

use crate::join::{self, JoinError};

/// Why a document isn't shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The authority's key.
    #[error(transparent)]
    Authority(#[from] JoinError),
    /// The document.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// Verifies the document in `file` and describes it.
///
/// # Errors
/// What is wrong with it.
pub fn run(file: &Path, authority: &str, json: bool) -> Result<String, ShowError> {
    let key = join::authority(authority)?;
    let bytes = read(file).map_err(|source| ShowError::Read {
        path: file.display().to_string(),
        source,
    })?;
    let document = Document::verify(&bytes, &key, Clock::start().now(), 0)?;
    if json {
        let signed = bytes.splitn(4, |&b| b == b'\n').nth(3).unwrap_or_default();
        return Ok(format!("{}\n", String::from_utf8_lossy(signed)));
    }
    Ok(text(&document))
}

/// As much as shows that it is too long, whatever the file is.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?
        .take(MAX_DOCUMENT_LEN as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(document: &Document) -> String {
    let profile = document.profile();
    let (from, until) = document.validity();
    let mut out = format!(
        "network `{}` ({})\nsequence {}, key epoch {}, valid from {} to {} (Unix seconds), signature good\n\
         profile `{}`: {} ms a hop, {} payload slots, {} loops, {} drops per s\n\n",
        document.name(),
        document.network(),
        document.sequence(),
        document.epoch(),
        from.as_s(),
        until.as_s(),
        profile.name,
        profile.mean_delay_ms,
        profile.payload_per_s,
        profile.loop_per_s,
        profile.drop_per_s,
    );
    for node in document.nodes() {
        let what = match (node.role, &node.exit) {
            (Role::Mix, _) => format!("mix, layer {}", node.layer),
            (Role::Gateway, None) => format!("gateway, weight {}", node.weight),
            (Role::Gateway, Some(_)) => format!("gateway with exit, weight {}", node.weight),
        };
        let _ = writeln!(
            out,
            "  {what:<30} {}",
            node.addresses.first().map_or("no address", String::as_str)
        );
    }
    out
}
