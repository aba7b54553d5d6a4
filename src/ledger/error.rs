//! Errors of the ledger, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// The reason why the ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "another knockd (process {pid}) uses {dir}: stop it, or give this one a 'state_dir' of its own"
    )]
    InUse { pid: String, dir: PathBuf },
    #[error("cannot {doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} was written by another knockd (ledger version {found}, this one knows {known}): \
         install that one again, or move the file away and lose what it knows"
    )]
    OtherVersion { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is another program's database: move it away, or set another 'state_dir'")]
    Foreign { path: PathBuf },
    #[error("cannot {doing}: {}", remedy(path, source))]
    Database { doing: &'static str, path: PathBuf, source: rusqlite::Error },
}

/// What SQLite says of a file, and what to do about it.
fn remedy(path: &Path, error: &rusqlite::Error) -> String {
    let path = path.display();
    if is_corrupt(error) {
        return format!("{path} is corrupt ({error}): restart knockd, which sets it aside");
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("no space left for {path}: make room on its file system")
        }
        Some(ErrorCode::ReadOnly) => {
            format!("{path} cannot be written: is its file system mounted read-only?")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program has {path} open: end it (fuser {path} names it)")
        }
        _ => format!("{path}: {error}"),
    }
}

impl LedgerError {
    /// Says of an error of the system what was being done to which file.
    pub(super) fn file(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }

    /// Says of an error of SQLite what was being done to which file.
    pub(super) fn database(doing: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> Self {
        move |source| Self::Database { doing, path: path.to_owned(), source }
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
