//! The `ledger.v1` service over any stores, by gRPC and HTTP, to be embedded with a guard of one's
//! own.
//!
//! [`Service`] holds the logic; it asks [`Stores`] for stores, a [`Guard`] who may call, and
//! [`Bridges`] for what administration looks after. [`grpc_router`] and [`http_router`] put it
//! behind the two protocols, and [`serve`] behind a listener, with or without TLS. Both call the
//! service directly.
//!
//! It names no backend, reads no configuration and no arguments.

mod admin;
mod append;
mod append_stream;
mod bridges;
mod call;
mod changes;
mod feed;
mod gate;
mod grpc;
mod guard;
mod health;
mod hook_calls;
mod hooks;
mod http;
mod labels;
mod limits;
mod listen;
mod messages;
mod page_token;
mod read;
mod service;
mod shutdown;
mod status;
mod stores;
mod streams;
mod tail;
pub mod v1;

pub use bridges::{BridgeState, BridgeStatus, Bridges, Letters, NoBridges, Verification};
pub use gate::{REQUEST_TIMEOUT_EXEMPT, SpanHook};
pub use grpc::grpc_router;
pub use guard::{ApiKeyGuard, Guard, Identity, OpenGuard, RESOURCE};
pub use hooks::{HookReplay, HookReplayed, HookRunState, HookSigned, HookStatus, Hooks, NoHooks};
pub use http::{RenderMetrics, http_router, openapi};
pub use limits::Limits;
pub use listen::{PeerCertificates, Protocol, Tls, serve};
pub use service::{Component, Readiness, Service, ServiceOptions};
pub use shutdown::Shutdown;
pub use status::{DOMAIN, status};
pub use stores::{FixedStores, StoreState, StoreStatus, Stores};
