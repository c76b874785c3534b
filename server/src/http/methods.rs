//! Calling the service's methods with messages whose type is found at run time.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::Status;

use crate::call::Call;
use crate::{Service, v1};

static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())
});

/// The method with this full name.
pub(super) fn descriptor(action: &str) -> Result<MethodDescriptor, Status> {
    let pool = POOL.as_ref().map_err(Status::internal)?;
    let found = action
        .trim_start_matches('/')
        .split_once('/')
        .and_then(|(service, name)| {
            let service = pool.get_service_by_name(service)?;
            service.methods().find(|method| method.name() == name)
        });
    found.ok_or_else(|| Status::internal(format!("there is no method {action}")))
}

/// The message in its own type.
pub(super) fn typed<T: prost::Message + Default>(message: &DynamicMessage) -> Result<T, Status> {
    message
        .transcode_to()
        .map_err(|error| Status::internal(format!("read the request: {error}")))
}

/// The message as reflection knows it.
pub(super) fn dynamic<T: prost::Message>(
    action: &str,
    message: &T,
) -> Result<DynamicMessage, Status> {
    let mut response = DynamicMessage::new(descriptor(action)?.output());
    response
        .transcode_from(message)
        .map_err(|error| Status::internal(format!("write the response: {error}")))?;
    Ok(response)
}

/// Calls a method with one response.
pub(super) async fn call(
    service: &Service,
    action: &'static str,
    call: &Call,
    message: &DynamicMessage,
) -> Result<DynamicMessage, Status> {
    macro_rules! with {
        (|$request:ident| $answer:expr) => {{
            let $request = typed(message)?;
            let answer: Result<_, Status> = $answer;
            dynamic(action, &answer?)
        }};
    }
    match action {
        "/ledger.v1.LedgerService/Append" => with!(|m| service.append(call, m).await),
        "/ledger.v1.LedgerService/Read" => with!(|m| service.read(call, m).await),
        "/ledger.v1.LedgerService/Count" => with!(|m| service.count(call, m).await),
        "/ledger.v1.LedgerService/SetTags" => with!(|m| service.set_tags(call, m).await),
        "/ledger.v1.LedgerService/SetAnnotations" => {
            with!(|m| service.set_annotations(call, m).await)
        }
        "/ledger.v1.LedgerService/Trim" => with!(|m| service.trim(call, m).await),
        "/ledger.v1.LedgerService/ListStreamIDs" => with!(|m| service.list(call, m).await),
        "/ledger.v1.LedgerService/RenameStream" => with!(|m| service.rename(call, m).await),
        "/ledger.v1.LedgerService/Stat" => with!(|m| service.stat(call, m).await),
        "/ledger.v1.LedgerService/Search" => with!(|m| service.search(call, m).await),
        "/ledger.v1.LedgerService/Health" => dynamic(action, &service.health().await),
        "/ledger.v1.AdminService/ListStores" => dynamic(action, &service.list_stores().await),
        "/ledger.v1.AdminService/ListBridges" => {
            dynamic(action, &service.list_bridges(typed(message)?).await)
        }
        "/ledger.v1.AdminService/GetBridge" => with!(|m| service.get_bridge(m).await),
        "/ledger.v1.AdminService/PauseBridge" => with!(|m| service.pause_bridge(m).await),
        "/ledger.v1.AdminService/ResumeBridge" => with!(|m| service.resume_bridge(m).await),
        "/ledger.v1.AdminService/ResyncBridge" => with!(|m| service.resync_bridge(m).await),
        "/ledger.v1.AdminService/RemoveBridge" => with!(|m| service.remove_bridge(m).await),
        "/ledger.v1.AdminService/VerifyBridge" => with!(|m| service.verify_bridge(m).await),
        "/ledger.v1.AdminService/ListDeadLetters" => with!(|m| service.list_dead_letters(m).await),
        "/ledger.v1.AdminService/DiscardDeadLetters" => {
            with!(|m| service.discard_dead_letters(m).await)
        }
        "/ledger.v1.AdminService/ReplayDeadLetters" => {
            with!(|m| service.replay_dead_letters(m).await)
        }
        "/ledger.v1.HookService/ListHooks" => {
            dynamic(action, &service.list_hooks(typed(message)?).await)
        }
        "/ledger.v1.HookService/GetHook" => with!(|m| service.get_hook(m).await),
        "/ledger.v1.HookService/TestHook" => with!(|m| service.test_hook(m).await),
        "/ledger.v1.HookService/ListHookAttempts" => with!(|m| service.list_hook_attempts(m).await),
        "/ledger.v1.HookService/PauseHook" => with!(|m| service.pause_hook(m).await),
        "/ledger.v1.HookService/ResumeHook" => with!(|m| service.resume_hook(m).await),
        "/ledger.v1.HookService/ReplayHook" => with!(|m| service.replay_hook(m).await),
        "/ledger.v1.HookService/ListHookDeadLetters" => {
            with!(|m| service.list_hook_dead_letters(m).await)
        }
        "/ledger.v1.HookService/DiscardHookDeadLetters" => {
            with!(|m| service.discard_hook_dead_letters(m).await)
        }
        "/ledger.v1.HookService/ReplayHookDeadLetters" => {
            with!(|m| service.replay_hook_dead_letters(m).await)
        }
        "/ledger.v1.HookService/RotateHookSecret" => with!(|m| service.rotate_hook_secret(m).await),
        "/ledger.v1.HookService/RemoveHook" => with!(|m| service.remove_hook(m).await),
        "/ledger.v1.HookService/VerifyHookSignature" => {
            with!(|m| service.verify_hook_signature(m).await)
        }
        _ => Err(Status::unimplemented(format!(
            "{action} is not served over HTTP"
        ))),
    }
}
