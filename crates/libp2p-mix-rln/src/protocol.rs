//! What is proven and what is checked, in the order of its cost; no thread, queue or clock of the packets.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

use futures::channel::mpsc;
use libp2p_mix::spam::{CannotProve, Proof};
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;
use rln::{
    prelude::{
        ArkGroth16Backend, CanonicalDeserialize, CanonicalSerialize, Fr, PartialProof, PoseidonHash,
        RLNBuilder, RLNMerkleProof, RLNPartialWitnessInput, RLNProofValues, RLNWitnessInput, Stateless,
        hash_to_field_le,
    },
    protocol::compute_id_secret,
};

use crate::{
    Config, Identity, Member, Members, StartError, Stats,
    codec::{self, RateLimitProof},
    field,
    ids::{Id, Ids, NoId},
    lock,
    members::{Tree, Way},
    nullifiers::{Full, Nullifiers, Seen, Share},
};

/// Spammers that wait for the application; it is told of no more.
const MOST_SPAMMERS: usize = 64;

/// A stream of [`Spammer`]s. At most 64 wait; of those beyond only the number is known.
pub type Spammers = mpsc::Receiver<Spammer>;

/// Somebody who sent two packets under one number, known by his secret.
#[derive(Clone, Debug)]
pub struct Spammer {
    /// He himself: whoever has it can prove that he did, and send in his name.
    pub identity: Identity,
    /// His place in the list of members; `None` where he isn't in it any more.
    pub place: Option<usize>,
    /// The epoch of both packets.
    pub epoch: u64,
}

/// Our place under one list of members.
pub(crate) struct Own {
    way: Way,
    root: [u8; 32],
    /// What all proofs under this list have in common; `None` inside if it can't be computed.
    ahead: OnceLock<Option<PartialProof>>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own(..)")
    }
}

/// A number for a packet of ours, to be proven.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    own: Arc<Own>,
    id: Id,
}

/// A proof that passed the cheap checks.
#[derive(Debug)]
pub(crate) struct Claim {
    epoch: u64,
    proof: RateLimitProof,
}

#[derive(Debug)]
struct Root {
    bytes: [u8; 32],
    /// Once another took its place: until when it counts, from the first look at it on.
    old: bool,
    until: Option<Time>,
}

#[derive(Debug, Default)]
struct Group {
    /// The newest last.
    roots: VecDeque<Root>,
    own: Option<Arc<Own>>,
}

pub(crate) struct Core {
    zkp: rln::prelude::RLN<Stateless, ArkGroth16Backend<PoseidonHash>>,
    identity: Identity,
    member: Member,
    identifier: Fr,
    epoch_s: u64,
    max_epoch_gap: u64,
    root_window: usize,
    root_lifetime: Duration,
    tree: Mutex<Tree>,
    group: Mutex<Group>,
    ids: Mutex<Ids>,
    nullifiers: Mutex<Nullifiers>,
    spammers: Mutex<mpsc::Sender<Spammer>>,
    stats: Mutex<Stats>,
}

impl Core {
    pub(crate) fn new(config: &Config, identity: Identity) -> Result<(Self, Spammers), StartError> {
        let mut identifier = [0; 32];
        match identifier[..31].get_mut(..config.identifier.len()) {
            Some(room) => room.copy_from_slice(config.identifier.as_bytes()),
            None => return Err(StartError::IdentifierTooLong(config.identifier.clone())),
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "which epoch a process starts in; afterwards packets bring their time"
        )]
        let now_s = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let first = match config.unused_identity {
            true => 0,
            false => now_s / config.epoch_s + 1,
        };
        let (told, spammers) = mpsc::channel(MOST_SPAMMERS);
        let core = Self {
            zkp: RLNBuilder::stateless().build(),
            member: Member {
                commitment: identity.commitment(),
                limit: config.limit,
            },
            identity,
            // Shorter than the order.
            identifier: field::from_bytes(&identifier).unwrap_or_default(),
            epoch_s: config.epoch_s,
            max_epoch_gap: config.max_epoch_gap,
            root_window: config.root_window,
            root_lifetime: config.root_lifetime,
            tree: Mutex::new(Tree::new()),
            group: Mutex::default(),
            ids: Mutex::new(Ids::new(config.limit.get(), first)),
            nullifiers: Mutex::new(Nullifiers::new(config.max_nullifiers)),
            spammers: Mutex::new(told),
            stats: Mutex::default(),
        };
        Ok((core, spammers))
    }

    pub(crate) fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    pub(crate) fn count(&self, field: impl FnOnce(&mut Stats) -> &mut u64) {
        *field(&mut lock(&self.stats)) += 1;
    }

    pub(crate) fn root(&self) -> [u8; 32] {
        lock(&self.group).roots.back().map_or([0; 32], |root| root.bytes)
    }

    pub(crate) fn epoch(&self, now: Time) -> u64 {
        now.as_s() / self.epoch_s
    }

    /// Takes another list; returns our place under it where there is a new one.
    pub(crate) fn set_members(&self, members: &Members) -> Option<Arc<Own>> {
        // Packets don't wait for this lock, nor for the hashes under it; another list does.
        let mut tree = lock(&self.tree);
        tree.set(members);
        let bytes = field::to_bytes(&tree.root());
        let own = tree.find(&self.member).map(|place| {
            Arc::new(Own {
                way: tree.way(place),
                root: bytes,
                ahead: OnceLock::new(),
            })
        });
        let mut group = lock(&self.group);
        if group.roots.back().is_some_and(|root| root.bytes == bytes) {
            return None;
        }
        if let Some(last) = group.roots.back_mut() {
            last.old = true;
        }
        group.roots.retain(|root| root.bytes != bytes);
        group.roots.push_back(Root {
            bytes,
            old: false,
            until: None,
        });
        while group.roots.len() > self.root_window {
            group.roots.pop_front();
        }
        group.own.clone_from(&own);
        self.count(|stats| &mut stats.roots);
        own
    }

    fn is_root(&self, now: Time, bytes: &[u8; 32]) -> bool {
        let mut group = lock(&self.group);
        for root in group.roots.iter_mut().filter(|root| root.old) {
            root.until.get_or_insert(now + self.root_lifetime);
        }
        group
            .roots
            .iter()
            .any(|root| root.bytes == *bytes && root.until.is_none_or(|until| now < until))
    }

    // -- Our packets

    /// A number for a packet.
    pub(crate) fn order(&self, now: Time) -> Result<Order, CannotProve> {
        let epoch = self.epoch(now);
        let Some(own) = lock(&self.group).own.clone() else {
            self.count(|stats| &mut stats.not_member);
            return Err(CannotProve("we are not in the list of members".to_owned()));
        };
        let id = lock(&self.ids).take(epoch).map_err(|why| {
            CannotProve(match why {
                NoId::Limit => {
                    self.count(|stats| &mut stats.limit);
                    format!("all {} packets of this epoch are sent", self.member.limit.get())
                }
                NoId::Resting => {
                    self.count(|stats| &mut stats.resting);
                    "nothing is sent in the epoch of a start, nor in one that is over by our clock".to_owned()
                }
            })
        })?;
        Ok(Order { own, id })
    }

    /// Takes a number back whose packet is not sent.
    pub(crate) fn give_back(&self, order: &Order) {
        lock(&self.ids).give_back(order.id);
    }

    /// Computes what all proofs at this place have in common, unless another list came meanwhile.
    pub(crate) fn prove_ahead(&self, own: &Arc<Own>) {
        let current = lock(&self.group)
            .own
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, own));
        if current {
            self.ahead(own);
        }
    }

    fn ahead<'a>(&self, own: &'a Own) -> Option<&'a PartialProof> {
        own.ahead
            .get_or_init(|| {
                let witness = RLNPartialWitnessInput::new()
                    .identity_secret(self.identity.secret())
                    .user_message_limit(Fr::from(self.member.limit.get()))
                    .merkle_proof(merkle_proof(&own.way))
                    .build()
                    .ok()?;
                let partial = self.zkp.generate_partial_proof(&witness).ok()?;
                self.count(|stats| &mut stats.partial);
                Some(partial)
            })
            .as_ref()
    }

    /// Proves a packet under a number that nothing else has. Takes long.
    pub(crate) fn prove(&self, order: Order, packet: &[u8; PACKET_LEN]) -> Result<Proof, CannotProve> {
        self.try_prove(&order, packet).map_err(|why| {
            tracing::warn!(why, "a packet can't be proven");
            self.give_back(&order);
            self.count(|stats| &mut stats.prove_failed);
            CannotProve(why)
        })
    }

    fn try_prove(&self, order: &Order, packet: &[u8; PACKET_LEN]) -> Result<Proof, String> {
        let epoch = codec::epoch_bytes(order.id.epoch);
        let witness = RLNWitnessInput::new_single()
            .identity_secret(self.identity.secret())
            .user_message_limit(Fr::from(self.member.limit.get()))
            .merkle_proof(merkle_proof(&order.own.way))
            .x(hash_to_field_le(packet))
            .external_nullifier(self.external_nullifier(&epoch))
            .message_id(Fr::from(order.id.number))
            .build()
            .map_err(|error| error.to_string())?;
        let ahead = self.ahead(&order.own);
        let (zk, values) = match ahead {
            Some(partial) => self.zkp.finish_proof(partial, &witness),
            None => self.zkp.generate_proof(&witness),
        }
        .map_err(|error| error.to_string())?;
        let RLNProofValues::Single(_) = values else {
            return Err("the circuit is another one".to_owned());
        };
        let mut bytes = [0; 128];
        zk.serialize_compressed(&mut bytes[..])
            .map_err(|error| error.to_string())?;
        let proof = RateLimitProof {
            zk: bytes,
            root: order.own.root,
            epoch,
            x: field::to_bytes(&values.x()),
            y: field::to_bytes(&values.y().unwrap_or_default()),
            nullifier: field::to_bytes(&values.nullifier().unwrap_or_default()),
        };
        self.count(|stats| &mut stats.proven);
        if ahead.is_some() {
            self.count(|stats| &mut stats.finished);
        }
        Ok(Proof {
            bytes: proof.encode(),
            token: token(order),
        })
    }

    /// Whether a packet proven under this token would be accepted for an epoch to come.
    pub(crate) fn is_valid(&self, now: Time, token: &[u8]) -> bool {
        let Some((id, root)) = read_token(token) else {
            return false;
        };
        let age = self.epoch(now).saturating_sub(id.epoch);
        age < self.max_epoch_gap.max(1) && self.is_root(now, &root)
    }

    pub(crate) fn reclaim(&self, token: &[u8]) {
        if let Some((id, _)) = read_token(token)
            && lock(&self.ids).give_back(id)
        {
            self.count(|stats| &mut stats.reclaimed);
        }
    }

    // -- Others' packets

    /// What can be said of a proof at once.
    pub(crate) fn examine(&self, now: Time, proof: &[u8]) -> Option<Claim> {
        let read = RateLimitProof::decode(proof).and_then(|proof| {
            let epoch = codec::epoch_number(&proof.epoch)?;
            Some(Claim { epoch, proof })
        });
        let Some(claim) = read else {
            self.count(|stats| &mut stats.malformed);
            return None;
        };
        let Claim { epoch, proof } = &claim;
        let ours = self.epoch(now);
        if epoch.abs_diff(ours) > self.max_epoch_gap {
            self.count(|stats| &mut stats.wrong_epoch);
            return None;
        }
        if !self.is_root(now, &proof.root) {
            self.count(|stats| &mut stats.wrong_root);
            return None;
        }
        let mut nullifiers = lock(&self.nullifiers);
        nullifiers.forget_before(ours.saturating_sub(self.max_epoch_gap));
        // Costs nothing; another share is believed only when it is proven.
        if nullifiers.look(*epoch, &proof.nullifier, &(proof.x, proof.y)) == Seen::Same {
            self.count(|stats| &mut stats.duplicates);
            return None;
        }
        drop(nullifiers);
        Some(claim)
    }

    /// Whether the packet may pass. Takes a millisecond.
    pub(crate) fn check(&self, claim: &Claim, packet: &[u8; PACKET_LEN]) -> bool {
        let Claim { epoch, proof } = claim;
        if proof.x != field::to_bytes(&hash_to_field_le(packet)) {
            self.count(|stats| &mut stats.wrong_packet);
            return false;
        }
        if !self.proves(proof) {
            self.count(|stats| &mut stats.invalid);
            return false;
        }
        let share = (proof.x, proof.y);
        let seen = lock(&self.nullifiers).insert(*epoch, proof.nullifier, share);
        match seen {
            Ok(Seen::Never) => {
                self.count(|stats| &mut stats.accepted);
                return true;
            }
            Ok(Seen::Same) => self.count(|stats| &mut stats.duplicates),
            Ok(Seen::Other(known)) => {
                self.count(|stats| &mut stats.spam);
                self.expose(*epoch, &known, &share);
            }
            Err(Full) => self.count(|stats| &mut stats.nullifiers_full),
        }
        false
    }

    fn proves(&self, proof: &RateLimitProof) -> bool {
        let element = field::from_bytes;
        let (Ok(zk), Some(x), Some(y), Some(root), Some(nullifier)) = (
            rln::prelude::Proof::deserialize_compressed(&proof.zk[..]),
            element(&proof.x),
            element(&proof.y),
            element(&proof.root),
            element(&proof.nullifier),
        ) else {
            return false;
        };
        let values = RLNProofValues::new_single()
            .x(x)
            .y(y)
            .root(root)
            .nullifier(nullifier)
            .external_nullifier(self.external_nullifier(&proof.epoch))
            .build();
        self.zkp.verify(&zk, &values).unwrap_or(false)
    }

    /// Two points give the line, and where it begins is the secret.
    fn expose(&self, epoch: u64, known: &Share, new: &Share) {
        let point = |(x, y): &Share| Some((field::from_bytes(x)?, field::from_bytes(y)?));
        let (Some(known), Some(new)) = (point(known), point(new)) else {
            return;
        };
        let Ok(secret) = compute_id_secret(known, new) else {
            return;
        };
        let identity = Identity::new(secret);
        let place = lock(&self.tree).find_commitment(&identity.commitment());
        tracing::warn!("a member sent two packets under one number; his secret is known now");
        let spammer = Spammer {
            identity,
            place,
            epoch,
        };
        if lock(&self.spammers).try_send(spammer).is_err() {
            self.count(|stats| &mut stats.spammers_untold);
        }
    }

    fn external_nullifier(&self, epoch: &[u8; 32]) -> Fr {
        // An epoch is shorter than the order.
        field::pair(field::from_bytes(epoch).unwrap_or_default(), self.identifier)
    }
}

fn merkle_proof(way: &Way) -> RLNMerkleProof {
    RLNMerkleProof::new(way.neighbours.clone(), way.sides.clone())
}

/// A number, and the root under which it was used.
fn token(order: &Order) -> Vec<u8> {
    [
        &order.id.epoch.to_le_bytes()[..],
        &order.id.number.to_le_bytes(),
        &order.id.giving.to_le_bytes(),
        &order.own.root,
    ]
    .concat()
}

fn read_token(token: &[u8]) -> Option<(Id, [u8; 32])> {
    let (epoch, rest) = token.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (giving, root) = rest.split_first_chunk()?;
    let id = Id {
        epoch: u64::from_le_bytes(*epoch),
        number: u32::from_le_bytes(*number),
        giving: u64::from_le_bytes(*giving),
    };
    Some((id, root.try_into().ok()?))
}
