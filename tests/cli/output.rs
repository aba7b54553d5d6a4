//! What a program has said.

use std::process::Output;

/// Standard output and standard error of something that has worked.
pub(crate) fn said(output: Output) -> (String, String) {
    assert!(output.status.success(), "{output:?}");
    (text(output.stdout), text(output.stderr))
}

/// Standard error of something that has failed.
pub(crate) fn complained(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    text(output.stderr)
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
