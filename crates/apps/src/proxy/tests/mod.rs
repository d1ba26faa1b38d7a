//! The port as programs see it: byte by byte over real sockets, then with a real program.

mod bodies;
mod curl;
mod forwarding;
mod http;
mod socks;
mod support;
