//! A client and its programs' streams over real sockets: who refuses it says why, ends are told from breaks in both
//! directions, and nothing waits for ever.

use std::io::ErrorKind;
use std::time::Duration;

use crate::common::{self, EXIT, GATEWAY, Net, verified, within};
use mizzle_base::frame::Refusal;
use mizzle_net::MixStream;
use mizzle_net::client::StartError;
use mizzle_stream::{OpenError, OpenRequest, Opener as _, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

fn bytes(n: usize) -> Vec<u8> {
    (0..n as u32)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(n)
        .collect()
}

/// Both ends of a stream: the program's, and that of the server which the exit connected to.
async fn connected(client: &common::RunningClient) -> (MixStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stream, accepted) = tokio::join!(client.open(at), within("the exit comes", listener.accept()));
    (stream.unwrap(), accepted.unwrap().0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_network_is_told_so() {
    let net = Net::start().await;
    let mut content = net.content.clone();
    content.network = "another".into();
    let another = verified(&content, &net.authority, net.clock);
    let start = Instant::now();
    let refused = net.client_of(GATEWAY, another).await.map(drop);
    assert!(
        matches!(refused, Err(StartError::Refused(Refusal::WrongNetwork))),
        "{refused:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // And the gateway doesn't keep it.
    let gateway = &net.nodes[GATEWAY];
    gateway.counted("client.refused", 1).await;
    assert_eq!(gateway.counters().get("client.admitted"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_ends_by_itself() {
    let net = Net::start().await;
    let client = net.client().await;
    let sent = bytes(60_000);

    // The program first.
    let (mut stream, mut server) = connected(&client).await;
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(
        stream.write(b"x").await.unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    let mut got = Vec::new();
    within("an end", server.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent, "{} bytes", got.len());
    server.write_all(&sent).await.unwrap();
    drop(server);
    got.clear();
    within("an end", stream.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent, "{} bytes", got.len());
    drop(stream);

    // The server first; the program lets go as soon as it has written everything, as the SOCKS door does.
    let (mut stream, mut server) = connected(&client).await;
    server.shutdown().await.unwrap();
    assert_eq!(within("an end", stream.read(&mut [0; 8])).await.unwrap(), 0);
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    got.clear();
    within("an end", server.read_to_end(&mut got))
        .await
        .expect("an end and no reset");
    assert!(got == sent, "{} bytes", got.len());
    client.streams(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte_and_then_the_end() {
    let net = Net::start().await;
    let client = net.client().await;
    let (mut stream, mut server) = connected(&client).await;
    // More than one buffer holds, so that bytes and the end wait in the core while nobody reads.
    let sent = bytes(300 * 1024);
    server.write_all(&sent).await.unwrap();
    drop(server);
    net.nodes[EXIT].counted("reply.sent", 100).await;
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let mut small = [0; 1_000];
        match within("a byte", stream.read(&mut small)).await.unwrap() {
            0 => break,
            n => got.extend_from_slice(&small[..n]),
        }
    }
    assert!(got == sent, "{} bytes", got.len());
    assert_eq!(within("an end", stream.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_on_one_side_is_reset_on_the_other() {
    let net = Net::start().await;
    let client = net.client().await;

    // The program lets go in the middle.
    let (mut stream, mut server) = connected(&client).await;
    stream.write_all(b"half a").await.unwrap();
    within("bytes", server.read_exact(&mut [0; 6])).await.unwrap();
    drop(stream);
    let error = within("a reset", server.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    // The program ended its own direction only.
    let (mut stream, mut server) = connected(&client).await;
    stream.shutdown().await.unwrap();
    assert_eq!(within("an end", server.read(&mut [0; 8])).await.unwrap(), 0);
    drop(stream);
    let mut written = Ok(0);
    while written.is_ok() {
        // Into the buffers until the reset is there.
        written = within("a reset", server.write(&[0; 1_000])).await;
    }

    // The server resets.
    let (mut stream, server) = connected(&client).await;
    server.set_zero_linger().unwrap();
    drop(server);
    let error = within("a reset", stream.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    drop(stream);
    client.streams(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_still_writes_when_its_client_stops_is_told_though_the_server_had_ended() {
    let net = Net::start().await;
    let client = net.client().await;
    let (mut stream, mut server) = connected(&client).await;
    server.shutdown().await.unwrap();
    assert_eq!(within("an end", stream.read(&mut [0; 8])).await.unwrap(), 0);
    // More than all buffers hold.
    let writing = tokio::spawn(async move { stream.write_all(&vec![0; 64 << 20]).await });
    within("bytes", server.read_exact(&mut [0; 1_000])).await.unwrap();
    within("the client stops", client.client.stop()).await;
    let error = within("a word", writing).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_its_program_gives_up_is_forgotten() {
    let mut net = Net::start().await;
    let client = net.client().await;
    // Without the exit an opening takes half a minute to fail.
    net.nodes[EXIT].stop().await;
    let opener = client.client.opener();
    let target = Target::ip([127, 0, 0, 1].into(), 9);
    let pending = tokio::spawn(async move { opener.open(OpenRequest::fresh(target)).await.map(drop) });
    client.streams(1).await;
    pending.abort();
    let start = Instant::now();
    client.streams(0).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_gateway_a_client_says_so_in_time() {
    let mut net = Net::start().await;
    let client = net.client().await;
    net.nodes[GATEWAY].stop().await;
    common::wait_until("the client sees it", || !client.client.snapshot().up).await;
    let start = Instant::now();
    let opened = client.open("127.0.0.1:9".parse().unwrap()).await.map(drop);
    assert_eq!(opened, Err(OpenError::Timeout));
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    // Who stops meanwhile isn't kept waiting.
    let opener = client.client.opener();
    let target = Target::ip([127, 0, 0, 1].into(), 9);
    let pending = tokio::spawn(async move { opener.open(OpenRequest::fresh(target)).await.map(drop) });
    client.streams(1).await;
    within("the client stops", client.client.stop()).await;
    assert_eq!(
        within("an answer", pending).await.unwrap(),
        Err(OpenError::Closed)
    );
}
