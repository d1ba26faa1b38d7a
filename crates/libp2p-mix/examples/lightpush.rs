//! Hands a message to a lightpush server through the mixnet, which is itself the last hop: nobody else sees the message, and the server
//! doesn't see who sent it. `cargo run -p libp2p-mix --example lightpush`
//!
//! The server here takes any request of the form; what stands in it is Waku's.
#![allow(clippy::print_stdout, reason = "an example talks")]

mod net;

use libp2p::StreamProtocol;
use libp2p_mix::{Destination, RequestOptions};

const LIGHTPUSH: StreamProtocol = StreamProtocol::new("/vac/waku/lightpush/3.0.0");

/// With the varint of its length in front; it has fewer than 128 bytes here.
fn length_prefixed(message: &[u8]) -> Vec<u8> {
    [&[message.len() as u8], message].concat()
}

#[tokio::main]
async fn main() -> net::Result<()> {
    let peers = net::network(5, |config| config).await?;
    let (server, server_node) = &peers[4];
    let mut pushes = server.serve(&LIGHTPUSH, 100, None);
    tokio::spawn(async move {
        while let Some(push) = pushes.next().await {
            println!("the server takes {} bytes", push.body().len());
            // A response: request id "example" (field 1), status code 200 (field 10).
            let response = [&[0x0a, 7][..], b"example", &[0x50, 0xc8, 0x01]].concat();
            let _ = push.answer(&length_prefixed(&response));
        }
    });
    // A request: request id (field 1), topic (20), message with its payload (21).
    let mut request = [&[0x0a, 7][..], b"example"].concat();
    request.extend([0xa2, 0x01, 15]);
    request.extend(b"/waku/2/rs/16/1");
    request.extend([0xaa, 0x01, 7, 0x0a, 5]);
    request.extend(b"hello");
    let (sender, _) = &peers[0];
    let to = Destination::Mix(server_node.endpoint.peer);
    let options = RequestOptions::default().with_surbs(1);
    let response = sender
        .request(&to, &LIGHTPUSH, &length_prefixed(&request), options)
        .await?;
    println!("the sender has its answer: {response:02x?}");
    Ok(())
}
