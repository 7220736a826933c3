//! Numbers that are closed, reused, dead or too high: what the readiness backends make of them.
//!
//! These tests decide which number comes next, so they run one after the other in their own process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Write;
use std::mem::ManuallyDrop;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fibra_driver::{
    BackendKind, DESCRIPTOR_TOO_HIGH, Deadline, Descriptor, Interest, RawOp, Submitted, Target,
};

mod bed;
use bed::{Bed, each_backend, nonblocking, tcp};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recv(on: &Descriptor, buf: &mut [u8]) -> RawOp {
    RawOp::Recv { on: Target::new(on), buf: buf.as_mut_ptr(), len: buf.len(), peek: false }
}

/// The same description under the lowest free number from `from` on.
fn dup(fd: &impl AsRawFd, from: i32) -> OwnedFd {
    // SAFETY: no memory is passed.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
    assert!(new >= from, "{}", std::io::Error::last_os_error());
    // SAFETY: just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(new) }
}

/// Puts `fd` under this very number.
fn at_number(fd: OwnedFd, number: i32) -> OwnedFd {
    assert_eq!(dup(&fd, number).as_raw_fd(), number, "the number is free");
    dup(&fd, number)
}

/// How many epoll drivers of this process watch a number. Each has two descriptors of its epoll: one
/// to wait, one for other threads to deregister with.
fn watched_by(number: i32) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("tfd:"));
        count += usize::from(
            lines.any(|line| line.split_whitespace().next() == Some(&number.to_string())),
        );
    }
    assert_eq!(count % 2, 0);
    count / 2
}

fn allow_descriptors(wanted: libc::rlim_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = limit.rlim_cur.max(wanted);
    assert!(limit.rlim_max >= wanted, "this test needs {wanted} descriptors");
    // SAFETY: reads one rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

#[test]
fn a_reused_number_gets_nothing_of_its_predecessor_even_if_a_dup_lives_on() {
    let _alone = alone();
    each_backend(|mut bed| {
        let mut buf = [0; 8];
        let (old, mut old_peer) = tcp();
        let reading = bed.pending(recv(&old, &mut buf));
        old_peer.write_all(b"old").unwrap();
        assert_eq!(bed.result(reading), 3);

        let number = old.raw_fd();
        let alive = dup(&old.as_fd(), 0);
        let (new, mut new_peer) = tcp();
        drop(old);
        let new = Descriptor::new(at_number(new.into_fd(), number));
        let reading = bed.pending(recv(&new, &mut buf));
        old_peer.write_all(b"old again").unwrap();
        bed::until_readable(&Descriptor::new(dup(&alive, 0)));
        bed.driver.wait(Deadline::Now).unwrap();
        assert_eq!(bed.poll(reading), None);
        new_peer.write_all(b"new").unwrap();
        assert_eq!(bed.result(reading), 3);
        assert_eq!(&buf[..3], b"new");
        assert_eq!(bed.driver.metrics().unknown_completion_count, 0);
    });
}

#[test]
fn a_descriptor_closed_on_another_thread_is_forgotten() {
    let _alone = alone();
    each_backend(|mut bed| {
        let (ours, _theirs) = tcp();
        let mut buf = [0; 8];
        let reading = bed.pending(recv(&ours, &mut buf));
        bed.driver.cancel(reading);
        assert_eq!(bed.result(reading), -libc::ECANCELED);
        let number = ours.raw_fd();
        let alive = dup(&ours.as_fd(), 0);
        std::thread::spawn(move || drop(ours)).join().unwrap();
        assert_eq!(watched_by(number), 0);
        drop(alive);
        bed.driver.wait(Deadline::Now).unwrap();
    });
}

#[test]
fn thousands_of_descriptors_in_turn_leave_nothing_behind() {
    let _alone = alone();
    let numbers = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    each_backend(|mut bed| {
        let mut buf = [0; 8];
        let before = numbers();
        for _ in 0..2_000 {
            let (ours, mut theirs) = bed::pair();
            let reading = bed.pending(recv(&ours, &mut buf));
            theirs.write_all(b"x").unwrap();
            assert_eq!(bed.result(reading), 1);
        }
        assert_eq!(numbers(), before);
        assert_eq!(bed.driver.metrics().unknown_completion_count, 0);
    });
}

#[test]
fn a_registration_whose_descriptor_moved_to_another_driver_is_removed() {
    let _alone = alone();
    let mut old = Bed::new(BackendKind::Epoll);
    let mut new = Bed::new(BackendKind::Epoll);
    let (ours, mut theirs) = tcp();
    let mut buf = [0; 8];
    for bed in [&mut old, &mut new] {
        let reading = bed.pending(recv(&ours, &mut buf));
        theirs.write_all(b"x").unwrap();
        assert_eq!(bed.result(reading), 1);
    }
    assert_eq!(watched_by(ours.raw_fd()), 2);
    for _ in 0..3 {
        let reading = new.pending(recv(&ours, &mut buf));
        theirs.write_all(b"x").unwrap();
        assert_eq!(new.result(reading), 1);
        old.driver.wait(Deadline::Now).unwrap();
    }
    assert_eq!(watched_by(ours.raw_fd()), 1);
    // And back: it is registered again.
    let reading = old.pending(recv(&ours, &mut buf));
    theirs.write_all(b"x").unwrap();
    assert_eq!(old.result(reading), 1);
    drop(old);
    drop(new);
    assert_eq!(watched_by(ours.raw_fd()), 0, "a descriptor keeps no dead driver's epoll open");
}

#[test]
fn a_dead_number_ends_its_own_waiters_only() {
    let _alone = alone();
    for kind in [BackendKind::Poll, BackendKind::Select] {
        println!("backend: {kind}");
        let mut bed = Bed::new(kind);
        let (dead, _peer) = tcp();
        // Closed below; closing it again might hit someone else's number.
        let dead = ManuallyDrop::new(dead);
        let (ours, mut theirs) = tcp();
        let (mut one, mut two) = ([0; 8], [0; 8]);
        let lost = bed.pending(recv(&dead, &mut one));
        let watching =
            bed.pending(RawOp::Ready { on: Target::new(&dead), interest: Interest::READABLE });
        let reading = bed.pending(recv(&ours, &mut two));
        // SAFETY: this breaks the rule that nobody else closes it, which is what is tested.
        assert_eq!(unsafe { libc::close(dead.raw_fd()) }, 0);
        assert_eq!(bed.result(lost), -libc::EBADF);
        assert_eq!(bed.result(watching), -libc::EBADF);
        theirs.write_all(b"alive").unwrap();
        assert_eq!(bed.result(reading), 5);
    }
}

#[test]
fn select_refuses_descriptors_it_cannot_name_and_says_which_error() {
    let _alone = alone();
    allow_descriptors(1_100);
    let mut bed = Bed::new(BackendKind::Select);
    let (low, mut peer) = tcp();
    let high = Descriptor::new(dup(&low.as_fd(), 1_024));
    let mut buf = [0; 8];
    let refused = Submitted::Done(-DESCRIPTOR_TOO_HIGH);
    assert_eq!(bed.submit(recv(&high, &mut buf)), refused);
    peer.write_all(b"x").unwrap();
    bed::until_readable(&high);
    assert_eq!(bed.submit(recv(&high, &mut buf)), refused, "whether there is data or not");
    drop(high);
    let highest = Descriptor::new(at_number(low.into_fd(), 1_023));
    assert_eq!(bed.run(recv(&highest, &mut buf)), 1);
    let reading = bed.pending(recv(&highest, &mut buf));
    peer.write_all(b"yz").unwrap();
    assert_eq!(bed.result(reading), 2, "the last number works");

    // Others have no such limit.
    for kind in [BackendKind::Epoll, BackendKind::Poll] {
        let mut bed = Bed::new(kind);
        let high = Descriptor::new(dup(&highest.as_fd(), 1_024));
        let reading = bed.pending(recv(&high, &mut buf));
        peer.write_all(b"high").unwrap();
        assert_eq!(bed.result(reading), 4);
    }
}

#[test]
fn select_stops_accepting_at_its_limit_and_loses_no_connection() {
    let _alone = alone();
    allow_descriptors(1_200);
    let mut bed = Bed::new(BackendKind::Select);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = nonblocking(listener);
    let accept = RawOp::Accept { on: Target::new(&listener) };
    // Clients have high numbers, so that accepted connections get the low ones.
    let client = || {
        let stream = TcpStream::connect(address).unwrap();
        dup(&stream, 1_100)
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut room: Vec<OwnedFd> = Vec::new();
    while room.last().is_none_or(|last| last.as_raw_fd() < 1_023) {
        room.push(dup(&null, 0));
    }
    // Five numbers are left below the limit, and one of them is `client`'s for a moment.
    room.truncate(room.len() - 5);
    let clients: Vec<OwnedFd> = (0..8).map(|_| client()).collect();
    let mut accepted = Vec::new();
    let full = loop {
        match bed.run(accept) {
            number if number >= 0 => accepted.push(bed::adopt(number)),
            error => break error,
        }
    };
    assert_eq!((full, accepted.len()), (-libc::EMFILE, 5));
    assert_eq!(bed.run(accept), -libc::EMFILE, "and again");
    room.truncate(room.len() - 3);
    for _ in 0..3 {
        let number = bed.run(accept);
        assert!((0..1_024).contains(&number), "{number}");
        accepted.push(bed::adopt(number));
    }
    // All eight are served: none was closed meanwhile.
    let mut buf = [0; 8];
    for client in clients {
        TcpStream::from(client).write_all(b"here").unwrap();
    }
    for connection in &accepted {
        assert_eq!(bed.run(recv(connection, &mut buf)), 4);
    }
}
