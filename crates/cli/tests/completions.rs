//! `mizzle completions`: bash takes its script and completes with it, and every shell has one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{run, scratch};

/// Asks bash what it would complete.
fn completed_by_bash(script: &str, words: &[&str]) -> Option<Vec<String>> {
    let file = scratch(&format!("completions-{}.bash", words.len()));
    fs::write(&file, script).unwrap();
    let current = words.len() - 1;
    let ask = format!(
        "set -eu; source {}; COMP_WORDS=({}); COMP_CWORD={current}; COMPREPLY=(); \
         _mizzle mizzle '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        words.join(" "),
        words[current],
        words[current - 1],
    );
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", &ask])
        .stdin(Stdio::null())
        .output();
    fs::remove_file(&file).unwrap();
    let Ok(output) = output else {
        println!("SKIPPED: bash is not installed");
        return None;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    Some(stdout.lines().map(ToString::to_string).collect())
}

#[test]
fn bash_takes_the_script_and_completes_commands_and_flags() {
    let (code, script, stderr) = run(&["completions", "bash"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for (words, completions) in [
        (&["mizzle", "sph"][..], &["sphinx"][..]),
        (&["mizzle", "sphinx", "pe"], &["peel"]),
        (&["mizzle", "sphinx", "peel", "--o"], &["--out"]),
        (&["mizzle", "completions", "fi"], &["fish"]),
    ] {
        match completed_by_bash(&script, words) {
            Some(found) => assert_eq!(found, completions, "{words:?}"),
            None => return,
        }
    }
}

#[test]
fn every_shell_has_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, stderr) = run(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["mizzle", "sphinx", "keygen", "danger-seed"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (code, stdout, stderr) = run(&["completions", "tcsh"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("tcsh") && stderr.contains("elvish"), "{stderr}");
}
