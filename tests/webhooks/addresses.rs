use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ledger::hook::{Delivery, Endpoint as _, Outcome};
use ledger::webhook::{Network, Resolve, Target, WebhookConfig, WebhookEndpoint};
use ledger_harness::{Receiver, Reply};

use crate::endpoint::delivery;

/// Says that names have these addresses, one list a question; the last one again and again.
#[derive(Debug)]
struct Says(Vec<Vec<IpAddr>>, AtomicUsize);

#[async_trait]
impl Resolve for Says {
    async fn resolve(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        let asked = self.1.fetch_add(1, Ordering::AcqRel);
        Ok(self.0[asked.min(self.0.len() - 1)].clone())
    }
}

fn endpoint(url: &str, allow: &[&str], says: &[&[&str]]) -> WebhookEndpoint {
    let allow: Vec<Network> = allow.iter().map(|text| text.parse().unwrap()).collect();
    let target = Target::parse(url, &allow).unwrap();
    let mut config = WebhookConfig::new(target);
    config.timeout = std::time::Duration::from_secs(5);
    let lists = says.iter();
    let lists = lists.map(|list| list.iter().map(|text| text.parse().unwrap()).collect());
    let says = Says(lists.collect(), AtomicUsize::new(0));
    WebhookEndpoint::resolving(config, Arc::new(says)).unwrap()
}

async fn refused(endpoint: &WebhookEndpoint, delivery: &Delivery, address: &str) {
    let answer = endpoint.post(delivery).await.unwrap();
    assert_eq!((answer.outcome, answer.status), (Outcome::Failed, None));
    let error = answer.error.unwrap();
    assert!(
        error.contains("allow_networks") && error.contains(address),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_to_an_address_that_is_not_public_is_not_connected_to() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let url = format!("http://hook.example:{}/", receiver.address().port());
    let delivery = delivery();
    for address in [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "0.0.0.0",
        "100.64.0.1",
    ] {
        let named = endpoint(&url, &[], &[&[address]]);
        refused(&named, &delivery, address).await;
        // One public address beside it makes it no better.
        let named = endpoint(&url, &[], &[&["203.0.114.1", address]]);
        refused(&named, &delivery, address).await;
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_may_resolve_into_the_networks_that_are_allowed() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let url = format!("http://hook.example:{}/", receiver.address().port());
    let allowed = endpoint(&url, &["127.0.0.0/8"], &[&["127.0.0.1"]]);
    let answer = allowed.post(&delivery()).await.unwrap();
    assert_eq!(answer.outcome, Outcome::Delivered, "{answer:?}");
    let other = endpoint(&url, &["10.0.0.0/8"], &[&["127.0.0.1"]]);
    refused(&other, &delivery(), "127.0.0.1").await;
}

/// The address that was looked at is the one that is connected to: a name that has another one the
/// next time it is asked for is asked once a connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_between_check_and_connect_gains_nothing() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let url = format!("http://hook.example:{}/", receiver.address().port());
    // A public address that nobody answers at, then this machine.
    let rebinding = endpoint(&url, &[], &[&["192.88.98.1"], &["127.0.0.1"]]);
    let first = rebinding.post(&delivery()).await.unwrap();
    assert_eq!(first.outcome, Outcome::Failed);
    refused(&rebinding, &delivery(), "127.0.0.1").await;
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_nowhere() {
    let inside = Receiver::start(|_| Reply::Status(200));
    let location = inside.url("/latest/meta-data");
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let receiver = Receiver::start(move |_| {
            Reply::With(status, vec![("location", location.clone())], Vec::new())
        });
        let target = Target::parse(&receiver.url("/"), &[]).unwrap();
        let endpoint = WebhookEndpoint::new(WebhookConfig::new(target)).unwrap();
        let answer = endpoint.post(&delivery()).await.unwrap();
        assert_eq!(answer.status, Some(status));
        assert_ne!(answer.outcome, Outcome::Delivered);
    }
    assert_eq!(inside.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_by_a_literal_address_or_as_localhost_is_the_operators_choice() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let port = receiver.address().port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
    ] {
        let target = Target::parse(&url, &[]).unwrap();
        let endpoint = WebhookEndpoint::new(WebhookConfig::new(target)).unwrap();
        let answer = endpoint.post(&delivery()).await.unwrap();
        assert_eq!(answer.outcome, Outcome::Delivered, "{url}: {answer:?}");
    }
}
