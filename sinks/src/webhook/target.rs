//! Where deliveries go, and which addresses that may turn out to be.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use ledger_core::{Error, Result};
use url::{Host, Url};

use super::Network;
use super::address::Reach;

const OPERATION: &str = "read url";

/// Names under which clouds serve their metadata.
const METADATA: [&str; 4] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data.ec2.internal",
];

/// A URL that deliveries may go to, as far as that can be known before connecting. Prints as its
/// origin: what is behind may hold secrets.
#[derive(Clone)]
pub struct Target {
    pub(super) uri: Uri,
    pub(super) policy: Policy,
    /// What `user:password@` stands for.
    pub(super) authorization: Option<String>,
    origin: String,
}

/// Which addresses may be connected to.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    allow: Vec<Network>,
    /// Whether the URL names this machine as `localhost`, which is its writer's own choice.
    localhost: bool,
}

impl Policy {
    /// Whether a name that was resolved to this address may be connected to; an error is why not.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), String> {
        let reach = Reach::of(address);
        let own = self.localhost && address.to_canonical().is_loopback();
        let allowed = self.allow.iter().any(|network| network.contains(address));
        if reach == Reach::Public || own || allowed {
            return Ok(());
        }
        Err(format!(
            "{address} is {}, and allow_networks does not name it",
            reach.as_str()
        ))
    }
}

impl Target {
    /// Reads a URL. Refused is what no delivery may go to: another scheme than `http` and `https`,
    /// the link-local and metadata addresses outside `allow`, and an address in an unusual form
    /// (decimal, octal, hexadecimal, shortened). An error repeats the host only.
    pub fn parse(text: &str, allow: &[Network]) -> Result<Self> {
        let refused = |rule: String| Error::invalid(OPERATION, rule);
        let url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| refused("must be an http:// or https:// URL".to_owned()))?;
        let mut policy = Policy {
            allow: allow.to_vec(),
            localhost: false,
        };
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                policy.localhost = name == "localhost";
                let named = METADATA.contains(&name.as_str());
                if named && allow.is_empty() {
                    return Err(refused(format!(
                        "{name} is a metadata service; name its network in allow_networks to allow it"
                    )));
                }
                None
            }
            None => None,
        };
        if let Some(address) = address {
            let written = written_host(text);
            let usual = match address {
                IpAddr::V4(address) => written == address.to_string(),
                IpAddr::V6(_) => true,
            };
            if !usual {
                return Err(refused(format!(
                    "the host {written:?} is {address} in an unusual form; write {address}"
                )));
            }
            // A literal address is its writer's own choice, but for these.
            let allowed = allow.iter().any(|network| network.contains(address));
            if Reach::of(address) == Reach::Link && !allowed {
                return Err(refused(format!(
                    "{address} is {}; name its network in allow_networks to allow it",
                    Reach::Link.as_str()
                )));
            }
        }
        let authorization = (!url.username().is_empty()).then(|| {
            let decode = |text: &str| percent_decoded(text);
            let password = url.password().unwrap_or_default();
            let pair = format!("{}:{}", decode(url.username()), decode(password));
            format!("Basic {}", STANDARD.encode(pair))
        });
        let origin = url.origin().ascii_serialization();
        let mut plain = url;
        plain.set_fragment(None);
        // Of a URL with a host both can be removed.
        let _ = plain.set_username("");
        let _ = plain.set_password(None);
        let uri = Uri::try_from(plain.as_str())
            .map_err(|_| refused("holds characters that no request can".to_owned()))?;
        Ok(Self {
            uri,
            policy,
            authorization,
            origin,
        })
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// The host as it was written, in lower case.
fn written_host(text: &str) -> String {
    let behind = text.split_once("://").map_or(text, |(_, behind)| behind);
    let end = behind.find(['/', '?', '#', '\\']).unwrap_or(behind.len());
    let (authority, _) = behind.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host.trim().to_ascii_lowercase()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = rest
            .clone()
            .take(2)
            .map(|digit| char::from(digit).to_digit(16));
        let digits: Option<Vec<_>> = digits.collect();
        match (byte, digits.as_deref()) {
            (b'%', Some([high, low])) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest.nth(1);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_can_be_known_is_refused_when_it_is_read() {
        for (url, words) in [
            ("ftp://h/x", "http://"),
            ("h/x", "http://"),
            ("http://169.254.169.254/latest", "metadata"),
            ("http://[fe80::1]/", "link-local"),
            ("http://[fd00:ec2::254]/", "metadata"),
            ("http://[::ffff:169.254.169.254]/", "metadata"),
            ("http://[::ffff:a9fe:a9fe]/", "metadata"),
            ("http://2852039166/", "unusual form"),
            ("http://2130706433/", "unusual form"),
            ("http://0x7f.1/", "unusual form"),
            ("http://0177.0.0.1/", "unusual form"),
            ("http://127.1:80/", "unusual form"),
            ("http://100.100.100.200/", "metadata"),
            ("http://metadata.google.internal/", "metadata"),
            ("http://METADATA.google.internal./", "metadata"),
        ] {
            let error = Target::parse(url, &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
        Target::parse("http://169.254.169.254/", &networks(&["169.254.0.0/16"])).unwrap();
    }

    #[test]
    fn a_literal_private_address_is_its_writers_choice() {
        for url in [
            "http://127.0.0.1:8080/x",
            "http://10.0.0.1/",
            "https://[::1]:8443/",
            "http://localhost/",
            "https://example.com/hook?token=x",
        ] {
            Target::parse(url, &[]).unwrap();
        }
    }

    #[test]
    fn a_name_is_judged_by_the_address_it_has() {
        let name = Target::parse("https://example.com/", &[]).unwrap().policy;
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "169.254.169.254",
        ] {
            let refused = name.check(address.parse().unwrap()).unwrap_err();
            assert!(refused.contains(address), "{refused}");
        }
        name.check("1.1.1.1".parse().unwrap()).unwrap();
        let local = Target::parse("http://localhost/", &[]).unwrap().policy;
        local.check("127.0.0.1".parse().unwrap()).unwrap();
        local.check("::1".parse().unwrap()).unwrap();
        local.check("10.0.0.1".parse().unwrap()).unwrap_err();
        let allowing = Target::parse("https://example.com/", &networks(&["10.0.0.0/8"]));
        let allowing = allowing.unwrap().policy;
        allowing.check("10.9.9.9".parse().unwrap()).unwrap();
        allowing.check("127.0.0.1".parse().unwrap()).unwrap_err();
    }

    #[test]
    fn what_is_behind_the_host_is_printed_nowhere() {
        let target = Target::parse("https://u:hunter2@h.example/hunter2?k=hunter2", &[]).unwrap();
        let shown = format!("{target} {target:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(target.origin(), "https://h.example");
        assert_eq!(
            target.uri.to_string(),
            "https://h.example/hunter2?k=hunter2"
        );
        assert_eq!(target.authorization.as_deref(), Some("Basic dTpodW50ZXIy"));
    }
}
