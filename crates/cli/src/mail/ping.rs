//! `mizzle ping`.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::json;

use super::{Failure, PingArgs, note, say, text};
use crate::control::{self, Command, ConnectError, Event};
use crate::signals::Interrupted;

pub(super) async fn run(args: &PingArgs, interrupted: &Interrupted) -> Result<(), Failure> {
    let count = args.count;
    let mut control = control::connect(&args.which.state()?, Command::Ping { count }).await?;
    let mut seen = Seen::default();
    let people = io::stdout().is_terminal() && !args.json;
    loop {
        let event = tokio::select! {
            event = control.event() => event?,
            () = interrupted.wait() => break,
        };
        match event {
            Event::Pinging { loops_per_s } if !args.json => note(&expectation(count, loops_per_s)),
            Event::Pinging { .. } => {}
            Event::Loop { round_trip_us } => {
                seen.add(round_trip_us);
                if people {
                    let how = round_trip_us.map_or_else(|| "lost".into(), text::latency);
                    say(&format!("{:>6}  {how}\n", seen.ended));
                }
            }
            Event::Done => break,
            _ => return Err(ConnectError::Strange.into()),
        }
    }
    seen.times_us.sort_unstable();
    say(&if args.json { seen.json() } else { seen.words() });
    Ok(())
}

fn expectation(count: u32, loops_per_s: f64) -> String {
    let takes = Duration::try_from_secs_f64(f64::from(count) / loops_per_s).unwrap_or(Duration::MAX);
    format!(
        "watching the next {count} of the client's loops; {loops_per_s} of them leave each second, so this takes about {}\n",
        text::time(takes)
    )
}

#[derive(Default)]
struct Seen {
    ended: u32,
    times_us: Vec<u64>,
}

impl Seen {
    fn add(&mut self, round_trip_us: Option<u64>) {
        self.ended += 1;
        self.times_us.extend(round_trip_us);
    }

    fn lost(&self) -> u32 {
        self.ended - u32::try_from(self.times_us.len()).unwrap_or(self.ended)
    }

    /// The smallest time that so many of a hundred loops did not exceed (nearest rank).
    fn percentile(&self, percent: usize) -> Option<u64> {
        let rank = (self.times_us.len() * percent).div_ceil(100).max(1);
        self.times_us.get(rank - 1).copied()
    }

    fn words(&self) -> String {
        let share = 100.0 * f64::from(self.lost()) / f64::from(self.ended.max(1));
        let mut out = format!("{} loops, {} lost ({share:.1} %)\n", self.ended, self.lost());
        let times: Option<Vec<String>> = [0, 50, 90, 99, 100]
            .map(|percent| self.percentile(percent).map(text::latency))
            .into_iter()
            .collect();
        if let Some([min, median, p90, p99, max]) = times.as_deref() {
            out += &format!("round trip: min {min}, median {median}, 90 % {p90}, 99 % {p99}, max {max}\n");
        }
        out
    }

    fn json(&self) -> String {
        let value = json!({
            "loops": self.ended,
            "lost": self.lost(),
            "round_trip_us": {
                "min": self.percentile(0),
                "p50": self.percentile(50),
                "p90": self.percentile(90),
                "p99": self.percentile(99),
                "max": self.percentile(100),
            },
        });
        format!("{value}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let mut seen = Seen::default();
        (1..=200).for_each(|ms| seen.add(Some(ms * 1_000)));
        (0..50).for_each(|_| seen.add(None));
        assert_eq!(
            seen.words(),
            "250 loops, 50 lost (20.0 %)\nround trip: min 1 ms, median 100 ms, 90 % 180 ms, 99 % 198 ms, max 200 ms\n"
        );
        assert_eq!(Seen::default().words(), "0 loops, 0 lost (0.0 %)\n");
        assert!(
            expectation(20, 0.05).contains("about 6 min"),
            "{}",
            expectation(20, 0.05)
        );
    }
}
