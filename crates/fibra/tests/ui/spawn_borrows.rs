//! A spawned fiber may outlive its parent, so it borrows nothing from it.

fn main() {
    fibra::run(|| {
        let mut buffer = [0; 16];
        fibra::spawn(|| buffer.fill(1));
        println!("{buffer:?}");
    });
}
