//! What keeps the workspace in layers: who may depend on whom, what the lower layers may reach, and what the
//! whole tree may hold. Asked of cargo itself, so that no list here grows stale.
//!
//! Each failure says what to do; the layers and their reasons are in `ARCHITECTURE.md`.

#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The highest layer whose crates touch neither sockets nor clocks nor disks.
const LAST_CORE_LAYER: u64 = 3;

/// The simulator stands above the cores and must stay as free of the outside as they are.
const SIMULATOR: &str = "mizzle-sim";

/// Runtimes, sockets, TLS, databases. A name that ends in `*` stands for all that begin so.
const OUTSIDE: [&str; 10] = [
    "tokio", "libp2p*", "mio", "socket2", "rustls", "quinn*", "reqwest", "fjall", "redb", "rusqlite",
];

/// How many packages of others a core crate may bring into the program.
const MOST_PACKAGES: usize = 60;

/// Runs cargo on this workspace as it is locked.
///
/// Offline at first, so that the answer is quick and asks nobody; only where packages of other systems, which
/// no build here ever needed, are not downloaded yet, cargo may fetch them.
fn cargo(arguments: &[&str]) -> String {
    let run = |offline: Option<&str>| {
        Command::new(env!("CARGO"))
            .args(arguments)
            .arg("--locked")
            .args(offline)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo can be run")
    };
    let mut output = run(Some("--offline"));
    if !output.status.success() {
        output = run(None);
    }
    assert!(
        output.status.success(),
        "cargo {arguments:?} failed. If it wants to change Cargo.lock, run `cargo check` and commit the lock \
         file; if it is offline, run `cargo fetch --locked` where there is a network.\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// Everything that cargo knows of the workspace and its dependencies.
struct Metadata(Value);

impl Metadata {
    fn load() -> Self {
        let text = cargo(&["metadata", "--format-version", "1"]);
        Self(serde_json::from_str(&text).expect("cargo prints JSON"))
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        list(&self.0["packages"])
    }

    fn members(&self) -> impl Iterator<Item = &Value> {
        let ids: BTreeSet<_> = list(&self.0["workspace_members"]).map(text).collect();
        self.packages()
            .filter(move |package| ids.contains(text(&package["id"])))
    }

    /// Each member's layer by its name.
    fn layers(&self) -> BTreeMap<&str, u64> {
        let layer = |member: &Value| member["metadata"]["mizzle"]["layer"].as_u64();
        self.members()
            .filter_map(|member| Some((text(&member["name"]), layer(member)?)))
            .collect()
    }

    /// Names of the crates that must not reach the outside.
    fn cores(&self) -> impl Iterator<Item = &str> {
        self.layers()
            .into_iter()
            .filter(|(name, layer)| *layer <= LAST_CORE_LAYER || *name == SIMULATOR)
            .map(|(name, _)| name)
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Names and versions of what ends up in a program that uses this crate with its default features, on any
/// system: procedural macros and what they need stay with the compiler.
fn reach(name: &str) -> BTreeSet<String> {
    let tree = cargo(&[
        "tree",
        "--package",
        name,
        "--edges",
        "normal,no-proc-macro",
        "--target",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let package = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    tree.lines()
        .map(package)
        .filter(|package| !package.is_empty())
        .collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[track_caller]
fn assert_none(complaints: &[String], remedy: &str) {
    assert!(complaints.is_empty(), "{}\n\n{remedy}\n", complaints.join("\n"));
}

#[test]
fn every_crate_states_its_layer() {
    let metadata = Metadata::load();
    let layers = metadata.layers();
    let complaints: Vec<_> = metadata
        .members()
        .map(|member| text(&member["name"]))
        .filter(|name| !layers.contains_key(name))
        .map(|name| format!("{name} states no layer"))
        .collect();
    assert_none(
        &complaints,
        "Add to its Cargo.toml:\n\n[package.metadata.mizzle]\nlayer = N   # one more than the highest that it uses",
    );
    assert!(
        layers.len() > 1,
        "cargo names no members: has the format of its metadata changed?"
    );
}

#[test]
fn dependencies_point_to_lower_layers() {
    let metadata = Metadata::load();
    let layers = metadata.layers();
    let mut complaints = Vec::new();
    for member in metadata.members() {
        let name = text(&member["name"]);
        // Tests may look at anything.
        for dependency in list(&member["dependencies"]).filter(|it| it["kind"] != "dev") {
            let other = text(&dependency["name"]);
            if let (Some(layer), Some(below)) = (layers.get(name), layers.get(other))
                && below >= layer
            {
                complaints.push(format!(
                    "{name} (layer {layer}) depends on {other} (layer {below})"
                ));
            }
        }
    }
    assert_none(
        &complaints,
        "Move what both need to a lower layer, or let the lower crate have a trait that the higher one implements.",
    );
}

#[test]
fn cores_reach_no_sockets_runtimes_or_databases() {
    let metadata = Metadata::load();
    let mut complaints = Vec::new();
    for core in metadata.cores() {
        for package in reach(core) {
            let name = package.split(' ').next().unwrap_or_default();
            // The tree begins with the crate itself.
            if name != core && OUTSIDE.iter().any(|pattern| matches(pattern, name)) {
                complaints.push(format!(
                    "{core} reaches {package}: see `cargo tree -p {core} -i {name}`"
                ));
            }
        }
    }
    assert_none(
        &complaints,
        "Cores are told what happened and answer with actions. Let mizzle-net or mizzle-apps do what needs this.",
    );
}

#[test]
fn cores_bring_few_packages() {
    let metadata = Metadata::load();
    let layers = metadata.layers();
    let mut complaints = Vec::new();
    for core in metadata.cores().filter(|name| *name != SIMULATOR) {
        let packages = reach(core);
        let ours = |package: &&String| layers.contains_key(package.split(' ').next().unwrap_or_default());
        assert!(
            packages.iter().any(|package| ours(&package)),
            "cargo tree does not begin with {core}"
        );
        let others: Vec<_> = packages
            .iter()
            .filter(|package| !ours(package))
            .map(String::as_str)
            .collect();
        if others.len() >= MOST_PACKAGES {
            complaints.push(format!(
                "{core} brings {} packages, {} at most: {}",
                others.len(),
                MOST_PACKAGES - 1,
                others.join(", ")
            ));
        }
    }
    assert_none(
        &complaints,
        "Switch off default features, or do without the newest dependency: `cargo tree -p CRATE -e normal` shows \
         what brings what.",
    );
}

#[test]
fn the_stated_rust_version_is_true_of_the_whole_tree() {
    let metadata = Metadata::load();
    let version = |package: &Value| -> Option<Vec<u64>> {
        let mut parts = text(&package["rust_version"])
            .split('.')
            .map(str::parse)
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        parts.resize(3, 0);
        Some(parts)
    };
    let stated = metadata
        .members()
        .map(|member| version(member).unwrap_or_default())
        .min()
        .unwrap_or_default();
    assert!(
        !stated.is_empty(),
        "a crate lacks `rust-version.workspace = true`"
    );
    let complaints: Vec<_> = metadata
        .packages()
        .filter(|package| version(package).is_some_and(|needed| needed > stated))
        .map(|package| {
            let [name, has, needs] = ["name", "version", "rust_version"].map(|key| text(&package[key]));
            format!("{name} {has} needs Rust {needs}")
        })
        .collect();
    assert_none(
        &complaints,
        "Take an older version (`cargo update -p NAME --precise VERSION`), or raise `rust-version` in the root \
         Cargo.toml and tell users in the changelog.",
    );
}

#[test]
fn dependencies_name_their_versions() {
    let metadata = Metadata::load();
    let mut complaints = Vec::new();
    for member in metadata.members() {
        let others = list(&member["dependencies"]).filter(|it| it["path"].is_null());
        for dependency in others.filter(|it| it["req"] == "*") {
            complaints.push(format!(
                "{} takes any version of {}",
                text(&member["name"]),
                text(&dependency["name"])
            ));
        }
    }
    assert_none(
        &complaints,
        "Name the version that was tested, in the root Cargo.toml.",
    );
}

#[test]
fn nothing_is_under_the_gpl() {
    let metadata = Metadata::load();
    let complaints: Vec<_> = metadata
        .packages()
        .filter(|package| demands_gpl(text(&package["license"])))
        .map(|package| {
            format!(
                "{} is under {}",
                text(&package["name"]),
                text(&package["license"])
            )
        })
        .collect();
    assert_none(
        &complaints,
        "Find another library: mizzle is given on under MIT OR Apache-2.0.",
    );
}

/// Whether every choice of this licence expression leads to a GPL, AGPL or LGPL. Finer than this is
/// `cargo deny`'s business: an expression with both AND and GPL counts as demanding it.
fn demands_gpl(license: &str) -> bool {
    let gpl = |text: &str| text.contains("GPL");
    gpl(license) && (license.contains(" AND ") || license.split(" OR ").flat_map(|it| it.split('/')).all(gpl))
}

#[test]
fn choices_of_licences_are_understood() {
    for free in ["MIT", "MIT OR Apache-2.0 OR LGPL-2.1-or-later", "GPL-2.0/MIT", ""] {
        assert!(!demands_gpl(free), "{free}");
    }
    for bound in [
        "GPL-3.0-only",
        "AGPL-3.0",
        "MIT AND GPL-3.0",
        "GPL-2.0 OR GPL-3.0",
    ] {
        assert!(demands_gpl(bound), "{bound}");
    }
}
