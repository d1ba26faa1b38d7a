//! How much of the packets' room programs get: over a lossless and a lossy link, down, up and with many sessions.
//!
//! `cargo test -p mizzle-stream --test throughput -- --nocapture` prints the figures.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

mod model;

use model::*;

/// Room for frames in an exit's packet and in a client's packet without SURBs: what the ceilings count.
const REPLY_ROOM: f64 = 3_941.0;
const FORWARD_ROOM: f64 = 3_940.0;

fn rate(program: &Program) -> f64 {
    let time = program
        .last_at
        .unwrap()
        .since(program.first_at.unwrap())
        .as_secs_f64();
    program.read as f64 / time
}

fn print(name: &str, goodput: f64, ceiling: f64, stats: mizzle_stream::Stats, whole: f64) {
    println!(
        "{name}: {:.0} kB/s, {:.1} % of {:.0} kB/s (whole exchange {:.2} s); new {} again {} repeated {}, lost {} spurious {} of {} packets",
        goodput / 1e3,
        100.0 * goodput / ceiling,
        ceiling / 1e3,
        whole,
        stats.bytes_new,
        stats.bytes_again,
        stats.bytes_repeated,
        stats.packets_lost,
        stats.packets_spurious,
        stats.packets_sent,
    );
}

fn download(seed: u64, loss: f64, bytes: u64) -> (f64, mizzle_stream::Stats) {
    let mut world = World::new(seed, Link::lossy(loss));
    let run = exchange(&mut world, 1, 200, bytes, 200.0);
    assert!(run.done, "seed {seed}: {:?} {:?}", run.client, run.exit);
    let stats = world.exits.values().next().unwrap().stats();
    let ceiling = world.link.slots_per_s * world.link.reply_fraction * 5.0 * REPLY_ROOM;
    let goodput = rate(&run.client[0]);
    print(
        &format!("download, {} % loss", loss * 100.0),
        goodput,
        ceiling,
        stats,
        run.seconds,
    );
    (goodput / ceiling, stats)
}

fn upload(seed: u64, loss: f64, bytes: u64) -> (f64, mizzle_stream::Stats) {
    let mut world = World::new(seed, Link::lossy(loss));
    let run = exchange(&mut world, 1, bytes, 200, 200.0);
    assert!(run.done, "seed {seed}: {:?} {:?}", run.client, run.exit);
    let stats = world.clients[0].stats();
    let link = &world.link;
    let reply_room = FORWARD_ROOM - (5 * mizzle_stream::SURB_LEN) as f64;
    let ceiling =
        link.slots_per_s * ((1.0 - link.reply_fraction) * FORWARD_ROOM + link.reply_fraction * reply_room);
    let goodput = rate(&run.exit[0]);
    print(
        &format!("upload, {} % loss", loss * 100.0),
        goodput,
        ceiling,
        stats,
        run.seconds,
    );
    (goodput / ceiling, stats)
}

#[test]
fn a_download_gets_the_rate_of_the_slots() {
    let (clean, stats) = download(1, 0.0, 10_000_000);
    assert!(clean >= 0.93, "{clean}");
    assert!(stats.packets_spurious * 100 < stats.packets_sent);
    assert!(stats.bytes_again * 100 < stats.bytes_new);
    let (lossy, _) = download(2, 0.23, 10_000_000);
    println!(
        "download with 23 % loss each way: {:.1} % of that without",
        100.0 * lossy / clean
    );
    assert!(lossy / clean >= 0.52, "{lossy} / {clean}");
}

#[test]
fn an_upload_gets_the_rate_of_the_slots() {
    let (clean, stats) = upload(3, 0.0, 10_000_000);
    assert!(clean >= 0.93, "{clean}");
    assert!(stats.packets_spurious * 100 < stats.packets_sent);
    assert!(stats.bytes_again * 100 < stats.bytes_new);
    let (lossy, _) = upload(4, 0.23, 10_000_000);
    println!(
        "upload with 23 % loss each way: {:.1} % of that without",
        100.0 * lossy / clean
    );
    assert!(lossy / clean >= 0.52, "{lossy} / {clean}");
}

#[test]
fn a_hundred_sessions_share_the_slots() {
    for (seed, loss) in [(5, 0.0), (6, 0.1)] {
        let mut world = World::new(seed, Link::lossy(loss));
        let run = exchange(&mut world, 100, 2_000, 100_000, 300.0);
        assert!(
            run.done,
            "seed {seed}: {} of 100",
            run.client.iter().filter(|p| p.read == 100_000).count()
        );
        assert_eq!(run.incoming, 100, "seed {seed}");
        let goodput = 100.0 * 102_000.0 / run.seconds;
        let all = world
            .exits
            .values()
            .map(|s| s.stats())
            .chain(world.ended.iter().copied());
        let (lost, spurious, sent) = all.fold((0, 0, 0), |(l, s, n), stats| {
            (
                l + stats.packets_lost,
                s + stats.packets_spurious,
                n + stats.packets_sent,
            )
        });
        println!("exits: {lost} lost, {spurious} spurious of {sent} packets");
        println!(
            "100 sessions of 100 kB, {} % loss: {:.1} s, {:.0} kB/s",
            loss * 100.0,
            run.seconds,
            goodput / 1e3
        );
    }
}

#[test]
fn a_full_packet_without_surbs_carries_82_percent_of_a_sphinx_packet() {
    let mut world = World::new(7, Link::bulk());
    exchange(&mut world, 1, 3_000_000, 1_000_000, 0.8);
    let now = world.now;
    let mut least = u64::MAX;
    let before = world.clients[0].stats().bytes_new;
    for _ in 0..20 {
        let sent = world.clients[0].stats().bytes_new;
        let mut body = vec![0; FORWARD_BODY];
        world.clients[0].fill(now, &[], &mut body).unwrap();
        least = least.min(world.clients[0].stats().bytes_new - sent);
        world.forward(&body);
    }
    println!(
        "stream bytes in a full packet, least of 20: {least} ({} so far)",
        before
    );
    assert!(least >= 3_779, "{least}");
}
