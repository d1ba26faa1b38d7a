//! Where the bytes of a data slot's packet go: fixed costs from the formats, the rest counted on a live session.

use std::time::Duration;

use mizzle_base::{Rng, Time};
use mizzle_sphinx::{HEADER_LEN, MAX_BODY_LEN, MESSAGE_LEN, PACKET_LEN, PAYLOAD_LEN, SecretKey};
use mizzle_stream::{Acceptor, Arrival, Params, Session, TAG_LEN, Target};
use rand_core::SeedableRng as _;

/// A sealed body in a data slot: all but the codec.
const SEALED: usize = MAX_BODY_LEN - 1;
/// Poly1305.
const MAC: usize = 16;

/// Rows of what and how many bytes; they add up to a packet. `None` if a session in memory doesn't get going.
#[must_use]
pub fn rows() -> Option<Vec<(&'static str, usize)>> {
    let user = user_bytes()?;
    let fixed = [
        ("Sphinx header: alpha, beta, gamma", HEADER_LEN),
        ("zeros that show a changed payload", PAYLOAD_LEN - MESSAGE_LEN),
        ("length of the padding", MESSAGE_LEN - MAX_BODY_LEN),
        ("codec", 1),
        ("one-time tag by which the exit finds the session", TAG_LEN),
        ("authentication of the seal", MAC),
    ];
    let spent: usize = fixed.iter().map(|row| row.1).sum();
    let rest = PACKET_LEN.checked_sub(spent + user)?;
    let more = [
        (
            "acknowledgement of what came down, offset and length of the segment",
            rest,
        ),
        ("user bytes", user),
    ];
    Some(fixed.into_iter().chain(more).collect())
}

/// User bytes in a full packet of a client that has something to acknowledge too.
fn user_bytes() -> Option<usize> {
    let t = |ms: u64| Time::from_us(1_000_000_000 + ms * 1_000);
    let hop = Duration::from_millis(400);
    let params = Params::new(b"budget", hop, hop, Duration::from_millis(60));
    let secret = SecretKey::from_bytes([7; 32]);
    let mut acceptor = Acceptor::new(params.clone(), [7; 32], 1, Rng::seed_from_u64(1));
    let mut client = Session::connect(params, secret.public().as_bytes(), Rng::seed_from_u64(2), t(0));
    let stream = client.open(t(0), &Target::parse("example.org:443").ok()?).ok()?;
    let mut body = vec![0; SEALED];
    client.fill(t(1), &[0; 5 * mizzle_sphinx::SURB_LEN], &mut body)?;
    let Ok(Arrival::New(initial)) = acceptor.sort(&body) else {
        return None;
    };
    let (mut exit, _) = acceptor.accept(t(2), 1_u8, initial).ok()?;
    exit.opened(stream);
    let mut reply = vec![0; MAX_BODY_LEN];
    for n in 0..100 {
        exit.fill(t(3 + n), &[], &mut reply)?;
        // Every third is still on its way: acknowledgements have gaps in a mixnet.
        if n % 3 != 2 {
            client.receive(t(3 + n), &reply).ok()?;
        }
    }
    client.write(stream, &vec![1; 100_000]);
    client.fill(t(200), &[], &mut body)?;
    let before = client.stats().bytes_new;
    client.fill(t(201), &[], &mut body)?;
    usize::try_from(client.stats().bytes_new - before).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_fifths_of_a_packet_are_user_bytes() {
        let rows = rows().unwrap();
        assert_eq!(rows.iter().map(|row| row.1).sum::<usize>(), PACKET_LEN);
        let user = rows.last().unwrap().1;
        assert!(user as f64 >= 0.82 * PACKET_LEN as f64, "{user}");
    }
}
