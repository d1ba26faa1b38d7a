//! The binary as a user drives it: `mizzle up` with real programs over real sockets, its ends, its errors and what it
//! logs; `mizzle network show`; what the other commands print.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use common::{
    Curl, Home, LIMIT, Process, Up, Web, curl, has_curl, mizzle, pattern, place, poll_until, run, scratch,
};
use ed25519_dalek::SigningKey;
use mizzle_base::document::{Content, NodeEntry, Role};
use mizzle_base::{Profile, hex};
use mizzle_net::clock::Clock;
use mizzle_sphinx::SecretKey;
use tokio::time::Instant;

/// More than the five seconds that open streams are given.
const SECONDS: Duration = Duration::from_secs(15);
const FILE: usize = 50_000;

/// A log without its one word of a network with one user, which comes when that has been seen for a while.
fn but_of_users(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| !line.contains("so few users"))
        .collect()
}

fn assert_download(up: &Up, web: &Web, user: &str, url: &str) {
    let before = web.peers().len();
    let got = up.curl(user, url);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    assert!(got.body == pattern(FILE), "{} wrong bytes", got.body.len());
    let peers = web.peers().split_off(before);
    // Another one than curl's own: the exit's.
    assert!(
        peers.len() == 1 && peers[0].port() != got.local_port(),
        "{peers:?}"
    );
}

#[test]
fn curl_downloads_over_quic_and_hears_why_it_cannot() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let up = Up::start(&["--transport", "quic"], None);
    assert!(up.socks.ip().is_loopback() && up.socks.port() != 0);
    assert_eq!(up.ready["profile"]["name"], "browse");
    assert_eq!(up.ready["nodes"].as_array().map(Vec::len), Some(8));
    assert_download(&up, &web, "", &web.url(FILE));
    assert_download(&up, &web, "u:p@", &web.url(FILE));

    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let start = Instant::now();
    up.curl("", &format!("http://{closed}/")).assert_refused(5);
    assert!(start.elapsed() < SECONDS, "{:?}", start.elapsed());
    // A label longer than DNS has them: no resolver, and none that is slow, has to be asked.
    up.curl("", &format!("http://{}.invalid/", "x".repeat(64)))
        .assert_refused(4);
    // Loopback is allowed here, the network itself is not: neither its nodes nor the proxy.
    for port in up.ports().into_iter().take(2).chain([up.socks.port()]) {
        up.curl("", &format!("http://127.0.0.1:{port}/"))
            .assert_refused(2);
    }
    up.curl("", &format!("http://localhost:{}/", up.socks.port()))
        .assert_refused(2);

    let (code, stderr) = up.end("INT", SECONDS);
    assert_eq!(
        (code, but_of_users(&stderr)),
        (Some(0), Vec::new()),
        "a quiet end, and no log of what went well"
    );
}

#[test]
fn curl_downloads_over_tcp_and_the_log_names_nobody() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let file = scratch("document");
    let path = file.to_str().unwrap();
    let up = Up::start(&["--transport", "tcp", "--write-document", path], Some("info"));
    assert_download(&up, &web, "", &web.url(FILE));
    let by_name = format!("http://localhost:{}/{FILE}", web.address.port());
    assert_download(&up, &web, "somebody:secret@", &by_name);
    up.curl("", "http://127.0.0.1:1/").assert_refused(5);
    assert_document_shown(
        path,
        up.ready["authority"].as_str().unwrap(),
        up.ready["network"].as_str().unwrap(),
    );

    let document = std::fs::read_to_string(&file).unwrap();
    let (mut names, ports) = (
        vec!["127.0.0.1".to_string(), "localhost".into(), "somebody".into()],
        up.ports(),
    );
    let peers = document
        .lines()
        .filter_map(|line| line.trim().strip_prefix(r#""peer": ""#)?.strip_suffix("\","));
    names.extend(peers.map(String::from));
    assert_eq!(names.len(), 3 + 8, "the document names eight peers");
    names.extend(
        ports
            .iter()
            .chain([&web.address.port(), &up.socks.port()])
            .map(|port| format!("/{port}")),
    );
    let (code, stderr) = up.end("TERM", SECONDS);
    assert_eq!(code, Some(0));
    for name in names
        .iter()
        .map(String::as_str)
        .chain(["12D3Koo", "/ip4/", "::1"])
    {
        assert!(!stderr.contains(name), "{name} in the log:\n{stderr}");
    }
    std::fs::remove_file(file).unwrap();
}

/// Shown to who names its authority; damaged or of somebody else, refused in plain words.
fn assert_document_shown(path: &str, authority: &str, network: &str) {
    let show = |path: &str, authority: &str| run(&["network", "show", path, "--authority", authority]);
    let (code, shown, stderr) = show(path, authority);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for words in [
        network,
        "signature good",
        "profile `browse`",
        "layer 3: 2 mixes",
        "2 gateways",
        " exit, mail  ",
        " days more",
        "/ip4/127.0.0.1/tcp/",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert_eq!(
        shown.lines().filter(|line| line.contains("/tcp/")).count(),
        8,
        "{shown}"
    );
    let (code, json, _) = run(&["network", "show", path, "--authority", authority, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["network"]), (Some(0), &network.into()));

    let whole = std::fs::read(path).unwrap();
    let damaged = scratch("damaged");
    let damaged_path = damaged.to_str().unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let elsewhere = hex::encode(SigningKey::from_bytes(&[9; 32]).verifying_key().as_bytes());
    for (bytes, authority, words) in [
        (
            flipped.as_slice(),
            authority,
            "signature of the network document is wrong",
        ),
        (
            &whole[..whole.len() - 100],
            authority,
            "signature of the network document is wrong",
        ),
        (&whole[..100], authority, "not a mizzle network document"),
        (&vec![b'\n'; 5 << 20], authority, "longer than"),
        (b"", authority, "not a mizzle network document"),
        (&whole, &elsewhere, "not by the authority"),
        (&whole, "abc", "64 hexadecimal digits"),
    ] {
        std::fs::write(&damaged, bytes).unwrap();
        let (code, stdout, stderr) = show(damaged_path, authority);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{words}");
        assert!(
            stderr.starts_with("mizzle: ") && stderr.contains(words) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    std::fs::remove_file(damaged).unwrap();
}

#[test]
fn ctrl_c_cuts_a_download_and_a_second_one_does_not_wait() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    for times in [1, 2] {
        let up = Up::start(&[], None);
        let download = Process::start(curl(&format!("socks5h://{}", up.socks), &web.url(50_000_000)));
        web.asked();
        let start = Instant::now();
        let mut process = up.process;
        process.signal("INT");
        if times == 2 {
            // Heard once nobody listens at the port any more.
            poll_until("the port is closed", || TcpListener::bind(up.socks).ok());
            process.signal("INT");
        }
        assert_eq!(process.ended(SECONDS).code(), Some(0));
        assert!(
            times == 1 || start.elapsed() < Duration::from_secs(4),
            "{:?}",
            start.elapsed()
        );
        // Half a file doesn't pass for a whole one.
        let mut download = download;
        assert!(!download.ended(SECONDS).success());
        TcpListener::bind(up.socks).expect("the port is free again");
    }
}

#[test]
fn ctrl_c_during_the_start_ends_it_in_order() {
    let (_place, home) = (place(), Home::new());
    let mut process =
        Process::start(home.mizzle(&["up", "--socks", "127.0.0.1:0", "--mixes-per-layer", "16"]));
    let status = format!("/proc/{}/status", process.id());
    if !std::path::Path::new(&status).exists() {
        return println!("SKIPPED: this system has no /proc to see when signals are heard");
    }
    poll_until("the process hears SIGINT and SIGTERM", || {
        let text = std::fs::read_to_string(&status).ok()?;
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        let mask = u64::from_str_radix(mask, 16).ok()?;
        (mask & 1 << 1 != 0 && mask & 1 << 14 != 0).then_some(())
    });
    process.signal("INT");
    assert_eq!(process.ended(SECONDS).code(), Some(0));
    assert_eq!(
        (process.stdout_rest().as_str(), process.stderr().as_str()),
        ("", "")
    );
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    for args in [&["plan"][..], &["--help"], &["bench", "packet"]] {
        let mut process = mizzle(args);
        let mut child = process
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
    }
    let (_place, home) = (place(), Home::new());
    let file = scratch("announced");
    let mut command = home.mizzle(&[
        "up",
        "--socks",
        "127.0.0.1:0",
        "--write-document",
        file.to_str().unwrap(),
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    // Written just before the text that nobody reads.
    poll_until("the document", || std::fs::metadata(&file).ok());
    assert!(child.try_wait().unwrap().is_none());
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn up_without_json_says_what_to_paste() {
    if !has_curl() {
        return;
    }
    let (_place, home) = (place(), Home::new());
    let web = Web::start();
    let mut process = Process::start(home.mizzle(&["up", "--socks", "127.0.0.1:0", "--drop-percent", "1"]));
    let mut text = String::new();
    while !text.ends_with("Ctrl-C ends it.\n") {
        text += &(process.line() + "\n");
    }
    let (_, rest) = text.split_once("curl -x ").expect("a line to paste");
    let (proxy, _) = rest
        .split_once(" http://127.0.0.1:8000/\n")
        .expect("with an example's target");
    assert!(
        text.contains("hides nothing") && text.contains("Every link loses 1 % of the packets"),
        "{text}"
    );
    let got = Curl::from(curl(proxy, &web.url(1_000)).output().unwrap());
    assert!(
        got.code == Some(0) && got.body == pattern(1_000),
        "{}",
        got.stderr
    );
    process.signal("INT");
    assert_eq!(process.ended(SECONDS).code(), Some(0));
}

#[test]
fn what_cannot_be_is_said_at_once_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nowhere = scratch("no-such-folder").join("document");
    for (args, words) in [
        (
            &["--socks", &address][..],
            &[&address, "address already in use", "choose another with --socks"][..],
        ),
        (
            &["--socks", "192.0.2.1:0"],
            &["192.0.2.1:0", "--danger-socks-for-others", "use 127.0.0.1"],
        ),
        (
            &["--socks", "0.0.0.0:0"],
            &["0.0.0.0:0", "--danger-socks-for-others", "no password"],
        ),
        (&["--socks", "[::]:0"], &["[::]:0", "--danger-socks-for-others"]),
        (
            &[
                "--socks",
                "127.0.0.1:0",
                "--write-document",
                nowhere.to_str().unwrap(),
            ],
            &["cannot write", "no-such-folder"],
        ),
    ] {
        let (_place, home) = (place(), Home::new());
        let (code, stdout, stderr) = home.run(&[&["up"], args].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{args:?}");
        assert!(
            stderr.starts_with("mizzle: ") && stderr.lines().count() == 1,
            "{stderr}"
        );
        assert!(words.iter().all(|w| stderr.contains(w)), "{stderr}");
    }
}

#[test]
fn a_bad_flag_is_named_with_its_value() {
    for (args, flag, value) in [
        (&["up", "--profile", "fast"][..], "--profile", "fast"),
        (&["up", "--socks", "nowhere"], "--socks", "nowhere"),
        (
            &["up", "--drop-percent", "51"],
            "--drop-percent",
            "between 0 and 50",
        ),
        (&["up", "--gateways", "1"], "--gateways", "2..=32"),
        (&["bench", "idle", "--seconds", "0"], "--seconds", "1..=86400"),
        (&["up", "--sokcs", "127.0.0.1:0"], "--sokcs", "--socks"),
        (&["network", "show", "document"], "--authority", "KEY"),
        (&["upp"], "upp", "up"),
    ] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(
            stderr.contains(flag) && stderr.contains(value),
            "{args:?}: {stderr}"
        );
    }
}

/// A document as an authority would sign it, valid from then for an hour.
fn document(valid_from_s: u64, authority: &SigningKey) -> Vec<u8> {
    let node = |n: u8, role| NodeEntry {
        id: hex::encode(&[n; 32]),
        role,
        layer: if role == Role::Mix { n } else { 0 },
        peer: String::new(),
        addresses: Vec::new(),
        sphinx_key: hex::encode(SecretKey::from_bytes([n; 32]).public().as_bytes()),
        weight: 1.0,
        operator: String::new(),
        exit: None,
        mail: None,
    };
    let nodes = (1..=3)
        .map(|layer| node(layer, Role::Mix))
        .chain([node(4, Role::Gateway)]);
    let content = Content {
        network: "test".into(),
        sequence: 1,
        epoch: 1,
        valid_from_s,
        valid_until_s: valid_from_s + 3_600,
        profile: Profile::chat(),
        nodes: nodes.collect(),
    };
    content.sign(authority).unwrap()
}

#[test]
fn a_document_out_of_its_time_says_by_how_much() {
    let authority = SigningKey::from_bytes(&[3; 32]);
    let key = hex::encode(authority.verifying_key().as_bytes());
    let now_s = Clock::start().now().as_s();
    let file = scratch("out-of-time");
    let path = file.to_str().unwrap();
    let show = |valid_from_s| {
        std::fs::write(&file, document(valid_from_s, &authority)).unwrap();
        run(&["network", "show", path, "--authority", &key])
    };
    let seconds = |text: &str, before: &str| -> u64 {
        text.split_once(before)
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
            .expect("how many seconds")
    };
    let (code, _, stderr) = show(now_s - 3_600 - 7_200);
    assert_eq!(code, Some(1));
    assert!(
        (7_200..7_300).contains(&seconds(&stderr, "expired ")) && stderr.contains("set the clock"),
        "{stderr}"
    );
    let (code, _, stderr) = show(now_s + 7_200);
    assert_eq!(code, Some(1));
    assert!(
        (7_100..=7_200).contains(&seconds(&stderr, "becomes valid in ")),
        "{stderr}"
    );
    // A few minutes are a clock's.
    assert_eq!(show(now_s - 3_600 - 60).0, Some(0));
    std::fs::remove_file(&file).unwrap();
    let (code, stdout, stderr) = run(&["network", "show", path, "--authority", &key]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.contains("cannot read") && stderr.contains(path),
        "{stderr}"
    );
}

#[test]
fn the_other_commands_print_what_they_promise() {
    let (code, help, stderr) = run(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for words in [
        "mizzle up",
        "curl line to paste",
        "up ",
        "bench ",
        "plan ",
        "network ",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(run(&["up", "--help"]).1.contains("This network hides nothing"));
    assert!(run(&["--version"]).1.starts_with("mizzle "));

    let (code, plan, _) = run(&["plan"]);
    assert_eq!(code, Some(0));
    assert!(
        ["chat", "browse", "bulk"]
            .iter()
            .all(|name| plan.lines().any(|line| line.starts_with(name))),
        "{plan}"
    );
    let (_, json, _) = run(&["plan", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["profiles"].as_array().map(Vec::len), Some(3));
    let (code, plan, _) = run(&["plan", "--users", "5"]);
    assert_eq!(code, Some(0));
    assert!(plan.contains("BROKEN") && plan.contains("mended by"), "{plan}");

    let (code, packet, _) = run(&["bench", "packet"]);
    assert_eq!(code, Some(0));
    assert!(
        packet.contains("4608 bytes") && packet.contains("user bytes"),
        "{packet}"
    );
    let (_, json, _) = run(&["bench", "packet", "--json"]);
    let rows: std::collections::BTreeMap<String, u64> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.values().sum::<u64>(), 4_608, "every byte has its place");
}

#[test]
fn a_port_that_was_freed_serves_the_next_network() {
    let first = Up::start(&[], None);
    let socks = first.socks;
    assert_eq!(first.end("INT", SECONDS).0, Some(0));
    let (_place, home) = (place(), Home::new());
    let mut again = Process::start(home.mizzle(&["up", "--json", "--socks", &socks.to_string()]));
    assert!(again.line().contains(&format!("\"{socks}\"")));
    again.signal("TERM");
    assert_eq!(again.ended(LIMIT).code(), Some(0));
}

#[test]
fn what_up_keeps_is_there_after_a_kill_and_status_shows_all_of_it() {
    let mut up = Up::start(&[], None);
    let (_, address, _) = up.home.run(&["address"]);
    let address = address.trim();
    assert_eq!(
        up.home.run(&["send", address, "--text", "are you there?"]).0,
        Some(0)
    );
    // On the gateway's disk; whether the client has fetched it by now or not, it is there when both come back.
    let network = up.ready["network"].clone();
    up.process.signal("KILL");
    assert_eq!(up.process.ended(SECONDS).code(), None);

    let mut up = Up::at(up.moved_out(), &[], None);
    assert_eq!(up.ready["network"], network);
    assert_eq!(up.home.run(&["address"]).1.trim(), address);
    let (code, letter, _) = up.home.run(&["receive"]);
    assert!(code == Some(0) && letter.contains("are you there?"), "{letter}");

    let status = |what: &[&str]| -> serde_json::Value {
        let (code, text, stderr) = up.home.run(&[&["status", "--json"], what].concat());
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        serde_json::from_str(&text).unwrap()
    };
    // The client is found by itself.
    let client = poll_until("loops of the client came home", || {
        Some(status(&[])).filter(|status| status["loops"]["returned"].as_u64() > Some(0))
    });
    assert_eq!(
        (&client["kind"], &client["connected"]),
        (&"client".into(), &true.into())
    );
    for (of, what) in [
        ("anonymity", "pool"),
        ("anonymity", "entropy_bits"),
        ("anonymity", "best_guess"),
        ("anonymity", "delta_1"),
        ("anonymity", "k_95"),
        ("anonymity", "routes_corrupt"),
        ("rates", "over_s"),
        ("loops", "median_ms"),
        ("network", "epoch"),
        ("network", "epoch_ends_s"),
    ] {
        assert!(client[of][what].as_f64() > Some(0.0), "{of}.{what}: {client}");
    }
    let mut kept = 0;
    for node in up.ready["nodes"].as_array().unwrap() {
        let node_status = status(&[node["config"].as_str().unwrap()]);
        for told in ["alarms", "anonymity", "loops", "rates"] {
            assert!(node_status[told].is_object(), "{told}: {node_status}");
        }
        let gateway = &node_status["gateway"];
        assert_eq!(gateway.is_object(), node["layer"] == 0, "{node_status}");
        kept += gateway["mailboxes"].as_u64().unwrap_or(0);
    }
    assert_eq!(kept, 1, "the client's, in one of the gateways");
    let (_, words, _) = up.home.run(&["status"]);
    assert!(words.contains("how well you are hidden"), "{words}");

    // What is asked for is what runs, or a word of why not; and nothing is deleted under one that runs.
    for (args, words) in [
        (&["--gateways", "3"][..], "2 gateways"),
        (&["--fresh"], "in use by process"),
        (&[], "in use by process"),
    ] {
        let args = [&["up", "--socks", "127.0.0.1:0"], args].concat();
        let (code, stdout, stderr) = up.home.run(&args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{args:?}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
    assert_eq!(up.home.run(&["status", "--json"]).0, Some(0));
    up.process.signal("INT");
    assert_eq!(up.process.ended(SECONDS).code(), Some(0));
    let home = up.moved_out();
    let foreign = home.network().with_file_name("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("file"), "mine").unwrap();
    let state = foreign.to_str().unwrap();
    for fresh in [&["--fresh"][..], &[]] {
        let args = [&["up", "--socks", "127.0.0.1:0", "--state", state], fresh].concat();
        let (code, _, stderr) = home.run(&args);
        assert!(
            code == Some(1) && stderr.contains("holds something else"),
            "{stderr}"
        );
    }
    assert_eq!(std::fs::read(foreign.join("file")).unwrap(), b"mine");

    let up = Up::at(home, &["--fresh", "--gateways", "3"], None);
    assert_ne!(up.ready["network"], network);
    assert_ne!(up.home.run(&["address"]).1.trim(), address);
    let (code, stderr) = up.end("INT", SECONDS);
    assert_eq!((code, but_of_users(&stderr)), (Some(0), Vec::new()));
}
