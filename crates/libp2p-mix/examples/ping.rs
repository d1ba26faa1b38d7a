//! Pings a peer through the mixnet: it sees the exit, not us. `cargo run -p libp2p-mix --example ping`
#![allow(clippy::print_stdout, reason = "an example talks")]

mod net;

use std::time::Instant;

use libp2p::{StreamProtocol, identity::Keypair, ping};
use libp2p_mix::{Destination, Read, RequestOptions};

const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");

#[tokio::main]
async fn main() -> net::Result<()> {
    // Exits must know how much of a stream is the answer: of a ping, 32 bytes.
    let peers = net::network(5, |config| config.with_read(&PING, Read::Exact(32))).await?;
    // A peer that knows nothing of mixes.
    let target = net::run(net::swarm(
        Keypair::generate_secp256k1(),
        ping::Behaviour::default(),
    )?)
    .await?;
    let (control, _) = &peers[0];
    for _ in 0..3 {
        let mut payload = [0; 32];
        getrandom::fill(&mut payload)?;
        #[expect(clippy::disallowed_methods, reason = "the round trip is what is shown")]
        let begin = Instant::now();
        let to = Destination::Peer(target.clone());
        let reply = control
            .request(&to, &PING, &payload, RequestOptions::default())
            .await?;
        println!(
            "{} after {} ms",
            if reply == payload { "pong" } else { "nonsense" },
            begin.elapsed().as_millis()
        );
    }
    Ok(())
}
