//! `mizzle status` of clients and nodes in a network of separate processes, and a client whose user wants more company than
//! there is.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::letters::Said;
use common::processes::{Made, Processes};
use common::{Curl, Process, Web, curl, has_curl, mizzle, pattern, poll_until};
use serde_json::{Value, json};

const FILE: usize = 20_000;

/// `mizzle status` of who has this configuration.
fn status(network: &Processes, name: &str, args: &[&str]) -> Said {
    let config = network.made.config(name);
    let all = [&["status", config.to_str().unwrap()], args].concat();
    Said::by(Process::start(mizzle(&all)))
}

fn status_json(network: &Processes, name: &str) -> Value {
    status(network, name, &["--json"]).json().remove(0)
}

/// The rate of a kind of traffic.
fn rate(status: &Value, way: &str, name: &str) -> f64 {
    let rates = status["rates"][way].as_array().unwrap();
    let rate = rates.iter().find(|rate| rate["name"] == name).unwrap();
    rate["per_s"].as_f64().unwrap()
}

#[test]
fn clients_and_nodes_tell_how_they_are_and_a_client_below_its_floor_sends_cover_alone() {
    if !has_curl() {
        return;
    }
    let made = Made::pair("status", &[]);
    let config = made.config("client-1");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("min_pool = 1000\ninbox_mb = 7\n{text}")).unwrap();
    let mut network = Processes::start(made);
    let web = Web::start();
    let got = network.curl("client-2", &web.url(FILE), 60);
    assert!(got.code == Some(0) && got.body == pattern(FILE), "{}", got.stderr);

    // A gateway knows after a while how many there are, and tells its clients.
    poll_until("the gateway says how many users there are", || {
        status_json(&network, "client-2")["anonymity"]["users_at_least"].as_f64()
    });
    let client = status_json(&network, "client-2");
    assert_eq!(
        (&client["kind"], &client["connected"]),
        (&json!("client"), &json!(true))
    );
    assert_eq!(
        (&client["may_send"], &client["min_pool"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(client["network"]["profile"], "browse");
    assert_eq!(
        (&client["network"]["sequence"], &client["network"]["epoch"]),
        (&json!(1), &json!(1))
    );
    // A mix of each layer: 2 loops of others and 2 of gateways, and of one or two users 2.3 packets each.
    let pool = client["anonymity"]["pool"].as_f64().unwrap();
    assert!((6.0..9.0).contains(&pool), "{pool}");
    let delta = client["anonymity"]["delta_1"].as_f64().unwrap();
    assert!((delta - 0.244).abs() < 0.001, "{delta}");
    // 50 packets a second, of which 5 are loops; some of the other slots brought the download.
    let sent: f64 = ["data", "data with reply slots", "drops", "loops"]
        .map(|name| rate(&client, "sent", name))
        .iter()
        .sum();
    assert!((25.0..60.0).contains(&sent), "{sent}");
    assert!(rate(&client, "sent", "data with reply slots") > 0.0);
    let loops = &client["loops"];
    assert!(loops["returned"].as_u64().unwrap() > 0 && loops["median_ms"].as_f64().unwrap() > 20.0);
    assert_eq!(client["nodes"].as_array().map(Vec::len), Some(3), "a mix a layer");
    assert_eq!(client["streams"], 0);
    assert_eq!(client["letters"]["inbox_max_bytes"], 8_192_u64 << 20);
    // Nothing of where it went.
    let all = client.to_string();
    assert!(!all.contains("127.0.0.1") && !all.contains("localhost"), "{all}");

    let text = status(&network, "client-2", &[]).good();
    for words in [
        "client of network `",
        "how well you are hidden",
        "at least, as your gateway says",
        "packets in a mix; 20 wanted, at the mark",
        "! Less than 20 packets in a pool",
        "round trip",
        "none to fetch, 0 to leave",
    ] {
        assert!(text.contains(words), "{words}\n--\n{text}");
    }

    // Nodes.
    for name in network.made.nodes() {
        // A gateway counts for ten seconds before it says a number.
        let node = poll_until("it can tell how many users there are", || {
            let node = status_json(&network, &name);
            node["anonymity"]["users"].is_number().then_some(node)
        });
        assert_eq!(node["kind"], "node", "{name}");
        let is_gateway = name.starts_with("gateway");
        let role = if is_gateway { "gateway with exit" } else { "mix" };
        assert_eq!(node["role"], role, "{name}");
        // Two users, by the messages that come or by the packets that are held: longer than they should on a busy machine.
        let users = node["anonymity"]["users"].as_f64().unwrap();
        assert!((0.5..10.0).contains(&users), "{name}: {users}");
        assert!(node["pool_mean"].as_f64().unwrap() > 1.0, "{name}");
        assert!(node["loops"]["returned"].as_u64().unwrap() > 0, "{name}");
        assert!(rate(&node, "received", "packets") > 50.0, "{name}");
        let clients = if is_gateway { json!(1) } else { Value::Null };
        assert_eq!(node["gateway"]["clients"], clients, "{name}");
        let text = status(&network, &name, &[]).good();
        assert!(text.contains("how well the network hides its users"), "{text}");
        let socket = network.made.state(&name).join("control.sock");
        assert_eq!(
            fs::metadata(socket).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
    // It answers nothing else.
    let outbox = network.ask("gateway-1", &["outbox"]);
    outbox.complains(1, "this is the state of a node");

    // Who wants more company than there is.
    let refused = curl(&format!("http://{}", network.socks("client-1")), &web.url(FILE)).output();
    let refused = Curl::from(refused.unwrap());
    let page = String::from_utf8(refused.body).unwrap();
    assert!(
        page.contains("too few others use the network") && page.contains("mizzle status"),
        "{page}"
    );
    let refused = network.curl("client-1", &web.url(FILE), 60);
    refused.assert_refused(2);
    assert_eq!(web.peers().len(), 1, "only who has no floor came");
    let two = network.address("client-2");
    let sent = network.ask("client-1", &["send", &two, "--text", "hello", "--timeout", "2"]);
    assert_eq!(sent.code, Some(3), "{sent:?}");
    poll_until("the outbox says why", || {
        network.outbox("client-1")["letters"][0]["problem"]
            .as_str()?
            .contains("too few others use")
            .then_some(())
    });
    let client = status_json(&network, "client-1");
    assert_eq!(
        (&client["may_send"], &client["min_pool"]),
        (&json!(false), &json!(1_000))
    );
    assert_eq!(client["letters"]["inbox_max_bytes"], 7_u64 << 20);
    let counted = |name: &str| client["counters"][name].as_u64().unwrap_or(0);
    assert_eq!((counted("slot.data"), counted("slot.reply_data")), (0, 0));
    assert!(
        counted("slot.drop") > 0 && counted("slot.reply_drop") > 0,
        "cover flows"
    );
    let text = status(&network, "client-1", &[]).good();
    assert!(text.contains("! Nothing of yours is sent, only cover"), "{text}");

    // Who isn't there.
    network.stop("mix-1-1");
    status(&network, "mix-1-1", &[]).complains(5, "nothing runs with the state");
    network.stop_all();
}
