//! tokio, current-thread: one worker, as Fibra is measured.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use super::{BUF_LEN, C_EPOLL, How, Server, Subject, std_listener};
use crate::meter::laps::Turns;
use crate::meter::{Parking, SPAWNS, Spawns, work};

pub fn subjects() -> [Subject; 2] {
    let one = Subject {
        switch: Some(switch),
        spawn: Some(spawn),
        park: Some(park),
        park_max: usize::MAX,
        server: Some(Server { yardstick: C_EPOLL, how: How::Inside(serve) }),
        ..Subject::named("tokio")
    };
    let two = Subject {
        spawn: Some(spawn_with_two_workers),
        has_two_workers: true,
        ..Subject::named("tokio-two-workers")
    };
    [one, two]
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a tokio runtime")
}

fn switch(units: usize) {
    runtime().block_on(async move {
        let unit = |i| {
            tokio::spawn(async move {
                let mut turns = Turns::new(i, units);
                while turns.next() {
                    yield_now().await;
                }
            })
        };
        for unit in (0..units).map(unit).collect::<Vec<_>>() {
            let _ = unit.await;
        }
    });
}

fn spawn(meter: Spawns) -> Spawns {
    runtime().block_on(spawn_batches(meter))
}

fn spawn_with_two_workers(meter: Spawns) -> Spawns {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a tokio runtime");
    // As a task: the main future of this kind of runtime runs outside the workers.
    runtime.block_on(async { tokio::spawn(spawn_batches(meter)).await.expect("it returns") })
}

async fn spawn_batches(mut meter: Spawns) -> Spawns {
    let mut units = Vec::with_capacity(SPAWNS);
    while meter.begin() {
        units.extend((0..SPAWNS).map(|i| tokio::spawn(async move { work(i) })));
        for unit in units.drain(..) {
            black_box(unit.await.unwrap_or_default());
        }
        meter.end();
    }
    meter
}

fn park(parking: Parking) {
    runtime().block_on(async move {
        parking.report("reached", 0);
        for spawned in 1..=parking.units {
            tokio::spawn(async move {
                parking.settle();
                tokio::time::sleep(Duration::from_secs(3600)).await;
            });
            if parking.is_step(spawned) {
                while Parking::parked() < spawned {
                    yield_now().await;
                }
                parking.report("reached", spawned);
            }
        }
        if parking.later {
            tokio::time::sleep(Parking::LATER).await;
            parking.report("later", Parking::parked());
        }
        parking.end()
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = [0; BUF_LEN];
    loop {
        match stream.read(&mut buf).await? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n]).await?,
        }
    }
}

fn serve() -> io::Result<()> {
    runtime().block_on(async {
        let listener = std_listener()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream));
        }
    })
}
