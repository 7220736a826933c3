//! A result is handed over once.

fn main() {
    fibra::run(|| {
        let child = fibra::spawn(|| String::from("once"));
        let _ = child.join();
        let _ = child.join();
    });
}
