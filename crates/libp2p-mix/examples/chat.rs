//! A room where nobody sees who wrote: everybody sends his lines through the mixnet to the peer that keeps the room, and
//! fetches what is new in the same way. `cargo run -p libp2p-mix --example chat`
#![allow(clippy::print_stdout, reason = "an example talks")]

mod net;

use libp2p::StreamProtocol;
use libp2p_mix::{Destination, RequestOptions};

const ROOM: StreamProtocol = StreamProtocol::new("/example/room/1.0.0");

#[tokio::main]
async fn main() -> net::Result<()> {
    let peers = net::network(6, |config| config).await?;
    let (room, room_node) = &peers[0];
    let mut requests = room.serve(&ROOM, 100, None);
    tokio::spawn(async move {
        // Whoever has the room sees lines, and not whose they are.
        let mut lines: Vec<String> = Vec::new();
        while let Some(request) = requests.next().await {
            let said = String::from_utf8_lossy(request.body()).into_owned();
            if !said.is_empty() {
                println!("the room hears: {said}");
                lines.push(said);
            }
            let _ = request.answer(format!("{} lines\n{}", lines.len(), lines.join("\n")).as_bytes());
        }
    });
    let to = Destination::Mix(room_node.endpoint.peer);
    let said = ["is anybody here?", "somebody is", "and who are you?", "somebody"];
    for (at, line) in said.iter().enumerate() {
        let (speaker, _) = &peers[1 + at % 5];
        speaker
            .request(&to, &ROOM, line.as_bytes(), RequestOptions::default())
            .await?;
    }
    let (reader, _) = &peers[5];
    let all = reader.request(&to, &ROOM, b"", RequestOptions::default()).await?;
    println!("\nwhat everybody can read:\n{}", String::from_utf8_lossy(&all));
    Ok(())
}
