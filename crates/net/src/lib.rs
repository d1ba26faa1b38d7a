//! Shells: clock, entropy, sockets, tasks
