//! The threads: some prove, some check, one looks at the file of members. Each takes from a bounded queue and ends when
//! the last [`Rln`](crate::Rln) is gone.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use futures::channel::oneshot;
use libp2p::PeerId;
use libp2p_mix::spam::{CannotProve, Proof};
use mizzle_sphinx::PACKET_LEN;

use crate::{
    Config, Members, MembersError, lock,
    protocol::{Claim, Core, Order, Own},
};

/// A packet to be proven.
struct Prove {
    order: Order,
    packet: Box<[u8; PACKET_LEN]>,
    answer: oneshot::Sender<Result<Proof, CannotProve>>,
}

/// A packet whose proof is to be checked.
struct Check {
    claim: Claim,
    packet: Box<[u8; PACKET_LEN]>,
    answer: oneshot::Sender<bool>,
    seat: Seat,
}

type Waiting = Arc<Mutex<HashMap<PeerId, usize>>>;

/// One of the few packets of a peer that may wait to be checked: so that whoever sends what proves nothing keeps no
/// room from the others.
struct Seat {
    peer: PeerId,
    waiting: Waiting,
}

impl Seat {
    fn take(waiting: &Waiting, peer: PeerId, most: usize) -> Option<Self> {
        let mut taken = lock(waiting);
        let number = taken.entry(peer).or_default();
        if *number >= most {
            return None;
        }
        *number += 1;
        Some(Self {
            peer,
            waiting: waiting.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.waiting);
        if let Some(number) = taken.get_mut(&self.peer) {
            *number -= 1;
            if *number == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

/// A peer has an eighth of the queue at most.
const SHARE: usize = 8;

enum Job {
    Packet(Prove),
    /// What can be computed ahead under a new list.
    Ahead(Arc<Own>),
}

/// What all clones of an [`Rln`](crate::Rln) share. The threads have only the core, so this ends and they with it.
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    prove: SyncSender<Job>,
    check: SyncSender<Check>,
    /// By peer; no more of them than packets wait.
    waiting: Waiting,
    most_of_a_peer: usize,
    watch: Mutex<Option<mpsc::Sender<()>>>,
}

impl Inner {
    pub(crate) fn start(core: Arc<Core>, config: &Config) -> std::io::Result<Self> {
        let (prove, jobs) = mpsc::sync_channel(config.prove_queue);
        let prover = core.clone();
        workers("rln-prove", config.provers, jobs, move |job| match job {
            Job::Ahead(own) => prover.prove_ahead(&own),
            Job::Packet(job) => {
                // Nobody waits any more: the packet won't be sent, and its number goes back.
                if job.answer.is_canceled() {
                    return prover.give_back(&job.order);
                }
                let order = job.order.clone();
                if let Err(Ok(_unsent)) = job.answer.send(prover.prove(job.order, &job.packet)) {
                    prover.give_back(&order);
                }
            }
        })?;
        let (check, checks) = mpsc::sync_channel(config.verify_queue);
        let checker = core.clone();
        workers("rln-check", config.verifiers, checks, move |job: Check| {
            // If nobody waits any more, the packet is gone already.
            let passes = checker.check(&job.claim, &job.packet);
            drop(job.seat);
            let _ = job.answer.send(passes);
        })?;
        Ok(Self {
            core,
            prove,
            check,
            waiting: Waiting::default(),
            most_of_a_peer: (config.verify_queue / SHARE).max(1),
            watch: Mutex::new(None),
        })
    }

    /// The verdict to come; `None` where too many packets wait, of all or of this peer.
    pub(crate) fn check(
        &self,
        peer: &PeerId,
        claim: Claim,
        packet: &[u8; PACKET_LEN],
    ) -> Option<oneshot::Receiver<bool>> {
        let (answer, verdict) = oneshot::channel();
        let sent = Seat::take(&self.waiting, *peer, self.most_of_a_peer).is_some_and(|seat| {
            let check = Check {
                claim,
                packet: Box::new(*packet),
                answer,
                seat,
            };
            self.check.try_send(check).is_ok()
        });
        if !sent {
            self.core.count(|stats| &mut stats.verify_full);
        }
        sent.then_some(verdict)
    }

    /// The proof to come.
    pub(crate) fn prove(
        &self,
        order: Order,
        packet: &[u8; PACKET_LEN],
    ) -> Result<oneshot::Receiver<Result<Proof, CannotProve>>, CannotProve> {
        let (answer, proof) = oneshot::channel();
        let job = Prove {
            order: order.clone(),
            packet: Box::new(*packet),
            answer,
        };
        if self.prove.try_send(Job::Packet(job)).is_err() {
            self.core.give_back(&order);
            self.core.count(|stats| &mut stats.prove_full);
            return Err(CannotProve("too many packets wait to be proven".to_owned()));
        }
        Ok(proof)
    }

    pub(crate) fn set_members(&self, members: &Members) {
        if let Some(own) = self.core.set_members(members) {
            // If there is no room now, the first packet under this list computes it.
            let _ = self.prove.try_send(Job::Ahead(own));
        }
    }
}

fn workers<J: Send + 'static>(
    name: &str,
    number: usize,
    jobs: Receiver<J>,
    run: impl Fn(J) + Clone + Send + 'static,
) -> std::io::Result<()> {
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..number {
        let (jobs, run) = (jobs.clone(), run.clone());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                // One waits for the next job, and the others for the lock.
                let job = lock(&jobs).recv();
                match job {
                    Ok(job) => run(job),
                    Err(_) => break,
                }
            }
        })?;
    }
    Ok(())
}

/// The shortest time between two looks at a file.
const OFTEN: Duration = Duration::from_millis(100);

pub(crate) fn watch(inner: &Arc<Inner>, path: PathBuf, every: Duration) -> std::io::Result<()> {
    let (stop, stopped) = mpsc::channel();
    let weak = Arc::downgrade(inner);
    thread::Builder::new()
        .name("rln-members".to_owned())
        .spawn(move || look(&weak, &path, every.max(OFTEN), &stopped))?;
    // An earlier watch ends, as its sender is dropped.
    *lock(&inner.watch) = Some(stop);
    Ok(())
}

fn look(inner: &Weak<Inner>, path: &Path, every: Duration, stopped: &Receiver<()>) {
    let mut known = None;
    let mut said = false;
    loop {
        let stamp = std::fs::metadata(path)
            .and_then(|data| Ok((data.modified()?, data.len())))
            .ok();
        if known.is_none() || known != stamp {
            let members = Members::read(path);
            let Some(inner) = inner.upgrade() else { return };
            // A file that isn't there, or not for us, is tried again each time and said once; a bad one is read once.
            known = match &members {
                Err(MembersError::Io(_)) => None,
                _ => stamp,
            };
            match members {
                Ok(members) => {
                    said = false;
                    inner.set_members(&members);
                }
                Err(MembersError::Io(_)) if said => {}
                Err(error) => {
                    said = true;
                    tracing::warn!(file = %path.display(), %error, "the list of members stays as it was");
                    inner.core.count(|stats| &mut stats.members_unreadable);
                }
            }
        }
        if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
