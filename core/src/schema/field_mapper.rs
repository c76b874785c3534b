//! Steps that only move fields.

use serde_json::Value;

use super::Upcaster;
use crate::Result;
use crate::codec::cannot_decode;

/// Renames, adds and removes top-level fields of a JSON object.
///
/// First all renames happen, in the order given: the field that had the new name is overwritten,
/// and a field that is absent is left so. Then defaults are added where the field is absent; one
/// that is `null` is present. Then fields are removed. A `null` passes unchanged; any other value
/// that is no object is an error.
///
/// ```
/// use ledger_core::{FieldMapper, Upcaster as _};
/// use serde_json::json;
///
/// let step = FieldMapper::new().rename("mail", "email").add_default("active", true).remove("fax");
/// let value = step.upcast(json!({"mail": "a@b.c", "fax": "1"}))?;
/// assert_eq!(value, json!({"email": "a@b.c", "active": true}));
/// # Ok::<(), ledger_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldMapper {
    renames: Vec<(String, String)>,
    defaults: Vec<(String, Value)>,
    removals: Vec<String>,
}

impl FieldMapper {
    /// A step that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the field `from` the name `to`.
    #[must_use]
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.renames.push((from.into(), to.into()));
        self
    }

    /// Adds a field where it is absent.
    #[must_use]
    pub fn add_default(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.defaults.push((field.into(), value.into()));
        self
    }

    /// Removes a field.
    #[must_use]
    pub fn remove(mut self, field: impl Into<String>) -> Self {
        self.removals.push(field.into());
        self
    }
}

impl Upcaster<Value> for FieldMapper {
    fn upcast(&self, value: Value) -> Result<Value> {
        let mut object = match value {
            Value::Object(object) => object,
            Value::Null => return Ok(Value::Null),
            other => {
                let found = kind(&other);
                return Err(cannot_decode(format!(
                    "fields are mapped in an object, not in {found}"
                )));
            }
        };
        for (from, to) in &self.renames {
            if let Some(value) = object.remove(from) {
                object.insert(to.clone(), value);
            }
        }
        for (field, value) in &self.defaults {
            object.entry(field).or_insert_with(|| value.clone());
        }
        for field in &self.removals {
            object.remove(field);
        }
        Ok(Value::Object(object))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn renames_come_first_then_defaults_then_removals() {
        let step = FieldMapper::new()
            .remove("c")
            .add_default("a", 1)
            .add_default("c", 2)
            .rename("a", "b")
            .rename("b", "d");
        assert_eq!(
            step.upcast(json!({"a": "x"})).unwrap(),
            json!({"a": 1, "d": "x"})
        );
    }

    #[test]
    fn a_rename_overwrites_and_one_of_an_absent_field_does_not() {
        let step = FieldMapper::new().rename("a", "b");
        assert_eq!(
            step.upcast(json!({"a": 1, "b": 2})).unwrap(),
            json!({"b": 1})
        );
        assert_eq!(step.upcast(json!({"b": 2})).unwrap(), json!({"b": 2}));
        assert_eq!(
            step.upcast(json!({"a": null, "b": 2})).unwrap(),
            json!({"b": null})
        );
        let same = FieldMapper::new().rename("a", "a");
        assert_eq!(same.upcast(json!({"a": 1})).unwrap(), json!({"a": 1}));
    }

    #[test]
    fn a_default_does_not_replace_null() {
        let step = FieldMapper::new().add_default("a", 1);
        assert_eq!(step.upcast(json!({"a": null})).unwrap(), json!({"a": null}));
        assert_eq!(step.upcast(json!({})).unwrap(), json!({"a": 1}));
    }

    #[test]
    fn null_passes_and_anything_else_but_an_object_is_an_error() {
        let step = FieldMapper::new().add_default("a", 1);
        assert_eq!(step.upcast(json!(null)).unwrap(), json!(null));
        for value in [json!([]), json!("text"), json!(1), json!(true)] {
            assert_eq!(step.upcast(value).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let error = step.upcast(json!([1])).unwrap_err().to_string();
        assert!(error.contains("not in an array"), "{error}");
    }
}
