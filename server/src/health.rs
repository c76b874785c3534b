//! `grpc.health.v1`, from the service's readiness.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthService, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::Service;
use crate::tail::Responses;

/// How often a watched readiness is looked at.
const EVERY: Duration = Duration::from_secs(1);

const SERVICES: [&str; 5] = [
    "",
    "ledger.v1.LedgerService",
    "ledger.v1.FollowService",
    "ledger.v1.AdminService",
    "ledger.v1.HookService",
];

/// The standard health service. Each service is as ready as the whole.
#[derive(Debug, Clone)]
pub(crate) struct Health(Service);

impl Health {
    pub(crate) fn server(service: Service) -> HealthServer<Self> {
        HealthServer::new(Self(service))
    }

    async fn status(&self) -> ServingStatus {
        if self.0.readiness().await.is_ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[async_trait]
impl HealthService for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!(
                "there is no service {service:?}"
            )));
        }
        Ok(Response::new(response(self.status().await)))
    }

    type WatchStream = Responses<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        let permit = self.0.admit_watch()?;
        let state = (self.clone(), None::<ServingStatus>);
        let statuses = stream::unfold(state, move |(health, told)| async move {
            loop {
                // The protocol has an unknown service watched until it is known: here, for ever.
                let status = if known {
                    health.status().await
                } else {
                    ServingStatus::ServiceUnknown
                };
                if told != Some(status) {
                    return Some((Ok(response(status)), (health, Some(status))));
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Ok(Response::new(
            self.0.until_shutdown(statuses.boxed(), permit),
        ))
    }
}
