//! The commands of letters as processes, against a client's control socket, its mail and a gateway that keeps letters.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mizzle::control::{
    self, ClientServices, Code, Command, ConnectError, Event, Listener, Services, SocketError,
};
use mizzle_base::address::Address;
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Answer, HEAD_LEN, Head, Part, Reader};
use mizzle_base::{MailboxId, NetworkId, NodeId};
use mizzle_client::Admission;
use mizzle_net::client::{Incoming, LoopEnd};
use mizzle_net::clock::Clock;
use mizzle_net::mail::{Carrier, Config, Desk, Running};
use mizzle_stream::OpenError;
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex,
};
use tokio::net::UnixStream;
use tokio::process::Command as Process;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

const NETWORK: NetworkId = NetworkId::new([1; 32]);
const PATIENCE: Duration = Duration::from_secs(60);

/// One gateway for all: it gives what was stored to the mailbox's owner at once.
#[derive(Clone, Default)]
struct Post {
    owners: Arc<Mutex<BTreeMap<MailboxId, Owner>>>,
}

/// Where a mailbox's items go, and the number of the next.
type Owner = (mpsc::UnboundedSender<Incoming>, u64);

impl Post {
    async fn upload(self, mut stream: DuplexStream, mailbox: MailboxId) -> Option<()> {
        let mut reader = Reader::default();
        let mut head = [0; HEAD_LEN];
        stream.read_exact(&mut head).await.ok()?;
        reader.push(&head);
        let Head { count, resume, .. } = Head::decode(&head).unwrap();
        reader.read().unwrap();
        if resume {
            stream.write_all(&Answer::From(0).encode()).await.ok()?;
            reader.resume_at(0);
        }
        let mut items = Vec::new();
        for _ in 0..count {
            let mut item = vec![0; ITEM_LEN];
            stream.read_exact(&mut item).await.ok()?;
            reader.push(&item);
            if let Ok(Some(Part::Item(item))) = reader.read() {
                items.push(item);
            }
        }
        if let Some((owner, number)) = self.owners.lock().unwrap().get_mut(&mailbox) {
            for item in items {
                let incoming = Incoming {
                    generation: 1,
                    number: *number,
                    item,
                };
                *number += 1;
                owner.send(incoming).ok()?;
            }
        }
        stream.write_all(&Answer::Stored.encode()).await.ok()?;
        stream.shutdown().await.ok()
    }
}

impl Carrier for Post {
    type Stream = DuplexStream;

    async fn open(&self, gateway: NodeId, mailbox: MailboxId) -> Result<DuplexStream, OpenError> {
        match gateway.as_bytes()[0] {
            // Nobody ever answers there.
            8 => return std::future::pending().await,
            9 => return Err(OpenError::NoMailbox),
            _ => {}
        }
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(self.clone().upload(far, mailbox));
        Ok(near)
    }

    fn kept(&self, _: u64, _: u64) {}
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mzl-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A client without its packets.
struct Client {
    state: PathBuf,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    loops: broadcast::Sender<LoopEnd>,
    _running: Running,
    _admission: watch::Sender<Option<Admission>>,
}

impl Client {
    fn start(state: &Path, n: u8, post: &Post) -> Self {
        let secret = Zeroizing::new([n; 32]);
        let config = Config::new(NETWORK, NodeId::new([n; 32]), secret);
        let desk = Desk::open(&state.join("mail"), config, Clock::start()).unwrap();
        let mailbox = MailboxId::new([n; 16]);
        let (sender, mut queue) = mpsc::unbounded_channel();
        let first = desk.cursor().next;
        post.owners.lock().unwrap().insert(mailbox, (sender, first));
        let (items, incoming) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(item) = queue.recv().await {
                if items.send(item).await.is_err() {
                    return;
                }
            }
        });
        let generation = 1;
        let (admission, admitted) = watch::channel(Some(Admission {
            gateway: NodeId::new([n; 32]),
            mailbox,
            generation,
        }));
        let (loops, _) = broadcast::channel(64);
        let subscribe = loops.clone();
        let services = Services {
            status: Arc::new(|| serde_json::json!({ "up": true })),
            client: Some(ClientServices {
                mail: desk.mail(),
                loops: Arc::new(move || Some(subscribe.subscribe())),
                loops_per_s: 40.0,
            }),
        };
        let running = desk.run(post.clone(), incoming, admitted);
        let (stop, stopped) = watch::channel(false);
        let listener = Listener::bind(state).unwrap();
        Self {
            state: state.into(),
            stop,
            serving: tokio::spawn(control::serve(listener, services, stopped)),
            loops,
            _running: running,
            _admission: admission,
        }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.serving.await.unwrap();
    }

    async fn address(&self) -> String {
        let found = async {
            loop {
                let mut asked = control::connect(&self.state, Command::Address).await.unwrap();
                match asked.event().await {
                    Ok(Event::Address { address }) => return address,
                    Err(ConnectError::Refused {
                        code: Code::NotYet, ..
                    }) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap()
    }
}

fn command(state: &Path, args: &[&str]) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_mizzle"));
    process
        .args(args)
        .arg("--state")
        .arg(state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    process
}

async fn mizzle(state: &Path, args: &[&str]) -> (i32, String, String) {
    let output = timeout(PATIENCE, command(state, args).output()).await;
    said(output.expect("it ends").unwrap())
}

fn said(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

async fn with_input(state: &Path, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut child = command(state, args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = async {
        stdin.write_all(input).await.unwrap();
        drop(stdin);
    };
    let (output, ()) = timeout(PATIENCE, async { tokio::join!(child.wait_with_output(), feed) })
        .await
        .unwrap();
    said(output.unwrap())
}

fn at(gateway: u8, person: u8) -> String {
    let key = mizzle_sphinx::SecretKey::from_bytes([person; 32]).public();
    let mailbox = mizzle_base::address::Mailbox {
        gateway: NodeId::new([gateway; 32]),
        id: MailboxId::new([person; 16]),
    };
    Address::new(&NETWORK, key, vec![mailbox]).unwrap().to_string()
}

#[tokio::test]
async fn texts_and_files_go_from_one_person_to_another() {
    let (folder, post) = (Folder::new("go"), Post::default());
    let (a, b) = (folder.0.join("a"), folder.0.join("b"));
    let (alice, bob) = (Client::start(&a, 2, &post), Client::start(&b, 3, &post));
    let to = bob.address().await;
    assert_eq!(
        mizzle(&b, &["address"]).await,
        (0, format!("{to}\n"), String::new())
    );

    let (code, out, err) = mizzle(&a, &["send", &to, "--text", "the cat is fed"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("stored: "), "{out}");
    let got = mizzle(&b, &["receive"]).await;
    assert_eq!(got, (0, "the cat is fed\n".into(), "anonymous\n".into()));

    // A file of many items, its name taken at the other end.
    let data: Vec<u8> = (0..1_500_000_u32)
        .flat_map(|n| (n as u16).to_be_bytes())
        .collect();
    let file = folder.0.join("photo.jpg");
    fs::write(&file, &data).unwrap();
    let to_dir = folder.0.join("in");
    fs::create_dir(&to_dir).unwrap();
    fs::write(to_dir.join("photo.jpg"), b"mine").unwrap();
    let from = alice.address().await;
    let (code, _, err) = mizzle(&a, &["send", &to, file.to_str().unwrap(), "--sign"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let (code, out, err) = mizzle(&b, &["receive", "--dir", to_dir.to_str().unwrap()]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains("photo (2).jpg (3.0 MB)") && out.contains(&format!("signed by {from}")),
        "{out}"
    );
    assert!(fs::read(to_dir.join("photo (2).jpg")).unwrap() == data);
    assert_eq!(fs::read(to_dir.join("photo.jpg")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&to_dir).unwrap().count(), 2, "nothing else is left");

    // From a pipe, to a named file, which is not overwritten.
    let named = folder.0.join("out.bin");
    let (code, out, _) = with_input(&a, &["send", &to, "-", "--name", "in.bin", "--json"], &data).await;
    let sent: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &sent["result"], &sent["bytes"]),
        (0, &"stored".into(), &3_000_000.into())
    );
    let named_text = named.to_str().unwrap();
    let (code, out, _) = mizzle(&b, &["receive", "-o", named_text, "--json"]).await;
    let got: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &got["letter"], &got["name"]),
        (0, &sent["letter"], &"in.bin".into())
    );
    assert!(fs::read(&named).unwrap() == data);
    let (code, _, err) = mizzle(&b, &["receive", "-o", named_text]).await;
    assert!(code == 1 && err.contains("nothing is overwritten"), "{err}");

    // Several at once, as lines of JSON.
    for n in ["one", "two"] {
        assert_eq!(mizzle(&a, &["send", &to, "--text", n, "--json"]).await.0, 0);
    }
    let (code, out, _) = mizzle(&b, &["receive", "--count", "2", "--json"]).await;
    let texts: Vec<_> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].clone())
        .collect();
    assert_eq!((code, texts), (0, vec!["one".into(), "two".into()]));
    let none = mizzle(&b, &["receive", "--all"]).await;
    assert_eq!(none, (0, String::new(), "no letters\n".into()));
    let (code, out, _) = mizzle(&a, &["outbox"]).await;
    assert_eq!(
        (code, out.lines().count(), out.matches(": stored ").count()),
        (0, 5, 5),
        "{out}"
    );
    assert_eq!(
        mizzle(&a, &["outbox", "--waiting"]).await.1,
        "nothing waits to leave\n"
    );
}

#[tokio::test]
async fn read_is_said_to_whom_was_accepted() {
    let (folder, post) = (Folder::new("read"), Post::default());
    let (a, b) = (folder.0.join("a"), folder.0.join("b"));
    let (alice, bob) = (Client::start(&a, 2, &post), Client::start(&b, 3, &post));
    let (from, to) = (alice.address().await, bob.address().await);
    assert_eq!(mizzle(&b, &["accept", "--list"]).await.1, "nobody is accepted\n");
    let (code, out, _) = mizzle(&b, &["accept", &from, "--name", "alice"]).await;
    assert!(code == 0 && out.starts_with("accepted"), "{out}");
    assert_eq!(
        mizzle(&b, &["accept", "--list"]).await.1,
        format!("alice  {from}\n")
    );
    let args = ["send", &to, "--text", "hi", "--sign", "--wait-read"];
    let sending = tokio::spawn(command(&a, &args).output());
    let (code, out, err) = mizzle(&b, &["receive"]).await;
    assert_eq!((code, out.as_str()), (0, "hi\n"));
    assert_eq!(err, format!("signed by alice ({from})\n"));
    let (code, out, err) = said(timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let said: Vec<&str> = out.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(said, ["stored", "read"]);
    assert_eq!(mizzle(&b, &["accept", &from, "--remove"]).await.0, 0);
    let (code, _, err) = mizzle(&b, &["accept", &from, "--remove"]).await;
    assert!(code == 1 && err.contains("not accepted"), "{err}");
}

#[tokio::test]
async fn each_wrong_address_has_its_own_words_and_nothing_is_queued() {
    let (folder, post) = (Folder::new("wrong"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    let good = alice.address().await;
    let mut typo = good.clone();
    typo.pop();
    typo.push(if good.ends_with('q') { 'p' } else { 'q' });
    let parsed: Address = good.parse().unwrap();
    let elsewhere = Address::new(
        &NetworkId::new([7; 32]),
        *parsed.seal_key(),
        parsed.mailboxes().to_vec(),
    );
    let elsewhere = elsewhere.unwrap().to_string();
    for (address, word) in [
        ("hello", "not a mizzle address"),
        (&typo, "typing error"),
        (&elsewhere, "another network"),
    ] {
        let (code, out, err) = mizzle(&a, &["send", address, "--text", "x"]).await;
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(word), "{err}");
    }
    let (code, _, err) = mizzle(&a, &["send", &at(9, 3), "--text", "x"]).await;
    assert!(code == 4 && err.contains("no such mailbox"), "{code} {err}");
    for (args, word) in [
        (&["send", &good, "/nowhere/at/all"][..], "/nowhere/at/all"),
        (&["send", &good, "/"], "cannot read /"),
        (&["send", &good, "-", "--name", "a/b"], "--name"),
        (&["receive", "--dir", "/nowhere"], "--dir"),
    ] {
        let (code, _, err) = mizzle(&a, args).await;
        assert!(code == 1 && err.contains(word), "{code} {err}");
    }
    let (_, out, _) = mizzle(&a, &["outbox", "--json"]).await;
    let outbox: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(outbox["letters"].as_array().unwrap().len(), 1, "{outbox}");
}

#[tokio::test]
async fn without_a_client_it_is_said_what_to_start_and_the_address_is_known() {
    let (folder, post) = (Folder::new("off"), Post::default());
    let a = folder.0.join("a");
    for args in [
        &["address"][..],
        &["receive"],
        &["outbox"],
        &["ping"],
        &["send", &at(3, 3), "--text", "x"],
    ] {
        let (code, _, err) = mizzle(&a, args).await;
        assert!(
            code == 5 && err.contains("mizzle client run"),
            "{args:?} {code} {err}"
        );
    }
    let alice = Client::start(&a, 2, &post);
    let address = alice.address().await;
    alice.stop().await;
    assert!(!a.join("control.sock").exists());
    assert_eq!(
        mizzle(&a, &["address"]).await,
        (0, format!("{address}\n"), String::new())
    );
    // A client that was killed leaves its socket.
    drop(std::os::unix::net::UnixListener::bind(a.join("control.sock")).unwrap());
    assert_eq!(mizzle(&a, &["receive"]).await.0, 5);
    Client::start(&a, 2, &post).address().await;
}

#[tokio::test]
async fn who_waits_hears_that_it_took_too_long_or_that_the_client_stopped() {
    let (folder, post) = (Folder::new("late"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    let (code, _, err) = mizzle(&a, &["receive", "--timeout", "0.2"]).await;
    assert!(
        code == 3 && err.contains("no letter came within 0.2 s"),
        "{code} {err}"
    );
    let silent = at(8, 3);
    let (code, _, err) = mizzle(&a, &["send", &silent, "--text", "x", "--timeout", "0.2"]).await;
    assert!(code == 3 && err.contains("mizzle outbox"), "{code} {err}");
    let (code, out, _) = mizzle(&a, &["send", &silent, "--text", "x", "--no-wait"]).await;
    assert!(code == 0 && out.starts_with("queued: "), "{out}");

    let waiting = tokio::spawn(command(&a, &["send", &silent, "--text", "x"]).output());
    let queued = async { while mizzle(&a, &["outbox"]).await.1.lines().count() < 3 {} };
    timeout(PATIENCE, queued).await.unwrap();
    alice.stop().await;
    let (code, _, err) = said(timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap());
    assert!(
        code == 1 && err.contains("is safe on its disk") && err.contains("mizzle client run"),
        "{err}"
    );
    // Before the client has all of it: nothing is queued.
    let alice = Client::start(&a, 2, &post);
    let mut child = command(&a, &["send", &silent, "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[0; 100]).await.unwrap();
    let drafted = async {
        let draft = |name: String| name.ends_with(".part");
        let names = || fs::read_dir(a.join("mail/outbox")).unwrap();
        while !names().any(|entry| draft(entry.unwrap().file_name().into_string().unwrap())) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, drafted).await.unwrap();
    alice.stop().await;
    drop(stdin);
    let (code, _, err) = said(
        timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap()
            .unwrap(),
    );
    assert!(code == 1 && err.contains("nothing was sent"), "{err}");
}

#[tokio::test]
async fn ctrl_c_ends_a_command_at_once_and_keeps_what_the_client_has() {
    let (folder, post) = (Folder::new("int"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    alice.address().await;
    let child = command(&a, &["send", &at(8, 3), "--text", "x"]).spawn().unwrap();
    let queued = async {
        while mizzle(&a, &["outbox"])
            .await
            .1
            .lines()
            .all(|line| !line.contains("waits since"))
        {}
    };
    timeout(PATIENCE, queued).await.unwrap();
    let interrupt = Process::new("kill")
        .args(["-INT", &child.id().unwrap().to_string()])
        .status();
    assert!(interrupt.await.unwrap().success());
    let (code, _, err) = said(
        timeout(PATIENCE, child.wait_with_output())
            .await
            .unwrap()
            .unwrap(),
    );
    assert!(
        code == 130 && err.contains("stays with the client"),
        "{code} {err}"
    );
    assert!(mizzle(&a, &["outbox"]).await.1.contains("waits since"));
}

#[tokio::test]
async fn a_letter_stays_until_its_receiver_says_that_it_is_written() {
    let (folder, post) = (Folder::new("stays"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    let to = alice.address().await;
    let file = folder.0.join("big");
    fs::write(&file, vec![7; 1_000_000]).unwrap();
    assert_eq!(mizzle(&a, &["send", &to, file.to_str().unwrap()]).await.0, 0);
    let ask = || {
        let command = Command::Receive {
            count: Some(1),
            wait: true,
        };
        control::connect(&alice.state, command)
    };
    // The first goes in the middle, the second after the last byte.
    for wanted in [1, usize::MAX] {
        let mut receiver = ask().await.unwrap();
        let event = timeout(PATIENCE, receiver.event()).await.unwrap().unwrap();
        assert!(matches!(event, Event::Letter { name, .. } if name == "big"));
        let mut pieces = 0;
        while pieces < wanted && receiver.data().await.unwrap().is_some() {
            pieces += 1;
        }
    }
    // Nobody reads what is printed.
    let mut unread = command(&a, &["receive", "-o", "-"]).spawn().unwrap();
    drop(unread.stdout.take());
    let (code, _, err) = said(
        timeout(PATIENCE, unread.wait_with_output())
            .await
            .unwrap()
            .unwrap(),
    );
    assert!(code == 1 && err.contains("stays in the inbox"), "{code} {err}");
    // The client ends before it hears that the letter is written.
    let mut receiver = ask().await.unwrap();
    receiver.event().await.unwrap();
    while receiver.data().await.unwrap().is_some() {}
    alice.stop().await;
    assert!(receiver.written().await.is_err());
    let alice = Client::start(&a, 2, &post);
    let out = folder.0.join("out");
    assert_eq!(mizzle(&a, &["receive", "-o", out.to_str().unwrap()]).await.0, 0);
    assert_eq!(fs::read(&out).unwrap(), vec![7; 1_000_000]);
    assert_eq!(
        mizzle(&alice.state, &["receive", "--all"]).await.2,
        "no letters\n"
    );
}

#[tokio::test]
async fn ping_counts_what_it_saw() {
    let (folder, post) = (Folder::new("ping"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    let pinging = tokio::spawn(command(&a, &["ping", "--count", "4", "--json"]).output());
    let subscribed = async {
        while alice.loops.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, subscribed).await.unwrap();
    for ms in [Some(30), None, Some(10), Some(20)] {
        let round_trip = ms.map(Duration::from_millis);
        alice.loops.send(LoopEnd { round_trip }).unwrap();
    }
    let (code, out, _) = said(timeout(PATIENCE, pinging).await.unwrap().unwrap().unwrap());
    let seen: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &seen["loops"], &seen["lost"]), (0, &4.into(), &1.into()));
    let times = &seen["round_trip_us"];
    assert_eq!((&times["min"], &times["p50"]), (&10_000.into(), &20_000.into()));
    assert_eq!(times["max"], 30_000);
}

async fn raw(state: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(state.join("control.sock")).await.unwrap();
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer).await;
    read.map_or_else(|_| String::new(), |_| answer)
}

#[tokio::test]
async fn strange_requests_are_answered_and_too_many_are_told_so() {
    let (folder, post) = (Folder::new("odd"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    alice.address().await;
    for (line, word) in [
        ("{}\n", "request"),
        ("nonsense\n", "request"),
        ("{\"version\":2,\"command\":\"later\"}\n", "version"),
        ("{\"version\":1,\"command\":\"dance\"}\n", "request"),
        (&format!("{}\n", "x".repeat(70_000)), "request"),
        ("{\"version\":1,\"command\":\"status\"}\n", "\"up\":true"),
    ] {
        let answer = timeout(PATIENCE, raw(&a, line)).await.unwrap();
        assert!(answer.contains(word), "{answer}");
    }
    let mut held = Vec::new();
    for _ in 0..control::MAX_CONNECTIONS {
        let command = Command::Receive {
            count: Some(1),
            wait: true,
        };
        held.push(control::connect(&a, command).await.unwrap());
    }
    let full = async {
        loop {
            let (code, _, err) = mizzle(&a, &["outbox"]).await;
            if code == 1 && err.contains("try again later") {
                return;
            }
        }
    };
    timeout(PATIENCE, full).await.unwrap();
    drop(held);
    let free = async { while mizzle(&a, &["outbox"]).await.0 != 0 {} };
    timeout(PATIENCE, free).await.unwrap();
}

#[tokio::test]
async fn the_socket_is_its_owners_and_says_why_it_cannot_be() {
    let (folder, post) = (Folder::new("sock"), Post::default());
    let a = folder.0.join("a");
    let alice = Client::start(&a, 2, &post);
    alice.address().await;
    let mode = fs::metadata(a.join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(Listener::bind(&a), Err(SocketError::InUse(_))));
    let long = folder.0.join("x".repeat(120));
    fs::create_dir(&long).unwrap();
    let why = Listener::bind(&long).err().unwrap();
    assert!(matches!(why, SocketError::TooLong(_)), "{why}");
    let (code, _, err) = mizzle(&long, &["outbox"]).await;
    assert!(code == 1 && err.contains("shorter path"), "{err}");
    let nowhere = Listener::bind(&folder.0.join("missing")).err().unwrap();
    assert!(nowhere.to_string().contains("missing"), "{nowhere}");
}
