//! What comes next over a link, for tests here and of the hosts in `mizzle-net`.

use libp2p_mix::link::{Event, Frame, Receiver};
use std::time::Duration;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

async fn next(receiver: &mut Receiver) -> Event {
    timeout(LIMIT, receiver.recv())
        .await
        .expect("in time")
        .expect("the link is there")
}

/// The next frame, whatever else happens before it.
pub(crate) async fn next_frame(receiver: &mut Receiver) -> Frame {
    loop {
        if let Event::Frame { frame, .. } = next(receiver).await {
            return frame;
        }
    }
}

/// What happens next beside frames.
pub(crate) async fn next_other(receiver: &mut Receiver) -> Event {
    loop {
        match next(receiver).await {
            Event::Frame { .. } => {}
            event => return event,
        }
    }
}
