//! may: stackful coroutines that look like threads, the nearest peer in kind.

use std::hint::black_box;
use std::io::{self, Read, Write};

use may::coroutine::{self, JoinHandle, yield_now};
use may::net::{TcpListener, TcpStream};

use super::{BUF_LEN, C_EPOLL, How, STACK_LEN, Server, Subject, announce};
use crate::meter::laps::Turns;
use crate::meter::{Parking, SPAWNS, Spawns, work};

pub fn subject() -> Subject {
    Subject {
        switch: Some(switch),
        spawn: Some(spawn),
        park: Some(park),
        park_max: usize::MAX,
        server: Some(Server { yardstick: C_EPOLL, how: How::Inside(serve) }),
        ..Subject::named("may")
    }
}

fn go<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    // SAFETY: what may asks: the body uses no thread-local storage across a switch, and its frames
    // fit the stack.
    unsafe { coroutine::spawn(body) }
}

/// Runs the body as a coroutine on the only worker.
fn run<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    may::config().set_workers(1).set_pool_capacity(2 * SPAWNS);
    go(body).join().expect("the main coroutine returns")
}

fn switch(units: usize) {
    run(move || {
        let unit = |i| {
            go(move || {
                let mut turns = Turns::new(i, units);
                while turns.next() {
                    yield_now();
                }
            })
        };
        for unit in (0..units).map(unit).collect::<Vec<_>>() {
            let _ = unit.join();
        }
    });
}

fn spawn(mut meter: Spawns) -> Spawns {
    run(move || {
        let mut units = Vec::with_capacity(SPAWNS);
        while meter.begin() {
            units.extend((0..SPAWNS).map(|i| go(move || work(i))));
            for unit in units.drain(..) {
                black_box(unit.join().unwrap_or_default());
            }
            meter.end();
        }
        meter
    })
}

fn park(parking: Parking) {
    may::config().set_stack_size(STACK_LEN / size_of::<usize>());
    run(move || {
        parking.report("reached", 0);
        for spawned in 1..=parking.units {
            go(move || {
                parking.settle();
                loop {
                    coroutine::park();
                }
            });
            if parking.is_step(spawned) {
                // A yielding coroutine would keep the spawned ones from ever being collected.
                while Parking::parked() < spawned {
                    coroutine::sleep(std::time::Duration::from_millis(1));
                }
                parking.report("reached", spawned);
            }
        }
        if parking.later {
            coroutine::sleep(Parking::LATER);
            parking.report("later", Parking::parked());
        }
        parking.end()
    })
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
    run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        announce(listener.local_addr()?.port());
        loop {
            let (stream, _) = listener.accept()?;
            go(move || echo(stream));
        }
    })
}
