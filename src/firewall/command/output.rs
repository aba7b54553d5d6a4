//! The output of a command, line by line into the log.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use tracing::info;

use crate::config::Name;

/// How much of a command's output is logged, in lines and in bytes of each.
const OUTPUT_LINES: usize = 20;
const OUTPUT_WIDTH: usize = 400;

/// The output of a command; the rest of a flood is thrown away.
pub(super) struct CommandOutput {
    door: Name,
    /// `None`: nobody can write to it any more.
    pipe: Option<File>,
    /// It is thrown away.
    is_quiet: bool,
    line: Vec<u8>,
    lines: usize,
}

impl CommandOutput {
    pub(super) const fn new(door: Name, pipe: File, is_quiet: bool) -> Self {
        Self { door, pipe: Some(pipe), is_quiet, line: Vec::new(), lines: 0 }
    }

    /// Readable when there is something to read; `None` where nothing can come any more.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// Reads what is there now, a bounded amount at a time.
    pub(super) fn drain(&mut self) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..8 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => buffer.iter().take(count).for_each(|&byte| self.take(byte)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    /// Reads what is there when the command has ended, its last line too.
    pub(super) fn finish(&mut self) {
        self.drain();
        if !self.line.is_empty() {
            self.log_line();
        }
    }

    fn take(&mut self, byte: u8) {
        if byte == b'\n' {
            self.log_line();
        } else if self.line.len() < OUTPUT_WIDTH {
            self.line.push(byte);
        }
    }

    fn log_line(&mut self) {
        self.lines += 1;
        let (door, line) = (&self.door, String::from_utf8_lossy(&self.line));
        match self.lines {
            _ if self.is_quiet => {}
            1..=OUTPUT_LINES => info!(door = %door, "command says: {line}"),
            lines if lines == OUTPUT_LINES + 1 => {
                info!(door = %door, "command says more, which is not logged");
            }
            _ => {}
        }
        self.line.clear();
    }
}
