//! The process ends after each step of a commit, and the inbox is opened again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use mizzle_base::address::Mailbox;
use mizzle_base::{MailboxId, NetworkId, NodeId, Rng};
use mizzle_sphinx::SecretKey;
use mizzle_stream::letter::{CHUNK_LEN, FIRST_LEN, Header, Sealer};
use rand_core::SeedableRng as _;
use zeroize::Zeroizing;

use super::*;

const NETWORK: NetworkId = NetworkId::new([1; 32]);
const SECRET: [u8; 32] = [7; 32];
const ROOM: u64 = 1 << 20;

/// A folder of its own for each test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mizzle-inbox-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self, max_bytes: u64) -> Inbox {
        let opener = Opener {
            network: NETWORK,
            secret: Zeroizing::new(SECRET),
        };
        Inbox::open(&self.0, Arc::new(opener), max_bytes, 0, &mut |_, _| Ok(())).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sealed(id: u8, header: &Header, data: &[u8], signer: Option<[u8; 32]>) -> Vec<Item> {
    let letter = LetterId::new([id; 16]);
    let all = [&header.encode()[..], data].concat();
    let (first, rest) = all.split_at(all.len().min(FIRST_LEN));
    let chunks: Vec<&[u8]> = rest.chunks(CHUNK_LEN).collect();
    let receiver = SecretKey::from_bytes(SECRET).public();
    let mut rng = Rng::seed_from_u64(id.into());
    let last = chunks.is_empty();
    let (mut sealer, item) = Sealer::begin(
        &NETWORK,
        &letter,
        &receiver,
        signer.as_ref(),
        &mut rng,
        first,
        last,
    )
    .unwrap();
    let mut bytes = vec![item];
    for (n, chunk) in chunks.iter().enumerate() {
        bytes.push(sealer.next(chunk, n + 1 == chunks.len()).unwrap());
    }
    let count = bytes.len() as u32;
    let item = |(index, bytes)| Item {
        letter,
        index,
        count,
        bytes,
    };
    (0..).zip(bytes).map(item).collect()
}

fn text(id: u8, items: usize) -> Vec<Item> {
    sealed(
        id,
        &Header::text(),
        &vec![id; (items - 1) * CHUNK_LEN + 100],
        None,
    )
}

fn numbered(first: u64, items: impl IntoIterator<Item = Item>) -> Vec<Incoming> {
    let number = |(number, item)| Incoming {
        generation: 1,
        number,
        item,
    };
    (first..).zip(items).map(number).collect()
}

fn commit(inbox: &mut Inbox, items: &[Incoming]) -> Done {
    inbox.commit(items, 0, &mut |_, _| Ok(())).unwrap()
}

fn done(taken: usize, next: u64) -> Done {
    let generation = 1;
    let cursor = Cursor { generation, next };
    Done { taken, cursor }
}

/// The ids of the letters on the shelf in their order; each can be read to its end.
fn shelf(inbox: &Inbox) -> Vec<u8> {
    let leases: Vec<Lease> = std::iter::from_fn(|| inbox.shelf.take()).collect();
    let id = |lease: &Lease| {
        let content = Content::open(&inbox.opener, &lease.id(), lease.path()).unwrap();
        content.check().unwrap();
        lease.id().as_bytes()[0]
    };
    leases.iter().map(id).collect()
}

#[test]
fn whole_letters_come_in_order_and_once() {
    let folder = Folder::new("order");
    let mut inbox = folder.open(ROOM);
    let (a, b) = (text(1, 3), text(2, 1));
    // The second letter is whole before the first, as two senders' items come.
    let mixed = [&a[..2], &b[..], &a[2..]].concat();
    assert_eq!(commit(&mut inbox, &numbered(5, mixed.clone())), done(4, 9));
    assert_eq!(inbox.shelf.len(), 2);
    // The same items again: as the gateway sends what it did not hear to be kept, and as a sender brings twice.
    assert_eq!(commit(&mut inbox, &numbered(5, mixed.clone())), done(4, 9));
    assert_eq!(commit(&mut inbox, &numbered(9, mixed)), done(4, 13));
    let mut ids = shelf(&inbox);
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    assert_eq!(inbox.shelf.bytes(), 4 * ITEM_LEN as u64);
    assert!(inbox.shelf.counters().get("inbox.duplicate") > 0);
    while let Some(lease) = inbox.shelf.take() {
        lease.remove().unwrap();
    }
    drop(inbox);
    let mut inbox = folder.open(ROOM);
    assert_eq!(commit(&mut inbox, &numbered(13, b)).cursor.next, 14);
    assert_eq!(
        (inbox.shelf.len(), inbox.shelf.bytes()),
        (0, 0),
        "known after it was fetched"
    );
}

#[test]
fn a_process_that_ends_after_any_step_loses_nothing_and_shows_nothing_twice() {
    let letters = [text(1, 3), text(2, 2)].concat();
    for batch in [1, 2, 5] {
        for stop_at in 0..letters.len() {
            for step in 0..4 {
                let folder = Folder::new(&format!("kill-{batch}-{stop_at}-{step}"));
                let mut inbox = folder.open(ROOM);
                let all = numbered(0, letters.clone());
                let mut kept = 0;
                for items in all.chunks(batch) {
                    if items.iter().any(|i| i.number == stop_at as u64) {
                        // Step by step what `commit` does, up to where the process ends.
                        let (record, _, grown) = inbox.write(items, 0).unwrap();
                        if step > 0 {
                            inbox.note(record, grown).unwrap();
                        }
                        if step == 2 {
                            let whole = inbox.record.partial.iter().find(|(_, p)| p.have == p.count);
                            let whole = whole.and_then(|(name, _)| hex::decode(name).map(LetterId::new));
                            if let Some(id) = whole {
                                inbox.seen.add(id, 0).unwrap();
                            }
                        }
                        if step > 2 {
                            inbox.settle(0, &mut |_, _| Ok(())).unwrap();
                        }
                        break;
                    }
                    kept = commit(&mut inbox, items).cursor.next;
                }
                drop(inbox);
                let mut inbox = folder.open(ROOM);
                assert!(inbox.cursor().next >= kept, "what was acknowledged is here");
                // The gateway sends from the last acknowledged number.
                let next = inbox.cursor().next as usize;
                for from in [kept as usize, next] {
                    commit(&mut inbox, &all[from.min(all.len())..]);
                }
                assert_eq!(
                    shelf(&inbox),
                    [1, 2],
                    "batch {batch}, item {stop_at}, step {step}"
                );
                assert_eq!(inbox.shelf.bytes(), 5 * ITEM_LEN as u64);
                drop(inbox);
                assert_eq!(shelf(&folder.open(ROOM)), [1, 2]);
            }
        }
    }
}

#[test]
fn torn_files_are_cut_off_and_come_again() {
    let folder = Folder::new("torn");
    let mut inbox = folder.open(ROOM);
    let all = numbered(0, text(1, 3));
    commit(&mut inbox, &all[..1]);
    inbox.write(&all[1..2], 0).unwrap();
    let path = inbox.partial(&LetterId::new([1; 16]));
    // What a loss of power may leave of bytes that were not synced, and half of a line of what was seen.
    let mut file = disk::private().open(&path).unwrap();
    file.seek(SeekFrom::Start(ITEM_LEN as u64)).unwrap();
    file.write_all(&[0; 1_000]).unwrap();
    std::fs::write(folder.0.join("seen"), "0102").unwrap();
    drop(inbox);
    let mut inbox = folder.open(ROOM);
    assert_eq!(path.metadata().unwrap().len(), ITEM_LEN as u64);
    commit(&mut inbox, &all[1..]);
    assert_eq!(shelf(&inbox), [1]);
    drop(inbox);
    let mut inbox = folder.open(ROOM);
    commit(&mut inbox, &numbered(3, text(1, 3)));
    assert_eq!(shelf(&inbox), [1], "noted as seen after the half line");
}

#[test]
fn a_full_inbox_takes_what_fits_and_goes_on_when_letters_were_fetched() {
    let folder = Folder::new("full");
    let mut inbox = folder.open(3 * ITEM_LEN as u64);
    let all = numbered(0, [text(1, 2), text(2, 2)].concat());
    assert_eq!(commit(&mut inbox, &all), done(3, 3));
    assert_eq!(commit(&mut inbox, &all[3..]), done(0, 3));
    inbox.shelf.take().unwrap().remove().unwrap();
    assert_eq!(commit(&mut inbox, &all[3..]), done(1, 4));
    assert_eq!(shelf(&inbox), [2]);
}

#[test]
fn what_does_not_open_or_has_holes_never_reaches_the_shelf() {
    let folder = Folder::new("bad");
    let mut inbox = folder.open(ROOM);
    let mut damaged = text(1, 2);
    damaged[1].bytes[50] ^= 1;
    let mut short = text(2, 3);
    short.truncate(2);
    short.iter_mut().for_each(|item| item.count = 2);
    let mut hole = text(3, 3);
    hole.remove(1);
    let mut none = text(4, 1);
    none[0].count = 0;
    let items: Vec<Item> = [damaged, short, hole, none].concat();
    let n = items.len();
    assert_eq!(commit(&mut inbox, &numbered(0, items)).taken, n);
    assert_eq!(shelf(&inbox), [0; 0]);
    let counters = inbox.shelf.counters();
    assert_eq!(counters.get("inbox.unopened"), 2);
    assert_eq!(counters.get("inbox.hole"), 1);
    assert_eq!(counters.get("inbox.malformed"), 1);
    assert_eq!(inbox.shelf.bytes(), ITEM_LEN as u64, "of the one with the hole");
    inbox.sweep(REMEMBER_S + 1).unwrap();
    assert_eq!(inbox.shelf.bytes(), 0);
    assert_eq!(disk::names(&folder.0.join("partial")).unwrap(), [""; 0]);
    // Its sender brings it again, whole.
    commit(&mut inbox, &numbered(20, text(3, 3)));
    assert_eq!(shelf(&inbox), [3]);
}

#[test]
fn receipts_are_told_and_not_shown_also_when_telling_fails_at_first() {
    let folder = Folder::new("receipt");
    let mut inbox = folder.open(ROOM);
    let mailbox = Mailbox {
        gateway: NodeId::new([3; 32]),
        id: MailboxId::new([4; 16]),
    };
    let from = SecretKey::from_bytes([9; 32]).public();
    let from = Address::new(&NETWORK, from, vec![mailbox]).unwrap();
    let of = LetterId::new([5; 16]);
    let items = sealed(1, &Header::receipt(of, from.clone()), b"", Some([9; 32]));
    let broken = |_: &LetterId, _: &Address| {
        Err(failed("write", Path::new("x"))(
            std::io::ErrorKind::StorageFull.into(),
        ))
    };
    let items = numbered(0, items);
    assert!(inbox.commit(&items, 0, &mut { broken }).unwrap_err().is_full());
    let mut told = Vec::new();
    let mut tell = |of: &LetterId, from: &Address| {
        told.push((*of, from.clone()));
        Ok(())
    };
    inbox.commit(&items, 0, &mut tell).unwrap();
    inbox.commit(&items, 0, &mut tell).unwrap();
    assert_eq!(told, [(of, from)]);
    assert_eq!((shelf(&inbox), inbox.shelf.bytes()), (vec![], 0));
}

#[test]
fn another_mailbox_counts_from_the_beginning() {
    let folder = Folder::new("generation");
    let mut inbox = folder.open(ROOM);
    commit(&mut inbox, &numbered(40, text(1, 1)));
    // In one batch with the last of the old one, and with lower numbers.
    let mut items = numbered(41, [text(2, 1), text(3, 1)].concat());
    (items[1].generation, items[1].number) = (2, 0);
    commit(&mut inbox, &items);
    assert_eq!(
        inbox.cursor(),
        Cursor {
            generation: 2,
            next: 1
        }
    );
    assert_eq!(shelf(&inbox), [1, 2, 3]);
}

#[test]
fn a_letter_is_read_by_one_at_a_time_and_free_again_when_he_leaves() {
    let folder = Folder::new("lease");
    let mut inbox = folder.open(ROOM);
    commit(&mut inbox, &numbered(0, text(1, 1)));
    let lease = inbox.shelf.take().unwrap();
    assert!(inbox.shelf.take().is_none());
    drop(lease);
    assert_eq!(shelf(&inbox), [1]);
}

#[test]
fn only_so_many_letters_are_remembered_for_so_long() {
    let folder = Folder::new("seen");
    std::fs::create_dir_all(&folder.0).unwrap();
    let mut seen = Seen::open(folder.0.join("seen"), 0).unwrap();
    for n in 0..3 {
        seen.add(LetterId::new([n; 16]), u64::from(n) * 86_400).unwrap();
    }
    let later = Seen::open(folder.0.join("seen"), REMEMBER_S + 86_400).unwrap();
    let known = (0..3).filter(|&n| later.contains(&LetterId::new([n; 16])));
    assert_eq!(known.collect::<Vec<_>>(), [1, 2]);
}
