//! The wiring of the `mizzle` binary: command line, configurations, nodes and clients, a network in one process,
//! measurements.
//!
//! The highest layer: it composes the others and decides nothing about packets. A library only so that its tests can
//! drive a whole network on real sockets.

pub mod args;
pub mod assemble;
pub mod bench;
pub mod bench_alarm;
pub mod bench_killed;
pub mod bench_letters;
pub mod bench_mailbox;
pub mod bench_node;
pub mod bench_send;
pub mod bench_sphinx;
pub mod budget;
pub mod check;
pub mod completions;
pub mod config;
pub mod control;
pub mod follow;
pub mod http;
pub mod init;
pub mod join;
pub mod local;
pub mod mail;
pub mod member;
pub mod moving;
pub mod node;
pub mod packet_tool;
pub mod peer;
pub mod plan;
pub mod process;
pub mod processes;
pub mod rekey;
pub mod renew;
pub mod show;
mod signals;
pub mod status;
pub mod up;
pub mod weigh;
