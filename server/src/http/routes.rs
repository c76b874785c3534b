//! Which paths there are, and which methods they call.

use http::Method;

/// Where a request's message comes from, beside the path, which wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The JSON body; the query is not looked at.
    Body,
    /// The query.
    Query,
}

/// A path and the method it calls.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Segments; `{field}` stands for one of any text, `{field}:verb` for one with this end.
    pub(super) template: &'static str,
    /// The full name of the gRPC method.
    pub(super) action: &'static str,
    pub(super) input: Input,
}

impl Route {
    /// Whether a call of it is about the store that its header names.
    pub(super) fn names_store(&self) -> bool {
        let service = self.action.trim_start_matches('/').split('/').next();
        let of_stores = matches!(
            service,
            Some("ledger.v1.LedgerService" | "ledger.v1.FollowService")
        );
        of_stores && !self.action.ends_with("/Health")
    }
}

const fn route(
    method: Method,
    template: &'static str,
    action: &'static str,
    input: Input,
) -> Route {
    Route {
        method,
        template,
        action,
        input,
    }
}

const fn get(template: &'static str, action: &'static str) -> Route {
    route(Method::GET, template, action, Input::Query)
}

const fn post(template: &'static str, action: &'static str) -> Route {
    route(Method::POST, template, action, Input::Body)
}

pub(super) static ROUTES: [Route; 38] = [
    post(
        "/v1/streams/{stream}/entries",
        "/ledger.v1.LedgerService/Append",
    ),
    get(
        "/v1/streams/{stream}/entries",
        "/ledger.v1.LedgerService/Read",
    ),
    get(
        "/v1/streams/{stream}/entries:count",
        "/ledger.v1.LedgerService/Count",
    ),
    route(
        Method::PUT,
        "/v1/streams/{stream}/entries/{id}/tags",
        "/ledger.v1.LedgerService/SetTags",
        Input::Body,
    ),
    route(
        Method::PATCH,
        "/v1/streams/{stream}/entries/{id}/annotations",
        "/ledger.v1.LedgerService/SetAnnotations",
        Input::Body,
    ),
    post(
        "/v1/streams/{stream}/entries:trim",
        "/ledger.v1.LedgerService/Trim",
    ),
    get("/v1/streams", "/ledger.v1.LedgerService/ListStreamIDs"),
    post(
        "/v1/streams/{name}:rename",
        "/ledger.v1.LedgerService/RenameStream",
    ),
    get("/v1/streams/{stream}:stat", "/ledger.v1.LedgerService/Stat"),
    post(
        "/v1/streams/{stream}/entries:search",
        "/ledger.v1.LedgerService/Search",
    ),
    get("/v1/health", "/ledger.v1.LedgerService/Health"),
    get(
        "/v1/streams/{stream}/entries:tail",
        "/ledger.v1.FollowService/Tail",
    ),
    get("/v1/entries:tail", "/ledger.v1.FollowService/Tail"),
    get("/v1/changes", "/ledger.v1.FollowService/Changes"),
    get("/v1/stores", "/ledger.v1.AdminService/ListStores"),
    get("/v1/bridges", "/ledger.v1.AdminService/ListBridges"),
    get("/v1/bridges/{name}", "/ledger.v1.AdminService/GetBridge"),
    post(
        "/v1/bridges/{name}:pause",
        "/ledger.v1.AdminService/PauseBridge",
    ),
    post(
        "/v1/bridges/{name}:resume",
        "/ledger.v1.AdminService/ResumeBridge",
    ),
    route(
        Method::DELETE,
        "/v1/bridges/{name}",
        "/ledger.v1.AdminService/RemoveBridge",
        Input::Query,
    ),
    post(
        "/v1/bridges/{name}:resync",
        "/ledger.v1.AdminService/ResyncBridge",
    ),
    post(
        "/v1/bridges/{name}:verify",
        "/ledger.v1.AdminService/VerifyBridge",
    ),
    get(
        "/v1/bridges/{bridge}/dead-letters",
        "/ledger.v1.AdminService/ListDeadLetters",
    ),
    post(
        "/v1/bridges/{bridge}/dead-letters:discard",
        "/ledger.v1.AdminService/DiscardDeadLetters",
    ),
    post(
        "/v1/bridges/{bridge}/dead-letters:replay",
        "/ledger.v1.AdminService/ReplayDeadLetters",
    ),
    get("/v1/hooks", "/ledger.v1.HookService/ListHooks"),
    get("/v1/hooks/{name}", "/ledger.v1.HookService/GetHook"),
    post("/v1/hooks/{name}:test", "/ledger.v1.HookService/TestHook"),
    get(
        "/v1/hooks/{hook}/attempts",
        "/ledger.v1.HookService/ListHookAttempts",
    ),
    post("/v1/hooks/{name}:pause", "/ledger.v1.HookService/PauseHook"),
    post(
        "/v1/hooks/{name}:resume",
        "/ledger.v1.HookService/ResumeHook",
    ),
    post(
        "/v1/hooks/{hook}:replay",
        "/ledger.v1.HookService/ReplayHook",
    ),
    get(
        "/v1/hooks/{hook}/dead-letters",
        "/ledger.v1.HookService/ListHookDeadLetters",
    ),
    post(
        "/v1/hooks/{hook}/dead-letters:discard",
        "/ledger.v1.HookService/DiscardHookDeadLetters",
    ),
    post(
        "/v1/hooks/{hook}/dead-letters:replay",
        "/ledger.v1.HookService/ReplayHookDeadLetters",
    ),
    post(
        "/v1/hooks/{name}:rotate-secret",
        "/ledger.v1.HookService/RotateHookSecret",
    ),
    route(
        Method::DELETE,
        "/v1/hooks/{name}",
        "/ledger.v1.HookService/RemoveHook",
        Input::Query,
    ),
    post(
        "/v1/hooks/{name}:verify-signature",
        "/ledger.v1.HookService/VerifyHookSignature",
    ),
];
