//! monoio on io_uring: a thread-per-core runtime of futures that own their buffers.

use std::future::poll_fn;
use std::hint::black_box;
use std::io;
use std::task::Poll;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use super::{BUF_LEN, C_URING, How, Server, Subject, std_listener};
use crate::meter::{Parking, SPAWNS, Spawns, Switches, gate, work};

pub fn subject() -> Subject {
    Subject {
        switch: Some(switch),
        spawn: Some(spawn),
        park: Some(park),
        park_max: usize::MAX,
        server: Some(Server { yardstick: C_URING, how: How::Inside(serve) }),
        ..Subject::named("monoio")
    }
}

/// monoio exports no yield: wakes itself and is pending once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn run<F: Future>(body: F) -> F::Output {
    let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(1024);
    builder.enable_timer().build().expect("a monoio runtime").block_on(body)
}

fn switch(mut meter: Switches) -> Switches {
    run(async move {
        while let Some(yields) = meter.next() {
            gate::reset();
            let unit_count = meter.units;
            let units: Vec<_> = (0..unit_count)
                .map(|_| {
                    monoio::spawn(async move {
                        gate::arrive();
                        while !gate::is_open() {
                            yield_now().await;
                        }
                        for _ in 0..yields {
                            yield_now().await;
                        }
                        gate::finish(unit_count);
                    })
                })
                .collect();
            while gate::arrived() < unit_count {
                yield_now().await;
            }
            gate::open();
            for unit in units {
                unit.await;
            }
            meter.record(gate::took());
        }
        meter
    })
}

fn spawn(mut meter: Spawns) -> Spawns {
    run(async move {
        let mut units = Vec::with_capacity(SPAWNS);
        while meter.begin() {
            units.extend((0..SPAWNS).map(|i| monoio::spawn(async move { work(i) })));
            for unit in units.drain(..) {
                black_box(unit.await);
            }
            meter.end();
        }
        meter
    })
}

fn park(parking: Parking) {
    run(async move {
        parking.report("reached", 0);
        for spawned in 1..=parking.units {
            monoio::spawn(async move {
                parking.settle();
                monoio::time::sleep(std::time::Duration::from_secs(3600)).await;
            });
            if parking.is_step(spawned) {
                while Parking::parked() < spawned {
                    yield_now().await;
                }
                parking.report("reached", spawned);
            }
        }
        if parking.later {
            monoio::time::sleep(Parking::LATER).await;
            parking.report("later", Parking::parked());
        }
        parking.end()
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = Vec::with_capacity(BUF_LEN);
    loop {
        let (result, filled) = stream.read(buf).await;
        if result? == 0 {
            return Ok(());
        }
        let (result, mut sent) = stream.write_all(filled).await;
        result?;
        sent.clear();
        buf = sent;
    }
}

fn serve() -> io::Result<()> {
    let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(1024);
    builder.build()?.block_on(async {
        let listener = TcpListener::from_std(std_listener()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            monoio::spawn(echo(stream));
        }
    })
}
