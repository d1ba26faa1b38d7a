//! The port as programs see it: first without sockets, then with them, then with a real program.

mod curl;
mod proto;
mod serve;
mod support;
