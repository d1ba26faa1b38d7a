//! `mizzle bench mailbox`: how many letters a gateway keeps a second, and what a million of them take of disk and memory.
//!
//! What is measured, and how, is in `measure`; here are its arguments, its folder, which it leaves as it was, and its words.

mod measure;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::bench::{BenchError, json};
use crate::mail::text::bytes;
use crate::processes::{Folder, progress, until_interrupted};

use measure::Seen;

/// Of disk for each letter, with some to spare: 4.7 KB were seen.
const NEEDED_FOR_EACH: u64 = 7_000;
/// And for the files of an empty store.
const NEEDED: u64 = 256 << 20;

/// `mizzle bench mailbox`.
#[derive(Clone, Debug, Args)]
pub struct MailboxRun {
    /// Letters of one piece each
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_000_000))]
    pub messages: u64,
    /// On whose disk: a folder in which another is made, and removed again; by default that for temporary files
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the measurement; the text or JSON to print. Ctrl-C ends it in order.
///
/// # Errors
/// When the disk has no room for it or fails, or letters aren't what was kept.
pub async fn run(args: MailboxRun) -> Result<String, BenchError> {
    until_interrupted(measured(&args)).await
}

async fn measured(args: &MailboxRun) -> Result<String, BenchError> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let needed = NEEDED + NEEDED_FOR_EACH * args.messages;
    if let Some(free) = free(&parent)?
        && free < needed
    {
        return Err(BenchError::Process(format!(
            "{} messages need {} for a while, and {} has {}: name a folder on another disk with --dir, or fewer with \
             --messages",
            args.messages,
            bytes(needed),
            parent.display(),
            bytes(free)
        )));
    }
    let folder = Folder(parent.join(format!("mizzle-mailbox-{}", std::process::id())));
    let seen = measure::run(&folder.0, args.messages, progress).await;
    let seen = seen.map_err(|e| BenchError::Process(format!("{}: {e}", folder.0.display())))?;
    Ok(if args.json { json(&seen) } else { text(&seen) })
}

/// Bytes that are free in a folder; `None` where the system doesn't tell.
#[cfg(unix)]
fn free(folder: &Path) -> Result<Option<u64>, BenchError> {
    let found = rustix::fs::statvfs(folder)
        .map_err(|e| BenchError::Process(format!("{} can't be used: {e}", folder.display())))?;
    Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Result<Option<u64>, BenchError> {
    Ok(None)
}

fn text(seen: &Seen) -> String {
    let mut out = format!(
        "{} messages of 4096 bytes in {} mailboxes; this disk syncs 1 MB in {:.1} ms by itself\n\
         kept: {:.0} a second, {} in the worst one; stored after {:.0} ms (median), {:.0} ms (99 of 100), {:.0} ms at most\n\
         on disk: {} when all were kept, {} at most; {} when all were deleted\n",
        seen.messages,
        seen.mailboxes,
        seen.disk_sync_1mb_ms,
        seen.accepted_per_s,
        seen.accepted_per_s_in_the_worst_second,
        seen.stored_p50_ms,
        seen.stored_p99_ms,
        seen.stored_max_ms,
        bytes(seen.disk_bytes),
        bytes(seen.disk_peak_bytes),
        bytes(seen.deleted_disk_bytes),
    );
    let memory = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), bytes);
    let _ = writeln!(
        out,
        "memory of the process at most: {} while they came, {} while they were read\n\
         opened again in {:.2} s, with {} of memory\n\
         read: {:.0} a second, all right; deleted: {:.0} a second",
        memory(seen.resident_peak_bytes),
        memory(seen.read_resident_peak_bytes),
        seen.open_s,
        memory(seen.open_resident_bytes),
        seen.read_per_s,
        seen.deleted_per_s
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(messages: u64, dir: &Path) -> Result<String, BenchError> {
        let args = MailboxRun {
            messages,
            dir: Some(dir.to_owned()),
            json: true,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        runtime.block_on(measured(&args))
    }

    #[test]
    fn some_thousand_are_kept_read_and_deleted_and_nothing_stays() {
        let parent = Folder(std::env::temp_dir().join(format!("mizzle-bench-{}", std::process::id())));
        std::fs::create_dir_all(&parent.0).unwrap();
        let text = run(2_500, &parent.0).unwrap();
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (seen["messages"].as_u64(), seen["mailboxes"].as_u64()),
            (Some(2_500), Some(3))
        );
        for name in [
            "accepted_per_s",
            "stored_p99_ms",
            "read_per_s",
            "deleted_per_s",
            "disk_sync_1mb_ms",
        ] {
            assert!(seen[name].as_f64().is_some_and(|n| n > 0.0), "{name}: {text}");
        }
        assert!(
            seen["disk_bytes"].as_u64().is_some_and(|n| n > 2_500 * 4_096),
            "{text}"
        );
        assert_eq!(std::fs::read_dir(&parent.0).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = run(10, Path::new("/nowhere/at/all")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
