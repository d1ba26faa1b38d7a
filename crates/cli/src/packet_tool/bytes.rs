//! Bytes in and out: hexadecimal on the command line, files, standard input and output.
//!
//! Errors never repeat what was given: it may be a secret, and the user sees what he wrote.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::Path;

use mizzle_base::hex;
use zeroize::Zeroizing;

use super::ToolError;

/// As much of a file as is read: more than any packet in hexadecimal with its line breaks.
const MAX_FILE_LEN: u64 = 64 << 10;

/// What an argument should hold.
pub(super) struct Wanted {
    /// The argument, as the help writes it.
    pub(super) argument: &'static str,
    /// What it is, with its article.
    pub(super) what: &'static str,
    /// The lengths that it may have, in bytes.
    pub(super) lengths: &'static [usize],
}

impl Wanted {
    /// Reads hexadecimal digits, a file (its bytes as they are or in hexadecimal), or `-` for standard input.
    ///
    /// Digits of a length that isn't wanted may still be the name of a file.
    pub(super) fn read(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, ToolError> {
        let digits = decode(text);
        let content = match &digits {
            _ if text == "-" => read_bounded(&mut io::stdin().lock())
                .map_err(|why| self.wrong(format!("cannot be read: {why}")))?,
            Ok(bytes) if self.lengths.contains(&bytes.len()) => return Ok(bytes.clone()),
            _ => read_file(text.strip_prefix('@').unwrap_or(text).as_ref()).map_err(|why| {
                let no_digits = match &digits {
                    Ok(_) => format!("{} hexadecimal digits, where {}", text.len(), self.size()),
                    Err(why) => format!("not hexadecimal ({why})"),
                };
                self.wrong(format!("{no_digits}, and not a file that can be read ({why})"))
            })?,
        };
        if self.lengths.contains(&content.len()) {
            return Ok(content);
        }
        // Line breaks, as `xxd -p` and editors leave them, are no matter.
        let mut digits = Zeroizing::new(String::with_capacity(content.len()));
        let text = core::str::from_utf8(&content).unwrap_or("not even text");
        text.split_ascii_whitespace()
            .for_each(|part| digits.push_str(part));
        match decode(&digits) {
            Ok(bytes) => self.checked(bytes),
            Err(_) => Err(self.wrong(format!(
                "{}, not {}, and these are not its hexadecimal digits either",
                self.size(),
                content.len()
            ))),
        }
    }

    /// The same for exactly `N` bytes, the only length wanted.
    pub(super) fn read_array<const N: usize>(&self, text: &str) -> Result<Zeroizing<[u8; N]>, ToolError> {
        let bytes = self.read(text)?;
        let mut out = Zeroizing::new([0; N]);
        if bytes.len() != N {
            return Err(self.wrong(format!("needs {N} bytes, not {}", bytes.len())));
        }
        out.copy_from_slice(&bytes);
        Ok(out)
    }

    fn checked(&self, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, ToolError> {
        if self.lengths.contains(&bytes.len()) {
            Ok(bytes)
        } else {
            Err(self.wrong(format!("{}, not {}", self.size(), bytes.len())))
        }
    }

    fn size(&self) -> String {
        let lengths: Vec<_> = self.lengths.iter().map(ToString::to_string).collect();
        format!("{} has {} bytes", self.what, lengths.join(" or "))
    }

    fn wrong(&self, why: String) -> ToolError {
        ToolError::argument(self.argument, why)
    }
}

/// Reads what is to be sent: `hex:DIGITS`, `@FILE`, `-` for standard input, `text:` or plain text.
pub(super) fn message(text: &str) -> Result<Zeroizing<Vec<u8>>, ToolError> {
    let wrong = |why: String| ToolError::argument("--message", why);
    if let Some(digits) = text.strip_prefix("hex:") {
        return decode(digits).map_err(|why| wrong(format!("`hex:` needs hexadecimal digits: {why}")));
    }
    let content = match text.strip_prefix('@') {
        _ if text == "-" => read_bounded(&mut io::stdin().lock()),
        Some(path) => read_file(path.as_ref()),
        None => {
            let text = text.strip_prefix("text:").unwrap_or(text);
            return Ok(Zeroizing::new(text.as_bytes().to_vec()));
        }
    };
    content.map_err(|why| wrong(format!("cannot be read: {why}")))
}

/// Any number of bytes from hexadecimal digits.
///
/// # Errors
/// What is wrong with the digits, without repeating them.
pub(super) fn decode(digits: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    if let Some(at) = digits.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(format!("character {} is not a hexadecimal digit", at + 1));
    }
    if !digits.len().is_multiple_of(2) {
        return Err(format!("an odd number of digits, {}", digits.len()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.as_bytes().chunks_exact(2) {
        let [byte] = core::str::from_utf8(pair)
            .ok()
            .and_then(hex::decode)
            .ok_or("not hexadecimal")?;
        bytes.push(byte);
    }
    Ok(bytes)
}

/// A file that others may read, replaced if there is one.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ToolError> {
    std::fs::write(path, bytes).map_err(|source| ToolError::write(path, source))
}

/// A new file that only its owner may read; one that exists is never touched.
pub(super) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), ToolError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => ToolError::Exists {
            path: path.display().to_string(),
        },
        _ => ToolError::write(path, source),
    })?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| ToolError::write(path, source))
}

/// Standard output. A reader that has gone (`| head`) is no error; a full disk is one.
pub(super) fn print(text: &str) -> Result<(), ToolError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(ToolError::Output(why)),
        _ => Ok(()),
    }
}

fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_bounded(&mut File::open(path)?)
}

fn read_bounded(source: &mut dyn Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it at once, so that no copy stays behind where the buffer grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN as usize + 1));
    source.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(io::Error::other(format!("longer than {MAX_FILE_LEN} bytes")));
    }
    Ok(bytes)
}
