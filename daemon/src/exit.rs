//! Exit codes.

use std::fmt;
use std::process::ExitCode;

use ledger::ErrorKind;
use tonic::Code;

/// How the program ends, as its exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: it did what was asked; for `verify`, source and sink are equal.
    Done,
    /// 1: it failed; for `verify`, source and sink differ.
    Failed,
    /// 2: the arguments or the input are wrong; for `verify`, also that the comparison could not be
    /// made.
    Usage,
    /// 3: a stream is at another version, or a name is taken.
    Conflict,
    /// 4: no key, a wrong one, or a store that is not allowed.
    Auth,
    /// 5: a stream, an entry, a store or a bridge does not exist.
    NotFound,
    /// 6: the daemon or a database cannot be reached, or is not ready.
    Unavailable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Conflict => Self::from(3),
            Exit::Auth => Self::from(4),
            Exit::NotFound => Self::from(5),
            Exit::Unavailable => Self::from(6),
        }
    }
}

impl Exit {
    /// What an error means to who called the program.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(|cause| {
                if let Some(failure) = cause.downcast_ref::<Failure>() {
                    return Some(failure.exit);
                }
                if let Some(error) = cause.downcast_ref::<ledger::Error>() {
                    return Some(Self::of_kind(error.kind()));
                }
                let io = cause.downcast_ref::<std::io::Error>()?;
                // Who reads the output has gone, having seen enough.
                (io.kind() == std::io::ErrorKind::BrokenPipe).then_some(Self::Done)
            })
            .unwrap_or(Self::Failed)
    }

    fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::Usage,
            ErrorKind::Conflict | ErrorKind::AlreadyExists => Self::Conflict,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Unavailable => Self::Unavailable,
            _ => Self::Failed,
        }
    }

    /// What the code of a call that failed means.
    pub(crate) fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::Usage,
            Code::Aborted | Code::AlreadyExists => Self::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Self::Auth,
            Code::NotFound => Self::NotFound,
            Code::Unavailable => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

/// An error that says how the program ends.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    /// A failure with its text.
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { exit, text }
    }

    /// The arguments or the input are wrong.
    pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
        Self::new(Exit::Usage, text).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
