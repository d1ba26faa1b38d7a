//! The exit core: sessions to the outside, and what it refuses

pub mod policy;
