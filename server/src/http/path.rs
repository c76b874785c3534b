//! Finding the route of a path.

use http::Method;
use percent_encoding::percent_decode_str;
use tonic::Status;

use super::routes::{ROUTES, Route};
use crate::status::invalid;

/// What is at a path.
#[derive(Debug)]
pub(super) enum Found {
    /// A route, and the fields in its path.
    Route(&'static Route, Vec<(&'static str, String)>),
    /// Routes of other methods only.
    OtherMethod,
    /// Nothing.
    Nothing,
}

/// Finds the route of a path as it stands in the request line: a field is decoded only after the
/// path was cut into segments, so that it may hold an encoded slash.
pub(super) fn find(path: &str, method: &Method) -> Result<Found, Status> {
    let mut found = Found::Nothing;
    for route in &ROUTES {
        let Some(fields) = fields(route.template, path) else {
            continue;
        };
        if route.method != method {
            found = Found::OtherMethod;
            continue;
        }
        let fields = fields.into_iter().map(|(name, text)| {
            let text = percent_decode_str(text).decode_utf8();
            let text = text.map_err(|_| invalid(name, "in the path is not UTF-8"))?;
            Ok((name, text.into_owned()))
        });
        return Ok(Found::Route(route, fields.collect::<Result<_, Status>>()?));
    }
    Ok(found)
}

/// The fields of a path that fits the template, not yet decoded.
fn fields<'p>(template: &'static str, path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
    let mut fields = Vec::new();
    let mut segments = path.split('/');
    for part in template.split('/') {
        let segment = segments.next()?;
        let Some((name, end)) = part.strip_prefix('{').and_then(|part| part.split_once('}')) else {
            if part != segment {
                return None;
            }
            continue;
        };
        let text = segment.strip_suffix(end)?;
        fields.push((name, text));
    }
    segments.next().is_none().then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> String {
        match find(path, method).unwrap() {
            Found::Route(route, fields) => {
                let method = route.action.rsplit('/').next().unwrap();
                fields
                    .iter()
                    .fold(method.to_owned(), |line, (name, value)| {
                        format!("{line} {name}={value}")
                    })
            }
            Found::OtherMethod => "other method".to_owned(),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_field_of_a_path_may_be_any_text() {
        let get = |path| found(&Method::GET, path);
        assert_eq!(get("/v1/streams/a/entries"), "Read stream=a");
        assert_eq!(
            get("/v1/streams/a%2Fb%20c/entries:count"),
            "Count stream=a/b c"
        );
        assert_eq!(get("/v1/streams/a:b:stat"), "Stat stream=a:b");
        assert_eq!(get("/v1/streams/a:stat/entries"), "Read stream=a:stat");
        assert_eq!(get("/v1/streams//entries"), "Read stream=");
        assert_eq!(
            found(&Method::POST, "/v1/streams//entries:search"),
            "Search stream="
        );
        assert_eq!(
            found(&Method::PUT, "/v1/streams/s/entries/7/tags"),
            "SetTags stream=s id=7"
        );
    }

    #[test]
    fn what_is_not_there_is_told_from_what_takes_another_method() {
        assert_eq!(
            found(&Method::DELETE, "/v1/streams/a/entries"),
            "other method"
        );
        assert_eq!(found(&Method::GET, "/v1/streams/a:rename"), "other method");
        assert_eq!(found(&Method::GET, "/v1/streams/a"), "nothing");
        assert_eq!(found(&Method::GET, "/v2/streams"), "nothing");
        assert_eq!(found(&Method::GET, "/v1/streams/"), "nothing");
        assert_eq!(found(&Method::GET, "/v1/streams/a/entries/1"), "nothing");
    }
}
