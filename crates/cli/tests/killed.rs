//! Mixes of a running network killed under load: what `mizzle bench killed` measures, in small.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use serde_json::Value;

#[test]
fn streams_go_on_and_every_letter_comes_when_a_third_of_the_mixes_is_killed() {
    let _place = common::place();
    // How soon the dead are avoided depends on how busy this machine is; that they are doesn't.
    let args = "bench killed --mixes-per-layer 2 --letters 12 --bytes 200000 --within-s 60 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let mut running = common::Process::start(common::mizzle(&args));
    let status = running.ended(std::time::Duration::from_secs(400));
    let said = running.stdout_rest();
    assert_eq!(status.code(), Some(0), "{}", running.stderr());
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["killed"].as_array().unwrap().len(), 2, "{said}");
    assert_eq!(report["download_right"], true);
    assert_eq!(
        (&report["received"], &report["missing"], &report["duplicates"]),
        (&12.into(), &0.into(), &0.into())
    );
    println!(
        "the dead are avoided after {} s, the longest stall was {} s",
        report["slowest_avoids_s"], report["longest_stall_s"]
    );
}
