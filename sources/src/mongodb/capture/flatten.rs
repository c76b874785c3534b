//! The fields of a document as paths.

use ledger_core::Result;
use mongodb::bson::{RawBsonRef, RawDocument};

use super::values::corrupt;

/// How many names a path has at most; a document that is nested deeper is one value.
const DEPTH: usize = 5;

/// Visits the fields of a document, each with the names that lead to it, joined by points: those of
/// embedded documents in place of these, in their order.
///
/// Left out are `_id`, and names from which a path could not be read back: empty ones, and those
/// with a point in them or a dollar in front. A name that a document has twice is visited twice.
pub(super) fn fields<'d>(
    document: &'d RawDocument,
    visit: &mut impl FnMut(&str, RawBsonRef<'d>) -> Result<()>,
) -> Result<()> {
    nested(document, &mut String::new(), 1, visit)
}

fn nested<'d>(
    document: &'d RawDocument,
    path: &mut String,
    depth: usize,
    visit: &mut impl FnMut(&str, RawBsonRef<'d>) -> Result<()>,
) -> Result<()> {
    let before = path.len();
    for field in document {
        let (name, value) = field.map_err(|error| corrupt("a field").with_source(error))?;
        let name = name.as_str();
        let is_id = depth == 1 && name == "_id";
        if is_id || name.is_empty() || name.starts_with('$') || name.contains('.') {
            continue;
        }
        if depth > 1 {
            path.push('.');
        }
        path.push_str(name);
        match value {
            RawBsonRef::Document(inner) if depth < DEPTH => nested(inner, path, depth + 1, visit)?,
            value => visit(path, value)?,
        }
        path.truncate(before);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, RawDocumentBuf, cstr, doc};

    use super::*;

    fn paths(document: &RawDocument) -> Vec<String> {
        let mut paths = Vec::new();
        let mut take = |path: &str, _: RawBsonRef<'_>| {
            paths.push(path.to_owned());
            Ok(())
        };
        fields(document, &mut take).unwrap();
        paths
    }

    fn of(document: &Document) -> Vec<String> {
        paths(&RawDocumentBuf::try_from(document).unwrap())
    }

    #[test]
    fn embedded_documents_are_paths_and_arrays_are_values() {
        let document = doc! {
            "_id": {"x": 1}, "b": 1, "a": {"_id": 2, "c": {"d": [1, {"e": 2}]}, "none": {}}, "z": [],
        };
        assert_eq!(of(&document), ["b", "a._id", "a.c.d", "z"]);
    }

    #[test]
    fn what_is_nested_too_deep_is_one_value() {
        let document = doc! {"a": {"b": {"c": {"d": {"e": {"f": 1}, "g": 2}}}}};
        assert_eq!(of(&document), ["a.b.c.d.e", "a.b.c.d.g"]);
    }

    #[test]
    fn names_that_are_no_part_of_a_path_are_left_out() {
        // No other field can be taken for the one that is called so.
        let document =
            doc! {"a.b": 1, "a": {"b": 2, "": 3, "$c": 4, "d.e": {"f": 5}}, "$g": 6, "": 7};
        assert_eq!(of(&document), ["a.b"]);
    }

    #[test]
    fn a_name_that_comes_twice_is_visited_twice() {
        let mut document = RawDocumentBuf::new();
        for n in [1, 2] {
            document.append(cstr!("a"), n);
        }
        assert_eq!(paths(&document), ["a", "a"]);
    }
}
