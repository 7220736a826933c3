//! Scratch timings.
use std::time::Instant;
fn main() {
    for n in [2usize, 64, 1000] {
        let ns = fibra_runtime::Builder::new().workers(1).stall_limit(std::time::Duration::ZERO).run(|| {
            let rounds = 4_000_000 / n;
            let hs: Vec<_> = (0..n).map(|_| fibra_runtime::spawn(move || for _ in 0..rounds { fibra_runtime::yield_now() })).collect();
            let t = Instant::now();
            for h in hs { h.join().unwrap(); }
            t.elapsed().as_nanos() as f64 / (rounds * n) as f64
        }).unwrap();
        println!("switch {n}: {ns:.1} ns");
    }
    let ns = fibra_runtime::Builder::new().workers(1).stall_limit(std::time::Duration::ZERO).run(|| {
        let mut best = f64::MAX;
        for _ in 0..200 {
            let t = Instant::now();
            let hs: Vec<_> = (0..1000).map(|i| fibra_runtime::spawn(move || i)).collect();
            for h in hs { h.join().unwrap(); }
            best = best.min(t.elapsed().as_nanos() as f64 / 1000.0);
        }
        best
    }).unwrap();
    println!("spawn best: {ns:.1} ns");
}
