//! Configuration files as a user meets them: every mistake is named, with its line and what to do, all at once.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use common::processes::{Folder, Made, command};
use common::{LIMIT, Process, run};
use serde_json::Value;

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Replaces a line of a file, which must be there.
fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn check(file: &Path) -> (Option<i32>, Vec<(Option<u64>, String)>) {
    let (code, out, _) = run(&["config", "check", "--json", file.to_str().unwrap()]);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said[0]["good"], code == Some(0));
    let problems = said[0]["problems"].as_array().unwrap();
    let one = |p: &Value| (p["line"].as_u64(), p["text"].as_str().unwrap().to_owned());
    (code, problems.iter().map(one).collect())
}

/// The file with this content has exactly these problems: line, and words of each.
#[track_caller]
fn assert_problems(folder: &Folder, text: &str, wanted: &[(u64, &[&str])]) {
    let file = folder.0.join("some.toml");
    std::fs::write(&file, text).unwrap();
    let (code, problems) = check(&file);
    assert_eq!(code, Some(1), "{text}");
    for (n, (line, words)) in wanted.iter().enumerate() {
        let Some((found, said)) = problems.get(n) else {
            panic!("{text}\nlacks {words:?}: {problems:?}");
        };
        // Line 0 stands for none.
        assert_eq!(found.unwrap_or(0), *line, "{text}\n{problems:?}");
        for word in *words {
            assert!(said.contains(word), "{text}\n{word:?} in {said:?}");
        }
    }
    assert_eq!(problems.len(), wanted.len(), "{text}\n{problems:?}");
}

#[test]
fn what_init_makes_is_good_and_so_are_examples_once_they_are_filled_in() {
    let made = Made::small("good", &["--clients", "2"]);
    let files: Vec<String> = made
        .nodes()
        .into_iter()
        .chain(made.clients())
        .map(|name| made.config(&name).to_str().unwrap().to_owned())
        .collect();
    let args: Vec<&str> = ["config", "check"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let (code, out, err) = run(&args);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(
        out.lines().filter(|line| line.ends_with(": good")).count(),
        7,
        "{out}"
    );

    let key = made.said["authority"].as_str().unwrap();
    for (kind, name) in [("node", "mix-1-1"), ("client", "client-1")] {
        let (code, example, _) = run(&["config", "example", kind]);
        assert_eq!(code, Some(0));
        let example = example
            .replace(&"0".repeat(64), key)
            .replace("# state =", "state =")
            .replace("# document =", "document =");
        // Beside the state and the document that it names.
        let file = made.folder(name).join("filled.toml");
        std::fs::write(&file, &example).unwrap();
        assert_eq!(check(&file), (Some(0), vec![]), "{example}");
        // Defaults stand there as they are: taking them for given changes nothing.
        let spoken = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(set) if set.contains(" = ") && !set.starts_with(|c: char| c.is_uppercase()) => set,
                _ => line,
            })
            .filter(|line| {
                !["token", "clients", "gateways ="]
                    .iter()
                    .any(|own| line.starts_with(own))
            })
            .collect::<Vec<_>>()
            .join("\n");
        std::fs::write(&file, &spoken).unwrap();
        assert_eq!(check(&file), (Some(0), vec![]), "{spoken}");
    }
}

#[test]
fn every_mistake_in_a_nodes_file_is_named_with_its_line() {
    let made = Made::small("mistakes", &[]);
    let folder = Folder::new("mistakes-files");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::copy(made.dir.0.join("network.doc"), folder.0.join("network.doc")).unwrap();
    let key = made.said["authority"].as_str().unwrap();
    let head = format!("document = \"network.doc\"\nauthority = \"{key}\"\n");
    let listen = "listen = [\"/ip4/127.0.0.1/tcp/0\"]\n";

    // Many at once, in the order of their lines.
    assert_problems(
        &folder,
        "documnet = \"network.doc\"\nauthority = \"abc\"\nlisten = \"/ip4/127.0.0.1/tcp/0\"\nadmission = \"open\"\n\
         [gateway]\nadmission = \"maybe\"\ncapacity_frames_per_s = 0\nmail_total_mb = \"many\"\n\
         [exit]\nallow = [\"10.0.0.1/8\", \"pear\", 5]\n[exti]\nallow = []\n",
        &[
            (1, &["unknown key `documnet`", "did you mean `document`?"]),
            (2, &["`authority`", "64 hexadecimal digits"]),
            (3, &["`listen` must be a list in brackets, and is a text"]),
            (4, &["unknown key `admission`", "in the section [gateway]"]),
            (
                6,
                &[
                    "`gateway.admission`",
                    "\"open\", \"token\", \"list\"",
                    "\"maybe\"",
                ],
            ),
            (7, &["`gateway.capacity_frames_per_s` must be from 1 to"]),
            (8, &["`gateway.mail_total_mb` must be a whole number", "a text"]),
            (10, &["`exit.allow`", "10.0.0.0/8"]),
            (10, &["`exit.allow`", "pear"]),
            (10, &["`exit.allow`", "a text in quotes", "a whole number"]),
            (11, &["unknown section [exti]", "[exit] and [gateway]"]),
            (0, &["`document` is missing", "document = \"network.doc\""]),
        ],
    );
    // What doesn't go together.
    for (text, wanted) in [
        (
            "[gateway]\nadmission = \"token\"",
            (5, ["\"token\"", "token_file"]),
        ),
        ("[gateway]\nadmission = \"list\"", (5, ["\"list\"", "clients"])),
        (
            "[gateway]\nclients = []",
            (5, ["`gateway.clients` has no effect", "\"list\""]),
        ),
        (
            "[gateway]\nmail_mailbox_mb = 20000",
            (5, ["`gateway.mail_mailbox_mb`", "`gateway.mail_total_mb`"]),
        ),
        (
            "[gateway]\ntoken_file = \"none\"",
            (5, ["there is no file", "none"]),
        ),
        ("gateway = \"any\"", (4, ["`gateway` is a section", "[gateway]"])),
        (
            "colour = \"red\"",
            (4, ["unknown key `colour`", "config example"]),
        ),
        ("document = \"network.doc\"", (4, ["duplicate", ""])),
    ] {
        // The last two of the token_file case are one line: the file, and that it has no effect.
        let text = format!("{head}{listen}{text}\n");
        let file = folder.0.join("some.toml");
        std::fs::write(&file, &text).unwrap();
        let (code, problems) = check(&file);
        let hit = |(line, said): &(Option<u64>, String)| {
            *line == Some(wanted.0) && wanted.1.iter().all(|word| said.contains(word))
        };
        assert!(
            code == Some(1) && problems.iter().any(hit),
            "{text}\n{wanted:?} in {problems:?}"
        );
    }
    for (address, why) in [
        ("127.0.0.1:4100", "no multiaddr"),
        ("/ip4/127.0.0.1/udp/4100", "quic-v1"),
        ("/dns4/example.org/tcp/4100", "/ip4/ADDRESS"),
        (
            "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            "/ip4/ADDRESS",
        ),
    ] {
        assert_problems(
            &folder,
            &format!("{head}listen = [\"{address}\"]\n"),
            &[(3, &[address, why])],
        );
    }
    assert_problems(
        &folder,
        &format!("{head}listen = []\n"),
        &[(3, &["one address at least"])],
    );
    // Syntax: each error by its line, and nothing that only seems to be missing.
    let (code, problems) = {
        let file = folder.0.join("some.toml");
        std::fs::write(
            &file,
            format!("{head}listen = [\"/ip4/127.0.0.1/tcp/0\"\nstate = = \"s\"\n[gateway\n"),
        )
        .unwrap();
        check(&file)
    };
    assert_eq!(code, Some(1));
    assert!(
        problems.len() >= 2 && problems.iter().all(|(line, _)| line.is_some()),
        "{problems:?}"
    );
    assert!(
        !problems.iter().any(|(_, said)| said.contains("missing:")),
        "{problems:?}"
    );

    // What is no configuration at all isn't listed line by line.
    let (code, problems) = {
        let file = folder.0.join("some.toml");
        std::fs::write(&file, "dear diary\n".repeat(500)).unwrap();
        check(&file)
    };
    assert_eq!(code, Some(1));
    assert!(problems.len() < 30, "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|(_, said)| said.contains("is this a mizzle configuration?")),
        "{problems:?}"
    );

    // As text: file, line and problem, one to a line, and the exit code.
    let file = folder.0.join("some.toml");
    std::fs::write(&file, "").unwrap();
    let (code, out, err) = run(&["config", "check", file.to_str().unwrap(), "/nowhere.toml"]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("some.toml: `authority` is missing") && out.contains("/nowhere.toml: cannot read it"),
        "{out}"
    );
    assert!(err.contains("2 of 2 files have problems"), "{err}");
}

#[test]
fn every_mistake_in_a_clients_file_is_named_with_its_line() {
    let made = Made::small("client-mistakes", &[]);
    let folder = Folder::new("client-mistakes-files");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::copy(made.dir.0.join("network.doc"), folder.0.join("network.doc")).unwrap();
    let key = made.said["authority"].as_str().unwrap();
    assert_problems(
        &folder,
        "proxy = \"0.0.0.0:1080\"\ntransport = \"pigeon\"\ntoken = 5\ngateway = \"me\"\ngateways = [\"/ip4/127.0.0.1/tcp/1\"]\n\
         danger_proxy_for_other = true\n",
        &[
            (
                1,
                &[
                    "`proxy` can be reached from other machines",
                    "danger_proxy_for_others",
                ],
            ),
            (2, &["`transport`", "\"quic\"", "\"pigeon\""]),
            (3, &["`token` must be a text"]),
            (4, &["`gateway` must be \"any\", a node id of 64"]),
            (5, &["`gateways`", "/p2p/"]),
            (6, &["unknown key", "did you mean `danger_proxy_for_others`?"]),
            (0, &["`authority` is missing"]),
        ],
    );
    let head = format!("authority = \"{key}\"\nproxy = \"127.0.0.1:0\"\nstate = \"state\"\n");
    assert_problems(&folder, &head, &[(0, &["`document` and `gateways` are missing"])]);
    let address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    assert_problems(
        &folder,
        &format!("{head}document = \"network.doc\"\ngateways = [\"{address}\"]\n"),
        &[(5, &["`gateways` has no effect beside `document`"])],
    );
    // What only the document tells.
    let id = "ab".repeat(32);
    assert_problems(
        &folder,
        &format!("{head}document = \"network.doc\"\ngateway = \"{id}\"\n"),
        &[(0, &[&id, "doesn't list as a gateway"])],
    );
    let document = std::fs::read_to_string(folder.0.join("network.doc")).unwrap();
    let content: Value = serde_json::from_str(document.splitn(4, '\n').nth(3).unwrap()).unwrap();
    let nodes = content["nodes"].as_array().unwrap();
    let with_exit = nodes.iter().find(|n| n["exit"].is_object()).unwrap()["id"]
        .as_str()
        .unwrap();
    assert_problems(
        &folder,
        &format!("{head}document = \"network.doc\"\ngateway = \"{with_exit}\"\n"),
        &[(0, &[with_exit, "no other gateway has an exit"])],
    );
    // A secret in a file that others read.
    let file = folder.0.join("secret.toml");
    std::fs::write(
        &file,
        format!("{head}document = \"network.doc\"\ntoken = \"please\"\n"),
    )
    .unwrap();
    set_mode(&file, 0o644);
    let (code, problems) = check(&file);
    assert_eq!(code, Some(1));
    assert!(
        problems[0].1.contains("chmod 600") && !problems[0].1.contains("please"),
        "{problems:?}"
    );
    set_mode(&file, 0o600);
    assert_eq!(check(&file), (Some(0), vec![]));
}

/// Both `config check` and the command that runs the file say so.
#[track_caller]
fn assert_refused(kind: &str, config: &Path, words: &[&str]) {
    let (code, problems) = check(config);
    let all: Vec<_> = problems.iter().map(|(_, said)| said.as_str()).collect();
    let all = all.join("\n");
    assert!(
        code == Some(1) && words.iter().all(|word| all.contains(word)),
        "{words:?} in {all}"
    );
    assert_not_run(kind, config, words);
}

#[track_caller]
fn assert_not_run(kind: &str, config: &Path, words: &[&str]) {
    let mut process = Process::start(command(kind, config));
    let status = process.ended(LIMIT);
    let (out, said) = (process.stdout_rest(), process.stderr());
    assert_eq!((status.code(), out.as_str()), (Some(1), ""), "{said}");
    assert!(
        words.iter().all(|word| said.contains(word)),
        "{words:?} in {said}"
    );
}

#[test]
fn a_node_that_cannot_run_says_why_and_so_does_the_check() {
    let made = Made::small("refused", &["--transport", "tcp"]);
    let other = Made::small("refused-other", &[]);
    let config = made.config("gateway-2");
    let state = made.state("gateway-2");
    let (identity, seed) = (state.join("identity.key"), state.join("epoch.key"));
    let other_seed = other.state("mix-1-1").join("epoch.key");
    let again = |path: &Path, good: &str| std::fs::write(path, good).unwrap();

    for file in [&identity, &seed] {
        set_mode(file, 0o640);
        assert_refused(
            "node",
            &config,
            &["mode 0640", &format!("chmod 600 {}", file.display())],
        );
        set_mode(file, 0o600);
    }
    // All keys at once.
    let good = [&identity, &seed].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&seed, "zz").unwrap();
    std::fs::remove_file(&identity).unwrap();
    assert_refused(
        "node",
        &config,
        &[
            "epoch.key should hold the number of an epoch and a secret seed",
            "identity.key: there is no such file",
        ],
    );
    std::fs::write(&identity, &good[0]).unwrap();
    set_mode(&identity, 0o600);
    std::fs::copy(&other_seed, &seed).unwrap();
    assert_refused(
        "node",
        &config,
        &[
            "epoch.key doesn't belong to the Sphinx key",
            "epoch.key doesn't belong to the exit's stream key",
            "for this node in epoch 1",
        ],
    );
    // As if it had been erased too early.
    let digits = good[1].split_once(' ').unwrap().1;
    std::fs::write(&seed, format!("2 {digits}")).unwrap();
    assert_refused(
        "node",
        &config,
        &["epoch.key begins with epoch 2", "it is epoch 1"],
    );
    again(&seed, &good[1]);
    std::fs::copy(other.state("mix-1-1").join("identity.key"), &identity).unwrap();
    assert_refused(
        "node",
        &config,
        &["doesn't list a node with the identity", "node id"],
    );
    again(&identity, &good[0]);

    let document = made.folder("gateway-2").join("network.doc");
    let signed = std::fs::read(&document).unwrap();
    std::fs::copy(other.dir.0.join("network.doc"), &document).unwrap();
    assert_refused("node", &config, &["network.doc: ", "not by the authority"]);
    std::fs::write(&document, &signed[..signed.len() - 3]).unwrap();
    assert_refused("node", &config, &["signature of the network document is wrong"]);
    std::fs::remove_file(&document).unwrap();
    assert_refused("node", &config, &["there is no file", "network.doc"]);
    std::fs::write(&document, &signed).unwrap();

    let version = state.join("version");
    std::fs::write(&version, "mizzle state 2 node\n").unwrap();
    assert_refused("node", &config, &["made by a newer mizzle (state 2)", "update"]);
    std::fs::write(&version, "mizzle state 1 client\n").unwrap();
    assert_refused("node", &config, &["state of a client"]);
    std::fs::write(&version, "mizzle state 1 node\n").unwrap();
    edit(&config, "state = \"state\"", "state = \"elsewhere\"");
    assert_refused("node", &config, &["there is no state at"]);
    edit(&config, "state = \"elsewhere\"", "state = \"state\"");
    assert_eq!(check(&config), (Some(0), vec![]));

    // Only where it runs does it show that its port is taken.
    let port: u16 = {
        let text = std::fs::read_to_string(&config).unwrap();
        let listen = text.lines().find(|line| line.starts_with("listen")).unwrap();
        listen
            .rsplit('/')
            .next()
            .unwrap()
            .trim_end_matches("\"]")
            .parse()
            .unwrap()
    };
    let address = format!("{}:{port}", made.host);
    let taken = TcpListener::bind(&address).unwrap();
    assert_not_run("node", &config, &[&address, "address in use", "`listen`"]);
    drop(taken);

    // A second process on one state; the first goes on.
    let mut first = Process::start(command("node", &config));
    let ready: Value = serde_json::from_str(&first.line()).unwrap();
    assert_eq!(
        (ready["role"].as_str(), ready["ready"].as_bool()),
        (Some("gateway with exit"), Some(true))
    );
    assert_not_run("node", &config, &[&format!("in use by process {}", first.id())]);
    assert_eq!(check(&config), (Some(0), vec![]), "one that runs can be checked");
    first.signal("INT");
    assert_eq!(first.ended(LIMIT).code(), Some(0));
    assert_eq!(first.stderr(), "");
}

#[test]
fn a_taken_udp_port_is_named_too() {
    let made = Made::small("taken", &[]);
    let address = made.said["nodes"][0]["address"].as_str().unwrap();
    let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
    let address = format!("{}:{port}", made.host);
    let _taken = UdpSocket::bind(&address).unwrap();
    assert_not_run("node", &made.config("mix-1-1"), &[&address, "address in use"]);
}

#[test]
fn a_client_that_cannot_run_says_why() {
    let made = Made::small("client-refused", &[]);
    let config = made.config("client-1");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    edit(
        &config,
        "proxy = \"127.0.0.1:0\"",
        &format!("proxy = \"{address}\""),
    );
    assert_not_run("client", &config, &[&address, "already in use", "`proxy`"]);
    drop(taken);
    let version = made.state("client-1").join("version");
    std::fs::write(&version, "mizzle state 7 client\n").unwrap();
    assert_refused("client", &config, &["newer mizzle (state 7)"]);
    edit(&config, "\nproxy =", "\nproxi =");
    assert_refused(
        "client",
        &config,
        &["unknown key `proxi`", "did you mean `proxy`?"],
    );

    // Without a configuration anywhere: what to do about it.
    let mut bare = common::mizzle(&["client", "run"]);
    bare.env("XDG_CONFIG_HOME", &made.dir.0);
    let mut process = Process::start(bare);
    assert_eq!(process.ended(LIMIT).code(), Some(1));
    let said = process.stderr();
    let place = made.dir.0.join("mizzle/client.toml");
    assert!(
        said.contains(place.to_str().unwrap()) && said.contains("config example client"),
        "{said}"
    );
}

#[test]
fn init_refuses_what_it_cannot_make_and_leaves_nothing() {
    let folder = Folder::new("init");
    let path = folder.0.to_str().unwrap();
    for (flags, words) in [
        (&["--exits", "4"][..], &["--exits 4", "--gateways 3"][..]),
        (&["--hosts", "127.0.0.1,127.0.0.1"], &["127.0.0.1 twice"]),
        (&["--base-port", "65530"], &["65530", "65535"]),
        (
            &["--base-port", "0", "--hosts", "192.0.2.1"],
            &["192.0.2.1", "--base-port"],
        ),
        (&["--name", ""], &["--name"]),
        (&["--mean-delay-ms", "0"], &["--mean-delay-ms"]),
        (&["--exit-allow", "10.0.0.1/8"], &["10.0.0.0/8"]),
    ] {
        let args: Vec<&str> = ["network", "init", path].iter().chain(flags).copied().collect();
        let (code, out, err) = run(&args);
        assert!(code != Some(0) && out.is_empty(), "{flags:?}: {out}");
        assert!(words.iter().all(|word| err.contains(word)), "{words:?} in {err}");
        assert!(!folder.0.exists(), "{flags:?}");
    }
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("letter"), "dear").unwrap();
    let (code, _, err) = run(&["network", "init", path]);
    assert!(code == Some(1) && err.contains("not empty"), "{err}");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn a_network_over_several_machines_listens_everywhere_and_lists_their_addresses() {
    let folder = Folder::new("hosts");
    let path = folder.0.to_str().unwrap();
    let args = [
        "network",
        "init",
        path,
        "--hosts",
        "192.0.2.1,2001:db8::1",
        "--name",
        "two hosts",
        "--profile",
        "chat",
    ];
    let (code, out, err) = run(&args);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.contains("network `two hosts`: 12 nodes") && out.contains("Copy each folder"),
        "{out}"
    );
    let count = |host: &str| std::fs::read_dir(folder.0.join(host)).unwrap().count();
    assert_eq!((count("192.0.2.1"), count("2001-db8--1")), (6, 6));
    // In turn, each machine from the first port on.
    assert!(
        out.contains("/ip4/192.0.2.1/udp/4100/quic-v1") && out.contains("/ip6/2001:db8::1/udp/4105/quic-v1"),
        "{out}"
    );
    let config = folder.0.join("2001-db8--1/mix-1-2/node.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("listen = [\"/ip6/::/udp/4100/quic-v1\"]"), "{text}");
    assert_eq!(check(&config), (Some(0), vec![]));
    let document = folder.0.join("network.doc");
    let authority = text
        .lines()
        .find_map(|l| l.strip_prefix("authority = "))
        .unwrap()
        .trim_matches('"');
    let (code, shown, _) = run(&[
        "network",
        "show",
        document.to_str().unwrap(),
        "--authority",
        authority,
    ]);
    assert!(
        code == Some(0) && shown.contains("two hosts") && shown.contains("chat"),
        "{shown}"
    );
    // The authority's key and those of nodes are their owner's alone.
    use std::os::unix::fs::PermissionsExt as _;
    for file in [
        folder.0.join("authority.key"),
        folder.0.join("192.0.2.1/mix-1-1/state/identity.key"),
    ] {
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
}
