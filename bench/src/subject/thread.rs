//! OS threads, as std gives them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::{hint, io};

use super::{BUF_LEN, C_EPOLL, How, Server, Subject, announce};
use crate::meter::laps::{self, Turns};
use crate::meter::{Parking, SPAWNS, Spawns, work};

pub fn subject() -> Subject {
    Subject {
        switch: Some(switch),
        spawn: Some(spawn),
        park: Some(park),
        // Enough to divide by; ten times as many would trouble the machine.
        park_max: 4000,
        server: Some(Server { yardstick: C_EPOLL, how: How::Inside(serve) }),
        ..Subject::named("std-thread")
    }
}

static TURN: AtomicUsize = AtomicUsize::new(0);

/// `sched_yield` promises nothing about who runs next, so threads hand a token around a ring and
/// park: on one core, every hand-over is one switch.
fn switch(units: usize) {
    let ring: Arc<OnceLock<Vec<Thread>>> = Arc::default();
    let unit = |i| {
        let ring = ring.clone();
        thread::spawn(move || {
            while ring.get().is_none() {
                thread::park();
            }
            let Some(ring) = ring.get() else { return };
            let mut turns = Turns::new(i, units);
            'turns: while turns.next() {
                while TURN.load(Ordering::Acquire) != i {
                    // One that was preempted before it asked may leave its turn untaken.
                    if laps::are_over() {
                        break 'turns;
                    }
                    thread::park();
                }
                let next = (i + 1) % units;
                TURN.store(next, Ordering::Release);
                ring[next].unpark();
            }
            ring.iter().for_each(Thread::unpark);
        })
    };
    let threads: Vec<_> = (0..units).map(unit).collect();
    let _ = ring.set(threads.iter().map(|t| t.thread().clone()).collect());
    threads.iter().for_each(|thread| thread.thread().unpark());
    for thread in threads {
        let _ = thread.join();
    }
}

fn spawn(mut meter: Spawns) -> Spawns {
    let mut units = Vec::with_capacity(SPAWNS);
    while meter.begin() {
        units.extend((0..SPAWNS).map(|i| thread::spawn(move || work(i))));
        for unit in units.drain(..) {
            hint::black_box(unit.join().unwrap_or_default());
        }
        meter.end();
    }
    meter
}

fn park(parking: Parking) {
    parking.report("reached", 0);
    for spawned in 1..=parking.units {
        let made = thread::Builder::new().spawn(move || {
            parking.settle();
            loop {
                thread::park();
            }
        });
        if made.is_err() {
            break;
        }
        if parking.is_step(spawned) {
            while Parking::parked() < spawned {
                thread::yield_now();
            }
            parking.report("reached", spawned);
        }
    }
    if parking.later {
        thread::sleep(Parking::LATER);
        parking.report("later", Parking::parked());
    }
    parking.end()
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = [0; BUF_LEN];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?.port());
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || echo(stream));
    }
    Ok(())
}
