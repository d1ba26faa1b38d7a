//! Profiles and plans as people read them.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Load, Plan, Report, Row};
use crate::mail::text::time;
use crate::show::{count, figure};

pub(super) fn of(report: &Report) -> String {
    let mut out = String::new();
    match &report.plan {
        Some(plan) => write_plan(&mut out, plan),
        None => write_profiles(&mut out, &report.profiles),
    }
    out
}

fn write_profiles(out: &mut String, rows: &[Row]) {
    head(out);
    rows.iter().for_each(|row| write_row(out, row));
    out.push_str(
        "\nCeilings are for exits whose gateways have 0.8 of all slots. δ₁: what an observer of all links gains over a\n\
         coin when he sees one linkable output and two possible senders. k₉₅: such outputs after which he picks the\n\
         sender among 1,000 with 95 %. Both depend on your own cover and delay, not on how many others there are.\n\n\
         `mizzle plan --users 100` computes all that follows for a network, and which rules it breaks.\n",
    );
}

fn head(out: &mut String) {
    out.push_str(
        "profile  1/µ ms  λ_P/λ_L/λ_D per s   p     down/s  up GB/day  down GB/day  ceiling down/up MB/s  δ₁    k₉₅\n",
    );
}

fn write_row(out: &mut String, r: &Row) {
    let rates = format!("{}/{}/{}", r.payload_per_s, r.loop_per_s, r.drop_per_s);
    // Writing to a `String` can't fail, here and below.
    let _ = writeln!(
        out,
        "{:<8} {:>6} {:>19} {:>5.2} {:>7} {:>10.2} {:>12.2} {:>12.3} / {:<6.3} {:>6.2} {:>5.0}",
        r.profile,
        r.mean_delay_ms,
        rates,
        r.reply_fraction,
        r.downlink_per_s,
        r.up_gb_per_day,
        r.down_gb_per_day,
        r.ceiling_down_mb_per_s,
        r.ceiling_up_mb_per_s,
        r.delta_1,
        r.k_95
    );
}

/// Seconds in words; what never comes is never.
fn span(s: f64) -> String {
    match Duration::try_from_secs_f64(s) {
        Ok(_) if s < 1.0 => format!("{} ms", figure(s * 1e3)),
        Ok(_) if s < 10.0 => format!("{} s", figure(s)),
        Ok(whole) if s < 1e9 => time(whole),
        _ => "for ever".into(),
    }
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "  {name:<18}  {text}");
}

fn write_plan(out: &mut String, plan: &Plan) {
    let _ = writeln!(
        out,
        "{} users of `{}`, {} of {}, {}\n",
        figure(plan.users),
        plan.profile.profile,
        count(plan.layers as usize, "layer", "layers"),
        count(plan.mixes_per_layer as usize, "mix", "mixes"),
        count(plan.gateways as usize, "gateway", "gateways")
    );
    head(out);
    write_row(
        out,
        &Row {
            profile: String::new(),
            ..plan.profile
        },
    );
    write_passive(out, plan);
    write_active(out, plan);
    write_latency(out, plan);
    out.push_str("\nwhat it takes\n");
    line(
        out,
        "users send",
        &format!("{} packets a second in all", figure(plan.sent_per_s)),
    );
    write_load(out, "a mix", &plan.mix);
    write_load(out, "a gateway", &plan.gateway);
    write_rules(out, plan);
}

fn write_passive(out: &mut String, plan: &Plan) {
    let p = &plan.passive;
    let (most, least) = if p.is_sharp {
        ("", "")
    } else {
        ("at most ", "at least ")
    };
    out.push_str("\nwhat an observer of all links learns\n");
    line(out, "pool", &format!("{} packets in a mix", figure(p.pool)));
    line(
        out,
        "a packet",
        &format!(
            "{most}{} bits of doubt which one it was; the best guess is right with {least}{:.2e}",
            figure(p.entropy_bits),
            p.best_guess
        ),
    );
    line(
        out,
        "one act",
        &format!(
            "δ₁ {}: told from another's {:.0} times of 100 (δ₁ 0.1 takes {} packets of one's own in a mean delay)",
            figure(p.delta_1),
            50.0 + 50.0 * p.delta_1,
            figure(p.own_for_a_tenth)
        ),
    );
    line(
        out,
        "linked acts",
        &format!(
            "k₉₅ {}: so many give their sender away among all {}",
            figure(p.k_95.ceil()),
            figure(plan.users)
        ),
    );
    line(
        out,
        "to whom",
        "nothing: slots are drawn before anyone looks at what is to be sent",
    );
    line(
        out,
        "no system beats",
        &format!(
            "δ {} with this delay and traffic and such mixes",
            figure(p.trilemma_floor)
        ),
    );
}

fn write_active(out: &mut String, plan: &Plan) {
    let a = &plan.active;
    out.push_str("\nwhat others learn\n");
    let share = figure(100.0 * a.corrupt);
    let text = if a.corrupt > 0.0 {
        format!(
            "that are {share} % of all follow 1 packet in {}; a user sends one such every {}",
            figure(1.0 / a.route_corrupt),
            span(a.seconds_until_corrupt)
        )
    } else {
        "none work together".into()
    };
    line(out, "mixes", &text);
    line(
        out,
        "gateway and exit",
        &format!(
            "of one user together see after {} that a flow is his",
            span(a.own_gateway_and_exit_s)
        ),
    );
    line(
        out,
        "who blocks a mix",
        &format!(
            "has waited {} when it is empty; the mix knows after {}; the next packet is the target {:.0} times of 100",
            span(a.flush_s),
            span(a.alarm_s),
            100.0 * a.next_is_target
        ),
    );
    line(
        out,
        "who blocks a user",
        &format!("is noticed after {}", span(a.client_alarm_s)),
    );
}

fn write_latency(out: &mut String, plan: &Plan) {
    let l = &plan.latency;
    out.push_str("\nhow long it takes\n");
    line(
        out,
        "to an exit",
        &format!(
            "{} on average: {} for a slot, {} in hops, {} on lines",
            span(l.one_way_s),
            span(l.slot_wait_s),
            span(l.delays_s),
            span(l.links_s)
        ),
    );
    line(
        out,
        "",
        &format!(
            "half within {}, 99 of 100 within {}",
            span(l.one_way_p50_s),
            span(l.one_way_p99_s)
        ),
    );
    line(
        out,
        "there and back",
        &format!(
            "{} on average, with {} for a reply's time and {} for a frame of the downlink",
            span(l.round_trip_s),
            span(l.reply_wait_s),
            span(l.downlink_wait_s)
        ),
    );
}

fn write_load(out: &mut String, name: &str, load: &Load) {
    line(
        out,
        name,
        &format!(
            "{} packets a second, {} % of what it can; {} MB/s in, {} MB/s out",
            figure(load.packets_per_s),
            figure(100.0 * load.of_capacity),
            figure(load.in_mb_per_s),
            figure(load.out_mb_per_s)
        ),
    );
}

fn write_rules(out: &mut String, plan: &Plan) {
    out.push_str("\nrules\n");
    for rule in &plan.rules {
        let mark = if rule.kept { "kept  " } else { "BROKEN" };
        let _ = writeln!(out, "  {mark}  {}: {}", rule.rule, rule.is);
        if !rule.mend.is_empty() {
            let _ = writeln!(out, "          mended by {}", rule.mend.join(", or "));
        }
    }
    let broken = plan.rules.iter().filter(|rule| !rule.kept).count();
    let _ = match broken {
        0 => writeln!(out, "\nThe plan keeps all rules."),
        1 => writeln!(out, "\nThe plan breaks one rule."),
        n => writeln!(out, "\nThe plan breaks {n} rules."),
    };
}
