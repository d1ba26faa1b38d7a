//! `mizzle accept`.

use mizzle_net::mail::Correspondent;

use super::{AcceptArgs, Failure, parse, say};
use crate::control::{self, Command, ConnectError, Event};

pub(super) async fn run(args: &AcceptArgs) -> Result<(), Failure> {
    let state = args.which.state()?;
    let Some(address) = &args.address else {
        return list(args).await;
    };
    let address = parse(address)?.to_string();
    let name = args.name.clone().unwrap_or_default();
    let command = match args.remove {
        true => Command::Unaccept {
            address: address.clone(),
        },
        false => Command::Accept {
            address: address.clone(),
            name,
        },
    };
    let accepted = !args.remove;
    match control::connect(&state, command).await?.event().await? {
        Event::Done => {}
        Event::Empty => return Err(Failure::Other("this address was not accepted before".into())),
        _ => return Err(ConnectError::Strange.into()),
    }
    say(&match (args.json, accepted) {
        (true, _) => format!(
            "{}\n",
            serde_json::json!({ "address": address, "accepted": accepted })
        ),
        (false, true) => {
            "accepted: who writes from this address, signs and asks hears when you have read it\n".into()
        }
        (false, false) => "removed: nothing that you read is told to this address any more\n".into(),
    });
    Ok(())
}

async fn list(args: &AcceptArgs) -> Result<(), Failure> {
    let mut control = control::connect(&args.which.state()?, Command::Correspondents).await?;
    let mut all: Vec<Correspondent> = Vec::new();
    loop {
        match control.event().await? {
            Event::Correspondents { list } => all.extend(list),
            Event::Done => break,
            _ => return Err(ConnectError::Strange.into()),
        }
    }
    if args.json {
        say(&format!("{}\n", serde_json::json!({ "correspondents": all })));
        return Ok(());
    }
    if all.is_empty() {
        say("nobody is accepted\n");
    }
    for Correspondent { address, name } in all {
        let name = if name.is_empty() { "(no name)" } else { &name };
        say(&format!("{name}  {address}\n"));
    }
    Ok(())
}
