//! Two ends and one clock: what a session promises, with everything between them that can go wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod model;

use std::collections::BTreeSet;
use std::time::Duration;

use mizzle_stream::*;
use model::*;

fn target() -> Target {
    Target::parse("example.org:443").unwrap()
}

/// Steps until `done` or the time is over; all events.
fn run(
    world: &mut World,
    seconds: f64,
    mut done: impl FnMut(&mut World, Side, usize, &Event) -> bool,
) -> (bool, Vec<(Side, usize, Event)>) {
    let start = world.now;
    let mut all = Vec::new();
    while world.now.since(start).as_secs_f64() < seconds {
        world.step();
        for (side, i, event) in world.take_events() {
            let stop = done(world, side, i, &event);
            all.push((side, i, event));
            if stop {
                all.extend(world.take_events());
                return (true, all);
            }
        }
    }
    (false, all)
}

/// A session with one open stream: client, exit's name for it, stream.
fn opened(world: &mut World) -> (usize, usize, StreamId) {
    let client = world.connect();
    let now = world.now;
    let id = world.clients[client].open(now, &target()).unwrap();
    let mut exit = 0;
    let (ok, events) = run(world, 30.0, |world, side, i, event| {
        if let (Side::Exit, Event::Incoming(id, _)) = (side, event) {
            exit = i;
            world.exits.get_mut(&i).unwrap().opened(*id);
        }
        *event == Event::Opened(id)
    });
    assert!(ok, "seed {}: {events:?}", world.seed);
    (client, exit, id)
}

#[test]
fn a_stream_opens_carries_both_ways_and_ends_by_halves() {
    let mut world = World::new(11, Link::bulk());
    let started = world.now;
    let run = exchange(&mut world, 1, 50_000, 300_000, 30.0);
    assert!(run.done, "{:?} {:?}", run.client, run.exit);
    assert_eq!(run.incoming, 1);
    assert!(world.drops.is_empty(), "{:?}", world.drops);
    let opened = run.opened_at[0].unwrap().since(started);
    println!("opened after {opened:?}, all done after {:.2} s", run.seconds);
    assert!(opened < Duration::from_millis(700));
}

#[test]
fn everything_arrives_when_nothing_comes_back_for_the_asking() {
    // An empty stream either way: only the ends travel.
    let mut world = World::new(12, Link::bulk());
    assert!(exchange(&mut world, 1, 0, 0, 30.0).done);
    let mut slow = World::new(
        13,
        Link {
            slots_per_s: 0.2,
            reply_fraction: 0.5,
            due_ms: 3_000.0,
            hop_ms: 1_000.0,
            loss: 0.0,
        },
    );
    let run = exchange(&mut slow, 1, 5_000, 20_000, 900.0);
    println!("chat: 25 kB in {:.0} s", run.seconds);
    assert!(run.done, "{:?} {:?}", run.client, run.exit);
}

#[test]
fn any_one_packet_may_be_lost() {
    let mut world = World::new(14, Link::bulk());
    assert!(exchange(&mut world, 1, 6_000, 20_000, 30.0).done);
    let (forward, reply) = (world.forward_packets, world.reply_packets);
    assert!(forward > 10 && reply > 10);
    let mut slowest = 0.0f64;
    for (direction, count) in [(Side::Client, forward), (Side::Exit, reply)] {
        for lost in 0..count {
            let mut world = World::new(14, Link::bulk());
            world.tamper = Some(Box::new(move |side, n, _| {
                if side == direction && n == lost {
                    Fate::Drop
                } else {
                    Fate::Deliver
                }
            }));
            let run = exchange(&mut world, 1, 6_000, 20_000, 10.0);
            assert!(run.done, "{direction:?} {lost}: {:?} {:?}", run.client, run.exit);
            assert_eq!(run.incoming, 1);
            slowest = slowest.max(run.seconds);
        }
    }
    println!("{forward} + {reply} positions, slowest {slowest:.2} s");
}

#[test]
fn short_exchanges_under_heavy_loss_end_soon() {
    let mut times = Vec::new();
    for seed in 0..100 {
        let mut world = World::new(1_000 + seed, Link::lossy(0.23));
        let run = exchange(&mut world, 1, 500, 15_000, 30.0);
        assert!(run.done, "seed {}: {:?} {:?}", world.seed, run.client, run.exit);
        assert_eq!(run.incoming, 1, "seed {}", world.seed);
        times.push(run.seconds);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "500 B up, 15 kB down, 23 % loss: median {:.2} s, 95 % {:.2} s, all {:.2} s",
        times[50], times[95], times[99]
    );
}

#[test]
fn damaged_doubled_and_delayed_packets_have_no_effect() {
    for seed in 0..12u64 {
        let mut world = World::new(2_000 + seed, Link::bulk());
        world.tamper = Some(Box::new(move |_, n, body| {
            let x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            match (n + seed) % 7 {
                0 => return Fate::Twice,
                1 => {
                    let at = x as usize % body.len();
                    body[at] ^= 1 << (x >> 20 & 7);
                }
                2 => body.truncate(x as usize % body.len()),
                3 if x % 4 == 0 => body.extend_from_slice(&[0; 200]),
                _ => {}
            }
            Fate::Deliver
        }));
        let run = exchange(&mut world, 1, 40_000, 100_000, 60.0);
        assert!(run.done, "seed {seed}: {:?} {:?}", run.client, run.exit);
        assert_eq!(run.incoming, 1);
        assert_eq!(world.exits.len(), 1);
        let names: Vec<_> = world.drops.iter().map(|(r, n)| (r.name(), n)).collect();
        println!("{names:?}");
        assert!(
            world.drops.contains_key(&DropReason::Replay) && world.drops.contains_key(&DropReason::Decrypt)
        );
        assert!(!world.drops.contains_key(&DropReason::Protocol));
    }
}

#[test]
fn packets_of_another_session_have_no_effect() {
    let mut world = World::new(21, Link::bulk());
    let (a, exit_a, _) = opened(&mut world);
    let (b, exit_b, _) = opened(&mut world);
    // Each end's packet to the other session's peer, as if a SURB or a tag were mixed up.
    let now = world.now;
    let mut body = vec![0; REPLY_BODY];
    world
        .exits
        .get_mut(&exit_a)
        .unwrap()
        .fill(now, &[], &mut body)
        .unwrap();
    let before = world.clients[b].stats();
    assert_eq!(world.clients[b].receive(now, &body), Err(DropReason::Decrypt));
    assert_eq!(world.clients[b].stats(), before);
    let mut body = vec![0; FORWARD_BODY];
    world.clients[a].fill(now, &[], &mut body).unwrap();
    let exit = world.exits.get_mut(&exit_b).unwrap();
    assert_eq!(exit.receive_tagged(now, 5_000, &body), Err(DropReason::Decrypt));
    opened(&mut world);
}

#[test]
fn a_replayed_initial_opens_nothing() {
    let mut world = World::new(22, Link::bulk());
    let kept = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let keep = kept.clone();
    world.tamper = Some(Box::new(move |side, _, body| {
        if side == Side::Client {
            keep.borrow_mut().push(body.clone());
        }
        Fate::Deliver
    }));
    let (client, _, _) = opened(&mut world);
    let initial = kept.borrow()[0].clone();
    world.forward(&initial);
    assert_eq!(world.drops.get(&DropReason::StaleInitial), Some(&1));
    let now = world.now;
    world.clients[client].close(now);
    let (ok, _) = run(&mut world, 30.0, |_, side, _, event| {
        side == Side::Exit && matches!(event, Event::Closed(_))
    });
    assert!(ok && world.exits.is_empty() && world.acceptor.sessions() == 0);
    let all = kept.borrow().clone();
    for body in all {
        world.forward(&body);
    }
    assert!(world.exits.is_empty());
    assert!(world.drops[&DropReason::StaleInitial] >= 2, "{:?}", world.drops);
}

#[test]
fn lost_initials_and_answers_open_the_target_once() {
    // Nothing of the first attempts arrives, or only their answers are lost, or the answers come late.
    for (seed, direction, first) in [
        (31, Side::Client, 3),
        (32, Side::Exit, 7),
        (33, Side::Exit, 12),
        (34, Side::Client, 6),
    ] {
        let mut world = World::new(seed, Link::bulk());
        world.tamper = Some(Box::new(move |side, n, _| {
            if side == direction && n < first {
                Fate::Drop
            } else {
                Fate::Deliver
            }
        }));
        let run = exchange(&mut world, 1, 3_000, 10_000, 30.0);
        assert!(run.done, "seed {seed}: {:?} {:?}", run.client, run.exit);
        assert_eq!((run.incoming, world.exits.len()), (1, 1), "seed {seed}");
        println!("seed {seed}: done after {:.2} s", run.seconds);
    }
    // Slow paths and slots: several attempts live at a time, and answers to all of them arrive.
    for seed in 0..20 {
        let link = Link {
            hop_ms: 300.0,
            due_ms: 400.0,
            ..Link::lossy(0.1)
        };
        let hasty = Link::bulk().params();
        let mut world = World::with_exit(3_000 + seed, link, hasty.clone());
        let client = world.connect_with(hasty);
        let now = world.now;
        let id = world.clients[client].open(now, &target()).unwrap();
        let mut incoming = 0;
        let (ok, events) = run(&mut world, 30.0, |world, side, i, event| {
            if let (Side::Exit, Event::Incoming(id, _)) = (side, event) {
                incoming += 1;
                let exit = world.exits.get_mut(&i).unwrap();
                exit.opened(*id);
                exit.write(*id, b"hello");
                exit.finish(*id);
            }
            (side, event) == (Side::Client, &Event::Readable(id))
        });
        assert!(ok, "seed {}: {events:?}", world.seed);
        run(&mut world, 5.0, |_, _, _, _| false);
        assert_eq!((incoming, world.exits.len()), (1, 1), "seed {}", world.seed);
        assert_eq!(&world.clients[client].read(id, 9).unwrap()[..], b"hello");
    }
}

#[test]
fn no_two_packets_of_a_client_look_alike() {
    let mut world = World::new(23, Link::bulk());
    let kept = std::rc::Rc::new(std::cell::RefCell::new(Vec::<(Side, Vec<u8>)>::new()));
    let keep = kept.clone();
    world.tamper = Some(Box::new(move |side, _, body| {
        keep.borrow_mut().push((side, body.clone()));
        Fate::Deliver
    }));
    assert!(exchange(&mut world, 2, 100_000, 20_000, 30.0).done);
    let mut seen = BTreeSet::new();
    let kept = kept.borrow();
    let packets: Vec<_> = kept.iter().filter(|(side, _)| *side == Side::Client).collect();
    assert!(packets.len() > 50);
    for (_, body) in packets.iter().take(150) {
        assert_eq!(body.len(), FORWARD_BODY);
        for (at, part) in body.windows(8).enumerate() {
            assert!(
                seen.insert((at, u64::from_be_bytes(part.try_into().unwrap()))),
                "offset {at}"
            );
        }
    }
    // The exit's packets travel inside a SURB's layers; their size tells nothing either.
    assert!(
        kept.iter()
            .all(|(side, body)| *side == Side::Client || body.len() == REPLY_BODY)
    );
}

#[test]
fn why_a_stream_was_not_opened_is_told() {
    let mut world = World::new(24, Link::lossy(0.2));
    for error in [
        OpenError::Refused,
        OpenError::NameNotFound,
        OpenError::ConnectionRefused,
    ] {
        let client = world.connect();
        let now = world.now;
        let id = world.clients[client].open(now, &target()).unwrap();
        assert_eq!(world.clients[client].write(id, b"early"), 5);
        let (ok, _) = run(&mut world, 30.0, |world, side, i, event| {
            if let (Side::Exit, Event::Incoming(id, to)) = (side, event) {
                assert_eq!(*to, target());
                world.exits.get_mut(&i).unwrap().open_failed(*id, error);
            }
            (side, i) == (Side::Client, client) && *event == Event::OpenFailed(id, error)
        });
        assert!(ok, "seed {} {error}", world.seed);
        assert_eq!(world.clients[client].write(id, b"late"), 0);
        assert_eq!(world.clients[client].streams(), 0);
    }
    run(&mut world, 5.0, |_, _, _, _| false);
    assert!(
        world.exits.values().all(|s| s.streams() == 0),
        "the exit forgets it when the client knows"
    );
}

#[test]
fn a_stream_is_reset_from_either_end() {
    for side in [Side::Client, Side::Exit] {
        let mut world = World::new(25, Link::lossy(0.2));
        let (client, exit, id) = opened(&mut world);
        world.clients[client].write(id, &text(0, 50_000, 0));
        world.exits.get_mut(&exit).unwrap().write(id, &text(0, 50_000, 0));
        run(&mut world, 0.2, |_, _, _, _| false);
        let at = if side == Side::Client { client } else { exit };
        world.session(side, at).unwrap().reset(id, 42);
        let (ok, events) = run(&mut world, 10.0, |_, s, _, event| {
            s != side && *event == Event::Reset(id, 42)
        });
        assert!(ok, "{side:?}: {events:?}");
        run(&mut world, 5.0, |_, _, _, _| false);
        assert_eq!(world.clients[client].streams(), 0);
        assert_eq!(world.exits[&exit].streams(), 0);
        // The session goes on with another stream.
        let now = world.now;
        let next = world.clients[client].open(now, &target()).unwrap();
        let (ok, _) = run(&mut world, 10.0, |world, side, i, event| {
            if let (Side::Exit, Event::Incoming(id, _)) = (side, event) {
                world.exits.get_mut(&i).unwrap().opened(*id);
            }
            *event == Event::Opened(next)
        });
        assert!(ok);
    }
}

#[test]
fn a_reader_that_stops_stops_the_writer() {
    let mut world = World::new(26, Link::bulk());
    let params = world.link.params().with_windows(256 << 10, 512 << 10);
    let client = world.connect_with(params);
    let now = world.now;
    let id = world.clients[client].open(now, &target()).unwrap();
    let mut written = 0u64;
    let pump = |session: &mut Session, id, written: &mut u64| loop {
        let n = session.write(id, &text(*written, 10_000, 7));
        *written += n as u64;
        if n < 10_000 {
            break;
        }
    };
    run(&mut world, 20.0, |world, side, i, event| {
        if side == Side::Exit {
            let session = world.exits.get_mut(&i).unwrap();
            match event {
                Event::Incoming(id, _) => {
                    session.opened(*id);
                    pump(session, *id, &mut written);
                }
                Event::Writable(id) => pump(session, *id, &mut written),
                _ => {}
            }
        }
        false
    });
    let received = world.clients[client].stats().bytes_received;
    assert_eq!(received, 256 << 10, "the window is used and not passed");
    assert_eq!(written, received + (1 << 20), "and the send buffer");
    assert_eq!(world.exits.values().next().unwrap().backlog(), 1 << 20);
    // Reading lets it go on.
    let mut read = 0u64;
    let start = world.now;
    while world.now.since(start).as_secs_f64() < 10.0 {
        while let Some(bytes) = world.clients[client].read(id, 4_000) {
            assert_eq!(bytes, text(read, bytes.len(), 7));
            read += bytes.len() as u64;
        }
        world.step();
    }
    assert_eq!(read, 256 * 1_024 + (1 << 20));
}

#[test]
fn streams_of_a_session_share_it_and_are_counted() {
    let mut world = World::new(27, Link::lossy(0.1));
    let client = world.connect();
    let now = world.now;
    let ids: Vec<_> = (0..64)
        .map(|_| world.clients[client].open(now, &target()).unwrap())
        .collect();
    assert_eq!(world.clients[client].open(now, &target()), Err(OpenError::Limit));
    let mut programs: Vec<Program> = ids.iter().map(|_| Program::new(3_000, 1, 2)).collect();
    let mut exits: Vec<Program> = ids.iter().map(|_| Program::new(40_000, 2, 1)).collect();
    for id in &ids {
        programs[id.as_u64() as usize].pump(&mut world.clients[client], *id, now);
    }
    let mut left = 2 * ids.len();
    let (ok, _) = run(&mut world, 60.0, |world, side, i, event| {
        let now = world.now;
        let session = world.session(side, i).unwrap();
        match event {
            Event::Incoming(id, _) => {
                session.opened(*id);
                exits[id.as_u64() as usize].pump(session, *id, now);
            }
            Event::Readable(id) | Event::Writable(id) => {
                let program = if side == Side::Client {
                    &mut programs
                } else {
                    &mut exits
                };
                program[id.as_u64() as usize].pump(session, *id, now);
            }
            Event::Finished(_) => left -= 1,
            Event::Opened(_) | Event::Delivered(_) => {}
            event => panic!("{event:?}"),
        }
        left == 0
    });
    assert!(ok, "seed {}: {left} left", world.seed);
    assert!(programs.iter().all(|p| p.read == 40_000) && exits.iter().all(|p| p.read == 3_000));
    run(&mut world, 3.0, |_, _, _, _| false);
    assert_eq!(world.clients[client].streams(), 0);
}

#[test]
fn an_exit_that_is_silent_from_the_start_fails_the_opening_in_time() {
    let mut world = World::new(28, Link::bulk());
    world.tamper = Some(Box::new(|_, _, _| Fate::Drop));
    let client = world.connect();
    let start = world.now;
    let id = world.clients[client].open(start, &target()).unwrap();
    let (ok, events) = run(&mut world, 100.0, |_, _, _, event| {
        matches!(event, Event::Closed(_))
    });
    assert!(ok);
    assert_eq!(events[0].2, Event::OpenFailed(id, OpenError::Timeout));
    assert_eq!(events[1].2, Event::Closed(CloseReason::Timeout));
    assert_eq!(world.now.since(start).as_secs(), 30);
    assert_eq!(world.stalls[&Stall::Opening], 1);
    assert!(
        world.stalls[&Stall::Initial] < FIRST_TRANSPORT,
        "{:?}",
        world.stalls
    );
    assert!(world.forward_packets <= FIRST_TRANSPORT);
}

#[test]
fn an_exit_that_vanishes_is_noticed_and_one_that_was_cut_off_goes_on() {
    for (seed, outage_s, survives) in [(29, 40, true), (30, 200, false)] {
        let mut world = World::new(seed, Link::bulk());
        let (client, exit, id) = opened(&mut world);
        // An upload uses up the counters that the exit has tags for; what is left must last.
        world.clients[client].write(id, &text(0, 1 << 20, 3));
        world
            .exits
            .get_mut(&exit)
            .unwrap()
            .write(id, &text(0, 1 << 20, 3));
        run(&mut world, 0.3, |_, _, _, _| false);
        let cut = std::rc::Rc::new(std::cell::Cell::new(true));
        let is_cut = cut.clone();
        world.tamper = Some(Box::new(
            move |_, _, _| if is_cut.get() { Fate::Drop } else { Fate::Deliver },
        ));
        let start = world.now;
        let (closed, events) = run(&mut world, f64::from(outage_s), |_, side, _, event| {
            side == Side::Client && matches!(event, Event::Closed(_))
        });
        assert_eq!(closed, !survives, "seed {seed}");
        if closed {
            assert!(events.contains(&(Side::Client, client, Event::Reset(id, Session::RESET_CLOSED))));
            assert!((60..64).contains(&world.now.since(start).as_secs()));
            continue;
        }
        cut.set(false);
        let resumed = world.now;
        let (mut up, mut down) = (0, 0);
        while (up, down) != (1 << 20, 1 << 20) && world.now.since(resumed).as_secs() < 60 {
            world.step();
            while let Some(bytes) = world.clients[client].read(id, 9_999) {
                down += bytes.len();
            }
            while let Some(bytes) = world.exits.get_mut(&exit).unwrap().read(id, 9_999) {
                up += bytes.len();
            }
        }
        println!(
            "went on {:.1} s after {outage_s} s of silence",
            world.now.since(resumed).as_secs_f64()
        );
        assert_eq!((up, down), (1 << 20, 1 << 20), "seed {seed}");
    }
}

#[test]
fn a_session_without_streams_is_closed_at_both_ends() {
    let mut world = World::new(41, Link::bulk());
    assert!(exchange(&mut world, 1, 100, 100, 30.0).done);
    let start = world.now;
    let mut reasons = Vec::new();
    let (ok, _) = run(&mut world, 60.0, |_, side, _, event| {
        if let Event::Closed(reason) = event {
            reasons.push((side, *reason));
        }
        reasons.len() == 2
    });
    assert!(ok, "{reasons:?}");
    reasons.sort_by_key(|r| r.0);
    assert_eq!(
        reasons,
        [(Side::Client, CloseReason::Idle), (Side::Exit, CloseReason::Peer)]
    );
    assert!((19..30).contains(&world.now.since(start).as_secs()));
    assert_eq!(
        (world.acceptor.sessions(), world.clients[0].deadline()),
        (0, None)
    );
    let mut body = vec![0; FORWARD_BODY];
    let now = world.now;
    assert_eq!(world.clients[0].fill(now, &[], &mut body), None);
    assert_eq!(
        world.clients[0].receive(now, &[0; REPLY_BODY]),
        Err(DropReason::Closed)
    );
    assert_eq!(world.clients[0].wants(now), Wants::default());
}

#[test]
fn an_exit_that_never_answers_its_program_fails_the_stream() {
    let mut world = World::new(42, Link::bulk());
    let client = world.connect();
    let now = world.now;
    let id = world.clients[client].open(now, &target()).unwrap();
    let (ok, _) = run(&mut world, 60.0, |_, side, _, event| {
        side == Side::Client && *event == Event::OpenFailed(id, OpenError::Timeout)
    });
    assert!(ok);
    run(&mut world, 3.0, |_, _, _, _| false);
    assert_eq!(
        (world.clients[client].streams(), world.exits[&0].streams()),
        (0, 0)
    );
}

#[test]
fn room_that_does_not_suffice_is_refused_without_effect() {
    let mut world = World::new(43, Link::bulk());
    let client = world.connect();
    let now = world.now;
    let session = &mut world.clients[client];
    let surbs = [1; 5 * SURB_LEN];
    assert_eq!(
        session.fill(now, &surbs, &mut [0; FORWARD_BODY]),
        None,
        "nothing to begin"
    );
    session.open(now, &target()).unwrap();
    assert_eq!(session.wants(now).replies, ReplyDemand::Active);
    assert_eq!(
        session.fill(now, &[], &mut [0; FORWARD_BODY]),
        None,
        "an INITIAL needs SURBs"
    );
    assert_eq!(session.fill(now, &surbs[1..], &mut [0; FORWARD_BODY]), None);
    assert_eq!(session.fill(now, &surbs, &mut [0; 3_200]), None);
    assert_eq!(session.fill(now, &surbs, &mut [0; 5_000]), None);
    assert_eq!(
        session.fill(now, &surbs, &mut [0; FORWARD_BODY]),
        Some(FORWARD_BODY)
    );
    assert_eq!(
        session.fill(now, &surbs, &mut [0; FORWARD_BODY]),
        None,
        "the answer is awaited"
    );
    assert_eq!(session.wants(now), Wants::default());
    for len in 0..80 {
        assert!(session.receive(now, &vec![1; len]).is_err());
        assert!(session.receive(now, &vec![0; len]).is_err());
    }
    assert_eq!(session.stats().packets_received, 0);
}

#[test]
fn a_clock_that_jumps_does_no_harm() {
    let mut world = World::new(44, Link::bulk());
    let (client, exit, id) = opened(&mut world);
    world.clients[client].write(id, &text(0, 100_000, 3));
    let now = world.now;
    let s = Duration::from_secs;
    for at in [now - s(500), now + s(50), now - s(300), now + s(5)] {
        let mut body = vec![0; FORWARD_BODY];
        world.clients[client].handle_timeout(at);
        world.clients[client].fill(at, &[], &mut body).unwrap();
        world.forward(&body);
        let mut body = vec![0; REPLY_BODY];
        world
            .exits
            .get_mut(&exit)
            .unwrap()
            .fill(at, &[], &mut body)
            .unwrap();
        world.clients[client].receive(at, &body).unwrap();
    }
    let start = world.now;
    let mut read = 0;
    while world.now.since(start).as_secs() < 20 {
        world.step();
        while let Some(bytes) = world.exits.get_mut(&exit).unwrap().read(id, 9_999) {
            read += bytes.len();
        }
    }
    assert_eq!(read, 100_000);
}

#[test]
fn sessions_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Session>();
    is_send::<Acceptor<u64>>();
}
