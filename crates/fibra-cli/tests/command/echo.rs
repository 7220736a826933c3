//! Echo, byte for byte, on every backend, topology and model.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::load::{Load, vanish};
use crate::server::*;

/// 200 MB over 500 connections at once with half-closes, beside clients that vanish in the middle.
fn echoes(kind: Kind) {
    let load = Load { connections: 500, bytes: 200_000_000, vanishing: 25 };
    let server = Server::start(kind);
    let started = std::time::Instant::now();
    let echoed = load.run(server.address);
    println!("{}: {echoed} bytes in {:.1} seconds", kind.name, started.elapsed().as_secs_f64());
    assert!(echoed >= load.bytes);
    let ended = server.stop(Signal::INT);
    let (connections, bytes) = ended.summary();
    assert_eq!(connections, load.connections + load.vanishing);
    assert!(bytes >= echoed, "{bytes} of {echoed}");
    assert_eq!(ended.stderr, "");
}

#[test]
fn uring_echoes_200_megabytes_over_500_connections() {
    echoes(URING);
}

#[test]
fn epoll_echoes_200_megabytes_over_500_connections() {
    echoes(EPOLL);
}

#[test]
fn poll_echoes_200_megabytes_over_500_connections() {
    echoes(POLL);
}

#[test]
fn select_echoes_200_megabytes_over_500_connections() {
    echoes(SELECT);
}

#[test]
fn dedicated_uring_echoes_200_megabytes_over_500_connections() {
    echoes(DEDICATED_URING);
}

#[test]
fn dedicated_epoll_echoes_200_megabytes_over_500_connections() {
    echoes(DEDICATED_EPOLL);
}

#[test]
fn dedicated_poll_echoes_200_megabytes_over_500_connections() {
    echoes(DEDICATED_POLL);
}

#[test]
fn dedicated_select_echoes_200_megabytes_over_500_connections() {
    echoes(DEDICATED_SELECT);
}

#[test]
fn threads_echo_200_megabytes_over_500_connections() {
    echoes(THREAD);
}

#[test]
fn clients_that_only_vanish_leave_nothing_behind() {
    for kind in ALL {
        let server = Server::start(kind);
        for _ in 0..50 {
            vanish(TcpStream::connect(server.address).expect("the server accepts"));
        }
        // Who comes after them is served, and nobody is left to drain.
        Load { connections: 1, bytes: 1000, vanishing: 0 }.run(server.address);
        let ended = server.stop(Signal::TERM);
        assert!(ended.summary().0 <= 51, "{}: {ended:?}", kind.name);
        assert_eq!(ended.stderr, "", "{}", kind.name);
    }
}

#[test]
fn verbose_names_every_client() {
    for kind in [URING, EPOLL, THREAD] {
        let mut command = fibra(&["echo", "--listen", "127.0.0.1:0", "-v"]);
        command.args(kind.options);
        let mut server = Server::launch(command).expect("it listens");
        for _ in 0..3 {
            let mut stream = TcpStream::connect(server.address).expect("the server accepts");
            let here = stream.local_addr().expect("a socket");
            assert_eq!(server.line(), format!("New: {here}"));
            stream.write_all(b"hello").expect("the connection is open");
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).expect("the connection is open");
            assert_eq!(&bytes, b"hello");
        }
        assert_eq!(server.stop(Signal::INT).summary(), (3, 15));
    }
}
