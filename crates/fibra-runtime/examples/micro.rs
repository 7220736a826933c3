//! Scratch timings.
use std::time::Instant;
fn main() {
    let what: Vec<String> = std::env::args().collect();
    let scale: usize = what.get(2).map_or(4_000_000, |s| s.parse().unwrap());
    let builder =
        || fibra_runtime::Builder::new().workers(1).stall_limit(std::time::Duration::ZERO);
    if what[1] == "spawn" {
        let ns = builder()
            .run(|| {
                let mut best = f64::MAX;
                for _ in 0..scale / 1000 {
                    let t = Instant::now();
                    let hs: Vec<_> = (0..1000).map(|i| fibra_runtime::spawn(move || i)).collect();
                    for h in hs {
                        h.join().unwrap();
                    }
                    best = best.min(t.elapsed().as_nanos() as f64 / 1000.0);
                }
                best
            })
            .unwrap();
        println!("spawn best: {ns:.1} ns");
        return;
    }
    let n: usize = what[1].parse().unwrap();
    let ns = builder()
        .run(|| {
            let mut best = f64::MAX;
            for _ in 0..10 {
                let rounds = scale / n / 10;
                let hs: Vec<_> = (0..n)
                    .map(|_| {
                        fibra_runtime::spawn(move || {
                            for _ in 0..rounds {
                                fibra_runtime::yield_now()
                            }
                        })
                    })
                    .collect();
                let t = Instant::now();
                for h in hs {
                    h.join().unwrap();
                }
                best = best.min(t.elapsed().as_nanos() as f64 / (rounds * n) as f64)
            }
            best
        })
        .unwrap();
    println!("switch {n}: {ns:.1} ns best of 10");
}
