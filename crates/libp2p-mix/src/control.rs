//! [`Control`]: the handle by which an application sends through the mixnet, and answers.

use std::{fmt, sync::Arc, time::Duration};

use libp2p::{PeerId, StreamProtocol};
use mizzle_base::Counters;
use mizzle_sphinx::PublicKey;
use tokio::sync::oneshot;

use crate::{
    address::Endpoint,
    bytestream::RequestStream,
    entry::{self, Destination, Ready},
    error::{NoRoute, RequestError, SendError},
    exit::{Incoming, Read},
    link, message,
    pool::{MixNode, Pool},
    shared::{Command, Shared, new_rng},
    surbs::Outcome,
};

/// How long a message may wait for room in the queue of the packets' thread.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    surbs: usize,
    timeout: Duration,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            surbs: 4,
            timeout: Duration::from_secs(60),
        }
    }
}

impl RequestOptions {
    /// Ways back, 1 to 5; default 4. The reply comes by all of them and the first one counts, so each more makes up for
    /// nodes that are down, and takes 734 bytes of the request and a packet of others' work.
    #[must_use]
    pub fn with_surbs(mut self, surbs: usize) -> Self {
        self.surbs = surbs;
        self
    }

    pub(crate) fn surbs(self) -> usize {
        self.surbs
    }

    /// How long to wait for the reply; default 60 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What a peer did and dropped since it began.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Counts by name; those of packets that were given up begin with `drop.`. `docs/interop.md` lists them.
    pub counters: Counters,
    /// The links to other nodes.
    pub link: link::Stats,
    /// Nodes in the pool.
    pub pool: usize,
    /// SURBs that are out.
    pub surbs: usize,
}

/// The handle of a mix peer: cheap to clone, usable from any task.
#[derive(Clone)]
pub struct Control {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control(..)")
    }
}

/// Forgets the SURBs of a request that nobody waits for any more.
struct Waiting<'a>(&'a Shared, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.credentials.forget(self.1);
    }
}

impl Control {
    /// Sends `body` to a protocol of `destination` and waits for the reply: the bytes as the destination wrote them. Both
    /// are what stands on the stream, length prefixes included; nothing is added or taken off here.
    ///
    /// Dropping the future gives up the wait; what was sent is sent.
    ///
    /// # Errors
    /// [`RequestError`] says which: not sent, no reply in time, or the exit's word that it got no answer.
    pub async fn request(
        &self,
        destination: &Destination,
        codec: &StreamProtocol,
        body: &[u8],
        options: RequestOptions,
    ) -> Result<Vec<u8>, RequestError> {
        if options.surbs == 0 {
            return Err(RequestError::NoSurbs);
        }
        let Ready {
            to,
            packet,
            hold,
            pending,
        } = self.prepare(destination, codec, body, options.surbs)?;
        let Some((group, outcome)) = pending else {
            return Err(RequestError::NoSurbs);
        };
        let _waiting = Waiting(&self.shared, group);
        let left = None;
        self.hand_over(Command::Send {
            to,
            packet,
            hold,
            left,
        })
        .await?;
        match tokio::time::timeout(options.timeout, outcome).await {
            Ok(Ok(Outcome::Reply(reply))) => Ok(reply),
            Ok(Ok(Outcome::Empty)) => Err(RequestError::EmptyReply),
            Ok(Ok(Outcome::FirstHop)) => Err(SendError::NoRoute(NoRoute::FirstHop).into()),
            // Its SURBs' time was over before its own.
            Ok(Err(_)) if !self.shared.is_closed() => Err(RequestError::TimedOut),
            Ok(Err(_)) => Err(SendError::Closed.into()),
            Err(_) => {
                self.shared.count("request.timed_out");
                Err(RequestError::TimedOut)
            }
        }
    }

    /// Sends `body` to a protocol of `destination`, with no way back. Done when the packet is handed over: it leaves
    /// after its hold, and nobody learns whether it arrived.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was sent.
    pub async fn send(
        &self,
        destination: &Destination,
        codec: &StreamProtocol,
        body: &[u8],
    ) -> Result<(), SendError> {
        let Ready { to, packet, hold, .. } = self.prepare(destination, codec, body, 0)?;
        let left = None;
        self.hand_over(Command::Send {
            to,
            packet,
            hold,
            left,
        })
        .await
    }

    /// [`send`](Self::send), and waits until the first node of the path has the packet: for those who end then. It ends the
    /// stream to that node, so each such message costs one.
    ///
    /// # Errors
    /// [`RequestError::TimedOut`] if the node didn't say so in time; [`RequestError::NotSent`] if it can't be reached
    /// or the packet was dropped before it left.
    pub async fn send_and_wait(
        &self,
        destination: &Destination,
        codec: &StreamProtocol,
        body: &[u8],
        timeout: Duration,
    ) -> Result<(), RequestError> {
        let Ready { to, packet, hold, .. } = self.prepare(destination, codec, body, 0)?;
        let (told, told_of) = oneshot::channel();
        let left_by = async {
            let left = Some(told);
            self.hand_over(Command::Send {
                to,
                packet,
                hold,
                left,
            })
            .await?;
            let first = told_of.await.map_err(|_| SendError::Overloaded)?;
            match self.shared.link.finish(&first).await {
                true => Ok(()),
                false => Err(SendError::NoRoute(NoRoute::FirstHop).into()),
            }
        };
        tokio::time::timeout(timeout, left_by)
            .await
            .unwrap_or(Err(RequestError::TimedOut))
    }

    /// One exchange as a stream, for protocols that are written against streams: what is written is sent as one request
    /// when the stream is closed or first read; reading gives the reply and then the end.
    #[must_use]
    pub fn stream(
        &self,
        destination: Destination,
        codec: StreamProtocol,
        options: RequestOptions,
    ) -> RequestStream {
        RequestStream::new(self.clone(), destination, codec, options)
    }

    fn prepare(
        &self,
        destination: &Destination,
        codec: &StreamProtocol,
        body: &[u8],
        surbs: usize,
    ) -> Result<Ready, SendError> {
        if self.shared.is_closed() {
            return Err(SendError::Closed);
        }
        let mut rng = new_rng().map_err(|_| SendError::Overloaded)?;
        entry::prepare(&self.shared, &mut rng, destination, codec, body, surbs)
    }

    async fn hand_over(&self, command: Command) -> Result<(), SendError> {
        match tokio::time::timeout(QUEUE_TIMEOUT, self.shared.commands.send(command)).await {
            Ok(Ok(())) => {
                self.shared.count("own.accepted");
                Ok(())
            }
            Ok(Err(_)) => Err(SendError::Closed),
            Err(_) => Err(SendError::Overloaded),
        }
    }

    /// Answers a protocol here: requests of packets whose destination is this peer, and, if `direct` says how a
    /// request ends, streams that others open straight to it. At most `queue` requests wait; more fail. A protocol that was
    /// served already goes to the new one.
    #[must_use]
    pub fn serve(&self, codec: &StreamProtocol, queue: usize, direct: Option<Read>) -> Incoming {
        crate::exit::serve(&self.shared, codec, queue, direct)
    }

    /// The known nodes.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Our id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.shared.me
    }

    /// The public key of our layer.
    #[must_use]
    pub fn mix_public_key(&self) -> PublicKey {
        self.shared.key
    }

    /// Where replies find us, once it is known.
    #[must_use]
    pub fn return_address(&self) -> Option<Endpoint> {
        self.shared.return_address()
    }

    /// This peer as others enter it into their pools, once its address is known.
    #[must_use]
    pub fn node(&self) -> Option<MixNode> {
        let endpoint = self.shared.return_address()?;
        Some(MixNode {
            endpoint,
            key: self.shared.key,
        })
    }

    /// The longest body of a message with this codec and so many SURBs, in bytes; `None` if there can be none.
    #[must_use]
    pub fn max_body_len(&self, codec: &StreamProtocol, surbs: usize) -> Option<usize> {
        message::max_request_len(self.shared.dialect, codec.as_ref(), surbs)
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            counters: self.shared.counters(),
            link: self.shared.link.stats(),
            pool: self.shared.pool.len(),
            surbs: self.shared.credentials.len(),
        }
    }
}
