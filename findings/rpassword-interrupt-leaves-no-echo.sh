#!/bin/sh
# rpassword 7.5.4: after Ctrl-C at the prompt the terminal neither shows what is typed nor takes Ctrl-C.
#
# While it asks, the terminal sends no signals, and the library reads Ctrl-C as a character. It then
# sends SIGINT to its own process, and only after that would put the terminal back: a program without
# a handler has ended before. Seen: the shell says 130, as for any program that Ctrl-C ends, and
# stty shows -echo, -icanon and -isig. With SIGINT blocked during the prompt, and unblocked after it,
# the status is the same and the terminal is as before. Ctrl-Z and Ctrl-\ do nothing at the prompt.
# Needs cargo and python3.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir src
cat >Cargo.toml <<'END'
[package]
name = "finding"
edition = "2024"

[dependencies]
nix = { version = "=0.31.3", features = ["signal"] }
rpassword = "=7.5.4"
END
cat >src/main.rs <<'END'
use nix::sys::signal::{SigSet, Signal};

fn main() {
    let interrupt = SigSet::from(Signal::SIGINT);
    let blocks = std::env::args().nth(1).is_some();
    if blocks {
        interrupt.thread_block().unwrap();
    }
    let answer = rpassword::prompt_password("password: ");
    if blocks {
        interrupt.thread_unblock().unwrap();
    }
    println!("answer: {answer:?}");
}
END
cat >typed.py <<'END'
import os, pty, sys, time
keys, *argument = sys.argv[1:]
# The shell outlives Ctrl-C, and says what is left of the terminal.
script = 'trap : INT; target/debug/finding "$@"; echo "status $?"; stty -a'
shell, terminal = pty.fork()
if shell == 0:
    os.execvp("sh", ["sh", "-c", script, "sh", *argument])
seen = b""
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    if b"password: " not in seen and b"password: " in seen + more:
        time.sleep(1)  # The prompt comes before the terminal is changed.
        os.write(terminal, keys.encode())
    seen += more
print(seen.decode())
END
cargo build --quiet
# typed KEYS [BLOCKS]: what the terminal showed, and how it was left, in one line.
typed() {
    python3 typed.py "$@" | grep -o -E -e '^(answer|status).*|-?\b(echo|icanon|isig)\b' | tr -d '\r' | tr '\n' ' '
    echo
}
typed "$(printf '\003')" | tee seen
grep -q '^status 130 ' seen
for mode in isig icanon echo; do grep -q -e " -$mode " seen; done
typed "$(printf '\003')" blocks | tee seen
grep -q '^status 130 ' seen
for mode in isig icanon echo; do grep -q -e " $mode " seen; done
typed "$(printf '\032\034word\r')" | tee seen
grep -q '^answer: Ok("word") status 0 isig icanon echo ' seen
echo "as described"
