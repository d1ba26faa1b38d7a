//! One entry of the operator's list: a block of addresses, perhaps with ports, as written in the
//! configuration (`127.0.0.0/8`, `10.0.0.0/8:80-443`, `[fd00::]/8:80`).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::ranges::Net;

/// Addresses and ports that an operator lets an exit connect to although they are not public.
///
/// Its text form is `ADDRESS/LENGTH` or `ADDRESS/LENGTH:PORTS`; without a length it is one address, without
/// ports it is every port. Where ports follow, an IPv6 address stands in brackets.
///
/// ```
/// use mizzle_exit::policy::Allow;
/// let allow = Allow::parse("10.0.0.0/8:80-443")?;
/// assert_eq!(allow.to_string(), "10.0.0.0/8:80-443");
/// # Ok::<(), mizzle_exit::policy::AllowError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    net: Net,
    ports: RangeInclusive<u16>,
}

/// What is wrong with the text of an [`Allow`], and how it should read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllowError {
    /// The address can't be read.
    #[error(
        "\"{text}\" is not an address range: write it like 10.0.0.0/8, 10.0.0.0/8:80-443 or [fd00::]/8:80"
    )]
    Address {
        /// The text that was given.
        text: String,
    },
    /// The length of the prefix can't be read or is too large.
    #[error("\"{text}\": the length after the slash must be a number from 0 to {max}, like {example}")]
    Length {
        /// The text that was given.
        text: String,
        /// The largest length of this family.
        max: u8,
        /// An entry that can be read.
        example: &'static str,
    },
    /// The ports can't be read.
    #[error(
        "\"{text}\": after the colon write one port or a range of ports from 1 to 65535, like :80 or :80-443"
    )]
    Ports {
        /// The text that was given.
        text: String,
    },
    /// The address has bits behind its prefix, so one of the two is a slip.
    #[error(
        "\"{text}\" has an address inside the range: write {range} for the range or {single} for the address alone"
    )]
    HostBits {
        /// The text that was given.
        text: String,
        /// The range that contains the address.
        range: String,
        /// The address alone.
        single: String,
    },
    /// IPv4-mapped addresses are judged as IPv4.
    #[error("\"{text}\" is an IPv4 range in IPv6 clothes, which is judged as IPv4: write {instead}")]
    Mapped {
        /// The text that was given.
        text: String,
        /// The same range as IPv4.
        instead: String,
    },
}

impl Allow {
    /// Reads an entry of an operator's list.
    ///
    /// # Errors
    /// The [`AllowError`] quotes the text and shows the right form.
    pub fn parse(text: &str) -> Result<Self, AllowError> {
        let text = text.trim();
        let bad_address = || AllowError::Address {
            text: text.to_owned(),
        };
        let bad_ports = || AllowError::Ports {
            text: text.to_owned(),
        };

        let (ip, rest) = match text.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or_else(bad_address)?,
            // Without brackets the colons of IPv6 leave no room for ports.
            None if text.matches(':').count() > 1 => text.split_at(text.find('/').unwrap_or(text.len())),
            None => text.split_at(text.find(['/', ':']).unwrap_or(text.len())),
        };
        let ip: IpAddr = ip.parse().map_err(|_| bad_address())?;
        if ip.is_ipv4() && text.starts_with('[') {
            return Err(bad_address());
        }

        let (max, example) = if ip.is_ipv4() {
            (32, "10.0.0.0/8")
        } else {
            (128, "[fd00::]/8")
        };
        let (len, ports) = match rest.strip_prefix('/') {
            Some(rest) => {
                let (len, ports) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
                let bad_length = || AllowError::Length {
                    text: text.to_owned(),
                    max,
                    example,
                };
                (
                    number(len)
                        .filter(|len| *len <= max.into())
                        .ok_or_else(bad_length)? as u8,
                    ports,
                )
            }
            None => (max, rest),
        };
        let ports = match ports.strip_prefix(':') {
            Some(ports) if ip.is_ipv4() || text.starts_with('[') => {
                parse_ports(ports).ok_or_else(bad_ports)?
            }
            None if ports.is_empty() => 1..=u16::MAX,
            _ => return Err(bad_address()),
        };
        checked(text, Net { ip, len }, ports)
    }

    /// Whether this entry lists the endpoint.
    pub(super) fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.net.contains(ip) && self.ports.contains(&port)
    }

    pub(super) fn prefix_len(&self) -> u8 {
        self.net.len
    }
}

/// Refuses the entries that read well and would do something else than meant, or nothing.
fn checked(text: &str, net: Net, ports: RangeInclusive<u16>) -> Result<Allow, AllowError> {
    let range = net.truncated();
    if range != net {
        let max = if net.ip.is_ipv4() { 32 } else { 128 };
        let show = |net| {
            Allow {
                net,
                ports: ports.clone(),
            }
            .to_string()
        };
        let text = text.to_owned();
        return Err(AllowError::HostBits {
            text,
            range: show(range),
            single: show(Net { ip: net.ip, len: max }),
        });
    }
    if let IpAddr::V6(v6) = net.ip
        && net.len >= 96
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let net = Net {
            ip: IpAddr::V4(v4),
            len: net.len - 96,
        };
        let instead = Allow { net, ports }.to_string();
        return Err(AllowError::Mapped {
            text: text.to_owned(),
            instead,
        });
    }
    Ok(Allow { net, ports })
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (0 < first && first <= last).then_some(first..=last)
}

/// Digits only: the standard parser takes a sign as well.
fn number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl FromStr for Allow {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        Self::parse(text)
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Net { ip, len } = self.net;
        match ip {
            IpAddr::V4(ip) => write!(f, "{ip}/{len}")?,
            IpAddr::V6(ip) => write!(f, "[{ip}]/{len}")?,
        }
        match (*self.ports.start(), *self.ports.end()) {
            (1, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}
