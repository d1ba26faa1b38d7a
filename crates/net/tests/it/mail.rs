//! A client's mail on a real disk, between a gateway at the far end of real streams and the owner.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mizzle_base::address::{Address, AddressError, Mailbox};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Answer, HEAD_LEN, Head, Part, Reader};
use mizzle_base::{Item, LetterId, MailboxId, NetworkId, NodeId};
use mizzle_client::Admission;
use mizzle_net::client::Incoming;
use mizzle_net::clock::Clock;
use mizzle_net::mail::{Carrier, Config, Desk, Entry, Mail, Outgoing, Running, SendError, Stage};
use mizzle_sphinx::SecretKey;
use mizzle_stream::OpenError;
use mizzle_stream::letter::{Header, Kind, Sealer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

const NETWORK: NetworkId = NetworkId::new([1; 32]);
const PATIENCE: Duration = Duration::from_secs(60);

/// How a gateway meets the next uploads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Keeps,
    /// Lets the stream break after so many items.
    Breaks(u32),
    Refuses(OpenError),
    NoMailbox,
}

#[derive(Default)]
struct Kept {
    /// Items of each letter, as far as they came.
    letters: BTreeMap<LetterId, Vec<Item>>,
    /// Heads as they came.
    heads: Vec<Head>,
    moods: Vec<(NodeId, Mood)>,
    opened: Vec<NodeId>,
    acknowledged: u64,
}

/// Speaks the gateway's side of an upload; keeps what it gets for ever.
#[derive(Clone)]
struct Gateway {
    kept: Arc<Mutex<Kept>>,
    stored: watch::Sender<u64>,
}

impl Gateway {
    fn new() -> Self {
        Self {
            kept: Arc::default(),
            stored: watch::Sender::new(0),
        }
    }

    /// For the next upload to this gateway that has no mood yet.
    fn expect(&self, gateway: u8, mood: Mood) {
        let gateway = NodeId::new([gateway; 32]);
        self.kept.lock().unwrap().moods.push((gateway, mood));
    }

    fn items(&self, letter: &LetterId) -> Vec<Item> {
        self.kept
            .lock()
            .unwrap()
            .letters
            .get(letter)
            .cloned()
            .unwrap_or_default()
    }

    async fn upload(self, mut stream: DuplexStream, mood: Mood) -> Option<()> {
        let mut reader = Reader::default();
        let mut head = [0; HEAD_LEN];
        stream.read_exact(&mut head).await.ok()?;
        reader.push(&head);
        let Ok(Some(Part::Head(head))) = reader.read() else {
            panic!("an upload begins with its head")
        };
        let have = {
            let mut kept = self.kept.lock().unwrap();
            kept.heads.push(head);
            kept.letters.entry(head.letter).or_default().len() as u32
        };
        if let Mood::Refuses(why) = mood {
            stream
                .write_all(&Answer::Refused(why.code()).encode())
                .await
                .ok()?;
            return stream.shutdown().await.ok();
        }
        let mut next = 0;
        if head.resume {
            next = have;
            stream.write_all(&Answer::From(next).encode()).await.ok()?;
            reader.resume_at(next);
        }
        while next < head.count {
            if mood == Mood::Breaks(next) {
                return None;
            }
            let mut item = vec![0; ITEM_LEN];
            stream.read_exact(&mut item).await.ok()?;
            reader.push(&item);
            let Ok(Some(Part::Item(item))) = reader.read() else {
                panic!("then items")
            };
            let mut kept = self.kept.lock().unwrap();
            let letter = kept.letters.entry(head.letter).or_default();
            assert_eq!(item.index, next);
            if next as usize == letter.len() {
                letter.push(item);
            }
            next += 1;
        }
        stream.write_all(&Answer::Stored.encode()).await.ok()?;
        stream.shutdown().await.ok()?;
        self.stored.send_modify(|n| *n += 1);
        Some(())
    }
}

impl Carrier for Gateway {
    type Stream = DuplexStream;

    async fn open(&self, gateway: NodeId, _: MailboxId) -> Result<DuplexStream, OpenError> {
        let mood = {
            let mut kept = self.kept.lock().unwrap();
            kept.opened.push(gateway);
            let at = kept.moods.iter().position(|(of, _)| *of == gateway);
            at.map_or(Mood::Keeps, |at| kept.moods.remove(at).1)
        };
        if mood == Mood::NoMailbox {
            return Err(OpenError::NoMailbox);
        }
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(self.clone().upload(far, mood));
        Ok(near)
    }

    fn kept(&self, _: u64, next: u64) {
        self.kept.lock().unwrap().acknowledged = next;
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mizzle-mail-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A person with a client: its secret is made of `n`, his gateway and mailbox too.
struct Person {
    mail: Mail,
    items: mpsc::Sender<Incoming>,
    admission: watch::Sender<Option<Admission>>,
    number: u64,
    _running: Running,
}

fn config(n: u8) -> Config {
    Config::new(NETWORK, NodeId::new([n; 32]), Zeroizing::new([n; 32]))
}

fn incoming(number: u64, item: Item) -> Incoming {
    let generation = 1;
    Incoming {
        generation,
        number,
        item,
    }
}

fn address(n: u8, gateways: &[u8]) -> Address {
    let key = SecretKey::from_bytes([n; 32]).public();
    let mailbox = |&gateway: &u8| Mailbox {
        gateway: NodeId::new([gateway; 32]),
        id: MailboxId::new([n; 16]),
    };
    Address::new(&NETWORK, key, gateways.iter().map(mailbox).collect()).unwrap()
}

impl Person {
    fn start(n: u8, folder: &Path, gateway: &Gateway) -> Self {
        Self::start_with(n, folder, gateway, config(n))
    }

    fn start_with(n: u8, folder: &Path, gateway: &Gateway, config: Config) -> Self {
        let desk = Desk::open(folder, config, Clock::start()).unwrap();
        let (items, incoming) = mpsc::channel(8);
        let admitted = Admission {
            gateway: NodeId::new([n; 32]),
            mailbox: MailboxId::new([n; 16]),
            generation: 1,
        };
        let (admission, seen) = watch::channel(Some(admitted));
        Self {
            mail: desk.mail(),
            number: desk.cursor().next,
            _running: desk.run(gateway.clone(), incoming, seen),
            items,
            admission,
        }
    }

    fn send(&self, to: &Address, data: &[u8], outgoing: &Outgoing) -> Result<LetterId, SendError> {
        let mut draft = self.mail.draft(to.clone(), outgoing)?;
        for piece in data.chunks(10_000) {
            draft.write(piece)?;
        }
        self.mail.post(draft)
    }

    async fn entry(&self, letter: &LetterId, wanted: impl Fn(&Entry) -> bool) -> Entry {
        let mut changed = self.mail.outbox_changed();
        let wait = async {
            loop {
                changed.mark_unchanged();
                let entry = self.mail.entry(letter).unwrap();
                if wanted(&entry) {
                    return entry;
                }
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.expect("it comes to that")
    }

    async fn stage(&self, letter: &LetterId, stage: Stage) -> Entry {
        self.entry(letter, |entry| entry.stage == stage).await
    }

    async fn deliver(&mut self, items: Vec<Item>) {
        for item in items {
            let number = self.number;
            self.number += 1;
            let given = self.items.send(incoming(number, item));
            timeout(PATIENCE, given).await.unwrap().unwrap();
        }
    }

    /// The next letter: its name, its data, who signed it.
    async fn fetch(&self) -> (LetterId, Option<String>, Vec<u8>, Option<Address>) {
        let lease = timeout(PATIENCE, self.mail.next_letter())
            .await
            .expect("it comes");
        let id = lease.id();
        let mut content = self.mail.read(&lease).unwrap();
        let header = content.header.clone();
        let mut data = Vec::new();
        while let Some(piece) = content.next_piece().unwrap() {
            data.extend(piece);
        }
        self.mail.fetched(lease, &header).unwrap();
        let name = (header.kind == Kind::File).then_some(header.name);
        (id, name, data, header.from)
    }
}

fn anonymous() -> Outgoing {
    Outgoing {
        name: None,
        sign: false,
        wants_read: false,
    }
}

fn signed() -> Outgoing {
    Outgoing {
        sign: true,
        wants_read: true,
        ..anonymous()
    }
}

async fn has_address(person: &Person) -> Address {
    let found = async {
        loop {
            if let Some(address) = person.mail.address() {
                return address;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, found).await.expect("admitted")
}

/// A receipt to the person 2 by the person `n`.
fn receipt_for(of: LetterId, n: u8) -> Item {
    let letter = LetterId::new([n + 100; 16]);
    let receiver = SecretKey::from_bytes([2; 32]).public();
    let header = Header::receipt(of, address(n, &[n])).encode();
    let mut rng = mizzle_net::clock::rng().unwrap();
    let signer = Some(&[n; 32]);
    let (_, bytes) = Sealer::begin(&NETWORK, &letter, &receiver, signer, &mut rng, &header, true).unwrap();
    Item {
        letter,
        index: 0,
        count: 1,
        bytes,
    }
}

#[tokio::test]
async fn letters_of_any_size_arrive_as_they_were_sent() {
    let (alice, bob) = (Folder::new("a-sizes"), Folder::new("b-sizes"));
    let gateway = Gateway::new();
    let alice = Person::start(2, &alice.0, &gateway);
    let mut bob = Person::start(3, &bob.0, &gateway);
    let to = has_address(&bob).await;
    assert_eq!(to, address(3, &[3]));
    for len in [0_usize, 1, 3_000, 3_900, 4_000, 4_077, 100_000, 500_001] {
        let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let name = (len % 2 == 1).then(|| format!("{len}.bin"));
        let outgoing = Outgoing {
            name: name.clone(),
            ..anonymous()
        };
        let letter = alice.send(&to, &data, &outgoing).unwrap();
        let entry = alice.stage(&letter, Stage::Stored).await;
        assert_eq!((entry.bytes, entry.items_sent), (len as u64, entry.items));
        bob.deliver(gateway.items(&letter)).await;
        assert_eq!(bob.fetch().await, (letter, name, data, None), "{len} bytes");
    }
    let acknowledged = async {
        while gateway.kept.lock().unwrap().acknowledged != bob.number {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, acknowledged).await.unwrap();
    assert!(gateway.kept.lock().unwrap().heads.iter().all(|head| !head.resume));
    let status = bob.mail.status();
    assert_eq!(
        (status.waiting, status.inbox_bytes, status.inbox_problem),
        (0, 0, None)
    );
}

#[tokio::test]
async fn an_upload_that_breaks_goes_on_where_the_gateway_is() {
    let folder = Folder::new("breaks");
    let gateway = Gateway::new();
    gateway.expect(3, Mood::Breaks(7));
    let alice = Person::start(2, &folder.0, &gateway);
    let letter = alice
        .send(&address(3, &[3]), &[5; 100_000], &anonymous())
        .unwrap();
    let entry = alice.entry(&letter, |entry| entry.problem.is_some()).await;
    assert_eq!(entry.stage, Stage::Waiting);
    alice.stage(&letter, Stage::Stored).await;
    let kept = gateway.kept.lock().unwrap();
    let resumed: Vec<bool> = kept.heads.iter().map(|head| head.resume).collect();
    assert_eq!(resumed, [false, true]);
    assert_eq!(kept.letters[&letter].len() as u32, kept.heads[0].count);
}

#[tokio::test]
async fn a_client_that_starts_again_goes_on_with_what_was_queued() {
    let folder = Folder::new("restart");
    let gateway = Gateway::new();
    let to = address(3, &[3]);
    // Never run: as if the process ended between the answer to the program and the first packet.
    let desk = Desk::open(&folder.0, config(2), Clock::start()).unwrap();
    let mail = desk.mail();
    let mut draft = mail.draft(to.clone(), &anonymous()).unwrap();
    draft.write(&[6; 50_000]).unwrap();
    let letter = mail.post(draft).unwrap();
    // And one that was never ended: nothing of it stays.
    let mut given_up = mail.draft(to, &anonymous()).unwrap();
    given_up.write(&[6; 50_000]).unwrap();
    std::mem::forget(given_up);
    drop((mail, desk));
    gateway.expect(3, Mood::Breaks(4));
    let alice = Person::start(2, &folder.0, &gateway);
    alice.entry(&letter, |entry| entry.problem.is_some()).await;
    drop(alice);
    let alice = Person::start(2, &folder.0, &gateway);
    alice.stage(&letter, Stage::Stored).await;
    assert!(gateway.kept.lock().unwrap().heads.iter().all(|head| head.resume));
    drop(alice);
    let alice = Person::start(2, &folder.0, &gateway);
    assert_eq!(alice.mail.entry(&letter).unwrap().stage, Stage::Stored);
    assert_eq!(alice.mail.status().outbox.len(), 1);
    let left: Vec<_> = std::fs::read_dir(folder.0.join("outbox"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, [format!("{letter}.json")], "sealed bytes are gone");
}

#[tokio::test]
async fn the_next_mailbox_of_an_address_is_tried_and_the_last_no_is_final() {
    let folder = Folder::new("mailboxes");
    let gateway = Gateway::new();
    let alice = Person::start(2, &folder.0, &gateway);
    gateway.expect(3, Mood::NoMailbox);
    let letter = alice.send(&address(5, &[3, 4]), b"hi", &anonymous()).unwrap();
    alice.stage(&letter, Stage::Stored).await;
    assert_eq!(
        gateway.kept.lock().unwrap().opened,
        [NodeId::new([3; 32]), NodeId::new([4; 32])]
    );
    gateway.expect(3, Mood::NoMailbox);
    gateway.expect(4, Mood::NoMailbox);
    let letter = alice.send(&address(5, &[3, 4]), b"hi", &anonymous()).unwrap();
    let failed = alice
        .entry(&letter, |entry| matches!(entry.stage, Stage::Failed { .. }))
        .await;
    assert!(matches!(failed.stage, Stage::Failed { why } if why.contains("no such mailbox")));
    gateway.expect(3, Mood::Refuses(OpenError::MailboxFull));
    let letter = alice.send(&address(5, &[3]), b"hi", &anonymous()).unwrap();
    let waits = alice.entry(&letter, |entry| entry.problem.is_some()).await;
    assert!(waits.problem.unwrap().contains("full"), "and is tried again");
    alice.stage(&letter, Stage::Stored).await;
}

#[tokio::test]
async fn read_is_said_only_by_who_was_written_to_and_only_to_whom_he_accepted() {
    let (alice, bob) = (Folder::new("a-read"), Folder::new("b-read"));
    let gateway = Gateway::new();
    let mut alice = Person::start(2, &alice.0, &gateway);
    let mut bob = Person::start(3, &bob.0, &gateway);
    let (from, to) = (has_address(&alice).await, has_address(&bob).await);

    let letter = alice.send(&to, b"first", &signed()).unwrap();
    alice.stage(&letter, Stage::Stored).await;
    bob.deliver(gateway.items(&letter)).await;
    assert_eq!(
        bob.fetch().await,
        (letter, None, b"first".to_vec(), Some(from.clone()))
    );
    assert_eq!(bob.mail.status().outbox.len(), 0, "a stranger hears nothing");

    bob.mail.accept(&from, "alice").unwrap();
    assert_eq!(bob.mail.known_as(&from).unwrap().name, "alice");
    let letter = alice.send(&to, b"second", &signed()).unwrap();
    alice.stage(&letter, Stage::Stored).await;
    bob.deliver(gateway.items(&letter)).await;
    bob.fetch().await;
    let receipt: LetterId = {
        let outbox = bob.mail.status().outbox;
        assert_eq!((outbox.len(), outbox[0].kind.as_str()), (1, "receipt"));
        LetterId::from_hex(&outbox[0].letter).unwrap()
    };
    bob.stage(&receipt, Stage::Stored).await;
    let genuine = gateway.items(&receipt);

    // Somebody else says that it was read, and that a letter was that asked for nothing.
    alice.stage(&letter, Stage::Stored).await;
    let quiet = alice.send(&to, b"third", &anonymous()).unwrap();
    alice.stage(&quiet, Stage::Stored).await;
    alice
        .deliver(vec![receipt_for(letter, 4), receipt_for(quiet, 3)])
        .await;
    let ignored = async {
        while alice.mail.status().counters.get("receipt.ignored") != 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ignored).await.unwrap();
    assert_eq!(alice.mail.entry(&letter).unwrap().stage, Stage::Stored);
    assert_eq!(alice.mail.entry(&quiet).unwrap().stage, Stage::Stored);

    alice.deliver(genuine).await;
    alice.stage(&letter, Stage::Read).await;
    assert_eq!(alice.mail.status().waiting, 0, "receipts are not shown");
    let counted = async {
        while alice.mail.status().counters.get("receipt.believed") != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    assert!(bob.mail.unaccept(&from).unwrap());
    assert!(!bob.mail.unaccept(&from).unwrap());
    assert_eq!(bob.mail.correspondents(), []);
}

#[tokio::test]
async fn a_full_outbox_says_so_and_has_room_again_afterwards() {
    let folder = Folder::new("outbox-full");
    let gateway = Gateway::new();
    let small = config(2)
        .with_outbox_letters(2)
        .with_outbox_bytes(10 * ITEM_LEN as u64);
    let desk = Desk::open(&folder.0, small, Clock::start()).unwrap();
    let mail = desk.mail();
    let to = address(3, &[3]);
    let mut draft = mail.draft(to.clone(), &anonymous()).unwrap();
    let too_much = draft.write(&vec![0; 20 * ITEM_LEN]).unwrap_err();
    assert!(matches!(too_much, SendError::Full { .. }), "{too_much}");
    drop(draft);
    for _ in 0..2 {
        let draft = mail.draft(to.clone(), &anonymous()).unwrap();
        mail.post(draft).unwrap();
    }
    let refused = mail.draft(to.clone(), &anonymous()).map(drop).unwrap_err();
    assert!(refused.to_string().contains("mizzle outbox"), "{refused}");
    let (_items, incoming) = mpsc::channel(1);
    let (_admission, admitted) = watch::channel(None);
    let mut stored = gateway.stored.subscribe();
    let _running = desk.run(gateway, incoming, admitted);
    timeout(PATIENCE, stored.wait_for(|&n| n == 2))
        .await
        .unwrap()
        .unwrap();
    let mut changed = mail.outbox_changed();
    while mail
        .status()
        .outbox
        .iter()
        .any(|entry| entry.stage != Stage::Stored)
    {
        timeout(PATIENCE, changed.changed()).await.unwrap().unwrap();
    }
    mail.draft(to, &anonymous()).unwrap();
}

#[tokio::test]
async fn a_full_inbox_holds_the_gateway_back_and_goes_on() {
    let (alice, bob) = (Folder::new("a-full"), Folder::new("b-full"));
    let gateway = Gateway::new();
    let alice = Person::start(2, &alice.0, &gateway);
    let room = config(3).with_inbox_bytes(12 * ITEM_LEN as u64);
    let mut bob = Person::start_with(3, &bob.0, &gateway, room);
    let mut letters = Vec::new();
    for n in 0..4_u8 {
        let letter = alice.send(&address(3, &[3]), &[n; 20_000], &anonymous()).unwrap();
        alice.stage(&letter, Stage::Stored).await;
        letters.push(letter);
    }
    let all: Vec<Item> = letters.iter().flat_map(|letter| gateway.items(letter)).collect();
    let fetch = async {
        let mut got = Vec::new();
        for n in 0..4_u8 {
            let lease = timeout(PATIENCE, bob.mail.next_letter()).await.unwrap();
            if n == 0 {
                // Nothing is fetched until the inbox has said that it is full.
                while bob.mail.status().inbox_problem.is_none() {
                    tokio::task::yield_now().await;
                }
            }
            let header = bob.mail.read(&lease).unwrap().header;
            got.push(lease.id());
            bob.mail.fetched(lease, &header).unwrap();
        }
        got
    };
    let items = bob.items.clone();
    let give = async {
        for (number, item) in (0..).zip(all) {
            timeout(PATIENCE, items.send(incoming(number, item)))
                .await
                .unwrap()
                .unwrap();
        }
    };
    let (got, ()) = timeout(PATIENCE, async { tokio::join!(fetch, give) })
        .await
        .unwrap();
    assert_eq!(got, letters);
    bob.number = 24;
    assert_eq!(bob.mail.status().inbox_problem, None);
}

#[tokio::test]
async fn the_address_outlives_the_client_and_follows_the_mailbox() {
    let folder = Folder::new("address");
    let gateway = Gateway::new();
    let fresh = Desk::open(&folder.0, config(2), Clock::start()).unwrap();
    assert_eq!(fresh.mail().address(), None);
    let unsigned = fresh.mail().draft(address(3, &[3]), &signed()).map(drop);
    assert!(matches!(unsigned, Err(SendError::NoAddress)));
    drop(fresh);
    let alice = Person::start(2, &folder.0, &gateway);
    let first = has_address(&alice).await;
    let moved = Admission {
        gateway: NodeId::new([2; 32]),
        mailbox: MailboxId::new([9; 16]),
        generation: 2,
    };
    alice.admission.send_replace(Some(moved));
    let changed = async {
        loop {
            let now = alice.mail.address().unwrap();
            if now != first {
                return now;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(first, address(2, &[2]));
    let second = timeout(PATIENCE, changed).await.unwrap();
    assert_eq!(second.mailboxes()[0].id, MailboxId::new([9; 16]));
    let saved = mizzle_net::mail::saved_address(&folder.0).unwrap();
    assert_eq!(saved, Some(second.to_string()));
    drop(alice);
    let desk = Desk::open(&folder.0, config(2), Clock::start()).unwrap();
    assert_eq!(desk.mail().address(), Some(second));
}

#[tokio::test]
async fn addresses_of_other_networks_are_refused_before_anything_is_queued() {
    let folder = Folder::new("network");
    let desk = Desk::open(&folder.0, config(2), Clock::start()).unwrap();
    let key = *address(3, &[3]).seal_key();
    let other = NetworkId::new([8; 32]);
    let other = Address::new(&other, key, address(3, &[3]).mailboxes().to_vec()).unwrap();
    let refused = desk.mail().draft(other, &anonymous()).map(drop);
    assert!(matches!(
        refused,
        Err(SendError::Address(AddressError::OtherNetwork))
    ));
    assert_eq!(std::fs::read_dir(folder.0.join("outbox")).unwrap().count(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new("modes");
    let gateway = Gateway::new();
    let mut alice = Person::start(2, &folder.0, &gateway);
    let to = has_address(&alice).await;
    alice.mail.accept(&to, "me").unwrap();
    let letter = alice.send(&to, &[1; 10_000], &signed()).unwrap();
    alice.stage(&letter, Stage::Stored).await;
    alice.deliver(gateway.items(&letter)).await;
    let lease = timeout(PATIENCE, alice.mail.next_letter()).await.unwrap();
    let mut folders = vec![folder.0.clone()];
    let mut files = 0;
    while let Some(path) = folders.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            if entry.path().is_dir() {
                assert_eq!(mode, 0o700, "{:?}", entry.path());
                folders.push(entry.path());
            } else {
                assert_eq!(mode, 0o600, "{:?}", entry.path());
                files += 1;
            }
        }
    }
    assert!(files >= 5, "{files}");
    drop(lease);
}
