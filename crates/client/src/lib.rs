//! The client core: routes, slots, sessions
