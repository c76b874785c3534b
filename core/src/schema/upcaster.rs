//! The steps from one version to the next.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::codec::cannot_decode;
use crate::{Error, Result};

/// One step: from a payload of some version to one of the next. Closures are steps.
pub trait Upcaster<V>: Send + Sync + 'static {
    /// Turns a value of the step's version into one of the next version.
    fn upcast(&self, value: V) -> Result<V>;
}

impl<V, F: Fn(V) -> Result<V> + Send + Sync + 'static> Upcaster<V> for F {
    fn upcast(&self, value: V) -> Result<V> {
        self(value)
    }
}

/// The present version of a payload's schema, and the steps that lead to it, each from exactly one
/// version to the next.
///
/// Steps work on `V`, any form that the codec can write and read; with [`Json`](crate::Json) and
/// [`MessagePack`](crate::MessagePack) that is a JSON value. (In one, numbers outside of 64 bits
/// are floats, and there are no byte strings: steps on payloads that hold such need a `V` of their
/// own.)
///
/// A payload of the present version is decoded without a step. One that is newer, as a newer
/// program writes while the older one still runs, is decoded as it is too, or refused in
/// [`strict`](Self::strict) mode.
pub struct Schema<V = Value> {
    version: u32,
    strict: bool,
    steps: BTreeMap<u32, Box<dyn Upcaster<V>>>,
}

impl<V: 'static> Schema<V> {
    /// A schema whose present version is this one, 1 or more; 0 is taken as 1.
    pub fn new(version: u32) -> Self {
        Self {
            version: version.max(1),
            strict: false,
            steps: BTreeMap::new(),
        }
    }

    /// Adds the step from version `from` to the next.
    ///
    /// `InvalidInput` where that does not lead towards the present version, and `AlreadyExists`
    /// where there is such a step.
    pub fn upcast(mut self, from: u32, step: impl Upcaster<V>) -> Result<Self> {
        const OPERATION: &str = "define schema";
        let version = self.version;
        if from == 0 || from >= version {
            let rule = format!("a step from version {from}: versions below {version} have steps");
            return Err(Error::invalid(OPERATION, rule));
        }
        if self.steps.insert(from, Box::new(step)).is_some() {
            let context = format!("there are two steps from version {from}");
            return Err(Error::new(
                crate::ErrorKind::AlreadyExists,
                OPERATION,
                context,
            ));
        }
        Ok(self)
    }

    /// Refuses payloads that are newer than the present version.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The present version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether a payload of this version has to be upcast. An error where the steps to do so are
    /// not all there, or where it is too new for a strict schema.
    pub fn needs_upcast(&self, written: u32) -> Result<bool> {
        let (written, version) = (written.max(1), self.version);
        if written > version && self.strict {
            return Err(cannot_decode(format!(
                "version {written} is newer than version {version}, which the schema is at"
            )));
        }
        if let Some(missing) = (written..version).find(|from| !self.steps.contains_key(from)) {
            let next = missing.saturating_add(1);
            return Err(cannot_decode(format!(
                "from version {written} to version {version} the step from {missing} to {next} is \
                 missing; add it to the schema"
            )));
        }
        Ok(written < version)
    }

    /// Takes a value of version `written` to the present version, step by step.
    pub fn upcast_value(&self, written: u32, mut value: V) -> Result<V> {
        if self.needs_upcast(written)? {
            for (from, step) in self.steps.range(written.max(1)..) {
                value = step.upcast(value).map_err(|error| {
                    error.within(format!(
                        "upcast from version {from} to {}",
                        from.saturating_add(1)
                    ))
                })?;
            }
        }
        Ok(value)
    }
}

impl<V> fmt::Debug for Schema<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("version", &self.version)
            .field("strict", &self.strict)
            .field("steps", &self.steps.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ErrorKind, FieldMapper};

    fn counting(version: u32, steps: &[u32]) -> Schema {
        steps.iter().fold(Schema::new(version), |schema, from| {
            let from = *from;
            let step = move |value: Value| match value {
                Value::Array(mut seen) => {
                    seen.push(json!(from));
                    Ok(Value::Array(seen))
                }
                _ => Err(cannot_decode("no array")),
            };
            schema.upcast(from, step).unwrap()
        })
    }

    #[test]
    fn every_step_from_the_written_version_on_is_taken_once_in_order() {
        let schema = counting(4, &[3, 1, 2]);
        assert_eq!(schema.upcast_value(1, json!([])).unwrap(), json!([1, 2, 3]));
        assert_eq!(schema.upcast_value(0, json!([])).unwrap(), json!([1, 2, 3]));
        assert_eq!(schema.upcast_value(3, json!([])).unwrap(), json!([3]));
        assert_eq!(schema.upcast_value(4, json!([])).unwrap(), json!([]));
    }

    #[test]
    fn a_missing_step_is_named_before_any_step_is_taken() {
        let error = counting(4, &[1, 3])
            .upcast_value(1, json!("no array"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error
                .to_string()
                .contains("the step from 2 to 3 is missing"),
            "{error}"
        );
        assert_eq!(
            counting(4, &[1, 3]).upcast_value(3, json!([])).unwrap(),
            json!([3])
        );
    }

    #[test]
    fn a_failing_step_is_named() {
        let error = counting(3, &[1, 2]).upcast_value(2, json!(1)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("upcast from version 2 to 3: no array"),
            "{error}"
        );
    }

    #[test]
    fn a_newer_version_passes_unless_strict() {
        assert_eq!(
            counting(2, &[1]).upcast_value(9, json!(1)).unwrap(),
            json!(1)
        );
        let error = counting(2, &[1])
            .strict()
            .upcast_value(9, json!(1))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("version 9 is newer than version 2"),
            "{error}"
        );
    }

    #[test]
    fn steps_that_lead_nowhere_or_stand_twice_are_refused() {
        for from in [0, 3, 4] {
            let error = Schema::new(3).upcast(from, FieldMapper::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let error = counting(3, &[1]).upcast(1, FieldMapper::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }
}
