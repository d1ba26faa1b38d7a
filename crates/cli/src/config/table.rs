//! A table of keys: what each is for, what it is if it isn't given, how it is read; and the example made from it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use mizzle_base::hex;
use toml::Spanned;
use toml::de::DeValue;

use super::read::{self, Reader, Said};
use super::{Problems, paths};

/// A kind of file.
pub(super) trait File: Default + 'static {
    /// The comment that it begins with.
    const HEAD: &'static str;
    /// All that can be set.
    const KEYS: &'static [Key<Self>];

    /// Where [`state`] goes.
    fn state(&mut self) -> &mut PathBuf;

    /// Where [`authority`] goes.
    fn authority(&mut self) -> &mut VerifyingKey;

    /// Tells what is wrong with keys beside each other.
    fn check(&self, path: &Path, said: &mut Said<'_>);

    /// All names.
    fn names() -> Vec<&'static str> {
        Self::KEYS.iter().map(|key| key.name).collect()
    }

    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// All that is wrong with it.
    fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let mut config = Self::default();
        let mut said = read::read(path, text, Self::KEYS, &mut config);
        config.check(path, &mut said);
        if !said.has("state") {
            match paths::state(path) {
                Some(state) => *config.state() = state,
                None => said.wrong(
                    "state",
                    "`state` is missing, and there is no home folder to put it in",
                ),
            }
        }
        said.finish(path)?;
        Ok(config)
    }

    /// The file with these keys given, name and TOML value, and all explained.
    fn render(given: &[(&str, String)]) -> String {
        render_keys(Self::KEYS, Self::HEAD, given)
    }
}

/// The key `authority`.
pub(super) const fn authority<C: File>(about: &'static str) -> Key<C> {
    Key {
        name: "authority",
        about,
        without: Without::Refused("\"0000000000000000000000000000000000000000000000000000000000000000\""),
        read: |config, reader, value| {
            let key = |text: &str| {
                hex::decode(text)
                    .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
                    .ok_or_else(|| {
                        "must be an Ed25519 key, 64 hexadecimal digits, as the network's authority publishes it"
                            .into()
                    })
            };
            if let Some(key) = reader.parsed(value, key) {
                *config.authority() = key;
            }
        },
    }
}

/// The key `state`.
pub(super) const fn state<C: File>(about: &'static str) -> Key<C> {
    Key {
        name: "state",
        about,
        without: Without::Nothing("\"state\""),
        read: |config, reader, value| {
            if let Some(path) = reader.path(value) {
                *config.state() = path;
            }
        },
    }
}

/// One key of a file for `C`.
pub(super) struct Key<C> {
    /// As `admission`, or `gateway.admission` for one in a section.
    pub name: &'static str,
    /// For the example: what it is for, in lines.
    pub about: &'static str,
    /// What if it isn't given.
    pub without: Without,
    /// Checks the value and keeps it.
    pub read: fn(&mut C, &mut Reader<'_>, &Spanned<DeValue<'_>>),
}

/// What becomes of a key that isn't given. The text is TOML.
pub(super) enum Without {
    /// It must be; the example has this.
    Refused(&'static str),
    /// This is taken.
    Default(&'static str),
    /// Nothing; the example has this.
    Nothing(&'static str),
}

impl<C> Key<C> {
    /// Section, if any, and name in it.
    pub(super) fn split(&self) -> (Option<&'static str>, &'static str) {
        match self.name.split_once('.') {
            Some((section, name)) => (Some(section), name),
            None => (None, self.name),
        }
    }
}

/// A text as TOML writes it.
#[must_use]
pub(crate) fn quoted(text: &str) -> String {
    // A JSON string is a TOML string; texts can't fail to be written.
    serde_json::to_string(text).unwrap_or_default()
}

/// A file with all keys explained, and these `given`, name and TOML value. The others stand as comments, or where they
/// must be given, with an example.
fn render_keys<C>(keys: &[Key<C>], head: &str, given: &[(&str, String)]) -> String {
    let mut out = String::new();
    comment(&mut out, head);
    let mut section = None;
    for key in keys {
        let (own, name) = key.split();
        out.push('\n');
        if own != section {
            section = own;
            let _ = writeln!(out, "[{}]", own.unwrap_or_default());
        }
        comment(&mut out, key.about);
        let value = given.iter().find(|(given, _)| *given == key.name);
        let _ = match (value, &key.without) {
            (Some((_, value)), _) => writeln!(out, "{name} = {value}"),
            (None, Without::Refused(example)) => writeln!(out, "{name} = {example}"),
            (None, Without::Default(value) | Without::Nothing(value)) => writeln!(out, "# {name} = {value}"),
        };
    }
    out
}

fn comment(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "# {line}");
    }
}

/// The commented example of a node's or a client's file.
#[must_use]
pub fn render(client: bool) -> String {
    if client {
        super::ClientConfig::render(&[])
    } else {
        super::NodeConfig::render(&[])
    }
}
