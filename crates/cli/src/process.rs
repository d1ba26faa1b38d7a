//! What a process has used: CPU time and memory, read from `/proc` where there is one.

use std::time::Duration;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

/// That of this process; `None` where the system doesn't tell.
#[must_use]
pub fn usage() -> Option<Usage> {
    usage_in("self")
}

/// That of another process; `None` where the system doesn't tell, or there is no such process.
#[must_use]
pub fn usage_of(process: u32) -> Option<Usage> {
    usage_in(&process.to_string())
}

fn usage_in(process: &str) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold spaces; the fields after it are numbers. 14 and 15 are ticks of 1/100 s (Linux's
    // USER_HZ, the same on every architecture that we build for).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Usage {
        cpu: Duration::from_millis(ticks * 10),
        resident: field(&status_of(process)?, "VmRSS:")?,
    })
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What is in memory of it, code included.
    pub resident: u64,
    /// What of that is its own, and no part of a file: code, of which a build for tests has several times as much, isn't.
    pub own: u64,
}

/// That of another process; `None` where the system doesn't tell, or there is no such process.
#[must_use]
pub fn memory_of(process: u32) -> Option<Memory> {
    let status = status_of(&process.to_string())?;
    Some(Memory {
        resident: field(&status, "VmRSS:")?,
        own: field(&status, "RssAnon:")?,
    })
}

fn status_of(process: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/status")).ok()
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kb = line.trim().strip_suffix("kB")?;
    Some(kb.trim().parse::<u64>().ok()? * 1_024)
}
