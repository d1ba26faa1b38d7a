//! The rules that a plan is to keep, and what would mend one that it breaks.

use mizzle_base::profile::MAX_MEAN_DELAY_MS;
use mizzle_traffic::anonymity::{self, Outlook, POOL_WANTED, Traffic};
use serde::Serialize;

use super::{Input, data_slots_per_s, gateway_packets_per_s, loops_of_mixes, mix_packets_per_s};
use crate::show::figure;

/// Most of its capacity that a node is to be loaded with: traffic is Poisson, and neighbours fail.
const LOAD: f64 = 0.5;
/// Most of the downlink that is to be full: above it, waits grow without measure.
const DOWNLINK: f64 = 0.9;
/// Fewest mixes in a layer: with one, whoever runs it sees the whole layer, and its failure stops the network.
const MIXES: f64 = 3.0;

/// A rule.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    /// What is wanted.
    pub(super) rule: String,
    /// Whether it is so.
    pub(super) kept: bool,
    /// What is.
    pub(super) is: String,
    /// Any one of these would mend it, as far as it goes.
    pub(super) mend: Vec<String>,
}

impl Rule {
    fn new(rule: impl Into<String>, kept: bool, is: impl Into<String>, mend: Vec<String>) -> Self {
        Self {
            rule: rule.into(),
            kept,
            is: is.into(),
            mend: if kept { Vec::new() } else { mend },
        }
    }
}

/// All of them.
pub(super) fn check(input: &Input, outlook: &Outlook) -> Vec<Rule> {
    vec![
        pool(input, outlook),
        mixes(input),
        node_loops(input),
        load_of_mixes(input),
        load_of_gateways(input),
        downlink(input),
        slots(input),
        Rule::new(
            "this version runs networks of 3 layers",
            input.shape.layers == u32::from(mizzle_base::document::LAYERS),
            format!("{} layers", input.shape.layers),
            vec!["plan with --layers 3".into()],
        ),
    ]
}

fn pool(input: &Input, outlook: &Outlook) -> Rule {
    let (traffic, shape) = (Traffic::from(&input.profile), &input.shape);
    let users = anonymity::users_of_pool(&traffic, shape, shape.mixes_per_layer, POOL_WANTED).ceil();
    let mut mend = vec![format!("{} users", figure(users))];
    // Fewer mixes share the same packets.
    let all = input.users * (traffic.uplink_per_s + traffic.returning_per_s)
        + shape.gateways * traffic.node_loop_per_s;
    let others = (f64::from(shape.layers) - 1.0) * traffic.node_loop_per_s;
    let mixes = (all / (POOL_WANTED / traffic.mean_delay_s - others)).floor();
    // But for no fewer than another rule wants.
    if mixes >= MIXES && mixes < shape.mixes_per_layer {
        mend.push(format!("{mixes} mixes in a layer"));
    }
    // Nodes that send a loop each delay have as many in the pools, however long it is.
    let per_delay = traffic.node_loop_per_s * traffic.mean_delay_s;
    let loops = per_delay * (f64::from(shape.layers) - 1.0 + shape.gateways / shape.mixes_per_layer);
    let delay_s = (POOL_WANTED - loops) * shape.mixes_per_layer
        / (input.users * (traffic.uplink_per_s + traffic.returning_per_s));
    let delay_ms = (delay_s * 1e3).ceil();
    if delay_ms <= MAX_MEAN_DELAY_MS {
        mend.push(format!("a mean delay of {delay_ms} ms (--mean-delay-ms)"));
    }
    Rule::new(
        format!(
            "{} packets in the pool of a mix, or some users stand out by chance",
            figure(POOL_WANTED)
        ),
        outlook.pool >= POOL_WANTED,
        figure(outlook.pool),
        mend,
    )
}

fn mixes(input: &Input) -> Rule {
    let mixes = input.shape.mixes_per_layer;
    Rule::new(
        format!("{MIXES} mixes in a layer, each of another operator, and no operator in two layers"),
        mixes >= MIXES,
        format!("{mixes}"),
        vec![format!("{MIXES} mixes in a layer")],
    )
}

fn node_loops(input: &Input) -> Rule {
    let p = &input.profile;
    let wanted = 1_000.0 / p.mean_delay_ms;
    Rule::new(
        "a node sends a loop in each mean delay, so that it knows of an attack before it succeeds",
        // To the digits that people write.
        p.node_loop_per_s >= wanted * 0.999,
        format!(
            "{} a second, {} wanted",
            figure(p.node_loop_per_s),
            figure(wanted)
        ),
        vec![format!("--node-loop-per-s {}", figure(wanted))],
    )
}

fn load_of_mixes(input: &Input) -> Rule {
    let (p, shape) = (&input.profile, &input.shape);
    let per_s = mix_packets_per_s(input);
    let all = input.users * (p.uplink_per_s() + p.returning_per_s()) + shape.gateways * p.node_loop_per_s;
    let left = LOAD * input.node_capacity - f64::from(shape.layers) * p.node_loop_per_s;
    let mut mend = vec![format!("nodes for {} packets a second", figure(per_s / LOAD))];
    if left > 0.0 {
        mend.push(format!("{} mixes in a layer", (all / left).ceil()));
    }
    load("a mix", per_s, input.node_capacity, mend)
}

fn load_of_gateways(input: &Input) -> Rule {
    let per_s = gateway_packets_per_s(input);
    let own = input.profile.node_loop_per_s;
    let shared = per_s - own;
    let left = LOAD * input.node_capacity - own;
    let mut mend = vec![format!("nodes for {} packets a second", figure(per_s / LOAD))];
    if left > 0.0 && loops_of_mixes(input) > 0.0 {
        mend.push(format!(
            "{} gateways",
            (shared * input.shape.gateways / left).ceil()
        ));
    }
    load("a gateway", per_s, input.node_capacity, mend)
}

fn load(who: &str, per_s: f64, capacity: f64, mend: Vec<String>) -> Rule {
    Rule::new(
        format!(
            "{who} is loaded with half of what it can, {} packets a second",
            figure(LOAD * capacity)
        ),
        per_s <= LOAD * capacity,
        format!("{} packets a second", figure(per_s)),
        mend,
    )
}

fn downlink(input: &Input) -> Rule {
    let p = &input.profile;
    let returning = p.loop_per_s + p.returning_per_s();
    let load = returning / p.downlink_per_s;
    Rule::new(
        "what returns to a user fills nine tenths of the downlink at most",
        load <= DOWNLINK,
        format!("{} %", figure(100.0 * load)),
        vec![format!(
            "--downlink-per-s {}",
            figure((returning / DOWNLINK).ceil())
        )],
    )
}

fn slots(input: &Input) -> Rule {
    let (slots_per_s, used_per_s) = (data_slots_per_s(&input.profile), input.used_per_s);
    // A fifth stays free: the wait goes as one over what does.
    let wanted = input.profile.payload_per_s * used_per_s / (0.8 * slots_per_s);
    Rule::new(
        "a user has less to send than there are slots for it",
        used_per_s < slots_per_s,
        format!(
            "{} a second for {} slots",
            figure(used_per_s),
            figure(slots_per_s)
        ),
        vec![format!("--payload-per-s {}", figure(wanted.ceil()))],
    )
}

#[cfg(test)]
mod tests {
    use super::super::{PlanArgs, input, plan_of};
    use clap::Parser;
    use std::collections::BTreeMap;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: PlanArgs,
    }

    /// The rules that a plan breaks, each with what would mend it. Of a flag that is there twice the later counts.
    fn broken(line: &str) -> Vec<(String, Vec<String>)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags: BTreeMap<&str, &str> = words.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let words = ["plan"]
            .into_iter()
            .chain(flags.into_iter().flat_map(|(name, value)| [name, value]));
        let args = Cli::try_parse_from(words).map_or_else(|e| panic!("{line}: {e}"), |cli| cli.args);
        let input = input(&args, args.users.unwrap()).unwrap();
        let rules = plan_of(&input).rules.into_iter();
        rules
            .filter(|rule| !rule.kept)
            .map(|rule| (rule.rule, rule.mend))
            .collect()
    }

    /// That a plan breaks one rule, and that each of these changes mends it.
    fn mended(plan: &str, rule: &str, mends: &[(&str, &str)]) {
        let found = broken(plan);
        assert!(found.len() == 1 && found[0].0.contains(rule), "{plan}: {found:?}");
        let mut words = found[0].1.clone();
        for (said, args) in mends {
            let at = words.iter().position(|word| word.contains(said));
            let at = at.unwrap_or_else(|| panic!("{said}: {words:?}"));
            words.remove(at);
            let still = broken(&format!("{plan} {args}"));
            assert!(
                !still.iter().any(|(name, _)| name.contains(rule)),
                "{args}: {still:?}"
            );
        }
        assert!(words.is_empty(), "not tried: {words:?}");
    }

    #[test]
    fn each_rule_says_what_mends_it_and_that_does() {
        assert!(broken("--users 50").is_empty(), "{:?}", broken("--users 50"));
        mended(
            "--users 7",
            "in the pool",
            &[
                ("22 users", "--users 22"),
                ("a mean delay of 63 ms", "--mean-delay-ms 63"),
            ],
        );
        mended(
            "--users 27 --mixes-per-layer 5",
            "in the pool",
            &[
                ("38 users", "--users 38"),
                ("3 mixes in a layer", "--mixes-per-layer 3"),
                ("a mean delay of 28 ms", "--mean-delay-ms 28"),
            ],
        );
        mended(
            "--users 50 --mixes-per-layer 2",
            "mixes in a layer",
            &[("3 mixes", "--mixes-per-layer 3")],
        );
        mended(
            "--users 50 --node-loop-per-s 10",
            "a loop in each mean delay",
            &[("--node-loop-per-s 50", "--node-loop-per-s 50")],
        );
        mended(
            "--users 50 --downlink-per-s 75",
            "of the downlink",
            &[("--downlink-per-s 80", "--downlink-per-s 80")],
        );
        mended(
            "--users 50 --use-per-s 22",
            "than there are slots",
            &[("--payload-per-s 52", "--payload-per-s 52")],
        );
        mended(
            "--users 50 --layers 4",
            "networks of 3 layers",
            &[("--layers 3", "--layers 3")],
        );
    }

    #[test]
    fn overloaded_nodes_are_told_with_how_many_would_do() {
        let found = broken("--users 300");
        let names: Vec<_> = found
            .iter()
            .map(|(rule, _)| rule.split(" is ").next().unwrap())
            .collect();
        assert_eq!(names, ["a mix", "a gateway"], "{found:?}");
        let n = |mend: &str| mend.split(' ').next().unwrap().to_owned();
        let (mixes, gateways) = (n(&found[0].1[1]), n(&found[1].1[1]));
        let enough = format!("--users 300 --mixes-per-layer {mixes} --gateways {gateways}");
        assert!(broken(&enough).is_empty(), "{enough}: {:?}", broken(&enough));
    }
}
