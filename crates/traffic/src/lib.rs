//! When packets leave, for which gateway and of which kind, without a look at what the user does.
//!
//! Implements the Traffic section of the design: [patterns](pattern) in time, [slots](slot) of a client, the due
//! times of [reply slots](reply), the [ledger] of loops, and the [routes](route) that all of them take. What loops tell: an [alarm], an
//! [estimate] of each node, the [weights] that follow from those of all nodes, and what one's own routes [avoid]. And what follows for
//! those who use it: [anonymity], [latency], and a [census] of the users.
//! What goes into a slot is decided by the client core, after the slot is drawn; nothing here takes an argument
//! that depends on user traffic.

pub mod alarm;
pub mod anonymity;
pub mod avoid;
pub mod census;
pub mod draw;
pub mod estimate;
pub mod latency;
pub mod ledger;
pub mod pattern;
pub mod reply;
pub mod route;
pub mod slot;
pub mod weights;
