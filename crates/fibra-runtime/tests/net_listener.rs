//! What our listeners promise beyond std.

mod sides;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use fibra_runtime::net::{TcpListener, TcpStream};
use sides::{on_every_side, spawn};

#[test]
fn incoming_yields_every_connection_once() {
    on_every_side(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients = spawn(move || {
            (0..50_u8)
                .map(|number| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(&[number]).unwrap();
                    stream
                })
                .collect::<Vec<_>>()
        });
        let mut seen = HashSet::new();
        for stream in listener
            .incoming()
            .take(25)
            .chain(listener.try_clone().unwrap().into_incoming().take(25))
        {
            let mut byte = [0];
            stream.unwrap().read_exact(&mut byte).unwrap();
            assert!(seen.insert(byte[0]), "twice: {}", byte[0]);
        }
        assert_eq!(seen.len(), 50);
        clients.join();
    });
}

#[test]
fn acceptors_on_many_clones_share_the_connections() {
    on_every_side(|| {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let mut acceptors = Vec::new();
        for number in 0..8 {
            let listener = Arc::clone(&listener);
            acceptors.push(spawn(move || {
                let (mut stream, from) = listener.accept().unwrap();
                assert_eq!(stream.peer_addr().unwrap(), from);
                stream.write_all(&[number]).unwrap();
            }));
        }
        let mut seen = HashSet::new();
        for _ in 0..8 {
            let mut byte = [0];
            TcpStream::connect(address).unwrap().read_exact(&mut byte).unwrap();
            seen.insert(byte[0]);
        }
        assert_eq!(seen.len(), 8);
        acceptors.into_iter().for_each(sides::Peer::join);
    });
}

#[test]
fn a_burst_waits_in_the_backlog_until_it_is_accepted() {
    on_every_side(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // More than std's backlog of 128: without a full one later connects would be dropped
        // and retried after a second.
        let timeout = Duration::from_millis(900);
        let clients: Vec<_> =
            (0..400).map(|_| TcpStream::connect_timeout(&address, timeout).unwrap()).collect();
        for _ in &clients {
            listener.accept().unwrap();
        }
    });
}

#[test]
fn a_server_restarts_straight_after_it_closed_its_connections() {
    on_every_side(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted: Vec<_> = clients.iter().map(|_| listener.accept().unwrap()).collect();
        // The server closes first, so its side keeps the port in TIME_WAIT; one stays open.
        drop((accepted, listener));
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        clients.truncate(1);
        let listener = TcpListener::bind(address).unwrap();
        TcpStream::connect(address).unwrap();
        listener.accept().unwrap();
    });
}

#[test]
fn a_connection_that_is_reset_in_the_backlog_does_not_end_the_loop() {
    on_every_side(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gone = TcpStream::connect(address).unwrap();
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        let mut alive = TcpStream::connect(address).unwrap();
        alive.write_all(b"x").unwrap();
        let (mut stream, from) = listener.accept().unwrap();
        assert_eq!(from, alive.local_addr().unwrap());
        assert_eq!(stream.read(&mut [0; 4]).unwrap(), 1);
    });
}

#[test]
fn a_listener_goes_to_std_and_back() {
    on_every_side(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clone = listener.try_clone().unwrap();
        let listener = listener.into_std().unwrap_err();
        drop(clone);
        listener.set_nonblocking(true).unwrap();
        let plain = listener.into_std().unwrap();
        assert_eq!(plain.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let listener = TcpListener::from_std(plain).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        listener.set_nonblocking(false).unwrap();
        let near = TcpStream::connect(address).unwrap();
        assert_eq!(listener.accept().unwrap().1, near.local_addr().unwrap());
    });
}

#[test]
fn bind_takes_the_first_address_that_is_free() {
    on_every_side(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let choice = [taken.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap()];
        let listener = TcpListener::bind(&choice[..]).unwrap();
        assert_ne!(listener.local_addr().unwrap(), choice[0]);
    });
}
