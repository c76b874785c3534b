//! A configuration file as a tree whose values know their key and line, and the problems found in
//! it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use marked_yaml::types::{MarkedMappingNode, MarkedScalarNode};
use marked_yaml::{LoadError, LoaderOptions, Marker, Node, parse_yaml_with_options};

use super::duration;

/// What is wrong with a file, gathered while it is read, so that one look shows all of it.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: RefCell<Vec<(usize, String)>>,
    /// Whether a variable is not set, as it may be for another process.
    unset: Cell<bool>,
}

impl Problems {
    /// Notes that the value of `key` in `line` breaks a rule.
    pub(crate) fn add(&self, line: usize, key: &str, rule: impl AsRef<str>) {
        let text = format!("line {line}: {key}: {}", rule.as_ref());
        self.found.borrow_mut().push((line, text));
    }

    /// Whether one of them is that a variable is not set.
    pub(crate) fn unset(&self) -> bool {
        self.unset.get()
    }

    /// All of them in the order of the lines; none where nothing is wrong.
    pub(crate) fn text(&self) -> Option<String> {
        let mut found = self.found.borrow().clone();
        found.sort();
        found.dedup();
        let lines: Vec<_> = found.into_iter().map(|(_, text)| text).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// Reads the text of a file into a tree; an error says the line.
pub(crate) fn parse(text: &str) -> Result<Node, String> {
    let blank = text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if blank {
        return Ok(Node::from(MarkedMappingNode::new_empty(
            marked_yaml::Span::new_blank(),
        )));
    }
    let options = LoaderOptions::default().error_on_duplicate_keys(true);
    parse_yaml_with_options(0, text, options).map_err(|error| refused(&error))
}

fn refused(error: &LoadError) -> String {
    let at = |marker: &Marker, what: &str| format!("line {}: {what}", marker.line());
    match error {
        LoadError::TopLevelMustBeMapping(marker) => {
            at(marker, "the file must hold `key: value` pairs")
        }
        LoadError::TopLevelMustBeSequence(marker) => at(marker, "a list is needed here"),
        LoadError::UnexpectedAnchor(marker) => at(marker, "anchors and aliases are not understood"),
        LoadError::MappingKeyMustBeScalar(marker) => at(marker, "a key must be a word"),
        LoadError::UnexpectedTag(marker) => at(marker, "tags are not understood"),
        // The scanner's own text names what it met, and no value.
        LoadError::ScanError(marker, error) => at(marker, &format!("not YAML: {}", error.info())),
        LoadError::DuplicateKey(keys) => {
            let line = |key: &MarkedScalarNode| key.span().start().map_or(0, Marker::line);
            format!(
                "line {}: {}: is there twice, first in line {}",
                line(&keys.key),
                keys.key.as_str(),
                line(&keys.prev_key)
            )
        }
    }
}

fn line_of(node: &Node) -> usize {
    node.span().start().map_or(1, Marker::line)
}

/// A mapping: some keys below a path.
pub(crate) struct Section<'a> {
    mapping: Option<&'a MarkedMappingNode>,
    /// With its point, as in `db.sqlite.`; empty at the top.
    prefix: String,
    line: usize,
    problems: &'a Problems,
}

/// A scalar, with its variables replaced.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) key: String,
    pub(crate) line: usize,
}

impl<'a> Section<'a> {
    /// The whole file. `keys` are the ones that may stand in it.
    pub(crate) fn top(node: &'a Node, keys: &[&str], problems: &'a Problems) -> Self {
        let section = Self {
            mapping: node.as_mapping(),
            prefix: String::new(),
            line: 1,
            problems,
        };
        section.check_keys(keys);
        section
    }

    /// The section below a key; an empty one where the key is absent.
    pub(crate) fn section(&self, key: &str, keys: &[&str]) -> Section<'a> {
        let node = self.node(key);
        let line = node.map_or(self.line, line_of);
        let mapping = node.and_then(Node::as_mapping);
        if let Some(node) = node.filter(|_| mapping.is_none())
            && !is_empty(node)
        {
            self.problems
                .add(line, &self.name(key), "must hold `key: value` pairs");
        }
        let section = Section {
            mapping,
            prefix: format!("{}{key}.", self.prefix),
            line,
            problems: self.problems,
        };
        section.check_keys(keys);
        section
    }

    /// The sections of a list below a key.
    pub(crate) fn sections(&self, key: &str, keys: &[&str]) -> Vec<Section<'a>> {
        let mut sections = Vec::new();
        for (index, node) in self.list(key).into_iter().enumerate() {
            let name = format!("{}[{index}]", self.name(key));
            let Some(mapping) = node.as_mapping() else {
                self.problems
                    .add(line_of(node), &name, "must hold `key: value` pairs");
                continue;
            };
            let section = Section {
                mapping: Some(mapping),
                prefix: format!("{name}."),
                line: line_of(node),
                problems: self.problems,
            };
            section.check_keys(keys);
            sections.push(section);
        }
        sections
    }

    /// The scalars of a list below a key.
    pub(crate) fn scalars(&self, key: &str) -> Vec<Scalar> {
        let mut scalars = Vec::new();
        for (index, node) in self.list(key).into_iter().enumerate() {
            let name = format!("{}[{index}]", self.name(key));
            scalars.extend(self.scalar(node, name));
        }
        scalars
    }

    /// Whether a key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// The names and values below a key; names are whatever they are.
    pub(crate) fn pairs(&self, key: &str) -> Vec<(String, Scalar)> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let Some(mapping) = node.as_mapping() else {
            if !is_empty(node) {
                let rule = "must hold `key: value` pairs";
                self.problems.add(line_of(node), &self.name(key), rule);
            }
            return Vec::new();
        };
        let pairs = mapping.iter().filter_map(|(name, value)| {
            let path = format!("{}.{}", self.name(key), name.as_str());
            let value = self.scalar(value, path)?;
            Some((name.as_str().to_owned(), value))
        });
        pairs.collect()
    }

    /// A value; none where it is absent or empty.
    pub(crate) fn text(&self, key: &str) -> Option<Scalar> {
        let node = self.node(key)?;
        self.scalar(node, self.name(key))
            .filter(|scalar| !scalar.text.is_empty())
    }

    /// A value that must be there.
    pub(crate) fn required(&self, key: &str) -> Option<Scalar> {
        let value = self.text(key);
        if value.is_none() {
            self.problems
                .add(self.line, &self.name(key), "must be given");
        }
        value
    }

    /// A duration above zero.
    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        self.parsed(key, duration::RULE, |text| {
            duration::parse(text).filter(|duration| !duration.is_zero())
        })
    }

    /// `true` or `false`; false where it is absent.
    pub(crate) fn switch(&self, key: &str) -> bool {
        self.parsed(key, "must be true or false", |text| match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// A value that `read` understands; `rule` tells what it understands.
    pub(crate) fn parsed<T>(
        &self,
        key: &str,
        rule: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let scalar = self.text(key)?;
        let value = read(&scalar.text);
        if value.is_none() {
            self.refuse(&scalar, rule);
        }
        value
    }

    /// Notes that a value breaks a rule.
    pub(crate) fn refuse(&self, scalar: &Scalar, rule: impl AsRef<str>) {
        self.problems.add(scalar.line, &scalar.key, rule);
    }

    /// Notes that a key breaks a rule.
    pub(crate) fn refuse_key(&self, key: &str, rule: impl AsRef<str>) {
        let line = self.node(key).map_or(self.line, line_of);
        self.problems.add(line, &self.name(key), rule);
    }

    fn node(&self, key: &str) -> Option<&'a Node> {
        self.mapping?.get_node(key)
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn list(&self, key: &str) -> Vec<&'a Node> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        match node.as_sequence() {
            Some(list) => list.iter().collect(),
            None if is_empty(node) => Vec::new(),
            None => {
                self.problems
                    .add(line_of(node), &self.name(key), "must be a list");
                Vec::new()
            }
        }
    }

    fn scalar(&self, node: &Node, key: String) -> Option<Scalar> {
        let line = line_of(node);
        let Some(scalar) = node.as_scalar() else {
            self.problems.add(line, &key, "must be one value");
            return None;
        };
        // Without quotes these are YAML's ways to write nothing.
        let text = match scalar.as_str() {
            "null" | "~" if scalar.may_coerce() => "",
            text => text,
        };
        let variable = |name: &str| {
            let value = std::env::var(name).ok();
            self.problems
                .unset
                .set(self.problems.unset.get() || value.is_none());
            value
        };
        match expand(text, variable) {
            Ok(text) => Some(Scalar { text, key, line }),
            Err(rule) => {
                self.problems.add(line, &key, rule);
                None
            }
        }
    }

    /// Notes keys that nobody reads: a mistyped one would otherwise be a default, silently.
    fn check_keys(&self, keys: &[&str]) {
        for (key, _) in self.mapping.iter().flat_map(|mapping| mapping.iter()) {
            if keys.contains(&key.as_str()) {
                continue;
            }
            let line = key.span().start().map_or(self.line, Marker::line);
            let known = keys.join(", ");
            self.problems.add(
                line,
                &self.name(key.as_str()),
                format!("is not a known key; known are {known}"),
            );
        }
    }
}

fn is_empty(node: &Node) -> bool {
    let empty_list = node.as_sequence().is_some_and(|list| list.is_empty());
    empty_list
        || node.as_scalar().is_some_and(|scalar| {
            scalar.as_str().is_empty() || matches!(scalar.as_str(), "null" | "~")
        })
}

/// Puts the values of variables in place of `${NAME}`; `$${` stands for `${` itself. An error is
/// the rule that is broken, and names the variable.
pub(crate) fn expand(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, behind) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = behind.strip_prefix("${").unwrap_or_default();
            continue;
        }
        expanded.push_str(before);
        let named = behind.strip_prefix("${").unwrap_or_default();
        let Some((name, behind)) = named.split_once('}') else {
            return Err("the closing brace of ${ is missing".to_owned());
        };
        let valid = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            return Err("between ${ and } there must be the name of a variable".to_owned());
        }
        match variable(name) {
            Some(value) => expanded.push_str(&value),
            None => return Err(format!("the environment variable {name} is not set")),
        }
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Reads a file's text, with an error that names the file.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<String> {
    use anyhow::Context as _;
    std::fs::read_to_string(path).with_context(|| format!("read config {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_and_missing_ones_named() {
        let variable = |name: &str| (name == "USER").then(|| "ada".to_owned());
        assert_eq!(expand("a ${USER}!", variable).unwrap(), "a ada!");
        assert_eq!(expand("$${USER} $5", variable).unwrap(), "${USER} $5");
        for (text, words) in [
            ("${NO}", "NO"),
            ("${USER", "brace"),
            ("${a b}", "name"),
            ("${}", "name"),
        ] {
            let error = expand(text, variable).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
