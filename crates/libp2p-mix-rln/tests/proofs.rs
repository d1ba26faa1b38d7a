//! Proofs of real members, checked by another: what passes, and what is dropped under which counter.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "helpers of tests")]

use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use libp2p::PeerId;
use libp2p_mix::{
    link::Conn,
    spam::{Answer, CannotProve, Proof, SpamProtection as _, Via},
};
use libp2p_mix_rln::{Config, Identity, Member, Members, MessageLimit, Rln, Stats};
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;

/// Longest that anything in these tests takes.
const LIMIT: Duration = Duration::from_secs(120);
const NOW: Time = Time::from_s(1_800_000_000);

/// By some connection of this peer.
fn via(peer: PeerId) -> Via {
    Via {
        peer,
        conn: Conn::from_number(1),
    }
}

fn packet(n: u8) -> [u8; PACKET_LEN] {
    [n; PACKET_LEN]
}

fn config(limit: u32) -> Config {
    Config::default()
        .with_limit(MessageLimit::new(limit).unwrap())
        .with_unused_identity()
}

fn member(identity: &Identity, limit: u32) -> Option<Member> {
    Some(Member {
        commitment: identity.commitment(),
        limit: MessageLimit::new(limit).unwrap(),
    })
}

fn stranger() -> Option<Member> {
    Some(Member::new(Identity::generate().unwrap().commitment()))
}

fn list(members: &[Option<Member>]) -> Members {
    Members::new(members.iter().copied()).unwrap()
}

fn start(config: Config, identity: &Identity, members: &Members) -> Rln {
    Rln::start(config, identity.clone(), members).unwrap().0
}

async fn later<T>(answer: Answer<T>) -> T {
    match answer {
        Answer::Now(value) => value,
        Answer::Later(value) => tokio::time::timeout(LIMIT, value).await.unwrap(),
    }
}

async fn prove(rln: &Rln, n: u8) -> Result<Proof, CannotProve> {
    later(rln.generate(NOW, &packet(n))).await
}

async fn passes(rln: &Rln, now: Time, n: u8, proof: &[u8]) -> bool {
    later(rln.verify(now, via(PeerId::random()), &packet(n), proof)).await
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[tokio::test]
async fn a_packet_passes_once_and_each_wrong_one_is_counted() {
    let alice = Identity::generate().unwrap();
    let members = list(&[stranger(), None, member(&alice, 3), stranger()]);
    let sender = start(config(3), &alice, &members);
    let (hop, mut spammers) = Rln::start(
        config(100).with_root_lifetime(seconds(20)),
        Identity::generate().unwrap(),
        &members,
    )
    .unwrap();
    assert_eq!(sender.root(), hop.root());

    // A packet passes, and not again.
    let first = prove(&sender, 1).await.unwrap();
    assert_eq!(first.bytes.len(), hop.proof_len());
    assert!(passes(&hop, NOW, 1, &first.bytes).await);
    assert!(!passes(&hop, NOW, 1, &first.bytes).await);
    let mut expected = Stats::default();
    (expected.roots, expected.accepted, expected.duplicates) = (1, 1, 1);
    assert_eq!(hop.stats(), expected);

    // No proof, half a proof, an epoch that only looks like ours.
    let second = prove(&sender, 2).await.unwrap().bytes;
    for bad in [&[][..], &[0; 301], &second[..300]] {
        assert!(!passes(&hop, NOW, 2, bad).await);
    }
    let mut epoch = second.clone();
    // The last byte of the third field.
    epoch[131 + 34 + 33] = 1;
    assert!(!passes(&hop, NOW, 2, &epoch).await);
    expected.malformed = 4;
    assert_eq!(hop.stats(), expected);

    // The proof of another packet; one that was changed; of another epoch. It still counts afterwards.
    assert!(!passes(&hop, NOW, 3, &second).await);
    expected.wrong_packet = 1;
    // In the proof itself, in the share, in the nullifier.
    for at in [10, 131 + 3 * 34 + 5, 131 + 4 * 34 + 5] {
        let mut changed = second.clone();
        changed[at] ^= 1;
        assert!(!passes(&hop, NOW, 2, &changed).await);
    }
    expected.invalid = 3;
    for now in [NOW + seconds(60), Time::from_s(NOW.as_s() - 60)] {
        assert!(!passes(&hop, now, 2, &second).await);
    }
    expected.wrong_epoch = 2;
    assert!(passes(&hop, NOW + seconds(50), 2, &second).await);
    expected.accepted = 2;
    assert_eq!(hop.stats(), expected);

    // Beyond the limit, until an unsent packet's number is taken back.
    let third = prove(&sender, 3).await.unwrap();
    assert!(prove(&sender, 4).await.is_err());
    assert_eq!(sender.stats().limit, 1);
    assert!(sender.is_valid(NOW, &third.token));
    assert!(!sender.is_valid(NOW + seconds(50), &third.token));
    sender.reclaim(third.token.clone());
    sender.reclaim(third.token);
    assert_eq!(sender.stats().reclaimed, 1);
    let third = prove(&sender, 5).await.unwrap().bytes;
    assert!(prove(&sender, 6).await.is_err());
    let sent = sender.stats();
    assert_eq!((sent.proven, sent.finished, sent.partial), (4, 4, 1));

    // One who gives himself a higher limit.
    let own = list(&[stranger(), None, member(&alice, 4), stranger()]);
    let cheat = start(config(4), &alice, &own);
    let proof = prove(&cheat, 7).await.unwrap().bytes;
    assert!(!passes(&hop, NOW, 7, &proof).await);
    expected.wrong_root = 1;
    assert_eq!(hop.stats(), expected);

    // Twice the same number: the key comes out.
    let twin = start(config(3), &alice, &members);
    let again = prove(&twin, 8).await.unwrap().bytes;
    assert!(!passes(&hop, NOW, 8, &again).await);
    expected.spam = 1;
    assert_eq!(hop.stats(), expected);
    let spammer = spammers.next().await.unwrap();
    assert_eq!(spammer.identity.to_bytes(), alice.to_bytes());
    assert_eq!(spammer.place, Some(2));
    assert_eq!(spammer.epoch, NOW.as_s() / 10);

    // Removed: the root that has him counts a while longer, and then no more.
    let mut without = members.places().to_vec();
    without[2] = None;
    hop.set_members(&list(&without));
    assert!(passes(&hop, NOW, 5, &third).await);
    assert!(!passes(&hop, NOW + seconds(20), 5, &third).await);
    (expected.roots, expected.accepted, expected.wrong_root) = (2, 3, 2);
    assert_eq!(hop.stats(), expected);
    sender.set_members(&list(&without));
    assert!(prove(&sender, 9).await.is_err());
    assert_eq!(sender.stats().not_member, 1);
}

#[tokio::test]
async fn an_old_root_leaves_the_window() {
    let alice = Identity::generate().unwrap();
    let mut members = vec![member(&alice, 100)];
    let hop = start(config(100), &Identity::generate().unwrap(), &list(&members));
    let sender = start(config(100), &alice, &list(&members));
    let proof = prove(&sender, 1).await.unwrap().bytes;
    let mut wrong = proof.clone();
    wrong[10] ^= 1;
    for changes in 1..=5 {
        members.push(stranger());
        hop.set_members(&list(&members));
        assert!(!passes(&hop, NOW, 1, &wrong).await);
        let stats = hop.stats();
        // Four changes leave it in the window of five.
        assert_eq!(
            (stats.invalid, stats.wrong_root),
            if changes < 5 { (changes, 0) } else { (4, 1) }
        );
    }
    assert!(!passes(&hop, NOW, 1, &proof).await);
}

#[tokio::test]
async fn a_clamped_limit_gives_proofs_that_are_accepted() {
    let alice = Identity::generate().unwrap();
    let limit = MessageLimit::clamped(100_000);
    let members = list(&[member(&alice, limit.get())]);
    let rln = start(config(limit.get()), &alice, &members);
    let proof = prove(&rln, 1).await.unwrap().bytes;
    assert!(passes(&rln, NOW, 1, &proof).await);
}

#[tokio::test]
async fn nothing_is_sent_in_the_epoch_of_a_start() {
    let alice = Identity::generate().unwrap();
    let members = list(&[member(&alice, 100)]);
    // So long that no epoch ends while the test runs.
    let config = Config::default().with_epoch_s(1_000_000_000);
    let rln = start(config, &alice, &members);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = Time::from_s(now.as_secs());
    assert!(matches!(rln.generate(now, &packet(1)), Answer::Now(Err(_))));
    assert_eq!(rln.stats().resting, 1);
    let next = rln.generate(now + seconds(1_000_000_000), &packet(1));
    assert!(matches!(next, Answer::Later(_)), "{next:?}");
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let alice = Identity::generate().unwrap();
    let members = list(&[member(&alice, 65_535)]);
    let rln = start(
        config(65_535).with_threads(1, 1).with_queues(1, 1),
        &alice,
        &members,
    );
    // A proof takes so much longer than asking for one that there is soon no room.
    let mut waiting = Vec::new();
    while let answer @ Answer::Later(_) = rln.generate(NOW, &packet(1)) {
        waiting.push(answer);
    }
    assert_eq!(rln.stats().prove_full, 1);
    let accepted = waiting.len() as u64;
    for answer in waiting {
        assert!(later(answer).await.is_ok());
    }
    assert_eq!(rln.stats().proven, accepted);
}

#[tokio::test]
async fn one_peer_leaves_room_for_the_others() {
    let alice = Identity::generate().unwrap();
    let members = list(&[member(&alice, 100)]);
    let rln = start(
        config(100).with_threads(1, 1).with_queues(8, 16),
        &alice,
        &members,
    );
    let right = prove(&rln, 1).await.unwrap().bytes;
    let mut wrong = prove(&rln, 2).await.unwrap().bytes;
    wrong[10] ^= 1;
    // A check takes so much longer than asking for one that his two places are soon taken.
    let flooder = PeerId::random();
    let mut waiting = Vec::new();
    while let answer @ Answer::Later(_) = rln.verify(NOW, via(flooder), &packet(2), &wrong) {
        waiting.push(answer);
    }
    assert_eq!(rln.stats().verify_full, 1);
    assert!(passes(&rln, NOW, 1, &right).await);
    for answer in waiting {
        assert!(!later(answer).await);
    }
    // When his are done he is heard again.
    let again = rln.verify(NOW, via(flooder), &packet(2), &wrong);
    assert!(matches!(again, Answer::Later(_)), "{again:?}");
}

#[tokio::test]
async fn a_file_of_members_is_watched() {
    let alice = Identity::generate().unwrap();
    let folder = std::env::temp_dir().join(format!("libp2p-mix-rln-watch-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("members");
    let rln = start(config(100), &alice, &Members::default());
    rln.watch_members(&path, Duration::ZERO).unwrap();
    let until = async |done: &dyn Fn(&Rln) -> bool| {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while !done(&rln) {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", rln.stats());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(&|rln| rln.stats().members_unreadable == 1).await;
    let put = |text: String| {
        let new = folder.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    let members = list(&[stranger(), member(&alice, 100)]);
    put(members.to_string());
    let same = start(config(100), &alice, &members);
    until(&|rln| rln.root() == same.root()).await;
    // A bad one changes nothing.
    put("nonsense".to_owned());
    until(&|rln| rln.stats().members_unreadable == 2).await;
    assert_eq!(rln.root(), same.root());
    put(list(&[stranger()]).to_string());
    until(&|rln| rln.root() != same.root()).await;
    std::fs::remove_dir_all(&folder).unwrap();
}
