//! Errors of the ledger, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "another knockd (process {pid}) uses {dir}: stop it, or give this one a 'state_dir' of \
         its own", dir = dir.display()
    )]
    InUse { pid: String, dir: PathBuf },
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} was written by a newer knockd (ledger version {found}, this one knows {known}): \
         install that one again, or move the file away and lose what it knows",
        path = path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "{path} is another program's database: move it away, or set another 'state_dir'",
        path = path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "cannot {doing}: no space left for {path}: make room on its file system",
        path = path.display()
    )]
    Full { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error(
        "cannot {doing}: {path} cannot be written: is its file system mounted read-only?",
        path = path.display()
    )]
    ReadOnly { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error(
        "cannot {doing}: {path} is corrupt ({source}): restart knockd, which sets it aside",
        path = path.display()
    )]
    Corrupt { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error(
        "cannot {doing}: another program has {path} open: end it (fuser {path} names it)",
        path = path.display()
    )]
    Busy { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error("cannot {doing}: {path}: {source}", path = path.display())]
    Other { doing: &'static str, path: PathBuf, source: rusqlite::Error },
}

/// The context of an error: what was being done to which file.
pub(super) struct Context<'a> {
    pub doing: &'static str,
    pub path: &'a Path,
}

impl Context<'_> {
    /// The error that this one of SQLite is, in this context.
    pub(super) fn failed(&self, source: rusqlite::Error) -> LedgerError {
        let (doing, path) = (self.doing, self.path.to_owned());
        if is_corrupt(&source) {
            return LedgerError::Corrupt { doing, path, source };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => LedgerError::Full { doing, path, source },
            Some(ErrorCode::ReadOnly) => LedgerError::ReadOnly { doing, path, source },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                LedgerError::Busy { doing, path, source }
            }
            _ => LedgerError::Other { doing, path, source },
        }
    }
}

/// Whether the file holds something else than a ledger that this program has written.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    match error {
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::InvalidColumnName(..)
        | E::Utf8Error(..)
        | E::SqlInputError { .. } => true,
        // Every statement is right, so one that is not understood meets tables that are wrong.
        _ => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        ),
    }
}
