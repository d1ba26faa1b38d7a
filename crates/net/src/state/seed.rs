//! The file of a node's ratchet: `epoch ‖ space ‖ seed in hexadecimal ‖ newline`, for its owner alone.
//!
//! When an epoch is over its seed is overwritten. The new file is whole on the disk before the old one, under another name, is
//! filled with zeros and removed: after a crash in between that is done at the next start. A file system that never writes
//! where it wrote before (btrfs, zfs) and a disk that moves blocks (SSD) may keep a copy all the same.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use mizzle_base::hex;
use mizzle_mix::Ratchet;
use zeroize::Zeroizing;

use super::{Folder, State, StateError, access, failed, open_private, write_private};

/// Its name in a node's state.
pub const FILE: &str = "epoch.key";
/// Where the one before is while it is replaced.
const OLD: &str = ".epoch.key.old";
/// The longest text, and one byte that shows that there is more: ten digits, a space, 64 digits, a carriage return, a newline.
const MAX_LEN: usize = 10 + 1 + 64 + 2 + 1;

/// Reads it.
///
/// # Errors
/// [`StateError`]; a file that others can read is refused.
pub fn read(folder: &Folder) -> Result<Ratchet, StateError> {
    let (path, old) = (folder.path().join(FILE), folder.path().join(OLD));
    // Neither is there for a moment while it is replaced, but for the old one.
    let path = if !path.exists() && old.exists() { old } else { path };
    let mut file = open_private(&path)?;
    let mut text = Zeroizing::new([0; MAX_LEN]);
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("read", &path)(e)),
        }
    }
    parse(&text[..len]).ok_or(StateError::NotASeed { path })
}

/// Writes one that was not there before.
///
/// # Errors
/// [`StateError`].
pub fn create(state: &State, ratchet: &Ratchet) -> Result<(), StateError> {
    let path = state.path().join(FILE);
    if path.exists() {
        return Err(failed("write", &path)(std::io::ErrorKind::AlreadyExists.into()));
    }
    write_private(&path, text(ratchet).as_bytes())
}

/// Writes it in place of the one that is there, which is overwritten.
///
/// # Errors
/// [`StateError`]; the new one or the old one is there.
pub fn replace(folder: &Path, ratchet: &Ratchet) -> Result<(), StateError> {
    finish(folder)?;
    let (path, old) = (folder.join(FILE), folder.join(OLD));
    if path.exists() {
        std::fs::rename(&path, &old).map_err(failed("rename", &path))?;
    }
    write_private(&path, text(ratchet).as_bytes())?;
    finish(folder)
}

/// Does what a crash left to be done.
fn finish(folder: &Path) -> Result<(), StateError> {
    let (path, old) = (folder.join(FILE), folder.join(OLD));
    if !old.exists() {
        return Ok(());
    }
    if !path.exists() {
        return std::fs::rename(&old, &path).map_err(failed("rename", &old));
    }
    let overwrite = || {
        let mut file = File::options().read(true).write(true).open(&old)?;
        let len = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        // A seed's file is short; anything else that has its name is not worth more than that.
        file.write_all(&vec![0; len.min(4_096) as usize])?;
        file.sync_all()?;
        std::fs::remove_file(&old)?;
        access::sync_folder(folder)
    };
    overwrite().map_err(failed("erase", &old))
}

fn text(ratchet: &Ratchet) -> Zeroizing<String> {
    // Long enough from the start: one that grows would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_LEN));
    // Writing to a `String` can't fail.
    let _ = std::fmt::Write::write_fmt(&mut *text, format_args!("{} ", ratchet.epoch()));
    let _ = hex::write(&ratchet.expose_seed()[..], &mut *text);
    text.push('\n');
    text
}

fn parse(text: &[u8]) -> Option<Ratchet> {
    let text = str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (epoch, seed) = text.strip_suffix('\r').unwrap_or(text).split_once(' ')?;
    Some(Ratchet::new(
        epoch.parse().ok()?,
        Zeroizing::new(hex::decode(seed)?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Kind;

    fn ratchet(epoch: u32) -> Ratchet {
        let mut ratchet = Ratchet::new(3, Zeroizing::new([7; 32]));
        ratchet.forward_to(epoch);
        ratchet
    }

    #[test]
    fn a_seed_that_is_over_is_gone_from_the_disk_also_after_a_crash_at_any_moment() {
        let dir = std::env::temp_dir().join(format!("mizzle-seed-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let state = State::create(&dir, Kind::Node).unwrap();
        create(&state, &ratchet(3)).unwrap();
        assert!(create(&state, &ratchet(3)).is_err(), "never overwritten");
        let seed = |epoch: u32| text(&ratchet(epoch));
        let on_disk = || {
            let files = std::fs::read_dir(&dir)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            files
                .map(|path| std::fs::read_to_string(path).unwrap())
                .collect::<Vec<_>>()
        };
        let is_there = |epoch: u32| on_disk().iter().any(|text| text.contains(seed(epoch).trim()));
        replace(&dir, &ratchet(4)).unwrap();
        assert_eq!(
            (is_there(3), is_there(4), read(&state).unwrap().epoch()),
            (false, true, 4)
        );
        // Killed before the new one was there.
        std::fs::rename(dir.join(FILE), dir.join(OLD)).unwrap();
        assert_eq!(read(&state).unwrap().epoch(), 4);
        replace(&dir, &ratchet(5)).unwrap();
        assert_eq!((is_there(4), is_there(5)), (false, true));
        // Killed before the old one was gone.
        std::fs::copy(dir.join(FILE), dir.join(OLD)).unwrap();
        replace(&dir, &ratchet(6)).unwrap();
        assert_eq!(
            (is_there(5), is_there(6), dir.join(OLD).exists()),
            (false, true, false)
        );
        for text in [
            "",
            "6",
            "x 00",
            "4294967296 0",
            &format!("6 {}", "0".repeat(63)),
            &seed(6)[..20],
        ] {
            std::fs::write(dir.join(FILE), text).unwrap();
            assert!(matches!(read(&state), Err(StateError::NotASeed { .. })), "{text}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
