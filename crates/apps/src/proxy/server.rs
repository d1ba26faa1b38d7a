//! The port: takes connections of programs and gives each to a task of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mizzle_stream::Opener;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::config::{BindError, Config, Counters, count};
use super::connection::{Connection, stopped};
use super::relay::reset_when_dropped;

/// How long to wait when the system has no more sockets for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The port, listening.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    counters: Arc<Counters>,
}

impl Server {
    /// Begins to listen. Programs that connect wait until [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let wrap = |source| BindError {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(wrap)?;
        let address = listener.local_addr().map_err(wrap)?;
        if !is_only_local(address.ip()) {
            tracing::warn!(
                "the proxy listens beyond this machine: whoever reaches it can use it, and what they \
                 send to it crosses the network in the clear"
            );
        }
        Ok(Self {
            listener,
            address,
            config,
            counters: Arc::default(),
        })
    }

    /// Where it listens, with the port that was found.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What happens here, also while [`serve`](Self::serve) runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves programs until `stop` becomes true or its sender is gone.
    ///
    /// Then nobody new is accepted, openings under way fail, and open streams have the configured grace to
    /// end before they are reset.
    pub async fn serve<O>(self, opener: O, mut stop: watch::Receiver<bool>)
    where
        O: Opener,
        O::Stream: AsyncRead + AsyncWrite + Unpin,
    {
        let mut tasks = JoinSet::new();
        let mut full = false;
        loop {
            let local = tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(ended) = tasks.join_next() => {
                    log_panic(ended);
                    continue;
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((local, _)) => local,
                    Err(error) => {
                        // Either that one connection is gone already, or sockets have run out.
                        tracing::warn!(%error, "cannot accept a program's connection");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            if tasks.len() >= self.config.max_connections {
                count(&self.counters.turned_away);
                if !full {
                    tracing::warn!(
                        max = self.config.max_connections,
                        "too many connections to the proxy"
                    );
                }
                full = true;
                reset_when_dropped(&local);
                continue;
            }
            full = false;
            count(&self.counters.accepted);
            let connection = Connection {
                opener: opener.clone(),
                counters: Arc::clone(&self.counters),
                stop: stop.clone(),
                config: self.config.clone(),
            };
            tasks.spawn(connection.run(local));
        }
        drop(self.listener);
        let all_ended = async { while tasks.join_next().await.map(log_panic).is_some() {} };
        if timeout(self.config.grace, all_ended).await.is_err() {
            tracing::debug!(streams = tasks.len(), "resetting the streams that are still open");
        }
        tasks.shutdown().await;
    }
}

/// Whether only this machine reaches the address.
fn is_only_local(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection to the proxy ended by a bug");
    }
}
