//! Whether the code that ships branches, or reads and writes memory, by a secret:
//! `cargo test --release -p mizzle-sphinx --test secrets`.
//!
//! Times say nothing for certain, and a compiler may make a branch of a line that has none. So a process of this binary
//! multiplies, and peels packets, with one secret after the other, under valgrind, which tells where each instruction stands
//! and which addresses it uses. All of that must be the same for all secrets.
//!
//! What an instruction costs by its operands is not looked at: those used here always take as long. Valgrind's CPU has
//! no AVX-512. What `ifma` computes on vectors is the source of `avx2`, where nothing secret stands outside of them but
//! in functions that both call; of its times there is a measurement in `engines.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it did"
)]

#[path = "../common/mod.rs"]
mod common;
mod tracee;
mod tracer;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, engine] if role == tracee::ROLE => tracee::run(engine),
        _ => tracer::run(),
    }
}
