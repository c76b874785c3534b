//! What the server's and the client's errors come to.

use std::fmt;

use clickhouse::error::Error as ClientError;
use ledger_core::{Error, ErrorKind};

use super::ClickHouseConfig;

/// An error that the server reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// ClickHouse's number for it, where the answer held one.
    pub code: Option<u32>,
    /// The first line of its message, at most 400 characters of it.
    pub message: String,
}

impl ServerError {
    /// Reads the text of an answer.
    pub fn parse(text: &str) -> Self {
        let code = text.find("Code: ").and_then(|at| {
            let digits = text.get(at + "Code: ".len()..)?;
            let end = digits
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(digits.len());
            digits.get(..end)?.parse().ok()
        });
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(400)
            .collect();
        Self { code, message }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ServerError {}

/// Maps an error of the client. What may pass by itself is `Unavailable`, data that the server
/// does not take is `Rejected`, a wrong user or password `InvalidInput`, a missing database or
/// table `NotFound`.
pub fn map_error(operation: &'static str, config: &ClickHouseConfig, error: ClientError) -> Error {
    let at = config.address();
    let (kind, context) = match error {
        ClientError::BadResponse(text) => {
            let error = ServerError::parse(&text);
            let (kind, context) = classify(&error, config);
            return Error::new(kind, operation, context).with_source(error);
        }
        ClientError::Network(_) => (
            ErrorKind::Unavailable,
            format!("no connection to ClickHouse at {at}"),
        ),
        ClientError::TimedOut => {
            let seconds = config.timeout.as_secs();
            (
                ErrorKind::Unavailable,
                format!("{at} did not answer in {seconds} s"),
            )
        }
        ClientError::Decompression(_) | ClientError::NotEnoughData => {
            // What a connection that broke in the middle of an answer looks like.
            (
                ErrorKind::Unavailable,
                format!("the answer of {at} broke off"),
            )
        }
        ClientError::SchemaMismatch(_) | ClientError::InvalidColumnsHeader(_) => (
            ErrorKind::Corrupt,
            "a table has another shape than when it was opened".to_owned(),
        ),
        ClientError::InvalidUtf8Encoding(_) | ClientError::DataFormat(_) => (
            ErrorKind::Corrupt,
            "a stored value cannot be read".to_owned(),
        ),
        ClientError::Unsupported(_) => (ErrorKind::Unsupported, format!("ClickHouse at {at}")),
        _ => (ErrorKind::Internal, format!("ClickHouse at {at}")),
    };
    Error::new(kind, operation, context).with_source(error)
}

// The numbers are those of ClickHouse's `ErrorCodes.cpp`; they are part of its interface.

/// The data itself: `CANNOT_PARSE_*`, `TYPE_MISMATCH`, `ARGUMENT_OUT_OF_BOUND`,
/// `CANNOT_CONVERT_TYPE`, `INCORRECT_DATA`, `TOO_LARGE_ARRAY_SIZE`, `TOO_LARGE_STRING_SIZE`,
/// `CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN`, `VIOLATED_CONSTRAINT`.
const REFUSED: &[u32] = &[
    6, 25, 26, 27, 38, 41, 53, 69, 70, 72, 117, 128, 131, 349, 469, 675,
];

/// What may pass by itself: errors of files, sockets and checksums on the way, timeouts, too many
/// queries or parts, limits of memory and space, shutdown, cancellation, keeper.
/// `CANNOT_READ_ALL_DATA` (33) is among them since the client never sends a row cut short; a broken
/// connection does.
const PASSING: &[u32] = &[
    32, 33, 40, 74, 75, 76, 77, 95, 96, 159, 160, 173, 198, 202, 203, 209, 210, 225, 236, 241, 242,
    243, 245, 252, 279, 285, 286, 289, 290, 305, 307, 319, 335, 341, 364, 373, 394, 412, 425, 439,
    473, 517, 519, 643, 667, 668, 692, 718, 735, 999, 1000, 1001,
];

fn classify(error: &ServerError, config: &ClickHouseConfig) -> (ErrorKind, String) {
    let at = config.address();
    let Some(code) = error.code else {
        return match error.message.get(..3) {
            Some("401" | "403") => (
                ErrorKind::InvalidInput,
                format!("{at} refuses user {:?}", config.user),
            ),
            // A proxy in between, a server that is starting.
            _ => (
                ErrorKind::Unavailable,
                format!("{at} gave an answer that is not ClickHouse's"),
            ),
        };
    };
    match code {
        // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
        192..=194 | 516 => (
            ErrorKind::InvalidInput,
            format!(
                "ClickHouse at {at} refuses user {:?} or the password given",
                config.user
            ),
        ),
        // ACCESS_DENIED
        497 => (
            ErrorKind::InvalidInput,
            format!(
                "user {:?} lacks a grant on database {:?}",
                config.user, config.database
            ),
        ),
        // UNKNOWN_DATABASE
        81 => (
            ErrorKind::NotFound,
            format!(
                "database {:?} does not exist at {at}; create it first",
                config.database
            ),
        ),
        // UNKNOWN_TABLE
        60 => (
            ErrorKind::NotFound,
            format!(
                "a table is missing in database {:?}; open the store again",
                config.database
            ),
        ),
        // READONLY
        164 => (
            ErrorKind::ReadOnly,
            format!("user {:?} may only read", config.user),
        ),
        code if REFUSED.contains(&code) => (
            ErrorKind::Rejected,
            format!("ClickHouse refuses the data (code {code})"),
        ),
        code if PASSING.contains(&code) => (
            ErrorKind::Unavailable,
            format!("ClickHouse at {at} cannot serve now (code {code})"),
        ),
        _ => (
            ErrorKind::Internal,
            format!("ClickHouse at {at} fails (code {code})"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> ErrorKind {
        let config = ClickHouseConfig::default();
        map_error("test", &config, ClientError::BadResponse(text.to_owned())).kind()
    }

    #[test]
    fn an_answer_is_classified_by_its_code() {
        let answer = "Code: 252. DB::Exception: Too many parts (3000). (TOO_MANY_PARTS)";
        assert_eq!(kind(answer), ErrorKind::Unavailable);
        assert_eq!(
            kind("Code: 241. DB::Exception: Memory limit"),
            ErrorKind::Unavailable
        );
        assert_eq!(
            kind("Code: 516. DB::Exception: default"),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            kind("Code: 81. DB::Exception: no such"),
            ErrorKind::NotFound
        );
        assert_eq!(
            kind("Code: 53. DB::Exception: Type mismatch"),
            ErrorKind::Rejected
        );
        assert_eq!(
            kind("Code: 62. DB::Exception: Syntax error"),
            ErrorKind::Internal
        );
        assert_eq!(kind("502 Bad Gateway"), ErrorKind::Unavailable);
        assert_eq!(kind("403 Forbidden"), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_long_answer_is_cut_to_one_line() {
        let error = ServerError::parse(&format!("Code: 6. {}\nStack trace", "ü".repeat(900)));
        assert_eq!((error.code, error.message.chars().count()), (Some(6), 400));
    }
}
