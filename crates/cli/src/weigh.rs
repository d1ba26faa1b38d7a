//! `mizzle network weigh`: signs the document again, with weights of the mixes that follow from what all nodes publish of their
//! loops.
//!
//! The rule is [`mizzle_traffic::weights`]; whoever has the same reports gets the same weights.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use mizzle_base::document::Role;
use mizzle_base::{Document, NodeId};
use mizzle_net::clock::{self, Clock};
use mizzle_net::host::{Host, HostConfig, Transport};
use mizzle_net::{directory, identity, state, wire};
use mizzle_traffic::weights::{ONE_PPM, Reports, weights};

use crate::assemble::StartError;
use crate::init;
use crate::join;
use crate::rekey::{RekeyError, folders, write_everywhere};
use crate::show::{count, figure};

#[derive(Debug, serde::Serialize)]
struct Weighed {
    /// Nodes whose reports were heard.
    reports: usize,
    /// Nodes of the document.
    nodes: usize,
    /// The document's number: a new one if weights changed.
    sequence: u64,
    /// Whether they did.
    changed: bool,
    /// Each mix's weight, 1 being an even share.
    weights: BTreeMap<String, f64>,
    /// The document, to be copied to all.
    document: PathBuf,
}

/// Asks the gateways, signs, and says what to do next.
///
/// # Errors
/// [`RekeyError`]. The command can be run again after any of them.
pub async fn run(dir: &Path, json: bool) -> Result<String, RekeyError> {
    let weighed = weigh(dir).await?;
    if json {
        // Names, paths and numbers can't fail to be written.
        return Ok(serde_json::to_string(&weighed).unwrap_or_default() + "\n");
    }
    Ok(next_steps(&weighed))
}

async fn weigh(dir: &Path) -> Result<Weighed, RekeyError> {
    let clock = Clock::start();
    let authority = SigningKey::from_bytes(&*state::read_secret(&dir.join(init::AUTHORITY_KEY))?);
    let path = dir.join(init::DOCUMENT);
    let wrong = |source| RekeyError::Document {
        path: path.clone(),
        source,
    };
    let bytes = join::read_document(&path)?;
    let document = Document::verify(&bytes, &authority.verifying_key(), clock.now(), 0).map_err(wrong)?;
    let mut content = document.content().map_err(wrong)?;
    let reports = heard(&document, clock).await?;
    let found = weights(&document, &reports);
    let mut changed = false;
    for entry in content.nodes.iter_mut().filter(|entry| entry.role == Role::Mix) {
        let weight = NodeId::from_hex(&entry.id)
            .and_then(|id| found.get(&id))
            .map_or(1.0, |ppm| f64::from(*ppm) / f64::from(ONE_PPM));
        // A document that says nothing means the same as one that says 1 everywhere.
        let before = if entry.weight > 0.0 { entry.weight } else { 1.0 };
        changed |= weight != before;
        entry.weight = weight;
    }
    if changed {
        content.sequence = document.sequence() + 1;
        let signed = content.sign(&authority).map_err(wrong)?;
        write_everywhere(&path, &folders(dir)?, &signed)?;
    }
    Ok(Weighed {
        reports: reports.iter().count(),
        nodes: document.nodes().len(),
        sequence: content.sequence,
        changed,
        weights: found
            .iter()
            .map(|(id, ppm)| (id.to_string(), f64::from(*ppm) / f64::from(ONE_PPM)))
            .collect(),
        document: path,
    })
}

/// What all gateways that answer have.
async fn heard(document: &Document, clock: Clock) -> Result<Reports, RekeyError> {
    let mut rng = clock::rng().map_err(StartError::Entropy)?;
    let keypair = identity::generate(&mut rng).ok_or(StartError::NoLink)?;
    let config = HostConfig::new(keypair, Transport::Both).with_directory(wire::asking_link());
    let mut host = Host::start(config).await.map_err(StartError::from)?;
    let mut link = host.directory.take().ok_or(StartError::NoLink)?;
    let mut reports = Reports::default();
    let mut unreached = None;
    for gateway in document.gateways() {
        let Ok(peer) = gateway.peer.parse() else { continue };
        let addresses = gateway.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        match directory::fetch_reports(&mut link, peer, addresses).await {
            Ok(bundle) => drop(reports.add_bundle(&bundle, document, clock.now())),
            Err(why) => unreached = Some(why),
        }
    }
    host.running.shutdown().await;
    match unreached {
        Some(why) if reports.is_empty() => Err(StartError::from(why).into()),
        _ => Ok(reports),
    }
}

fn next_steps(done: &Weighed) -> String {
    let mut out = format!(
        "heard {} of {}\n",
        count(done.reports, "node", "nodes"),
        done.nodes
    );
    let uneven: Vec<_> = done
        .weights
        .iter()
        .filter(|(_, weight)| **weight != 1.0)
        .collect();
    for (node, weight) in &uneven {
        // Writing to a `String` can't fail.
        let _ = writeln!(
            out,
            "  {}  {} of an even share",
            node.get(..8).unwrap_or(node),
            figure(**weight)
        );
    }
    if uneven.is_empty() {
        out.push_str("  all mixes have an even share\n");
    }
    if done.changed {
        let _ = writeln!(
            out,
            "\nThe document has a new number, {}; it was written to all folders here. Copy it to every machine, over the\n\
             `network.doc` of each of its nodes. Nodes take it while they run, within a minute; clients have it from their\n\
             gateways within some hours:\n\n  {}",
            done.sequence,
            done.document.display()
        );
    } else {
        out.push_str("\nThe document says so already.\n");
    }
    out
}
