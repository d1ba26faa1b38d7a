//! Letters between clients of a real network: from a sender through the mixes to a gateway, and down a client's link.

use crate::common::{EXIT, GATEWAY, Net, within};
use mizzle_base::item::ITEM_LEN;
use mizzle_base::upload::{Answer, Head};
use mizzle_base::{LetterId, MailboxId};
use mizzle_net::MixStream;
use mizzle_stream::OpenError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn letter(resume: bool, count: u32) -> Vec<u8> {
    let letter = LetterId::new([7; 16]);
    Head {
        resume,
        letter,
        count,
    }
    .encode()
    .to_vec()
}

fn items(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|n| [n as u8; ITEM_LEN]).collect()
}

async fn answer(stream: &mut MixStream) -> Answer {
    let mut bytes = Vec::new();
    loop {
        if let Some((answer, len)) = Answer::decode(&bytes).unwrap() {
            assert_eq!(len, bytes.len());
            return answer;
        }
        let byte = within("an answer", stream.read_u8()).await.unwrap();
        bytes.push(byte);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_travels_from_one_client_to_another() {
    let net = Net::start().await;
    let (mut alice, bob) = (net.client().await, net.client().await);
    let mailbox = alice
        .client
        .admission()
        .borrow()
        .as_ref()
        .expect("admitted")
        .mailbox;
    let gateway = net.nodes[GATEWAY].id;
    let post = bob.client.postman();

    let nobody = within(
        "a mailbox that there is not",
        post.open(gateway, MailboxId::new([9; 16])),
    );
    assert_eq!(nobody.await.err(), Some(OpenError::NoMailbox));
    let elsewhere = within("another gateway", post.open(net.nodes[EXIT].id, mailbox));
    assert_eq!(elsewhere.await.err(), Some(OpenError::NoMailbox));

    // Half of it, then the stream breaks.
    let mut stream = within("the mailbox opens", post.open(gateway, mailbox))
        .await
        .unwrap();
    stream
        .write_all(&[letter(false, 20), items(0..10)].concat())
        .await
        .unwrap();
    stream.flush().await.unwrap();
    net.nodes[GATEWAY].counted("mail.kept", 10).await;
    drop(stream);
    let mut stream = within("the mailbox opens again", post.open(gateway, mailbox))
        .await
        .unwrap();
    stream.write_all(&letter(true, 20)).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(answer(&mut stream).await, Answer::From(10));
    stream.write_all(&items(10..20)).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(answer(&mut stream).await, Answer::Stored);
    assert_eq!(
        within("the end", stream.read(&mut [0])).await.unwrap(),
        0,
        "nothing comes after it"
    );

    let (mut mail, keeper) = alice.client.take_mail().expect("nobody took it yet");
    for index in 0..20 {
        let got = within("a piece", mail.recv()).await.unwrap();
        assert_eq!((got.number, got.item.index), (u64::from(index) + 1, index));
        assert_eq!(*got.item.bytes, [index as u8; ITEM_LEN]);
        keeper.kept(got.generation, got.number + 1);
    }
    net.nodes[GATEWAY].counted("downlink.mail", 20).await;
    net.nodes[GATEWAY].counted("mail.connection.opened", 2).await;
}
