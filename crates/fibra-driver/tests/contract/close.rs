//! Ends: of sockets with ops in flight, of drivers with ops in flight.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};

use fibra_driver::owned::Outcome;
use fibra_driver::{BackendKind, Deadline, Driver, Socket, Submitted};

use crate::support::{CANCELLED, Rig, config, driver, finished, listener, pair, soon, tcp_pair};

fn is_cancelled(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(-CANCELLED)
}

pub fn dropping_the_last_handle_cancels_and_then_closes(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = tcp_pair();
    let clone = here.clone();
    // One in flight, one at the gate, and one that has no gate.
    driver.recv(&here, vec![0; 8], 0);
    driver.recv(&clone, vec![0; 8], 1);
    driver.ready(&here, fibra_driver::Interest::READABLE, 2);
    driver.wait(Deadline::Now).unwrap();
    drop(here);
    driver.wait(Deadline::Now).unwrap();
    assert!(driver.reap_owned().is_none(), "a handle is left");
    drop(clone);
    let mut ended = Vec::new();
    for _ in 0..3 {
        let one = finished(&mut driver);
        match one.outcome {
            Outcome::Received(Err(error), buffer) => {
                assert!(is_cancelled(&error), "{error}");
                assert_eq!(buffer.len(), 8, "the buffer comes back");
            }
            Outcome::Ready(Err(error)) => assert!(is_cancelled(&error), "{error}"),
            other => panic!("{other:?}"),
        }
        ended.push(one.key);
    }
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2]);
    assert_eq!(there.read(&mut [0; 1]).unwrap(), 0, "the peer is told");
}

pub fn a_number_is_not_reused_between_queueing_and_submission(backend: BackendKind) {
    let mut driver = driver(backend);
    for round in 0..20 {
        let (here, _there) = pair();
        let number = here.as_fd().as_raw_fd();
        // Queued, and perhaps not seen by the kernel before the wait below.
        driver.recv(&here, vec![0; 8], round);
        drop(here);
        // New sockets get the lowest free numbers: the old one among them, were it free.
        let mut others: Vec<_> = (0..8).map(|_| pair()).collect();
        for (other, peer) in &mut others {
            assert_ne!(other.as_fd().as_raw_fd(), number);
            peer.write_all(b"secret").unwrap();
        }
        let one = finished(&mut driver);
        assert_eq!(one.key, round);
        let Outcome::Received(Err(error), buffer) = one.outcome else {
            panic!("{:?}", one.outcome)
        };
        assert!(is_cancelled(&error), "{error}");
        assert_eq!(buffer, [0; 8]);
        for (other, _) in &others {
            driver.recv(other, vec![0; 8], 77);
            let Outcome::Received(Ok(6), _) = finished(&mut driver).outcome else { panic!() };
        }
    }
}

pub fn ops_of_both_faces_do_not_swallow_each_other(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = pair();
    let (other, mut other_there) = pair();
    for round in 0..20 {
        rig.recv(&here, 8, round * 2);
        rig.driver.recv(&other, vec![0; 8], round);
        rig.nop(round * 2 + 1);
        rig.driver.nop(1_000 + round);
        there.write_all(b"raw").unwrap();
        other_there.write_all(b"owned").unwrap();
        if round % 2 == 0 {
            assert_eq!(rig.bytes(round * 2), b"raw");
            assert_eq!(rig.result(round * 2 + 1), 0);
        }
        let mut keys = [finished(&mut rig.driver).key, finished(&mut rig.driver).key];
        keys.sort_unstable();
        assert_eq!(keys, [round, 1_000 + round]);
        assert_eq!(rig.bytes(round * 2), b"raw");
        assert_eq!(rig.result(round * 2 + 1), 0);
    }
}

pub fn a_driver_dropped_with_raw_ops_in_flight_lets_go_of_them(backend: BackendKind) {
    let (here, mut there) = pair();
    let (listener, to) = listener();
    let mut buf = [0xee; 8];
    for waited in [false, true] {
        let mut driver = driver(backend);
        let op = fibra_driver::RawOp::Recv {
            on: here.target(),
            buf: buf.as_mut_ptr(),
            len: 8,
            peek: false,
        };
        // SAFETY: sockets and buffer outlive the driver.
        assert!(matches!(unsafe { driver.submit(op, 0) }, Submitted::Pending(_)));
        let op = fibra_driver::RawOp::Accept { on: listener.target() };
        // SAFETY: as above.
        assert!(matches!(unsafe { driver.submit(op, 1) }, Submitted::Pending(_)));
        if waited {
            driver.wait(Deadline::Now).unwrap();
        }
        drop(driver);
        there.write_all(b"abc").unwrap();
        let client = TcpStream::connect(to).unwrap();
        let mut rig = Rig::new(backend);
        rig.recv(&here, 8, 0);
        assert_eq!(rig.bytes(0), b"abc", "the dropped op took them");
        rig.accept(&listener, 1);
        // SAFETY: the result of an accept, taken once.
        let server = unsafe { Socket::from_accepted(rig.result(1)) };
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(buf, [0xee; 8], "somebody wrote to memory that was given back");
    }
}

pub fn a_driver_dropped_with_owned_ops_in_flight_loses_nothing(backend: BackendKind) {
    let (waiting, mut waiting_there) = pair();
    let (won, mut won_there) = pair();
    let (listener, to) = listener();
    let mut first = driver(backend);
    first.recv(&waiting, vec![0; 8], 0);
    first.recv(&waiting, vec![0; 8], 1);
    first.recv(&won, vec![0; 8], 2);
    first.accept(&listener, 3);
    let client = TcpStream::connect(to).unwrap();
    won_there.write_all(b"won").unwrap();
    first.wait(soon()).unwrap();
    drop(first);

    let mut second = driver(backend);
    waiting_there.write_all(b"late").unwrap();
    expect(&mut second, &waiting, b"late");
    expect(&mut second, &won, b"won");
    second.accept(&listener, 0);
    let Outcome::Accepted(Ok(server)) = finished(&mut second).outcome else { panic!() };
    assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
    drop((waiting, won));
    assert_eq!(waiting_there.read(&mut [0; 1]).unwrap(), 0, "no dropped op keeps it open");
    assert_eq!(won_there.read(&mut [0; 1]).unwrap(), 0, "no dropped op keeps it open");
}

fn expect(driver: &mut Driver, socket: &Socket, bytes: &[u8]) {
    driver.recv(socket, vec![0; 64], 9);
    let Outcome::Received(Ok(count), buffer) = finished(driver).outcome else { panic!() };
    assert_eq!(&buffer[..count], bytes);
}

pub fn an_owned_op_beyond_the_limit_gives_its_buffer_back(backend: BackendKind) {
    let mut config = config(backend);
    config.in_flight_max = 3;
    let mut driver = Driver::new(&config).unwrap();
    let (here, mut there) = pair();
    // One in flight and two at the gate count alike.
    for key in 0..3 {
        driver.recv(&here, vec![0; 1], key);
    }
    driver.recv(&here, vec![7; 5], 3);
    let one = finished(&mut driver);
    let Outcome::Received(Err(error), buffer) = one.outcome else { panic!("{:?}", one.outcome) };
    assert_eq!((one.key, buffer), (3, vec![7; 5]));
    assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
    there.write_all(b"abc").unwrap();
    for key in 0..3 {
        assert_eq!(finished(&mut driver).key, key);
    }
}
