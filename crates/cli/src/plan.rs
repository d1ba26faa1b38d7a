//! `mizzle plan`: the profiles with what follows from their numbers, and for a network that somebody plans all that can be
//! computed before it runs: pools, what an observer learns, how long packets take, what it costs, and which rule it breaks.
//!
//! The formulas are [`mizzle_traffic::anonymity`]'s and [`mizzle_traffic::latency`]'s; here they are put together, and
//! compared with what is wanted.

mod rules;
mod text;

use clap::Args;
use mizzle_base::Profile;
use mizzle_base::document::LAYERS;
use mizzle_base::frame::FRAME_LEN;
use mizzle_base::profile::ProfileError;
use mizzle_sphinx::PACKET_LEN;
use mizzle_traffic::anonymity::{self, Shape, Traffic};
use mizzle_traffic::latency::{Way, downlink_wait_s};
use serde::Serialize;

use crate::args::ProfileName;
use rules::Rule;

/// The share of slots that `mizzle up` gives to the gateway with the exit.
pub const EXIT_WEIGHT: f64 = 0.8;

/// Users among whom an observer looks for one, in the table of profiles.
const USERS: f64 = 1_000.0;
/// Losses that are usual, and how often an alarm may be false: once in so many looks.
const LOSS: f64 = 0.01;
const FALSE_ALARM: f64 = 1e-4;
/// Standard deviations by which a flow stands out when it is called seen.
const SEEN: f64 = 3.0;

/// `mizzle plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Plan a network with so many users online; without it, only the table of profiles is printed
    #[arg(long, value_parser = at_least_one, value_name = "N")]
    pub users: Option<f64>,
    /// The traffic that they share; what follows changes single numbers of it
    #[arg(long, value_enum, default_value = "browse", requires = "users")]
    pub profile: ProfileName,
    /// Mixes in each layer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=4_000), value_name = "N", requires = "users")]
    pub mixes_per_layer: u32,
    /// Layers of mixes; this version of mizzle runs networks of 3
    #[arg(long, default_value_t = u32::from(LAYERS), value_parser = clap::value_parser!(u32).range(1..=5), value_name = "N", requires = "users")]
    pub layers: u32,
    /// Gateways
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=4_000), value_name = "N", requires = "users")]
    pub gateways: u32,
    /// Mean delay at each hop in milliseconds; loops of nodes and reply slots move along
    #[arg(long, value_parser = positive, value_name = "MS", requires = "users")]
    pub mean_delay_ms: Option<f64>,
    /// Slots for data of each user a second
    #[arg(long, value_parser = positive, value_name = "RATE", requires = "users")]
    pub payload_per_s: Option<f64>,
    /// Loops of each user a second
    #[arg(long, value_parser = positive, value_name = "RATE", requires = "users")]
    pub loop_per_s: Option<f64>,
    /// Drops of each user a second
    #[arg(long, value_parser = positive, value_name = "RATE", requires = "users")]
    pub drop_per_s: Option<f64>,
    /// The fraction of slots for data that take replies along
    #[arg(long, value_parser = positive, value_name = "FRACTION", requires = "users")]
    pub reply_fraction: Option<f64>,
    /// Frames from a gateway to each user a second
    #[arg(long, value_parser = positive, value_name = "RATE", requires = "users")]
    pub downlink_per_s: Option<f64>,
    /// Loops of each node a second
    #[arg(long, value_parser = positive, value_name = "RATE", requires = "users")]
    pub node_loop_per_s: Option<f64>,
    /// Packets a second that a node can take; one core without AVX-512 does some 10,000
    #[arg(long, default_value_t = 10_000.0, value_parser = positive, value_name = "RATE", requires = "users")]
    pub node_capacity: f64,
    /// Mean time on the line between two machines, in milliseconds
    #[arg(long, default_value_t = 50.0, value_parser = not_negative, value_name = "MS", requires = "users")]
    pub link_ms: f64,
    /// Packets a second that a user has for one exit; half as many as there are slots if not given
    #[arg(long, value_parser = not_negative, value_name = "RATE", requires = "users")]
    pub use_per_s: Option<f64>,
    /// Mixes that work together against users, in percent
    #[arg(long, default_value_t = 10.0, value_parser = share_percent, value_name = "PERCENT", requires = "users")]
    pub corrupt_percent: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value <= 1e12 => Ok(value),
        _ => Err("must be a number, a million millions at most".into()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| {
        (value > 0.0)
            .then_some(value)
            .ok_or_else(|| "must be more than 0".into())
    })
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| {
        (value >= 0.0)
            .then_some(value)
            .ok_or_else(|| "must be 0 or more".into())
    })
}

fn at_least_one(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| {
        (value >= 1.0)
            .then_some(value)
            .ok_or_else(|| "must be 1 or more".into())
    })
}

fn share_percent(text: &str) -> Result<f64, String> {
    let value = not_negative(text)?;
    (value < 100.0)
        .then_some(value)
        .ok_or_else(|| "must be less than 100: nothing hides from all of them".into())
}

/// One profile, as DESIGN's table has it.
#[derive(Debug, Serialize)]
pub struct Row {
    profile: String,
    mean_delay_ms: f64,
    payload_per_s: f64,
    loop_per_s: f64,
    drop_per_s: f64,
    reply_fraction: f64,
    downlink_per_s: f64,
    up_gb_per_day: f64,
    down_gb_per_day: f64,
    ceiling_down_mb_per_s: f64,
    ceiling_up_mb_per_s: f64,
    /// Advantage over guessing between two senders, from one linkable output.
    delta_1: f64,
    /// Linkable outputs after which the sender among 1,000 is found with 95 %.
    k_95: f64,
}

/// What is planned.
#[derive(Clone, Debug)]
struct Input {
    users: f64,
    profile: Profile,
    shape: Shape,
    node_capacity: f64,
    link_s: f64,
    /// Packets that a user has for one exit.
    used_per_s: f64,
    corrupt: f64,
}

/// A node's work.
#[derive(Clone, Copy, Debug, Serialize)]
struct Load {
    /// Packets a second that it peels.
    packets_per_s: f64,
    /// Of what it can.
    of_capacity: f64,
    /// Packets that it holds for their delays.
    pool: f64,
    in_mb_per_s: f64,
    out_mb_per_s: f64,
}

/// Times in seconds.
#[derive(Debug, Serialize)]
struct Latency {
    /// Mean of a packet to the exit and no answer.
    one_way_s: f64,
    one_way_p50_s: f64,
    one_way_p99_s: f64,
    /// Of these: for a slot, in the hops, on the lines.
    slot_wait_s: f64,
    delays_s: f64,
    links_s: f64,
    /// Mean of a packet to the exit and its answer.
    round_trip_s: f64,
    /// Of these: for a reply's due time, and for a frame of the downlink.
    reply_wait_s: f64,
    downlink_wait_s: f64,
}

/// What an observer of all links learns.
#[derive(Debug, Serialize)]
struct Passive {
    pool: f64,
    entropy_bits: f64,
    best_guess: f64,
    is_sharp: bool,
    delta_1: f64,
    k_95: f64,
    /// λ_u/µ at which δ₁ would be 0.1.
    own_for_a_tenth: f64,
    trilemma_floor: f64,
}

/// What those learn who run nodes, or stop packets.
#[derive(Debug, Serialize)]
struct Active {
    corrupt: f64,
    route_corrupt: f64,
    packets_until_corrupt: f64,
    seconds_until_corrupt: f64,
    /// Until a flow stands out to a user's gateway and exit together, while he sends without a break.
    own_gateway_and_exit_s: f64,
    /// Blocking one mix: how long it takes, after how long the mix knows, and how likely the next packet is then the
    /// target.
    flush_s: f64,
    alarm_s: f64,
    next_is_target: f64,
    /// Blocking one user: after how long he knows.
    client_alarm_s: f64,
}

/// All that follows from a plan.
#[derive(Debug, Serialize)]
struct Plan {
    users: f64,
    layers: u32,
    mixes_per_layer: f64,
    gateways: f64,
    node_capacity: f64,
    profile: Row,
    /// Λ: packets a second that users send.
    sent_per_s: f64,
    mix: Load,
    /// One that has an even share of users and of slots.
    gateway: Load,
    latency: Latency,
    passive: Passive,
    active: Active,
    rules: Vec<Rule>,
}

#[derive(Serialize)]
struct Report {
    profiles: Vec<Row>,
    plan: Option<Plan>,
}

/// The text or JSON to print.
///
/// # Errors
/// When a network would refuse such a profile.
pub fn run(args: &PlanArgs) -> Result<String, ProfileError> {
    let profiles = [Profile::chat(), Profile::browse(), Profile::bulk()];
    let plan = args.users.map(|users| input(args, users)).transpose()?;
    let report = Report {
        profiles: profiles.iter().map(row).collect(),
        plan: plan.map(|input| plan_of(&input)),
    };
    Ok(if args.json {
        // Numbers and texts: nothing that JSON can't say, but that infinity becomes null.
        format!("{}\n", serde_json::to_string(&report).unwrap_or_default())
    } else {
        text::of(&report)
    })
}

fn input(args: &PlanArgs, users: f64) -> Result<Input, ProfileError> {
    let mut profile = args.profile.profile();
    if let Some(mean_delay_ms) = args.mean_delay_ms {
        profile = profile.with_mean_delay_ms(mean_delay_ms);
    }
    for (field, given) in [
        (&mut profile.payload_per_s, args.payload_per_s),
        (&mut profile.loop_per_s, args.loop_per_s),
        (&mut profile.drop_per_s, args.drop_per_s),
        (&mut profile.reply_fraction, args.reply_fraction),
        (&mut profile.downlink_per_s, args.downlink_per_s),
        (&mut profile.node_loop_per_s, args.node_loop_per_s),
    ] {
        *field = given.unwrap_or(*field);
    }
    if profile != args.profile.profile() {
        profile.name += ", changed";
    }
    match profile.check() {
        // A rule of its own says what would mend it.
        Ok(()) | Err(ProfileError::DownlinkTooSlow) => {}
        Err(why) => return Err(why),
    }
    let used_per_s = args.use_per_s.unwrap_or(0.5 * data_slots_per_s(&profile));
    Ok(Input {
        users,
        profile,
        shape: Shape {
            layers: args.layers,
            mixes_per_layer: f64::from(args.mixes_per_layer),
            gateways: f64::from(args.gateways),
        },
        node_capacity: args.node_capacity,
        link_s: args.link_ms / 1e3,
        used_per_s,
        corrupt: args.corrupt_percent / 100.0,
    })
}

fn row(p: &Profile) -> Row {
    let gb_per_day = |per_s: f64, bytes: usize| per_s * bytes as f64 * 86_400.0 / 1e9;
    // Packets in a mean delay: λ_u/µ.
    let own = p.uplink_per_s() * p.mean_delay_ms / 1e3;
    let layers = u32::from(LAYERS);
    Row {
        profile: p.name.clone(),
        mean_delay_ms: p.mean_delay_ms,
        payload_per_s: p.payload_per_s,
        loop_per_s: p.loop_per_s,
        drop_per_s: p.drop_per_s,
        reply_fraction: p.reply_fraction,
        downlink_per_s: p.downlink_per_s,
        up_gb_per_day: gb_per_day(p.uplink_per_s(), PACKET_LEN),
        down_gb_per_day: gb_per_day(p.downlink_per_s, FRAME_LEN),
        ceiling_down_mb_per_s: p.ceiling_down_bytes_per_s(EXIT_WEIGHT) / 1e6,
        ceiling_up_mb_per_s: p.ceiling_up_bytes_per_s(EXIT_WEIGHT) / 1e6,
        delta_1: anonymity::delta_1(own, layers),
        k_95: anonymity::k_95(own, layers, USERS),
    }
}

/// Packets a second that a gateway with an even share peels: what its clients send and use of SURBs, what comes for it and
/// them, loops of mixes on their way, its own.
fn gateway_packets_per_s(input: &Input) -> f64 {
    let p = &input.profile;
    let clients = input.users / input.shape.gateways;
    let from_clients = clients * (p.uplink_per_s() + p.returning_per_s());
    let for_here = clients * (p.payload_per_s + p.drop_per_s);
    let for_clients = clients * (p.loop_per_s + p.returning_per_s());
    from_clients + for_here + for_clients + p.node_loop_per_s * (loops_of_mixes(input) + 1.0)
}

/// Loops of mixes that pass through a gateway, for each one a second that a mix sends.
fn loops_of_mixes(input: &Input) -> f64 {
    f64::from(input.shape.layers) * input.shape.mixes_per_layer / input.shape.gateways
}

fn mix_packets_per_s(input: &Input) -> f64 {
    // It peels its own loops too, when they come back.
    let traffic = Traffic::from(&input.profile);
    anonymity::mix_rate_per_s(&traffic, &input.shape, input.users) + traffic.node_loop_per_s
}

fn plan_of(input: &Input) -> Plan {
    let p = &input.profile;
    let (traffic, shape) = (Traffic::from(p), &input.shape);
    let mb = |per_s: f64, bytes: usize| per_s * bytes as f64 / 1e6;
    let load = |packets_per_s: f64, pool: f64| Load {
        packets_per_s,
        of_capacity: packets_per_s / input.node_capacity,
        pool,
        in_mb_per_s: mb(packets_per_s, PACKET_LEN),
        out_mb_per_s: mb(packets_per_s, PACKET_LEN),
    };
    let outlook = anonymity::outlook(&traffic, shape, input.users);
    let clients = input.users / shape.gateways;
    let held_by_gateway = clients * (traffic.uplink_per_s + traffic.returning_per_s)
        + traffic.node_loop_per_s * loops_of_mixes(input);
    let mut gateway = load(
        gateway_packets_per_s(input),
        held_by_gateway * traffic.mean_delay_s,
    );
    // What clients get are frames, filler or not; what comes for them and what they leave here goes no further.
    gateway.out_mb_per_s =
        mb(held_by_gateway + traffic.node_loop_per_s, PACKET_LEN) + mb(clients * p.downlink_per_s, FRAME_LEN);
    let latency = latency(input);
    let own = traffic.uplink_per_s * traffic.mean_delay_s;
    let route_corrupt = anonymity::route_corrupt(input.corrupt, shape.layers);
    let packets_until_corrupt = anonymity::packets_until_corrupt(input.corrupt, shape.layers);
    let flow_per_s = input.used_per_s.min(data_slots_per_s(p));
    Plan {
        users: input.users,
        layers: shape.layers,
        mixes_per_layer: shape.mixes_per_layer,
        gateways: shape.gateways,
        node_capacity: input.node_capacity,
        profile: Row {
            delta_1: outlook.delta_1,
            k_95: anonymity::k_95(own, shape.layers, USERS),
            ..row(p)
        },
        sent_per_s: input.users * traffic.uplink_per_s,
        mix: load(mix_packets_per_s(input), outlook.pool),
        gateway,
        passive: Passive {
            pool: outlook.pool,
            entropy_bits: outlook.entropy_bits,
            best_guess: outlook.best_guess,
            is_sharp: outlook.is_sharp(),
            delta_1: outlook.delta_1,
            k_95: outlook.k_95,
            own_for_a_tenth: anonymity::own_of_delta_1(0.1, shape.layers),
            trilemma_floor: anonymity::trilemma_floor(traffic.uplink_per_s, latency.one_way_s, route_corrupt),
        },
        active: Active {
            corrupt: input.corrupt,
            route_corrupt,
            packets_until_corrupt,
            seconds_until_corrupt: packets_until_corrupt / traffic.uplink_per_s,
            own_gateway_and_exit_s: anonymity::flow_seen_s(
                SEEN,
                traffic.uplink_per_s,
                flow_per_s,
                flow_per_s,
                traffic.mean_delay_s,
                shape.layers,
            ),
            flush_s: anonymity::flush_s(outlook.pool, traffic.mean_delay_s),
            alarm_s: anonymity::alarm_s(traffic.node_loop_per_s, 1.0, LOSS, FALSE_ALARM),
            // Own loops leave beside the pool.
            next_is_target: 1.0 / (1.0 + traffic.node_loop_per_s * traffic.mean_delay_s),
            client_alarm_s: anonymity::alarm_s(p.loop_per_s, 1.0, LOSS, FALSE_ALARM),
        },
        latency,
        rules: rules::check(input, &outlook),
    }
}

/// Slots for data to the exits that a session is with.
fn data_slots_per_s(p: &Profile) -> f64 {
    p.payload_per_s * (1.0 - p.reply_fraction) * EXIT_WEIGHT
}

fn latency(input: &Input) -> Latency {
    let p = &input.profile;
    let (slots_per_s, delays) = (data_slots_per_s(p), input.shape.layers + 1);
    let links = f64::from(delays) + 1.0;
    let way = Way {
        slots_per_s,
        used_per_s: input.used_per_s,
        delays,
        mean_delay_s: p.mean_delay_ms / 1e3,
        fixed_s: links * input.link_s,
    };
    let reply_wait_s = 1.0 / (p.returning_per_s() * EXIT_WEIGHT);
    let downlink_wait_s = downlink_wait_s(p.downlink_per_s, p.loop_per_s + p.returning_per_s());
    let delays_s = f64::from(delays) * way.mean_delay_s;
    Latency {
        one_way_s: way.mean_s(),
        one_way_p50_s: way.quantile_s(0.5),
        one_way_p99_s: way.quantile_s(0.99),
        slot_wait_s: way.slot_wait_s(),
        delays_s,
        links_s: way.fixed_s,
        round_trip_s: way.mean_s() + reply_wait_s + delays_s + (links + 1.0) * input.link_s + downlink_wait_s,
        reply_wait_s,
        downlink_wait_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: PlanArgs,
    }

    fn args(given: &[&str]) -> PlanArgs {
        Cli::try_parse_from([&["plan"], given].concat()).map_or_else(|e| panic!("{e}"), |cli| cli.args)
    }

    fn plan(given: &[&str]) -> Plan {
        let args = args(given);
        plan_of(&input(&args, args.users.unwrap()).unwrap())
    }

    fn near(a: f64, b: f64, by: f64) -> bool {
        (a - b).abs() <= by
    }

    #[test]
    fn the_numbers_are_those_of_the_design() {
        let rows: Vec<Row> = [Profile::chat(), Profile::browse(), Profile::bulk()]
            .iter()
            .map(row)
            .collect();
        for (row, up, down, delta, k) in [
            (&rows[0], 0.12, 0.40, 0.45, 46.0),
            (&rows[1], 20.0, 40.0, 0.24, 153.0),
            (&rows[2], 120.0, 208.0, 0.10, 920.0),
        ] {
            assert!(near(row.up_gb_per_day, up, up * 0.03), "{row:?}");
            assert!(near(row.down_gb_per_day, down, down * 0.03), "{row:?}");
            assert!(near(row.delta_1, delta, 0.01), "{row:?}");
            assert!(near(row.k_95, k, k * 0.02), "{row:?}");
        }
    }

    #[test]
    fn a_plan_is_what_the_closed_forms_say() {
        let plan = plan(&["--users", "1000", "--profile", "chat", "--link-ms", "50"]);
        // 1,000 users send 0.3 and get 0.5 back; three mixes a layer, as many gateways: three loops a second.
        assert!(near(plan.sent_per_s, 300.0, 1e-9));
        assert!(near(plan.mix.pool, 800.0 / 3.0 + 3.0, 1e-9));
        assert!(near(plan.mix.packets_per_s, 800.0 / 3.0 + 4.0, 1e-9));
        assert!(near(plan.passive.entropy_bits, 10.89, 0.01));
        assert!(near(plan.passive.best_guess, 9.0e-4, 1e-5));
        assert!(near(plan.passive.delta_1, 0.446, 1e-3) && near(plan.passive.k_95, 46.0, 1.0));
        // 0.08 slots a second, half of them used; four delays of a second, five lines.
        let latency = &plan.latency;
        assert!(near(latency.one_way_s, 25.0 + 4.0 + 0.25, 1e-9), "{latency:?}");
        assert!(latency.one_way_p50_s < latency.one_way_s && latency.one_way_s < latency.one_way_p99_s);
        assert!(near(plan.active.packets_until_corrupt, 693.0, 1.0));
        assert!(near(plan.active.alarm_s, 9.3, 0.01) && near(plan.active.flush_s, 10.2, 0.1));
        assert!(near(plan.active.next_is_target, 0.5, 1e-9));
        // What its clients send, as much as one in three of the mixes of a layer, comes for it too, and more returns.
        assert!(plan.gateway.packets_per_s > plan.mix.packets_per_s);
        assert!(plan.rules.iter().all(|rule| rule.kept), "{:?}", plan.rules);
    }

    #[test]
    fn a_round_trip_in_browse_is_what_was_measured() {
        // Half of a connection and a request, on one machine, with nothing else to do: 0.63 / 2 s.
        let plan = plan(&["--users", "1", "--link-ms", "0", "--use-per-s", "0"]);
        assert!(near(plan.latency.round_trip_s, 0.31, 0.03), "{:?}", plan.latency);
    }

    #[test]
    fn json_has_the_profiles_and_the_plan_and_no_number_that_is_none() {
        let report = run(&args(&["--json"])).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["profiles"].as_array().map(Vec::len), Some(3));
        assert!(report["plan"].is_null());
        // A full downlink, more used than there is, and nobody corrupt.
        let odd = [
            "--users",
            "1",
            "--downlink-per-s",
            "0.001",
            "--use-per-s",
            "300",
            "--corrupt-percent",
            "0",
        ];
        let report = run(&args(&[&odd[..], &["--json"]].concat())).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(report["plan"]["latency"]["one_way_s"].is_null());
        assert!(report["plan"]["mix"]["pool"].is_number());
        // The text has words for it.
        let text = run(&args(&odd)).unwrap();
        assert!(!text.contains("inf") && !text.contains("NaN"), "{text}");
    }

    #[test]
    fn what_no_network_takes_is_refused_by_name() {
        let args = args(&["--users", "5", "--mean-delay-ms", "5000"]);
        let why = run(&args).unwrap_err().to_string();
        assert!(why.contains("mean_delay_ms") && why.contains("4700"), "{why}");
        for given in [
            &["--users", "0"][..],
            &["--users", "inf"],
            &["--users", "5", "--corrupt-percent", "100"],
            &["--users", "5", "--link-ms", "-1"],
            &["--mixes-per-layer", "2"],
        ] {
            assert!(
                Cli::try_parse_from([&["plan"], given].concat()).is_err(),
                "{given:?}"
            );
        }
    }
}
