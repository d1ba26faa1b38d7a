//! A client that moves to another gateway while it runs: when its own loses packets or is gone.
//!
//! When it is one to leave the client's core says, where to go [`Moves`]; here hosts are made and what must outlast a restart is
//! kept. Each gateway sees an identity of its own. A gateway that was drawn is asked something first, as by a stranger: one that
//! doesn't answer is no place to go, and a client without any line goes nowhere.

use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use mizzle_base::{Document, NodeId, Rng};
use mizzle_client::{Moves, Why};
use mizzle_net::client::{Home, Mover, Observer};
use mizzle_net::clock::Clock;
use mizzle_net::host;
use mizzle_traffic::draw;
use tokio::sync::watch;

use crate::join::can_be_own;
use crate::member::{self, Join, Source};

/// Between two looks whether the gateway that was drawn answers, in seconds; a half more or less.
const AGAIN_S: f64 = 30.0;

/// What outlasts a restart of a client that moves.
pub trait Keep: Send + Sync {
    /// Gateways were drawn or left.
    ///
    /// # Errors
    /// Why that can't be kept, in words.
    fn drawn(&mut self, moves: &Moves) -> Result<(), String>;

    /// The identity for this gateway, which is its own from here on.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn settle(&mut self, gateway: &NodeId) -> Result<Keypair, String>;
}

/// How a client moves.
pub struct Moving {
    /// The gateways that it may move to; any if there are none.
    pub among: Vec<NodeId>,
    /// How long its own may be away.
    pub after: Duration,
    /// Which were drawn.
    pub moves: Moves,
    /// What is kept of it.
    pub keep: Box<dyn Keep>,
}

impl Moving {
    /// One that answers, to go to from `own`; the draw is kept before it is asked.
    pub(crate) async fn find(
        &mut self,
        document: &Document,
        own: NodeId,
        join: (host::Transport, Clock),
        rng: &mut Rng,
    ) -> Option<NodeId> {
        let (transport, clock) = join;
        let may =
            |id: &NodeId| (self.among.is_empty() || self.among.contains(id)) && can_be_own(document, *id);
        let others: Vec<NodeId> = document.gateways().map(|g| g.id).filter(may).collect();
        let next = self.moves.next(clock.now(), own, others.into_iter(), rng)?;
        if let Err(why) = self.keep.drawn(&self.moves) {
            tracing::warn!("this client stays with its gateway, as it can't keep where it would go: {why}");
            return None;
        }
        let listed = document.node(&next)?;
        let (peer, address) = (listed.peer.parse().ok()?, listed.addresses.first()?.parse().ok()?);
        let answer = member::fetch(&Source { peer, address }, transport, document.sequence(), rng).await;
        answer.is_ok().then_some(next)
    }

    /// The client has left `old`.
    pub(crate) fn left(&mut self, old: NodeId, clock: Clock) {
        self.moves.moved(clock.now(), old);
        if let Err(why) = self.keep.drawn(&self.moves) {
            tracing::warn!("that this client left a gateway could not be kept: {why}");
        }
    }
}

/// Moves a running client whenever its gateway is one to leave. `host` is that of its own gateway; the task hands on each that
/// it makes, and ends with the client.
pub(crate) async fn run(
    (mut mover, observer): (Mover, Observer),
    mut moving: Moving,
    join: Join,
    hosts: Arc<watch::Sender<Option<host::Running>>>,
    clock: Clock,
    mut rng: Rng,
) {
    let mut has_said = false;
    while let Some(why) = mover.wanted().await {
        let seen = observer.snapshot();
        let document = seen.document.unwrap_or_else(|| Arc::clone(&join.document));
        let own = seen.gateway.unwrap_or(join.gateway);
        let next = moving
            .find(&document, own, (join.transport, clock), &mut rng)
            .await;
        // It may have come back meanwhile.
        let Some((next, why)) = next.zip(mover.wants()) else {
            if !has_said && mover.wants().is_some() {
                tracing::warn!(
                    draws_left = moving.moves.draws_left(),
                    "{}: this client would move to another gateway, but none that it may go to answers now",
                    reason(why)
                );
            }
            has_said = true;
            tokio::time::sleep(Duration::from_secs_f64(AGAIN_S * (0.5 + draw::unit(&mut rng)))).await;
            continue;
        };
        has_said = false;
        let home = match moving.keep.settle(&next) {
            Ok(keypair) => {
                let how = (None, moving.after);
                let begun = member::begin(&join, &document, next, keypair, how, &mut rng);
                begun.await.map_err(|e| e.to_string())
            }
            Err(why) => Err(why),
        };
        let (host, core, (link, directory)) = match home {
            Ok(home) => home,
            Err(problem) => {
                tracing::warn!("this client can't move to another gateway: {problem}");
                tokio::time::sleep(Duration::from_secs_f64(AGAIN_S)).await;
                continue;
            }
        };
        moving.left(own, clock);
        let home = Home {
            core,
            gateway: next,
            link,
            directory,
            why,
        };
        let admitted = mover.move_to(home).await;
        if let Some(old) = hosts.send_replace(Some(host)) {
            old.shutdown().await;
        }
        match admitted {
            Ok(()) => tracing::warn!(
                "{}: this client is with another gateway now, and has another mailbox and address. Letters to the old one wait at \
                 the old gateway for up to 30 days: to fetch them name it as `gateway` in the configuration (`mizzle status` says \
                 which it was) and start again",
                reason(why)
            ),
            // It is with that one: the core says when it is one to leave.
            Err(problem) => {
                tracing::warn!("this client moved to another gateway, which doesn't admit it: {problem}")
            }
        }
    }
}

pub(crate) fn reason(why: Why) -> &'static str {
    match why {
        Why::LosesPackets => "the gateway loses packets, or most of what lies behind it does",
        Why::Away => "the gateway is away for long",
    }
}
