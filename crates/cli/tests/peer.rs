//! `mizzle peer`: nodes and requests in processes of their own, over TCP and QUIC, that know each other from a file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests: how long things take is bounded"
)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::processes::Folder;

const ECHO: &str = "/mizzle/echo/1.0.0";

/// A node that runs; killed at the end.
struct Node {
    process: Child,
    ready: Value,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn peer(dir: &Path, what: &str, name: &str, listen: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle"));
    let file = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    command.args(["peer", what, "--listen", listen, "--delay-ms", "5"]);
    command
        .arg("--identity-key")
        .arg(file("id"))
        .arg("--mix-key")
        .arg(file("mix"));
    command.arg("--pool").arg(dir.join("pool")).args(more);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Node {
    fn start(dir: &Path, name: &str, listen: &str, more: &[&str]) -> Self {
        let mut process = peer(dir, "run", name, listen, more)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready = serde_json::from_str(&line).expect("one line of JSON");
        Self { process, ready }
    }

    fn get(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap().to_owned()
    }

    fn line(&self) -> String {
        format!(
            "{}/p2p/{} {}",
            self.get("multiaddr"),
            self.get("peer_id"),
            self.get("mix_public_key")
        )
    }
}

/// Exit status, standard output, standard error.
fn request(dir: &Path, more: &[&str], body: &[u8]) -> (i32, Vec<u8>, String) {
    let default: &[&str] = if more.contains(&"--timeout-ms") {
        &[]
    } else {
        &["--timeout-ms", "30000"]
    };
    let more = [default, more].concat();
    let mut process = peer(dir, "request", "asker", "/ip4/127.0.0.1/tcp/0", &more)
        .spawn()
        .unwrap();
    // One that refuses its arguments is gone before it reads.
    let _ = process.stdin.take().unwrap().write_all(body);
    let output = process.wait_with_output().unwrap();
    (
        output.status.code().unwrap(),
        output.stdout,
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn network(name: &str, more: &[&str]) -> (Folder, PathBuf, Vec<Node>) {
    let folder = Folder::new(name);
    let dir = folder.0.clone();
    std::fs::create_dir_all(&dir).unwrap();
    let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let nodes: Vec<_> = (0..5)
        .map(|n| Node::start(&dir, &format!("node{n}"), listen[n % 2], more))
        .collect();
    let pool: Vec<_> = nodes.iter().map(Node::line).collect();
    // They learn of each other only now, when they are up.
    std::fs::write(dir.join("pool"), format!("# nodes\n\n{}\n", pool.join("\n"))).unwrap();
    (folder, dir, nodes)
}

#[test]
fn requests_go_through_processes_over_tcp_and_quic_and_each_failure_has_its_status() {
    let (_folder, dir, nodes) = network("peer-requests", &["--allow-private"]);
    let hello = b"\x05hello";
    let to = format!("{}/p2p/{}", nodes[1].get("multiaddr"), nodes[1].get("peer_id"));
    // The nodes read their file within a second; until then they know nobody, and replies may be lost.
    let deadline = Instant::now() + Duration::from_secs(60);
    while request(
        &dir,
        &["--to", &to, "--codec", ECHO, "--timeout-ms", "2000"],
        hello,
    )
    .0 != 0
    {
        assert!(Instant::now() < deadline);
    }
    for surbs in ["1", "5"] {
        let (status, reply, said) = request(&dir, &["--to", &to, "--codec", ECHO, "--surbs", surbs], hello);
        assert_eq!((status, &reply[..]), (0, &hello[..]), "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["path_length"], 3);
        assert!(said["round_trip_ms"].as_f64().unwrap() > 0.0);
    }
    let mix = nodes[2].get("peer_id");
    assert_eq!(
        request(&dir, &["--to-mix", &mix, "--codec", ECHO], hello).1,
        hello
    );
    let ping = [7; 32];
    assert_eq!(
        request(&dir, &["--to", &to, "--codec", "/ipfs/ping/1.0.0"], &ping).1,
        ping
    );
    // Pings by the same exits at the same time, all on the connections that those have already.
    let pings: Vec<_> = (0..12)
        .map(|n| {
            let more = [
                "--to",
                &to,
                "--codec",
                "/ipfs/ping/1.0.0",
                "--timeout-ms",
                "30000",
            ];
            let mut process = peer(
                &dir,
                "request",
                &format!("asker{n}"),
                "/ip4/127.0.0.1/tcp/0",
                &more,
            )
            .spawn()
            .unwrap();
            process.stdin.take().unwrap().write_all(&[n; 32]).unwrap();
            (n, process)
        })
        .collect();
    for (n, process) in pings {
        let output = process.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(0), vec![n; 32]));
    }
    assert_eq!(
        request(&dir, &["--to-mix", &mix, "--codec", ECHO, "--surbs", "0"], hello).0,
        0
    );

    let status = |more: &[&str]| {
        let (status, reply, said) = request(&dir, more, hello);
        assert!(reply.is_empty() && said.starts_with("mizzle: "), "{said}");
        status
    };
    assert_eq!(
        status(&["--to-mix", &mix, "--codec", ECHO, "--timeout-ms", "1"]),
        3
    );
    assert_eq!(status(&["--to-mix", &mix, "--codec", "/no/such"]), 4);
    assert_eq!(status(&["--to", &to, "--codec", "/no/such"]), 4);
    let nobody = "16Uiu2HAmDwyDGZ9Lo1dx6QefFBQhUS2wwYAEWeGCVLsmmFofXYMP";
    assert_eq!(status(&["--to-mix", nobody, "--codec", ECHO]), 6);
    assert_eq!(
        status(&[
            "--to",
            &format!("/dns4/example.org/tcp/1/p2p/{nobody}"),
            "--codec",
            ECHO
        ]),
        6
    );
    std::fs::write(dir.join("pool"), nodes[0].line()).unwrap();
    assert_eq!(status(&["--to", &to, "--codec", ECHO]), 5);
    std::fs::write(dir.join("pool"), "nonsense\n").unwrap();
    assert_eq!(status(&["--to", &to, "--codec", ECHO]), 1);
}

/// A circuit relay, and what others put before `/p2p-circuit`. It ends with the runtime.
fn relay(runtime: &tokio::runtime::Runtime) -> String {
    use futures::StreamExt as _;
    use libp2p::{SwarmBuilder, identity::Keypair, noise, relay, swarm::SwarmEvent, tcp, yamux};
    let (told, address) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let keypair = Keypair::generate_secp256k1();
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| relay::Behaviour::new(key.public().to_peer_id(), relay::Config::default()))
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                swarm.add_external_address(address.clone());
                told.send(format!("{address}/p2p/{}", swarm.local_peer_id()))
                    .unwrap();
            }
        }
    });
    address.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn nodes_and_destinations_behind_a_relay_are_reached_and_packets_have_proofs() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let by_relay = format!("{}/p2p-circuit", relay(&runtime));
    let more = ["--allow-private", "--spam", "pow:4"];
    let (_folder, dir, mut nodes) = network("peer-relay", &more);
    nodes.push(Node::start(&dir, "hidden", &by_relay, &more));
    let hidden = nodes.last().unwrap();
    assert!(
        hidden.get("multiaddr").ends_with("/p2p-circuit"),
        "{}",
        hidden.line()
    );
    let to = format!("{}/p2p/{}", hidden.get("multiaddr"), hidden.get("peer_id"));
    // As a destination, and as the last node of a path.
    let pool: Vec<_> = nodes.iter().map(Node::line).collect();
    std::fs::write(dir.join("pool"), pool.join("\n")).unwrap();
    let mix = hidden.get("peer_id");
    let hello = b"\x05hello";
    for destination in [["--to", &to], ["--to-mix", &mix]] {
        let deadline = Instant::now() + Duration::from_secs(60);
        let args = [
            &destination[..],
            &["--codec", ECHO, "--timeout-ms", "5000", "--spam", "pow:4"],
        ]
        .concat();
        while request(&dir, &args, hello).1 != hello {
            assert!(Instant::now() < deadline);
        }
    }
    // Without a proof nothing passes.
    let bare = ["--to-mix", &mix, "--codec", ECHO, "--timeout-ms", "500"];
    assert_eq!(request(&dir, &bare, hello).0, 3);
    for wrong in ["pow:0", "pow", "bucket:0", "coffee:1"] {
        assert_eq!(
            request(&dir, &[&bare[..], &["--spam", wrong]].concat(), hello).0,
            2
        );
    }
}

#[test]
fn without_leave_private_destinations_are_refused_and_legacy_networks_work() {
    let (_folder, dir, nodes) = network("peer-legacy", &["--dialect", "legacy"]);
    let hello = b"\x05hello";
    let legacy = |more: &[&str]| {
        request(
            &dir,
            &[more, &["--codec", ECHO, "--dialect", "legacy"]].concat(),
            hello,
        )
    };
    let mix = nodes[2].get("peer_id");
    let deadline = Instant::now() + Duration::from_secs(60);
    while legacy(&["--to-mix", &mix]).1 != hello {
        assert!(Instant::now() < deadline);
    }
    let to = format!("{}/p2p/{}", nodes[1].get("multiaddr"), nodes[1].get("peer_id"));
    assert_eq!(legacy(&["--to", &to]).0, 4);
}
