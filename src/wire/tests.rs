//! What the tests of parser, filter and capture share.

pub(crate) mod samples;
