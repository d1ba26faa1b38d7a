//! The SURBs that were handed out and not answered: keys by id, in groups of one request each.
//!
//! The first valid reply of a group wins and the rest of the group is forgotten; so is a group whose asker went away or
//! whose time is over. Bounded: full means that no more requests go out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
    time::Duration,
};

use libp2p::PeerId;
use mizzle_base::Time;
use mizzle_sphinx::{Dialect, ID_LEN, Packet, SurbKeys, recover};
use tokio::sync::oneshot;

use crate::{
    lock,
    message::{self, Reply},
};

type Id = [u8; ID_LEN];

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer.
    Reply(Vec<u8>),
    /// The exit failed.
    Empty,
    /// The first hop cannot be reached, and the packet never left.
    FirstHop,
}

/// What a reply was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It was the first of its request.
    Answered,
    /// The exit's word that it failed, the first of its request.
    Empty,
    /// Nobody waits for it: a later one of its group, or one that took too long.
    Unknown,
    /// It was changed on its way, or is no reply.
    Invalid,
}

/// No room for more SURBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

struct Credential {
    keys: SurbKeys,
    group: u64,
}

struct Group {
    ids: Vec<Id>,
    expires: Time,
    first_hop: PeerId,
    asker: oneshot::Sender<Outcome>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<Id, Credential>,
    groups: HashMap<u64, Group>,
    by_expiry: BTreeSet<(Time, u64)>,
    next: u64,
}

pub(crate) struct Credentials {
    inner: Mutex<Inner>,
    capacity: usize,
    lifetime: Duration,
}

impl Credentials {
    /// At most `capacity` SURBs, some 400 bytes each, each for `lifetime`.
    pub(crate) fn new(capacity: usize, lifetime: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            capacity,
            lifetime,
        }
    }

    /// Takes note of a request's SURBs before it leaves. Answers come out of the receiver, at most one.
    pub(crate) fn register(
        &self,
        now: Time,
        first_hop: PeerId,
        surbs: Vec<(Id, SurbKeys)>,
    ) -> Result<(u64, oneshot::Receiver<Outcome>), Full> {
        let (asker, outcome) = oneshot::channel();
        let mut inner = lock(&self.inner);
        if inner.by_id.len() + surbs.len() > self.capacity {
            return Err(Full);
        }
        let group = inner.next;
        inner.next += 1;
        let ids = surbs.iter().map(|(id, _)| *id).collect();
        inner.by_id.extend(
            surbs
                .into_iter()
                .map(|(id, keys)| (id, Credential { keys, group })),
        );
        let expires = now + self.lifetime;
        inner.by_expiry.insert((expires, group));
        inner.groups.insert(
            group,
            Group {
                ids,
                expires,
                first_hop,
                asker,
            },
        );
        Ok((group, outcome))
    }

    /// A reply came. Its payload is decrypted in place.
    pub(crate) fn arrived(&self, dialect: Dialect, id: &Id, packet: &mut Packet) -> Arrived {
        // Consumed, valid or not: a SURB works once.
        let Some(Credential { keys, group }) = lock(&self.inner).by_id.remove(id) else {
            return Arrived::Unknown;
        };
        if recover(dialect, keys, packet.payload_mut()).is_err() {
            return Arrived::Invalid;
        }
        let (arrived, outcome) = match message::decode_reply(dialect, packet.message()) {
            Ok(Reply::Body(body)) => (Arrived::Answered, Outcome::Reply(body.to_vec())),
            Ok(Reply::Empty) => (Arrived::Empty, Outcome::Empty),
            Err(_) => return Arrived::Invalid,
        };
        // Who asked may have gone this moment.
        let told = self.end(group).is_some_and(|asker| asker.send(outcome).is_ok());
        if told { arrived } else { Arrived::Unknown }
    }

    /// Forgets a request.
    pub(crate) fn forget(&self, group: u64) {
        self.end(group);
    }

    fn end(&self, group: u64) -> Option<oneshot::Sender<Outcome>> {
        let mut inner = lock(&self.inner);
        let Group {
            ids, expires, asker, ..
        } = inner.groups.remove(&group)?;
        inner.by_expiry.remove(&(expires, group));
        ids.iter().for_each(|id| {
            inner.by_id.remove(id);
        });
        Some(asker)
    }

    /// Forgets what is too old; how many SURBs that was.
    pub(crate) fn expire(&self, now: Time) -> usize {
        let due: Vec<u64> = lock(&self.inner)
            .by_expiry
            .iter()
            .take_while(|(expires, _)| *expires <= now)
            .map(|(_, group)| *group)
            .collect();
        let before = self.len();
        due.into_iter().for_each(|group| self.forget(group));
        before.saturating_sub(self.len())
    }

    /// The packets that waited for this peer were given up: tells the askers whose request began there.
    pub(crate) fn first_hop_failed(&self, peer: &PeerId) {
        let inner = lock(&self.inner);
        let mut groups: Vec<u64> = inner
            .groups
            .iter()
            .filter(|(_, g)| g.first_hop == *peer)
            .map(|(group, _)| *group)
            .collect();
        drop(inner);
        groups.sort_unstable();
        for asker in groups.into_iter().filter_map(|group| self.end(group)) {
            let _ = asker.send(Outcome::FirstHop);
        }
    }

    /// SURBs that are out.
    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_base::Rng;
    use mizzle_sphinx::{Hop, MESSAGE_LEN, Peeled, Peeler, SecretKey, Surb, build_surb, use_surb};
    use rand_core::SeedableRng;

    const DIALECT: Dialect = Dialect::Lioness;

    fn surb(rng: &mut Rng, nodes: &[SecretKey; 3], id: Id) -> (Surb, SurbKeys) {
        let keys: Vec<_> = nodes.iter().map(SecretKey::public).collect();
        let hops: Vec<_> = keys
            .iter()
            .map(|key| Hop {
                key,
                address: &[1; 94],
                delay_ms: 0,
            })
            .collect();
        build_surb(DIALECT, rng, &hops, &id).unwrap()
    }

    /// A reply as its maker gets it, all layers off.
    fn reply(nodes: &[SecretKey; 3], surb: Surb, body: &[u8]) -> Packet {
        let mut message = [0; MESSAGE_LEN];
        message::encode_reply(DIALECT, body, 0, &mut message).unwrap();
        let mut packet = Packet::zeroed();
        use_surb(DIALECT, surb, &message, &mut packet);
        for (at, node) in nodes.iter().enumerate() {
            let peeler = Peeler::new(SecretKey::from_bytes(*node.expose_bytes()), DIALECT);
            let peeled = peeler.peel(&mut packet, &mut |_| false).unwrap();
            assert_eq!(matches!(peeled, Peeled::Reply { .. }), at == 2);
        }
        packet
    }

    #[test]
    fn the_first_valid_reply_wins_and_its_group_is_gone() {
        let (mut rng, now) = (Rng::seed_from_u64(1), Time::from_s(1));
        let nodes = [1, 2, 3].map(|n| SecretKey::from_bytes([n; 32]));
        let credentials = Credentials::new(10, Duration::from_secs(60));
        let (surbs, keys): (Vec<_>, Vec<_>) = (1..=3)
            .map(|n| {
                let (surb, keys) = surb(&mut rng, &nodes, [n; 16]);
                (surb, ([n; 16], keys))
            })
            .unzip();
        let (_, mut outcome) = credentials.register(now, PeerId::random(), keys).unwrap();
        let mut replies: Vec<_> = surbs.into_iter().map(|surb| reply(&nodes, surb, b"hi")).collect();
        assert_eq!(
            credentials.arrived(DIALECT, &[9; 16], &mut replies[0]),
            Arrived::Unknown
        );
        replies[0].payload_mut()[100] ^= 1;
        assert_eq!(
            credentials.arrived(DIALECT, &[1; 16], &mut replies[0]),
            Arrived::Invalid
        );
        assert!(outcome.try_recv().is_err(), "a changed reply answers nothing");
        assert_eq!(
            credentials.arrived(DIALECT, &[2; 16], &mut replies[1]),
            Arrived::Answered
        );
        assert_eq!(outcome.try_recv(), Ok(Outcome::Reply(b"hi".to_vec())));
        assert_eq!(
            credentials.arrived(DIALECT, &[3; 16], &mut replies[2]),
            Arrived::Unknown
        );
        assert_eq!(credentials.len(), 0);
    }

    #[test]
    fn an_empty_reply_is_the_exits_failure() {
        let (mut rng, now) = (Rng::seed_from_u64(1), Time::from_s(1));
        let nodes = [1, 2, 3].map(|n| SecretKey::from_bytes([n; 32]));
        let credentials = Credentials::new(10, Duration::from_secs(60));
        let (surb, keys) = surb(&mut rng, &nodes, [1; 16]);
        let (_, mut outcome) = credentials
            .register(now, PeerId::random(), vec![([1; 16], keys)])
            .unwrap();
        let mut packet = reply(&nodes, surb, b"");
        assert_eq!(
            credentials.arrived(DIALECT, &[1; 16], &mut packet),
            Arrived::Empty
        );
        assert_eq!(outcome.try_recv(), Ok(Outcome::Empty));
    }

    #[test]
    fn credentials_are_bounded_expire_and_are_forgotten() {
        let (mut rng, now) = (Rng::seed_from_u64(1), Time::from_s(1));
        let nodes = [1, 2, 3].map(|n| SecretKey::from_bytes([n; 32]));
        let credentials = Credentials::new(2, Duration::from_secs(60));
        let mut register = |n: u8, hop| {
            let (_, keys) = surb(&mut rng, &nodes, [n; 16]);
            credentials.register(now, hop, vec![([n; 16], keys)])
        };
        let (a, b) = (PeerId::random(), PeerId::random());
        let (first, _keep) = register(1, a).unwrap();
        let (_, mut second) = register(2, b).unwrap();
        assert!(register(3, a).is_err());
        credentials.forget(first);
        let (_, mut third) = register(3, a).unwrap();
        credentials.first_hop_failed(&a);
        assert_eq!(third.try_recv(), Ok(Outcome::FirstHop));
        assert_eq!(
            (
                credentials.expire(now + Duration::from_secs(59)),
                credentials.len()
            ),
            (0, 1)
        );
        assert_eq!(
            (
                credentials.expire(now + Duration::from_secs(60)),
                credentials.len()
            ),
            (1, 0)
        );
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
