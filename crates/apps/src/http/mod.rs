//! HTTP/1.0 and HTTP/1.1 as a proxy speaks them (RFC 9110, RFC 9112): tunnels by CONNECT, and requests for `http://`
//! addresses that are sent on.
//!
//! By hand rather than by a library: programs' headers pass in their case and order, interim responses and
//! trailers too, whatever is ambiguous is refused rather than mended, and each failure has a page of its own.

pub mod body;
mod exchange;
pub mod forward;
pub mod head;
mod inbox;
pub mod refusal;
pub(crate) mod serve;

#[cfg(test)]
mod tests;
