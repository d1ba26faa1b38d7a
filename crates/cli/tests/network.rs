//! Whole networks in this process, on real sockets, through the library: many streams at once, loss, a slow profile, the
//! network at rest, and its end while it is used.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use clap::Parser as _;
use common::{Home, LIMIT, place};
use mizzle::args::{Cli, Command};
use mizzle::http::{self, Server};
use mizzle::local::{Local, LocalConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

async fn start(home: &Home, flags: &[&str]) -> Local {
    let args = ["mizzle", "up", "--socks", "127.0.0.1:0"].iter().chain(flags);
    let Command::Up(up) = Cli::try_parse_from(args).unwrap().command else {
        panic!("up")
    };
    let config = LocalConfig::new(home.network(), up.profile, &up.network);
    within("the start", Box::pin(Local::start(config))).await.unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

async fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let mut tick = interval(Duration::from_millis(50));
    within(what, async {
        while !reached() {
            tick.tick().await;
        }
    })
    .await;
}

/// What was dropped and isn't expected to be.
fn dropped(local: &Local, expected: &[&str]) -> Vec<(&'static str, u64)> {
    let counters = local.report().counters;
    counters
        .iter()
        .filter(|(name, n)| *n > 0 && name.starts_with("drop.") && !expected.contains(name))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_at_rest_loses_nothing_then_twenty_downloads_are_right_then_its_end_breaks_them() {
    let (_place, home) = (place(), Home::new());
    let local = start(&home, &[]).await;
    wait_until("the client's loops are back", || {
        local.report().client_loops.returned >= 10
    })
    .await;
    // While connections come up a packet may find none. And to a machine with too much else to do its nodes look cut off.
    let starting = ["drop.link_down", "drop.link_full", "drop.isolated"];
    assert_eq!(dropped(&local, &starting), []);
    let report = local.report();
    assert_eq!(report.client_loops.lost, 0);
    let counts = [
        "downlink.filler",
        "reply.filler",
        "slot.loop",
        "slot.drop",
        "uplink.packet",
        "loop.returned",
    ];
    for name in counts {
        assert!(report.counters.get(name) > 0, "{name}: {:?}", report.counters);
    }
    assert_eq!(
        report.counters.get("stream.opened") + report.counters.get("session.begun"),
        0
    );

    let server = Server::start().await.unwrap();
    let (socks, web) = (local.socks(), server.address());
    let mut downloads = JoinSet::new();
    for seed in 0..20 {
        downloads.spawn(http::download(socks, web, 8_000, seed));
    }
    let done = within("twenty downloads", downloads.join_all()).await;
    assert!(
        done.len() == 20 && done.iter().all(|d| d.as_ref().is_ok_and(|d| d.right)),
        "{done:?}"
    );
    assert_eq!(dropped(&local, &starting), []);

    let mut endless = JoinSet::new();
    for seed in 0..5 {
        endless.spawn(http::download(socks, web, 1 << 30, seed));
    }
    let opened = local.report().counters.get("stream.opened") + 5;
    wait_until("the downloads are under way", || {
        local.report().counters.get("stream.opened") >= opened
    })
    .await;
    let start = Instant::now();
    local.stop().await;
    // Open streams have five seconds.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let ended = within("all are told", endless.join_all()).await;
    assert!(ended.len() == 5 && ended.iter().all(Result::is_err), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_right_though_links_lose_packets() {
    let (_place, home) = (place(), Home::new());
    let local = start(&home, &["--drop-percent", "5"]).await;
    let server = Server::start().await.unwrap();
    let download = http::download(local.socks(), server.address(), 50_000, 7);
    assert!(within("a download", download).await.unwrap().right);
    wait_until("losses are counted", || {
        local.report().counters.get("lost_on_purpose") > 0
    })
    .await;
    within("the end", local.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chat_profile_opens_a_stream() {
    let (_place, home) = (place(), Home::new());
    let local = start(
        &home,
        &["--profile", "chat", "--mean-delay-ms", "5", "--transport", "tcp"],
    )
    .await;
    let server = Server::start().await.unwrap();
    let mut program = TcpStream::connect(local.socks()).await.unwrap();
    let [high, low] = server.address().port().to_be_bytes();
    program
        .write_all(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, high, low])
        .await
        .unwrap();
    let mut answer = [0; 12];
    // A slot for it comes every 12.5 s on average: one wait in ten thousand is longer.
    timeout(Duration::from_secs(120), program.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer[..4], [5, 0, 5, 0]);
    drop(program);
    within("the end", local.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_of_a_stopped_network_was_reset_not_ended() {
    let (_place, home) = (place(), Home::new());
    let local = start(&home, &[]).await;
    let server = Server::start().await.unwrap();
    let mut program = TcpStream::connect(local.socks()).await.unwrap();
    let [high, low] = server.address().port().to_be_bytes();
    program
        .write_all(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, high, low])
        .await
        .unwrap();
    let mut answer = [0; 12];
    within("an answer", program.read_exact(&mut answer))
        .await
        .unwrap();
    // The request is only begun: the stream stays open.
    program.write_all(b"GET /").await.unwrap();
    within("the end", local.stop()).await;
    let error = within("a word", program.read(&mut answer)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
