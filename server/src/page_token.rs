//! Where the next page begins.

use ledger_core::{Cursor, EntryId, ReadOptions};
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use crate::status::invalid;

const FIELD: &str = "page_token";
const TAG: u8 = b'P';

/// A page of entries goes on behind this id. The token says for which conditions, so that one given
/// with others is refused instead of leaving entries out.
pub(crate) fn of_entry(scope: &str, options: &ReadOptions, last: EntryId) -> String {
    let mut position = digest(scope, options).to_be_bytes().to_vec();
    position.extend(last.0.to_be_bytes());
    Cursor::new(TAG, &position).to_string()
}

/// Reads [`of_entry`].
pub(crate) fn entry(scope: &str, options: &ReadOptions, token: &str) -> Result<EntryId, Status> {
    let unknown = || invalid(FIELD, "is not one that this service gave");
    let cursor: Cursor = token.parse().map_err(|_| unknown())?;
    let position = cursor.position(TAG).map_err(|_| unknown())?;
    let (of, id) = position.split_first_chunk::<8>().ok_or_else(unknown)?;
    let id = <[u8; 8]>::try_from(id).map_err(|_| unknown())?;
    if u64::from_be_bytes(*of) != digest(scope, options) {
        return Err(invalid(
            FIELD,
            "belongs to a request with other conditions; send it with the same ones",
        ));
    }
    Ok(EntryId(u64::from_be_bytes(id)))
}

fn digest(scope: &str, options: &ReadOptions) -> u64 {
    let conditions = ReadOptions {
        after: None,
        limit: None,
        ..options.clone()
    };
    xxh3_64(format!("{scope:?} {conditions:?}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_conditions_only() {
        let options = ReadOptions::all();
        let token = of_entry("a", &options, EntryId(7));
        assert_eq!(entry("a", &options, &token).unwrap(), EntryId(7));
        let limited = ReadOptions {
            limit: Some(5),
            after: Some(EntryId(1)),
            ..ReadOptions::all()
        };
        assert_eq!(entry("a", &limited, &token).unwrap(), EntryId(7));
        let other = ReadOptions {
            descending: true,
            ..ReadOptions::all()
        };
        for (scope, options, token) in [
            ("b", &options, token.as_str()),
            ("a", &other, &token),
            ("a", &options, "7"),
            ("a", &options, "5000"),
            ("a", &options, &format!("{token}00")),
        ] {
            let code = entry(scope, options, token).unwrap_err().code();
            assert_eq!(code, tonic::Code::InvalidArgument);
        }
    }
}
