//! `mizzle config check`: everything that is wrong with configurations and with what they name, without starting anything.

use std::path::{Path, PathBuf};

use mizzle_base::{Document, Time};
use mizzle_net::clock::Clock;
use mizzle_net::state::{Kind, State, StateError};

use crate::config::{ClientConfig, Config, NodeConfig, Problem, Problems};
use crate::{join, node};

/// Something is wrong with some of the files; what, was printed.
#[derive(Debug, thiserror::Error)]
#[error("{wrong} of {all} {}", if *.all == 1 { "file has problems" } else { "files have problems" })]
pub struct Wrong {
    wrong: usize,
    all: usize,
}

/// Checks files; the text or JSON to print, and whether all are good.
pub fn run(files: &[PathBuf], json: bool) -> (String, Result<(), Wrong>) {
    let now = Clock::start().now();
    let checked: Vec<(&PathBuf, Vec<Problem>)> = files.iter().map(|file| (file, check(file, now))).collect();
    let wrong = checked.iter().filter(|(_, list)| !list.is_empty()).count();
    let text = if json {
        let files: Vec<_> = checked
            .iter()
            .map(
                |(file, list)| serde_json::json!({ "file": file, "good": list.is_empty(), "problems": list }),
            )
            .collect();
        serde_json::Value::from(files).to_string() + "\n"
    } else {
        checked
            .into_iter()
            .map(|(file, list)| match list.is_empty() {
                true => format!("{}: good\n", file.display()),
                false => format!(
                    "{}\n",
                    Problems {
                        file: file.clone(),
                        list
                    }
                ),
            })
            .collect()
    };
    let all = files.len();
    (
        text,
        if wrong == 0 {
            Ok(())
        } else {
            Err(Wrong { wrong, all })
        },
    )
}

fn check(file: &Path, now: Time) -> Vec<Problem> {
    match Config::load(file) {
        Err(problems) => problems.list,
        Ok(Config::Node(config)) => node(&config, now),
        Ok(Config::Client(config)) => client(&config, now),
    }
}

fn node(config: &NodeConfig, now: Time) -> Vec<Problem> {
    match State::inspect(&config.state, Kind::Node) {
        Ok(folder) => node::load(config, &folder, now).err().unwrap_or_default(),
        Err(why) => vec![why.to_string().into()],
    }
}

fn client(config: &ClientConfig, now: Time) -> Vec<Problem> {
    let mut wrong: Vec<Problem> = Vec::new();
    match State::inspect(&config.state, Kind::Client) {
        // The first start makes it.
        Err(StateError::Missing { .. }) => {}
        Ok(folder) => wrong.extend(
            join::check_state(&folder)
                .into_iter()
                .map(|e| e.to_string().into()),
        ),
        Err(why) => wrong.push(why.to_string().into()),
    }
    if let Some(path) = &config.document {
        let document = join::read_document(path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| {
                Document::verify(&bytes, &config.authority, now, 0)
                    .map_err(|e| format!("{}: {e}", path.display()))
            });
        match document {
            Ok(document) => {
                let named = config.gateway.iter();
                let bad = named.filter_map(|gateway| join::check_gateway(&document, *gateway).err());
                wrong.extend(bad.map(|e| e.to_string().into()));
            }
            Err(why) => wrong.push(why.into()),
        }
    }
    wrong
}
