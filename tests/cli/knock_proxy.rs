//! `knock --proxy`: a connection as a plain pipe.

use std::io::{IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, send};
use nix::unistd::close;
use socket2::Socket;

use crate::client::{knock, misused};

/// A server that does one thing with the one connection that it gets.
fn server<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// `knock` as ssh starts it, with a knock on a port that nobody listens to.
#[expect(clippy::disallowed_methods, reason = "assert_cmd cannot talk with a program")]
fn proxy(options: &[&str], port: u16) -> Child {
    Command::new(env!("CARGO_BIN_EXE_knock"))
        .args(options)
        .args(["--proxy", "127.0.0.1", &port.to_string(), "7000"])
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What is left on standard output and error, and the exit status.
fn end(child: Child) -> (Vec<u8>, String, i32) {
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    (output.stdout, err, output.status.code().unwrap())
}

#[test]
fn the_end_of_the_input_reaches_the_server_and_its_answer_still_comes() {
    let (port, server) = server(|mut stream| {
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        write!(stream, "heard {heard}").unwrap();
    });
    let mut child = proxy(&[], port);
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let (out, err, status) = end(child);
    assert_eq!((out.as_slice(), err.as_str(), status), (&b"heard hello"[..], "", 0));
    server.join().unwrap();
}

#[test]
fn a_server_that_is_done_talking_still_listens() {
    let (port, server) = server(|mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        heard
    });
    let mut child = proxy(&[], port);
    let mut out = String::new();
    // The end of what the server says is the end of standard output, while the input goes on.
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "bye");
    child.stdin.take().unwrap().write_all(b"one more thing").unwrap();
    let (_, err, status) = end(child);
    assert_eq!((err.as_str(), status), ("", 0));
    assert_eq!(server.join().unwrap(), "one more thing");
}

#[test]
fn much_goes_both_ways_at_once_and_nothing_is_lost() {
    let sent: Vec<u8> = (0..4_000_000u32).map(|number| (number % 251) as u8).collect();
    let (port, server) = server(|mut stream| {
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap();
    });
    let mut child = proxy(&[], port);
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writing = thread::spawn(move || stdin.write_all(&copy).unwrap());
    let (out, err, status) = end(child);
    assert!(out == sent, "{} of {} bytes came back", out.len(), sent.len());
    assert_eq!((err.as_str(), status), ("", 0));
    writing.join().unwrap();
    server.join().unwrap();
}

#[test]
fn every_byte_is_handed_on_as_soon_as_it_comes() {
    let (port, server) = server(|mut stream| {
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            stream.write_all(&byte).unwrap();
        }
    });
    let mut child = proxy(&[], port);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for byte in [b'a', 0, b'\n', 0xff] {
        stdin.write_all(&[byte]).unwrap();
        let mut echo = [1];
        stdout.read_exact(&mut echo).unwrap();
        assert_eq!(echo, [byte]);
    }
    drop(stdin);
    assert_eq!(end(child).2, 0);
    server.join().unwrap();
}

#[test]
fn only_what_the_server_says_is_on_standard_output() {
    let (port, server) = server(|mut stream| stream.write_all(b"SSH-2.0-").unwrap());
    let mut child = proxy(&["-v"], port);
    drop(child.stdin.take());
    let (out, err, status) = end(child);
    assert_eq!((out.as_slice(), status), (&b"SSH-2.0-"[..], 0));
    assert!(err.contains("knock: hitting tcp 127.0.0.1:7000\n"), "{err}");
    assert!(err.ends_with(&format!("knock: 127.0.0.1:{port} is open\n")), "{err}");
    server.join().unwrap();
}

#[test]
fn a_port_that_stays_shut_is_an_error() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = proxy(&["--retry", "0"], port);
    let _input = child.stdin.take();
    let (out, err, status) = end(child);
    assert_eq!(
        err,
        format!(
            "knock: error: 127.0.0.1:{port} did not accept a connection: gave up after 1 knock\n"
        )
    );
    assert_eq!((out.as_slice(), status), (&b""[..], 1));
}

#[test]
fn a_connection_that_is_reset_is_an_error() {
    let (port, server) = server(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut child = proxy(&[], port);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"x").unwrap();
    let (_, err, status) = end(child);
    assert_eq!(
        err,
        "knock: error: the connection broke: Connection reset by peer (os error 104)\n"
    );
    assert_eq!(status, 1);
    server.join().unwrap();
}

#[test]
fn a_reader_that_has_gone_away_ends_it() {
    let (port, server) = server(|mut stream| {
        // Until the other side is gone.
        while stream.write_all(&[0; 1024]).is_ok() {}
    });
    let mut child = proxy(&[], port);
    let _input = child.stdin.take();
    drop(child.stdout.take());
    assert_eq!(end(child).2, 0);
    server.join().unwrap();
}

#[test]
fn the_connection_comes_from_the_port_that_was_asked_for() {
    let source = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    for _ in 0..2 {
        let (port, server) = server(|stream| stream.peer_addr().unwrap().port());
        let mut child = proxy(&["--source-port", &source.to_string()], port);
        drop(child.stdin.take());
        assert_eq!(end(child).2, 0);
        assert_eq!(server.join().unwrap(), source);
    }
}

#[test]
fn a_free_source_port_is_taken_where_any_will_do() {
    let (port, server) = server(drop);
    let mut child = proxy(&["--source-port", "auto"], port);
    drop(child.stdin.take());
    assert_eq!(end(child), (Vec::new(), String::new(), 0));
    server.join().unwrap();
}

#[test]
fn a_source_port_that_another_program_uses_is_named() {
    let other = TcpListener::bind("0.0.0.0:0").unwrap();
    let source = other.local_addr().unwrap().port();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_, err, status) = end(proxy(&["--source-port", &source.to_string()], port));
    assert_eq!(
        err,
        format!(
            "knock: error: no connection can be made from port {source}: another program uses it\n"
        )
    );
    assert_eq!(status, 1);
}

/// The descriptor that `knock` hands over on a socket, what it says and its exit status.
#[expect(clippy::disallowed_methods, reason = "assert_cmd has no socket for standard output")]
fn handed_over(options: &[&str], port: u16) -> (Option<RawFd>, String, i32) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_knock"));
    command
        .args(options)
        .args(["--fdpass", "--proxy", "127.0.0.1", &port.to_string(), "7000"])
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdout(OwnedFd::from(theirs))
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // It holds the other end too.
    drop(command);
    let (_, err, status) = end(child);
    let mut byte = [9];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(RawFd);
    let heard = recvmsg::<()>(ours.as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::empty());
    let heard = heard.unwrap();
    let fd = heard.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // One byte goes with it.
    assert_eq!(heard.bytes, usize::from(fd.is_some()));
    (fd, err, status)
}

#[test]
fn a_connection_is_handed_over_whole_and_knock_has_ended() {
    let source = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for options in [&[][..], &["--source-port", &source]] {
        let (port, server) = server(|mut stream| {
            write!(stream, "SSH-2.0-").unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).unwrap();
            heard
        });
        let (fd, err, status) = handed_over(options, port);
        assert_eq!((err.as_str(), status), ("", 0));
        let fd = fd.unwrap();
        let mut said = [0; 8];
        assert_eq!(recv(fd, &mut said, MsgFlags::MSG_WAITALL).unwrap(), 8);
        assert_eq!(send(fd, b"hello", MsgFlags::empty()).unwrap(), 5);
        close(fd).unwrap();
        // It is not broken off, wherever it came from.
        assert_eq!(server.join().unwrap(), "hello");
    }
}

#[test]
fn what_is_said_goes_to_standard_error_where_a_connection_is_handed_over() {
    let (port, server) = server(drop);
    let (fd, err, status) = handed_over(&["-v"], port);
    assert!(err.ends_with(&format!("knock: 127.0.0.1:{port} is open\n")), "{err}");
    assert_eq!((fd.is_some(), status), (true, 0));
    close(fd.unwrap()).unwrap();
    server.join().unwrap();
}

#[test]
fn where_the_door_stays_shut_nothing_is_handed_over() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (fd, err, status) = handed_over(&["--retry", "0"], port);
    assert!(err.contains("did not accept a connection: gave up after 1 knock"), "{err}");
    assert_eq!((fd, status), (None, 1));
}

#[test]
fn without_a_socket_to_hand_it_to_nothing_is_sent_and_the_error_says_what_ssh_needs() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let knocked = format!("{}/udp", udp.local_addr().unwrap().port());
    let said = knock(&["--fdpass", "--proxy", "127.0.0.1", "22", &knocked]);
    assert_eq!(
        said.err,
        "knock: error: --fdpass wants a socket as standard output: \
         write 'ProxyUseFdpass yes' for ssh\n"
    );
    assert_eq!(said.status, 1);
    udp.set_nonblocking(true).unwrap();
    assert!(udp.recv(&mut [0]).is_err());
    let said = knock(&["-n", "--fdpass", "--proxy", "127.0.0.1", "22", &knocked]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    assert!(misused(&["--fdpass", "127.0.0.1", "7000"]).contains("--proxy <HOST> <PORT>"));
}
