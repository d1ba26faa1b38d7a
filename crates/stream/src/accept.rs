//! The exit's front: tells which session a packet belongs to, and lets each session begin once.
//!
//! A client that hears nothing sends another INITIAL with a fresh ephemeral key, fresh SURBs and the same session nonce.
//! So every INITIAL here is of a session that lives (its keys are added to those of the session, until a packet of
//! the client shows which ones it has), of one that is over (dropped: a target must not be opened twice) or new.
//! A replayed INITIAL is one whose attempt the session has already. Nonces of sessions that are over are remembered
//! in two generations of [`GENERATION`]; an INITIAL older than those would have to pass the replay filter of the packet
//! layer too. The design's End to end section.

use std::collections::{BTreeMap, BTreeSet};

use mizzle_base::{Rng, Time};

use crate::seal::{self, Keys, MAC_LEN, Secret};
use crate::session::{DropReason, MAX_BODY, Params, Received, Session};
use crate::tag::{FIRST_TRANSPORT, TAG_LEN, TagKey, TagTable};

/// Nonces in each of two generations: at 100 new sessions a second, ten to twenty minutes; 2 MB each.
const GENERATION: usize = 65_536;

pub(crate) const NONCE_LEN: usize = 16;
/// What stands before SURBs and frames in an INITIAL's payload: nonce, tag key, attempt.
pub(crate) const INITIAL_FRONT: usize = NONCE_LEN + 32 + 1;

/// An INITIAL that opened.
pub struct Initial {
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) tag_key: TagKey,
    pub(crate) attempt: u8,
    pub(crate) keys: Keys,
    /// SURBs and frames.
    pub(crate) content: Vec<u8>,
}

/// What a packet for an exit is.
pub enum Arrival<K> {
    /// A packet of a session: give it to [`Session::receive_tagged`].
    Packet {
        /// Whose.
        session: K,
        /// Its counter.
        counter: u64,
    },
    /// Another attempt of a session that lives: give it to [`Session::retry`].
    Retry {
        /// Whose.
        session: K,
        /// The attempt.
        initial: Initial,
    },
    /// A new session: give it to [`Acceptor::accept`].
    New(Initial),
}

/// Keeps an exit's stream keys and knows its sessions by tag and by nonce. `K` is the exit core's name for a session.
pub struct Acceptor<K> {
    params: Params,
    /// Stream keys with what binds a handshake to each; the likeliest first.
    keys: Vec<(Vec<u8>, Secret)>,
    rng: Rng,
    tags: TagTable<K>,
    live: BTreeMap<[u8; NONCE_LEN], K>,
    nonces: BTreeMap<K, [u8; NONCE_LEN]>,
    over: BTreeSet<[u8; NONCE_LEN]>,
    over_before: BTreeSet<[u8; NONCE_LEN]>,
}

impl<K: Ord + Clone> Acceptor<K> {
    /// An acceptor with the X25519 `secret` for at most so many sessions.
    #[must_use]
    pub fn new(params: Params, secret: [u8; 32], max_sessions: usize, rng: Rng) -> Self {
        Self {
            keys: vec![(params.context.clone(), Secret::new(secret))],
            params,
            rng,
            tags: TagTable::new(max_sessions),
            live: BTreeMap::new(),
            nonces: BTreeMap::new(),
            over: BTreeSet::new(),
            over_before: BTreeSet::new(),
        }
    }

    /// From now on sessions begin with these stream keys, each with its [`Params::context_of`] its epoch, the current one
    /// first. Those that were there before are overwritten. Sessions that live go on: their keys are their own.
    pub fn set_keys(&mut self, keys: impl IntoIterator<Item = (Vec<u8>, [u8; 32])>) {
        let keys = keys.into_iter();
        self.keys = keys
            .map(|(context, secret)| (context, Secret::new(secret)))
            .collect();
    }

    /// Tells what a packet is.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn sort(&mut self, body: &[u8]) -> Result<Arrival<K>, DropReason> {
        let (tag, message) = body.split_first_chunk::<TAG_LEN>().ok_or(DropReason::Size)?;
        if body.len() > MAX_BODY {
            return Err(DropReason::Size);
        }
        if let Some((session, counter)) = self.tags.lookup_remove(tag) {
            return Ok(Arrival::Packet { session, counter });
        }
        let initial = self.open(message)?;
        if let Some(session) = self.live.get(&initial.nonce) {
            return Ok(Arrival::Retry {
                session: session.clone(),
                initial,
            });
        }
        if self.over.contains(&initial.nonce) || self.over_before.contains(&initial.nonce) {
            return Err(DropReason::StaleInitial);
        }
        Ok(Arrival::New(initial))
    }

    fn open(&mut self, message: &[u8]) -> Result<Initial, DropReason> {
        let mut plain = [0; MAX_BODY];
        let rng = &mut self.rng;
        let mut tries = self.keys.iter();
        let opened = tries
            .find_map(|(context, key)| seal::respond(context, key.bytes(), rng, message, &mut plain).ok());
        let (keys, len) = opened.ok_or(DropReason::Handshake)?;
        let payload = &plain[..len];
        let (nonce, rest) = payload.split_first_chunk().ok_or(DropReason::Frame)?;
        let (tag_key, rest) = rest.split_first_chunk().ok_or(DropReason::Frame)?;
        let (&attempt, content) = rest.split_first().ok_or(DropReason::Frame)?;
        if u64::from(attempt) >= FIRST_TRANSPORT {
            return Err(DropReason::Frame);
        }
        let tag_key = TagKey::from_bytes(*tag_key);
        Ok(Initial {
            nonce: *nonce,
            tag_key,
            attempt,
            keys,
            content: content.to_vec(),
        })
    }

    /// Begins the session of an INITIAL under the name `session`.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn accept(
        &mut self,
        now: Time,
        session: K,
        initial: Initial,
    ) -> Result<(Session, Received), DropReason> {
        if self.live.contains_key(&initial.nonce) {
            return Err(DropReason::StaleInitial);
        }
        if !self.tags.register(session.clone(), initial.tag_key.clone()) {
            return Err(DropReason::Full);
        }
        let nonce = initial.nonce;
        self.live.insert(nonce, session.clone());
        self.nonces.insert(session.clone(), nonce);
        let accepted = Session::accept(self.params.clone(), now, initial);
        if accepted.is_err() {
            self.forget(&session);
        }
        accepted
    }

    /// Forgets a session that is over; its INITIALs stay refused.
    pub fn forget(&mut self, session: &K) {
        self.tags.unregister(session);
        if let Some(nonce) = self.nonces.remove(session) {
            self.live.remove(&nonce);
            if self.over.len() >= GENERATION {
                self.over_before = core::mem::take(&mut self.over);
            }
            self.over.insert(nonce);
        }
    }

    /// How many sessions live.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.tags.sessions()
    }
}

/// Shortest message of an INITIAL after its first 8 bytes.
pub(crate) const INITIAL_OVERHEAD: usize = TAG_LEN + seal::KEY_LEN + MAC_LEN;
