//! Which addresses an exit may connect to.
//!
//! An exit connects on behalf of strangers, so it must not lend them its place in a network: whatever is
//! reachable only from the exit's machine or its provider's network (loopback, private ranges, cloud
//! metadata, …) is refused unless the operator lists it. The judgement is passed on the very address that is
//! about to be connected to, after resolution: a name that resolves to `127.0.0.1` is refused like the
//! literal, and an IPv6 address that carries an IPv4 address inside is judged by both.
//!
//! Left to others: resolving names, limits per session, and connecting (always to the address that
//! [`Policy::check`] gives back, never to the one it was asked about).

mod allow;
mod ranges;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

pub use allow::{Allow, AllowError};
pub use ranges::Range;

/// The operator's rules about destinations.
///
/// [`Policy::default`] lets connections go to every public unicast address and port, and nowhere else. A
/// policy is built once per network document and read for each connection; each check walks its lists, so
/// they are meant to hold hundreds of entries, not millions.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    allow: Vec<Allow>,
    refused_endpoints: Vec<SocketAddr>,
    own_addresses: Vec<IpAddr>,
}

/// Why an exit doesn't connect somewhere.
///
/// The words name no address, so they may be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address is not a public unicast address.
    #[error(
        "the destination is {0}, not a public internet address, and this exit's operator does not list it"
    )]
    NotPublic(Range),
    /// The address carries an IPv4 address inside, and that one is refused.
    #[error(
        "the destination carries an IPv4 address inside that is {0}, and this exit's operator does not list it"
    )]
    CarriesNotPublic(Range),
    /// It is one of the addresses of the exit's own machine.
    #[error("the destination is this exit's own machine, and its operator does not list it")]
    OwnAddress,
    /// A node of the network listens there.
    #[error("a node of the network listens at the destination: exits never connect to nodes")]
    NodeEndpoint,
    /// Port 0 cannot be connected to.
    #[error("the destination has port 0, to which nothing can connect")]
    PortZero,
}

impl Policy {
    /// Lets connections go to what `allow` covers although it is not public. Adds to what was listed before.
    ///
    /// Default: nothing. Endpoints of nodes stay refused.
    #[must_use]
    pub fn with_allowed(mut self, allow: impl IntoIterator<Item = Allow>) -> Self {
        self.allow.extend(allow);
        self
    }

    /// Refuses these endpoints, whatever else is allowed: where nodes, this one or others, listen. Adds to
    /// what was listed before.
    ///
    /// An unspecified address (`0.0.0.0:9000`, `[::]:9000`) stands for that port on every local address:
    /// loopback and all that [`with_own_addresses`](Self::with_own_addresses) was told.
    #[must_use]
    pub fn with_refused_endpoints(mut self, endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.refused_endpoints
            .extend(endpoints.into_iter().map(normalised));
        self
    }

    /// Tells which addresses the exit's machine has. Adds to what was listed before.
    ///
    /// They are refused like private ones, even if public, unless the operator lists them: a service often
    /// trusts what comes from its own machine.
    #[must_use]
    pub fn with_own_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.own_addresses
            .extend(addresses.into_iter().map(|ip| ip.to_canonical()));
        self
    }

    /// Judges the address about to be connected to.
    ///
    /// # Errors
    /// The [`Refusal`] says why not. Otherwise the answer is the address to connect to: IPv4-mapped IPv6
    /// becomes IPv4, and flow labels and needless scopes are gone.
    pub fn check(&self, addr: SocketAddr) -> Result<SocketAddr, Refusal> {
        let addr = normalised(addr);
        if addr.port() == 0 {
            return Err(Refusal::PortZero);
        }
        match addr.ip() {
            IpAddr::V4(ip) => self.judge_v4(ip, addr.port())?,
            IpAddr::V6(ip) => self.judge_v6(ip, addr.port())?,
        }
        Ok(addr)
    }

    fn judge_v4(&self, ip: Ipv4Addr, port: u16) -> Result<(), Refusal> {
        self.judge_plain(IpAddr::V4(ip), port)
    }

    fn judge_v6(&self, ip: Ipv6Addr, port: u16) -> Result<(), Refusal> {
        self.judge_plain(IpAddr::V6(ip), port)?;
        let Some(carrier) = ranges::Carrier::of(ip) else {
            return Ok(());
        };
        // Only a local NAT64 prefix leaves open where the IPv4 address sits: the length that the operator
        // wrote says it, and any listing that leads to an allowed address is enough. For the other carriers
        // the length makes no difference.
        let mut verdict = Err(Refusal::CarriesNotPublic(carrier.range()));
        let listed = self
            .allow
            .iter()
            .filter(|allow| allow.covers(IpAddr::V6(ip), port));
        for prefix_len in listed.map(Allow::prefix_len) {
            verdict = carrier
                .carried(prefix_len)
                .try_for_each(|inner| self.judge_carried(inner, port));
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    fn judge_carried(&self, ip: Ipv4Addr, port: u16) -> Result<(), Refusal> {
        self.judge_v4(ip, port).map_err(|refusal| match refusal {
            Refusal::NotPublic(range) => Refusal::CarriesNotPublic(range),
            other => other,
        })
    }

    /// Judges an address as such, without looking for another one inside.
    fn judge_plain(&self, ip: IpAddr, port: u16) -> Result<(), Refusal> {
        if self.is_refused_endpoint(ip, port) {
            return Err(Refusal::NodeEndpoint);
        }
        if self.allow.iter().any(|allow| allow.covers(ip, port)) {
            return Ok(());
        }
        match Range::of(ip) {
            Some(range) => Err(Refusal::NotPublic(range)),
            None if self.own_addresses.contains(&ip) => Err(Refusal::OwnAddress),
            None => Ok(()),
        }
    }

    fn is_refused_endpoint(&self, ip: IpAddr, port: u16) -> bool {
        // Connecting to the unspecified address reaches loopback on the common systems.
        let ip = match ip {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let local = ip.is_loopback() || self.own_addresses.contains(&ip);
        self.refused_endpoints.iter().any(|refused| {
            refused.port() == port && (refused.ip() == ip || (refused.ip().is_unspecified() && local))
        })
    }
}

/// IPv4-mapped IPv6 becomes IPv4, since that is what a connection to it would be; flow labels go, and scopes
/// stay only where an address means nothing without one.
fn normalised(addr: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = addr else { return addr };
    match v6.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), v6.port()),
        IpAddr::V6(ip) => {
            let scope = if ip.is_unicast_link_local() || ip.is_multicast() {
                v6.scope_id()
            } else {
                0
            };
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, scope))
        }
    }
}
