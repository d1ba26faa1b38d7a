//! Configuration files of nodes and clients: what can be set, the commented example, and everything that is wrong with a
//! file at once.
//!
//! Each kind of file has one table of keys ([`node`], [`client`]); examples, defaults, parsing and complaints all come
//! from it. What a value means for the network (whether the document lists the node's keys) is left to those who use it.

pub mod client;
pub mod node;
pub mod paths;
mod read;
mod table;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

pub use client::ClientConfig;
pub use node::NodeConfig;
use table::File as _;
pub(crate) use table::quoted;
pub use table::render;

/// Longest file that is read, in bytes; an allow-list of 20,000 clients fits.
const MAX_LEN: u64 = 1 << 20;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Line, from 1; none for what concerns no line.
    pub line: Option<usize>,
    /// What, and what to do.
    pub text: String,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { line: None, text }
    }
}

/// All that is wrong with a file, in the order of its lines.
#[derive(Debug)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().enumerate() {
            if n > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{}", self.file.display())?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {}", problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A file of either kind.
#[derive(Debug)]
pub enum Config {
    /// A node's.
    Node(NodeConfig),
    /// A client's.
    Client(ClientConfig),
}

impl Config {
    /// Reads a file of the kind that its keys show it to be.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = text_of(path)?;
        if is_client(&text) {
            ClientConfig::parse(path, &text).map(Self::Client)
        } else {
            NodeConfig::parse(path, &text).map(Self::Node)
        }
    }
}

/// By `listen`, which a node's file must have, or else by the names that only one of the two kinds has.
fn is_client(text: &str) -> bool {
    let names = read::names(text);
    let (node, client) = (NodeConfig::names(), ClientConfig::names());
    let only = |own: &[&str], other: &[&str]| {
        let of_one = |name: &&String| own.contains(&name.as_str()) && !other.contains(&name.as_str());
        names.iter().filter(of_one).count()
    };
    !names.contains("listen") && only(&client, &node) >= only(&node, &client)
}

fn text_of(path: &Path) -> Result<String, Problems> {
    use std::io::Read as _;
    let problem = |text: String| Problems {
        file: path.into(),
        list: vec![text.into()],
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes))
        .map_err(|e| problem(format!("cannot read it: {e}")))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(problem(format!("longer than {MAX_LEN} bytes: no configuration")));
    }
    String::from_utf8(bytes).map_err(|_| problem("not a text file (UTF-8)".into()))
}
