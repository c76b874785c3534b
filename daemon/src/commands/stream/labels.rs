//! `ledger stream tag` and `ledger stream annotate`

use std::collections::BTreeMap;

use ledger_server::v1::{SetAnnotationsRequest, SetTagsRequest};

use super::On;
use crate::cli::{Annotate, Tag};
use crate::client::Called as _;
use crate::exit::Failure;

/// Replaces the tags of an entry.
pub(super) async fn tag(options: &Tag, on: &On<'_>) -> anyhow::Result<()> {
    if options.id.is_empty() {
        return Err(Failure::usage("--id is required"));
    }
    let request = SetTagsRequest {
        stream: options.stream.clone(),
        id: options.id.clone(),
        tags: options.tags.clone(),
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    client.set_tags(request).await.answer(on.daemon)?;
    Ok(())
}

/// Sets and deletes annotations of an entry.
pub(super) async fn annotate(options: &Annotate, on: &On<'_>) -> anyhow::Result<()> {
    if options.id.is_empty() {
        return Err(Failure::usage("--id is required"));
    }
    if options.set.is_empty() {
        return Err(Failure::usage("--set is required, at least once"));
    }
    let (set, delete) = changes(&options.set)?;
    let request = SetAnnotationsRequest {
        stream: options.stream.clone(),
        id: options.id.clone(),
        set,
        delete,
    };
    let mut client = on.daemon.store(&options.scope.store)?;
    client.set_annotations(request).await.answer(on.daemon)?;
    Ok(())
}

/// What `k=v` sets, and what `k=` deletes; `k` alone sets an empty value.
fn changes(texts: &[String]) -> anyhow::Result<(BTreeMap<String, String>, Vec<String>)> {
    let (mut set, mut delete) = (BTreeMap::new(), Vec::new());
    for text in texts {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), None),
        };
        if key.is_empty() {
            return Err(Failure::usage(format!("--set {text}: expected key=value")));
        }
        match value {
            Some("") => delete.push(key.to_owned()),
            value => drop(set.insert(key.to_owned(), value.unwrap_or_default().to_owned())),
        }
    }
    Ok((set, delete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_sets_an_empty_value_deletes_and_a_key_alone_sets_nothing_to_it() {
        let (set, delete) = changes(&["a=1=2,3", "b=", "c"].map(ToOwned::to_owned)).unwrap();
        let pairs: Vec<_> = set.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "1=2,3"), ("c", "")]);
        assert_eq!(delete, ["b"]);
        assert!(changes(&["=x".to_owned()]).is_err());
    }
}
