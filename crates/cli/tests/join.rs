//! `mizzle client run`: another process joins the network of `mizzle up` by its signed document, or is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;

use std::time::Duration;

use common::{Process, Up, Web, curl, has_curl, mizzle, pattern, run, scratch};

const SECONDS: Duration = Duration::from_secs(15);
const FILE: usize = 5_000;

fn join(source: [&str; 2], authority: &str) -> (Process, String) {
    let args = [
        "client",
        "run",
        source[0],
        source[1],
        "--authority",
        authority,
        "--socks",
        "127.0.0.1:0",
    ];
    let mut process = Process::start(mizzle(&args));
    loop {
        let line = process.line();
        if let Some(address) = line.trim().strip_prefix("proxy ") {
            let address = address.trim().split(' ').next().unwrap_or_default();
            return (process, address.into());
        }
    }
}

#[test]
fn another_process_joins_by_a_document_from_a_file_and_from_a_gateway() {
    if !has_curl() {
        return;
    }
    let file = scratch("joined");
    let path = file.to_str().unwrap();
    let up = Up::start(&["--write-document", path], None);
    let authority = up.ready["authority"].as_str().unwrap().to_string();
    let shown = run(&["network", "show", path, "--authority", &authority, "--json"]);
    let content: serde_json::Value = serde_json::from_str(&shown.1).unwrap();
    let gateway = content["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|n| n["role"] == "gateway")
        .unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_string();
    let address = format!(
        "{}/p2p/{}",
        text(&gateway["addresses"][0]),
        text(&gateway["peer"])
    );

    let web = Web::start();
    for source in [["--document", path], ["--gateway", &address]] {
        let (mut process, socks) = join(source, &authority);
        let got = curl(&format!("socks5h://{socks}"), &web.url(FILE))
            .output()
            .unwrap();
        assert!(
            got.status.success() && got.stdout == pattern(FILE),
            "{source:?}: {got:?}"
        );
        process.signal("INT");
        assert_eq!(process.ended(SECONDS).code(), Some(0), "{source:?}");
    }

    // Refused before anything is connected or announced.
    let other = "11".repeat(32);
    let mut damaged = std::fs::read(&file).unwrap();
    let at = damaged.len() - 20;
    damaged[at] ^= 1;
    let bad = scratch("damaged");
    std::fs::write(&bad, damaged).unwrap();
    for (source, key, why) in [
        (
            ["--document", path],
            other.as_str(),
            "64 hexadecimal digits|not by the authority",
        ),
        (
            ["--document", bad.to_str().unwrap()],
            authority.as_str(),
            "signature",
        ),
        (
            ["--document", "/nowhere/at/all"],
            authority.as_str(),
            "cannot read /nowhere/at/all",
        ),
        (
            ["--gateway", "127.0.0.1:4001"],
            authority.as_str(),
            "--gateway must be a multiaddr",
        ),
    ] {
        let args = [
            "client",
            "run",
            source[0],
            source[1],
            "--authority",
            key,
            "--socks",
            "127.0.0.1:0",
        ];
        let (code, stdout, stderr) = run(&args);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{source:?}: {stderr}");
        assert!(
            why.split('|').any(|why| stderr.contains(why)),
            "{source:?}: {stderr}"
        );
    }
    std::fs::remove_file(file).unwrap();
    std::fs::remove_file(bad).unwrap();
}

#[test]
fn a_client_needs_one_source_of_its_document() {
    let key = "11".repeat(32);
    let (code, _, stderr) = run(&["client", "run", "--authority", &key]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("--document") && stderr.contains("--gateway"),
        "{stderr}"
    );
}
