//! The conformance suite: what every store must do, as one named test a case.
//!
//! Implement [`Harness`] for the store, and let [`conformance_tests!`](crate::conformance_tests)
//! make the tests, in an integration test of the crate that holds the store:
//!
//! ```ignore
//! mod conformance {
//!     ledger_core::conformance_tests!(MyHarness::new().await);
//! }
//! ```
//!
//! The expression is evaluated anew for every case, within an asynchronous runtime. Each case opens
//! stores of its own with names that were never used before, so the cases run in parallel, and may
//! share a database. [`CASES`] lists their names. A case that draws random numbers prints its seed;
//! the environment variable `LEDGER_CONFORMANCE_SEED` replays it.
//!
//! A store that does not have an [`Ability`] says so in [`Harness::lacks`]. The cases of that
//! ability then check that it is really absent, and print the reason; none passes silently.
//!
//! What the suite requires beyond the text of the traits:
//!
//! - [`Query::Substring`](crate::Query::Substring) ignores the case of ASCII letters and of the
//!   letters of Latin-1 (as in `É` and `é`). Letters beyond them may or may not be told apart.
//! - A condition that no entry can fulfil, such as a tag with a NUL character, gives the empty
//!   result or `InvalidInput`.
//! - Ids above what the backend can hold are ids of no entry, not errors.
//! - An entry's `updated_at` is the `committed_at` of the last change of its labels, so that a
//!   replica tells the same time.
//! - A trim that removes nothing and an append of duplicates alone leave no change in the log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::too_many_lines,
    reason = "a case fails by panicking, as every test does"
)]

mod case;
pub mod cases;
mod content;
mod follower;
mod list;
mod model;
mod random;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::{Appended, NewEntry, Result, Store, StoreName, StreamName};

pub use case::Case;

/// What the suite needs to know of a store, and to do with it.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// Opens the store of this name, creating it where it does not exist. Opening a name twice MUST
    /// give two handles on the same store: what one writes the other reads, and each is closed by
    /// itself.
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>>;

    /// Why the store lacks this ability; none where it has it.
    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        let _ = ability;
        None
    }

    /// Removes from the log every change that nobody needs, as if it had reached the age at which
    /// pruning begins: all that the slowest registered consumer has confirmed, and all where none
    /// is registered. None where the suite cannot bring that about: then [`Ability::Pruning`] is
    /// to be declared as lacking.
    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        let _ = store;
        None
    }

    /// Appends in a transaction of the caller's own: begins it, appends, then awaits `ending` and
    /// does what it says. `ending` MUST NOT be polled before the append was made. None where the
    /// store knows no such transactions: then [`Ability::Transactions`] is to be declared as
    /// lacking.
    ///
    /// The answer is that of the append, whatever the ending; an error where the append or the
    /// ending failed.
    async fn append_in_transaction(
        &self,
        store: &Arc<dyn Store>,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        ending: BoxFuture<'static, Ending>,
    ) -> Option<Result<Vec<Appended>>> {
        let _ = (store, stream, entries, ending);
        None
    }
}

/// How a caller's transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is committed.
    Commit,
    /// It is rolled back.
    RollBack,
}

/// What a store, or the harness around it, may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ability {
    /// [`Store::labels`]. Lacking: it is none.
    Labels,
    /// [`Store::search`]. Lacking: it is none.
    Search,
    /// [`Query::FullText`](crate::Query::FullText). Lacking: it answers `Unsupported`.
    FullText,
    /// [`Store::log`]. Lacking: it is none.
    Log,
    /// [`Lag::entries`](crate::Lag::entries) counts every change. Lacking: it counts the appended
    /// entries that are still there, and is not 0 for long where anything else is behind.
    CountedLag,
    /// An [`ExpectedVersion`](crate::ExpectedVersion) other than `Any`. Lacking: it answers
    /// `Unsupported`.
    ExpectedVersion,
    /// [`Store::rename`]. Lacking: it answers `Unsupported`.
    Rename,
    /// [`Harness::prune`]. Lacking: it is none.
    Pruning,
    /// [`Harness::append_in_transaction`]. Lacking: it is none.
    Transactions,
}

/// How long a case may take before it counts as hanging.
const CASE_LIMIT: Duration = Duration::from_mins(5);

/// Runs one case to its end; the tests that the macro makes call it.
#[doc(hidden)]
pub fn run(name: &str, case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("start a runtime for the case");
    let ended = runtime.block_on(async { tokio::time::timeout(CASE_LIMIT, case).await });
    assert!(
        ended.is_ok(),
        "case {name} did not end within {CASE_LIMIT:?}"
    );
}

/// The names of all cases, as in `append::ids_ascend_in_the_order_of_the_call`.
pub const CASES: &[&str] = crate::__conformance_list!(names);

/// Makes one `#[test]` a case for the store of a harness, in modules by area. The expression gives
/// a [`Harness`](crate::conformance::Harness); it may await, and is evaluated for every case.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::__conformance_list!(tests $harness);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_make {
    (names; $($area:ident { $($case:ident,)* })*) => {
        &[$($(concat!(stringify!($area), "::", stringify!($case)),)*)*]
    };
    (tests $harness:expr; $($area:ident { $($case:ident,)* })*) => {
        $(
            mod $area {
                #[allow(unused_imports)]
                use super::*;

                $(
                    #[test]
                    fn $case() {
                        const NAME: &str = concat!(stringify!($area), "::", stringify!($case));
                        $crate::conformance::run(NAME, async {
                            let case = $crate::conformance::Case::new(NAME, $harness);
                            $crate::conformance::cases::$area::$case(&case).await;
                        });
                    }
                )*
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::CASES;

    #[test]
    fn every_case_is_on_the_list() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance/cases");
        let mut written = BTreeSet::new();
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let area = path.file_stem().unwrap().to_str().unwrap().to_owned();
            for line in fs::read_to_string(&path).unwrap().lines() {
                if let Some(rest) = line.strip_prefix("pub async fn ") {
                    let (case, _) = rest.split_once('(').unwrap();
                    written.insert(format!("{area}::{case}"));
                }
            }
        }
        assert!(written.len() > 100, "the cases were found");
        let listed: BTreeSet<_> = CASES.iter().map(|case| (*case).to_owned()).collect();
        assert_eq!(listed.len(), CASES.len(), "a case is on the list once");
        assert_eq!(listed, written, "the list (left) and the cases (right)");
    }
}
