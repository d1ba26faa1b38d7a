//! `mizzle bench alarm`: how soon a node notices that it is cut off, and how often for nothing.
//!
//! The alarm is the one that nodes run; the attack and the network around it are a model under virtual time
//! (`mizzle_traffic::alarm::attack`), so the figures don't depend on the machine.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mizzle_base::Rng;
use mizzle_traffic::alarm::attack::{Setting, blocked, peace};
use mizzle_traffic::alarm::{FALSE_ALARMS_PER_H, LOSS, Rule};
use rand_core::SeedableRng as _;
use serde::Serialize;

/// Loops of each run without an attack that the table of bursts and jitter counts alarms in: 139 hours at one a second.
const PEACE_LOOPS: u64 = 500_000;
/// Seeds that one core works on before it takes the next ones.
const AT_ONCE: u32 = 500;
/// Attacks of each line of that table.
const TABLE_SEEDS: u32 = 1_000;

#[derive(Serialize)]
struct Found {
    pool: u32,
    loops_per_mean_delay: f64,
    flush_s: f64,
    expected: f64,
    before_flush: f64,
    median_s: f64,
    seeds: u32,
}

#[derive(Serialize)]
struct Peace {
    loss: f64,
    hours: f64,
    alarms: u64,
    expected_at_most: f64,
}

#[derive(Serialize)]
struct Point {
    burst_s: f64,
    jitter_ms: f64,
    misses: u32,
    before_flush: f64,
    false_alarms_per_node_year: f64,
}

#[derive(Serialize)]
struct Alarm {
    misses: u32,
    sooner_after_s: Option<f64>,
    false_alarms_per_million_hours: f64,
    false_alarms_per_node_year: f64,
    attacks: Vec<Found>,
    peace: Vec<Peace>,
    roc: Vec<Point>,
}

/// Attacks with so many seeds; the text or JSON to print.
#[must_use]
pub fn run(seeds: u32, json: bool) -> String {
    let alarm = measure(seeds);
    if json {
        return serde_json::to_string_pretty(&alarm).unwrap_or_default();
    }
    text(&alarm)
}

fn measure(seeds: u32) -> Alarm {
    let rule = Rule::new(1.0, LOSS, FALSE_ALARMS_PER_H);
    let per_h = rule.false_alarms_per_h(1.0, LOSS);
    let mut attacks = Vec::new();
    for loops in [1.0, 2.0] {
        for pool in [100, 20] {
            progress(&format!("{seeds} attacks, n = {pool}, λ_M = {loops} µ"));
            attacks.push(attack(pool, loops, seeds));
        }
    }
    progress("no attack");
    // The stated loss as far as that goes, and more of it, so that there are alarms to count.
    let peace = spread(
        &[(LOSS, 20_000_000), (0.05, 20_000_000), (0.1, 5_000_000)],
        |(loss, loops)| quiet(rule, *loss, *loops),
    );
    let mut points = Vec::new();
    for (burst_s, jitter_s) in [
        (0.0, 0.005),
        (0.0, 0.05),
        (0.0, 0.5),
        (1.0, 0.005),
        (3.0, 0.005),
        (10.0, 0.005),
    ] {
        points.extend((3..=8).map(|misses| (burst_s, jitter_s, misses)));
    }
    progress("bursts and jitter");
    let roc = spread(&points, |(burst_s, jitter_s, misses)| {
        point(*burst_s, *jitter_s, *misses)
    });
    progress("");
    Alarm {
        misses: rule.misses,
        sooner_after_s: rule.sooner.map(|after| after.as_secs_f64()),
        false_alarms_per_million_hours: per_h * 1e6,
        false_alarms_per_node_year: per_h * 24.0 * 365.25,
        attacks,
        peace,
        roc,
    }
}

/// Does this to all on all cores; the results in the same order, whoever was quicker.
fn spread<T: Sync, R: Send>(all: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((n, one)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            all.get(n).map(|one| (n, one))
        } {
            let result = each(one);
            if let Ok(mut done) = done.lock() {
                done.push((n, result));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..cores.min(all.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What is being computed, to whoever waits at a terminal: one line, which the next one replaces.
fn progress(what: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        // Nobody misses it if it can't be said.
        let _ = write!(terminal, "\r\x1b[K{what}");
        let _ = terminal.flush();
    }
}

fn attack(pool: u32, loops_per_s: f64, seeds: u32) -> Found {
    let setting = Setting {
        loops_per_s,
        ..Setting::STATED
    };
    let rule = Rule::new(loops_per_s, LOSS, FALSE_ALARMS_PER_H);
    let flush_s = setting.flush_s(pool.into());
    let rng = |seed: u32| Rng::seed_from_u64(seed.into());
    let parts: Vec<_> = (0..seeds)
        .step_by(AT_ONCE as usize)
        .map(|from| from..seeds.min(from + AT_ONCE))
        .collect();
    let took = spread(&parts, |part| {
        let found = part
            .clone()
            .filter_map(|seed| blocked(&setting, rule, flush_s, rng(seed)));
        found.collect::<Vec<f64>>()
    });
    let mut took = took.concat();
    took.sort_by(f64::total_cmp);
    // For the shortest of rows: what is waited for beyond a loop's time is some 0.1 s of the whole.
    let without = Rule { sooner: None, ..rule };
    Found {
        pool,
        loops_per_mean_delay: loops_per_s,
        flush_s,
        expected: without.detection(loops_per_s, LOSS, flush_s),
        before_flush: took.len() as f64 / f64::from(seeds.max(1)),
        median_s: took.get(seeds as usize / 2).copied().unwrap_or(f64::INFINITY),
        seeds,
    }
}

fn quiet(rule: Rule, loss: f64, loops: u64) -> Peace {
    let setting = Setting {
        loss,
        ..Setting::STATED
    };
    let (alarms, hours) = peace(&setting, rule, loops, Rng::seed_from_u64(1));
    Peace {
        loss,
        hours,
        alarms,
        expected_at_most: rule.false_alarms_per_h(1.0, loss) * hours,
    }
}

fn point(burst_s: f64, jitter_s: f64, misses: u32) -> Point {
    let setting = Setting {
        burst_s,
        jitter_s,
        ..Setting::STATED
    };
    let rule = Rule { misses, sooner: None };
    let flush_s = setting.flush_s(100.0);
    let hits = (0..TABLE_SEEDS)
        .filter(|seed| blocked(&setting, rule, flush_s, Rng::seed_from_u64((*seed).into())).is_some())
        .count();
    let (alarms, hours) = peace(&setting, rule, PEACE_LOOPS, Rng::seed_from_u64(2));
    Point {
        burst_s,
        jitter_ms: jitter_s * 1e3,
        misses,
        before_flush: hits as f64 / f64::from(TABLE_SEEDS),
        false_alarms_per_node_year: alarms as f64 / hours * 24.0 * 365.25,
    }
}

fn text(alarm: &Alarm) -> String {
    let mut out = String::new();
    let sooner = alarm.sooner_after_s.unwrap_or(f64::INFINITY);
    // Writing to a string doesn't fail.
    let _ = writeln!(
        out,
        "An alarm: {} loops in a row due and missing, or {} when nothing came home for {sooner:.1} s (1/µ = 1 s, λ_M = µ).\n\
         False alarms, losses of 1 % by themselves, closed form: {:.2} in a million hours of a node, {:.4} a node-year.\n",
        alarm.misses,
        alarm.misses - 1,
        alarm.false_alarms_per_million_hours,
        alarm.false_alarms_per_node_year
    );
    let _ = writeln!(
        out,
        "All that comes to a mix is dropped; before its pool of n is flushed (ln(100 n)/µ) there is an alarm in:\n\n\
            n  λ_M/µ   flushed   five due   found    median\n"
    );
    for found in &alarm.attacks {
        let _ = writeln!(
            out,
            "{:>5} {:>6.0} {:>7.2} s {:>9.4} {:>8.4} {:>7.2} s   ({} seeds)",
            found.pool,
            found.loops_per_mean_delay,
            found.flush_s,
            found.expected,
            found.before_flush,
            found.median_s,
            found.seeds
        );
    }
    let _ = writeln!(
        out,
        "\nNo attack, the same rule:\n\n loss      hours   alarms   at most expected\n"
    );
    for peace in &alarm.peace {
        let _ = writeln!(
            out,
            "{:>4.0} % {:>9.0} {:>8} {:>18.3}",
            peace.loss * 100.0,
            peace.hours,
            peace.alarms,
            peace.expected_at_most
        );
    }
    let _ = writeln!(
        out,
        "\nBy bursts (mean length of the times in which all is lost; 1 % in all), jitter, and how many in a row are an alarm:\n\
         found before the flush (n = 100) / false alarms a node-year\n"
    );
    let _ = write!(out, "burst  jitter ");
    for misses in 3..=8 {
        let _ = write!(out, "{:>17}", format!("{misses} in a row"));
    }
    for (n, point) in alarm.roc.iter().enumerate() {
        if n % 6 == 0 {
            let _ = write!(out, "\n{:>3.0} s {:>5.0} ms ", point.burst_s, point.jitter_ms);
        }
        let cell = format!(
            "{:.3} / {:.0}",
            point.before_flush, point.false_alarms_per_node_year
        );
        let _ = write!(out, "{cell:>17}");
    }
    let _ = writeln!(
        out,
        "\n\nZero stands for none in {:.0} hours.",
        PEACE_LOOPS as f64 / 3_600.0
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stated_holds() {
        let found = attack(100, 1.0, 500);
        assert!((found.expected - 0.952).abs() < 0.001, "{}", found.expected);
        assert!(found.before_flush > 0.93, "{}", found.before_flush);
        assert!((3.0..6.0).contains(&found.median_s), "{}", found.median_s);
        let bursts = point(3.0, 0.005, 5);
        assert!(
            bursts.false_alarms_per_node_year > 100.0,
            "a burst is like an attack"
        );
    }
}
