//! The client of a daemon.

mod entries;
mod errors;

use std::time::Duration;

use anyhow::Context as _;
use ledger_server::v1::admin_service_client::AdminServiceClient;
use ledger_server::v1::follow_service_client::FollowServiceClient;
use ledger_server::v1::hook_service_client::HookServiceClient;
use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

pub(crate) use entries::{Form, Shown};
pub(crate) use errors::{Called, call_failed, is_passing};

use crate::config::{Config, Overrides};
use crate::exit::Failure;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// The largest answer that is taken: the daemon's own limit is the one that counts.
const LARGEST: usize = 1 << 30;

/// Puts key and store into every call.
#[derive(Debug, Clone)]
pub(crate) struct Headers {
    key: Option<MetadataValue<Ascii>>,
    store: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.key {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        if let Some(store) = &self.store {
            request
                .metadata_mut()
                .insert("x-ledger-store", store.clone());
        }
        Ok(request)
    }
}

type Calls = InterceptedService<Channel, Headers>;

/// A daemon that calls go to. The connection is made by the first call, and again when it broke.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    channel: Channel,
    key: Option<MetadataValue<Ascii>>,
    address: String,
}

impl Daemon {
    /// The daemon that configuration and arguments name.
    pub(crate) fn of(overrides: &Overrides) -> anyhow::Result<Self> {
        Self::at(&Config::for_client(overrides)?)
    }

    /// The daemon of a configuration.
    pub(crate) fn at(config: &Config) -> anyhow::Result<Self> {
        // A daemon that listens on every address is on this machine too.
        let address = match config.listen.strip_prefix(':') {
            Some(port) => format!("localhost:{port}"),
            None => config.listen.clone(),
        };
        let tls = tls(config)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|_| Failure::usage(format!("the address {address:?} must be host:port")))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .tcp_nodelay(true);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).context("use the keys of tls")?;
        }
        let key = config.api_key.as_ref().map(|key| {
            let value = MetadataValue::try_from(key.expose());
            value.map_err(|_| Failure::usage("the API key holds characters that no header can"))
        });
        let mut key: Option<MetadataValue<Ascii>> = key.transpose()?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        Ok(Self {
            channel: endpoint.connect_lazy(),
            key,
            address,
        })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The calls around one store.
    pub(crate) fn store(&self, store: &str) -> anyhow::Result<LedgerServiceClient<Calls>> {
        let calls = self.calls(Some(store))?;
        Ok(LedgerServiceClient::new(calls)
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST))
    }

    /// The calls that go on.
    pub(crate) fn follow(&self, store: &str) -> anyhow::Result<FollowServiceClient<Calls>> {
        let calls = self.calls(Some(store))?;
        Ok(FollowServiceClient::new(calls)
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST))
    }

    /// The calls around bridges, and stores as a whole.
    pub(crate) fn admin(&self) -> anyhow::Result<AdminServiceClient<Calls>> {
        Ok(AdminServiceClient::new(self.calls(None)?).max_decoding_message_size(LARGEST))
    }

    /// The calls around webhooks.
    pub(crate) fn hooks(&self) -> anyhow::Result<HookServiceClient<Calls>> {
        Ok(HookServiceClient::new(self.calls(None)?).max_decoding_message_size(LARGEST))
    }

    fn calls(&self, store: Option<&str>) -> anyhow::Result<Calls> {
        // The daemon would say the same; a header could not even carry every wrong name.
        let store = store
            .map(|store| {
                ledger::StoreName::new(store).map_err(|error| Failure::usage(error.context()))?;
                MetadataValue::try_from(store).map_err(|_| Failure::usage("--store"))
            })
            .transpose()?;
        let headers = Headers {
            key: self.key.clone(),
            store,
        };
        Ok(InterceptedService::new(self.channel.clone(), headers))
    }
}

/// The client's side of `tls`: `ca` verifies the daemon, `cert` and `key` are the client's own.
fn tls(config: &Config) -> anyhow::Result<Option<ClientTlsConfig>> {
    let tls = &config.tls;
    if *tls == crate::config::Tls::default() {
        return Ok(None);
    }
    let read = |key: &str, path: &std::path::Path| {
        std::fs::read(path).with_context(|| format!("tls.{key}: read {}", path.display()))
    };
    let mut client = ClientTlsConfig::new();
    client = match &tls.ca {
        Some(ca) => client.ca_certificate(Certificate::from_pem(read("ca", ca)?)),
        None => client.with_webpki_roots(),
    };
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        let identity = Identity::from_pem(read("cert", cert)?, read("key", key)?);
        client = client.identity(identity);
    }
    Ok(Some(client))
}
