//! monoio on io_uring: a thread-per-core runtime of futures that own their buffers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hint::black_box;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use super::{BUF_LEN, C_URING, How, Server, Subject, std_listener};
use crate::meter::laps::Turns;
use crate::meter::{Parking, SPAWNS, Spawns, work};

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

/// Runs the body as a task, so that it is scheduled as the others are.
fn run<F: Future<Output: 'static> + 'static>(body: F) -> F::Output {
    let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(1024);
    let mut runtime = builder.enable_timer().build().expect("a monoio runtime");
    runtime.block_on(async { monoio::spawn(body).await })
}

/// The unit whose turn it is, and where the others wait.
#[derive(Default)]
struct Ring {
    turn: Cell<usize>,
    waiting: RefCell<Vec<Option<Waker>>>,
}

impl Ring {
    async fn until_turn(&self, unit: usize) {
        poll_fn(|context| {
            if self.turn.get() == unit {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut()[unit] = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn pass_to(&self, next: usize) {
        self.turn.set(next);
        if let Some(waker) = self.waiting.borrow_mut()[next].take() {
            waker.wake();
        }
    }
}

/// A task that wakes itself goes to the front of monoio's queue and runs again at once, so tasks
/// hand a turn around a ring: each hand-over is one switch through the queue.
fn switch(units: usize) {
    run(async move {
        let ring = Rc::new(Ring::default());
        ring.waiting.borrow_mut().resize(units, None);
        let unit = |i| {
            let ring = ring.clone();
            monoio::spawn(async move {
                let mut turns = Turns::new(i, units);
                while turns.next() {
                    ring.until_turn(i).await;
                    ring.pass_to((i + 1) % units);
                }
            })
        };
        for unit in (0..units).map(unit).collect::<Vec<_>>() {
            unit.await;
        }
    });
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
                monoio::time::sleep(Duration::from_secs(3600)).await;
            });
            if parking.is_step(spawned) {
                while Parking::parked() < spawned {
                    monoio::time::sleep(Duration::from_millis(1)).await;
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
