//! When packets leave and of which kind: Poisson streams, slots, reply slots, loops
