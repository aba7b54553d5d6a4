//! What the fuzz targets reach of knockctl. No program has it.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::events::EventPrinter;
use super::socket::{Replies, ReplyStream, Timeout};
use crate::control::{EventLine, Reply};

/// How an event is told.
pub fn told(event: &EventLine, json: bool) -> Vec<u8> {
    let mut printer = EventPrinter::new(Vec::new(), json, [].iter(), BTreeMap::new());
    printer.tell(event).expect("memory takes it");
    printer.out
}

/// What is read from a connection, to its end or the first error.
pub fn read_replies(stream: UnixStream) -> (Vec<Reply>, String) {
    let reader = BufReader::new(ReplyStream { stream, timeout: Timeout::Reply });
    let mut replies = Replies { reader, path: PathBuf::new() };
    let mut read = Vec::new();
    loop {
        match replies.next() {
            Ok(reply) => read.push(reply),
            Err(error) => return (read, error.to_string()),
        }
    }
}
