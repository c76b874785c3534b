//! Which addresses may be connected to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ledger_core::{Error, Result};

/// A network: an address and how many of its bits count, as in `10.0.0.0/8` and `fd00::/8`. An address
/// alone is a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address lies in it; one that is mapped into IPv6 counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let keep = u32::MAX
                    .checked_shl(32 - u32::from(self.bits))
                    .unwrap_or_default();
                (network.to_bits() ^ address.to_bits()) & keep == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let keep = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or_default();
                (network.to_bits() ^ address.to_bits()) & keep == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (address, bits) = match text.split_once('/') {
                Some((address, bits)) => (address, Some(bits)),
                None => (text, None),
            };
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = match bits {
                None => most,
                // `u8` would also take a leading plus sign.
                Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    bits.parse().ok()?
                }
                Some(_) => return None,
            };
            (bits <= most).then_some(Self { address, bits })
        };
        read().ok_or_else(|| {
            let what = format!("{text:?} must be a network such as 10.0.0.0/8 or fd00::/8");
            Error::invalid("read network", what)
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Whose addresses these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anybody's.
    Public,
    /// This machine's, or those of the network around it.
    Private,
    /// Those of the link, where clouds serve their metadata, credentials included.
    Link,
}

impl Reach {
    /// In words.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a loopback, private or reserved address",
            Self::Link => "a link-local address or that of a metadata service",
        }
    }

    /// Whose this address is. Addresses that carry an IPv4 address in them count as that one.
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        // Azure's, Alibaba's and Oracle's metadata services are not link-local.
        let metadata = [
            Ipv4Addr::new(168, 63, 129, 16),
            Ipv4Addr::new(100, 100, 100, 200),
            Ipv4Addr::new(192, 0, 0, 192),
        ];
        if address.is_link_local() || metadata.contains(&address) {
            return Self::Link;
        }
        // The special-purpose registry of RFC 6890 and its updates.
        let reserved = a == 0
            || address.is_loopback()
            || address.is_private()
            || (a == 100 && (64..128).contains(&b))
            || (a == 192 && b == 0 && (c == 0 || c == 2))
            || (a == 192 && b == 88 && c == 99)
            || (a == 198 && (b == 18 || b == 19))
            || (a == 198 && b == 51 && c == 100)
            || (a == 203 && b == 0 && c == 113)
            || a >= 224;
        if reserved {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let segments = address.segments();
        let [first, second, ..] = segments;
        let last = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        // The metadata service of AWS.
        if first & 0xffc0 == 0xfe80
            || address == Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)
        {
            return Self::Link;
        }
        if address.is_loopback() || address.is_unspecified() {
            return Self::Private;
        }
        match segments {
            // IPv4-compatible, NAT64 (well-known and local), 6to4: an IPv4 address in disguise.
            [0, 0, 0, 0, 0, 0, high, low]
            | [0x0064, 0xff9b, 0, 0, 0, 0, high, low]
            | [0x0064, 0xff9b, 0x0001, _, _, _, high, low]
            | [0x2002, high, low, ..] => return last(high, low),
            // Teredo hides it by its complement.
            [0x2001, 0, _, _, _, _, high, low] => return last(!high, !low),
            _ => {}
        }
        let reserved = first & 0xfe00 == 0xfc00
            || first & 0xffc0 == 0xfec0
            || first & 0xff00 == 0xff00
            || (first == 0x2001 && (second < 0x0200 || second == 0x0db8))
            || (first == 0x3fff && second < 0x1000)
            || first == 0x5f00
            || (first == 0x0100 && second == 0);
        if reserved {
            Self::Private
        } else {
            Self::Public
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(text: &str) -> Reach {
        Reach::of(text.parse().unwrap())
    }

    #[test]
    fn addresses_are_told_apart() {
        for text in [
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "203.0.113.9",
            "::1",
            "::",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001:0:1:2:3:4:80ff:fffe",
        ] {
            assert_eq!(reach(text), Reach::Private, "{text}");
        }
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
        ] {
            assert_eq!(reach(text), Reach::Link, "{text}");
        }
        for text in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "8.8.8.8",
            "2606:4700::1111",
            "64:ff9b::1.1.1.1",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(reach(text), Reach::Public, "{text}");
        }
    }

    #[test]
    fn a_network_holds_the_addresses_that_share_its_bits() {
        let network: Network = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains("10.255.0.1".parse().unwrap()));
        assert!(network.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(!network.contains("11.0.0.1".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let one: Network = "::1".parse().unwrap();
        assert!(one.contains("::1".parse().unwrap()));
        assert!(!one.contains("::2".parse().unwrap()));
        for wrong in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "10.0.0.0/+8",
            "x/8",
            "10.0.0.0/",
        ] {
            let error = wrong.parse::<Network>().unwrap_err();
            assert!(error.to_string().contains("10.0.0.0/8"), "{wrong}: {error}");
        }
    }
}
