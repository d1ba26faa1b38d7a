//! Reads a file by its table of keys and collects everything that is wrong, each with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table::{Key, Without};
use super::{Problem, Problems};

/// So many lines that can't be read are listed. A file with more is of another sort altogether.
const MOST_SYNTAX_ERRORS: usize = 20;

/// What reads a value is given: it tells here what is wrong.
pub(super) struct Reader<'a> {
    folder: &'a Path,
    wrong: Vec<(Range<usize>, String)>,
}

impl Reader<'_> {
    /// Tells that the value at `place` is wrong.
    pub(super) fn wrong<T>(&mut self, place: &Spanned<T>, text: impl Into<String>) {
        self.wrong.push((place.span(), text.into()));
    }

    fn other_type(&mut self, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a section",
        };
        self.wrong(value, format!("must be {wanted}, and is {found}"));
    }

    pub(super) fn text<'v>(&mut self, value: &'v Spanned<DeValue<'_>>) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.other_type(value, "a text in quotes");
        }
        text
    }

    pub(super) fn boolean(&mut self, value: &Spanned<DeValue<'_>>) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.other_type(value, "true or false, without quotes");
        }
        found
    }

    pub(super) fn number(&mut self, value: &Spanned<DeValue<'_>>, range: RangeInclusive<u64>) -> Option<u64> {
        let Some(digits) = value.get_ref().as_integer() else {
            self.other_type(value, "a whole number, without quotes");
            return None;
        };
        let found = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let found = found
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| range.contains(n));
        if found.is_none() {
            self.wrong(
                value,
                format!("must be from {} to {}", range.start(), range.end()),
            );
        }
        found
    }

    /// The elements of a list of texts, each read by `one`, which says what is wrong with one.
    pub(super) fn list<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        one: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(elements) = value.get_ref().as_array() else {
            self.other_type(value, "a list in brackets");
            return Vec::new();
        };
        let mut out = Vec::new();
        for element in elements.iter() {
            match self.text(element).map(&one) {
                Some(Ok(one)) => out.push(one),
                Some(Err(why)) => self.wrong(element, why),
                None => {}
            }
        }
        out
    }

    /// A text that `one` reads or says what is wrong with.
    pub(super) fn parsed<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        one: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match one(self.text(value)?) {
            Ok(read) => Some(read),
            Err(why) => {
                self.wrong(value, why);
                None
            }
        }
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        self.parsed(value, |text| {
            let found = choices.iter().find(|(name, _)| *name == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                format!("must be one of {}, and is \"{text}\"", names.join(", "))
            })
        })
    }

    /// A path, relative to the file's folder.
    pub(super) fn path(&mut self, value: &Spanned<DeValue<'_>>) -> Option<PathBuf> {
        let folder = self.folder;
        self.parsed(value, |text| match text {
            "" => Err("must be a path, and is empty".into()),
            text => Ok(folder.join(text)),
        })
    }

    /// The path of a file that must be there.
    pub(super) fn file(&mut self, value: &Spanned<DeValue<'_>>) -> Option<PathBuf> {
        let path = self.path(value)?;
        if path.is_file() {
            return Some(path);
        }
        self.wrong(value, format!("there is no file {}", path.display()));
        None
    }
}

/// What a file said, for checks of keys against each other.
pub(super) struct Said<'t> {
    text: &'t str,
    /// Where each known key of the file stands.
    places: BTreeMap<&'static str, usize>,
    problems: Vec<Problem>,
    /// The file can't be read in whole, so what seems to be missing may be there.
    broken: bool,
}

impl Said<'_> {
    /// Whether the key is in the file.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Tells what is wrong with a key, which need not be there.
    pub(super) fn wrong(&mut self, name: &str, text: impl Into<String>) {
        let line = self.places.get(name).map(|at| line_of(self.text, *at));
        if line.is_some() || !self.broken {
            self.problems.push(Problem {
                line,
                text: text.into(),
            });
        }
    }

    /// All problems, if there are any.
    pub(super) fn finish(mut self, file: &Path) -> Result<(), Problems> {
        // What concerns no line comes last.
        self.problems
            .sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self.problems.dedup();
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(Problems {
            file: file.into(),
            list: self.problems,
        })
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&b| b == b'\n').count()
}

/// All names in a file, with their sections, as far as it can be read.
pub(super) fn names(text: &str) -> BTreeSet<String> {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut names = BTreeSet::new();
    for (name, value) in table.get_ref().iter() {
        match value.get_ref().as_table() {
            Some(section) => names.extend(
                section
                    .keys()
                    .map(|key| format!("{}.{}", name.get_ref(), key.get_ref())),
            ),
            None => drop(names.insert(name.get_ref().to_string())),
        }
    }
    names
}

/// Reads the `text` of the file `path` into `config`.
pub(super) fn read<'t, C>(path: &Path, text: &'t str, keys: &[Key<C>], config: &mut C) -> Said<'t> {
    // A lone name has an empty parent.
    let folder = path.parent().unwrap_or(Path::new(""));
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut said = Said {
        text,
        places: BTreeMap::new(),
        problems: Vec::new(),
        broken: !errors.is_empty(),
    };
    let mut broken_lines = BTreeSet::new();
    let more = errors.len().saturating_sub(MOST_SYNTAX_ERRORS);
    for error in errors.into_iter().take(MOST_SYNTAX_ERRORS) {
        let line = error.span().map(|span| line_of(text, span.start));
        broken_lines.extend(line);
        said.problems.push(Problem {
            line,
            text: error.message().replace('\n', "; "),
        });
    }
    if more > 0 {
        said.problems.push(Problem {
            line: None,
            text: format!("{more} more errors of this sort: is this a mizzle configuration?"),
        });
    }
    let mut reader = Reader {
        folder,
        wrong: Vec::new(),
    };
    defaults(keys, config, &mut reader);
    let mut tell = |at: usize, text: String| {
        let line = line_of(said.text, at);
        // One complaint about a line that can't be read is enough.
        if !broken_lines.contains(&line) {
            said.problems.push(Problem {
                line: Some(line),
                text,
            });
        }
    };
    for (name, at, value) in flatten(keys, table.get_ref(), &mut tell) {
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            tell(at, format!("unknown key `{name}`{}", nearest(keys, &name)));
            continue;
        };
        said.places.insert(key.name, at);
        (key.read)(config, &mut reader, value);
        for (span, why) in reader.wrong.drain(..) {
            tell(span.start, format!("`{name}` {why}"));
        }
    }
    for key in keys {
        if let Without::Refused(example) = key.without
            && !said.has(key.name)
        {
            said.wrong(
                key.name,
                format!(
                    "`{}` is missing: add a line like {} = {example}",
                    key.name,
                    key.split().1
                ),
            );
        }
    }
    said
}

fn defaults<C>(keys: &[Key<C>], config: &mut C, reader: &mut Reader<'_>) {
    for key in keys {
        if let Without::Default(text) = key.without
            && let Ok(value) = DeValue::parse(text)
        {
            (key.read)(config, reader, &value);
        }
    }
    debug_assert!(reader.wrong.is_empty(), "defaults are good: {:?}", reader.wrong);
}

/// Each key with its section's name before it, and where it stands. Tells of sections that there aren't.
fn flatten<'v, 'i, C>(
    keys: &[Key<C>],
    table: &'v DeTable<'i>,
    tell: &mut impl FnMut(usize, String),
) -> Vec<(String, usize, &'v Spanned<DeValue<'i>>)> {
    let mut out = Vec::new();
    for (name, value) in table.iter() {
        let at = name.span().start;
        let Some(section) = value.get_ref().as_table() else {
            let name = name.get_ref().to_string();
            if keys.iter().any(|key| key.split().0 == Some(&name)) {
                tell(
                    at,
                    format!("`{name}` is a section: begin it with a line [{name}]"),
                );
            } else {
                out.push((name, at, value));
            }
            continue;
        };
        let is_section = keys.iter().any(|key| key.split().0 == Some(name.get_ref()));
        if !is_section && !keys.iter().any(|key| key.name == name.get_ref()) {
            let sections: BTreeSet<_> = keys.iter().filter_map(|key| key.split().0).collect();
            let listed: Vec<_> = sections.iter().map(|name| format!("[{name}]")).collect();
            let hint = match listed.as_slice() {
                [] => "this file has no sections".into(),
                _ => format!("there are {}", listed.join(" and ")),
            };
            tell(at, format!("unknown section [{}]; {hint}", name.get_ref()));
            continue;
        }
        if !is_section {
            // A key that is no section: its type is what is wrong.
            out.push((name.get_ref().to_string(), at, value));
            continue;
        }
        for (key, value) in section.iter() {
            out.push((
                format!("{}.{}", name.get_ref(), key.get_ref()),
                key.span().start,
                value,
            ));
        }
    }
    out
}

/// What an unknown name was likely meant to be.
fn nearest<C>(keys: &[Key<C>], name: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let place = |key: &Key<C>| match key.split() {
        (Some(section), name) => format!("`{name}` in the section [{section}]"),
        (None, name) => format!("`{name}` before the first section"),
    };
    // The right name at the wrong place, ...
    if let Some(key) = keys.iter().find(|key| last(key.name) == last(name)) {
        return format!("; write {}", place(key));
    }
    // ... or nearly the right name.
    let distance = |key: &&Key<C>| strsim::damerau_levenshtein(&last(key.name), &last(name));
    match keys.iter().min_by_key(distance) {
        Some(key) if distance(&key) <= 1 + last(name).chars().count() / 3 => {
            format!("; did you mean `{}`?", key.name)
        }
        _ => "; `mizzle config example node` and `mizzle config example client` list all".into(),
    }
}
