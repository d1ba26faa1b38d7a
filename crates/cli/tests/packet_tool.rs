//! `mizzle sphinx` as a user drives it: round trips from the shell, the vectors of the Nim implementation, and all that can
//! be wrong with what is given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{mizzle, run, scratch};
use mizzle_base::hex;
use mizzle_sphinx::{ADDRESS_LEN, Dialect, Hop, MESSAGE_LEN, Packet, SecretKey, build_with_secret};
use serde_json::Value;

const DIALECTS: [&str; 2] = ["lioness", "legacy"];

/// A folder of one test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = scratch(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `mizzle sphinx`, which must succeed and say nothing on standard error.
#[track_caller]
fn sphinx(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&["sphinx"], args].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{}", brief(args));
    stdout
}

#[track_caller]
fn sphinx_json(args: &[&str]) -> Value {
    serde_json::from_str(&sphinx(&[args, &["--json"]].concat())).unwrap()
}

/// Runs it with something on standard input.
fn sphinx_with_input(args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let file = scratch(&format!("input-{:?}", std::thread::current().id()));
    fs::write(&file, input).unwrap();
    let output = mizzle(&[&["sphinx"], args].concat())
        .stdin(Stdio::from(fs::File::open(&file).unwrap()))
        .output()
        .unwrap();
    fs::remove_file(&file).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Arguments without the length of packets.
fn brief(args: &[&str]) -> String {
    let args = args.iter().map(|arg| arg.get(..80).unwrap_or(arg));
    args.collect::<Vec<_>>().join(" ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Makes keys; the files of the secrets, and the public keys.
fn keys(folder: &Folder, n: usize) -> (Vec<String>, Vec<String>) {
    (0..n)
        .map(|at| {
            let file = folder.file(&format!("{at}.key"));
            let public = text(&sphinx_json(&["keygen", "--out", &file])["public"]).to_string();
            (file, public)
        })
        .unzip()
}

/// `--hop` for each key, with the address of its place.
fn hops(publics: &[String], address: impl Fn(usize) -> String) -> Vec<String> {
    let last = publics.len() - 1;
    let hop = |(at, key): (usize, &String)| {
        let delay = if at == last { 0 } else { 10 * (at + 1) };
        format!("--hop={key}:{}:{delay}", address(at))
    };
    publics.iter().enumerate().map(hop).collect()
}

fn with<'a>(start: &[&'a str], hops: &'a [String], rest: &[&'a str]) -> Vec<&'a str> {
    let hops: Vec<_> = hops.iter().map(String::as_str).collect();
    [start, &hops, rest].concat()
}

#[test]
fn keys_a_packet_and_three_peels_give_the_message() {
    let folder = Folder::new("round-trip");
    let (secrets, publics) = keys(&folder, 3);
    let node = |at: usize| format!("node:{at:064x}");
    let hops = hops(&publics, node);
    for dialect in DIALECTS {
        let packet = folder.file(&format!("{dialect}.packet"));
        let mailbox = format!("mailbox:{}", "ab".repeat(16));
        let args = ["--message", "hello", "--dialect", dialect, "--out", &packet];
        let args = [&args[..], &["--destination", &mailbox]].concat();
        assert_eq!(sphinx(&with(&["build"], &hops, &args)), "");
        assert_eq!(fs::metadata(&packet).unwrap().len(), 4608);

        for (at, words) in [(0, ["10 ms", &node(1)]), (1, ["20 ms", &node(2)])] {
            let args = ["--key", &secrets[at], "--dialect", dialect, "--out", &packet];
            let said = sphinx(&[&["peel", &packet], &args[..]].concat());
            assert!(said.starts_with("layer       forward\n"), "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
            assert!(said.contains("\nreplay tag  "), "{said}");
        }
        let said = sphinx(&["peel", &packet, "--key", &secrets[2], "--dialect", dialect]);
        for words in ["layer        exit\n", &mailbox, "\nmessage      \"hello\"\n"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        // The same, read by a program, and written to a file.
        let key = fs::read_to_string(&secrets[2]).unwrap();
        let out = folder.file(&format!("{dialect}.message"));
        let args = ["--key", key.trim(), "--dialect", dialect, "--out", &out];
        let said = sphinx_json(&[&["peel", &packet], &args[..]].concat());
        assert_eq!((text(&said["layer"]), text(&said["text"])), ("exit", "hello"));
        assert_eq!(text(&said["message"]), "68656c6c6f");
        assert!(list(&said["destination"]["readings"]).contains(&mailbox.as_str().into()));
        assert_eq!(fs::read(&out).unwrap(), b"hello");
    }
}

#[test]
fn a_reply_finds_its_maker_and_is_opened_by_his_keys_alone() {
    let folder = Folder::new("surb");
    let (secrets, publics) = keys(&folder, 4);
    let hops = hops(&publics, |at| format!("node:{at:064x}"));
    for (dialect, with_address) in [("lioness", true), ("lioness", false), ("legacy", false)] {
        let name = |what: &str| folder.file(&format!("{dialect}-{with_address}.{what}"));
        let (surb, kept, packet) = (name("surb"), name("keys"), name("packet"));
        let args = ["--out", &surb, "--keys-out", &kept, "--dialect", dialect];
        let flag: &[&str] = if with_address { &["--with-address"] } else { &[] };
        let args = [&args[..], flag].concat();
        let made = sphinx_json(&with(&["surb", "make"], &hops, &args));
        assert!(made.get("keys").is_none() && made.get("surb").is_none(), "{made}");
        let len = if with_address { 734 } else { 640 };
        assert_eq!(fs::metadata(&surb).unwrap().len(), len);

        let args = ["--message", "an answer", "--dialect", dialect];
        let used = sphinx_json(&[&["surb", "use", &surb], &args[..]].concat());
        let first = &used["first_hop"]["readings"];
        assert_eq!(first.as_array().is_some(), with_address, "{used}");
        sphinx(&[&["surb", "use", &surb, "--out", &packet], &args[..]].concat());
        for secret in &secrets[..3] {
            sphinx(&[
                "peel",
                &packet,
                "--key",
                secret,
                "--dialect",
                dialect,
                "--out",
                &packet,
            ]);
        }
        let args = ["--key", &secrets[3], "--dialect", dialect, "--out", &packet];
        let said = sphinx_json(&[&["peel", &packet], &args[..]].concat());
        assert_eq!((text(&said["layer"]), &said["id"]), ("reply", &made["id"]));
        assert_eq!(fs::metadata(&packet).unwrap().len(), 3984);

        let args = ["--keys", &kept, "--dialect", dialect];
        let said = sphinx(&[&["surb", "open", &packet], &args[..]].concat());
        assert_eq!(said, "message  \"an answer\"\n");
        let out = name("message");
        sphinx(&[&["surb", "open", &packet, "--out", &out], &args[..]].concat());
        assert_eq!(fs::read(out).unwrap(), b"an answer");

        let others = sphinx_json(&with(&["surb", "make"], &hops, &["--dialect", dialect]));
        let args = ["surb", "open", &packet, "--keys", text(&others["keys"])];
        let (code, _, stderr) = run(&[&["sphinx"], &args[..], &["--dialect", dialect]].concat());
        assert_eq!(code, Some(1));
        assert!(stderr.contains("--keys are another SURB's"), "{stderr}");
    }
}

#[test]
fn a_packet_comes_from_a_pipe_a_file_or_the_command_line() {
    let folder = Folder::new("ways-in");
    let (secrets, publics) = keys(&folder, 3);
    let hops = hops(&publics, |_| String::new());
    let sent = folder.file("sent");
    fs::write(&sent, b"\xff\x00 not text").unwrap();
    let from_file = format!("@{sent}");
    let seed = "5a".repeat(32);
    let seed_file = folder.file("seed");
    fs::write(&seed_file, [0x5a; 32]).unwrap();
    let build = |message: &str, seed: &str| {
        let args = ["--message", message, "--danger-seed", seed];
        sphinx(&with(&["build"], &hops, &args))
    };
    let packet = build(&from_file, &seed);
    assert_eq!(packet.trim_end().len(), 2 * 4608);
    // One secret, one packet, in whatever way things are given.
    assert_eq!(build("hex:ff00206e6f742074657874", &seed_file), packet);
    let args = with(&["build"], &hops, &["--message", "-", "--danger-seed", &seed]);
    let (code, piped, _) = sphinx_with_input(&args, "text:x");
    assert_eq!(code, Some(0));
    assert_eq!(
        piped,
        build("hex:746578743a78", &seed),
        "bytes of a pipe are taken as they are"
    );
    assert_ne!(piped, packet);
    assert_eq!(build("text:-", &seed), build("hex:2d", &seed));
    assert_eq!(build("-x", &seed), build("hex:2d78", &seed));
    let fresh = || sphinx(&with(&["build"], &hops, &["--message", "x"]));
    assert_ne!(fresh(), fresh());

    let folded: Vec<_> = packet.trim_end().as_bytes().chunks(60).collect();
    let folded = folded.join(&b"\r\n"[..]);
    let file = folder.file("packet.hex");
    fs::write(&file, &folded).unwrap();
    let key = ["peel", "--json", "--key", &secrets[0]];
    let peeled = sphinx(&[&key[..], &[packet.trim_end()]].concat());
    assert_eq!(sphinx(&[&key[..], &[&file]].concat()), peeled);
    assert_eq!(sphinx(&[&key[..], &[&format!("@{file}")]].concat()), peeled);
    assert_eq!(
        sphinx_with_input(&key, &packet),
        (Some(0), peeled.clone(), String::new())
    );
    let again = [&key[..], &["-"]].concat();
    assert_eq!(sphinx_with_input(&again, &packet.to_uppercase()).1, peeled);

    // To the end, through JSON alone; what isn't text is told in hexadecimal.
    let mut next: Value = serde_json::from_str(&peeled).unwrap();
    next = sphinx_json(&["peel", text(&next["packet"]), "--key", &secrets[1]]);
    let last = text(&next["packet"]);
    let end = sphinx_json(&["peel", last, "--key", &secrets[2]]);
    assert_eq!(
        (text(&end["message"]), &end["text"]),
        ("ff00206e6f742074657874", &Value::Null)
    );
    let end = sphinx(&["peel", last, "--key", &secrets[2]]);
    assert!(end.contains("message      hex:ff00206e6f742074657874\n"), "{end}");
}

#[test]
fn a_message_with_impossible_padding_is_shown_whole() {
    let secrets = [1, 2, 3].map(|n| SecretKey::from_bytes([n; 32]));
    let publics = [0, 1, 2].map(|at: usize| secrets[at].public());
    let address = [0; ADDRESS_LEN];
    let route = publics.each_ref().map(|key| Hop {
        key,
        address: &address,
        delay_ms: 0,
    });
    let (message, mut packet) = ([0xff; MESSAGE_LEN], Packet::zeroed());
    build_with_secret(Dialect::Lioness, [9; 32], &route, &address, &message, &mut packet).unwrap();
    let mut packet = hex::encode(packet.as_bytes());
    let keys = secrets
        .each_ref()
        .map(|secret| hex::encode(secret.expose_bytes()));
    for key in &keys[..2] {
        packet = text(&sphinx_json(&["peel", &packet, "--key", key])["packet"]).to_string();
    }
    let said = sphinx_json(&["peel", &packet, "--key", &keys[2]]);
    assert_eq!(
        (text(&said["layer"]), &said["padding_is_right"]),
        ("exit", &false.into())
    );
    assert!(text(&said["message"]) == "ff".repeat(MESSAGE_LEN));
    let said = sphinx(&["peel", &packet, "--key", &keys[2]]);
    assert!(said.contains("\npadding      wrong: "), "{said}");
}

#[test]
fn what_a_sender_writes_does_not_reach_the_terminal() {
    let folder = Folder::new("terminal");
    let (secrets, publics) = keys(&folder, 3);
    let hops = hops(&publics, |_| String::new());
    let mut packet = sphinx(&with(
        &["build"],
        &hops,
        &["--message", "a\u{1b}]0;b\nlayer  forward"],
    ));
    for secret in &secrets[..2] {
        let next = sphinx_json(&["peel", packet.trim_end(), "--key", secret]);
        packet = text(&next["packet"]).to_string();
    }
    let said = sphinx(&["peel", &packet, "--key", &secrets[2]]);
    assert!(
        said.contains(r#""a\u{1b}]0;b\nlayer  forward""#) && !said.contains('\u{1b}'),
        "{said}"
    );
}

#[test]
fn secrets_are_the_owners_and_are_never_overwritten() {
    let folder = Folder::new("secrets");
    let key = folder.file("a.key");
    let said = sphinx(&["keygen", "--out", &key]);
    let secret = fs::read_to_string(&key).unwrap();
    assert!(
        !said.contains(secret.trim()) && said.starts_with("public  "),
        "{said}"
    );
    let public = |key: &str| sphinx(&["keygen", "--public-of", key]);
    assert_eq!((public(&key), public(secret.trim())), (said.clone(), said));
    let both = sphinx_json(&["keygen"]);
    assert_eq!(
        public(text(&both["secret"])),
        format!("public  {}\n", text(&both["public"]))
    );

    let hops = hops(&vec![text(&both["public"]).to_string(); 3], |_| String::new());
    let (surb, kept) = (folder.file("surb"), folder.file("keys"));
    let make = with(
        &["sphinx", "surb", "make"],
        &hops,
        &["--out", &surb, "--keys-out", &kept],
    );
    assert_eq!(run(&make).0, Some(0));
    let before = [&key, &surb, &kept].map(|file| fs::read(file).unwrap());
    for args in [&["sphinx", "keygen", "--out", &key][..], &make] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(
            stderr.contains("exists") && stderr.contains("choose another name"),
            "{stderr}"
        );
    }
    assert_eq!([&key, &surb, &kept].map(|file| fs::read(file).unwrap()), before);
    #[cfg(unix)]
    for file in [&key, &surb, &kept] {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{file}"
        );
    }
}

/// The route of a vector: keys, addresses as multiaddrs, delays.
fn route(case: &Value) -> Vec<String> {
    let hop = |(at, node): (usize, &Value)| {
        let address = match at {
            0 => multiaddr(node),
            _ => next_multiaddr(&case["hops"][at - 1]),
        };
        let (key, delay) = (text(&node["mix_public_key"]), &case["delays"][at]);
        format!("--hop={key}:{address}:{delay}")
    };
    list(&case["path"]).iter().enumerate().map(hop).collect()
}

fn multiaddr(node: &Value) -> String {
    format!("{}/p2p/{}", text(&node["multiaddr"]), text(&node["peer_id_b58"]))
}

/// Where a hop sends a packet: as the node says, or by way of a relay.
fn next_multiaddr(hop: &Value) -> String {
    format!(
        "{}/p2p/{}",
        text(&hop["next_multiaddr"]),
        text(&hop["next_peer_id"])
    )
}

/// Peels to the end and compares each hop; what the last one said.
fn walk(case: &Value, dialect: &str, packet: &str) -> Value {
    let mut packet = packet.to_string();
    for (node, hop) in list(&case["path"]).iter().zip(list(&case["hops"])) {
        let key = text(&node["mix_private_key"]);
        let said = sphinx_json(&["peel", &packet, "--key", key, "--dialect", dialect]);
        assert_eq!(said["tag"], hop["replay_tag"]);
        if text(&hop["status"]) != "Intermediate" {
            return said;
        }
        assert_eq!(text(&said["layer"]), "forward");
        assert_eq!(said["next"]["block"], hop["next_hop_bytes_94"]);
        assert_eq!(said["delay_ms"], hop["delay_ms"]);
        let next = next_multiaddr(hop);
        assert!(
            list(&said["next"]["readings"]).contains(&next.as_str().into()),
            "{next}"
        );
        let parts = ["alpha", "beta", "gamma", "delta"];
        let output = parts.map(|part| text(&hop["output_packet"][part])).concat();
        packet = text(&said["packet"]).to_string();
        assert!(packet == output, "hop {}", hop["hop_index"]);
    }
    panic!("the route has no end");
}

fn vectors(file: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sphinx/tests/vectors");
    serde_json::from_str(&fs::read_to_string(folder.join(file)).unwrap()).unwrap()
}

#[test]
fn the_vectors_of_the_nim_implementation_are_built_and_peeled_from_the_shell() {
    let mut surbs = 0;
    for (file, dialect) in [
        ("sphinx-L3.json", "lioness"),
        ("sphinx-L4-nonstandard.json", "lioness"),
        ("sphinx-L5-nonstandard.json", "lioness"),
        ("sphinx-L3-legacy-aesctr.json", "legacy"),
    ] {
        for case in list(&vectors(file)["cases"]) {
            let message = format!("hex:{}", text(&case["mixmessage"]));
            let sequence = sequence(&case["message_3968"], dialect);
            let mut args = vec![
                "--danger-seed",
                text(&case["ephemeral_secret"]),
                "--dialect",
                dialect,
            ];
            args.extend(["--message", &message, "--legacy-sequence", &sequence]);
            let destination = case["destination"]
                .get("peer_id_b58")
                .map(|_| multiaddr(&case["destination"]));
            args.extend(destination.iter().flat_map(|to| ["--destination", to]));
            let packet = sphinx(&with(&["build"], &route(case), &args));
            let is_right = packet.trim_end() == text(&case["packet_full"]);
            assert!(is_right, "{file}: {}", case["name"]);

            let end = walk(case, dialect, packet.trim_end());
            assert_eq!(
                (text(&end["layer"]), &end["message"]),
                ("exit", &case["mixmessage"])
            );
            match destination {
                Some(to) => assert!(list(&end["destination"]["readings"]).contains(&to.into())),
                None => assert_eq!(end["destination"]["block"], "00".repeat(94)),
            }
            for surb in list(&case["surbs"]) {
                surbs += 1;
                surb_is_to_the_byte(surb, dialect);
            }
        }
    }
    assert_eq!(surbs, 20);
}

fn surb_is_to_the_byte(surb: &Value, dialect: &str) {
    let seed = [text(&surb["ephemeral_secret"]), text(&surb["reply_key"])].concat();
    let args = [
        "--with-address",
        "--danger-seed",
        &seed,
        "--id",
        text(&surb["surb_id"]),
    ];
    let args = [&args[..], &["--dialect", dialect]].concat();
    let made = sphinx_json(&with(&["surb", "make"], &route(surb), &args));
    assert_eq!(made["surb"], surb["serialized_surb_734"]);

    let message = format!("hex:{}", text(&surb["reply_mixmessage"]));
    let sequence = sequence(&surb["reply_message_3968"], dialect);
    let args = [
        "--message",
        &message,
        "--legacy-sequence",
        &sequence,
        "--dialect",
        dialect,
    ];
    let packet = sphinx(&[&["surb", "use", text(&made["surb"])], &args[..]].concat());
    assert!(packet.trim_end() == text(&surb["reply_packet_full"]));

    let end = walk(surb, dialect, packet.trim_end());
    assert_eq!((text(&end["layer"]), &end["id"]), ("reply", &surb["surb_id"]));
    let args = ["--keys", text(&made["keys"]), "--dialect", dialect];
    let opened = sphinx_json(&[&["surb", "open", text(&end["payload"])], &args[..]].concat());
    assert_eq!(opened["message"], surb["reply_mixmessage"]);
}

/// The number behind a message of the legacy dialect, as the command line takes it.
fn sequence(message: &Value, dialect: &str) -> String {
    match dialect {
        "legacy" => u32::from_str_radix(&text(message)[2 * 3964..], 16)
            .unwrap()
            .to_string(),
        _ => "0".into(),
    }
}

#[test]
fn what_the_nim_implementation_refuses_is_refused_and_the_check_named() {
    let file = vectors("sphinx-L3.json");
    let mut refused = 0;
    for case in list(&file["negative"]) {
        let outcome = text(&case["outcome"]);
        let Some(key) = case.get("mix_private_key").map(text) else {
            continue;
        };
        let args = ["sphinx", "peel", text(&case["packet"]), "--key", key, "--json"];
        let (code, stdout, stderr) = run(&args);
        if outcome == "status: Intermediate" {
            assert_eq!((code, stderr.as_str()), (Some(0), ""));
            continue;
        }
        refused += 1;
        assert_eq!(code, Some(1), "{outcome}");
        if outcome.starts_with("deserialize") {
            assert_eq!(stdout, "");
            assert!(
                stderr.contains("PACKET: ") && stderr.contains("a packet has 4608 bytes"),
                "{stderr}"
            );
            continue;
        }
        let said: Value = serde_json::from_str(&stdout).unwrap();
        let (check, words) = match outcome {
            "status: InvalidMAC" => ("mac", "the MAC of the header is wrong"),
            _ => ("alpha", "alpha is not a valid group element"),
        };
        assert_eq!(
            (text(&said["layer"]), text(&said["check"])),
            ("refused", check),
            "{outcome}"
        );
        assert!(stderr.contains(words), "{stderr}");
    }
    assert_eq!(refused, 11);

    // A payload changed on its way is noticed at its end only, and another dialect looks the same.
    let case = &list(&file["cases"])[0];
    for (spoilt, dialect) in [(true, "lioness"), (false, "legacy")] {
        let mut packet = text(&case["packet_full"]).to_string();
        if spoilt {
            let last = if packet.ends_with('0') { "1" } else { "0" };
            packet.replace_range(packet.len() - 1.., last);
        }
        let nodes = list(&case["path"]);
        for node in &nodes[..2] {
            let args = [
                "peel",
                &packet,
                "--key",
                text(&node["mix_private_key"]),
                "--dialect",
                dialect,
            ];
            packet = text(&sphinx_json(&args)["packet"]).to_string();
        }
        let args = [
            "sphinx",
            "peel",
            &packet,
            "--key",
            text(&nodes[2]["mix_private_key"]),
        ];
        let (code, stdout, stderr) = run(&[&args[..], &["--dialect", dialect]].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(
            stderr.contains("refused: the payload was changed") && stderr.contains("--dialect"),
            "{stderr}"
        );
    }
}

#[test]
fn what_is_wrong_is_told_with_the_name_of_the_argument() {
    let folder = Folder::new("wrong");
    let (secrets, publics) = keys(&folder, 6);
    let file = |name: &str, len: usize| {
        let path = folder.file(name);
        fs::write(&path, vec![b'x'; len]).unwrap();
        path
    };
    // Words of the command lines below that stand for something longer.
    let hops = |n: usize| hops(&publics[..n], |_| String::new()).join(" ");
    let names = [
        ("TWO", hops(2)),
        ("THREE", hops(3)),
        ("SIX", hops(6)),
        ("PUBLIC", publics[0].clone()),
        ("TWIST", format!("02{}", "00".repeat(31))),
        ("NOT_CANONICAL", "ff".repeat(32)),
        ("SMALL", "00".repeat(32)),
        ("LONG_BLOCK", "00".repeat(95)),
        ("KEY", secrets[0].clone()),
        ("PACKET", "00".repeat(4608)),
        ("ODD", "0".repeat(9215)),
        ("PAYLOAD", "00".repeat(3984)),
        ("KEYS_OF_NOTHING", ["11".repeat(48), "ff".repeat(96)].concat()),
        ("MISSING", folder.file("missing")),
        ("3967", file("3967", 3967)),
        ("MEGABYTE", file("megabyte", 1 << 20)),
        ("NO_FOLDER", folder.file("no/such/folder")),
    ];
    let in_full = |word: &str| {
        let parts = word.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let full = parts.map(|part| {
            let end = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = names.iter().find(|(name, _)| *name == end);
            name.map_or_else(|| part.to_string(), |(_, text)| text.clone() + &part[end.len()..])
        });
        full.collect::<String>()
    };
    for (line, expected, words) in [
        (
            "build --message x --hop PUBLIC:abc:1",
            2,
            "--hop | odd number of digits, 3",
        ),
        (
            "build --message x --hop PUBLIC:LONG_BLOCK:1",
            2,
            "--hop | 94 bytes, not 95",
        ),
        (
            "build --message x --hop PUBLIC:node:12:1",
            2,
            "--hop | `node:` needs 64 hex",
        ),
        (
            "build --message x --hop PUBLIC:/ip6/::1/tcp/1:1",
            2,
            "--hop | only /ip4/",
        ),
        (
            "build --message x --hop PUBLIC::65536",
            2,
            "--hop | from 0 to 65535",
        ),
        ("build --message x --hop PUBLIC::x", 2, "--hop | from 0 to 65535"),
        (
            "build --message x --hop abcd::1",
            2,
            "--hop | 64 hexadecimal digits, not 4",
        ),
        ("build --message x --hop PUBLIC", 2, "--hop | two colons"),
        ("build --message x --hop TWIST::1", 2, "--hop | not on the curve"),
        (
            "build --message x --hop NOT_CANONICAL::1",
            2,
            "--hop | not written canonically",
        ),
        ("build --message x --hop SMALL::1", 2, "--hop | prime order"),
        ("build --message x", 2, "--hop"),
        ("build THREE", 2, "--message"),
        (
            "build --message x TWO",
            1,
            "--hop: a route has 3 to 5 hops, not 2",
        ),
        (
            "build --message x SIX",
            1,
            "--hop: a route has 3 to 5 hops, not 6",
        ),
        (
            "build --message x TWO --hop PUBLIC::5",
            1,
            "--hop: the delay of the last hop is zero, not 5 ms",
        ),
        (
            "build --message @3967 THREE",
            1,
            "--message: 3967 bytes | holds 3966",
        ),
        (
            "build --message @3967 --dialect legacy THREE",
            1,
            "--message: 3967 bytes | holds 3962",
        ),
        (
            "build --message @MEGABYTE THREE",
            1,
            "--message: | longer than 65536 bytes",
        ),
        ("build --message hex:0 THREE", 1, "--message: `hex:` | odd number"),
        (
            "build --message hex:0g THREE",
            1,
            "--message: `hex:` | character 2",
        ),
        ("build --message @MISSING THREE", 1, "--message: cannot be read"),
        (
            "build --message x --danger-seed 11 THREE",
            1,
            "--danger-seed: | 32 bytes",
        ),
        (
            "build --message x --destination zz THREE",
            2,
            "--destination | not a hexadecimal digit",
        ),
        (
            "build --message x --out NO_FOLDER THREE",
            1,
            "cannot write NO_FOLDER",
        ),
        ("build --message x --dialect aes THREE", 2, "--dialect | lioness"),
        ("peel PACKET", 2, "--key"),
        ("peel 123 --key KEY", 1, "PACKET: | odd number of digits, 3"),
        (
            "peel 1234 --key KEY",
            1,
            "PACKET: 4 hexadecimal digits | 4608 bytes",
        ),
        ("peel ODD --key KEY", 1, "PACKET: | odd number of digits, 9215"),
        ("peel KEY --key KEY", 1, "PACKET: a packet has 4608 bytes, not 32"),
        (
            "peel @3967 --key KEY",
            1,
            "PACKET: a packet has 4608 bytes, not 3967",
        ),
        (
            "peel MISSING --key KEY",
            1,
            "PACKET: | not a file that can be read",
        ),
        (
            "peel PACKET --key MISSING",
            1,
            "--key: | not a file that can be read",
        ),
        (
            "peel PACKET --key 1234",
            1,
            "--key: 4 hexadecimal digits | 32 bytes",
        ),
        ("peel - --key -", 1, "--key: standard input is the packet's"),
        ("peel PACKET --key KEY", 1, "refused: alpha"),
        (
            "surb make --id 00000000000000000000000000000000 THREE",
            1,
            "--id: the id of a SURB is not zero",
        ),
        ("surb make --id 12 THREE", 2, "--id | 32 hexadecimal digits"),
        ("surb make --danger-seed 12 THREE", 1, "--danger-seed: | 48 bytes"),
        (
            "surb use 12 --message x",
            1,
            "SURB: 2 hexadecimal digits | 640 or 734 bytes",
        ),
        (
            "surb use - --message -",
            1,
            "--message: standard input is the SURB's",
        ),
        (
            "surb open PAYLOAD --keys 12",
            1,
            "--keys: | 144 or 176 or 208 bytes",
        ),
        (
            "surb open PAYLOAD --keys KEYS_OF_NOTHING",
            1,
            "--keys: the public key of a hop is none",
        ),
        (
            "surb open - --keys -",
            1,
            "--keys: standard input is the payload's",
        ),
    ] {
        let args: Vec<_> = line.split(' ').map(in_full).collect();
        let args = args.iter().flat_map(|arg| arg.split(' '));
        let args: Vec<_> = ["sphinx"].into_iter().chain(args).collect();
        let (code, stdout, stderr) = run(&args);
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{line}: {stderr}");
        for words in words
            .split(" | ")
            .map(|words| words.replace("NO_FOLDER", &names[16].1))
        {
            assert!(stderr.contains(&words), "{line}: `{words}` in: {stderr}");
        }
    }
    // A secret that was mistyped is not printed.
    let secret = fs::read_to_string(&secrets[0]).unwrap();
    let mistyped = format!("{}x", &secret.trim()[..63]);
    let (code, _, stderr) = run(&["sphinx", "peel", &"00".repeat(4608), "--key", &mistyped]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("character 64") && !stderr.contains(&secret[..16]),
        "{stderr}"
    );
}

#[test]
fn a_message_as_long_as_a_packet_holds_arrives() {
    let folder = Folder::new("longest");
    let (secrets, publics) = keys(&folder, 5);
    let hops = hops(&publics, |_| String::new());
    for (dialect, len) in [("lioness", 3966), ("legacy", 3962)] {
        let (sent, packet) = (folder.file("sent"), folder.file("packet"));
        let bytes = common::pattern(len);
        fs::write(&sent, &bytes).unwrap();
        let message = format!("@{sent}");
        let args = ["--message", &message, "--dialect", dialect, "--out", &packet];
        sphinx(&with(&["build"], &hops, &args));
        for secret in &secrets {
            sphinx(&[
                "peel",
                &packet,
                "--key",
                secret,
                "--dialect",
                dialect,
                "--out",
                &packet,
            ]);
        }
        assert!(fs::read(&packet).unwrap() == bytes, "{dialect}");
    }
}
