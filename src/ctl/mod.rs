#![forbid(unsafe_code)]

pub mod explain;
