//! What `mizzle client run` does for letters: its mail on disk, and the socket for the other commands.

use std::sync::Arc;

use mizzle_base::{Document, NetworkId, NodeId, Rng};
use mizzle_net::client;
use mizzle_net::clock::Clock;
use mizzle_net::mail::{Config, Cursor, Desk, DiskError, Running};
use mizzle_net::state::{State, StateError};
use mizzle_traffic::draw;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::MAIL_FOLDER;
use crate::control::{self, ClientServices, Listener, Services, SocketError};
use crate::status;

/// The secret to which letters are sealed, in the state directory.
pub const SEAL_KEY: &str = "seal.key";

/// Why a client can't have letters.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// The key, or the state around it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The letters.
    #[error("the letters of this client can't be read: {0}")]
    Disk(#[from] DiskError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// A client's letters and socket, before the client runs.
pub struct Letters {
    desk: Desk,
    listener: Listener,
}

impl Letters {
    /// Reads the letters of this state, and makes the key at the first start; letters that arrive take so many bytes at
    /// most. Blocks on the disk; must be called within a runtime.
    ///
    /// # Errors
    /// [`LettersError`].
    pub fn open(
        state: &State,
        network: NetworkId,
        gateway: NodeId,
        inbox_bytes: u64,
        clock: Clock,
        rng: &mut Rng,
    ) -> Result<Self, LettersError> {
        if !state.has(SEAL_KEY) {
            let secret = Zeroizing::new(draw::bytes(rng));
            state.create_secret(SEAL_KEY, &secret)?;
        }
        let config = Config::new(network, gateway, state.secret(SEAL_KEY)?).with_inbox_bytes(inbox_bytes);
        Ok(Self {
            desk: Desk::open(&state.path().join(MAIL_FOLDER), config, clock)?,
            listener: Listener::bind(state.path())?,
        })
    }

    /// What the client's core is told of the mail of earlier runs (`mizzle_client::Config::with_mail`).
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.desk.cursor()
    }

    /// Takes the mail of a client of this network, which sends nothing while pools are below `min_pool`, and serves commands.
    /// `None` if somebody else has taken the client's mail.
    #[must_use]
    pub fn run(
        self,
        client: &mut client::Running,
        document: Arc<Document>,
        min_pool: u64,
        clock: Clock,
    ) -> Option<Serving> {
        let (incoming, keeper) = client.take_mail()?;
        let (mail, observer) = (self.desk.mail(), client.observer());
        let loops_per_s = document.profile().loop_per_s;
        let watch = status::ClientWatch::start(document, observer.clone(), mail.clone(), min_pool, clock);
        let services = Services {
            status: Arc::new(move || watch.status()),
            client: Some(ClientServices {
                mail,
                loops: Arc::new(move || observer.loops()),
                loops_per_s,
            }),
        };
        let carrier = (client.postman(), keeper);
        let mail = self.desk.run(carrier, incoming, client.admission());
        let (stop, stopped) = watch::channel(false);
        let commands = tokio::spawn(control::serve(self.listener, services, stopped));
        Some(Serving { mail, stop, commands })
    }
}

/// A client's letters and socket, while it runs.
pub struct Serving {
    mail: Running,
    stop: watch::Sender<bool>,
    commands: JoinHandle<()>,
}

impl Serving {
    /// Stops before the client does, so that commands that wait are told at once.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.commands.await;
        drop(self.mail);
    }
}
