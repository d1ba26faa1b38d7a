//! The list of members, in memory and in a file, and the [tree](Tree) over it.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use rln::prelude::Fr;
use thiserror::Error;

use crate::{Commitment, LimitOutOfRange, MessageLimit, NotAnElement, field};

/// Levels of the tree below its root.
pub(crate) const DEPTH: usize = 20;

/// Places in the tree.
pub const MAX_MEMBERS: usize = 1 << DEPTH;

/// Longest file of members that is read, in bytes: a full tree takes less.
const MAX_FILE_LEN: u64 = 128 << 20;

/// Somebody who may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub commitment: Commitment,
    /// Packets an epoch; the same number must be known to everybody.
    pub limit: MessageLimit,
}

impl Member {
    /// A member with the limit of 100 that the Nim plug-in gives to all.
    #[must_use]
    pub fn new(commitment: Commitment) -> Self {
        Self {
            commitment,
            limit: MessageLimit::default(),
        }
    }

    fn leaf(&self) -> Fr {
        field::pair(self.commitment.element(), Fr::from(self.limit.get()))
    }
}

/// All members in the order of the tree; a place may be empty. The root depends on the order: everybody must have the
/// same list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members(Vec<Option<Member>>);

/// A list that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The file can't be read.
    #[error("the file of members can't be read: {0}")]
    Io(#[from] io::Error),
    /// More than the tree has places.
    #[error("more than {MAX_MEMBERS} members")]
    TooMany,
    /// A line that names no member.
    #[error(
        "line {line}: {why}; a line is a commitment of 64 hex digits and, unless it is 100, a limit; or '-' for nobody"
    )]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        why: LineError,
    },
}

/// What is wrong with a line of a file of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LineError {
    /// The first word.
    #[error(transparent)]
    Commitment(#[from] NotAnElement),
    /// The second word is a number, but no limit.
    #[error(transparent)]
    Limit(#[from] LimitOutOfRange),
    /// The second word is no number, or there is a third.
    #[error("words that mean nothing")]
    Words,
}

impl Members {
    /// # Errors
    /// More than [`MAX_MEMBERS`].
    pub fn new(members: impl IntoIterator<Item = Option<Member>>) -> Result<Self, MembersError> {
        let list: Vec<_> = members.into_iter().take(MAX_MEMBERS + 1).collect();
        if list.len() > MAX_MEMBERS {
            return Err(MembersError::TooMany);
        }
        Ok(Self(list))
    }

    /// Reads the text of a file: one place of the tree a line, a commitment and, unless it is 100, a limit; `-` is an
    /// empty place (a member that left), and what begins with `#` and empty lines are no places.
    ///
    /// # Errors
    /// The first line that is none of these.
    pub fn parse(text: &str) -> Result<Self, MembersError> {
        let mut list = Vec::new();
        for (line, words) in (1..).zip(text.lines().map(str::trim)) {
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            if list.len() == MAX_MEMBERS {
                return Err(MembersError::TooMany);
            }
            let member = match words {
                "-" => None,
                words => Some(parse_member(words).map_err(|why| MembersError::Line { line, why })?),
            };
            list.push(member);
        }
        Ok(Self(list))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Of the file system, and those of [`parse`](Self::parse).
    pub fn read(path: impl AsRef<Path>) -> Result<Self, MembersError> {
        let mut text = String::new();
        let read = File::open(path)?
            .take(MAX_FILE_LEN + 1)
            .read_to_string(&mut text)?;
        if read as u64 > MAX_FILE_LEN {
            return Err(MembersError::TooMany);
        }
        Self::parse(&text)
    }

    /// The places of the tree.
    #[must_use]
    pub fn places(&self) -> &[Option<Member>] {
        &self.0
    }
}

impl fmt::Display for Members {
    /// The text that [`parse`](Self::parse) reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.0 {
            match place {
                Some(member) => writeln!(f, "{} {}", member.commitment, member.limit.get())?,
                None => writeln!(f, "-")?,
            }
        }
        Ok(())
    }
}

fn parse_member(words: &str) -> Result<Member, LineError> {
    let mut words = words.split_ascii_whitespace();
    let commitment = words.next().unwrap_or_default().parse()?;
    let limit = match words.next() {
        Some(word) => MessageLimit::new(word.parse().map_err(|_| LineError::Words)?)?,
        None => MessageLimit::default(),
    };
    if words.next().is_some() {
        return Err(LineError::Words);
    }
    Ok(Member { commitment, limit })
}

/// Where a leaf is: the neighbours of its way to the root, and on which side it goes.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) neighbours: Vec<Fr>,
    pub(crate) sides: Vec<u8>,
}

/// The Merkle tree over the members: the levels from the leaves up, each as far as something is in it.
#[derive(Debug)]
pub(crate) struct Tree {
    members: Members,
    levels: Vec<Vec<Fr>>,
    /// The node over nothing, at each level.
    empty: Vec<Fr>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let empty: Vec<_> =
            std::iter::successors(Some(Fr::default()), |below| Some(field::pair(*below, *below)))
                .take(DEPTH + 1)
                .collect();
        Self {
            members: Members::default(),
            levels: vec![Vec::new(); DEPTH + 1],
            empty,
        }
    }

    /// Takes another list; only what is above changed leaves is hashed.
    pub(crate) fn set(&mut self, members: &Members) {
        let (old, new) = (self.members.places(), members.places());
        let at = |list: &[Option<Member>], place: usize| list.get(place).copied().flatten();
        let mut changed: Vec<usize> = (0..old.len().max(new.len()))
            .filter(|place| at(old, *place) != at(new, *place))
            .collect();
        for place in &changed {
            let leaf = at(new, *place).map_or(Fr::default(), |member| member.leaf());
            self.put(0, *place, leaf);
        }
        for level in 0..DEPTH {
            for place in &mut changed {
                *place >>= 1;
            }
            changed.dedup();
            for place in &changed {
                let node = field::pair(self.node(level, 2 * place), self.node(level, 2 * place + 1));
                self.put(level + 1, *place, node);
            }
        }
        self.members = members.clone();
    }

    fn put(&mut self, level: usize, place: usize, node: Fr) {
        let empty = self.empty[level];
        let nodes = &mut self.levels[level];
        if nodes.len() <= place {
            nodes.resize(place + 1, empty);
        }
        nodes[place] = node;
    }

    fn node(&self, level: usize, place: usize) -> Fr {
        self.levels[level]
            .get(place)
            .copied()
            .unwrap_or(self.empty[level])
    }

    pub(crate) fn root(&self) -> Fr {
        self.node(DEPTH, 0)
    }

    /// The first place that this member has.
    pub(crate) fn find(&self, member: &Member) -> Option<usize> {
        self.members
            .places()
            .iter()
            .position(|place| place.as_ref() == Some(member))
    }

    /// The first place under this commitment, whatever its limit.
    pub(crate) fn find_commitment(&self, commitment: &Commitment) -> Option<usize> {
        self.members
            .places()
            .iter()
            .position(|place| place.is_some_and(|member| member.commitment == *commitment))
    }

    pub(crate) fn way(&self, place: usize) -> Way {
        Way {
            neighbours: (0..DEPTH)
                .map(|level| self.node(level, (place >> level) ^ 1))
                .collect(),
            sides: (0..DEPTH).map(|level| (place >> level & 1) as u8).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn members(n: usize) -> Vec<Option<Member>> {
        (0..n)
            .map(|_| Some(Member::new(Identity::generate().unwrap().commitment())))
            .collect()
    }

    fn root(members: &[Option<Member>]) -> Fr {
        let mut tree = Tree::new();
        tree.set(&Members::new(members.iter().copied()).unwrap());
        tree.root()
    }

    #[test]
    fn every_path_leads_to_the_root_whatever_was_there_before() {
        let mut list = members(5);
        let mut tree = Tree::new();
        assert_eq!(tree.root(), root(&[]));
        for step in 0..4 {
            match step {
                1 => list[2] = None,
                2 => list.truncate(3),
                3 => list.extend(members(4)),
                _ => {}
            }
            tree.set(&Members::new(list.clone()).unwrap());
            assert_eq!(tree.root(), root(&list), "step {step}");
            for (place, member) in list.iter().enumerate() {
                let way = tree.way(place);
                let leaf = member.map_or(Fr::default(), |member| member.leaf());
                let end = way
                    .neighbours
                    .iter()
                    .zip(&way.sides)
                    .fold(leaf, |node, (other, side)| {
                        if *side == 0 {
                            field::pair(node, *other)
                        } else {
                            field::pair(*other, node)
                        }
                    });
                assert_eq!(end, tree.root(), "step {step}, place {place}");
                if let Some(member) = member {
                    assert_eq!(tree.find(member), Some(place));
                }
            }
        }
        // An empty place at the end is the same tree as none.
        list.push(None);
        assert_eq!(root(&list), tree.root());
    }

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let mut list = members(3);
        list[1] = None;
        if let Some(member) = &mut list[2] {
            member.limit = MessageLimit::MAX;
        }
        let members = Members::new(list).unwrap();
        let text = format!("# who may send\n\n{members}");
        assert_eq!(Members::parse(&text).unwrap(), members);
        let commitment = members.places()[0].unwrap().commitment;
        assert_eq!(
            Members::parse(&commitment.to_string()).unwrap().places(),
            [Some(Member::new(commitment))]
        );
        for (wrong, why) in [
            (
                format!("-\n{commitment} 65536"),
                LineError::Limit(LimitOutOfRange(65_536)),
            ),
            (format!("-\n{commitment} 0"), LineError::Limit(LimitOutOfRange(0))),
            (format!("-\n{commitment} many"), LineError::Words),
            (format!("-\n{commitment} 1 2"), LineError::Words),
            ("-\n12".to_owned(), LineError::Commitment(NotAnElement)),
            (
                format!("-\n{}", "f".repeat(64)),
                LineError::Commitment(NotAnElement),
            ),
        ] {
            match Members::parse(&wrong) {
                Err(MembersError::Line { line: 2, why: is }) => assert_eq!(is, why),
                other => panic!("{wrong}: {other:?}"),
            }
        }
        assert!(matches!(
            Members::new(vec![None; MAX_MEMBERS + 1]),
            Err(MembersError::TooMany)
        ));
    }
}
