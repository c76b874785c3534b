//! The service behind gRPC.

use async_trait::async_trait;
use axum::Router;
use axum::middleware;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::call::Call;
use crate::health::Health;
use crate::tail::Responses;
use crate::v1::admin_service_server::{AdminService, AdminServiceServer};
use crate::v1::follow_service_server::{FollowService, FollowServiceServer};
use crate::v1::hook_service_server::{HookService, HookServiceServer};
use crate::v1::ledger_service_server::{LedgerService, LedgerServiceServer};
use crate::{Service, gate, v1};

/// `ledger.v1`, `grpc.health.v1` and reflection, to be [served](crate::serve) or merged into a
/// router of one's own. Health needs no key.
pub fn grpc_router(service: &Service) -> Router {
    let limit = service.options().limits.message_bytes;
    macro_rules! limited {
        ($server:ident) => {
            $server::new(service.clone())
                .max_decoding_message_size(limit)
                // What is larger the service has refused already, in clearer words; bulk responses
                // are cut to the limit.
                .max_encoding_message_size(usize::MAX)
        };
    }
    let routes = Routes::new(limited!(LedgerServiceServer))
        .add_service(limited!(FollowServiceServer))
        .add_service(limited!(AdminServiceServer))
        .add_service(limited!(HookServiceServer))
        .add_service(Health::server(service.clone()));
    reflecting(routes)
        .prepare()
        .into_axum_router()
        .layer(middleware::from_fn_with_state(service.clone(), gate::grpc))
}

/// Adds reflection in both versions. The descriptors are built in, so that they are known to be
/// good; without them the rest would still be served.
fn reflecting(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection is not served");
            routes
        }
    }
}

/// Takes a request apart. What the gate has not seen, as where the service is called around the
/// router, has neither identity nor store.
fn parts<T>(request: Request<T>) -> (Call, T) {
    let (_, mut extensions, message) = request.into_parts();
    (extensions.remove::<Call>().unwrap_or_default(), message)
}

/// The methods with one response, each by what the service does with a call and its message.
macro_rules! unary {
    ($trait:ident { $(
        $name:ident($request:ident) -> $response:ident: |$service:ident, $call:ident, $message:ident| $answer:expr;
    )* }) => {
        #[async_trait]
        impl $trait for Service {
            $(
                async fn $name(
                    &self,
                    request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    let $service = self;
                    let ($call, $message) = parts(request);
                    let answer: Result<v1::$response, Status> = $answer;
                    answer.map(Response::new)
                }
            )*
        }
    };
}

unary!(LedgerService {
    append(AppendRequest) -> AppendResponse: |s, call, m| Service::append(s, &call, m).await;
    read(ReadRequest) -> ReadResponse: |s, call, m| Service::read(s, &call, m).await;
    count(CountRequest) -> CountResponse: |s, call, m| Service::count(s, &call, m).await;
    set_tags(SetTagsRequest) -> SetTagsResponse: |s, call, m| Service::set_tags(s, &call, m).await;
    set_annotations(SetAnnotationsRequest) -> SetAnnotationsResponse:
        |s, call, m| Service::set_annotations(s, &call, m).await;
    trim(TrimRequest) -> TrimResponse: |s, call, m| Service::trim(s, &call, m).await;
    list_stream_i_ds(ListStreamIDsRequest) -> ListStreamIDsResponse:
        |s, call, m| s.list(&call, m).await;
    rename_stream(RenameStreamRequest) -> RenameStreamResponse:
        |s, call, m| s.rename(&call, m).await;
    stat(StatRequest) -> StatResponse: |s, call, m| Service::stat(s, &call, m).await;
    search(SearchRequest) -> SearchResponse: |s, call, m| Service::search(s, &call, m).await;
    health(HealthRequest) -> HealthResponse: |s, _call, _m| Ok(Service::health(s).await);
});

unary!(AdminService {
    list_stores(ListStoresRequest) -> ListStoresResponse:
        |s, _call, _m| Ok(Service::list_stores(s).await);
    list_bridges(ListBridgesRequest) -> ListBridgesResponse:
        |s, _call, m| Ok(Service::list_bridges(s, m).await);
    get_bridge(GetBridgeRequest) -> Bridge: |s, _call, m| Service::get_bridge(s, m).await;
    pause_bridge(PauseBridgeRequest) -> PauseBridgeResponse:
        |s, _call, m| Service::pause_bridge(s, m).await;
    resume_bridge(ResumeBridgeRequest) -> ResumeBridgeResponse:
        |s, _call, m| Service::resume_bridge(s, m).await;
    resync_bridge(ResyncBridgeRequest) -> ResyncBridgeResponse:
        |s, _call, m| Service::resync_bridge(s, m).await;
    remove_bridge(RemoveBridgeRequest) -> RemoveBridgeResponse:
        |s, _call, m| Service::remove_bridge(s, m).await;
    verify_bridge(VerifyBridgeRequest) -> VerifyBridgeResponse:
        |s, _call, m| Service::verify_bridge(s, m).await;
    list_dead_letters(ListDeadLettersRequest) -> ListDeadLettersResponse:
        |s, _call, m| Service::list_dead_letters(s, m).await;
    discard_dead_letters(DiscardDeadLettersRequest) -> DiscardDeadLettersResponse:
        |s, _call, m| Service::discard_dead_letters(s, m).await;
    replay_dead_letters(ReplayDeadLettersRequest) -> ReplayDeadLettersResponse:
        |s, _call, m| Service::replay_dead_letters(s, m).await;
});

unary!(HookService {
    list_hooks(ListHooksRequest) -> ListHooksResponse:
        |s, _call, m| Ok(Service::list_hooks(s, m).await);
    get_hook(GetHookRequest) -> Hook:
        |s, _call, m| Service::get_hook(s, m).await;
    test_hook(TestHookRequest) -> TestHookResponse:
        |s, _call, m| Service::test_hook(s, m).await;
    list_hook_attempts(ListHookAttemptsRequest) -> ListHookAttemptsResponse:
        |s, _call, m| Service::list_hook_attempts(s, m).await;
    pause_hook(PauseHookRequest) -> PauseHookResponse:
        |s, _call, m| Service::pause_hook(s, m).await;
    resume_hook(ResumeHookRequest) -> ResumeHookResponse:
        |s, _call, m| Service::resume_hook(s, m).await;
    replay_hook(ReplayHookRequest) -> ReplayHookResponse:
        |s, _call, m| Service::replay_hook(s, m).await;
    list_hook_dead_letters(ListHookDeadLettersRequest) -> ListHookDeadLettersResponse:
        |s, _call, m| Service::list_hook_dead_letters(s, m).await;
    discard_hook_dead_letters(DiscardHookDeadLettersRequest) -> DiscardHookDeadLettersResponse:
        |s, _call, m| Service::discard_hook_dead_letters(s, m).await;
    replay_hook_dead_letters(ReplayHookDeadLettersRequest) -> ReplayHookDeadLettersResponse:
        |s, _call, m| Service::replay_hook_dead_letters(s, m).await;
    rotate_hook_secret(RotateHookSecretRequest) -> RotateHookSecretResponse:
        |s, _call, m| Service::rotate_hook_secret(s, m).await;
    remove_hook(RemoveHookRequest) -> RemoveHookResponse:
        |s, _call, m| Service::remove_hook(s, m).await;
    verify_hook_signature(VerifyHookSignatureRequest) -> VerifyHookSignatureResponse:
        |s, _call, m| Service::verify_hook_signature(s, m).await;
});

#[async_trait]
impl FollowService for Service {
    type TailStream = Responses<v1::TailResponse>;
    type ChangesStream = Responses<v1::ChangesResponse>;
    type AppendStreamStream = Responses<v1::AppendStreamResponse>;

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let (call, message) = parts(request);
        Service::tail(self, &call, message).await.map(Response::new)
    }

    async fn changes(
        &self,
        request: Request<v1::ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        let (call, message) = parts(request);
        Service::changes(self, &call, message)
            .await
            .map(Response::new)
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let (call, messages) = parts(request);
        Service::append_stream(self, &call, messages)
            .await
            .map(Response::new)
    }
}
