//! Fibra: fibers on one worker, and echo on each backend in both topologies.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::time::Duration;

use fibra::net::{TcpListener, TcpStream};
use fibra::{IoMode, yield_now};

use super::{BUF_LEN, C_EPOLL, C_URING, Subject, announce};
use crate::meter::laps::Turns;
use crate::meter::{Parking, SPAWNS, Spawns, work};

pub fn subjects() -> Vec<Subject> {
    vec![
        Subject {
            switch: Some(switch),
            spawn: Some(spawn),
            park: Some(park),
            park_max: usize::MAX,
            ..Subject::named("fibra")
        },
        Subject {
            spawn: Some(spawn_with_two_workers),
            has_two_workers: true,
            ..Subject::named("fibra-two-workers")
        },
        Subject::served("fibra-uring", C_URING, || serve("uring", IoMode::PerWorker)),
        Subject::served("fibra-uring-dedicated", C_URING, || serve("uring", IoMode::Dedicated)),
        Subject::served("fibra-epoll", C_EPOLL, || serve("epoll", IoMode::PerWorker)),
        Subject::served("fibra-epoll-dedicated", C_EPOLL, || serve("epoll", IoMode::Dedicated)),
    ]
}

/// Runs the body as the main fiber of a runtime with one worker.
fn run<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    fibra::Builder::new().workers(1).run(body).expect("a fibra runtime")
}

fn switch(units: usize) {
    run(move || {
        let unit = |i| {
            fibra::spawn(move || {
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

fn spawn(meter: Spawns) -> Spawns {
    run(move || spawn_batches(meter))
}

fn spawn_with_two_workers(meter: Spawns) -> Spawns {
    let builder = fibra::Builder::new().workers(2);
    builder.run(move || spawn_batches(meter)).expect("a fibra runtime")
}

fn spawn_batches(mut meter: Spawns) -> Spawns {
    let mut units = Vec::with_capacity(SPAWNS);
    while meter.begin() {
        units.extend((0..SPAWNS).map(|i| fibra::spawn(move || work(i))));
        for unit in units.drain(..) {
            black_box(unit.join().unwrap_or_default());
        }
        meter.end();
    }
    meter
}

fn park(parking: Parking) {
    run(move || {
        parking.report("reached", 0);
        for spawned in 1..=parking.units {
            fibra::spawn(move || {
                parking.settle();
                fibra::sleep(Duration::from_secs(3600));
            });
            if parking.is_step(spawned) {
                while Parking::parked() < spawned {
                    yield_now();
                }
                parking.report("reached", spawned);
            }
        }
        if parking.later {
            fibra::sleep(Parking::LATER);
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

fn serve(driver: &str, io: IoMode) -> io::Result<()> {
    let choice = driver.parse().map_err(io::Error::other)?;
    fibra::Builder::new().workers(1).driver(choice).io(io).run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        announce(listener.local_addr()?.port());
        for stream in listener.incoming() {
            let stream = stream?;
            fibra::spawn(move || echo(stream));
        }
        Ok(())
    })?
}
