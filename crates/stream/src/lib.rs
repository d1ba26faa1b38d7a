//! End to end: seal, fragments, retransmission, byte streams
