//! Files that are whole, and their owner's alone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Seek, SeekFrom, Write};
#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

#[cfg(windows)]
pub use super::windows::create;

/// Makes a directory with this mode, and those above it, where it is not there. Windows has no modes:
/// there it is as open as the one above it.
///
/// # Errors
/// What the file system says.
#[cfg_attr(windows, expect(unused_variables, reason = "it has no modes"))]
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    builder.mode(mode);
    builder.recursive(true).create(path)
}

/// Makes a file that was not there, mode 0600.
///
/// # Errors
/// Also when there is one already.
#[cfg(unix)]
pub fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes a whole file, mode 0600. Whoever reads it meanwhile reads all of the old one or all of
/// the new one, also after a power cut.
///
/// # Errors
/// What the file system says; then the old file stays.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    replace_with_mode(path, text, 0o600)
}

/// Likewise, with this mode.
///
/// # Errors
/// What the file system says; then the old file stays.
#[cfg_attr(windows, expect(unused_variables, reason = "it has no modes"))]
pub fn replace_with_mode(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let unfinished = directory.join(hidden);
    // What a killed process has left there.
    remove(&unfinished)?;
    let written = create(&unfinished).and_then(|mut file| {
        file.write_all(text)?;
        #[cfg(unix)]
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        // On Windows nobody opens it, nor moves it, before.
        drop(file);
        fs::rename(&unfinished, path)?;
        // Windows has no directories that could be opened so.
        if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
    });
    written.inspect_err(|_| drop(fs::remove_file(&unfinished)))
}

/// Changes one byte of a file, on the disk too.
///
/// # Errors
/// What the file system says.
pub fn overwrite(mut file: &File, at: usize, byte: u8) -> io::Result<()> {
    file.seek(SeekFrom::Start(u64::try_from(at).map_err(io::Error::other)?))?;
    file.write_all(&[byte])?;
    file.sync_data()
}

/// Removes a file, if it is there.
///
/// # Errors
/// What the file system says.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_may_be_named_without_a_directory() {
        let name = format!("replaced-{}", std::process::id());
        replace(Path::new(&name), b"new").unwrap();
        let text = fs::read(&name);
        remove(Path::new(&name)).unwrap();
        assert_eq!(text.unwrap(), b"new");
    }
}
