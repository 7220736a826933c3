//! Completions made from readiness: what the epoll, poll and select backends promise.
//!
//! Every test runs on each of them. Waits have a generous limit, so that a lost wake is a failure
//! with a name and not a hang.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fibra_driver::{
    BackendKind, Completion, Deadline, Descriptor, Driver, Instant, Interest, Message, OpId, RawOp,
    Readiness, Shutdown, Submitted, Target,
};

mod bed;
use bed::{Bed, config, each_backend, nonblocking, pair, tcp};

fn recv(on: &Descriptor, buf: &mut [u8]) -> RawOp {
    RawOp::Recv { on: Target::new(on), buf: buf.as_mut_ptr(), len: buf.len(), peek: false }
}

fn peek(on: &Descriptor, buf: &mut [u8]) -> RawOp {
    RawOp::Recv { on: Target::new(on), buf: buf.as_mut_ptr(), len: buf.len(), peek: true }
}

fn send(on: &Descriptor, buf: &[u8]) -> RawOp {
    RawOp::Send { on: Target::new(on), buf: buf.as_ptr(), len: buf.len() }
}

#[test]
fn a_message_goes_through_accept_connect_send_and_recv_and_back() {
    each_backend(|mut bed| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket2::SockAddr::from(listener.local_addr().unwrap());
        let listener = nonblocking(listener);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let client = nonblocking(socket.unwrap());
        let accept = bed.pending(RawOp::Accept { on: Target::new(&listener) });
        let connected = bed.run(RawOp::Connect { on: Target::new(&client), address: &address });
        assert_eq!(connected, 0);
        let number = bed.result(accept);
        assert!(number >= 0, "{number}");
        let server = bed::adopt(number);

        let (mut there, mut back) = ([0; 64], [0; 64]);
        for _ in 0..100 {
            let reading = bed.pending(recv(&server, &mut there));
            assert_eq!(bed.run(send(&client, b"ping")), 4);
            assert_eq!(bed.result(reading), 4);
            assert_eq!(bed.run(send(&server, &there[..4])), 4);
            assert_eq!(bed.run(recv(&client, &mut back)), 4);
            assert_eq!(&back[..4], b"ping");
        }
        assert_eq!(bed.driver.metrics().in_flight_count, 0);
    });
}

#[test]
fn an_op_that_can_finish_is_done_at_once() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        theirs.write_all(b"abc").unwrap();
        bed::until_readable(&ours);
        let mut buf = [0; 8];
        assert_eq!(bed.submit(recv(&ours, &mut buf)), Submitted::Done(3));
        assert_eq!(bed.submit(send(&ours, b"defg")), Submitted::Done(4));
        assert_eq!(bed.driver.reap(), None, "what is done gives no completion");
        assert_eq!(bed.driver.metrics().submitted_count, 2);
    });
}

#[test]
fn several_buffers_are_one_op() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let (mut one, mut two) = ([0; 2], [0; 8]);
        let mut list = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let mut message = Message::to_receive(&mut list);
        let on = Target::new(&ours);
        let reading = bed.pending(RawOp::RecvVectored { on, message: &mut message });
        theirs.write_all(b"12345").unwrap();
        assert_eq!(bed.result(reading), 5);
        assert_eq!((&one, &two[..3]), (b"12", &b"345"[..]));

        let list = [IoSlice::new(b"ab"), IoSlice::new(b"cde")];
        let mut message = Message::to_send(&list);
        assert_eq!(bed.run(RawOp::SendVectored { on, message: &mut message }), 5);
        let mut got = [0; 5];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abcde");
    });
}

#[test]
fn waiters_of_a_direction_are_served_in_order_and_none_is_forgotten() {
    each_backend(|mut bed| {
        for together in [false, true] {
            let (ours, mut theirs) = tcp();
            let mut bytes = [0u8; 8];
            let mut ids = Vec::new();
            for byte in &mut bytes {
                ids.push(bed.pending(recv(&ours, std::slice::from_mut(byte))));
            }
            if together {
                theirs.write_all(b"01234567").unwrap();
            }
            for (index, id) in ids.iter().enumerate() {
                if !together {
                    theirs.write_all(&[b'0' + index as u8]).unwrap();
                }
                assert_eq!(bed.result(*id), 1);
            }
            assert_eq!(&bytes, b"01234567");
        }
    });
}

#[test]
fn an_op_does_not_overtake_those_that_wait() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let (mut first, mut second) = ([0; 1], [0; 1]);
        let early = bed.pending(recv(&ours, &mut first));
        theirs.write_all(b"ab").unwrap();
        bed::until_readable(&ours);
        let late = bed.pending(recv(&ours, &mut second));
        assert_eq!((bed.result(early), bed.result(late)), (1, 1));
        assert_eq!((first, second), (*b"a", *b"b"));
    });
}

#[test]
fn data_and_end_in_one_event_are_two_reads() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 64];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"bye").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        bed::until_ended(&ours);
        assert_eq!(bed.result(reading), 3, "a short read, and no further event will come");
        assert_eq!(bed.run(recv(&ours, &mut buf)), 0);
        assert_eq!(bed.run(recv(&ours, &mut buf)), 0, "the end stays");
    });
}

#[test]
fn an_end_that_comes_after_a_short_read_is_noticed() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 64];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"bye").unwrap();
        assert_eq!(bed.result(reading), 3);
        let reading = bed.submit(recv(&ours, &mut buf));
        theirs.shutdown(Shutdown::Both).unwrap();
        drop(theirs);
        assert_eq!(bed.finish(reading), 0);
    });
}

#[test]
fn an_end_that_came_before_the_first_wait_is_noticed() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        theirs.write_all(b"bye").unwrap();
        let mut buf = [0; 64];
        assert_eq!(bed.run(recv(&ours, &mut buf)), 3);
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"!").unwrap();
        drop(theirs);
        bed::until_ended(&ours);
        assert_eq!(bed.result(reading), 1);
        assert_eq!(bed.run(recv(&ours, &mut buf)), 0);
    });
}

#[test]
fn an_echo_makes_no_empty_receives_on_epoll_and_one_each_elsewhere() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 64];
        let mut round = |bed: &mut Bed| {
            let reading = bed.pending(recv(&ours, &mut buf));
            theirs.write_all(b"hello").unwrap();
            assert_eq!(bed.result(reading), 5);
        };
        round(&mut bed);
        let before = bed.driver.metrics().would_block_count;
        for _ in 0..100 {
            round(&mut bed);
        }
        let empty = bed.driver.metrics().would_block_count - before;
        let expected = if bed.driver.kind() == BackendKind::Epoll { 0 } else { 100 };
        assert_eq!(empty, expected);
    });
}

#[test]
fn a_read_that_filled_its_buffer_tries_again_at_once() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 4];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"123456").unwrap();
        bed::until_readable(&ours);
        assert_eq!(bed.result(reading), 4);
        assert_eq!(bed.submit(recv(&ours, &mut buf)), Submitted::Done(2));
    });
}

#[test]
fn a_short_read_of_datagrams_is_not_taken_for_the_last_one() {
    each_backend(|mut bed| {
        let ours = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        let ours = nonblocking(ours);
        let mut buf = [0; 64];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.send(b"one").unwrap();
        theirs.send(b"second").unwrap();
        assert_eq!(bed.result(reading), 3);
        assert_eq!(bed.run(recv(&ours, &mut buf)), 6);
    });
}

#[test]
fn urgent_data_in_the_middle_hides_nothing_behind_it() {
    each_backend(|mut bed| {
        let (ours, theirs) = tcp();
        let theirs = socket2::Socket::from(theirs);
        let mut buf = [0; 64];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.send(b"abc").unwrap();
        theirs.send_out_of_band(b"u").unwrap();
        theirs.send(b"def").unwrap();
        // The peer's queue is empty when all of it has arrived.
        bed::until_acknowledged(&theirs);
        assert_eq!(bed.result(reading), 3, "a read ends at the urgent mark");
        assert_eq!(bed.run(recv(&ours, &mut buf)), 3);
        assert_eq!(&buf[..3], b"def");
    });
}

#[test]
fn a_peek_leaves_the_bytes_and_the_knowledge_of_them() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 64];
        let peeking = bed.pending(peek(&ours, &mut buf));
        theirs.write_all(b"xyz").unwrap();
        assert_eq!(bed.result(peeking), 3);
        assert_eq!(bed.submit(peek(&ours, &mut buf)), Submitted::Done(3));
        assert_eq!(bed.submit(recv(&ours, &mut buf)), Submitted::Done(3));
    });
}

#[test]
fn a_send_waits_for_room_and_goes_on() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let data = vec![7u8; 16 << 20];
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        let mut sent = 0;
        while sent < data.len() {
            let result = bed.run(send(&ours, &data[sent..]));
            assert!(result > 0, "{result}");
            sent += result as usize;
        }
        assert_eq!(bed.run(RawOp::Shutdown { on: Target::new(&ours), how: Shutdown::Write }), 0);
        assert_eq!(reader.join().unwrap(), data.len());
    });
}

#[test]
fn both_directions_of_one_socket_wait_at_once() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let data = vec![1u8; 1 << 20];
        let writing = loop {
            if let Submitted::Pending(id) = bed.submit(send(&ours, &data)) {
                break id;
            }
        };
        let mut buf = [0; 4];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"1234").unwrap();
        assert_eq!(bed.result(reading), 4);
        let mut drain = vec![0; 1 << 20];
        while bed.poll(writing).is_none() {
            assert!(theirs.read(&mut drain).unwrap() > 0);
            bed.driver.wait(Deadline::Now).unwrap();
        }
    });
}

#[test]
fn a_cancelled_op_completes_once_and_loses_no_bytes() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let (mut a, mut b, mut c) = ([0; 1], [0; 1], [0; 1]);
        let first = bed.pending(recv(&ours, &mut a));
        let middle = bed.pending(recv(&ours, &mut b));
        let last = bed.pending(recv(&ours, &mut c));
        bed.driver.cancel(middle);
        bed.driver.cancel(middle);
        assert_eq!(bed.result(middle), -libc::ECANCELED);
        theirs.write_all(b"12").unwrap();
        assert_eq!((bed.result(first), bed.result(last)), (1, 1));
        assert_eq!((a, b, c), (*b"1", [0], *b"2"));
        bed.driver.cancel(middle);
        bed.driver.wait(Deadline::Now).unwrap();
        assert_eq!(bed.driver.reap(), None);
        assert_eq!(bed.driver.metrics().in_flight_count, 0);
    });
}

#[test]
fn a_cancelled_first_waiter_leaves_its_turn_to_the_next() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let (mut a, mut b) = ([0; 1], [0; 1]);
        let first = bed.pending(recv(&ours, &mut a));
        let second = bed.pending(recv(&ours, &mut b));
        theirs.write_all(b"x").unwrap();
        bed::until_readable(&ours);
        bed.driver.cancel(first);
        assert_eq!(bed.result(first), -libc::ECANCELED);
        assert_eq!(bed.result(second), 1);
        assert_eq!(&b, b"x");
    });
}

#[test]
fn a_success_that_was_not_reaped_yet_wins_over_a_cancel() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 4];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"kept").unwrap();
        bed::until_readable(&ours);
        bed.driver.wait(Deadline::Now).unwrap();
        bed.driver.cancel(reading);
        assert_eq!(bed.result(reading), 4);
    });
}

#[test]
fn a_refused_connect_says_so_and_a_shut_down_one_ends() {
    each_backend(|mut bed| {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let any = socket2::SockAddr::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let silent = new().unwrap();
        silent.bind(&any).unwrap();
        let address = silent.local_addr().unwrap();
        let client = nonblocking(new().unwrap());
        let on = Target::new(&client);
        assert_eq!(bed.run(RawOp::Connect { on, address: &address }), -libc::ECONNREFUSED);

        // A backlog of none: after a few connects the next one is left without an answer.
        let listener = new().unwrap();
        listener.bind(&any).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        let (stuck, id) = loop {
            let client = nonblocking(new().unwrap());
            let op = RawOp::Connect { on: Target::new(&client), address: &address };
            if let Submitted::Pending(id) = bed.submit(op)
                && bed.patiently(id, Duration::from_millis(50)).is_none()
            {
                break (client, id);
            }
            clients.push(client);
            assert!(clients.len() < 100, "the backlog never fills up");
        };
        bed.run(RawOp::Shutdown { on: Target::new(&stuck), how: Shutdown::Both });
        // Even if somebody else takes the error first.
        assert!(socket2::SockRef::from(&stuck.as_fd()).take_error().unwrap().is_some());
        assert_eq!(bed.result(id), -libc::ENOTCONN);
    });
}

#[test]
fn readiness_of_anything_can_be_waited_for() {
    each_backend(|mut bed| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pipe = Descriptor::new(OwnedFd::from(reader));
        let ready = |on: &Descriptor, interest| RawOp::Ready { on: Target::new(on), interest };
        let first = bed.pending(ready(&pipe, Interest::READABLE));
        let second = bed.pending(ready(&pipe, Interest::READABLE));
        writer.write_all(b"x").unwrap();
        for id in [first, second] {
            let seen = Readiness::from_bits(bed.result(id) as u8);
            assert!(seen.contains(Readiness::READABLE), "{seen:?}: all watchers are told");
        }
        assert!(bed.run(ready(&pipe, Interest::READABLE)) > 0, "it still is");

        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let file = Descriptor::new(OwnedFd::from(file));
        assert!(bed.run(ready(&file, Interest::READABLE)) > 0, "files always are");

        let (socket, mut theirs) = tcp();
        assert!(bed.run(ready(&socket, Interest::READABLE | Interest::WRITABLE)) > 0);
        let mut buf = [0; 4];
        let watching = bed.pending(ready(&socket, Interest::READABLE));
        let reading = bed.pending(recv(&socket, &mut buf));
        theirs.write_all(b"both").unwrap();
        assert_eq!(bed.result(reading), 4);
        assert!(bed.result(watching) > 0);
    });
}

#[test]
fn a_wait_is_never_shorter_than_its_deadline() {
    each_backend(|mut bed| {
        for micros in [0, 1, 50, 300, 999, 1_000, 1_001, 1_500, 2_700] {
            let deadline = Instant::now() + Duration::from_micros(micros);
            bed.driver.wait(Deadline::At(deadline)).unwrap();
            assert!(Instant::now() >= deadline, "{micros} us");
        }
    });
}

#[test]
fn descriptors_that_nobody_waits_for_any_more_end_no_wait() {
    each_backend(|mut bed| {
        let mut sockets: Vec<_> = (0..8).map(|_| tcp()).collect();
        let mut bufs = [[0; 1]; 8];
        let mut ids = Vec::new();
        for ((ours, _), buf) in sockets.iter().zip(&mut bufs) {
            ids.push(bed.pending(recv(ours, buf)));
        }
        // They leave from the front, the back and the middle, by a cancel or with a byte of two.
        for index in [0, 7, 3, 1, 5, 6, 2, 4] {
            if index % 2 == 0 {
                bed.driver.cancel(ids[index]);
                assert_eq!(bed.result(ids[index]), -libc::ECANCELED);
                sockets[index].1.write_all(b"xy").unwrap();
            } else {
                sockets[index].1.write_all(b"xy").unwrap();
                assert_eq!(bed.result(ids[index]), 1);
            }
            bed::until_readable(&sockets[index].0);
        }
        // The edges that are still due.
        bed.driver.wait(Deadline::Now).unwrap();
        let deadline = Instant::now() + Duration::from_millis(3);
        bed.driver.wait(Deadline::At(deadline)).unwrap();
        assert!(Instant::now() >= deadline, "nothing ended this wait early");
    });
}

#[test]
fn a_notification_ends_a_wait_and_is_never_lost() {
    each_backend(|mut bed| {
        bed.driver.notifier().notify();
        bed.driver.notifier().notify();
        bed.driver.wait(Deadline::Never).unwrap();

        for _ in 0..100 {
            let told = AtomicBool::new(false);
            let notifier = bed.driver.notifier();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    told.store(true, Ordering::Release);
                    notifier.notify();
                });
                while !told.load(Ordering::Acquire) {
                    bed.driver.wait(Deadline::Never).unwrap();
                }
            });
        }
        let notifier = bed.driver.notifier();
        drop(bed);
        notifier.notify();
    });
}

#[test]
fn a_taken_notification_leaves_nothing_behind() {
    each_backend(|mut bed| {
        bed.driver.notifier().notify();
        bed.driver.wait(Deadline::Never).unwrap();
        let deadline = Instant::now() + Duration::from_millis(3);
        bed.driver.wait(Deadline::At(deadline)).unwrap();
        assert!(Instant::now() >= deadline, "nothing ended this wait early");
    });
}

#[test]
fn nops_complete_and_starve_nobody() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 4];
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"here").unwrap();
        bed::until_readable(&ours);
        let nop = bed.pending(RawOp::Nop);
        bed.driver.wait(Deadline::Never).unwrap();
        let done: Vec<OpId> = std::iter::from_fn(|| bed.driver.reap()).map(|c| c.id).collect();
        assert_eq!(done, [nop, reading], "one wait served both");
    });
}

#[test]
fn the_limit_of_ops_is_a_refusal() {
    for kind in bed::KINDS {
        let mut config = config(kind);
        config.in_flight_max = 2;
        let mut bed = Bed { driver: Driver::new(&config).unwrap(), done: Vec::new() };
        let (ours, mut theirs) = tcp();
        let mut bufs = [[0; 1]; 3];
        let [a, b, c] = &mut bufs;
        let first = bed.pending(recv(&ours, a));
        let second = bed.pending(recv(&ours, b));
        assert_eq!(bed.submit(recv(&ours, c)), Submitted::Done(-libc::ENOBUFS));
        theirs.write_all(b"12").unwrap();
        assert_eq!((bed.result(first), bed.result(second)), (1, 1));
        assert!(matches!(bed.submit(recv(&ours, c)), Submitted::Pending(_)));
        drop(bed);
    }
}

#[test]
fn answers_that_name_no_op_are_counted_and_dropped() {
    each_backend(|mut bed| {
        let (ours, _theirs) = tcp();
        let mut buf = [0; 4];
        let id = bed.pending(recv(&ours, &mut buf));
        for unknown in [0, u64::MAX, id.as_u64() + 1, id.as_u64() + (1 << 32)] {
            bed.driver.inject_completion(unknown, 1);
        }
        assert_eq!(bed.driver.metrics().unknown_completion_count, 4);
        assert_eq!(bed.driver.reap(), None);

        bed.driver.inject_completion(id.as_u64(), -libc::EIO);
        bed.driver.inject_completion(id.as_u64(), 3);
        assert_eq!(bed.driver.reap(), Some(Completion { id, data: 0, result: -libc::EIO }));
        bed.driver.inject_completion(id.as_u64(), 3);
        assert_eq!(bed.driver.reap(), None);
        assert_eq!(bed.driver.metrics().unknown_completion_count, 6);
    });
}

#[test]
fn a_descriptor_works_with_several_drivers_at_once() {
    each_backend(|mut one| {
        let mut two = Bed::new(one.driver.kind());
        let (ours, mut theirs) = tcp();
        let (mut a, mut b) = ([0; 1], [0; 1]);
        for _ in 0..10 {
            let first = one.pending(recv(&ours, &mut a));
            let second = two.pending(recv(&ours, &mut b));
            theirs.write_all(b"12").unwrap();
            assert_eq!(one.result(first), 1);
            assert_eq!(two.result(second), 1);
            assert_eq!([a[0].min(b[0]), a[0].max(b[0])], *b"12");
        }
        drop(one);
        let id = two.pending(recv(&ours, &mut b));
        theirs.write_all(b"3").unwrap();
        assert_eq!(two.result(id), 1);
    });
}

#[test]
fn a_driver_dropped_with_ops_in_flight_leaves_the_descriptor_usable() {
    each_backend(|mut bed| {
        let kind = bed.driver.kind();
        let (ours, mut theirs) = tcp();
        let mut buf = [0; 4];
        bed.pending(recv(&ours, &mut buf));
        drop(bed);
        theirs.write_all(b"next").unwrap();
        bed::until_readable(&ours);
        assert_eq!(buf, [0; 4], "nothing is written after the driver is gone");
        assert_eq!(Bed::new(kind).run(recv(&ours, &mut buf)), 4);
    });
}

#[test]
fn a_connection_accepted_and_not_reaped_is_closed_with_the_driver() {
    each_backend(|mut bed| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = nonblocking(listener);
        bed.pending(RawOp::Accept { on: Target::new(&listener) });
        let mut client = TcpStream::connect(address).unwrap();
        bed::until_readable(&listener);
        bed.driver.wait(Deadline::Now).unwrap();
        drop(bed);
        client.set_read_timeout(Some(bed::LIMIT)).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn a_driver_moves_to_the_thread_that_uses_it() {
    for kind in bed::KINDS {
        let driver = Driver::new(&config(kind)).unwrap();
        let result = std::thread::scope(|scope| {
            let using = move || {
                let mut bed = Bed { driver, done: Vec::new() };
                bed.run(RawOp::Nop)
            };
            scope.spawn(using).join().unwrap()
        });
        assert_eq!(result, 0);
    }
}

#[test]
fn unix_sockets_wait_like_any_other() {
    each_backend(|mut bed| {
        let (ours, mut theirs) = pair();
        let mut buf = [0; 8];
        for _ in 0..10 {
            let reading = bed.submit(recv(&ours, &mut buf));
            theirs.write_all(b"local").unwrap();
            assert_eq!(bed.finish(reading), 5);
        }
    });
}
