//! A table of keys: what each is for, what it is if it isn't given, how it is read; and the example made from it.

use std::fmt::Write as _;

use toml::Spanned;
use toml::de::DeValue;

use super::read::Reader;

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
pub(super) fn render_keys<C>(keys: &[Key<C>], head: &str, given: &[(&str, String)]) -> String {
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
        super::client::render(&[])
    } else {
        super::node::render(&[])
    }
}
