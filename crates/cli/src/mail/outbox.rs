//! `mizzle outbox`.

use std::time::Duration;

use mizzle_net::clock::Clock;
use mizzle_net::mail::Stage;

use super::{Failure, OutboxArgs, say, text};
use crate::control::{self, Command, ConnectError, Event, Posted};

pub(super) async fn run(args: &OutboxArgs) -> Result<(), Failure> {
    let mut control = control::connect(&args.which.state()?, Command::Outbox).await?;
    let mut all: Vec<Posted> = Vec::new();
    let (mut waiting, mut problem) = (0, None);
    loop {
        match control.event().await? {
            Event::Outbox {
                letters,
                waiting: n,
                inbox_problem,
            } => {
                all.extend(letters);
                (waiting, problem) = (n, inbox_problem);
            }
            Event::Done => break,
            _ => return Err(ConnectError::Strange.into()),
        }
    }
    if args.waiting {
        all.retain(|letter| letter.stage == Stage::Waiting);
    }
    if args.json {
        let outbox =
            serde_json::json!({ "letters": all, "inbox": { "letters": waiting, "problem": problem } });
        say(&format!("{outbox}\n"));
        return Ok(());
    }
    let now_s = Clock::start().now().as_s();
    let lines: String = all.iter().map(|letter| line(letter, now_s)).collect();
    say(match lines.as_str() {
        "" => "nothing waits to leave\n",
        lines => lines,
    });
    Ok(())
}

fn line(letter: &Posted, now_s: u64) -> String {
    let ago = |s: u64| text::time(Duration::from_secs(now_s.saturating_sub(s)));
    let what = match (letter.kind.as_str(), letter.name.as_str()) {
        ("file", name) => format!("{name}, {}", text::bytes(letter.bytes)),
        (kind, _) => format!("{kind}, {}", text::bytes(letter.bytes)),
    };
    let stage = match &letter.stage {
        Stage::Waiting => {
            let problem = letter
                .problem
                .as_ref()
                .map(|why| format!("; the last attempt: {why}"));
            format!(
                "waits since {}, {} of {} items on their way{}",
                ago(letter.queued_s),
                letter.items_sent,
                letter.items,
                problem.unwrap_or_default()
            )
        }
        Stage::Stored => format!("stored {} ago", ago(letter.changed_s)),
        Stage::Read => format!("read {} ago", ago(letter.changed_s)),
        Stage::Failed { why } => format!("failed {} ago: {why}", ago(letter.changed_s)),
    };
    // The end of an address is what tells two apart.
    let end = letter.to.len().saturating_sub(12);
    let to = letter.to.get(end..).unwrap_or_default();
    format!("{}  to ...{to}  {what}: {stage}\n", letter.letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_waits_since_when_and_why() {
        let letter = Posted {
            letter: "0a".into(),
            to: "mizzle1qqqqqqqqqqqqqqqqqqqqabcdef".into(),
            kind: "file".into(),
            name: "cat.jpg".into(),
            bytes: 1_500_000,
            items: 369,
            items_sent: 12,
            queued_s: 1_000,
            changed_s: 1_000,
            stage: Stage::Waiting,
            problem: Some("no answer came in time".into()),
        };
        assert_eq!(
            line(&letter, 1_600),
            "0a  to ...qqqqqqabcdef  cat.jpg, 1.5 MB: waits since 10 min, 12 of 369 items on their way; the last \
             attempt: no answer came in time\n"
        );
        let stored = Posted {
            stage: Stage::Stored,
            ..letter
        };
        assert!(line(&stored, 1_030).ends_with("cat.jpg, 1.5 MB: stored 30 s ago\n"));
    }
}
