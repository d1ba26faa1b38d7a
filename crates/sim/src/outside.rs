//! The world outside the exits: names, and servers that answer bytes with bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mizzle_stream::OpenError;

/// One connection's server.
pub trait Server {
    /// Takes what the client sent, appends what it answers. True ends its side.
    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool;

    /// The client will send no more. True ends its side.
    fn finished(&mut self, out: &mut Vec<u8>) -> bool;
}

type Make = Box<dyn FnMut() -> Box<dyn Server>>;

/// Names and servers.
#[derive(Default)]
pub struct Outside {
    names: BTreeMap<String, Vec<IpAddr>>,
    servers: BTreeMap<SocketAddr, Make>,
    /// Every connection that an exit made, in order.
    pub connects: Vec<SocketAddr>,
}

/// A public address for servers of tests.
pub const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 216, 34));

impl Outside {
    /// Lets `name` resolve.
    pub fn name(&mut self, name: &str, addresses: Vec<IpAddr>) {
        self.names.insert(name.into(), addresses);
    }

    /// Puts a server at an address.
    pub fn serve(&mut self, address: SocketAddr, make: impl FnMut() -> Box<dyn Server> + 'static) {
        self.servers.insert(address, Box::new(make));
    }

    pub(crate) fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, OpenError> {
        self.names.get(name).cloned().ok_or(OpenError::NameNotFound)
    }

    pub(crate) fn connect(&mut self, addresses: &[SocketAddr]) -> Result<Box<dyn Server>, OpenError> {
        self.connects.extend_from_slice(addresses);
        addresses
            .iter()
            .find_map(|a| self.servers.get_mut(a).map(|make| make()))
            .ok_or(OpenError::ConnectionRefused)
    }
}
