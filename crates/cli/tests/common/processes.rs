//! A network of processes: what `mizzle network init` makes, each node and client in a process of its own, to be stopped,
//! killed and started again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;

use super::{Curl, LIMIT, Place, Process, curl, mizzle, place, run, scratch};

/// A folder that is removed with all that is in it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = scratch(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A network on disk.
pub struct Made {
    pub dir: Folder,
    pub said: Value,
    /// Where its nodes listen.
    pub host: Ipv4Addr,
}

/// A loopback address of a network's own, where the system has them all: between the making of a network and its start nobody
/// else takes one of its ports.
fn own_host() -> Ipv4Addr {
    static MADE: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    // Not among those that people use.
    let own = Ipv4Addr::new(127, high | 0x80, low, MADE.fetch_add(1, Ordering::Relaxed));
    match UdpSocket::bind((own, 0)) {
        Ok(_) => own,
        Err(_) => Ipv4Addr::LOCALHOST,
    }
}

impl Made {
    /// `mizzle network init` on ports of this machine that are free, with exits that reach it, and with these flags.
    pub fn new(name: &str, flags: &[&str]) -> Self {
        let dir = Folder::new(name);
        let path = dir.0.to_str().expect("a path of ours");
        let host = own_host();
        let hosts = host.to_string();
        let mut args = vec!["network", "init", path, "--json", "--base-port", "0"];
        args.extend(["--hosts", &hosts]);
        args.extend(["--exit-allow", "127.0.0.0/8"]);
        args.extend(flags);
        let (code, out, err) = run(&args);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        let said = serde_json::from_str(&out).expect("JSON");
        Self { dir, said, host }
    }

    /// One mix in each layer, two gateways of which the second has the exit, one client.
    pub fn small(name: &str, flags: &[&str]) -> Self {
        let shape = ["--mixes-per-layer", "1", "--gateways", "2", "--exits", "1"];
        Self::new(name, &[&shape, flags].concat())
    }

    /// One mix in each layer, two gateways with exits, and two clients: client-1 at gateway-1, client-2 at gateway-2.
    /// Half of what each sends is for the other's gateway, the most that there can be.
    pub fn pair(name: &str, flags: &[&str]) -> Self {
        let shape = ["--mixes-per-layer", "1", "--gateways", "2", "--exits", "2"];
        let made = Self::new(name, &[&shape, &["--clients", "2"][..], flags].concat());
        made.set_gateway("client-1", "gateway-1");
        made.set_gateway("client-2", "gateway-2");
        made
    }

    /// Says in a client's configuration which gateway is its own.
    fn set_gateway(&self, client: &str, gateway: &str) {
        let document = std::fs::read(self.dir.0.join("network.doc")).expect("a document");
        let json = document
            .splitn(4, |&b| b == b'\n')
            .nth(3)
            .expect("a line of JSON");
        let document: Value = serde_json::from_slice(json).expect("JSON");
        let nodes = self.said["nodes"].as_array().expect("nodes");
        let address = nodes.iter().find(|n| n["name"] == gateway).expect("a node")["address"].clone();
        let listed = document["nodes"].as_array().expect("nodes");
        let id = &listed
            .iter()
            .find(|n| n["addresses"][0] == address)
            .expect("listed")["id"];
        let config = self.config(client);
        let text = std::fs::read_to_string(&config).expect("a configuration");
        // In front of all sections.
        std::fs::write(&config, format!("gateway = {id}\n{text}")).expect("a configuration");
    }

    /// The names of all nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.configs().into_keys().collect()
    }

    fn configs(&self) -> BTreeMap<String, PathBuf> {
        let text = |v: &Value| v.as_str().expect("a text").to_owned();
        let nodes = self.said["nodes"].as_array().expect("nodes");
        nodes
            .iter()
            .map(|n| (text(&n["name"]), text(&n["config"]).into()))
            .collect()
    }

    /// The configuration of a node, `mix-1-1`, or a client, `client-1`.
    pub fn config(&self, name: &str) -> PathBuf {
        match self.configs().remove(name) {
            Some(config) => config,
            None => self.dir.0.join("clients").join(name).join("client.toml"),
        }
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.config(name).parent().expect("a folder").to_owned()
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.folder(name).join("state")
    }

    /// The names of all clients.
    pub fn clients(&self) -> Vec<String> {
        let clients = self.said["clients"].as_array().expect("clients");
        (1..=clients.len()).map(|n| format!("client-{n}")).collect()
    }
}

/// A network of processes, all ready.
pub struct Processes {
    pub made: Made,
    running: BTreeMap<String, Process>,
    /// What each said when it was ready.
    pub ready: BTreeMap<String, Value>,
    _place: Place,
}

impl Processes {
    /// Starts all nodes and clients of a network at once, and waits until they are ready.
    pub fn start(made: Made) -> Self {
        let mut network = Self {
            running: BTreeMap::new(),
            ready: BTreeMap::new(),
            _place: place(),
            made,
        };
        let names: Vec<_> = network
            .made
            .nodes()
            .into_iter()
            .chain(network.made.clients())
            .collect();
        names.iter().for_each(|name| network.launch(name));
        names.iter().for_each(|name| network.await_ready(name));
        network
    }

    /// Starts one, and doesn't wait until it is ready.
    pub fn launch(&mut self, name: &str) {
        let kind = if name.starts_with("client") {
            "client"
        } else {
            "node"
        };
        let process = Process::start(command(kind, &self.made.config(name)));
        self.running.insert(name.into(), process);
    }

    /// Waits until one that was launched is ready.
    pub fn await_ready(&mut self, name: &str) {
        let line = self.process(name).line();
        let ready: Value = serde_json::from_str(&line).expect("one JSON object on one line");
        assert_eq!(ready["ready"], true, "{name}: {line}");
        self.ready.insert(name.into(), ready);
    }

    /// Starts one again that ended.
    pub fn restart(&mut self, name: &str) {
        self.launch(name);
        self.await_ready(name);
    }

    pub fn process(&mut self, name: &str) -> &mut Process {
        self.running.get_mut(name).expect("it runs")
    }

    /// Takes one out, that is to end by itself.
    pub fn take(&mut self, name: &str) -> Process {
        self.running.remove(name).expect("it runs")
    }

    /// Kills one with a signal that it doesn't hear.
    pub fn kill(&mut self, name: &str) {
        let mut process = self.running.remove(name).expect("it runs");
        process.signal("KILL");
        assert_eq!(process.ended(LIMIT).code(), None);
    }

    /// Ends one as its operator does, and makes sure that it had nothing to complain about.
    pub fn stop(&mut self, name: &str) {
        let mut process = self.running.remove(name).expect("it runs");
        process.signal("TERM");
        assert_eq!(
            process.ended(LIMIT).code(),
            Some(0),
            "{name}: {}",
            process.stderr()
        );
        assert_eq!(process.stdout_rest(), "", "{name}: nothing after the one line");
    }

    /// Ends all, clients first.
    pub fn stop_all(mut self) {
        let names: Vec<_> = self.running.keys().cloned().collect();
        for name in names {
            self.stop(&name);
        }
    }

    /// Where a client's proxy listens.
    pub fn socks(&self, client: &str) -> SocketAddr {
        let said = self.ready[client]["socks"].as_str().expect("an address");
        said.parse().expect("an address")
    }

    /// Downloads through a client.
    pub fn curl(&self, client: &str, url: &str, max_time_s: u32) -> Curl {
        let mut command = curl(&format!("socks5h://{}", self.socks(client)), url);
        command.args(["--max-time", &max_time_s.to_string()]);
        Curl::from(command.output().expect("curl runs"))
    }
}

/// `mizzle KIND run CONFIG --json`.
pub fn command(kind: &str, config: &Path) -> std::process::Command {
    mizzle(&[kind, "run", config.to_str().expect("a path of ours"), "--json"])
}
