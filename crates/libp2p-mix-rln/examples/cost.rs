//! What a packet costs: `cargo run --release -p libp2p-mix-rln --example cost`. Takes some seconds.
//!
//! By the wall clock, one thread at work at a time: where other programs run, the least is nearest to the truth.
#![allow(clippy::print_stdout, reason = "an example talks")]
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p_mix::{
    link::Conn,
    spam::{Answer, SpamProtection as _, Via},
};
use libp2p_mix_rln::{Config, Identity, Member, Members, Rln};
use mizzle_base::Time;
use mizzle_sphinx::PACKET_LEN;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: u8 = 10;
const LIMIT: Duration = Duration::from_secs(60);

async fn later<T>(answer: Answer<T>) -> Result<T> {
    match answer {
        Answer::Now(value) => Ok(value),
        Answer::Later(value) => Ok(tokio::time::timeout(LIMIT, value).await?),
    }
}

/// By some connection of this peer.
fn via(peer: PeerId) -> Via {
    Via {
        peer,
        conn: Conn::from_number(1),
    }
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort();
    let (Some(least), Some(median)) = (times.first(), times.get(times.len() / 2)) else {
        return;
    };
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    println!("{what:<42} {:>9.2} {:>9.2}", ms(least), ms(median));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let identity = Identity::generate()?;
    let members = Members::new([Some(Member::new(identity.commitment()))])?;
    let config = || Config::default().with_unused_identity().with_threads(1, 1);
    let begin = Instant::now();
    let (hop, _) = Rln::start(config(), Identity::generate()?, &members)?;
    println!(
        "{:<42} {:>9} {:>9}",
        "one core, of a packet of 4608 bytes; ms", "least", "median"
    );
    show("start: circuit, keys", &mut [begin.elapsed()]);

    let (mut whole, mut ahead, mut finish, mut verify) = (vec![], vec![], vec![], vec![]);
    let now = Time::from_s(1_800_000_000);
    for round in 0..ROUNDS {
        // A new start each time: its first packet waits for what is computed ahead.
        let begin = Instant::now();
        let (rln, _) = Rln::start(config(), identity.clone(), &members)?;
        let first = later(rln.generate(now, &[round; PACKET_LEN])).await??;
        let both = begin.elapsed();

        let begin = Instant::now();
        let proof = later(rln.generate(now, &[round; PACKET_LEN])).await??;
        let second = begin.elapsed();
        whole.push(both);
        ahead.push(both.saturating_sub(second));
        finish.push(second);
        drop((first, proof));

        // Each in an epoch of its own: nothing of this identity was seen in it.
        let later_on = now + Duration::from_secs(100 * u64::from(round));
        let proof = later(rln.generate(later_on, &[round; PACKET_LEN])).await??;
        let begin = Instant::now();
        let passes = later(hop.verify(
            later_on,
            via(PeerId::random()),
            &[round; PACKET_LEN],
            &proof.bytes,
        ))
        .await?;
        verify.push(begin.elapsed());
        if !passes {
            return Err(format!("a right proof was refused: {:?}", hop.stats()).into());
        }
    }
    show("ahead, once a change of the list", &mut ahead);
    show("finish, for each packet sent", &mut finish);
    show("both, for the first packet", &mut whole);
    show("check, for each packet received", &mut verify);
    println!("{} bytes a proof", hop.proof_len());
    Ok(())
}
