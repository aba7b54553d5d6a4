//! Running the client and reading what it says.

use std::fs;
use std::path::Path;

use assert_cmd::cargo::cargo_bin_cmd;

/// What `knock` printed and how it ended.
pub(crate) struct Said {
    pub out: String,
    pub err: String,
    pub status: i32,
}

/// Runs `knock` where there is no hosts file.
pub(crate) fn knock(arguments: &[&str]) -> Said {
    knock_in(Path::new("/nonexistent"), arguments)
}

/// Runs `knock` with a directory as `$XDG_CONFIG_HOME`.
pub(crate) fn knock_in(configuration: &Path, arguments: &[&str]) -> Said {
    let output = cargo_bin_cmd!("knock")
        .args(arguments)
        .env("XDG_CONFIG_HOME", configuration)
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    Said {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap(),
    }
}

/// What `knock` complains of when it is used wrongly: it prints and sends nothing.
pub(crate) fn misused(arguments: &[&str]) -> String {
    let said = knock(arguments);
    assert_eq!((said.status, said.out.as_str()), (2, ""), "{}", said.err);
    said.err
}

/// A directory for `$XDG_CONFIG_HOME` with a hosts file in it.
pub(crate) fn configuration(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("knock")).unwrap();
    fs::write(directory.path().join("knock/hosts.yaml"), text).unwrap();
    directory
}
