//! What programs speak: SOCKS
