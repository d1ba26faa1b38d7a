//! Each role in a process of its own, made by `mizzle network init`: downloads through them, and any of them killed and
//! started again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests: how long things take is measured"
)]

mod common;

use std::time::{Duration, Instant};

use common::processes::{Made, Processes, command};
use common::{LIMIT, Process, Web, has_curl, pattern, place, run};

const FILE: usize = 20_000;
/// From the start of a process that was killed until traffic flows again.
const BACK: Duration = Duration::from_secs(45);

#[track_caller]
fn assert_download(network: &Processes, client: &str, web: &Web) {
    let got = network.curl(client, &web.url(FILE), 60);
    assert_eq!(got.code, Some(0), "{}", got.stderr);
    assert!(got.body == pattern(FILE), "{} wrong bytes", got.body.len());
}

/// Asks again and again until the bytes are right.
#[track_caller]
fn assert_flows_again(network: &Processes, what: &str, web: &Web) {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let got = network.curl("client-1", &web.url(FILE), 5);
        if got.code == Some(0) {
            assert!(got.body == pattern(FILE), "{what}: wrong bytes");
            println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
            assert!(start.elapsed() < BACK, "{what}: only after {:?}", start.elapsed());
            return;
        }
    }
    panic!("{what}: nothing within {LIMIT:?}");
}

#[test]
fn a_network_of_thirteen_processes_carries_downloads_over_quic() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let network = Processes::start(Made::new("thirteen", &[]));
    assert_eq!(network.ready.len(), 13);
    let roles = |role: &str| network.ready.values().filter(|r| r["role"] == role).count();
    assert_eq!(
        (roles("mix"), roles("gateway"), roles("gateway with exit")),
        (9, 1, 2)
    );
    assert_download(&network, "client-1", &web);
    // The exits may reach this machine's web server, never the network itself.
    let port = network.socks("client-1").port();
    let nodes = network.made.said["nodes"].as_array().unwrap();
    let of_node = nodes[0]["address"].as_str().unwrap().split('/').nth(4).unwrap();
    let host = network.made.host;
    network
        .curl("client-1", &format!("http://{host}:{of_node}/"), 60)
        .assert_refused(2);
    assert_ne!(port, 0);
    network.stop_all();
}

#[test]
fn two_clients_download_over_tcp() {
    if !has_curl() {
        return;
    }
    let web = Web::start();
    let flags = ["--transport", "tcp", "--clients", "2"];
    let network = Processes::start(Made::small("tcp", &flags));
    assert_download(&network, "client-1", &web);
    assert_download(&network, "client-2", &web);
    assert_ne!(
        network.ready["client-1"]["client"], network.ready["client-2"]["client"],
        "each has an identity of its own"
    );
    network.stop_all();
}

fn any_process_comes_back(transport: &str) {
    let web = Web::start();
    let mut network = Processes::start(Made::small(
        &format!("back-{transport}"),
        &["--transport", transport],
    ));
    assert_download(&network, "client-1", &web);
    let client = network.ready["client-1"]["client"].clone();
    for name in [
        "mix-1-1",
        "mix-2-1",
        "mix-3-1",
        "gateway-1",
        "gateway-2",
        "client-1",
    ] {
        network.kill(name);
        network.restart(name);
        assert_flows_again(&network, &format!("{transport}, {name} killed"), &web);
    }
    assert_eq!(
        network.ready["client-1"]["client"], client,
        "it is still the same one"
    );
    // In order, and away for a while.
    for name in ["mix-2-1", "gateway-2"] {
        network.stop(name);
        let got = network.curl("client-1", &web.url(FILE), 3);
        assert_ne!(got.code, Some(0), "without {name} nothing flows");
        network.restart(name);
        assert_flows_again(&network, &format!("{transport}, {name} stopped"), &web);
    }
    network.stop_all();
}

#[test]
fn any_process_that_is_killed_comes_back_over_quic() {
    if has_curl() {
        any_process_comes_back("quic");
    }
}

#[test]
fn any_process_that_is_killed_comes_back_over_tcp() {
    if has_curl() {
        any_process_comes_back("tcp");
    }
}

/// A client with one more line in its configuration, before the first section; its complaint, or itself when it is ready.
fn client_with(network: &Processes, lines: &[&str]) -> Result<(Process, serde_json::Value), String> {
    let config = network.made.config("client-1");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{}\n{good}", lines.join("\n"))).unwrap();
    let outcome = client_of(network);
    std::fs::write(&config, good).unwrap();
    outcome
}

fn client_of(network: &Processes) -> Result<(Process, serde_json::Value), String> {
    let mut process = Process::start(command("client", &network.made.config("client-1")));
    match process.next_line() {
        Some(line) => Ok((process, serde_json::from_str(&line).unwrap())),
        None => {
            assert_eq!(process.ended(LIMIT).code(), Some(1));
            Err(process.stderr())
        }
    }
}

fn end(mut process: Process) {
    process.signal("TERM");
    assert_eq!(process.ended(LIMIT).code(), Some(0));
}

/// Adds lines to the section [gateway] of a node and starts it again.
fn restart_with(network: &mut Processes, name: &str, lines: &str) {
    let config = network.made.config(name);
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        good.replace("[gateway]\n", &format!("[gateway]\n{lines}\n")),
    )
    .unwrap();
    network.stop(name);
    network.restart(name);
    std::fs::write(&config, good).unwrap();
}

#[cfg(unix)]
#[test]
fn a_gateway_admits_who_has_its_token_or_is_on_its_list() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut network = Processes::start(Made::small("admission", &["--transport", "tcp"]));
    network.stop("client-1");
    let private = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let token = network.made.folder("gateway-1").join("token");
    std::fs::write(&token, "  please\n").unwrap();
    private(&token);
    private(&network.made.config("client-1"));
    restart_with(
        &mut network,
        "gateway-1",
        "admission = \"token\"\ntoken_file = \"token\"",
    );
    let refused = client_of(&network).err().unwrap();
    assert!(refused.contains("does not admit this client"), "{refused}");
    assert!(client_with(&network, &["token = \"pleas\""]).is_err());
    let (client, ready) = client_with(&network, &["token = \"please\""]).unwrap();
    end(client);

    // The id that the refusal names is the one that the operator lists.
    let id = ready["client"].as_str().unwrap().to_owned();
    let other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    restart_with(
        &mut network,
        "gateway-1",
        &format!("admission = \"list\"\nclients = [\"{other}\"]"),
    );
    let refused = client_of(&network).err().unwrap();
    assert!(refused.contains(&id), "{refused}");
    restart_with(
        &mut network,
        "gateway-1",
        &format!("admission = \"list\"\nclients = [\"{other}\", \"{id}\"]"),
    );
    end(client_of(&network).unwrap().0);
    network.stop_all();
}

#[test]
fn a_client_asks_gateways_for_the_document_keeps_it_and_refuses_an_older_one() {
    let mut network = Processes::start(Made::small("directory", &["--transport", "tcp"]));
    network.stop("client-1");
    // From gateways instead of from a file.
    let config = network.made.config("client-1");
    let asks = |gateways: &[String]| {
        let text = std::fs::read_to_string(&config).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("document =") && !line.starts_with("gateways ="));
        let list: Vec<_> = gateways.iter().map(|g| format!("{g:?}")).collect();
        let all: Vec<_> = std::iter::once(format!("gateways = [{}]", list.join(", ")))
            .chain(lines.map(str::to_owned))
            .collect();
        std::fs::write(&config, all.join("\n")).unwrap();
    };
    let document = std::fs::read(network.made.dir.0.join("network.doc")).unwrap();
    let json = document.splitn(4, |&b| b == b'\n').nth(3).unwrap();
    let content: serde_json::Value = serde_json::from_slice(json).unwrap();
    let gateways: Vec<String> = content["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|n| n["role"] == "gateway")
        .map(|n| {
            format!(
                "{}/p2p/{}",
                n["addresses"][0].as_str().unwrap(),
                n["peer"].as_str().unwrap()
            )
        })
        .collect();
    asks(&gateways);
    let (client, first) = client_of(&network).unwrap();
    end(client);
    let kept = network.made.state("client-1").join("network.doc");
    assert_eq!(std::fs::read(&kept).unwrap(), document);
    // Again: the gateways have none that is newer.
    let (client, second) = client_of(&network).unwrap();
    end(client);
    assert_eq!(first["client"], second["client"], "identity and gateway are kept");
    // Nobody to ask: the one that was kept will do.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    asks(&[format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", closed.port())]);
    end(client_of(&network).unwrap().0);
    // Damaged, it is fetched again; ...
    std::fs::write(&kept, b"damaged").unwrap();
    asks(&gateways);
    end(client_of(&network).unwrap().0);
    assert_eq!(std::fs::read(&kept).unwrap(), document);
    // ... but never one that is older than one that was seen, neither from gateways nor from a file.
    let sequence = network.made.state("client-1").join("sequence");
    let seen = std::fs::read_to_string(&sequence).unwrap();
    let (id, number) = seen.trim().split_once(' ').unwrap();
    assert_eq!(number, "1");
    std::fs::write(&sequence, format!("{id} 9\n")).unwrap();
    std::fs::remove_file(&kept).unwrap();
    let start = Instant::now();
    let from_gateways = client_of(&network).err().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "what is refused is not asked for again and again"
    );
    let text = std::fs::read_to_string(&config).unwrap();
    let from_file: Vec<_> = text
        .lines()
        .map(|line| match line.starts_with("gateways =") {
            true => "document = \"network.doc\"",
            false => line,
        })
        .collect();
    std::fs::write(&config, from_file.join("\n")).unwrap();
    let from_file = client_of(&network).err().unwrap();
    for refused in [from_gateways, from_file] {
        assert!(refused.contains("sequence number 1, but 9 was seen"), "{refused}");
    }
    network.stop_all();
}

#[test]
fn sixteen_processes_are_up_within_seconds_and_small() {
    let _place = place();
    let (code, out, err) = run(&["bench", "processes", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["processes"].as_array().unwrap().len(), 16);
    assert!(report["ready_s"].as_f64().unwrap() < 30.0, "{report}");
    // Where the system tells. The figure is 40 MB in all; of code a build for tests has several times as much.
    if let Some(mb) = report["own_max_mb"].as_f64() {
        assert!(mb < 35.0, "{report}");
    }
    assert!(err.contains("16 of 16 ready"), "{err}");
}
