//! The end of a server: drained after one signal, at once after two, and room for the next.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::process::Signal;

use crate::load::{Load, block, served};
use crate::server::*;

/// Small enough to be one segment on the loopback: when its first byte is back, all of it is there.
const MESSAGE_LEN: usize = 32 * 1024;

#[test]
fn what_a_server_has_received_is_sent_back_after_the_signal() {
    for (index, kind) in ALL.into_iter().enumerate() {
        let signal = [Signal::INT, Signal::TERM][index % 2];
        let server = Server::start(kind);
        let message = &block()[..MESSAGE_LEN];
        let mut clients: Vec<TcpStream> = (0..20)
            .map(|_| TcpStream::connect(server.address).expect("the server accepts"))
            .collect();
        for client in &mut clients {
            client.write_all(message).expect("the connection is open");
            let mut first = [0];
            client.read_exact(&mut first).expect("the connection is open");
        }
        server.signal(signal);
        for client in &mut clients {
            // No half-close: it is the server that ends the connection.
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).expect("the connection is ended, not reset");
            assert!(rest == message[1..], "{}: {} bytes", kind.name, rest.len() + 1);
        }
        let ended = server.wait();
        assert_eq!(ended.summary(), (20, 20 * MESSAGE_LEN), "{}", kind.name);
        assert_eq!(ended.stderr, "", "{}", kind.name);
    }
}

#[test]
fn a_server_without_clients_ends_at_either_signal() {
    for kind in ALL {
        for signal in [Signal::INT, Signal::TERM] {
            assert_eq!(Server::start(kind).stop(signal).summary(), (0, 0), "{}", kind.name);
        }
    }
}

/// A client that sends until nothing fits any more, and from then on reads nothing: the server waits
/// to write, for good.
fn stubborn(server: &Server) -> TcpStream {
    let mut stream = served(server.address);
    stream.set_nonblocking(true).expect("a socket");
    let mut buffer = vec![0; 1 << 20];
    loop {
        let error = loop {
            if let Err(error) = stream.write(block()) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        match server.stuck(&stream) {
            Stuck::ForGood => return stream,
            // Another round, in which the kernel makes the buffers larger.
            Stuck::ForNow => while stream.read(&mut buffer).is_ok_and(|count| count > 0) {},
            Stuck::No => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_client_that_never_reads_is_cut_when_the_grace_is_over() {
    std::thread::scope(|scope| {
        for kind in [URING, EPOLL, DEDICATED_URING, THREAD] {
            scope.spawn(move || {
                let server = Server::start(kind);
                let stream = stubborn(&server);
                let ended = server.stop(Signal::TERM);
                assert_eq!(ended.summary().0, 1, "{}", kind.name);
                let stderr = &ended.stderr;
                assert!(stderr.contains("1 connections did not end"), "{}: {stderr}", kind.name);
                drop(stream);
            });
        }
    });
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    for (kind, first, second, code) in [
        (URING, Signal::INT, Signal::INT, 130),
        (EPOLL, Signal::INT, Signal::TERM, 143),
        (DEDICATED_EPOLL, Signal::TERM, Signal::INT, 130),
        (THREAD, Signal::TERM, Signal::TERM, 143),
    ] {
        let server = Server::start(kind);
        let stream = stubborn(&server);
        server.signal(first);
        // The listener is closed when the signal has been dealt with.
        while let Ok(late) = TcpStream::connect(server.address) {
            let _ = late.shutdown(Shutdown::Both);
        }
        server.signal(second);
        let ended = server.wait();
        assert_eq!(ended.status.code(), Some(code), "{}: {ended:?}", kind.name);
        assert_eq!(ended.stdout, "", "{}: no summary, it was not drained", kind.name);
        drop(stream);
    }
}

#[test]
fn a_restart_straight_after_a_stop_under_load_binds() {
    for kind in [URING, EPOLL, DEDICATED_URING, THREAD] {
        let mut server = Server::start(kind);
        let address = server.address.to_string();
        for _ in 0..5 {
            // Half of them are open when the server ends, the others leave TIME_WAIT behind.
            Load { connections: 20, bytes: 200_000, vanishing: 5 }.run(server.address);
            let clients: Vec<TcpStream> = (0..20)
                .map(|_| {
                    let mut client = TcpStream::connect(server.address).expect("it accepts");
                    client.write_all(&block()[..1000]).expect("the connection is open");
                    client
                })
                .collect();
            server.stop(Signal::INT).summary();
            server = Server::start_at(kind, &address)
                .unwrap_or_else(|ended| panic!("{}: {ended:?}", kind.name));
            drop(clients);
        }
        assert_eq!(server.stop(Signal::INT).summary().0, 0);
    }
}
