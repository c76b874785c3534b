//! The description of the gateway, made of its routes and the protos.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::methods;
use super::routes::{Input, ROUTES, Route};

/// The `OpenAPI` 3.1 document of what [`http_router`](crate::http_router) serves.
pub fn openapi() -> Value {
    let mut schemas = BTreeMap::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in &ROUTES {
        if let Some(operation) = operation(route, &mut schemas) {
            let method = route.method.as_str().to_ascii_lowercase();
            paths
                .entry(route.template)
                .or_default()
                .insert(method, operation);
        }
    }
    for (path, summary) in [
        ("/livez", "Whether the process answers"),
        (
            "/readyz",
            "Whether requests should be sent here; 503 where not, each part with its state",
        ),
        (
            "/metrics",
            "Metrics in the text format of Prometheus, where they are switched on",
        ),
        ("/openapi.json", "This document"),
    ] {
        let operation = json!({
            "summary": summary,
            "security": [],
            "responses": {"200": {"description": "As asked"}},
        });
        paths
            .entry(path)
            .or_default()
            .insert("get".to_owned(), operation);
    }
    schemas.insert("Error".to_owned(), error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ledger",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The package ledger.v1 over HTTP, in the JSON mapping of proto3.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"key": []}, {}],
    })
}

fn operation(route: &Route, schemas: &mut BTreeMap<String, Value>) -> Option<Value> {
    let method = methods::descriptor(route.action).ok()?;
    let input = method.input();
    let mut parameters = Vec::new();
    let service = method.parent_service().name().to_owned();
    let of_daemon = matches!(service.as_str(), "AdminService" | "HookService");
    if !of_daemon && method.name() != "Health" {
        parameters.push(json!({
            "name": "x-ledger-store", "in": "header", "required": true,
            "description": "The store", "schema": {"type": "string"},
        }));
    }
    let in_path: Vec<&str> = route
        .template
        .split('{')
        .skip(1)
        .filter_map(|part| part.split('}').next())
        .collect();
    for name in &in_path {
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": {"type": "string"},
        }));
    }
    if route.input == Input::Query {
        query("", &input, &in_path, &mut parameters);
    }
    let output = schema_of(&method.output(), schemas);
    let kind = if method.is_server_streaming() {
        parameters.push(json!({
            "name": "last-event-id", "in": "header", "schema": {"type": "string"},
            "description": "The id of the last event received: the events go on behind it",
        }));
        "text/event-stream"
    } else {
        "application/json"
    };
    let mut operation = json!({
        "operationId": operation_id(route, method.name()),
        "tags": [service],
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": {(kind): {"schema": output}}},
            "default": {
                "description": "Failed",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    });
    if route.input == Input::Body
        && let Some(operation) = operation.as_object_mut()
    {
        let schema = schema_of(&input, schemas);
        let content = json!({"content": {"application/json": {"schema": schema}}});
        operation.insert("requestBody".to_owned(), content);
    }
    Some(operation)
}

/// The method's name; for its second path, with what sets that apart.
fn operation_id(route: &Route, method: &str) -> String {
    let first = ROUTES.iter().find(|other| other.action == route.action);
    if first.is_none_or(|first| first.template == route.template) {
        return method.to_owned();
    }
    format!("{method}All")
}

/// The fields that can be given in a query.
fn query(outer: &str, message: &MessageDescriptor, in_path: &[&str], parameters: &mut Vec<Value>) {
    for field in message.fields() {
        let name = format!("{outer}{}", field.name());
        if in_path.contains(&name.as_str()) {
            continue;
        }
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
            && !inner.full_name().starts_with("google.protobuf.")
        {
            query(&format!("{name}."), &inner, in_path, parameters);
            continue;
        }
        let name = if field.is_map() {
            format!("{name}[key]")
        } else {
            name
        };
        let schema = if field.is_map() {
            json!({"type": "string"})
        } else {
            schema(&field, &mut BTreeMap::new())
        };
        parameters.push(json!({"name": name, "in": "query", "schema": schema}));
    }
}

/// A reference to a message's schema, which is added where it is new.
fn schema_of(message: &MessageDescriptor, schemas: &mut BTreeMap<String, Value>) -> Value {
    match message.full_name() {
        "google.protobuf.Timestamp" => {
            return json!({"type": ["string", "null"], "format": "date-time"});
        }
        "google.protobuf.Duration" => return json!({"type": ["string", "null"]}),
        "google.protobuf.Empty" => return json!({"type": "object"}),
        _ => {}
    }
    let name = message.name().to_owned();
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    if !schemas.contains_key(&name) {
        // A place before its fields are looked at, which may lead back here.
        schemas.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        for field in message.fields() {
            properties.insert(field.json_name().to_owned(), schema(&field, schemas));
        }
        schemas.insert(name, json!({"type": "object", "properties": properties}));
    }
    reference
}

fn schema(field: &FieldDescriptor, schemas: &mut BTreeMap<String, Value>) -> Value {
    if field.is_map() {
        return json!({"type": "object", "additionalProperties": {"type": "string"}});
    }
    let one = match field.kind() {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "format": "int64"}),
        Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
            json!({"type": "integer"})
        }
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Enum(kind) => {
            let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
            json!({"type": "string", "enum": names})
        }
        Kind::Message(message) => schema_of(&message, schemas),
    };
    if field.is_list() {
        json!({"type": "array", "items": one})
    } else {
        one
    }
}

fn error() -> Value {
    json!({
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "description": "The code of gRPC"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {
                "type": "object",
                "properties": {
                    "@type": {"type": "string"},
                    "reason": {"type": "string", "description": "Does not change"},
                    "domain": {"type": "string"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            }},
        },
    })
}
