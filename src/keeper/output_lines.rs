//! The output of child processes, line by line.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The output of a child process, in lines.
pub(super) struct OutputLines {
    pipe: Option<File>,
    /// What has been read and not told.
    read: Vec<u8>,
}

impl OutputLines {
    const WIDTH: usize = 500;

    /// Of a pipe that does not block.
    pub(super) fn of(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe.into()), read: Vec::new() }
    }

    /// What to poll; `None`: it has been closed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// The next line that is not empty. Reads once at most, however much there is: whoever writes
    /// without end must not keep the keeper here.
    pub(super) fn next(&mut self) -> Option<String> {
        let line = self.take_line();
        if line.is_some() {
            return line;
        }
        let mut buffer = [0; 4096];
        match self.pipe.as_mut()?.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.read.extend(buffer.iter().take(count)),
            Err(_) => return None,
        }
        self.take_line()
    }

    /// The first line of what has been read; one without an end is cut.
    fn take_line(&mut self) -> Option<String> {
        let empty = self.read.iter().take_while(|&&byte| byte == b'\n').count();
        self.read.drain(..empty);
        let longest = self.read.len().min(Self::WIDTH);
        let is_whole = longest == Self::WIDTH || self.pipe.is_none();
        let end = self.read.iter().take(longest).position(|&byte| byte == b'\n');
        let end = end.or((is_whole && longest > 0).then_some(longest))?;
        let line: Vec<u8> = self.read.drain(..end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::sys::descriptors;

    #[test]
    fn output_comes_line_by_line_and_one_without_an_end_is_cut() {
        let (read, write) = descriptors::output_pipe().unwrap();
        let mut output = OutputLines::of(read);
        let mut write = File::from(write);
        write.write_all(b"one\n\ntwo\n").unwrap();
        write.write_all(&[b'x'; 1200]).unwrap();
        let lengths: Vec<usize> =
            std::iter::from_fn(|| output.next()).map(|line| line.len()).collect();
        assert_eq!(lengths, [3, 3, 500, 500]);
        drop(write);
        assert_eq!(output.next().map(|line| line.len()), Some(200));
        assert_eq!(output.next(), None);
    }

    #[test]
    fn output_without_lines_is_read_a_part_at_a_time() {
        let (read, write) = descriptors::output_pipe().unwrap();
        let mut output = OutputLines::of(read);
        File::from(write).write_all(&[b'\n'; 10_000]).unwrap();
        let reads = (1..).find(|_| output.next().is_none() && output.pipe.is_none());
        assert_eq!(reads, Some(4), "4096, 4096, the rest, its end");
    }
}
